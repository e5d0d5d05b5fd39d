//! The stories on the level of facts: what each must come out as, in any order and with any delay.

mod burden;
mod forecast;
mod page;
mod rules;
pub(crate) mod story;

use std::sync::Arc;

pub(crate) use burden::failures;
use story::{Order, Story, arrivals, stories};

use super::rules::RuleSet;
use super::{Bounds, Explain, Incident};
use crate::detect::{Fact, News};

/// How many orders each story is told in, besides the right one.
pub(crate) const ORDERS: u64 = 120;

pub(crate) fn shipped() -> Arc<RuleSet> {
    Arc::new(RuleSet::shipped().unwrap_or_else(|error| panic!("{error}")))
}

/// What is left at the end: incidents that are not part of another, without the number of their revision.
fn told(story: &Story, rules: &Arc<RuleSet>, order: Order) -> Vec<Incident> {
    told_of(arrivals(story.parsed(), order), (story.end_ns(), story::BOOT_UNIX_NS), rules)
}

/// The same, of facts that arrive at these times.
pub(crate) fn told_of(
    arrivals: Vec<(u64, Fact, bool)>,
    end: (u64, u64),
    rules: &Arc<RuleSet>,
) -> Vec<Incident> {
    let news = |fact| News { told: vec![fact], taken: Vec::new() };
    told_in_the_end(arrivals.into_iter().map(|(at_ns, fact, settle)| (at_ns, news(fact), settle)), end, rules)
}

/// The same, of facts of which some are taken back.
pub(crate) fn told_in_the_end(
    arrivals: impl Iterator<Item = (u64, News, bool)>,
    (end_ns, boot_unix_ns): (u64, u64),
    rules: &Arc<RuleSet>,
) -> Vec<Incident> {
    let mut engine = Explain::new([7; 16], Arc::clone(rules), Bounds::default());
    let mut out = Vec::new();
    for (at_ns, news, settle) in arrivals {
        engine.take(news);
        if settle {
            engine.settle(at_ns, boot_unix_ns, &mut out);
        }
    }
    engine.settle(end_ns - 2_000_000_000, boot_unix_ns, &mut out);
    engine.settle(end_ns, boot_unix_ns, &mut out);
    let is_left =
        |incident: &&Incident| !matches!(incident.state, super::State::Merged | super::State::Withdrawn);
    let mut left: Vec<Incident> = engine.incidents().filter(is_left).map(Incident::verdict).collect();
    left.sort_by(|one, other| one.id.cmp(&other.id));
    left
}

/// Scenario: every story, in the order in which it happened.
/// Guarantees: root kind, root entity, chain, what decided, and silence exactly as they stand in the files.
#[test]
fn every_story_comes_out_as_told() {
    let rules = shipped();
    let mut wrong = Vec::new();
    let mut table = String::from("\nstory  result  root\n");
    for story in stories() {
        let incidents = told(&story, &rules, Order::AsHappened);
        let complaints = story.complaints(&incidents);
        let root = incidents.first().map_or_else(
            || "silent".to_owned(),
            |incident| {
                let root = &incident.root_cause;
                format!("{} of {} ({})", root.kind, root.entity, root.confidence)
            },
        );
        let result = if complaints.is_empty() { "as told" } else { "WRONG" };
        table.push_str(&format!("{:<6} {result:<7} {root}: {}\n", story.id, story.title));
        for complaint in complaints {
            let shown: Vec<String> =
                incidents.iter().map(|incident| serde_json::to_string_pretty(incident).unwrap()).collect();
            wrong.push(format!("story {}: {complaint}", story.id));
            if std::env::var_os("TAPIO_SHOW").is_some() {
                wrong.push(shown.join("\n"));
            }
        }
    }
    show(&table);
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// Scenario: every story in many other orders, repeated, with pauses, and with Kubernetes half a minute late.
/// Guarantees: the same bytes at the end.
#[test]
fn no_order_changes_a_verdict() {
    let rules = shipped();
    let mut told_orders = 0;
    for story in stories() {
        let right = serde_json::to_string(&told(&story, &rules, Order::AsHappened)).unwrap();
        for seed in 1..=ORDERS {
            let other = serde_json::to_string(&told(&story, &rules, Order::Shuffled(seed))).unwrap();
            let same = other.bytes().zip(right.bytes()).take_while(|(one, other)| one == other).count();
            let near = |text: &str| text[same.saturating_sub(60)..(same + 60).min(text.len())].to_owned();
            let apart = format!("{} / {}", near(&other), near(&right));
            assert!(other == right, "story {} in order {seed}: {apart}", story.id);
            told_orders += 1;
        }
    }
    show(&format!("\n{told_orders} other orders of {} stories end in the same bytes\n", stories().len()));
}

/// Scenario: the list of stories that the engine must know.
/// Guarantees: each is told here at least once.
#[test]
fn no_story_is_missing() {
    let known: Vec<String> = stories().into_iter().map(|story| story.id).collect();
    let numbers = (1..=38).map(|number| number.to_string());
    let silent = (1..=7).map(|number| format!("N{number}"));
    // E6 (told twice) and E7 (shuffled) are how every story is told in `no_order_changes_a_verdict`.
    let exact = [1, 2, 3, 4, 5, 8].map(|number| format!("E{number}"));
    for id in numbers.chain(silent).chain(exact) {
        assert!(known.contains(&id), "story {id} is not told");
    }
}

/// Writes past the harness, which keeps the output of tests that pass.
pub(crate) fn show(text: &str) {
    use std::io::Write;
    std::io::stderr().lock().write_all(text.as_bytes()).unwrap();
}
