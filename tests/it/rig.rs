//! A host with a whole systemd, in which failures are provoked for real: `tests/rigs/nspawn` boots it once for all
//! tests here, the scripts of `tests/rigs/provoke` do what is to be seen. `TAPIO_NSPAWN=off` leaves this out.
//!
//! Invariants:
//! - What is expected comes from the rig itself: from what the script did, from systemctl, journalctl and the bus,
//!   never from the agent.

use std::collections::BTreeMap;
use std::io::Write;

use host::Rig;
use serde_json::Value;

mod agent;
mod announced;
pub(crate) mod changes;
mod entries;
pub(crate) mod expected;
mod host;
mod inside;
pub(crate) mod kept;
mod received;
pub(crate) mod replay;
pub(crate) mod script;
mod soak;
mod stories;
mod units;
mod whole;

/// The scripts about how units end.
const UNIT_SCRIPTS: [&str; 14] = [
    "exit-code",
    "signal",
    "oom-kill",
    "oom-child",
    "start-timeout",
    "stop-timeout",
    "watchdog",
    "start-limit",
    "spawn-failed",
    "dependency-failed",
    "dependency-lost",
    "stop-requested",
    "killed-by-person",
    "reload",
];

/// Prints a figure that a test came to, whether it passes or not: the test harness captures the print macros.
pub(crate) fn measured(test: &str, figure: &str) {
    let line = format!("\nMEASURED rig::{test}: {figure}\n");
    std::io::stderr().lock().write_all(line.as_bytes()).expect("the standard error is open");
}

fn text<'entry>(entry: &'entry Value, name: &str) -> &'entry str {
    entry[name].as_str().unwrap_or_default()
}

/// Scenario: each script about units, in turn.
/// Guarantees: each does what it says: the journal has, under the invocation that the script names, the same result
/// of the unit, and the same code and status of its process.
#[test]
fn live_scripts_do_what_they_say() {
    const NAME: &str = "live_scripts_do_what_they_say";
    let Some(rig) = Rig::get(NAME) else { return };
    // Units that another test left at their start limit do not start.
    rig.provoke(NAME, "reset");
    let mut outcomes = Vec::new();
    for script in UNIT_SCRIPTS {
        let Some(said) = rig.provoke(NAME, script) else { continue };
        outcomes.extend(said.lines("outcome").cloned());
    }
    assert!(outcomes.len() >= UNIT_SCRIPTS.len() - 2, "{outcomes:?}");
    let mut records: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for entry in rig.journal(&["_PID=1"]) {
        records.entry(text(&entry, "INVOCATION_ID").to_owned()).or_default().push(entry);
    }
    for outcome in &outcomes {
        let invocation = outcome.field("invocation");
        let of_run = records.get(invocation).unwrap_or_else(|| panic!("not in the journal: {outcome:?}"));
        let exits: Vec<_> = of_run.iter().filter(|entry| !text(entry, "EXIT_CODE").is_empty()).collect();
        // A stop that was asked for is no news: then PID 1 does not say how the process ended.
        if outcome.field("state") == "failed" {
            let results: Vec<_> = of_run.iter().map(|entry| text(entry, "UNIT_RESULT")).collect();
            assert!(results.contains(&outcome.field("result")), "{outcome:?}: {of_run:#?}");
            // Nor that it ended by the signal that asks for it.
            assert!(!exits.is_empty() || outcome.field("status") == "15", "{outcome:?}: {of_run:#?}");
        }
        for exit in exits {
            assert_eq!(text(exit, "EXIT_CODE"), outcome.field("code"), "{outcome:?}: {exit:#}");
            assert_eq!(text(exit, "EXIT_STATUS"), outcome.field("status"), "{outcome:?}: {exit:#}");
        }
    }
}
