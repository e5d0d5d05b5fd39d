//! What systemd and its siblings say in the journal: entries with a MESSAGE_ID, and lines of the manager without one.
//!
//! They carry what the bus says too, so that a host without a bus has the same facts.
//!
//! Invariants:
//! - [`MESSAGES`] is the one table of ids.
//! - The subject is the unit that the entry is about, never the manager that wrote it.

use super::Detector;
use super::fact::{Fact, FactKind, KeyKind, Subject};
use super::kernel::{lost_carrier, stepped_ms};
use super::seen::{Seen, subject_of, with_path, with_text};
use super::text::{number_after, until};
use super::units::{exit_kind, failure_kinds, is_signal_clean};
use crate::event::fields;

/// How an entry becomes facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The unit entered the failed state.
    UnitFailed,
    /// A start job failed.
    JobFailed,
    /// A process of the unit exited.
    ProcessExited,
    /// A unit was restarted by itself.
    RestartScheduled,
    /// A fact of this kind about the unit.
    Plain(FactKind),
    /// A fact of this kind about the host.
    Host(FactKind),
    /// A process dumped its core.
    Coredump,
    /// The wall clock was set.
    ClockSet,
}

/// One row of [`MESSAGES`].
#[derive(Debug, Clone, Copy)]
pub(super) struct MessageInfo {
    /// The id.
    pub(super) id: u128,
    /// What it means.
    pub(super) meaning: Meaning,
}

const fn row(id: u128, meaning: Meaning) -> MessageInfo {
    MessageInfo { id, meaning }
}

/// The ids that mean something here.
pub(super) const MESSAGES: &[MessageInfo] = &[
    row(0xd9b3_73ed_55a6_4feb_8242_e02d_be79_a49c, Meaning::UnitFailed),
    row(0xbe02_cf68_55d2_428b_a40d_f7e9_d022_f03d, Meaning::JobFailed),
    row(0x98e3_2220_3f7a_4ed2_90d0_9fe0_3c09_fe15, Meaning::ProcessExited),
    row(0x6412_5765_1c1b_4ec9_a862_4d7a_40a9_e1e7, Meaning::Plain(FactKind::SpawnFailed)),
    row(0xfe6f_aa94_e777_4663_a0da_5271_7891_d8ef, Meaning::Plain(FactKind::OomVictim)),
    row(0xd989_611b_15e4_4c9d_bf31_e3c8_1256_e4ed, Meaning::Plain(FactKind::PressureKill)),
    row(0x5eb0_3494_b658_4870_a536_b337_2908_09b3, Meaning::RestartScheduled),
    row(0x39f5_3479_d3a0_45ac_8e11_7862_4823_1fbf, Meaning::Plain(FactKind::UnitStarted)),
    row(0xde5b_426a_63be_47a7_b6ac_3eaa_c82e_2f6f, Meaning::Plain(FactKind::RequestedStop)),
    row(0xfc2e_22bc_6ee6_47b6_b907_29ab_34a2_50b1, Meaning::Coredump),
    row(0xc7a7_8707_9b35_4eaa_a9e7_7b37_1893_cd27, Meaning::ClockSet),
    row(0xc772_d24e_9a88_4cbe_b9ea_1262_5c30_6c01, Meaning::Plain(FactKind::BadConfig)),
    row(0xf27a_3f94_406a_4783_b946_a9bc_849e_9452, Meaning::Plain(FactKind::LogError)),
    row(0x1675_d7f1_7217_4098_b110_8bf8_c7dc_8f5d, Meaning::Host(FactKind::DnsFailure)),
    row(0x9826_8866_d1d5_4a49_9c4e_9892_1d93_bc40, Meaning::Host(FactKind::RequestedStop)),
];

/// The row of an id.
pub(super) fn message_of(id: u128) -> Option<&'static MessageInfo> {
    MESSAGES.iter().find(|row| row.id == id)
}

/// Fields of the journal that only these entries have.
const EXIT_CODE: &str = "EXIT_CODE";
const EXIT_STATUS: &str = "EXIT_STATUS";
const RESTARTS: &str = "N_RESTARTS";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// What the wall clock was ahead of the other by, at the last entry.
    offset_us: Option<i64>,
}

impl Detector for Messages {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let realtime_us = i64::try_from(seen.number("realtime_us")).unwrap_or(0);
        let offset_us = realtime_us - i64::try_from(seen.time_ns() / 1000).unwrap_or(0);
        match message_of(seen.id_slot("message_id")) {
            Some(row) => self.entry(seen, row.meaning, offset_us, out),
            None => line(seen, out),
        }
        if realtime_us > 0 {
            self.offset_us = Some(offset_us);
        }
    }
}

impl Messages {
    fn entry(&self, seen: &Seen<'_>, meaning: Meaning, offset_us: i64, out: &mut Vec<Fact>) {
        match meaning {
            Meaning::UnitFailed => {
                let result = seen.field(fields::RESULT);
                for kind in failure_kinds(&result, "") {
                    out.push(seen.with_message(unit(seen, kind)).with("result", &*result));
                }
            }
            Meaning::JobFailed => {
                let kind = match &*seen.field(fields::JOB_RESULT) {
                    "dependency" => FactKind::DependencyFailed,
                    "timeout" => FactKind::StartTimeout,
                    _ => return,
                };
                out.push(seen.with_message(unit(seen, kind)));
            }
            Meaning::ProcessExited => out.extend(exited(seen)),
            Meaning::RestartScheduled => {
                let restarts = seen.field(RESTARTS).parse().unwrap_or(0);
                if restarts >= super::units::LOOP_RESTARTS {
                    out.push(unit(seen, FactKind::RestartLoop).with("restarts", restarts));
                }
            }
            Meaning::Plain(kind) => out.push(seen.with_message(unit(seen, kind)).with("by", "manager")),
            Meaning::Host(kind) => out.push(seen.with_message(seen.bare(kind, seen.node()))),
            Meaning::Coredump => out.push(coredump(seen)),
            Meaning::ClockSet => {
                let fact = seen.with_message(seen.bare(FactKind::ClockJump, seen.node()));
                let delta_ms = self.offset_us.map(|before| (offset_us - before) / 1000);
                out.push(match delta_ms {
                    Some(delta_ms) => fact.with("delta_ms", delta_ms),
                    None => fact,
                });
            }
        }
    }
}

/// A fact about the unit that the entry is about.
fn unit(seen: &Seen<'_>, kind: FactKind) -> Fact {
    let name = seen.field(fields::UNIT);
    if name.is_empty() {
        return seen.fact(kind);
    }
    let user = seen.field(fields::USER);
    let name = if user.is_empty() { name.into_owned() } else { format!("{user}:{name}") };
    seen.fact_about(kind, Subject::new("unit", name))
}

/// `Main process exited, code=exited, status=1/FAILURE`: only the main process speaks for its unit.
fn exited(seen: &Seen<'_>) -> Option<Fact> {
    let message = seen.field(fields::MESSAGE);
    let status =
        number_after(&seen.field(EXIT_STATUS), "").or_else(|| number_after(&message, "status=")).unwrap_or(0);
    let how = seen.field(EXIT_CODE);
    let how =
        if how.is_empty() { until(&message, "code=", &[',', ' ']).unwrap_or_default().into() } else { how };
    let is_main = message.contains("ain process exited") || message.contains("ontrol process exited");
    if !is_main {
        return None;
    }
    let fact = if how == "exited" {
        let kind = exit_kind(status)?;
        unit(seen, kind).with("exit_code", status).with("status", status)
    } else {
        let signal = signal_number(&seen.field(EXIT_STATUS))
            .or_else(|| signal_number(until(&message, "status=", &['/'])?));
        let signal = signal.unwrap_or(status);
        if is_signal_clean(signal) {
            return None;
        }
        unit(seen, FactKind::ExitFailure).with("signal", signal)
    };
    Some(seen.with_message(fact).with("main", message.contains("ain process exited")))
}

/// The number of a signal that is given by name or number.
fn signal_number(text: &str) -> Option<u64> {
    const NAMES: [(&str, u64); 11] = [
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
        ("TERM", 15),
    ];
    let name = text.trim_start_matches("SIG");
    text.parse().ok().or_else(|| NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number))
}

fn coredump(seen: &Seen<'_>) -> Fact {
    let message = seen.field(fields::MESSAGE);
    // "Process 123 (app) of user 0 dumped core."
    let pid = number_after(&message, "Process ");
    let signal = number_after(&seen.field("COREDUMP_SIGNAL"), "").unwrap_or(0);
    let kind = if signal == 6 { FactKind::Abort } else { FactKind::Crash };
    let mut fact = seen.with_message(unit(seen, kind)).with("core", true);
    if signal > 0 {
        fact = fact.with("signal", signal);
    }
    if let Some(comm) = until(&message, "(", &[')']) {
        fact = fact.with("comm", comm);
    }
    match pid {
        Some(pid) => fact.key(KeyKind::Pid, pid.to_string()).with("pid", pid),
        None => fact,
    }
}

/// Lines of the manager, oomd and the keepers of time and links that have no id.
fn line(seen: &Seen<'_>, out: &mut Vec<Fact>) {
    let identifier = seen.field(fields::IDENTIFIER);
    let message = seen.field(fields::MESSAGE);
    match &*identifier {
        "systemd" => {
            let kind = match () {
                () if message.contains("start operation timed out") => FactKind::StartTimeout,
                () if message.contains("Watchdog timeout (limit") => FactKind::WatchdogTimeout,
                () if message.contains("Start request repeated too quickly") => FactKind::StartLimitHit,
                () if message.contains("' timed out.") && message.contains("State 'stop-") => {
                    FactKind::StopTimeout
                }
                () => return,
            };
            out.push(seen.with_message(unit(seen, kind)));
        }
        "systemd-oomd" => {
            if let Some(path) = until(&message, "Killed ", &[' ']).filter(|path| path.starts_with('/')) {
                let fact = with_path(seen.bare(FactKind::PressureKill, subject_of(path)), path);
                out.push(with_text(fact.with("actor", "oomd"), "text", &message));
            }
        }
        "chronyd" | "ntpd" | "systemd-timesyncd" => {
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

    /// Scenario: the table of message ids.
    /// Guarantees: ids are unique, and each is found.
    #[test]
    fn message_ids_are_unique() {
        for row in MESSAGES {
            assert_eq!(message_of(row.id).map(|found| found.meaning), Some(row.meaning));
            assert_eq!(MESSAGES.iter().filter(|other| other.id == row.id).count(), 1);
        }
        assert!(message_of(0).is_none());
    }

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
}
