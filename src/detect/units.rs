//! Units of systemd as the bus shows them: states, results, jobs, and the manager itself.
//!
//! Invariants:
//! - A stop job says that somebody wanted it; the restart job of a unit that restarts by itself does not.
//! - `start-limit-hit` is where a story ends: the result before it says how it began.

use super::Detector;
use super::bounded::Bounded;
use super::fact::{Fact, FactKind};
use super::seen::{Seen, with_text};
use crate::event::{Kind, fields};

/// Units whose state is remembered, at most.
const UNITS_MAX: usize = 4096;

/// Automatic restarts within [`LOOP_NS`] that are a loop.
pub(super) const LOOP_RESTARTS: u64 = 3;
const LOOP_NS: u64 = 600_000_000_000;

/// Exit statuses that systemd itself gives to a process that it could not execute.
const SPAWN_STATUSES: std::ops::RangeInclusive<u64> = 200..=245;

/// `CLD_EXITED`, `CLD_KILLED`, `CLD_DUMPED`.
const EXITED: u64 = 1;
const KILLED: u64 = 2;
const DUMPED: u64 = 3;

/// The units that a whole node depends on, and the kind that says that one is down.
const PILLARS: [(&str, FactKind); 6] = [
    ("kubelet.service", FactKind::KubeletDown),
    ("k3s.service", FactKind::KubeletDown),
    ("containerd.service", FactKind::RuntimeDown),
    ("crio.service", FactKind::RuntimeDown),
    ("cri-o.service", FactKind::RuntimeDown),
    ("docker.service", FactKind::RuntimeDown),
];

/// What the failed state with this result is, and which wait was in vain, where that is known.
pub(super) fn failure_kinds(result: &str, waited: Option<FactKind>) -> Vec<FactKind> {
    let mut kinds = vec![FactKind::UnitFailed];
    match result {
        "start-limit-hit" => kinds.push(FactKind::StartLimitHit),
        "watchdog" => kinds.push(FactKind::WatchdogTimeout),
        "timeout" => kinds.extend(waited),
        _ => {}
    }
    kinds
}

/// Which wait was in vain when the result became `timeout`, by the states before and behind: a unit that did not start
/// in time is stopped, too, and only what it did before tells it from one that did not stop.
fn waited(before: &str, behind: &str) -> Option<FactKind> {
    let stops = |state: &str| state.starts_with("stop") || state.starts_with("final");
    match before {
        "" => None,
        before if stops(before) => Some(FactKind::StopTimeout),
        // The state between was too short to be seen.
        "running" | "exited" | "mounted" => {
            matches!(behind, "stop-sigkill" | "final-sigterm" | "final-sigkill")
                .then_some(FactKind::StopTimeout)
        }
        _ => Some(FactKind::StartTimeout),
    }
}

/// What an exit status of a main process is.
pub(super) fn exit_kind(status: u64) -> Option<FactKind> {
    match status {
        0 => None,
        status if SPAWN_STATUSES.contains(&status) => Some(FactKind::SpawnFailed),
        _ => Some(FactKind::ExitFailure),
    }
}

/// Signals that systemd counts as a clean end.
pub(super) fn is_signal_clean(signal: u64) -> bool {
    matches!(signal, 0 | 1 | 2 | 13 | 15)
}

/// What is remembered of a unit.
#[derive(Debug, Clone, Default)]
struct Unit {
    sub_state: String,
    result: String,
    /// What it did when it ran out of time.
    waited: Option<FactKind>,
    /// It restarts by itself, as far as its last state says.
    restarting: bool,
    first_restart: Option<(u64, Fact)>,
    restarts_then: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Units {
    units: Bounded<String, Unit>,
}

impl Default for Units {
    fn default() -> Self {
        Self { units: Bounded::new(UNITS_MAX) }
    }
}

impl Detector for Units {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        match seen.kind() {
            Kind::UnitState => self.state(seen, out),
            Kind::UnitJob => self.job(seen, out),
            _ => {}
        }
    }

    fn evicted(&self) -> u64 {
        self.units.evicted()
    }
}

impl Units {
    fn state(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let (active, sub) = (seen.field(fields::ACTIVE_STATE), seen.field(fields::SUB_STATE));
        let (before, result) = (seen.field(fields::ACTIVE_STATE_BEFORE), seen.field(fields::RESULT));
        let name = seen.unit_name();
        let unit = self.units.entry(name.clone(), Unit::default);
        if result == "timeout" && unit.result != "timeout" {
            unit.waited = waited(&unit.sub_state, &sub);
        }
        unit.result = result.clone().into_owned();
        let waited = unit.waited;
        let restarting = sub.contains("auto-restart");
        let snapshot = seen.number("snapshot") == 1;
        let failed = active == "failed" && (before != "failed" || snapshot);
        if failed || (restarting && result != "success") {
            out.extend(end_of_main(seen));
        }
        if failed {
            for kind in failure_kinds(&result, waited) {
                out.push(detailed(seen, kind));
            }
            if let Some((_, kind)) = PILLARS.iter().find(|(pillar, _)| *pillar == name) {
                let role = if *kind == FactKind::KubeletDown { "kubelet" } else { "runtime" };
                out.push(detailed(seen, *kind).with("role", role));
            }
        }
        if restarting {
            self.restart(seen, name.clone(), out);
        }
        if active == "active" && before != "active" && !snapshot {
            out.push(detailed(seen, FactKind::UnitStarted));
        }
        let unit = self.units.entry(name, Unit::default);
        unit.sub_state = sub.into_owned();
        unit.restarting = restarting || (failed && result != "start-limit-hit");
    }

    /// Counts automatic restarts; the first one of a loop names it.
    fn restart(&mut self, seen: &Seen<'_>, name: String, out: &mut Vec<Fact>) {
        let (now, restarts) = (seen.time_ns(), seen.number("restarts"));
        let unit = self.units.entry(name, Unit::default);
        let recent = unit.first_restart.take().filter(|(since, _)| now < since.saturating_add(LOOP_NS));
        let (since, fact) = match recent {
            Some((since, fact)) => (since, fact.event(seen.id)),
            None => {
                unit.restarts_then = restarts;
                (now, detailed(seen, FactKind::RestartLoop))
            }
        };
        let count = restarts.saturating_sub(unit.restarts_then) + 1;
        if count >= LOOP_RESTARTS {
            let mut told = fact.clone().with("restarts", restarts).with("count", count);
            told.until_ns = now;
            told.detail.insert("interval_s", (now.saturating_sub(since) / 1_000_000_000).into());
            out.push(told);
        }
        unit.first_restart = Some((since, fact));
    }

    fn job(&self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let kind = seen.field(fields::JOB_TYPE);
        if seen.number("finished") == 1 {
            let fact = match &*seen.field(fields::JOB_RESULT) {
                "dependency" => FactKind::DependencyFailed,
                "timeout" if kind == "stop" => FactKind::StopTimeout,
                "timeout" => FactKind::StartTimeout,
                _ => return,
            };
            out.push(with_text(seen.fact(fact), "result", &seen.field(fields::JOB_RESULT)));
            return;
        }
        let restarting = self.units.get(&seen.unit_name()).is_some_and(|unit| unit.restarting);
        if kind == "stop" || (matches!(&*kind, "restart" | "try-restart") && !restarting) {
            out.push(with_text(seen.fact(FactKind::RequestedStop), "reason", &kind).with("by", "job"));
        }
    }
}

/// A fact with what the bus says of the last run.
fn detailed(seen: &Seen<'_>, kind: FactKind) -> Fact {
    let mut fact = seen.fact(kind);
    for (name, field) in
        [("result", fields::RESULT), ("result_before", fields::RESULT_BEFORE), ("text", fields::STATUS_TEXT)]
    {
        fact = with_text(fact, name, &seen.field(field));
    }
    let restarts = seen.number("restarts");
    if restarts > 0 {
        fact = fact.with("restarts", restarts);
    }
    if seen.number("snapshot") == 1 { fact.with("snapshot", true) } else { fact }
}

/// How the main process ended, as the manager saw it.
fn end_of_main(seen: &Seen<'_>) -> Option<Fact> {
    let (code, status) = (seen.number("exec_code"), seen.number("exec_status"));
    let result = seen.field(fields::RESULT);
    if matches!(&*result, "start-limit-hit" | "success" | "") {
        return None;
    }
    let fact = match code {
        EXITED => {
            let kind = exit_kind(status)?;
            let fact = detailed(seen, kind).with("exit_code", status);
            if kind == FactKind::SpawnFailed { fact.with("status", status) } else { fact }
        }
        KILLED | DUMPED if !is_signal_clean(status) => {
            detailed(seen, FactKind::ExitFailure).with("signal", status).with("core", code == DUMPED)
        }
        _ => return None,
    };
    let pid = seen.number("main_pid");
    let fact = if pid > 0 { fact.key(super::KeyKind::Pid, pid.to_string()).with("pid", pid) } else { fact };
    Some(fact.with("main", true))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the results of systemd, in the states that they are found in.
    /// Guarantees: each failure is one of its unit, and what else it is.
    #[test]
    fn results_are_read() {
        for (result, waited, expected) in [
            ("exit-code", None, None),
            ("oom-kill", None, None),
            ("start-limit-hit", None, Some(FactKind::StartLimitHit)),
            ("watchdog", None, Some(FactKind::WatchdogTimeout)),
            ("timeout", Some(FactKind::StartTimeout), Some(FactKind::StartTimeout)),
            ("timeout", None, None),
            ("exit-code", Some(FactKind::StartTimeout), None),
        ] {
            let kinds = failure_kinds(result, waited);
            assert_eq!(kinds.first(), Some(&FactKind::UnitFailed));
            assert_eq!(kinds.get(1).copied(), expected, "{result} {waited:?}");
        }
        for (before, behind, expected) in [
            ("start", "stop-sigterm", Some(FactKind::StartTimeout)),
            ("start-pre", "failed", Some(FactKind::StartTimeout)),
            ("mounting", "failed", Some(FactKind::StartTimeout)),
            ("stop-sigterm", "stop-sigkill", Some(FactKind::StopTimeout)),
            ("running", "stop-sigkill", Some(FactKind::StopTimeout)),
            ("running", "stop-sigterm", None),
            ("", "failed", None),
        ] {
            assert_eq!(waited(before, behind), expected, "{before} {behind}");
        }
        assert_eq!(exit_kind(0), None);
        assert_eq!(exit_kind(1), Some(FactKind::ExitFailure));
        assert_eq!(exit_kind(203), Some(FactKind::SpawnFailed));
        assert_eq!(exit_kind(255), Some(FactKind::ExitFailure));
    }
}
