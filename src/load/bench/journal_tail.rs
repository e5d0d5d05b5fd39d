//! The tail of a live journal: from sending a message to a private journald until a reader has it.
//!
//! Invariants:
//! - The journald is one of a namespace that nothing else uses; what was made for it is removed with it.

use std::io::BufRead;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::report::{Measure, Report};
use crate::collector::journald::journal::{Position, Reader, Source};
use crate::load::LoadError;
use crate::load::child::{Child, Start, pause};
use crate::load::control::Watch;
use crate::load::generate::monotonic_ns;
use crate::load::stats::{float, median};

const JOURNALD: &str = "/lib/systemd/systemd-journald";
/// Between two messages.
const PAUSE: Duration = Duration::from_millis(40);
/// Between two looks at the journal: the pace of the collector while messages come.
const LOOK: Duration = Duration::from_millis(1);
/// How long a message may take.
const LIMIT: Duration = Duration::from_secs(10);

/// A private journald.
struct Journald {
    name: String,
    child: Option<Child>,
}

impl Journald {
    fn start() -> Result<Self, LoadError> {
        if !Path::new(JOURNALD).exists() {
            let remedy = "the figure needs a host with systemd";
            return Err(LoadError::Missing { program: "systemd-journald".into(), remedy });
        }
        let mut journald = Self { name: format!("tapio-bench-{}", std::process::id()), child: None };
        let conf = journald.conf();
        let text = "[Journal]\nStorage=volatile\nRateLimitBurst=0\nRateLimitIntervalSec=0\n";
        std::fs::write(&conf, text).map_err(LoadError::io(conf.display().to_string()))?;
        journald.child = Some(Start::new(JOURNALD).arg(&journald.name).spawn()?);
        let end = Instant::now() + LIMIT;
        while journald.connect().is_err() {
            if Instant::now() >= end {
                return Err(LoadError::process("systemd-journald", "did not listen"));
            }
            pause(Duration::from_millis(10))?;
        }
        Ok(journald)
    }

    fn conf(&self) -> PathBuf {
        PathBuf::from(format!("/etc/systemd/journald@{}.conf", self.name))
    }

    fn runtime(&self) -> PathBuf {
        PathBuf::from(format!("/run/systemd/journal.{}", self.name))
    }

    fn directory(&self) -> Option<PathBuf> {
        let machine = std::fs::read_to_string("/etc/machine-id").ok()?;
        Some(PathBuf::from(format!("/run/log/journal/{}.{}", machine.trim(), self.name)))
    }

    fn connect(&self) -> std::io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(self.runtime().join("socket"))?;
        Ok(socket)
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        drop(self.child.take());
        // What cannot be removed is small and names the process that left it.
        let _ = std::fs::remove_file(self.conf());
        let _ = std::fs::remove_dir_all(self.runtime());
        if let Some(directory) = self.directory() {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

/// Sends messages that say when they were sent; `take` waits for the one that was just sent.
fn messages(
    socket: &UnixDatagram,
    count: u64,
    mut take: impl FnMut(u64) -> Result<u64, LoadError>,
) -> Result<Report, LoadError> {
    let watch = Watch::start()?;
    let mut latencies = Vec::new();
    for _ in 0..count {
        let sent = monotonic_ns();
        let text = format!("MESSAGE=sent {sent}\nSENT={sent}\nPRIORITY=6\n");
        socket.send(text.as_bytes()).map_err(LoadError::io("sending to systemd-journald"))?;
        latencies.push(float(take(sent)?.saturating_sub(sent)) / 1e6);
        pause(PAUSE)?;
    }
    let mut report = Report::new(watch.finish()?);
    report.calls = count;
    report.put(Measure::TailMs, median(&latencies).unwrap_or(0.0));
    Ok(report)
}

fn late() -> LoadError {
    LoadError::process("systemd-journald", format!("a message did not arrive within {LIMIT:?}"))
}

/// One run with our own reader.
pub(super) fn own(count: u64) -> Result<Report, LoadError> {
    let journald = Journald::start()?;
    let socket = journald.connect().map_err(LoadError::io("connecting to systemd-journald"))?;
    let open = || Reader::open(Source::Namespace(journald.name.clone()));
    let mut reader = open().map_err(|error| LoadError::process("journal", error.to_string()))?;
    let _sought = reader.seek(Position::Tail);
    messages(&socket, count, |sent| {
        let wanted = sent.to_string();
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            while let Some(entry) = reader.next() {
                if entry.fields().any(|(name, value)| name == b"SENT" && value == wanted.as_bytes()) {
                    return Ok(monotonic_ns());
                }
            }
            reader.refresh();
            pause(LOOK)?;
        }
        Err(late())
    })
}

/// One run with `journalctl --follow`.
pub(super) fn journalctl(count: u64) -> Result<Report, LoadError> {
    let journald = Journald::start()?;
    let socket = journald.connect().map_err(LoadError::io("connecting to systemd-journald"))?;
    let start = Start::new("journalctl").args(["--quiet", "--follow", "--output=cat", "--lines=0"]);
    let start = start.arg(format_args!("--namespace={}", journald.name));
    let mut child = start.stdout_piped().spawn()?;
    let mut output = child.take_stdout().ok_or_else(|| LoadError::process("journalctl", "has no output"))?;
    pause(Duration::from_secs(1))?;
    let report = messages(&socket, count, |sent| {
        let wanted = format!("sent {sent}");
        let mut line = String::new();
        while output.read_line(&mut line).map_err(LoadError::io("reading from journalctl"))? > 0 {
            if line.trim_end() == wanted {
                return Ok(monotonic_ns());
            }
            line.clear();
        }
        Err(late())
    })?;
    child.terminate(Duration::from_secs(5))?;
    Ok(report)
}
