//! Shows a recording to the detectors, as the running agent would have.
//!
//! Invariants:
//! - Events come in the order of their times, and a tick between them for each second that passes.
//! - Nothing here asks the host: the same files say the same everywhere.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value as Json;

use super::load::{Moment, Recording};
use crate::detect::{Fact, Hindsight, News, Shown, Subject, Value};
use crate::entity::Entity;
use crate::explain::{Bounds, Explain, Incident, RuleSet};

/// Detectors are asked for what they held back this often.
const TICK_NS: u64 = 1_000_000_000;

/// How long after the last event what was held back is awaited.
const AFTER_NS: u64 = 60_000_000_000;

/// Calls `step` with each moment of the recording and what it brought.
pub fn run(recording: &Recording, mut step: impl FnMut(u64, News)) {
    let mut detectors = Hindsight::new(&recording.host);
    let mut due_ns = None;
    let mut last_ns = 0;
    for moment in &recording.moments {
        let now_ns = moment.time_ns();
        let due = due_ns.get_or_insert(now_ns + TICK_NS);
        while *due <= now_ns {
            tick(&mut detectors, *due, &mut step);
            // A long silence has no ticks to tell apart.
            *due = if now_ns - *due > AFTER_NS { now_ns } else { *due + TICK_NS };
        }
        detectors.event(shown(moment));
        step(now_ns, detectors.news());
        last_ns = now_ns;
    }
    let mut now_ns = due_ns.unwrap_or(last_ns);
    while now_ns < last_ns + AFTER_NS {
        tick(&mut detectors, now_ns, &mut step);
        now_ns += TICK_NS;
    }
}

fn tick(detectors: &mut Hindsight, now_ns: u64, step: &mut impl FnMut(u64, News)) {
    detectors.tick(now_ns);
    step(now_ns, detectors.news());
}

fn shown(moment: &Moment) -> Shown {
    let (words, owner) = (moment.words.clone(), Entity::clone(&moment.owner));
    Shown { words, owner, sequence: moment.id.sequence }
}

/// The facts of a recording as they stand in the end, in the order in which they were told.
#[must_use]
pub fn facts_of(recording: &Recording) -> Vec<Fact> {
    let mut facts: Vec<Fact> = Vec::new();
    run(recording, |_, news| {
        facts.retain(|fact| !news.taken.contains(fact));
        facts.extend(news.told);
    });
    facts
}

/// A fact as people and programs read it.
#[derive(Debug, Serialize)]
struct FactLine<'fact> {
    id: String,
    kind: &'static str,
    entity: &'fact Subject,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    source: &'static str,
    keys: Vec<String>,
    events: Vec<String>,
    detail: &'fact BTreeMap<&'static str, Value>,
}

fn time(boot_unix_ns: u64, time_ns: u64) -> String {
    let at = UNIX_EPOCH + Duration::from_nanos(boot_unix_ns.wrapping_add(time_ns));
    humantime::format_rfc3339_nanos(at).to_string()
}

/// A key as people write it: `unit=db.service`.
#[must_use]
pub fn key_text(key: &crate::detect::Key) -> String {
    let kind = match serde_json::to_value(key.kind) {
        Ok(Json::String(kind)) => kind,
        _ => String::new(),
    };
    format!("{kind}={}", key.value)
}

/// Writes one fact as a line of JSON.
///
/// # Errors
/// Of the output.
pub fn write_fact(fact: &Fact, boot_unix_ns: u64, out: &mut impl Write) -> io::Result<()> {
    let line = FactLine {
        id: format!("{:016x}", fact.id()),
        kind: fact.kind.name(),
        entity: &fact.subject,
        at: time(boot_unix_ns, fact.from_ns),
        until: (fact.until_ns != fact.from_ns).then(|| time(boot_unix_ns, fact.until_ns)),
        source: fact.source.name(),
        keys: fact.keys.iter().map(key_text).collect(),
        events: fact.events.iter().map(ToString::to_string).collect(),
        detail: &fact.detail,
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

/// The facts of a recording, as lines of JSON.
///
/// # Errors
/// None that memory has not.
pub fn facts(recording: &Recording) -> io::Result<String> {
    let mut text = Vec::new();
    for fact in facts_of(recording) {
        write_fact(&fact, recording.boot_unix_ns, &mut text)?;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The incidents of a recording as they are in the end, in the order of their beginnings.
#[must_use]
pub fn incidents(recording: &Recording, rules: Arc<RuleSet>) -> Vec<Incident> {
    let mut explain = Explain::new(recording.boot_id, rules, Bounds::default());
    let mut revisions = Vec::new();
    let mut last = BTreeMap::new();
    let mut due_ns = 0;
    run(recording, |now_ns, news| {
        explain.take(news);
        // As often as while the agent runs.
        if now_ns >= due_ns {
            due_ns = now_ns + TICK_NS;
            explain.settle(now_ns, recording.boot_unix_ns, &mut revisions);
        }
        last.extend(revisions.drain(..).map(|incident| (incident.id.clone(), incident)));
    });
    explain.settle(due_ns, recording.boot_unix_ns, &mut revisions);
    last.extend(revisions.drain(..).map(|incident| (incident.id.clone(), incident)));
    let mut incidents: Vec<Incident> = last.into_values().collect();
    incidents.sort_by(|one, other| (&one.started_at, &one.id).cmp(&(&other.started_at, &other.id)));
    incidents
}

/// What was wrong with the files, for people; empty if all was well.
#[must_use]
pub fn remarks(recording: &Recording) -> String {
    let mut remarks = String::new();
    if recording.damage.frames > 0 {
        remarks = format!("{} damaged batches were passed over\n", recording.damage.frames);
    }
    if recording.damage.cut {
        remarks += "a file is cut off: what is behind its last whole batch is missing\n";
    }
    remarks
}

#[cfg(test)]
mod backtest;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod live;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod verdicts;
