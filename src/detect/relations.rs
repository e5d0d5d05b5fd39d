//! What units need of each other, and what they may use.
//!
//! Invariants:
//! - One fact for each pair: the subject needs the target.

use super::Detector;
use super::fact::{Fact, FactKind};
use super::seen::{Seen, with_text};
use crate::event::{Kind, fields};

/// The properties that say what a unit needs, and the word for it. The reverse ones say what needs it.
const RELATIONS: [(&str, &str, bool); 11] = [
    ("Requires", "requires", false),
    ("Requisite", "requires", false),
    ("BindsTo", "binds_to", false),
    ("PartOf", "part_of", false),
    ("Wants", "wants", false),
    ("RequiredBy", "requires", true),
    ("RequisiteOf", "requires", true),
    ("BoundBy", "binds_to", true),
    ("ConsistsOf", "part_of", true),
    ("WantedBy", "wants", true),
    ("TriggeredBy", "wants", true),
];

/// A limit that is not set.
const NO_LIMIT: u64 = u64::MAX;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Relations;

impl Detector for Relations {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        match seen.kind() {
            Kind::UnitRelations => related(seen, out),
            Kind::UnitLimits => out.push(limits(seen)),
            _ => {}
        }
    }
}

fn related(seen: &Seen<'_>, out: &mut Vec<Fact>) {
    let property = seen.field(fields::RELATION);
    let Some((_, relation, reverse)) = RELATIONS.iter().find(|(name, ..)| *name == property) else { return };
    let unit = seen.unit_name();
    for other in seen.field(fields::UNITS).split_whitespace() {
        let (subject, target) = if *reverse { (other, unit.as_str()) } else { (unit.as_str(), other) };
        let fact = seen.bare(FactKind::Relation, super::Subject::new("unit", subject));
        let fact = fact.key(super::KeyKind::Unit, subject).with("relation", *relation);
        out.push(fact.with("target_type", "unit").with("target", target));
    }
}

fn limits(seen: &Seen<'_>) -> Fact {
    let mut fact = seen.fact(FactKind::Relation).with("relation", "limits");
    for name in [
        "memory_max_bytes",
        "memory_high_bytes",
        "tasks_max",
        "open_files_max",
        "start_limit_burst",
        "start_limit_interval_us",
        "restart_delay_us",
        "watchdog_us",
        "start_timeout_us",
    ] {
        let value = seen.number(name);
        if value != NO_LIMIT {
            fact = fact.with(name, value);
        }
    }
    for (name, field) in
        [("restart", fields::RESTART), ("oom_policy", fields::OOM_POLICY), ("file", fields::FRAGMENT_PATH)]
    {
        fact = with_text(fact, name, &seen.field(field));
    }
    fact
}
