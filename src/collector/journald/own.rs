//! The agent's own entries: what it logs must not come back to it.
//!
//! Invariants:
//! - Only entries that this agent, or an earlier start of the same service, wrote are its own. What the manager
//!   says about its unit is not.

use super::said::{Name, Said};
use crate::entity::cgroup;

/// Who this agent is, for the journal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Own {
    pid: u64,
    boot_id: [u8; 16],
    /// The unit whose main process this is; empty if it is none.
    unit: String,
    invocation: Option<u128>,
}

impl Own {
    /// This process.
    pub(super) fn this(boot_id: [u8; 16]) -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        let paths = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::new(
            std::process::id(),
            boot_id,
            [variable("SYSTEMD_EXEC_PID"), variable("INVOCATION_ID")],
            &paths,
        )
    }

    /// The manager's variables are inherited by everything that a service starts: only the process that they name is
    /// the service.
    fn new(pid: u32, boot_id: [u8; 16], [main_pid, invocation]: [String; 2], cgroups: &str) -> Self {
        let mut own = Self { pid: pid.into(), boot_id, ..Self::default() };
        if main_pid.parse() == Ok(pid) {
            own.invocation = u128::from_str_radix(&invocation, 16).ok();
            let paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
            let units = paths.map(|path| cgroup::parse(path).unit);
            own.unit = units.filter(|unit| unit.ends_with(".service")).max().unwrap_or_default().to_owned();
        }
        own
    }

    /// Whether the entry was written by this agent.
    pub(super) fn wrote(&self, said: &Said<'_>, boot_id: &[u8; 16]) -> bool {
        let same_process = said.number(Name::Pid) == Some(self.pid) && *boot_id == self.boot_id;
        let same_run = self.invocation.is_some() && said.id(Name::SystemdInvocationId) == self.invocation;
        let same_unit = !self.unit.is_empty() && said.text(Name::SystemdUnit) == self.unit;
        same_process || same_run || same_unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVOCATION: &str = "0123456789abcdef0123456789abcdef";

    fn own(main_pid: &str) -> Own {
        let variables = [main_pid.to_owned(), INVOCATION.to_owned()];
        Own::new(
            77,
            [1; 16],
            variables,
            "1:name=systemd:/system.slice/tapio.service\n0::/system.slice/tapio.service\n",
        )
    }

    /// Scenario: the agent as a service reads entries by itself, an earlier run, its child, the manager and others.
    /// Guarantees: its own are known, what the manager says about its unit is not among them.
    #[test]
    fn a_service_knows_its_own() {
        let own = own("77");
        let wrote = |fields: &[(&'static str, &'static str)], boot| own.wrote(&Said::of(fields), &[boot; 16]);
        assert!(wrote(&[("_PID", "77")], 1));
        assert!(!wrote(&[("_PID", "77")], 2));
        assert!(wrote(&[("_PID", "9"), ("_SYSTEMD_UNIT", "tapio.service")], 2));
        assert!(wrote(&[("_PID", "9"), ("_SYSTEMD_INVOCATION_ID", INVOCATION)], 1));
        assert!(!wrote(&[("_PID", "1"), ("_SYSTEMD_UNIT", "init.scope"), ("UNIT", "tapio.service")], 1));
        assert!(!wrote(&[("UNIT", "tapio.service"), ("INVOCATION_ID", INVOCATION)], 1));
        assert!(!wrote(&[], 1));
    }

    /// Scenario: the agent is started by hand, within another service.
    /// Guarantees: only its own process is its own; the other service's entries are read.
    #[test]
    fn by_hand_it_is_only_its_process() {
        for main_pid in ["", "5"] {
            let own = own(main_pid);
            let service = Said::of(&[("_PID", "5"), ("_SYSTEMD_UNIT", "tapio.service")]);
            assert!(!own.wrote(&service, &[1; 16]));
            assert!(own.wrote(&Said::of(&[("_PID", "77")]), &[1; 16]));
        }
    }
}
