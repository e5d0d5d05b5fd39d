//! Keeps what was seen of a live story for the corpus: `TAPIO_BLESS=1` writes `tests/corpus/live-STORY.jsonl`.
//!
//! A host has far more events than a story needs: kept are those that facts cite which the replay shows, about the
//! names of the story, and what introduces these.
//!
//! Invariants:
//! - Events are kept as the server answers them: nothing is made up or changed, but for times, which are those of the
//!   recording. The server's are of the wall clock, and on no one axis once that was set.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use tapio::explain::Incident;
use tapio::recording::{Moment, load};

/// Events that are kept of one story, at most.
const KEPT_MAX: usize = 400;

/// Facts as the replay prints them.
fn facts(record: &Path) -> Vec<Value> {
    let mut replay = Command::new(env!("CARGO_BIN_EXE_tapio-collector"));
    let output = replay.args(["replay", "--facts"]).arg(record).output().expect("it starts");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("a fact")).collect()
}

/// When each event of a recording happened, by its id without the boot: Unix nanoseconds, had the clock not been set.
fn times(record: &Path) -> BTreeMap<String, u64> {
    let recording = load(&[record.to_owned()]).expect("a recording");
    let time = |moment: &Moment| (moment.id.to_string(), recording.boot_unix_ns + moment.time_ns());
    recording.moments.iter().map(time).collect()
}

/// What a host left of a story.
#[derive(Debug)]
pub(crate) struct Left<'left> {
    /// The corpus file, below `tests/corpus`.
    pub(crate) file: String,
    /// What provoked it.
    pub(crate) by: String,
    /// All events, as the server answers them.
    pub(crate) events: Vec<Value>,
    /// What events and facts of the story have in them: names of its units, or of its pods and their containers. None where
    /// all that happened is the story.
    pub(crate) names: &'left BTreeSet<String>,
    /// What the agent recorded.
    pub(crate) record: &'left Path,
    /// What the agent said of the story.
    pub(crate) told: &'left [Incident],
}

/// Whether the corpus is to be written.
pub(crate) fn is_wanted() -> bool {
    std::env::var_os("TAPIO_BLESS").is_some()
}

/// Writes the corpus file of a story.
pub(crate) fn keep(left: &Left<'_>) {
    let concerns = |text: &str| left.names.iter().any(|name| text.contains(name.as_str()));
    let facts = facts(left.record);
    let told = left.told.iter().flat_map(|incident| &incident.facts).flat_map(|fact| &fact.events);
    let cited: BTreeSet<String> = facts
        .iter()
        .filter(|fact| {
            let happened = left.names.is_empty() && fact["kind"] != "relation";
            happened || concerns(&fact.to_string()) || fact["kind"] == "evidence_gap"
        })
        .flat_map(|fact| fact["events"].as_array().cloned().unwrap_or_default())
        .filter_map(|event| event.as_str().map(str::to_owned))
        .chain(told.cloned())
        .collect();
    // File systems that these facts are about, from before they were full.
    let keys = |fact: &Value| fact["keys"].as_array().cloned().unwrap_or_default();
    let of_story = facts.iter().filter(|fact| concerns(&fact.to_string())).flat_map(keys);
    let places: BTreeSet<String> = of_story
        .filter_map(|key| Some(format!("MOUNT={}\\n", key.as_str()?.strip_prefix("mount=")?)))
        .collect();
    let introduces = |event: &Value| {
        let kind = event["kind"].as_str().unwrap_or_default();
        matches!(
            kind,
            "unit_limits"
                | "cgroup_created"
                | "tcp_listen"
                | "filesystem_usage"
                | "pod_state"
                | "container_state"
                | "object_change"
        )
    };
    // What the manager says of a slice is what it says of a unit in it, and must change nothing.
    let is_of_slice = |event: &Value| {
        event["kind"] == "log_record"
            && event["text"].as_str().is_some_and(|text| text.contains(".slice\nMEANING="))
    };
    let is_place = |event: &Value| {
        event["kind"] == "filesystem_usage"
            && places.iter().any(|place| event.to_string().contains(place.as_str()))
    };
    let id = |event: &Value| {
        // BOOT:SOURCE:PRODUCER:SEQUENCE; facts leave the boot out.
        let id = event["id"].as_str().and_then(|id| id.split_once(':'));
        id.map(|(_, id)| id.to_owned()).unwrap_or_default()
    };
    let is_kept = |event: &&Value| {
        let introduced = introduces(event) && concerns(&event.to_string());
        cited.contains(&id(event)) || introduced || is_of_slice(event) || is_place(event)
    };
    let times = times(left.record);
    let mut kept: Vec<Value> = left.events.iter().filter(is_kept).cloned().collect();
    for event in &mut kept {
        if let Some(time) = times.get(&id(event)) {
            let time = UNIX_EPOCH + Duration::from_nanos(*time);
            event["time"] = humantime::format_rfc3339_nanos(time).to_string().into();
        }
    }
    kept.sort_by_key(|event| event["time"].as_str().map(str::to_owned));
    if kept.is_empty() {
        return;
    }
    assert!(kept.len() <= KEPT_MAX, "{} events of {}", kept.len(), left.file);
    let about = format!("recorded live: {}", left.by);
    let mut text = format!("{}\n", json!({ "host": kept[0]["host"], "about": about }));
    for event in kept {
        writeln!(text, "{event}").expect("memory");
    }
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(&left.file);
    std::fs::write(place, text).expect("written");
}
