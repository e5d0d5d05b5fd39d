//! Rule files: the shipped ones, those of users, and what is wrong with them.

use std::collections::BTreeSet;

use super::show;
use crate::detect::{FACT_KINDS, Fact, FactKind, KeyKind, Role, Subject};
use crate::event::Source;
use crate::explain::rules::{Part, RuleSet};
use crate::explain::{Bounds, Explain, State};

fn with(text: &str) -> Result<RuleSet, String> {
    RuleSet::with_files(&[("mine.toml".to_owned(), text.to_owned())]).map_err(|error| error.to_string())
}

fn rule(change: &str) -> String {
    let mut lines = vec![
        "name = \"mine\"",
        "cause = \"crash\"",
        "effect = \"probe_failed\"",
        "keys = [\"container\"]",
        "window = \"10s\"",
        "text = \"because\"",
    ];
    let name = change.split(' ').next().unwrap();
    lines.retain(|line| !line.starts_with(&format!("{name} ")));
    format!("# mine\n[[rule]]\n{}\n{change}\n", lines.join("\n"))
}

/// Scenario: rule files with each mistake that a person can make.
/// Guarantees: one message with file, line and column that names the mistake.
#[test]
fn mistakes_are_named() {
    for (change, parts) in [
        ("cause = \"crashh\"", ["mine.toml:8:9", "`crashh`; did you mean `crash`"]),
        ("keys = [\"contaner\"]", ["mine.toml:8:8", "did you mean `container`"]),
        ("keys = []", ["mine.toml:3:8", "time alone licenses nothing"]),
        ("window = \"1y\"", ["mine.toml:8:10", "longer than facts are kept"]),
        ("window = \"soon\"", ["mine.toml:8:10", "no time"]),
        ("confidence = 2.0", ["mine.toml:9:14", "from 0 to 1"]),
        ("colour = 2.0", ["mine.toml:9:1", "unknown field"]),
        ("part = \"explains\"", ["mine.toml:9:8", "none of causes"]),
        ("when = [\"cause.colour = red\"]", ["mine.toml:9:9", "detail `colour`"]),
        ("when = [\"fact.signal = 9\"]", ["mine.toml:9:9", "not here"]),
        ("when = [\"cause.signal is 9\"]", ["mine.toml:9:9", "`is`"]),
        ("keys = [\"node\"]", ["mine.toml:3:8", "does not concern the whole host"]),
        ("cause = \"log_error\"", ["mine.toml:3:8", "circumstance"]),
        ("cause = \"before_observation\"", ["mine.toml:3:8", "answer of the engine"]),
        ("cause = \"endpoints_empty\"\nx = [", ["mine.toml:9:", ""]),
    ] {
        let error = with(&rule(change)).expect_err(change);
        assert!(parts.iter().all(|part| error.contains(part)), "{change}: {error}");
        show(&format!("\n{change}: {error}\n"));
    }
    let twice = format!("{}{}", rule("window = \"10s\""), rule("window = \"10s\""));
    assert!(with(&twice).expect_err("twice").contains("second rule"));
}

/// Scenario: a rule that makes an effect the cause of its own cause.
/// Guarantees: refused, with the whole circle in the message; the same with another key is fine.
#[test]
fn circles_are_refused() {
    let circle = "[[rule]]\nname = \"mine\"\ncause = \"unit_failed\"\neffect = \"exit_failure\"\nkeys = [\"KEY\"]\nwindow = \"10s\"\ntext = \"because\"\n";
    let error = with(&circle.replace("KEY", "unit")).expect_err("a circle");
    for part in ["mine.toml:2:8", "closes a circle", "exit_failure", "unit_failed", "key `unit`"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    show(&format!("\na circle: {error}\n"));
    with(&circle.replace("KEY", "trace")).expect("no circle");
}

/// Scenario: a user's file with a shipped rule's name, a new one, and other words for a root.
/// Guarantees: the first replaces, the second is added, the words are the user's.
#[test]
fn users_override_by_name() {
    let shipped = RuleSet::shipped().expect("valid");
    let mine = rule("confidence = 0.5").replace("\"mine\"", "\"exit-fails-unit\"");
    let text = format!("{mine}{}\n[[root]]\nkind = \"crash\"\ntext = \"mine\"\n", rule("confidence = 0.5"));
    let set = with(&text).expect("valid");
    assert_eq!(set.rules.len(), shipped.rules.len() + 1);
    let changed = set.rules.iter().find(|rule| rule.name == "exit-fails-unit").unwrap();
    assert_eq!(changed.causes, [FactKind::Crash]);
    assert_eq!(set.root(FactKind::Crash).unwrap().text, "mine");
    assert_eq!(set.root(FactKind::Abort), shipped.root(FactKind::Abort));
}

/// Scenario: the table of kinds against the shipped rules.
/// Guarantees: each symptom and cause takes part in a causal edge or has words for when it is a root; every
/// rule is named once, says what it licenses, and has a text.
#[test]
fn kinds_and_rules_fit() {
    let set = RuleSet::shipped().expect("valid");
    let mut used: BTreeSet<FactKind> = BTreeSet::new();
    let mut names = BTreeSet::new();
    for rule in &set.rules {
        assert!(names.insert(&rule.name), "{} twice", rule.name);
        assert!(!rule.text.is_empty() && rule.confidence > 0.0, "{}", rule.name);
        if rule.part == Part::Causes {
            used.extend(rule.causes.iter().chain(&rule.effects));
        }
    }
    for info in FACT_KINDS.iter().filter(|info| matches!(info.role, Role::Symptom | Role::Cause)) {
        assert!(used.contains(&info.kind), "{} takes part in no rule", info.name);
    }
}

/// Scenario: an engine with an incident gets rules that do not license its edge, then the shipped ones again.
/// Guarantees: what was one incident is two, then one again, and the second says that it is part of the first.
#[test]
fn other_rules_judge_again() {
    let shipped = std::sync::Arc::new(RuleSet::shipped().expect("valid"));
    let fact = |kind, at_ns| {
        Fact::new(kind, Subject::new("unit", "a.service"), Source::Ebpf, at_ns)
            .key(KeyKind::Unit, "a.service")
            .key(KeyKind::Process, "5:1")
    };
    let mut engine = Explain::new([1; 16], std::sync::Arc::clone(&shipped), Bounds::default());
    let mut out = Vec::new();
    engine.insert(fact(FactKind::Crash, 10_000_000_000));
    engine.insert(fact(FactKind::ExitFailure, 10_001_000_000));
    engine.settle(11_000_000_000, 0, &mut out);
    assert_eq!(out.len(), 1);
    let other = rule("confidence = 0.5").replace("\"mine\"", "\"fault-ends-process\"");
    engine.set_rules(std::sync::Arc::new(with(&other).expect("valid")));
    engine.settle(12_000_000_000, 0, &mut out);
    let open = |engine: &Explain| engine.incidents().filter(|incident| incident.state == State::Open).count();
    assert_eq!(open(&engine), 2);
    out.clear();
    engine.set_rules(shipped);
    engine.settle(13_000_000_000, 0, &mut out);
    assert_eq!(open(&engine), 1);
    assert!(out.iter().any(|incident| incident.state == State::Merged && incident.merged_into.is_some()));
}
