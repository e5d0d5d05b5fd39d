//! What the kernel's log says, beyond memory and disks.
//!
//! Invariants:
//! - Only lines that the kernel itself wrote: their transport says so.

use super::bounded::Throttle;
use super::fact::{Fact, FactKind, KeyKind, Subject};
use super::seen::{Seen, subject_of, with_path, with_text};
use super::text::{after, until};
use super::{Detector, deaths};
use crate::event::{Kind, fields};

/// Lines told apart, at most.
const LINES_MAX: usize = 1024;

/// A line of one kind and subject is told again after this time.
const AGAIN_NS: u64 = 30_000_000_000;

/// What a line says, and of whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line<'text> {
    /// A fork was refused in this cgroup.
    ForkRefused(&'text str),
    /// The table of connections is full.
    ConntrackFull,
    /// A task does not make progress.
    TaskHung(&'text str, u64),
    /// A CPU does not make progress.
    LockedUp,
    /// A link is down or does not transmit.
    LinkDown(&'text str),
    /// A listener gets more connections than it takes.
    SynFlood(u64),
    /// The processor reports a fault of its own.
    MachineCheck,
}

/// Reads a line.
pub(super) fn classify(line: &str) -> Option<Line<'_>> {
    if let Some(path) = after(line, "fork rejected by pids controller in ") {
        return Some(Line::ForkRefused(path.trim()));
    }
    if line.contains("nf_conntrack") && line.contains("table full, dropping packet") {
        return Some(Line::ConntrackFull);
    }
    if line.contains("blocked for more than ") && line.contains(" seconds") {
        let task = until(line, "task ", &[' '])?;
        let (comm, pid) = task.rsplit_once(':')?;
        return Some(Line::TaskHung(comm, pid.parse().ok()?));
    }
    if line.contains("soft lockup") || line.contains("hard LOCKUP") || line.contains("rcu: INFO: rcu_") {
        return Some(Line::LockedUp);
    }
    if let Some(rest) = after(line, "NETDEV WATCHDOG: ") {
        return rest.split([' ', ':']).next().map(Line::LinkDown);
    }
    if line.contains("Link is Down") || line.ends_with("NIC Link is Down") {
        let name = line.split(':').rev().nth(1)?;
        return name.split_whitespace().last().map(Line::LinkDown);
    }
    if line.contains("Possible SYN flooding on port ") {
        let port = until(line, "Possible SYN flooding on port ", &['.', ' '])?;
        let port = port.rsplit(':').next()?.parse().ok()?;
        return Some(Line::SynFlood(port));
    }
    if line.contains("Machine Check") || line.contains("[Hardware Error]") {
        return Some(Line::MachineCheck);
    }
    None
}

/// See the module.
#[derive(Debug)]
pub(super) struct Kernel {
    told: Throttle<(FactKind, String)>,
}

impl Default for Kernel {
    fn default() -> Self {
        Self { told: Throttle::new(LINES_MAX, AGAIN_NS) }
    }
}

impl Detector for Kernel {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        if seen.kind() == Kind::ProcessHang {
            let fact = seen.fact(FactKind::Hung).with("comm", seen.chars("comm"));
            self.tell(fact.with("pid", u64::from(seen.pid())), seen.time_ns(), out);
            return;
        }
        if seen.field(fields::TRANSPORT) != "kernel" {
            return;
        }
        let line = seen.field(fields::MESSAGE);
        if let Some(fact) = deaths::crash_line(seen, &line) {
            out.push(fact);
        } else if let Some(said) = classify(&line) {
            let fact = with_text(fact(seen, &said), "text", &line);
            self.tell(fact, seen.time_ns(), out);
        }
    }

    fn evicted(&self) -> u64 {
        self.told.evicted()
    }
}

impl Kernel {
    fn tell(&mut self, fact: Fact, now_ns: u64, out: &mut Vec<Fact>) {
        if let Some(count) = self.told.pass((fact.kind, fact.subject.to_string()), now_ns) {
            out.push(if count > 1 { fact.with("count", count) } else { fact });
        }
    }
}

fn fact(seen: &Seen<'_>, said: &Line<'_>) -> Fact {
    match said {
        Line::ForkRefused(path) => {
            let fact = seen.bare(FactKind::PidsLimitHit, subject_of(path)).with("path", *path);
            with_path(fact, path)
        }
        Line::ConntrackFull => seen.bare(FactKind::ConntrackFull, seen.node()),
        Line::TaskHung(comm, pid) => {
            let subject = Subject::new("process", format!("{comm}[{pid}]"));
            let fact = seen.bare(FactKind::Hung, subject).key(KeyKind::Pid, pid.to_string());
            fact.with("comm", *comm).with("pid", *pid)
        }
        Line::LockedUp => seen.bare(FactKind::Hung, seen.node()),
        Line::LinkDown(link) => {
            let fact = seen.bare(FactKind::NetworkUnreachable, Subject::new("link", *link));
            fact.with("link", *link)
        }
        Line::SynFlood(port) => {
            let fact = seen.bare(FactKind::LogError, Subject::new("port", format!("*:{port}")));
            fact.key(KeyKind::Socket, format!("*:{port}"))
        }
        Line::MachineCheck => seen.bare(FactKind::LogError, seen.node()),
    }
}

/// What `systemd-networkd` and NetworkManager say when a link loses its carrier, as `NAME: Lost carrier`.
pub(super) fn lost_carrier(message: &str) -> Option<&str> {
    let (link, what) = message.split_once(": ")?;
    let lost = what.starts_with("Lost carrier") || what.starts_with("Link DOWN");
    (lost && !link.contains(' ')).then_some(link)
}

/// How many seconds the clock was stepped by, in the words of chrony, ntpd and systemd-timesyncd.
pub(super) fn stepped_ms(message: &str) -> Option<i64> {
    let by = until(message, "stepped by ", &[' ', 's'])
        .or_else(|| until(message, "time stepped by ", &[' ']))
        .or_else(|| {
            until(message, "step time server ", &['\n']).and_then(|rest| until(rest, "offset ", &[' ']))
        });
    let seconds: f64 = by?.trim_start_matches('+').parse().ok()?;
    let negative = seconds < 0.0;
    let size = std::time::Duration::try_from_secs_f64(seconds.abs()).ok()?;
    let size = i64::try_from(size.as_millis()).ok()?;
    Some(if negative { -size } else { size })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: lines of real kernels, and lines that only look like them.
    /// Guarantees: each says what it says, and of whom.
    #[test]
    fn lines_of_the_kernel() {
        for (line, expected) in [
            (
                "cgroup: fork rejected by pids controller in /system.slice/bomb.service",
                Some(Line::ForkRefused("/system.slice/bomb.service")),
            ),
            ("nf_conntrack: nf_conntrack: table full, dropping packet", Some(Line::ConntrackFull)),
            (
                "INFO: task jbd2/sda1-8:312 blocked for more than 120 seconds.",
                Some(Line::TaskHung("jbd2/sda1-8", 312)),
            ),
            ("watchdog: BUG: soft lockup - CPU#3 stuck for 26s! [kworker/3:1:88]", Some(Line::LockedUp)),
            ("NETDEV WATCHDOG: eth0 (e1000e): transmit queue 0 timed out", Some(Line::LinkDown("eth0"))),
            ("e1000e 0000:00:1f.6 eno1: NIC Link is Down", Some(Line::LinkDown("eno1"))),
            (
                "TCP: request_sock_TCP: Possible SYN flooding on port 8080. Sending cookies.",
                Some(Line::SynFlood(8080)),
            ),
            (
                "TCP: request_sock_TCP: Possible SYN flooding on port 0.0.0.0:8080. Sending",
                Some(Line::SynFlood(8080)),
            ),
            ("mce: [Hardware Error]: Machine check events logged", Some(Line::MachineCheck)),
            ("cgroup: new mount options do not match", None),
        ] {
            assert_eq!(classify(line), expected, "{line}");
        }
        assert_eq!(lost_carrier("eth0: Lost carrier"), Some("eth0"));
        assert_eq!(lost_carrier("eth0: Gained carrier"), None);
        assert_eq!(stepped_ms("System clock was stepped by 3600.000100 seconds"), Some(3_600_000));
        assert_eq!(stepped_ms("System clock was stepped by -0.5 seconds"), Some(-500));
        assert_eq!(stepped_ms("nothing"), None);
    }
}
