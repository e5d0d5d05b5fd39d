//! What an agent said, beside what the recording of the same says.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use tapio::explain::{Incident, State};

/// The last revisions in what `--output` wrote.
pub(crate) fn said(output: &str) -> Vec<Incident> {
    let mut last = BTreeMap::new();
    for line in output.lines() {
        let incident: Incident = serde_json::from_str(line).expect("an incident");
        last.insert(incident.id.clone(), incident);
    }
    last.into_values().collect()
}

/// Incidents that count: those that turned out to be part of another, or none, do not; nor do those of others on the same
/// kernel.
pub(crate) fn alive(incidents: Vec<Incident>) -> Vec<Incident> {
    let is_over = |incident: &Incident| matches!(incident.state, State::Merged | State::Withdrawn);
    incidents.into_iter().filter(|incident| !is_over(incident) && !is_of_others(incident)).collect()
}

/// Whether it happened beside the rig: in a container, of which the rig has none, or in another rig. The kernel tells of
/// all of them.
pub(crate) fn is_of_others(incident: &Incident) -> bool {
    let root = incident.facts.iter().find(|fact| fact.id == incident.root_cause.fact);
    let cgroup = root.and_then(|root| root.keys.get("cgroup")?.get(0)?.as_str());
    // Units of the rig have paths that begin with their slice.
    matches!(&*incident.root_cause.entity.kind, "container" | "pod")
        || cgroup.is_some_and(|path| path.starts_with("/tapio-"))
}

/// What a recording says.
pub(crate) fn replayed(record: &Path) -> Vec<Incident> {
    let mut replay = Command::new(env!("CARGO_BIN_EXE_tapio-collector"));
    let output = replay.args(["replay", "--json"]).arg(record).output().expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    alive(said(&String::from_utf8(output.stdout).expect("text")))
}

/// The verdict of an incident, without what only time changes: its revision and state, and what comes next.
fn verdict(incident: &Incident) -> String {
    let root = &incident.root_cause;
    let kind = |id: &str| {
        let fact = incident.facts.iter().find(|fact| fact.id == id);
        fact.map_or(String::new(), |fact| format!("{} of {} at {}", fact.kind, fact.entity, fact.at))
    };
    let mut text = format!("{} {} of {}: {}\n", incident.id, root.kind, root.entity, root.summary);
    for decision in &root.decided_by {
        text += &format!("  {} ({})\n", decision.evidence, decision.weight);
    }
    for link in &incident.chain {
        text += &format!("  {} -> {} by {}\n", kind(&link.from), kind(&link.to), link.rule);
    }
    if let Some(killer) = &incident.killed_by {
        text += &format!("  killed by {}: {}\n", killer.who, killer.text);
    }
    text
}

/// What the replayed recording says otherwise than the agent did.
pub(crate) fn differences(told: &[Incident], replayed: &[Incident]) -> Vec<String> {
    let verdicts = |incidents: &[Incident]| {
        let mut all: Vec<String> = incidents.iter().map(verdict).collect();
        all.sort();
        all.concat()
    };
    let (told, replayed) = (verdicts(told), verdicts(replayed));
    let apart = told.lines().zip(replayed.lines()).find(|(told, replayed)| told != replayed);
    match apart {
        Some((told, replayed)) => vec![format!("live: {told}\n    replayed: {replayed}")],
        None if told != replayed => vec![format!("live:\n{told}    replayed:\n{replayed}")],
        None => Vec::new(),
    }
}
