//! Live stories: each is provoked in the rig with real processes, and the verdict is read from the running agent.
//!
//! Invariants:
//! - What a row says must come of its script, and no other incident.
//! - What was recorded meanwhile, replayed, says the same.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::{Duration, Instant};

use tapio::explain::Incident;

use super::expected::{EVERYTHING, STORIES, Story};
use super::host::{Provoked, Rig};
use super::inside::Agent;
use super::kept::{self, Left};
use super::measured;
use super::received::Collector;
use super::replay::{alive, differences, replayed, said};
use crate::skipped;

/// Longest wait for a verdict.
const PATIENCE: Duration = Duration::from_secs(25);

/// For so long a verdict must stay as it is, and a silent story silent.
const STAYS: Duration = Duration::from_secs(3);

/// Where the agent leaves what it saw and what it said, in the rig.
const LEFT: &str = "/var/lib/tapio-left";

/// What became of a story.
enum Told {
    Right(Vec<Incident>),
    Wrong(Vec<String>),
    Cannot(String),
}

fn provoke(rig: &Rig, script: &str) -> Result<(), Told> {
    match rig.attempt(script) {
        Provoked::Did(_) => Ok(()),
        Provoked::Cannot(why) => Err(Told::Cannot(why)),
        Provoked::Failed(why) => Err(Told::Wrong(vec![format!("the script failed: {why}")])),
    }
}

fn tell(rig: &Rig, story: &Story, collector: Option<&Collector>) -> Result<Told, Told> {
    provoke(rig, "reset")?;
    rig.text(&["sh", "-c", &format!("rm -rf {LEFT} && mkdir -p {LEFT}")]);
    if story.before {
        provoke(rig, story.script)?;
    }
    let folder = tempfile::tempdir().expect("a directory");
    let (record, output) = (format!("--record={LEFT}/record"), format!("--output={LEFT}/incidents"));
    let endpoint = collector.map(|collector| format!("--otel-endpoint={}", collector.endpoint));
    let endpoint: Vec<&str> = endpoint.as_deref().into_iter().collect();
    let flags = [&EVERYTHING[..], &[&record, &output], &endpoint, story.flags].concat();
    let agent = Agent::start(rig, folder.path(), &["ebpf", "journald", "systemd", "sampler"], &flags);
    if !story.before {
        provoke(rig, story.script)?;
    }
    let mut wrong = settle(&agent, story);
    let units = units(rig);
    agent.stop();
    let told = std::fs::read_to_string(rig.path(&format!("{LEFT}/incidents"))).expect("an output");
    let told = alive(said(&told));
    let record = rig.path(&format!("{LEFT}/record"));
    if story.recorded {
        wrong.extend(differences(&told, &replayed(Path::new(&record))));
    }
    wrong.extend(collector.into_iter().flat_map(|collector| collector.lacks(&told)));
    if wrong.is_empty() {
        if kept::is_wanted() && story.recorded {
            let file = format!("live-{}.jsonl", story.script.replace(' ', "-"));
            let answer = agent.server.json("/api/v1/events?limit=100000");
            let events = answer.as_array().expect("a list").clone();
            let record = Path::new(&record);
            let by = story.provoked_by();
            let left = Left { file, by, events, names: &units, record, told: &told };
            kept::keep(&left);
        }
        return Ok(Told::Right(told));
    }
    if let Some(place) = std::env::var_os("TAPIO_LEAVE") {
        let place = Path::new(&place).join(story.script.replace(' ', "-"));
        for name in ["record", "incidents"] {
            std::fs::copy(rig.path(&format!("{LEFT}/{name}")), place.with_extension(name)).expect("copied");
        }
    }
    Ok(Told::Wrong(wrong))
}

/// What scripts made, as units are named.
fn units(rig: &Rig) -> BTreeSet<String> {
    // Some scripts make none.
    let made = rig.text(&["sh", "-c", "ls /run/systemd/system/provoked.target.d 2>/dev/null || true"]);
    made.lines().filter_map(|line| line.strip_suffix(".conf")).map(str::to_owned).collect()
}

/// Waits until the agent says what it should, and goes on saying it; what is wrong if it does not.
fn settle(agent: &Agent<'_>, story: &Story) -> Vec<String> {
    let begun = Instant::now();
    let mut right_since = None;
    loop {
        let wrong = story.complaints(&alive(agent.incidents()));
        if wrong.is_empty() {
            if right_since.get_or_insert_with(Instant::now).elapsed() >= STAYS {
                return wrong;
            }
        } else {
            right_since = None;
            if begun.elapsed() >= PATIENCE {
                return wrong;
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Scenario: each story that this host can produce, by a script, with a fresh agent that watches; `TAPIO_STORY`
/// chooses one by its number or script.
/// Guarantees: root, chain, what decided, and silence as the table says; the recording of it, replayed, says the
/// same, and a real OpenTelemetry Collector has it as a trace, as has Jaeger behind it. What every story came to is printed.
#[test]
fn live_stories_are_told() {
    const NAME: &str = "live_stories_are_told";
    let Some(rig) = Rig::get(NAME) else { return };
    let collector = Collector::start();
    if let Err(why) = &collector {
        skipped("rig::live_stories_are_told at the Collector", why);
    }
    let collector = collector.as_ref().ok();
    if let Some(why) = collector.and_then(Collector::without_jaeger) {
        skipped("rig::live_stories_are_told at Jaeger", why);
    }
    let chosen = std::env::var("TAPIO_STORY").ok();
    let is_chosen =
        |story: &&Story| chosen.as_deref().is_none_or(|name| [story.id, story.script].contains(&name));
    let mut table = String::from("\nstory live                  seconds result\n");
    let mut wrong = Vec::new();
    for story in STORIES.iter().filter(is_chosen) {
        let begun = Instant::now();
        // What a story breaks is its own row, not the rows behind it.
        let told = std::panic::catch_unwind(AssertUnwindSafe(|| tell(rig, story, collector))).unwrap_or_else(
            |why| {
                let words =
                    why.downcast_ref::<String>().map(|words| words.lines().next().unwrap_or_default());
                Err(Told::Wrong(vec![format!("it broke: {}", words.unwrap_or("for no reason that it gave"))]))
            },
        );
        let told = told.unwrap_or_else(|told| told);
        let result = match told {
            Told::Right(incidents) if incidents.is_empty() => "silent".to_owned(),
            Told::Right(incidents) => {
                let roots = incidents.iter().map(|incident| {
                    let root = &incident.root_cause;
                    format!("{} of {} ({})", root.kind, root.entity, root.confidence)
                });
                roots.collect::<Vec<_>>().join(", ")
            }
            Told::Cannot(why) => format!("NOT HERE: {why}"),
            Told::Wrong(complaints) => {
                wrong
                    .extend(complaints.iter().map(|what| format!("{} ({}): {what}", story.id, story.script)));
                format!("WRONG: {}", complaints.join("; "))
            }
        };
        let seconds = begun.elapsed().as_secs();
        let row = format!("{:<5} {:<21} {seconds:>7} {result}\n", story.id, story.script);
        // At once: a later story may end the test.
        measured(NAME, &row);
        table += &row;
    }
    table += &collector.map_or(String::new(), Collector::summary);
    measured(NAME, &table);
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
