//! A journald of our own, in a namespace that nothing else uses, and the reader at its heels.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tapio::collector::journald::journal::{Position, Reader, Source};

use super::export::{self, Told, assert_same};

const JOURNALD: &str = "/lib/systemd/systemd-journald";
/// How long anything may take here before the test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A private journald.
pub(crate) struct Journald {
    name: String,
    storage: &'static str,
    child: Child,
}

/// Why there can be none.
pub(crate) fn unavailable() -> Option<&'static str> {
    if !Path::new(JOURNALD).exists() {
        return Some("systemd-journald is not installed");
    }
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    if machine.trim().len() != 32 {
        return Some("/etc/machine-id holds no id");
    }
    (!rustix::process::geteuid().is_root()).then_some("it takes root to start a journald")
}

impl Journald {
    fn start(test: &str) -> Self {
        Self::start_in("/run/log/journal", test)
    }

    /// One that keeps its files in this directory: `/run/log/journal` or `/var/log/journal`.
    pub(super) fn start_in(storage: &'static str, test: &str) -> Self {
        Self::start_with(storage, test, "")
    }

    /// One that takes what the kernel logs, and has taken what it logged before.
    pub(crate) fn of_kernel(test: &str) -> Self {
        let journald = Self::start_with("/run/log/journal", test, "ReadKMsg=yes\n");
        let mark = format!("{} begins", journald.name);
        // Without its end a line may still be continued, and nobody can read it.
        std::fs::write("/dev/kmsg", format!("{mark}\n")).expect("root writes to the kernel's log");
        journald.wait_for(|| {
            let mut command = Command::new("journalctl");
            command.args(["--quiet", "--output=cat", "--lines=100", "_TRANSPORT=kernel", "--directory"]);
            let output = command.arg(journald.directory()).output().expect("journalctl starts");
            String::from_utf8_lossy(&output.stdout).contains(&mark)
        });
        journald
    }

    fn start_with(storage: &'static str, test: &str, more: &str) -> Self {
        let name = format!("tapio-{test}-{}", std::process::id());
        let kind = if storage.starts_with("/run") { "volatile" } else { "persistent" };
        let conf = format!(
            "[Journal]\nStorage={kind}\nRateLimitBurst=0\nRateLimitIntervalSec=0\nRuntimeMaxUse=200M\n\
             SystemMaxUse=4G\nSystemMaxFiles=10000\nRuntimeMaxFileSize=8M\nSystemMaxFileSize=8M\n\
             SystemKeepFree=1M\nRuntimeKeepFree=1M\nSplitMode=uid\n\
             ForwardToSyslog=no\nForwardToWall=no\n{more}"
        );
        std::fs::write(config(&name), conf).expect("root writes to /etc/systemd");
        let child = spawn(&name);
        let journald = Self { name, storage, child };
        journald.wait_for(|| journald.socket().exists());
        journald
    }

    /// Ends it at once, as a crash would, and starts it again.
    pub(super) fn crash(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        self.child.wait().expect("it ends");
        self.child = spawn(&self.name);
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/run/systemd/journal.{}/socket", self.name))
    }

    pub(crate) fn directory(&self) -> PathBuf {
        let machine = std::fs::read_to_string("/etc/machine-id").expect("it was there");
        Path::new(self.storage).join(format!("{}.{}", machine.trim(), self.name))
    }

    pub(super) fn wait_for(&self, ready: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !ready() {
            assert!(Instant::now() < until, "{} did not get ready in {PATIENCE:?}", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends messages, numbered from `first` on; waits where journald does not keep up.
    pub(super) fn send(&self, first: u64, count: u64) {
        let socket = UnixDatagram::unbound().expect("a socket");
        socket.connect(self.socket()).expect("journald listens");
        for number in first..first + count {
            let text =
                format!("MESSAGE=message {number}\nPRIORITY={}\nNUMBER={number}\nKIND=live\n", number % 8);
            socket.send(text.as_bytes()).expect("journald reads");
        }
    }

    /// Sends one message: its fields as `NAME=value` lines.
    pub(super) fn send_text(&self, fields: &str) {
        let socket = UnixDatagram::unbound().expect("a socket");
        socket.send_to(fields.as_bytes(), self.socket()).expect("journald reads");
    }

    pub(super) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    fn reader(&self) -> Reader {
        self.wait_for(|| self.directory().join("system.journal").exists());
        Reader::open(Source::Namespace(self.name.clone())).expect("the directory exists")
    }
}

fn config(name: &str) -> PathBuf {
    PathBuf::from(format!("/etc/systemd/journald@{name}.conf"))
}

fn spawn(name: &str) -> Child {
    Command::new(JOURNALD).arg(name).stderr(Stdio::null()).spawn().expect("journald starts")
}

impl Drop for Journald {
    fn drop(&mut self) {
        // Only what this test made, and a test that failed has said why.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(config(&self.name));
        let _ = std::fs::remove_dir_all(self.directory());
        let _ = std::fs::remove_dir_all(format!("/run/systemd/journal.{}", self.name));
    }
}

/// Reads until message `last` has come.
fn follow(reader: &mut Reader, last: u64, all: &mut Vec<Told>) {
    let until = Instant::now() + PATIENCE;
    let wanted = ("NUMBER".to_owned(), last.to_string().into_bytes());
    while !all.iter().rev().take(50).any(|told| told.fields.contains(&wanted)) {
        assert!(Instant::now() < until, "message {last} did not come in {PATIENCE:?}");
        reader.refresh();
        all.extend(export::read(reader));
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn numbers(all: &[Told]) -> Vec<u64> {
    let number = |told: &Told| {
        let (_, value) = told.fields.iter().find(|(name, _)| name == "NUMBER")?;
        String::from_utf8(value.clone()).ok()?.parse().ok()
    };
    all.iter().filter_map(number).collect()
}

/// Scenario: messages are sent while the reader follows; journald rotates in between, and is killed and restarted.
/// Guarantees: each message comes once, in order; what was followed is what journalctl tells afterwards, field by field.
#[test]
fn live_journal_is_followed() {
    if let Some(reason) = unavailable() {
        crate::skipped("live_journal_is_followed", reason);
        return;
    }
    let mut journald = Journald::start("follow");
    let mut reader = journald.reader();
    let mut all = Vec::new();
    journald.send(0, 1000);
    follow(&mut reader, 999, &mut all);
    for round in 1..4 {
        journald.send(round * 1000, 500);
        journald.signal(rustix::process::Signal::USR2);
        journald.send(round * 1000 + 500, 500);
        follow(&mut reader, round * 1000 + 999, &mut all);
    }
    journald.child.kill().expect("it runs");
    journald.child.wait().expect("it ends");
    journald.child = spawn(&journald.name);
    // The socket of the one before is still there, until it is bound anew.
    journald.wait_for(|| UnixDatagram::unbound().and_then(|own| own.connect(journald.socket())).is_ok());
    journald.send(4000, 100);
    follow(&mut reader, 4099, &mut all);
    assert_eq!(numbers(&all), (0..4100).collect::<Vec<_>>(), "each once and in order");
    assert_eq!(reader.take_gaps(), []);
    let told = export::by_journalctl(&journald.directory());
    assert_same("live", &all, &told);
}

/// Scenario: a reader stands at the tail of a journal that has entries; then more come, from another user, too.
/// Guarantees: only those that come afterwards are read, those in the user's new file as well.
#[test]
fn live_tail_starts_behind_what_is_there() {
    if let Some(reason) = unavailable() {
        crate::skipped("live_tail_starts_behind_what_is_there", reason);
        return;
    }
    let journald = Journald::start("tail");
    let mut reader = journald.reader();
    journald.send(0, 100);
    follow(&mut reader, 99, &mut Vec::new());
    let mut tail = journald.reader();
    tail.seek(Position::Tail).expect("sought");
    assert!(tail.next().is_none(), "nothing has come since");
    let script = format!(
        "import os,socket\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\ns.connect('{}')\nos.setuid(1000)\n\
         [s.send(b'MESSAGE=user\\nNUMBER=%d\\n' % n) for n in range(100,110)]",
        journald.socket().display()
    );
    let user = Command::new("python3").args(["-c", &script]).status();
    let first = if user.is_ok_and(|status| status.success()) { 100 } else { 110 };
    journald.send(110, 10);
    let mut all = Vec::new();
    follow(&mut tail, 119, &mut all);
    assert_eq!(numbers(&all), (first..120).collect::<Vec<_>>());
    assert_eq!(tail.take_gaps(), []);
}

/// Scenario: archived files are deleted while the reader has read half of the oldest.
/// Guarantees: it reads on to the end of what it had open, and loses nothing.
#[test]
fn live_vacuum_takes_nothing_from_a_reader() {
    if let Some(reason) = unavailable() {
        crate::skipped("live_vacuum_takes_nothing_from_a_reader", reason);
        return;
    }
    let journald = Journald::start("vacuum");
    let mut follower = journald.reader();
    for round in 0..3 {
        journald.send(round * 500, 500);
        follow(&mut follower, round * 500 + 499, &mut Vec::new());
        journald.signal(rustix::process::Signal::USR2);
    }
    let mut reader = journald.reader();
    let mut all: Vec<u64> = Vec::new();
    let next = |reader: &mut Reader, all: &mut Vec<u64>| {
        let Some(entry) = reader.next() else { return false };
        let number = entry.fields().find(|(name, _)| *name == b"NUMBER");
        all.extend(number.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse::<u64>().ok()));
        true
    };
    while all.len() < 250 {
        assert!(next(&mut reader, &mut all));
    }
    for entry in std::fs::read_dir(journald.directory()).expect("it is there") {
        let path = entry.expect("listed").path();
        if path.display().to_string().contains('@') {
            std::fs::remove_file(path).expect("deleted");
        }
    }
    reader.refresh();
    while next(&mut reader, &mut all) {}
    assert_eq!(all, (0..1500).collect::<Vec<_>>());
    assert_eq!(reader.take_gaps(), []);
}
