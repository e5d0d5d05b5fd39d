//! What the kernel's log says, beyond memory and disks, and the tasks that it sees hang.
//!
//! Invariants:
//! - Only entries whose meaning is known, which the journal's reader gives to nobody but the kernel.

use super::Detector;
use super::bounded::{Bounded, Throttle};
use super::fact::{Fact, FactKind, KeyKind, Subject};
use super::seen::{Seen, subject_of, with_path, with_text};
use crate::event::{Kind, fields};

/// Lines told apart, at most.
const LINES_MAX: usize = 1024;

/// A line of one kind and subject is told again after this time.
const AGAIN_NS: u64 = 30_000_000_000;

/// A signal and a line this close are of one fault.
const SAME_FAULT_NS: u64 = 5_000_000_000;

/// What a line with this meaning says.
pub(super) fn classify(meaning: &str) -> Option<FactKind> {
    match meaning {
        "segfault" | "trap" => Some(FactKind::Crash),
        "fork_refused" => Some(FactKind::PidsLimitHit),
        "conntrack_full" => Some(FactKind::ConntrackFull),
        "hung_task" | "soft_lockup" => Some(FactKind::Hung),
        "network_watchdog" => Some(FactKind::NetworkUnreachable),
        "syn_flooding" | "machine_check" => Some(FactKind::LogError),
        _ => None,
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    told: Throttle<(FactKind, String)>,
    /// By process id: when a fault of it was seen, and what it says of the owner.
    faults: Bounded<String, (u64, Fact)>,
}

impl Default for Kernel {
    fn default() -> Self {
        Self { told: Throttle::new(LINES_MAX, AGAIN_NS), faults: Bounded::new(LINES_MAX) }
    }
}

impl Detector for Kernel {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        if seen.kind() == Kind::Signal {
            let fault = (seen.time_ns(), seen.fact(FactKind::Crash));
            self.faults.insert(seen.pid().to_string(), fault);
            return;
        }
        let fact = if seen.kind() == Kind::ProcessHang {
            let fact = seen.fact(FactKind::Hung).with("comm", seen.chars("comm"));
            fact.with("pid", u64::from(seen.pid()))
        } else {
            let meaning = seen.field(fields::MEANING);
            let Some(kind) = classify(&meaning) else { return };
            let fact = self.of_owner(fact(seen, kind), seen.time_ns());
            with_text(seen.with_message(fact), "reason", &meaning)
        };
        if let Some(count) = self.told.pass((fact.kind, fact.subject.to_string()), seen.time_ns()) {
            out.push(if count > 1 { fact.with("count", count) } else { fact });
        }
    }

    fn evicted(&self) -> u64 {
        self.told.evicted() + self.faults.evicted()
    }
}

impl Kernel {
    /// The log names a process; its signal, just before, says whose it is.
    fn of_owner(&self, mut fact: Fact, now_ns: u64) -> Fact {
        let pid = fact.keys.iter().find(|key| key.kind == KeyKind::Pid).map(|key| key.value.clone());
        let Some((_, of_signal)) = pid
            .filter(|_| fact.kind == FactKind::Crash)
            .and_then(|pid| self.faults.get(&pid))
            .filter(|(at, _)| now_ns.abs_diff(*at) < SAME_FAULT_NS)
        else {
            return fact;
        };
        fact.subject.clone_from(&of_signal.subject);
        for key in &of_signal.keys {
            fact = fact.key(key.kind, &*key.value);
        }
        fact
    }
}

fn fact(seen: &Seen<'_>, kind: FactKind) -> Fact {
    let (comm, pid) = (seen.field(fields::COMM), seen.field(fields::PID));
    let process = || Subject::new("process", format!("{comm}[{pid}]"));
    let with_process = |fact: Fact| {
        let fact = with_text(fact.key(KeyKind::Pid, &*pid), "comm", &comm);
        match pid.parse::<u64>() {
            Ok(pid) => fact.with("pid", pid),
            Err(_) => fact,
        }
    };
    match kind {
        FactKind::Crash => {
            let fact = with_process(seen.bare(kind, process())).with("actor", "self");
            let fact = with_text(fact, "library", &seen.field(fields::LIBRARY));
            if seen.field(fields::MEANING) == "segfault" { fact.with("signal", 11_u64) } else { fact }
        }
        FactKind::Hung if !pid.is_empty() && seen.field(fields::MEANING) == "hung_task" => {
            with_process(seen.bare(kind, process()))
        }
        FactKind::PidsLimitHit => {
            let path = seen.kernel_path(fields::CGROUP);
            let fact = with_path(seen.fact_about(kind, subject_of(&path)), &path);
            with_text(fact, "path", &path)
        }
        FactKind::NetworkUnreachable => {
            let link = seen.field(fields::INTERFACE);
            seen.bare(kind, Subject::new("link", &*link)).with("link", &*link)
        }
        FactKind::LogError if !seen.field(fields::PORT).is_empty() => {
            let end_point = format!("*:{}", seen.field(fields::PORT));
            seen.bare(kind, Subject::new("port", end_point.clone())).key(KeyKind::Socket, end_point)
        }
        _ => seen.bare(kind, seen.node()),
    }
}

/// What `systemd-networkd` and NetworkManager say when a link loses its carrier, as `NAME: Lost carrier`.
pub(super) fn lost_carrier(message: &str) -> Option<&str> {
    let (link, what) = message.split_once(": ")?;
    let lost = what.starts_with("Lost carrier") || what.starts_with("Link DOWN");
    (lost && !link.contains(' ')).then_some(link)
}

/// How many milliseconds the clock was stepped by, in the words of chrony.
pub(super) fn stepped_ms(message: &str) -> Option<i64> {
    let by = super::text::until(message, "stepped by ", &[' ', 's'])?;
    let seconds: f64 = by.trim_start_matches('+').parse().ok()?;
    let size = std::time::Duration::try_from_secs_f64(seconds.abs()).ok()?;
    let size = i64::try_from(size.as_millis()).ok()?;
    Some(if seconds < 0.0 { -size } else { size })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: what links and clocks say, and what only looks like it.
    /// Guarantees: the link, and the step with its sign.
    #[test]
    fn links_and_clocks() {
        assert_eq!(lost_carrier("eth0: Lost carrier"), Some("eth0"));
        assert_eq!(lost_carrier("eth0: Gained carrier"), None);
        assert_eq!(stepped_ms("System clock was stepped by 3600.000100 seconds"), Some(3_600_000));
        assert_eq!(stepped_ms("System clock was stepped by -0.5 seconds"), Some(-500));
        assert_eq!(stepped_ms("nothing"), None);
    }
}
