//! Commands and exit codes, seen from outside: `status`, `doctor`, starts that cannot be, and a whole life.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::config::{agent, outcome};
use super::skipped;

/// Flags that keep an agent to a folder and to a server that is not there.
pub(super) fn kept_to(folder: &Path) -> [String; 4] {
    let [socket, state] = ["collector.sock", "state"].map(|name| folder.join(name).display().to_string());
    [
        format!("--socket={socket}"),
        format!("--state-dir={state}"),
        "--server=127.0.0.1:9".into(),
        "--shutdown-deadline=0s".into(),
    ]
}

/// Scenario: no agent; then a socket that an agent left behind.
/// Guarantees: exit code 1, one line with the path and how to start one, nothing on the standard output.
#[test]
fn status_without_agent_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("collector.sock");
    for left_behind in [false, true] {
        if left_behind {
            drop(UnixListener::bind(&path).unwrap());
        }
        let output = agent().arg("status").arg("--socket").arg(&path).output().unwrap();
        let (code, error) = outcome(&output);
        assert_eq!(code, 1);
        assert!(
            error.contains(path.to_str().unwrap()) && error.contains("start it with `tapio-collector`"),
            "{error}"
        );
        assert_eq!((error.lines().count(), output.stdout.len()), (1, 0));
    }
}

/// Scenario: starts that cannot be: a socket that answers, a port that is taken, a collector that this version has
/// not, nothing to collect.
/// Guarantees: exit code 1 and one reason each; the socket that answers is left alone.
#[test]
fn impossible_starts_end_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.sock");
    let _answering = UnixListener::bind(&other).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let nothing =
        ["ebpf", "k8s", "systemd", "journald", "sampler"].map(|name| format!("--enable-{name}=false"));
    for (flags, part) in [
        (vec![format!("--socket={}", other.display())], "another tapio-collector has"),
        (vec![format!("--metrics-listen={port}")], "cannot serve metrics on"),
        (vec!["--enable-k8s".into()], "kubernetes collector was asked for and cannot run"),
        (nothing.to_vec(), "nothing is left to collect"),
    ] {
        let output = agent().args(kept_to(folder.path())).args(&flags).output().unwrap();
        let (code, error) = outcome(&output);
        assert_eq!(code, 1, "{flags:?}: {error}");
        assert!(error.contains(part), "{flags:?}: {error}");
    }
    assert!(other.exists());
    assert!(!folder.path().join("collector.sock").exists(), "a start that failed takes its socket away");
}

/// A copy of the agent that everybody can start, and the command that starts it as nobody.
fn as_nobody(test: &str, folder: &Path) -> Option<Command> {
    if !geteuid().is_root() {
        skipped(test, "needs root, to become somebody else");
        return None;
    }
    if Command::new("setpriv").arg("--version").output().is_err() {
        skipped(test, "setpriv is not installed: apt-get install util-linux");
        return None;
    }
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let program: PathBuf = folder.join("tapio-collector");
    std::fs::copy(env!("CARGO_BIN_EXE_tapio-collector"), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"]).arg(program);
    command.current_dir("/");
    Some(command)
}

/// Scenario: a user without any privilege asks what could run here.
/// Guarantees: an answer with the missing capabilities and both ways to grant them, exit code 1; the same as JSON;
/// exit code 0 for root on a kernel that has what it takes.
#[test]
fn doctor_needs_no_privilege() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut command) = as_nobody("doctor_needs_no_privilege", folder.path()) else { return };
    let output = command.arg("doctor").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in ["lacking CAP_BPF and CAP_PERFMON", "setcap", "AmbientCapabilities", "BTF", "probe process"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let output = command.arg("--json").output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["ready"], false);
    let states = ["ok", "warning", "problem"];
    for check in json["checks"].as_array().unwrap() {
        assert!(states.contains(&check["state"].as_str().unwrap()), "{check}");
        assert!(check["state"] == "ok" || check["remedy"] != "", "{check}");
    }
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        let output = agent().arg("doctor").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

/// Scenario: a user without any privilege starts the agent, plainly and with the kernel asked for by name.
/// Guarantees: exit code 77; the message names the missing capabilities and both ways to grant them.
#[test]
fn a_missing_privilege_has_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut command) = as_nobody("a_missing_privilege_has_its_code", folder.path()) else { return };
    let state = folder.path().join("state");
    command.arg(format!("--state-dir={}", state.display()));
    // What else could run here would keep the agent alive.
    command.args(["k8s", "systemd", "journald", "sampler"].map(|name| format!("--enable-{name}=false")));
    for asked in [false, true] {
        if asked {
            command.arg("--enable-ebpf");
        }
        let (code, error) = outcome(&command.output().unwrap());
        assert_eq!(code, 77, "{error}");
        assert_eq!(error.matches("AmbientCapabilities").count(), 1, "once is enough:\n{error}");
        for part in ["CAP_BPF", "CAP_PERFMON", "setcap", "AmbientCapabilities"] {
            assert!(error.contains(part), "{part} is not in\n{error}");
        }
    }
}

/// Longest wait for a line of the log, or for the end of a program: a test that waits this long has failed.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Lines of a log that no test has looked at yet: more than any agent here writes.
const LINES_MAX: usize = 1 << 16;

/// An agent that is killed if the test forgets it.
pub(super) struct Running {
    child: Child,
    log: mpsc::Receiver<String>,
}

impl Running {
    pub(super) fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (line, log) = mpsc::sync_channel(LINES_MAX);
        // Reads to the end whatever the test looks at, so that the program never waits for its reader.
        std::thread::spawn(move || lines.map_while(Result::ok).all(|text| line.send(text).is_ok()));
        Self { child, log }
    }

    pub(super) fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; the exit code, if it was not killed.
    pub(super) fn wait(&mut self) -> Option<i32> {
        let until = Instant::now() + WAIT_MAX;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "process {} did not end within {WAIT_MAX:?}", self.child.id());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The next line of the log that has this in it.
    pub(super) fn line_with(&mut self, part: &str) -> String {
        let until = Instant::now() + WAIT_MAX;
        let mut seen = String::new();
        loop {
            match self.log.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => seen.extend([line.as_str(), "\n"]),
                Err(why) => panic!("no {part:?} in the log: {why}:\n{seen}"),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _waited = self.child.wait();
    }
}

/// Scenario: an agent on this kernel, without a server: asked, scraped, told to reload twice, told to end.
/// Guarantees: `status` has its fixed names and a closed ledger; a valid file changes what can change and names the
/// rest, an invalid one is refused with its place; the end is in order, with exit code 0 and a closed ledger.
#[test]
fn live_agent_answers_reloads_and_ends() {
    if !geteuid().is_root() {
        return skipped("live_agent_answers_reloads_and_ends", "needs root, to load BPF programs");
    }
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("tapio.toml");
    std::fs::write(&config, "flush_interval = '50ms'\n").unwrap();
    let metrics = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = agent();
    command
        .args(kept_to(folder.path()))
        .arg("--config")
        .arg(&config)
        .arg(format!("--metrics-listen={metrics}"));
    let mut running = Running::start(&mut command);
    running.line_with("runs");

    let status = || agent().args(["status", "--json"]).arg(&kept_to(folder.path())[0]).output().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let answer = loop {
        // Each of these is a process: events by itself.
        let output = status();
        let (code, error) = outcome(&output);
        assert_eq!(code, 0, "{error}");
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["ledger_closed"], true, "{answer}");
        if answer["events_total"].as_u64().unwrap() > 0 {
            break answer;
        }
        assert!(Instant::now() < deadline, "no events: {answer}");
    };
    assert_eq!(answer["collectors"]["ebpf"]["probes"]["process"]["state"], "attached");
    assert_eq!(answer["ledger"][0]["source"], "ebpf");
    let text =
        String::from_utf8(agent().arg("status").arg(&kept_to(folder.path())[0]).output().unwrap().stdout)
            .unwrap();
    assert!(text.contains("ledger closed"), "{text}");
    assert!(scraped(metrics).contains("tapio_ledger_closed 1\n"));

    std::fs::write(&config, "flush_interval = '70ms'\nring_bytes = '1MiB'\n").unwrap();
    running.send(Signal::HUP);
    running.line_with("flush-interval: \"50ms\" -> \"70ms\"");
    assert!(running.line_with("ring-bytes").contains("takes a restart"));
    std::fs::write(&config, "flush_interval = 70\n").unwrap();
    running.send(Signal::HUP);
    running.line_with(&format!("{}:1:18: ", config.display()));

    running.send(Signal::TERM);
    running.line_with("SIGTERM");
    let last = running.line_with("Status: Events=");
    assert!(last.trim_end().ends_with("ledger=closed"), "{last}");
    assert_eq!(running.wait(), Some(0));
    assert!(!folder.path().join("collector.sock").exists());
}

fn scraped(address: std::net::SocketAddr) -> String {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
