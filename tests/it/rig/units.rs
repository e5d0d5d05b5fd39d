//! What the systemd collector says of a real manager, against what was done to it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use tapio::event::{Kind, fields};

use super::agent::{Agent, Seen};
use super::host::Rig;
use super::{UNIT_SCRIPTS, text};

/// A line for people, past the test harness.
fn tell(line: &str) {
    std::io::stderr().lock().write_all(format!("\n{line}\n").as_bytes()).unwrap();
}

/// Transitions that were said more than once. A unit that was only loaded has not changed yet: its time is 0.
fn repeated(states: &[Seen]) -> Vec<(String, u64, String, String)> {
    let mut seen = BTreeSet::new();
    let changed = states.iter().map(Seen::transition).filter(|(_, changed_us, ..)| *changed_us > 0);
    changed.filter(|transition| !seen.insert(transition.clone())).collect()
}

/// Says how long after the transition the event was there, for those that were announced.
fn tell_latency(test: &str, states: &[Seen]) {
    let announced = states.iter().filter(|seen| seen.slot("snapshot") == 0 && seen.slot("changed_us") > 0);
    let mut late: Vec<Duration> = announced.map(|seen| seen.late).collect();
    late.sort_unstable();
    let at = |permille: usize| late.get(late.len() * permille / 1000).copied().unwrap_or_default();
    tell(&format!(
        "{test}: {} transitions announced, seen after {:?} (median), {:?} (p90), {:?} (p99)",
        late.len(),
        at(500),
        at(900),
        at(990)
    ));
}

/// Scenario: every script about how units end, with the reloads that they do, over the bus of the rig.
/// Guarantees: the end of each run is said exactly once, with result, code, status, restarts and invocation; no
/// transition of any unit is said twice; relations and limits of the units are there.
#[test]
fn live_every_end_of_a_unit_is_told_once() {
    const NAME: &str = "live_every_end_of_a_unit_is_told_once";
    let Some(rig) = Rig::get(NAME) else { return };
    let agent = Agent::start(&format!("unix:path={}", rig.path("/run/dbus/system_bus_socket")));
    let mut outcomes = Vec::new();
    for script in UNIT_SCRIPTS {
        let Some(said) = rig.provoke(NAME, script) else { continue };
        outcomes.extend(said.lines("outcome").cloned());
    }
    assert!(outcomes.len() >= UNIT_SCRIPTS.len() - 2, "{outcomes:?}");
    let last = outcomes.last().unwrap();
    let of_last = (last.field("unit").to_owned(), last.field("changed_us").parse().unwrap());
    let names = |seen: &Seen| (seen.field(fields::UNIT), seen.slot("changed_us"));
    agent.until("the last end", |agent| agent.of(Kind::UnitState).iter().any(|seen| names(seen) == of_last));
    let states = agent.of(Kind::UnitState);
    for outcome in &outcomes {
        let unit = (outcome.field("unit").to_owned(), outcome.field("changed_us").parse().unwrap());
        let said: Vec<&Seen> = states.iter().filter(|seen| names(seen) == unit).collect();
        let [seen] = said[..] else { panic!("{outcome:?} was said {} times: {said:#?}", said.len()) };
        let code = match outcome.field("code") {
            "exited" => 1,
            "killed" => 2,
            "dumped" => 3,
            _ => 0,
        };
        let found = [
            seen.field(fields::ACTIVE_STATE),
            seen.field(fields::RESULT),
            seen.invocation(),
            seen.slot("exec_code").to_string(),
            seen.slot("exec_status").to_string(),
            seen.slot("restarts").to_string(),
        ];
        let [state, result, invocation, status, restarts] =
            ["state", "result", "invocation", "status", "restarts"]
                .map(|name| outcome.field(name).to_owned());
        assert_eq!(found, [state, result, invocation, code.to_string(), status, restarts], "{outcome:?}");
    }
    assert_eq!(repeated(&states), []);
    let limited: BTreeSet<String> =
        agent.of(Kind::UnitLimits).iter().map(|seen| seen.field(fields::UNIT)).collect();
    let related: BTreeSet<String> =
        agent.of(Kind::UnitRelations).iter().map(|seen| seen.field(fields::UNIT)).collect();
    for outcome in &outcomes {
        let unit = outcome.field("unit");
        assert!(limited.contains(unit) && related.contains(unit), "{unit} was not read");
    }
    tell_latency(NAME, &states);
    let row = agent.stop();
    assert_eq!((row.ring_lost, &row.shed), (0, &BTreeMap::new()), "{row:?}");
}

/// Scenario: 500 units are started five times at once, which is 5,000 transitions and more; a scope comes and goes.
/// Guarantees: the start and the end of every run that the journal has are told under its invocation, no transition
/// twice, and nothing is lost.
#[test]
fn live_a_burst_of_a_real_manager_is_told_whole() {
    const NAME: &str = "live_a_burst_of_a_real_manager_is_told_whole";
    const SCRIPT: &str =
        "printf '[Service]\\nType=oneshot\\nExecStart=/bin/true\\n[Unit]\\nStartLimitBurst=1000\\n' \
        >/run/systemd/system/burst@.service
        systemctl daemon-reload
        for round in 1 2 3 4 5; do systemctl start $(seq -f 'burst@%g.service' 500); done
        systemd-run --quiet --scope --unit=passing true";
    let Some(rig) = Rig::get(NAME) else { return };
    let agent = Agent::start(&format!("unix:path={}", rig.path("/run/dbus/system_bus_socket")));
    rig.text(&["/bin/sh", "-ec", SCRIPT]);
    let mut runs = BTreeSet::new();
    for entry in rig.journal(&["_PID=1", "MESSAGE_ID=7d4958e842da4a758f6c1cdc7b36dcc5"]) {
        if text(&entry, "UNIT").starts_with("burst@") {
            runs.insert(text(&entry, "INVOCATION_ID").to_owned());
        }
    }
    assert!(runs.len() >= 2400, "the journal has {} runs only", runs.len());
    let told = |agent: &Agent, state: &str| -> BTreeSet<String> {
        let states = agent.of(Kind::UnitState);
        let told = states.iter().filter(|seen| seen.field(fields::ACTIVE_STATE) == state);
        told.map(Seen::invocation).filter(|invocation| runs.contains(invocation)).collect()
    };
    agent.until("the last end", |agent| told(agent, "inactive").len() == runs.len());
    // What the manager announces only when it is over is told before its end.
    let begun = told(&agent, "activating");
    assert_eq!(begun.len(), runs.len(), "not every start was told: {:?}", runs.difference(&begun).next());
    let scope = |seen: &Seen| seen.field(fields::UNIT) == "passing.scope";
    agent.until("the scope", |agent| agent.of(Kind::UnitState).iter().any(scope));
    let states = agent.of(Kind::UnitState);
    assert_eq!(repeated(&states), []);
    let burst = states.iter().filter(|seen| seen.field(fields::UNIT).starts_with("burst@")).count();
    tell(&format!("{NAME}: {} runs, {burst} transitions, none twice", runs.len()));
    tell_latency(NAME, &states);
    let row = agent.stop();
    assert_eq!((row.ring_lost, &row.shed), (0, &BTreeMap::new()), "{row:?}");
}

/// Scenario: the bus is killed and comes back, then the manager executes itself anew; a unit fails at each.
/// Guarantees: each loss is said, and its end; both failures are told once, though nobody may have announced them.
#[test]
fn live_a_killed_bus_and_a_new_manager_are_survived() {
    const NAME: &str = "live_a_killed_bus_and_a_new_manager_are_survived";
    let Some(rig) = Rig::get(NAME) else { return };
    let agent = Agent::start(&format!("unix:path={}", rig.path("/run/dbus/system_bus_socket")));
    for (times, break_it) in
        [(1, "systemctl kill --signal=KILL dbus.service"), (2, "systemctl daemon-reexec")]
    {
        rig.text(&["/bin/sh", "-ec", break_it]);
        let Some(said) = rig.provoke(NAME, "exit-code") else { return };
        let outcome = said.lines("outcome").next().unwrap();
        agent.until("a loss and its end", |agent| {
            agent.manager("lost") >= times && agent.manager("resynced") >= agent.manager("lost")
        });
        let is_it = |seen: &Seen| {
            seen.invocation() == outcome.field("invocation") && seen.field(fields::ACTIVE_STATE) == "failed"
        };
        agent.until("the failure", |agent| agent.of(Kind::UnitState).iter().any(is_it));
        let failed: Vec<Seen> = agent.of(Kind::UnitState).into_iter().filter(is_it).collect();
        assert_eq!(failed.len(), 1, "{failed:#?}");
        assert_eq!(failed[0].slot("exec_status").to_string(), outcome.field("status"));
    }
    assert_eq!(repeated(&agent.of(Kind::UnitState)), []);
    agent.stop();
}
