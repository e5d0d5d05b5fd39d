//! What the manager of the rig announces on its bus, as `busctl monitor` prints it: the truth about transitions.
//!
//! Invariants:
//! - `busctl` listens beside the agent and knows nothing of it. It hears only while somebody is subscribed; that is
//!   the agent, so a test must look for what the scripts did among what was heard.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::host::Rig;

const UNIT: &str = "watch-bus.service";
const FILE: &str = "/run/watch-bus.json";

/// A state that a unit came into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transition {
    /// The manager's own time of it, which names it together with the unit.
    pub(crate) changed_us: u64,
    pub(crate) unit: String,
    pub(crate) active: String,
    pub(crate) sub: String,
    /// 32 hexadecimal digits.
    pub(crate) invocation: String,
    /// Of services: the result, and how the main process ended: its `CLD_*` and its status.
    pub(crate) run: Option<(String, i64, i64)>,
}

/// Starts to listen.
pub(super) fn watch(rig: &Rig) {
    rig.text(&[
        "systemd-run",
        "--quiet",
        "--collect",
        "--unit",
        UNIT,
        "--property",
        &format!("StandardOutput=truncate:{FILE}"),
        "busctl",
        "monitor",
        "--json=short",
        "--match=type=signal,path_namespace=/org/freedesktop/systemd1/unit,member=PropertiesChanged",
    ]);
}

/// What was heard; does not listen any more.
pub(super) fn heard(rig: &Rig) -> Vec<Transition> {
    rig.text(&["systemctl", "stop", UNIT]);
    read(&rig.text(&["cat", FILE]))
}

fn read(text: &str) -> Vec<Transition> {
    let (mut runs, mut seen, mut transitions) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
    for line in text.lines() {
        // The last line may be cut.
        let Ok(signal) = serde_json::from_str::<Value>(line) else { continue };
        let unit =
            unescape(signal["path"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default());
        let data = &signal["payload"]["data"];
        let properties = &data[1];
        match data[0].as_str().unwrap_or_default() {
            // Told before the state that it led to.
            "org.freedesktop.systemd1.Service" => {
                let word = properties["Result"]["data"].as_str().unwrap_or_default().to_owned();
                let code = properties["ExecMainCode"]["data"].as_i64().unwrap_or_default();
                let status = properties["ExecMainStatus"]["data"].as_i64().unwrap_or_default();
                runs.insert(unit, (word, code, status));
            }
            "org.freedesktop.systemd1.Unit" => {
                let changed_us = properties["StateChangeTimestampMonotonic"]["data"].as_u64().unwrap_or(0);
                if changed_us == 0 || !seen.insert((unit.clone(), changed_us)) {
                    continue;
                }
                let word = |name: &str| properties[name]["data"].as_str().unwrap_or_default().to_owned();
                let bytes = properties["InvocationID"]["data"].as_array().cloned().unwrap_or_default();
                let digits =
                    bytes.iter().filter_map(Value::as_u64).map(|byte| format!("{byte:02x}")).collect();
                let (active, sub) = (word("ActiveState"), word("SubState"));
                let run = runs.get(&unit).cloned();
                transitions.push(Transition { changed_us, unit, active, sub, invocation: digits, run });
            }
            _ => {}
        }
    }
    transitions
}

/// The name of a unit in the path of its object: `_2d` for a dash.
fn unescape(label: &str) -> String {
    let mut name = String::new();
    let mut rest = label;
    while let Some((before, behind)) = rest.split_once('_') {
        name.push_str(before);
        let code = behind.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        name.push(code.map_or('_', char::from));
        rest = behind.get(2..).unwrap_or_default();
    }
    name + rest
}

/// Scenario: lines as `busctl` prints them: a service's run, its state twice, another state, a cut line.
/// Guarantees: each state once, with the run told before it and the unit's name unescaped.
#[test]
fn transitions_are_read() {
    let line = |interface: &str, properties: &str| {
        format!(
            "{{\"path\":\"/org/freedesktop/systemd1/unit/a_2db_5fc_2eservice\",\"payload\":{{\"data\":\
             [\"org.freedesktop.systemd1.{interface}\",{properties},[]]}}}}\n"
        )
    };
    let run = line(
        "Service",
        r#"{"Result":{"data":"exit-code"},"ExecMainCode":{"data":1},"ExecMainStatus":{"data":3}}"#,
    );
    let state = |active: &str, at: u64| {
        let properties = format!(
            "{{\"ActiveState\":{{\"data\":\"{active}\"}},\"SubState\":{{\"data\":\"x\"}},\
             \"StateChangeTimestampMonotonic\":{{\"data\":{at}}},\"InvocationID\":{{\"data\":[1,255]}}}}"
        );
        line("Unit", &properties)
    };
    let text = [state("active", 5), run, state("failed", 7), state("failed", 7), "{\"path".into()].concat();
    let read: Vec<_> =
        read(&text).into_iter().map(|t| (t.unit, t.active, t.changed_us, t.invocation, t.run)).collect();
    let unit = || "a-b_c.service".to_owned();
    let failed = Some(("exit-code".to_owned(), 1, 3));
    assert_eq!(
        read,
        [
            (unit(), "active".to_owned(), 5, "01ff".to_owned(), None),
            (unit(), "failed".to_owned(), 7, "01ff".to_owned(), failed)
        ]
    );
}
