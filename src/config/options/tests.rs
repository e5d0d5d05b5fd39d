//! The table of settings against itself and against `Settings`.

use super::*;
use std::collections::BTreeSet;

/// Scenario: the table of settings.
/// Guarantees: flags, variables and keys are unique, and the defaults survive being written and read.
#[test]
fn rows_are_unique_and_reversible() {
    let mut names = BTreeSet::new();
    for option in OPTIONS {
        let variables = option.shared_variables.iter().map(|shared| shared.name.to_owned());
        for name in variables.chain([option.flag.to_owned(), option.variable(), option.key()]) {
            // A flag of one word is its own key.
            assert!(names.insert(name.clone()) || name == option.flag, "{name} twice");
        }
        let defaults = Settings::default();
        let mut settings = defaults.clone();
        let text = (option.get)(&defaults);
        (option.set)(&mut settings, &text).unwrap_or_else(|error| panic!("{} {text:?} {error}", option.flag));
        assert_eq!((option.get)(&settings), text, "{}", option.flag);
        settings.collectors = defaults.collectors;
        assert_eq!(settings, defaults, "{}", option.flag);
    }
}

/// The keys of the fields, from what `Debug` writes: a field of a struct within has the name of that before it.
fn fields() -> BTreeSet<String> {
    let text = format!("{:#?}", Settings::default());
    let is_name = |name: &&str| name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    let mut names = BTreeSet::new();
    let mut within = String::new();
    for line in text.lines() {
        let (indent, rest) = (line.len() - line.trim_start().len(), line.trim_start());
        let Some((name, value)) = rest.split_once(": ").filter(|(name, _)| is_name(name)) else {
            continue;
        };
        if indent == 4 {
            within = if name == "filters" { "filters.".to_owned() } else { format!("{name}_") };
            if !value.ends_with('{') {
                names.insert(name.to_owned());
            }
        } else if indent == 8 {
            names.insert(format!("{within}{name}"));
        }
    }
    names
}

/// Scenario: the fields of the settings, those of the filters included, beside the keys of the table.
/// Guarantees: each field has its row and each row its field; collectors are one field with a row each.
#[test]
fn every_field_has_its_row() {
    let mut fields = fields();
    assert!(fields.remove("collectors"), "{fields:?}");
    let keys: BTreeSet<String> = OPTIONS.iter().map(Opt::key).collect();
    let switches = keys.iter().filter(|key| key.starts_with("enable_")).count();
    assert_eq!(switches, Source::ALL.len());
    let keys: BTreeSet<String> = keys.into_iter().filter(|key| !key.starts_with("enable_")).collect();
    assert_eq!(keys, fields);
}
