//! Keeps what was seen of a live story for the corpus: `TAPIO_BLESS=1` writes `tests/corpus/live-SCRIPT.jsonl`.
//!
//! A host has far more events than a story needs: kept are those that facts cite which the replay shows, about the
//! units of the script, and what introduces these.
//!
//! Invariants:
//! - Events are kept as the server answers them: nothing is made up or changed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::expected::Story;
use super::inside::Agent;

/// Events that are kept of one story, at most.
const KEPT_MAX: usize = 400;

/// Facts as the replay prints them.
fn facts(record: &Path) -> Vec<Value> {
    let mut replay = Command::new(env!("CARGO_BIN_EXE_tapio-collector"));
    let output = replay.args(["replay", "--facts"]).arg(record).output().expect("it starts");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("a fact")).collect()
}

/// Writes the corpus file of a story, if that is asked for.
pub(super) fn keep(story: &Story, agent: &Agent<'_>, units: &BTreeSet<String>, record: &Path) {
    if std::env::var_os("TAPIO_BLESS").is_none() || story.before || !story.recorded {
        return;
    }
    let concerns = |text: &str| units.iter().any(|unit| text.contains(unit.as_str()));
    let facts = facts(record);
    let cited: BTreeSet<String> = facts
        .iter()
        .filter(|fact| concerns(&fact.to_string()) || fact["kind"] == "evidence_gap")
        .flat_map(|fact| fact["events"].as_array().cloned().unwrap_or_default())
        .filter_map(|event| event.as_str().map(str::to_owned))
        .collect();
    // File systems that these facts are about, from before they were full.
    let keys = |fact: &Value| fact["keys"].as_array().cloned().unwrap_or_default();
    let of_units = facts.iter().filter(|fact| concerns(&fact.to_string())).flat_map(keys);
    let places: BTreeSet<String> = of_units
        .filter_map(|key| Some(format!("MOUNT={}\\n", key.as_str()?.strip_prefix("mount=")?)))
        .collect();
    let answer = agent.server.json("/api/v1/events?limit=100000");
    let all = answer.as_array().expect("a list");
    let introduces = |event: &Value| {
        let kind = event["kind"].as_str().unwrap_or_default();
        matches!(kind, "unit_limits" | "cgroup_created" | "tcp_listen" | "filesystem_usage")
    };
    let is_place = |event: &Value| {
        event["kind"] == "filesystem_usage"
            && places.iter().any(|place| event.to_string().contains(place.as_str()))
    };
    let id = |event: &Value| {
        // BOOT:SOURCE:PRODUCER:SEQUENCE; facts leave the boot out.
        event["id"]
            .as_str()
            .and_then(|id| id.split_once(':'))
            .map(|(_, id)| id.to_owned())
            .unwrap_or_default()
    };
    let mut kept: Vec<&Value> = all
        .iter()
        .filter(|event| {
            let introduced = introduces(event) && concerns(&event.to_string());
            cited.contains(&id(event)) || introduced || is_place(event)
        })
        .collect();
    kept.sort_by_key(|event| event["time"].as_str().map(str::to_owned));
    if kept.is_empty() {
        return;
    }
    assert!(kept.len() <= KEPT_MAX, "{} events of {}", kept.len(), story.script);
    let about = format!(
        "recorded live: tests/rigs/provoke/{}.sh",
        story.script.split(' ').next().unwrap_or_default()
    );
    let mut text = format!("{}\n", json!({ "host": "tapio-rig", "about": about }));
    for event in kept {
        writeln!(text, "{event}").expect("memory");
    }
    let name = format!("tests/corpus/live-{}.jsonl", story.script.replace(' ', "-"));
    std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(name), text).expect("written");
}
