//! What must come of each script, as a table.
//!
//! Invariants:
//! - A row names all incidents of its script: one more is as wrong as one less.

use tapio::detect::Subject;
use tapio::explain::Incident;

/// A row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Story {
    /// Its number in the list of failure stories; N for silent controls, E for exact ones.
    pub(crate) id: &'static str,
    /// The script, with its arguments.
    pub(crate) script: &'static str,
    /// `kind of type name` of each root; none for what is no incident.
    pub(crate) roots: &'static [&'static str],
    /// `kind type name` of facts on one way from the first root, the root first; others may lie between.
    pub(crate) way: &'static [&'static str],
    /// More that the first incident must say.
    pub(crate) says: &'static [Says],
    /// More flags of the agent.
    pub(crate) flags: &'static [&'static str],
    /// Whether it happens before the agent starts.
    pub(crate) before: bool,
    /// Whether what it needs is in the recording: what the kernel's rings lost, only the ledger has.
    pub(crate) recorded: bool,
}

/// What an incident must say besides.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Says {
    /// Who killed.
    KilledBy(&'static str),
    /// What decided.
    Decided(&'static str),
    /// Who suffers: `type name`.
    Affected(&'static str),
    /// How bad it is.
    Severity(&'static str),
    /// What the sentence on the root contains.
    Summary(&'static str),
}

use Says::{Affected, Decided, KilledBy, Severity, Summary};

const fn told(
    id: &'static str,
    script: &'static str,
    roots: &'static [&'static str],
    way: &'static [&'static str],
) -> Story {
    Story { id, script, roots, way, says: &[], flags: &[], before: false, recorded: true }
}

const fn silent(id: &'static str, script: &'static str) -> Story {
    told(id, script, &[], &[])
}

impl Story {
    const fn says(self, says: &'static [Says]) -> Self {
        Self { says, ..self }
    }

    const fn flags(self, flags: &'static [&'static str]) -> Self {
        Self { flags, ..self }
    }

    const fn unrecorded(self) -> Self {
        Self { recorded: false, ..self }
    }

    const fn before(self) -> Self {
        Self { before: true, ..self }
    }
}

/// Flags of an agent that sees everything but a cluster, and looks more often than one that is to cost little.
pub(crate) const EVERYTHING: [&str; 3] =
    ["--enable-k8s=false", "--filter-errno-budget=100", "--sampler-interval=1s"];

/// The stories that a host with systemd can have, and the controls.
pub(crate) const STORIES: &[Story] = &[
    told(
        "2",
        "oom-child",
        &["memory_limit_hit of unit oom-child.service"],
        &["memory_limit_hit unit oom-child.service", "oom_victim unit oom-child.service"],
    )
    .says(&[KilledBy("kernel_oom")]),
    told(
        "5",
        "oom-kill",
        &["memory_limit_hit of unit oom-kill.service"],
        &["memory_limit_hit unit oom-kill.service", "start_limit_hit unit oom-kill.service"],
    )
    .says(&[KilledBy("kernel_oom")]),
    told(
        "6",
        "pressure-kill",
        &["pressure_kill of unit pressed.service"],
        &["pressure_kill unit pressed.service", "unit_failed unit pressed.service"],
    )
    .says(&[KilledBy("systemd_oomd"), Decided("oom_victim absent")]),
    told(
        "7",
        "disk-full",
        &["disk_full of unit filler.service"],
        &[
            "disk_full unit filler.service",
            "disk_full unit writer.service",
            "unit_failed unit writer.service",
        ],
    ),
    told(
        "9",
        "inodes",
        &["inodes_exhausted of unit sessions.service"],
        &[
            "inodes_exhausted unit sessions.service",
            "inodes_exhausted unit spool.service",
            "unit_failed unit spool.service",
        ],
    ),
    told(
        "10",
        "fds",
        &["fd_exhausted of unit fds.service"],
        &["fd_exhausted unit fds.service", "exit_failure unit fds.service", "unit_failed unit fds.service"],
    ),
    told(
        "11",
        "refused",
        &["exit_failure of unit database.service"],
        &[
            "exit_failure unit database.service",
            "listener_gone unit database.service",
            "connection_refused unit client.service",
            "unit_failed unit client.service",
        ],
    )
    .says(&[Affected("unit client.service")]),
    told(
        "12",
        "dependency-failed",
        &["exit_failure of unit store.service"],
        &["exit_failure unit store.service", "dependency_failed unit needs-store-web.service"],
    )
    .says(&[Affected("unit needs-store-mail.service"), Affected("unit needs-store-batch.service")]),
    told(
        "12",
        "mount-failed",
        &["unit_failed of unit srv-archive.mount"],
        &["unit_failed unit srv-archive.mount", "dependency_failed unit index.service"],
    )
    .says(&[Affected("unit search.service")]),
    told(
        "13",
        "dns-down",
        &["exit_failure of unit resolver.service"],
        &[
            "exit_failure unit resolver.service",
            "listener_gone unit resolver.service",
            "dns_failure unit asks-shop.service",
            "unit_failed unit asks-shop.service",
        ],
    )
    .says(&[Affected("unit asks-mail.service"), Affected("unit asks-stats.service")]),
    told(
        "18",
        "start-limit",
        &["bad_config of unit start-limit.service"],
        &[
            "bad_config unit start-limit.service",
            "exit_failure unit start-limit.service",
            "start_limit_hit unit start-limit.service",
        ],
    ),
    told(
        "19",
        "spawn-failed",
        &[
            "spawn_failed of unit spawn-exec.service",
            "spawn_failed of unit spawn-user.service",
            "spawn_failed of unit spawn-chdir.service",
        ],
        &["spawn_failed unit spawn-exec.service", "unit_failed unit spawn-exec.service"],
    ),
    told(
        "23",
        "segfault",
        &["crash of unit segfault.service"],
        &["crash unit segfault.service", "unit_failed unit segfault.service"],
    )
    .says(&[KilledBy("itself")]),
    told(
        "24",
        "abort",
        &["abort of unit abort.service"],
        &["abort unit abort.service", "unit_failed unit abort.service"],
    )
    .says(&[KilledBy("itself")]),
    told(
        "25",
        "watchdog",
        &["hung of unit watchdog.service"],
        &["watchdog_timeout unit watchdog.service", "unit_failed unit watchdog.service"],
    )
    .says(&[KilledBy("service_manager")]),
    told(
        "25",
        "start-timeout",
        &["hung of unit start-timeout.service"],
        &["start_timeout unit start-timeout.service", "unit_failed unit start-timeout.service"],
    )
    .says(&[KilledBy("service_manager")]),
    told(
        "27",
        "pids",
        &["pids_limit_hit of unit pids.service"],
        &["pids_limit_hit unit pids.service", "unit_failed unit pids.service"],
    ),
    told(
        "30",
        "clock-step",
        &["clock_jump of node"],
        &["clock_jump node", "unit_failed unit verifies.service"],
    ),
    told(
        "31",
        "kubelet-down",
        &["bad_config of unit kubelet.service"],
        &["bad_config unit kubelet.service", "kubelet_down unit kubelet.service"],
    ),
    told(
        "35",
        "port-conflict",
        &["port_conflict of unit port-new.service"],
        &[
            "port_conflict unit port-new.service",
            "exit_failure unit port-new.service",
            "start_limit_hit unit port-new.service",
        ],
    )
    .says(&[Summary("unit port-old.service has it")]),
    told(
        "38",
        "killed-by-person",
        &["external_kill of unit killed.service"],
        &["external_kill unit killed.service", "unit_failed unit killed.service"],
    )
    .says(&[KilledBy("person"), Summary("session-77.scope")]),
    silent("N1", "stop-requested"),
    told("N3", "recovered", &["exit_failure of unit recovered.service"], &[]).says(&[Severity("low")]),
    silent("N4", "oneshot"),
    silent("N5", "scan"),
    silent("N6", "plateau 10"),
    silent("N7", "small-tmpfs"),
    told(
        "E1",
        "two-faults",
        &["memory_limit_hit of unit fault-memory.service", "bad_config of unit fault-config.service"],
        &["memory_limit_hit unit fault-memory.service", "unit_failed unit fault-memory.service"],
    ),
    told(
        "E3",
        "bus-kill",
        // That the bus was killed is seen by the kernel, which missed nothing.
        &["insufficient_evidence of unit without-bus.service", "external_kill of unit dbus.service"],
        &[],
    ),
    told("E3", "lost-sources", &["insufficient_evidence of unit silent.service"], &[])
        .flags(&["--ring-bytes=64KiB"])
        .unrecorded(),
    told(
        "E5",
        "pid-reuse",
        &["exit_failure of unit reused.service"],
        &["exit_failure unit reused.service", "unit_failed unit reused.service"],
    ),
    told("E8", "exit-code", &["before_observation of unit exit-code.service"], &[]).before(),
];

impl Story {
    /// The file of its script.
    pub(crate) fn provoked_by(&self) -> String {
        format!("tests/rigs/provoke/{}.sh", self.script.split(' ').next().unwrap_or_default())
    }

    /// What is not as the row says.
    pub(crate) fn complaints(&self, incidents: &[Incident]) -> Vec<String> {
        let mut roots: Vec<String> = incidents.iter().map(root_of).collect();
        let mut wanted = self.roots.to_vec();
        roots.sort();
        wanted.sort_unstable();
        if roots != wanted {
            return vec![format!("{roots:?}, not {wanted:?}")];
        }
        let Some(first) = incidents.iter().find(|one| Some(&*root_of(one)) == self.roots.first().copied())
        else {
            return Vec::new();
        };
        let mut list: Vec<String> = self.says.iter().filter_map(|says| says.complaint(first)).collect();
        if !has_way(first, self.way) {
            list.push(format!("no way {:?} in {:#?}", self.way, links(first)));
        }
        list
    }
}

impl Says {
    fn complaint(self, incident: &Incident) -> Option<String> {
        let root = &incident.root_cause;
        let (holds, is) = match self {
            KilledBy(who) => {
                let killer = incident.killed_by.as_ref().map(|killer| killer.who.clone());
                (killer.as_deref() == Some(who), format!("{killer:?}"))
            }
            Decided(what) => {
                (root.decided_by.iter().any(|one| one.evidence == what), format!("{:?}", root.decided_by))
            }
            Affected(whom) => {
                let affected = &incident.impact.affected;
                let is_there = affected.iter().any(|one| format!("{} {}", one.kind, one.name) == whom);
                (is_there, format!("{affected:?}"))
            }
            Severity(level) => (incident.severity.name() == level, incident.severity.name().to_owned()),
            Summary(words) => (root.summary.contains(words), root.summary.clone()),
        };
        (!holds).then(|| format!("not {self:?}: {is}"))
    }
}

/// The root as [`Story::roots`] names it.
pub(crate) fn root_of(incident: &Incident) -> String {
    format!("{} of {}", incident.root_cause.kind, named(&incident.root_cause.entity))
}

fn name_of(incident: &Incident, id: &str) -> String {
    let fact = incident.facts.iter().find(|fact| fact.id == id);
    fact.map_or_else(String::new, |fact| format!("{} {}", fact.kind, named(&fact.entity)))
}

/// Rigs have names of their own.
fn named(subject: &Subject) -> String {
    if subject.kind == "node" { "node".into() } else { subject.to_string() }
}

/// Whether the links lead from the root through these facts, in this order.
fn has_way(incident: &Incident, way: &[&str]) -> bool {
    fn from(incident: &Incident, fact: &str, way: &[&str]) -> bool {
        let Some((first, rest)) = way.split_first() else { return true };
        let rest = if name_of(incident, fact) == *first { rest } else { way };
        rest.is_empty()
            || incident.chain.iter().any(|link| link.from == fact && from(incident, &link.to, rest))
    }
    let Some(first) = way.first() else { return true };
    let root = &incident.root_cause.fact;
    name_of(incident, root) == *first && from(incident, root, way)
}

fn links(incident: &Incident) -> Vec<String> {
    let of = |link: &tapio::explain::incident::Link| {
        format!("{} -> {} ({})", name_of(incident, &link.from), name_of(incident, &link.to), link.rule)
    };
    incident.chain.iter().map(of).collect()
}
