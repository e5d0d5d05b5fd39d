//! The whole agent in the rig, with a server outside, against what the manager announced.

use serde_json::Value;

use super::announced::{self, Transition};
use super::changes::{Changes, Event};
use super::host::Rig;
use super::inside::Agent;
use super::script::Line;
use super::{UNIT_SCRIPTS, measured};

/// Flags of an agent that only listens to the manager.
const MANAGER_ONLY: [&str; 3] = ["--enable-ebpf=false", "--enable-journald=false", "--enable-k8s=false"];

fn changes(agent: &Agent<'_>) -> Changes {
    let (events, answered) = agent.events("unit_state");
    assert_eq!(events.len(), answered, "the server has events twice");
    Changes::new(events)
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

/// Whether a transition is the end of a run that a script told of.
fn is_of(transition: &Transition, outcome: &Line) -> bool {
    transition.unit == outcome.field("unit")
        && transition.changed_us.to_string() == outcome.field("changed_us")
}

/// Scenario: the agent listens to the manager while units fail in every way, stop on request, are reloaded, come
/// and go without files; `busctl` listens beside it.
/// Guarantees: each transition that the manager announced is told as a change once, with state, result, exit code
/// and invocation; so is each end of a run that a script brought about; the ledger is closed.
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
    // A manager that executes itself again announces nothing for a while.
    for outcome in outcomes.iter().filter(|outcome| outcome.field("unit") != "reload.service") {
        let is_heard = heard.iter().any(|transition| is_of(transition, outcome));
        assert!(is_heard, "busctl did not hear {outcome:?}");
    }
    let changes = changes(&agent);
    let again = changes.assert_each_once(&heard);
    changes.assert_ends(&outcomes);
    assert_closed(&row, "systemd");
    let counts = format!("{} transitions and {} ends", heard.len(), outcomes.len());
    measured(NAME, &format!("{counts}, each told once; {again} found again"));
}

/// Scenario: the agent sees neither a bus nor the manager's socket; units fail in several ways.
/// Guarantees: it says so, and each end is told with result and invocation, from the manager's records in the journal.
#[test]
fn live_the_journal_will_do_without_a_manager() {
    const NAME: &str = "live_the_journal_will_do_without_a_manager";
    let Some(rig) = Rig::get(NAME) else { return };
    let folder = tempfile::tempdir().unwrap();
    let hidden = "/run/dbus /run/systemd/private";
    let agent = Agent::start_without(rig, folder.path(), hidden, &MANAGER_ONLY);
    agent.await_state("systemd", "degraded");
    let mut ends = 0;
    for script in ["exit-code", "signal", "start-timeout", "watchdog", "spawn-failed"] {
        let Some(said) = rig.provoke(NAME, script) else { continue };
        for outcome in said.lines("outcome").filter(|outcome| outcome.field("state") == "failed") {
            agent.await_event("unit_state", |event| {
                event.field("ACTIVE_STATE") == "failed"
                    && event.field("RESULT") == outcome.field("result")
                    && event.0["slots"]["invocation_id"] == outcome.field("invocation")
            });
            ends += 1;
        }
    }
    assert!(ends >= 4, "{ends}");
    let (events, _) = agent.events("unit_state");
    let mut failures: Vec<_> = events
        .iter()
        .filter(|event| event.field("ACTIVE_STATE") == "failed")
        .map(|event| event.0["slots"]["invocation_id"].to_string())
        .collect();
    failures.sort_unstable();
    let told = failures.len();
    failures.dedup();
    assert_eq!(told, failures.len(), "a failure was told twice: {events:#?}");
    agent.stop();
    measured(NAME, &format!("{ends} ends rebuilt from the journal"));
}

/// Scenario: the agent sees no bus, as where none runs, but the manager's own socket; a unit fails.
/// Guarantees: it runs; the failure is told once, with result, status and invocation; limits and relations are read.
#[test]
fn live_the_managers_own_socket_will_do() {
    const NAME: &str = "live_the_managers_own_socket_will_do";
    let Some(rig) = Rig::get(NAME) else { return };
    let folder = tempfile::tempdir().unwrap();
    // In the rig, since a manager answers there only those whose process id it can see.
    let agent = Agent::start_without(rig, folder.path(), "/run/dbus", &MANAGER_ONLY);
    agent.await_running(&["systemd"]);
    let Some(said) = rig.provoke(NAME, "exit-code") else { return };
    let outcomes: Vec<_> = said.lines("outcome").cloned().collect();
    let of_unit = |event: &Event| event.field("UNIT") == outcomes[0].field("unit");
    for kind in ["unit_limits", "unit_relations"] {
        agent.await_event(kind, of_unit);
    }
    let row = agent.stop();
    changes(&agent).assert_ends(&outcomes);
    assert_closed(&row, "systemd");
    measured(NAME, &format!("{} end told through the manager's own socket", outcomes.len()));
}

/// Scenario: 1,500 units start and end at once, a tenth of them fail; `busctl` listens beside the agent.
/// Guarantees: as above.
#[test]
fn live_a_burst_is_seen_whole() {
    const NAME: &str = "live_a_burst_is_seen_whole";
    let Some(rig) = Rig::get(NAME) else { return };
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(rig, folder.path(), &["systemd"], &MANAGER_ONLY);
    announced::watch(rig);
    rig.provoke(NAME, "burst 1500");
    let heard = announced::heard(rig);
    let row = agent.stop();
    let failed = |heard: &&Transition| heard.unit.starts_with("burst@") && heard.active == "failed";
    assert_eq!(heard.iter().filter(failed).count(), 150);
    let again = changes(&agent).assert_each_once(&heard);
    assert_closed(&row, "systemd");
    measured(NAME, &format!("{} transitions, each told once; {again} found again", heard.len()));
}
