//! The collector within the whole agent: from a journal to a query of the server.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::export;
use super::live::{self, Journald};
use super::writer::{Record, Writer};
use crate::config::agent;
use crate::server::client::Server;
use crate::skipped;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent that reads journals only.
pub(super) struct Agent {
    command: Vec<String>,
    pub(super) state: PathBuf,
    child: Child,
}

impl Agent {
    /// Starts one that keeps to a folder.
    pub(super) fn start(folder: &Path, server: SocketAddr, flags: &[&str]) -> Self {
        Self::logging(folder, server, flags, Stdio::null())
    }

    /// The same, with a log.
    fn logging(folder: &Path, server: SocketAddr, flags: &[&str], log: Stdio) -> Self {
        let state = folder.join("state");
        let mut command = vec![
            format!("--socket={}", folder.join("collector.sock").display()),
            format!("--state-dir={}", state.display()),
            format!("--server={server}"),
            "--flush-interval=20ms".into(),
            "--shutdown-deadline=20s".into(),
        ];
        let others = ["ebpf", "systemd", "k8s", "sampler"].map(|name| format!("--enable-{name}=false"));
        command.extend(others);
        command.extend(flags.iter().map(|&flag| flag.to_owned()));
        let child = run(&command, log);
        Self { command, state, child }
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Ends it in order.
    fn stop(&mut self) {
        self.signal(Signal::TERM);
        assert!(self.child.wait().expect("it ends").success());
    }

    /// Starts it once more, as it was started.
    pub(super) fn again(&mut self) {
        self.child = run(&self.command, Stdio::null());
    }

    /// Ends it at once, as a crash would, and starts it again.
    pub(super) fn crash(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("it ends");
        self.again();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _waited = self.child.wait();
    }
}

fn run(flags: &[String], log: Stdio) -> Child {
    agent()
        .args(flags)
        .env("NO_COLOR", "1")
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the agent starts")
}

/// The text of an event by the names of its fields.
fn fields(event: &Value) -> BTreeMap<&str, &str> {
    event["text"].as_str().unwrap_or_default().lines().filter_map(|line| line.split_once('=')).collect()
}

/// Log records and gaps that the server has.
pub(super) fn stored(server: &Server) -> Vec<Value> {
    match server.json("/api/v1/events?kind=log_record,log_gap&limit=100000") {
        Value::Array(events) => events,
        other => panic!("not a list: {other}"),
    }
}

/// The number in `message N`.
fn number(event: &Value) -> Option<u64> {
    fields(event).get("MESSAGE")?.strip_prefix("message ")?.parse().ok()
}

fn numbers(events: &[Value]) -> Vec<u64> {
    let mut numbers: Vec<u64> = events.iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// What the server has, once `ready` holds for it.
fn stored_when(server: &Server, what: &str, ready: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let until = Instant::now() + PATIENCE;
    loop {
        let events = stored(server);
        if ready(&events) {
            return events;
        }
        assert!(Instant::now() < until, "{what}: {} events, {:?}", events.len(), events.last());
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(super) fn wait_until(what: &str, ready: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A journald with a first message, a server, and the flag that makes an agent read it.
pub(super) fn parts(storage: &'static str, test: &str, folder: &Path) -> Option<(Journald, Server, String)> {
    if let Some(why) = live::unavailable() {
        skipped(test, why);
        return None;
    }
    let journald = Journald::start_in(storage, test.trim_start_matches("live_"));
    journald.send(0, 1);
    journald.wait_for(|| journald.directory().join("system.journal").exists());
    let server = Server::start(&folder.join("server"), &[]);
    let flag = format!("--journal-directory={}", journald.directory().display());
    Some((journald, server, flag))
}

/// The position that the agent kept, as journalctl sees it: how many entries are behind it.
fn entries_behind(agent: &Agent, directory: &Path) -> Option<usize> {
    let files = std::fs::read_dir(&agent.state).ok()?.flatten();
    let file =
        files.map(|file| file.path()).find(|path| path.extension().is_some_and(|end| end == "cursor"))?;
    let cursor = std::fs::read_to_string(file).ok()?;
    if !cursor.contains("t=") {
        return None;
    }
    Some(export::journalctl(directory, &[&format!("--after-cursor={}", cursor.trim())]).len())
}

/// Scenario: messages are logged while the agent runs, while it is stopped, and while it runs again; one has a password,
/// one is an error with a trace id.
/// Guarantees: each is on the server once and findable, the password is masked; journalctl agrees on the position.
#[test]
fn live_entries_reach_a_query() {
    let folder = tempfile::tempdir().unwrap();
    let Some((journald, server, flag)) =
        parts("/run/log/journal", "live_entries_reach_a_query", folder.path())
    else {
        return;
    };
    let mut agent = Agent::start(folder.path(), server.grpc, &[&flag]);
    wait_until("a position is kept", || entries_behind(&agent, &journald.directory()) == Some(0));
    journald.send(1, 300);
    journald.send_text("MESSAGE=login password=hunter2 ok\nPRIORITY=6\n");
    journald.send_text("MESSAGE=broken\nPRIORITY=3\nTRACE_ID=0af7651916cd43dd8448eb211c80319c\n");
    stored_when(&server, "302 entries arrive", |events| events.len() >= 302);
    wait_until("the position follows", || entries_behind(&agent, &journald.directory()) == Some(0));
    agent.stop();
    journald.send(301, 50);
    agent.again();
    journald.send(351, 50);
    // The last one may be there first: shards deliver in batches of their own.
    let events = stored_when(&server, "the rest arrives", |events| numbers(events).len() >= 400);
    assert_eq!(
        numbers(&events),
        (1..=400).collect::<Vec<_>>(),
        "each once, and nothing from before the start"
    );

    let with =
        |part: &str| events.iter().find(|event| event["text"].as_str().unwrap().contains(part)).unwrap();
    assert_eq!(fields(with("login"))["MESSAGE"], "login password=*** ok");
    let error = with("broken");
    assert_eq!(fields(error)["TRACE_ID"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!((&error["kind"], &error["slots"]["priority"]), (&"log_record".into(), &3.into()));
    let pid = u64::from(std::process::id());
    let owner = fields(error).get("PID").and_then(|pid| pid.parse().ok()).or(error["pid"].as_u64());
    assert_eq!(owner, Some(pid), "{error}");
    let told = export::journalctl(&journald.directory(), &[]);
    let realtime: Vec<u64> = told.iter().map(|told| told.realtime_us).collect();
    assert!(events.iter().all(|event| realtime.contains(&event["slots"]["realtime_us"].as_u64().unwrap())));
}

/// Scenario: the agent's own log goes to the journal that it reads, at the highest level.
/// Guarantees: the journal has its lines, the server has none of them, and has what others log.
#[test]
fn live_own_log_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let Some((journald, server, flag)) = parts("/run/log/journal", "live_own_log_is_not_read", folder.path())
    else {
        return;
    };
    let mut stream = UnixStream::connect(journald.socket().with_file_name("stdout")).unwrap();
    stream.write_all(b"tapio-own-log\n\n6\n0\n0\n0\n0\n").unwrap();
    let log = Stdio::from(OwnedFd::from(stream));
    let _agent = Agent::logging(folder.path(), server.grpc, &[&flag, "--log-level=debug"], log);
    let own = || export::journalctl(&journald.directory(), &["--identifier=tapio-own-log"]).len();
    wait_until("the agent logs to the journal", || own() > 3);
    journald.send(1, 20);
    let events = stored_when(&server, "the messages arrive", |events| numbers(events).len() >= 20);
    let from_agent = |event: &&Value| fields(event).get("IDENTIFIER") == Some(&"tapio-own-log");
    assert_eq!(events.iter().filter(from_agent).collect::<Vec<_>>(), Vec::<&Value>::new());
}

/// Scenario: the journal of another boot, from 2023, with words of the manager, is read with `--since`.
/// Guarantees: each entry is found at its wall-clock time, under its unit and run; old entries share batches.
#[test]
fn live_old_entries_keep_their_time() {
    const START_US: u64 = 1_700_000_000_000_000;
    let test = "live_old_entries_keep_their_time";
    if !super::tools(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("journal");
    std::fs::create_dir(&directory).unwrap();
    let records: Vec<Record> = (0..2000)
        .map(|index| {
            let at = index * 1_000_000;
            let mut record = Record::new(START_US + at, 1_000_000 + at, super::BOOTS[0]);
            record.text("MESSAGE", &format!("message {index}")).text("UNIT", "a.service").text("_PID", "1");
            record.text("INVOCATION_ID", "0123456789abcdef0123456789abcdef").text("_COMM", "systemd");
            record
        })
        .collect();
    Writer { compact: true, keyed: true, compress: false }.write(&directory.join("old.journal"), &records);
    let server = Server::start(&folder.path().join("server"), &[]);
    let flags = [&*format!("--journal-directory={}", directory.display()), "--since=2023-01-01T00:00:00Z"];
    let _agent = Agent::start(folder.path(), server.grpc, &flags);
    let events = stored_when(&server, "all arrive", |events| events.len() >= records.len());
    assert_eq!(numbers(&events), (0..2000).collect::<Vec<_>>());
    // The wall clock of the boot is read now and again: to a millisecond it is the same.
    let path =
        "/api/v1/events?entity=a.service&limit=5&from=2023-11-14T22:13:19.999Z&to=2023-11-14T22:13:22.999Z";
    let first = server.json(path);
    let times = first.as_array().unwrap().iter().map(|event| event["slots"]["realtime_us"].as_u64().unwrap());
    assert_eq!(times.collect::<Vec<_>>(), [0, 1, 2].map(|second| START_US + second * 1_000_000), "{first}");
    assert_eq!(first[0]["entity"]["trace_id"], "0123456789abcdef0123456789abcdef");
    let batches = server.json("/api/v1/status")["agents"][0]["batches"].as_u64().unwrap();
    assert!(batches < 200, "{batches} batches of 2000 entries");
}

/// Scenario: the file of the position is garbage; then it names an entry of a journal that is gone.
/// Guarantees: garbage costs what was before the start; a lost entry is a gap, and reading goes on behind its time.
#[test]
fn live_a_lost_position_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let Some((journald, server, flag)) =
        parts("/run/log/journal", "live_a_lost_position_is_said", folder.path())
    else {
        return;
    };
    let mut agent = Agent::start(folder.path(), server.grpc, &[&flag]);
    wait_until("a position is kept", || entries_behind(&agent, &journald.directory()) == Some(0));
    agent.stop();
    let file = std::fs::read_dir(&agent.state)
        .unwrap()
        .map(|file| file.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "cursor"))
        .unwrap();
    std::fs::write(&file, "no cursor").unwrap();
    journald.send(1, 5);
    agent.again();
    wait_until("a position is kept again", || entries_behind(&agent, &journald.directory()) == Some(0));
    journald.send(6, 5);
    let events = stored_when(&server, "the later ones arrive", |events| numbers(events).len() >= 5);
    assert_eq!(numbers(&events), (6..=10).collect::<Vec<_>>());
    agent.stop();

    let cursor = std::fs::read_to_string(&file).unwrap();
    let fields = cursor.trim().split(';').map(|part| match part.split_once('=').unwrap() {
        ("s", _) => format!("s={:032x}", 0xdead_beef_u64),
        ("x", _) => "x=1".to_owned(),
        ("b", _) => format!("b={:032x}", 7),
        (name, value) => format!("{name}={value}"),
    });
    std::fs::write(&file, fields.collect::<Vec<_>>().join(";")).unwrap();
    journald.send(11, 5);
    agent.again();
    let is_gap = |event: &&Value| event["kind"] == "log_gap";
    let events = stored_when(&server, "the latest and the gap arrive", |events| {
        numbers(events).last() == Some(&15) && events.iter().any(|event| is_gap(&event))
    });
    let gap = events.iter().find(is_gap).unwrap();
    assert!(self::fields(gap)["CAUSE"].starts_with("journal_"), "{gap}");
}

/// Scenario: the journal is rotated while the agent reads; then the agent is held up while files are written, rotated and
/// deleted.
/// Guarantees: what was never deleted arrives once; what was deleted unread is a gap of its size, in the ledger, too.
#[test]
fn live_rotation_and_vacuum() {
    let folder = tempfile::tempdir().unwrap();
    let Some((journald, server, flag)) = parts("/run/log/journal", "live_rotation_and_vacuum", folder.path())
    else {
        return;
    };
    let agent = Agent::start(folder.path(), server.grpc, &[&flag]);
    wait_until("a position is kept", || entries_behind(&agent, &journald.directory()) == Some(0));
    let archived = || files(&journald.directory()).into_iter().filter(|path| is_archived(path)).count();
    for turn in 0..5 {
        journald.send(1 + turn * 100, 100);
        let before = archived();
        journald.signal(Signal::USR2);
        journald.wait_for(|| archived() > before);
    }
    stored_when(&server, "500 arrive", |events| numbers(events).len() >= 500);
    agent.signal(Signal::STOP);
    let old = files(&journald.directory());
    for turn in 5..8 {
        let before = archived();
        journald.send(1 + turn * 100, 100);
        journald.signal(Signal::USR2);
        journald.wait_for(|| archived() > before);
    }
    // What the agent has not seen yet and is not the newest: turns 6 and 7, between what it has mapped and the end.
    let unseen: Vec<_> = files(&journald.directory())
        .into_iter()
        .filter(|path| is_archived(path) && !old.contains(path))
        .collect();
    let lost: Vec<_> = unseen.iter().filter(|path| newest(path) > 600).collect();
    assert!(!lost.is_empty(), "{unseen:?}");
    let told_lost: usize = lost.iter().map(|path| entries(path)).sum();
    for path in &lost {
        std::fs::remove_file(path).unwrap();
    }
    journald.send(801, 100);
    agent.signal(Signal::CONT);
    let truth: Vec<_> = numbers_in(&journald.directory()).into_iter().filter(|&number| number > 0).collect();
    let events = stored_when(&server, "what is left arrives", |events| {
        let stored = numbers(events);
        truth.iter().all(|number| stored.contains(number))
    });
    let stored = numbers(&events);
    let unique: std::collections::BTreeSet<_> = stored.iter().collect();
    assert_eq!(unique.len(), stored.len(), "each once");
    wait_until("the gap is told", || stored_gaps(&server) >= told_lost as u64);
    assert_eq!(stored_gaps(&server), told_lost as u64);
}

fn stored_gaps(server: &Server) -> u64 {
    let gaps = stored(server).into_iter().filter(|event| event["kind"] == "log_gap");
    gaps.map(|gap| gap["slots"]["lost"].as_u64().unwrap()).sum()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect()
}

fn is_archived(path: &Path) -> bool {
    path.file_name().unwrap().to_string_lossy().contains('@')
}

fn by_file(path: &Path) -> Vec<export::Told> {
    // journalctl of one file: by its directory it would read them all.
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(path, folder.path().join("one.journal")).unwrap();
    export::by_journalctl(folder.path())
}

fn entries(path: &Path) -> usize {
    by_file(path).len()
}

fn newest(path: &Path) -> u64 {
    numbers_of(&by_file(path)).last().copied().unwrap_or(0)
}

fn numbers_in(directory: &Path) -> Vec<u64> {
    numbers_of(&export::by_journalctl(directory))
}

/// What is in the field `NUMBER` of entries.
pub(super) fn numbers_of(told: &[export::Told]) -> Vec<u64> {
    let number = |told: &export::Told| {
        let (_, value) = told.fields.iter().find(|(name, _)| name == "NUMBER")?;
        str::from_utf8(value).ok()?.parse().ok()
    };
    told.iter().filter_map(number).collect()
}

/// Scenario: the agent reads a namespace beside this host's journal.
/// Guarantees: its entries arrive.
#[test]
fn live_namespaces_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let Some((journald, server, _)) = parts("/run/log/journal", "live_namespaces_are_read", folder.path())
    else {
        return;
    };
    let flag = format!("--journal-namespace={}", journald.name());
    let agent = Agent::start(folder.path(), server.grpc, &[&flag, "--journal-text=pattern"]);
    let kept = agent.state.join(format!("journald@{}.cursor", journald.name()));
    wait_until("a position is kept", || kept.exists());
    journald.send(1, 10);
    let of_namespace = |event: &Value| {
        fields(event).get("PATTERN") == Some(&"message #") && !fields(event).contains_key("MESSAGE")
    };
    stored_when(&server, "10 arrive", |events| {
        events.iter().filter(|event| of_namespace(event)).count() == 10
    });
    // journalctl understands what is kept.
    let output = Command::new("journalctl")
        .args(["--quiet", &format!("--namespace={}", journald.name()), "--cursor-file"])
        .arg(&kept)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
