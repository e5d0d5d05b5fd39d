//! The whole agent in the rig, with a server outside, against what the manager announced.

use std::collections::BTreeMap;

use serde_json::Value;

use super::announced::{self, Transition};
use super::host::Rig;
use super::inside::{Agent, Event};
use super::script::Line;
use super::{UNIT_SCRIPTS, measured};

/// Flags of an agent that only listens to the manager.
const MANAGER_ONLY: [&str; 3] = ["--enable-ebpf=false", "--enable-journald=false", "--enable-k8s=false"];

/// The events of units that the scripts made, by unit and time of the change, and which of them are double.
fn by_change(agent: &Agent<'_>) -> BTreeMap<(String, u64), Vec<Event>> {
    let (events, answered) = agent.events("unit_state");
    assert_eq!(events.len(), answered, "the server has events twice");
    let mut changes: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for event in events {
        let changed_us = u64::try_from(event.number("changed_us")).unwrap();
        changes.entry((event.field("UNIT"), changed_us)).or_default().push(event);
    }
    changes
}

/// Compares what was announced with the events: each transition has exactly one, which says the same.
fn assert_all_seen(heard: &[Transition], changes: &BTreeMap<(String, u64), Vec<Event>>) {
    for transition in heard {
        let key = (transition.unit.clone(), transition.changed_us);
        let events = changes.get(&key).map_or(&[][..], Vec::as_slice);
        let [event] = events else { panic!("{} events for {transition:?}: {events:#?}", events.len()) };
        let said = ["ACTIVE_STATE", "SUB_STATE"].map(|name| event.field(name));
        assert_eq!(said, [transition.active.clone(), transition.sub.clone()], "{transition:?}: {event:?}");
        assert_eq!(
            event.word("invocation_id"),
            format!("{:0>32}", transition.invocation),
            "{transition:?}: {event:?}"
        );
        if let Some((result, code, status)) = &transition.run {
            assert_eq!(event.field("RESULT"), *result, "{transition:?}: {event:?}");
            let run = (event.number("exec_code"), event.number("exec_status"));
            assert_eq!(run, (i64::try_from(*code).unwrap(), *status), "{transition:?}: {event:?}");
        }
    }
}

/// Compares the ends of runs, as the scripts know them, with the events.
fn assert_outcomes(outcomes: &[Line], changes: &BTreeMap<(String, u64), Vec<Event>>) {
    for outcome in outcomes {
        let changed_us = outcome.field("changed_us").parse().unwrap();
        let events = changes.get(&(outcome.field("unit").to_owned(), changed_us));
        let [event] = events.map_or(&[][..], Vec::as_slice) else { panic!("{outcome:?}: {events:#?}") };
        assert_eq!(event.word("invocation_id"), outcome.field("invocation"), "{outcome:?}: {event:?}");
        assert_eq!(event.field("RESULT"), outcome.field("result"), "{outcome:?}: {event:?}");
        let code = ["-", "exited", "killed", "dumped"].iter().position(|code| *code == outcome.field("code"));
        assert_eq!(
            event.number("exec_code"),
            i64::try_from(code.unwrap()).unwrap(),
            "{outcome:?}: {event:?}"
        );
        assert_eq!(
            event.number("exec_status").to_string(),
            outcome.field("status"),
            "{outcome:?}: {event:?}"
        );
    }
}

/// The sums of a source in the ledger that the agent sent last agree, and nothing was lost on the way.
fn assert_closed(row: &Value, source: &str) {
    let rows = row["ledger"]["rows"].as_array().unwrap();
    let ledger = rows.iter().find(|row| row["source"] == source).unwrap_or_else(|| panic!("{row:#}"));
    let number = |name: &str| ledger[name].as_u64().unwrap_or_else(|| panic!("{name}: {ledger:#}"));
    assert!(number("produced") > 0, "{ledger:#}");
    for name in ["drained", "enriched", "acked"] {
        assert_eq!(number(name), number("produced"), "{name}: {ledger:#}");
    }
    assert_eq!(row["lost"][source].as_u64().unwrap_or(0), 0, "{row:#}");
}

/// Scenario: the agent listens to the manager while units fail in every way, stop on request, are reloaded.
/// Guarantees: each transition that the manager announced is one event, with state, result, exit code and invocation;
/// so is each end of a run that a script brought about; the ledger is closed.
#[test]
fn live_every_transition_is_one_event() {
    const NAME: &str = "live_every_transition_is_one_event";
    let Some(rig) = Rig::get(NAME) else { return };
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(rig, folder.path(), &["systemd"], &MANAGER_ONLY);
    announced::watch(rig);
    let mut outcomes = Vec::new();
    for script in UNIT_SCRIPTS.iter().chain(&["transient 10"]) {
        let Some(said) = rig.provoke(NAME, script) else { continue };
        outcomes.extend(said.lines("outcome").cloned());
    }
    let heard = announced::heard(rig);
    let row = agent.stop();
    let changes = by_change(&agent);
    for outcome in outcomes.iter().filter(|outcome| outcome.field("unit") != "reload.service") {
        let at = outcome.field("changed_us").parse().unwrap();
        let is_it = |transition: &&Transition| {
            (&*transition.unit, transition.changed_us) == (outcome.field("unit"), at)
        };
        assert!(heard.iter().any(|transition| is_it(&transition)), "busctl did not hear {outcome:?}");
    }
    assert_all_seen(&heard, &changes);
    assert_outcomes(&outcomes, &changes);
    assert_closed(&row, "systemd");
    measured(NAME, &format!("{} transitions, each one event", heard.len()));
}

/// Scenario: more than a thousand units start and end at once, a tenth of them fail.
/// Guarantees: as above; the last state of each failed one is an event, or a loss is in the ledger.
#[test]
fn live_a_burst_is_seen_whole() {
    const NAME: &str = "live_a_burst_is_seen_whole";
    let Some(rig) = Rig::get(NAME) else { return };
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(rig, folder.path(), &["systemd"], &MANAGER_ONLY);
    announced::watch(rig);
    rig.provoke(NAME, "burst 2000");
    let heard = announced::heard(rig);
    let row = agent.stop();
    let changes = by_change(&agent);
    let failed = |unit: &str, active: &str| unit.starts_with("burst@") && active == "failed";
    assert_eq!(heard.iter().filter(|heard| failed(&heard.unit, &heard.active)).count(), 200);
    assert_all_seen(&heard, &changes);
    assert_closed(&row, "systemd");
    measured(NAME, &format!("{} transitions, each one event", heard.len()));
}
