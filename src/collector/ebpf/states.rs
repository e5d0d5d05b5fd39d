//! What becomes of each program and probe on the way from the table to the kernel.

use std::collections::BTreeMap;

use super::kernel::Kernel;
use super::options::Options;
use super::probes::{ERRNO, LOAD, PROBES, Probe, Program};
use crate::health::{ProbeHealth, ProbeState};

/// One program's fate; the reason with those that do not run.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Unused,
    Wanted,
    Missing(String),
    Refused(String),
}

/// The fate of every program.
#[derive(Debug)]
pub(super) struct States {
    fates: BTreeMap<&'static str, Fate>,
    /// What a probe that runs cannot see, by its name.
    limits: BTreeMap<&'static str, Vec<&'static str>>,
}

impl States {
    /// Decides by the options and by what the kernel has.
    pub(super) fn plan(options: &Options, kernel: &Kernel) -> Self {
        let mut fates = BTreeMap::new();
        let limits = PROBES.iter().map(|probe| (probe.name, probe.limits(kernel).collect())).collect();
        for probe in PROBES {
            let reason = off(options, probe).or_else(|| probe.lacks(kernel));
            for program in probe.programs {
                fates.insert(program.name, fate(program, reason.clone(), kernel));
            }
        }
        Self { fates, limits }
    }

    /// Every program of the table, needed here or not.
    #[cfg(test)]
    pub(super) fn everything() -> Self {
        let programs = PROBES.iter().flat_map(|probe| probe.programs);
        Self {
            fates: programs.map(|program| (program.name, Fate::Wanted)).collect(),
            limits: BTreeMap::new(),
        }
    }

    /// Whether a program is to be loaded and attached.
    pub(super) fn wants(&self, program: &str) -> bool {
        self.fates.get(program) == Some(&Fate::Wanted)
    }

    /// The programs to attach.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &'static Program> {
        PROBES.iter().flat_map(|probe| probe.programs).filter(|program| self.wants(program.name))
    }

    /// Gives up a program that the kernel refused; `false` when it was not wanted.
    pub(super) fn refuse(&mut self, program: &str, reason: &str) -> bool {
        match self.fates.get_mut(program) {
            Some(fate) if *fate == Fate::Wanted => {
                *fate = Fate::Refused(reason.to_owned());
                true
            }
            _ => false,
        }
    }

    /// The health of every probe, once all that is wanted runs.
    pub(super) fn health(&self) -> BTreeMap<String, ProbeHealth> {
        PROBES.iter().map(|probe| (probe.name.to_owned(), self.probe_health(probe))).collect()
    }

    fn probe_health(&self, probe: &Probe) -> ProbeHealth {
        let mut reasons: Vec<String> = Vec::new();
        let (mut runs, mut refused) = (false, false);
        for program in probe.programs {
            let reason = match self.fates.get(program.name) {
                Some(Fate::Wanted) => {
                    runs = true;
                    continue;
                }
                Some(Fate::Missing(reason)) => reason.clone(),
                Some(Fate::Refused(reason)) => {
                    refused = true;
                    format!("{}: {reason}", program.name)
                }
                Some(Fate::Unused) | None => continue,
            };
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        if runs {
            reasons.extend(self.limits.get(probe.name).into_iter().flatten().map(|&limit| limit.to_owned()));
        }
        let state = match (runs, refused) {
            (true, _) => ProbeState::Attached,
            (false, true) => ProbeState::Refused,
            (false, false) => ProbeState::Missing,
        };
        let reason = reasons.join("; ");
        let reason = if runs && !reason.is_empty() { format!("in part: {reason}") } else { reason };
        ProbeHealth { state, reason }
    }
}

fn fate(program: &Program, reason: Option<String>, kernel: &Kernel) -> Fate {
    match reason {
        Some(reason) => Fate::Missing(reason),
        None if !program.is_used(kernel) => Fate::Unused,
        None => program.lacks(kernel).map_or(Fate::Wanted, Fate::Missing),
    }
}

fn off(options: &Options, probe: &Probe) -> Option<String> {
    if options.probes_off.iter().any(|off| off == probe.name) {
        return Some("switched off by probes_off".to_owned());
    }
    if probe.name == ERRNO && options.filters.errno_budget == 0 {
        return Some("switched off by filter_errno_budget".to_owned());
    }
    (probe.name == LOAD && !options.load_probe).then(|| "off: only for measuring".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(fate: &Fate) -> States {
        let programs = PROBES.iter().flat_map(|probe| probe.programs);
        let fates = programs.map(|program| (program.name, fate.clone())).collect();
        States { fates, limits: BTreeMap::from([("net", vec!["no resets"])]) }
    }

    /// Scenario: one of three programs is refused, then the other two.
    /// Guarantees: the probe runs in part and says without which; with none left it is refused; a program is
    /// refused once.
    #[test]
    fn refused_programs_show() {
        let mut states = all(&Fate::Wanted);
        assert_eq!(
            states.health()["process"],
            ProbeHealth { state: ProbeState::Attached, reason: String::new() }
        );
        assert!(states.refuse("process_exit", "bad access"));
        assert!(!states.refuse("process_exit", "again"), "or a load could be retried for ever");
        assert!(!states.refuse("unknown", "never wanted"));
        let health = states.health();
        assert_eq!(health["process"].state, ProbeState::Attached);
        assert_eq!(health["process"].reason, "in part: process_exit: bad access");
        assert!(states.refuse("process_fork", "x") && states.refuse("process_exec", "y"));
        assert_eq!(states.health()["process"].state, ProbeState::Refused);
        assert!(states.wanted().all(|program| !program.name.starts_with("process")));
    }

    /// Scenario: a probe whose kernel shows it less than others; and the same with nothing attached.
    /// Guarantees: what it cannot see stands with the probe that runs, and only there.
    #[test]
    fn limits_show_where_a_probe_runs() {
        let health = all(&Fate::Wanted).health();
        assert_eq!(
            health["net"],
            ProbeHealth { state: ProbeState::Attached, reason: "in part: no resets".into() }
        );
        assert_eq!(all(&Fate::Missing("off".into())).health()["net"].reason, "off");
    }

    /// Scenario: every program lacks the same thing.
    /// Guarantees: the probe is missing and the reason stands once.
    #[test]
    fn missing_reason_stands_once() {
        let health = all(&Fate::Missing("no BTF".into())).health();
        assert_eq!(health["process"], ProbeHealth { state: ProbeState::Missing, reason: "no BTF".into() });
    }
}
