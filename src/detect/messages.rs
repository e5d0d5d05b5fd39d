//! What systemd and its siblings say in the journal: entries whose meaning is known by their MESSAGE_ID, and lines of
//! the manager that have none.
//!
//! They carry what the bus says too, so that a host without a bus has the same facts.
//!
//! Invariants:
//! - [`MEANINGS`] is the one table of what becomes of a meaning; who may say it is the journal's reader's business.
//! - The subject is the unit that the entry is about, never the manager that wrote it.

use super::Detector;
use super::fact::{Fact, FactKind, KeyKind, Subject};
use super::kernel::{lost_carrier, stepped_ms};
use super::seen::{Seen, subject_of, with_path, with_text};
use super::text::until;
use super::units::{LOOP_RESTARTS, exit_kind, failure_kinds, is_signal_clean};
use crate::event::fields;

/// How an entry becomes facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Becomes {
    /// A failed unit, and what its result says.
    UnitFailed,
    /// What the result of a start job says.
    JobFailed,
    /// The end of a main process.
    ProcessExited,
    /// A loop, after enough restarts.
    Restart,
    /// A fact of this kind about the unit.
    Unit(FactKind),
    /// A fact of this kind about the host.
    Host(FactKind),
    /// A crash or abort, with its core.
    Coredump,
    /// A jump of the clock.
    ClockSet,
}

/// What becomes of entries with a meaning.
const MEANINGS: &[(&str, Becomes)] = &[
    ("unit_failed", Becomes::UnitFailed),
    ("start_job_failed", Becomes::JobFailed),
    ("process_exited", Becomes::ProcessExited),
    ("restart_scheduled", Becomes::Restart),
    ("spawn_failed", Becomes::Unit(FactKind::SpawnFailed)),
    ("unit_out_of_memory", Becomes::Unit(FactKind::OomVictim)),
    ("unit_killed_by_oomd", Becomes::Unit(FactKind::PressureKill)),
    ("unit_started", Becomes::Unit(FactKind::UnitStarted)),
    ("unit_stopping", Becomes::Unit(FactKind::RequestedStop)),
    ("bad_unit_file", Becomes::Unit(FactKind::BadConfig)),
    ("ordering_cycle", Becomes::Unit(FactKind::LogError)),
    ("core_dumped", Becomes::Coredump),
    ("core_truncated", Becomes::Coredump),
    ("clock_changed", Becomes::ClockSet),
    ("dnssec_failure", Becomes::Host(FactKind::DnsFailure)),
    ("shutdown", Becomes::Host(FactKind::RequestedStop)),
];

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Messages {
    /// What the wall clock was ahead of the other by, at the last entry, microseconds.
    offset_us: Option<i64>,
}

impl Detector for Messages {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let realtime_us = i64::try_from(seen.number("realtime_us")).unwrap_or(0);
        let offset_us = realtime_us - i64::try_from(seen.time_ns() / 1000).unwrap_or(0);
        let meaning = seen.field(fields::MEANING);
        match MEANINGS.iter().find(|(name, _)| *name == meaning) {
            Some((_, Becomes::ClockSet)) => out.push(self.clock(seen, offset_us)),
            Some((_, becomes)) => entry(seen, *becomes, out),
            None if meaning.is_empty() => line(seen, out),
            None => {}
        }
        if realtime_us > 0 {
            self.offset_us = Some(offset_us);
        }
    }
}

impl Messages {
    fn clock(&self, seen: &Seen<'_>, offset_us: i64) -> Fact {
        let fact = seen.with_message(seen.bare(FactKind::ClockJump, seen.node()));
        match self.offset_us {
            Some(before) => fact.with("delta_ms", (offset_us - before) / 1000),
            None => fact,
        }
    }
}

fn entry(seen: &Seen<'_>, becomes: Becomes, out: &mut Vec<Fact>) {
    match becomes {
        Becomes::UnitFailed => {
            let result = seen.field(fields::UNIT_RESULT);
            for kind in failure_kinds(&result, None) {
                out.push(with_text(seen.with_message(unit(seen, kind)), "result", &result));
            }
        }
        Becomes::JobFailed => {
            let kind = match &*seen.field(fields::JOB_RESULT) {
                "dependency" => FactKind::DependencyFailed,
                "timeout" => FactKind::StartTimeout,
                _ => return,
            };
            out.push(seen.with_message(unit(seen, kind)));
        }
        Becomes::ProcessExited => out.extend(exited(seen)),
        Becomes::Restart => {
            let restarts = seen.field(fields::N_RESTARTS).parse().unwrap_or(0);
            if restarts >= LOOP_RESTARTS {
                out.push(unit(seen, FactKind::RestartLoop).with("restarts", restarts));
            }
        }
        // The kernel counts kills in a cgroup and in all above it: the manager says of a slice what it says of a unit in it.
        Becomes::Unit(FactKind::OomVictim | FactKind::PressureKill)
            if seen.field(fields::UNIT).ends_with(".slice") => {}
        Becomes::Unit(kind) => {
            let fact = seen.with_message(unit(seen, kind)).with("by", "manager");
            out.push(with_text(fact, "executable", &seen.field(fields::EXECUTABLE)));
        }
        Becomes::Host(kind) => out.push(seen.with_message(seen.bare(kind, seen.node()))),
        Becomes::Coredump => out.push(coredump(seen)),
        Becomes::ClockSet => {}
    }
}

/// A fact about the unit that the entry is about.
fn unit(seen: &Seen<'_>, kind: FactKind) -> Fact {
    let name = seen.field(fields::UNIT);
    if name.is_empty() {
        return seen.fact(kind);
    }
    if super::names::container_of_unit(&name).is_some() {
        return seen.fact(kind);
    }
    let user = seen.field(fields::USER);
    let name = if user.is_empty() { name.into_owned() } else { format!("{user}:{name}") };
    seen.fact_about(kind, Subject::new("unit", name))
}

/// `Main process exited, code=exited, status=1/FAILURE`: only what runs the unit speaks for it.
fn exited(seen: &Seen<'_>) -> Option<Fact> {
    let message = seen.field(fields::MESSAGE);
    let command = seen.field(fields::COMMAND);
    let is_main = message.contains("Main process exited") || command == "ExecStart";
    if !is_main && !command.starts_with("ExecStartPre") && !message.contains("ontrol process exited") {
        return None;
    }
    let (how, status) = (seen.field(fields::EXIT_CODE), seen.field(fields::EXIT_STATUS));
    let fact = if how == "exited" {
        let status = status.parse().ok()?;
        let kind = exit_kind(status)?;
        let fact = unit(seen, kind).with("exit_code", status);
        if kind == FactKind::SpawnFailed { fact.with("status", status) } else { fact }
    } else {
        let signal = signal_number(&status)?;
        if is_signal_clean(signal) {
            return None;
        }
        unit(seen, FactKind::ExitFailure).with("signal", signal).with("core", how == "dumped")
    };
    Some(seen.with_message(fact).with("main", is_main))
}

/// The number of a signal that is given by name or number.
fn signal_number(text: &str) -> Option<u64> {
    const NAMES: [(&str, u64); 12] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("TRAP", 5),
        ("ABRT", 6),
        ("BUS", 7),
        ("FPE", 8),
        ("KILL", 9),
        ("SEGV", 11),
        ("PIPE", 13),
        ("TERM", 15),
    ];
    let name = text.trim_start_matches("SIG");
    text.parse().ok().or_else(|| NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number))
}

fn coredump(seen: &Seen<'_>) -> Fact {
    let signal = signal_number(&seen.field(fields::COREDUMP_SIGNAL)).unwrap_or(0);
    let kind = if signal == 6 { FactKind::Abort } else { FactKind::Crash };
    let fact = seen.with_message(unit(seen, kind)).with("core", true).with("actor", "self");
    let fact = if signal > 0 { fact.with("signal", signal) } else { fact };
    let pid = seen.field(fields::COREDUMP_PID);
    let fact = with_text(fact.key(KeyKind::Pid, &*pid), "comm", &seen.field(fields::COREDUMP_COMM));
    match pid.parse::<u64>() {
        Ok(pid) => fact.with("pid", pid),
        Err(_) => fact,
    }
}

/// What a line of the manager without a MESSAGE_ID says of its unit.
fn manager_line(message: &str) -> Option<FactKind> {
    let has = |words: &str| message.contains(words);
    match () {
        () if has("start operation timed out") || has("State 'start") && has("' timed out.") => {
            Some(FactKind::StartTimeout)
        }
        () if has("Watchdog timeout (limit") => Some(FactKind::WatchdogTimeout),
        () if has("Start request repeated too quickly") => Some(FactKind::StartLimitHit),
        () if has("State 'stop-") && has("' timed out.") => Some(FactKind::StopTimeout),
        () => None,
    }
}

/// Lines of the manager, oomd and the keepers of time and links.
fn line(seen: &Seen<'_>, out: &mut Vec<Fact>) {
    let message = seen.field(fields::MESSAGE);
    match &*seen.field(fields::IDENTIFIER) {
        "systemd" => {
            out.extend(
                manager_line(&message).map(|kind| seen.with_message(unit(seen, kind)).with("by", "manager")),
            );
        }
        "systemd-oomd" => {
            if let Some(path) = until(&message, "Killed ", &[' ']).filter(|path| path.starts_with('/')) {
                let fact = with_path(seen.bare(FactKind::PressureKill, subject_of(path)), path);
                out.push(with_text(fact.with("sender", "systemd-oomd"), "text", &message));
            }
        }
        "chronyd" | "ntpd" => {
            if let Some(delta_ms) = stepped_ms(&message) {
                let fact = seen.bare(FactKind::ClockJump, seen.node()).with("delta_ms", delta_ms);
                out.push(with_text(fact, "text", &message));
            }
        }
        "systemd-networkd" | "NetworkManager" => {
            if let Some(link) = lost_carrier(&message) {
                let fact = seen.bare(FactKind::NetworkUnreachable, Subject::new("link", link));
                out.push(with_text(fact.with("link", link), "text", &message));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: signals by name and number.
    /// Guarantees: both read.
    #[test]
    fn signals_are_read() {
        for (text, expected) in
            [("KILL", Some(9)), ("SIGSEGV", Some(11)), ("15", Some(15)), ("", None), ("x", None)]
        {
            assert_eq!(signal_number(text), expected, "{text}");
        }
    }

    /// Scenario: lines of the manager that have no id.
    /// Guarantees: each is its kind; others are none.
    #[test]
    fn lines_of_the_manager() {
        for (line, expected) in [
            ("a.service: start operation timed out. Terminating.", Some(FactKind::StartTimeout)),
            ("a.service: Watchdog timeout (limit 3s)!", Some(FactKind::WatchdogTimeout)),
            ("a.service: Start request repeated too quickly.", Some(FactKind::StartLimitHit)),
            ("a.service: State 'stop-sigterm' timed out. Killing.", Some(FactKind::StopTimeout)),
            ("a.service: Deactivated successfully.", None),
        ] {
            assert_eq!(manager_line(line), expected, "{line}");
        }
    }
}
