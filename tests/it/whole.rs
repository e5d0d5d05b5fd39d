//! The whole path with the real programs: kernel, tapio-collector, tapio-server, disk. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Signal, geteuid};
use serde_json::Value;

use super::config::{agent, outcome};
use super::control::Running;
use super::server::client::Server;
use super::skipped;

/// System calls in one burst: more than one batch, fewer than a ring holds.
const BURST: u64 = 20_000;

/// Flags of an agent with the load probe, kept to a folder, which reads nothing but the kernel.
fn flags(folder: &Path, server: std::net::SocketAddr) -> Vec<String> {
    let others = ["k8s", "systemd", "journald", "sampler"].map(|name| format!("--enable-{name}=false"));
    let own = [
        format!("--socket={}", folder.join("collector.sock").display()),
        format!("--state-dir={}", folder.join("state").display()),
        format!("--server={server}"),
        "--load-probe".into(),
        "--flush-interval=20ms".into(),
        "--shutdown-deadline=20s".into(),
    ];
    own.into_iter().chain(others).collect()
}

fn burst() {
    for _ in 0..BURST {
        let _same = rustix::process::getpgid(None);
    }
}

/// The server's row of the only agent, once `ready` holds for it.
fn row_when(server: &Server, what: &str, ready: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..300 {
        let status = server.json("/api/v1/status");
        let row = &status["agents"][0];
        if row.is_object() && ready(row) {
            return row.clone();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{what}: {}", server.json("/api/v1/status"));
}

/// The ledger that the agent sent last, of the kernel's events.
fn ledger(row: &Value) -> &Value {
    row["ledger"]["rows"].as_array().unwrap().iter().find(|row| row["source"] == "ebpf").unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("not a number: {value}"))
}

/// Scenario: the agent starts, a burst of system calls and a program run happen, the agent is told to end.
/// Guarantees: every event is on the server, none twice, none lost; its own ledger says the same; the program is found by a query.
#[test]
fn live_every_event_is_stored() {
    if !geteuid().is_root() {
        return skipped("live_every_event_is_stored", "needs root, to load BPF programs");
    }
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("server"), &[]);
    let mut running = Running::start(agent().args(flags(folder.path(), server.grpc)));
    running.line_with("runs");
    burst();
    assert!(Command::new("/bin/true").status().unwrap().success());
    running.send(Signal::INT);
    let last = running.line_with("Status: Events=");
    assert!(last.trim_end().ends_with("lost=0, ledger=closed"), "{last}");
    assert_eq!(running.wait(), Some(0));

    let row = row_when(&server, "the last ledger arrives", |row| row["connected"] == false);
    let ledger = ledger(&row);
    let produced = number(&ledger["produced"]);
    assert!(produced >= BURST, "{row}");
    for (name, expected) in
        [("ring_lost", 0), ("drained", produced), ("enriched", produced), ("acked", produced)]
    {
        assert_eq!(number(&ledger[name]), expected, "{name}: {ledger}");
    }
    assert_eq!(number(&row["events"]), produced);
    assert_eq!(number(&row["lost"]["ebpf"]), 0);
    let execs = server.json("/api/v1/events?kind=process_exec&limit=1000");
    assert!(execs.as_array().unwrap().iter().any(|event| event["text"] == "/bin/true"), "{execs}");
}

/// Opens more files than it may, so many times, 20 ms apart.
fn exhaust_descriptors(times: u32) {
    let script = format!(
        "ulimit -n 5; for i in $(seq {times}); do (exec 3</dev/null 4</dev/null 5</dev/null) 2>/dev/null; sleep 0.02; done"
    );
    assert!(Command::new("bash").args(["-c", &script]).status().is_ok());
}

/// Whether the server has a failed system call with this errno.
fn has_errno(server: &Server, errno: u64) -> bool {
    let errors = server.json("/api/v1/events?kind=syscall_error&limit=1000");
    errors.as_array().unwrap().iter().any(|event| event["slots"]["errno"] == errno)
}

/// Scenario: a process finds its descriptors exhausted once, while the errno probe looks always.
/// Guarantees: it is seen, and no time is called blind.
#[test]
fn live_a_single_failure_is_seen_by_who_looks_always() {
    let test = "live_a_single_failure_is_seen_by_who_looks_always";
    if !geteuid().is_root() {
        return skipped(test, "needs root, to load BPF programs");
    }
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("server"), &[]);
    let mut command = agent();
    command.args(flags(folder.path(), server.grpc)).arg("--filter-errno-budget=100");
    let mut running = Running::start(&mut command);
    running.line_with("runs");
    exhaust_descriptors(1);
    let status = status(folder.path());
    assert_eq!(status["errno_blind"]["total_ms"], 0, "{status}");
    running.send(Signal::TERM);
    running.line_with("Status: Events=");
    assert_eq!(running.wait(), Some(0));
    row_when(&server, "all is stored", |row| row["connected"] == false);
    assert!(has_errno(&server, 24));
}

/// Scenario: a process finds its descriptors exhausted for some seconds, on a host whose system calls cost many times
/// the budget.
/// Guarantees: it is seen; `status` says how long nobody looked, and what the probe may cost.
#[test]
fn live_exhaustion_is_seen_within_the_errno_budget() {
    if !geteuid().is_root() {
        return skipped(
            "live_exhaustion_is_seen_within_the_errno_budget",
            "needs root, to load BPF programs",
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("server"), &[]);
    let mut running = Running::start(agent().args(flags(folder.path(), server.grpc)));
    running.line_with("runs");
    // A byte at a time: two system calls each.
    let mut flood = Command::new("dd");
    flood.args(["if=/dev/zero", "of=/dev/null", "bs=1"]).stderr(std::process::Stdio::null());
    let mut flood = flood.spawn().unwrap();
    exhaust_descriptors(150);
    flood.kill().unwrap();
    flood.wait().unwrap();
    let status = status(folder.path());
    let errno = &status["collectors"]["ebpf"]["probes"]["errno"];
    assert!(errno["reason"].as_str().unwrap().contains("at most 0.2 % of the CPU time"), "{errno}");
    assert!(number(&status["errno_blind"]["total_ms"]) > 0, "{status}");
    assert!(status["errno_blind"]["last_minute"].as_f64().unwrap() > 0.0, "{status}");
    running.send(Signal::TERM);
    running.line_with("Status: Events=");
    assert_eq!(running.wait(), Some(0));
    row_when(&server, "all is stored", |row| row["connected"] == false);
    assert!(has_errno(&server, 24));
}

/// What the agent of this folder says of itself.
fn status(folder: &Path) -> Value {
    let socket = format!("--socket={}", folder.join("collector.sock").display());
    let status = agent().args(["status", "--json", &socket]).output().unwrap();
    serde_json::from_slice(&status.stdout).unwrap()
}

/// Scenario: the server is killed twice in the middle of bursts and started again on its port and folder.
/// Guarantees: the agent goes on, and in the end the server has every event exactly once.
#[test]
fn live_a_killed_server_loses_nothing() {
    if !geteuid().is_root() {
        return skipped("live_a_killed_server_loses_nothing", "needs root, to load BPF programs");
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("server");
    let mut server = Server::start(&data, &[]);
    let grpc = server.grpc.to_string();
    let mut running = Running::start(agent().args(flags(folder.path(), server.grpc)));
    running.line_with("runs");
    for _ in 0..2 {
        burst();
        server.kill();
        burst();
        server = Server::start_at(&grpc, &data, &[]);
        row_when(&server, "the agent comes back", |row| row["connected"] == true);
    }
    burst();
    running.send(Signal::TERM);
    let last = running.line_with("Status: Events=");
    assert_eq!(running.wait(), Some(0));
    let row = row_when(&server, "the last ledger arrives", |row| row["connected"] == false);
    assert!(last.trim_end().ends_with("lost=0, ledger=closed"), "{last}\n{row}");
    let produced = number(&ledger(&row)["produced"]);
    assert!(produced >= 5 * BURST);
    assert_eq!(number(&ledger(&row)["acked"]), produced);
    // Counted by sequence numbers over the restarts: as many events as numbers, so none is missing or double.
    let stored: u64 =
        row["producers"].as_array().unwrap().iter().map(|producer| number(&producer["events"])).sum();
    assert_eq!((stored, number(&row["lost"]["ebpf"])), (produced, 0), "{row}");
}

/// Scenario: a kernel without BTF (its file is hidden), by default and asked for by name.
/// Guarantees: exit code 1 and a message that says what is missing and what to do.
#[test]
fn live_no_btf_is_said() {
    if !geteuid().is_root() {
        return skipped("live_no_btf_is_said", "needs root, to hide a file");
    }
    let folder = tempfile::tempdir().unwrap();
    let flags = flags(folder.path(), "127.0.0.1:9".parse().unwrap());
    for asked in ["", "--enable-ebpf"] {
        let script = format!("mount -t tmpfs none /sys/kernel/btf && exec \"$@\" {asked}");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_tapio-collector")]);
        let (code, error) = outcome(&command.args(&flags).env("NO_COLOR", "1").output().unwrap());
        assert_eq!(code, 1, "{error}");
        assert!(error.contains("no BTF") && error.contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
    }
}

/// Scenario: a host on which neither tracefs nor debugfs is mounted.
/// Guarantees: `doctor` finds it ready, every probe is attached as where they are, and events arrive.
#[test]
fn live_tracefs_is_not_needed() {
    if !geteuid().is_root() {
        return skipped("live_tracefs_is_not_needed", "needs root, to unmount file systems");
    }
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("server"), &[]);
    let script = "for at in $(awk '$3 == \"tracefs\" || $3 == \"debugfs\" { print $2 }' /proc/mounts | tac); do umount -l $at; done
        ! grep -qE ' (tracefs|debugfs) ' /proc/mounts && test ! -e /sys/kernel/tracing/events && exec \"$@\"";
    let without = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_tapio-collector")]);
        command.env("NO_COLOR", "1");
        command
    };
    let output = without().arg("doctor").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("probe process"), "{text}");
    let probes = |command: &mut Command| {
        let mut running = Running::start(command.args(flags(folder.path(), server.grpc)));
        running.line_with("runs");
        assert!(Command::new("/bin/true").status().unwrap().success());
        let probes = status(folder.path())["collectors"]["ebpf"]["probes"].clone();
        running.send(Signal::TERM);
        let last = running.line_with("Status: Events=");
        assert!(last.trim_end().ends_with("lost=0, ledger=closed"), "{last}");
        assert_eq!(running.wait(), Some(0));
        probes
    };
    assert_eq!(probes(&mut without()), probes(&mut agent()));
    row_when(&server, "all is stored", |row| row["connected"] == false);
    let execs = server.json("/api/v1/events?kind=process_exec&limit=1000");
    assert!(execs.as_array().unwrap().iter().any(|event| event["text"] == "/bin/true"), "{execs}");
}

/// Scenario: a state directory that is read-only, and one on a full disk.
/// Guarantees: one notice with the reason and the remedy; the agent runs and delivers all the same.
#[test]
fn live_a_useless_state_directory_costs_a_notice() {
    if !geteuid().is_root() {
        return skipped("live_a_useless_state_directory_costs_a_notice", "needs root, to mount file systems");
    }
    let read_only = "mount -t tmpfs -o ro none \"$0\"";
    let full = "mount -t tmpfs -o size=8k,nr_inodes=16 none \"$0\" && { cat /dev/zero > \"$0/fill\" 2>/dev/null || true; }";
    for prepare in [read_only, full] {
        let folder = tempfile::tempdir().unwrap();
        let state: PathBuf = folder.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let server = Server::start(&folder.path().join("server"), &[]);
        let script = format!("{prepare} && exec \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).arg(&state).arg(env!("CARGO_BIN_EXE_tapio-collector"));
        command.args(flags(folder.path(), server.grpc)).env("NO_COLOR", "1");
        let mut running = Running::start(&mut command);
        let notice = running.line_with("cannot keep state in");
        assert!(notice.contains("--state-dir"), "{notice}");
        running.line_with("runs");
        burst();
        running.send(Signal::TERM);
        let last = running.line_with("Status: Events=");
        assert!(last.trim_end().ends_with("lost=0, ledger=closed"), "{last}");
        assert_eq!(running.wait(), Some(0));
        let row = row_when(&server, "all is stored", |row| row["connected"] == false);
        assert!(number(&row["events"]) >= BURST, "{row}");
    }
}

/// Scenario: no ring memory.
/// Guarantees: a usage error that names the flag and the least value; nothing starts.
#[test]
fn a_ring_of_nothing_is_refused() {
    let output = agent().arg("--ring-bytes=0").output().unwrap();
    let (code, error) = outcome(&output);
    assert!(code == 2 || code == 78, "{code}: {error}");
    assert!(error.contains("ring") && error.contains("64"), "{error}");
}
