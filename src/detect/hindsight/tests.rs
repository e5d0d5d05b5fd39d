//! What comes late, too late, and too much.

use super::*;
use crate::entity::EntityKind;
use crate::event::{EventBuilder, Kind};

const SECOND_NS: u64 = 1_000_000_000;

/// A kill of process 7 of a service, or its end by it.
fn shown(kind: Kind, time_ns: u64, sequence: u64) -> Shown {
    let mut builder = EventBuilder::default();
    builder.start(Source::Ebpf, kind, time_ns).tgid = 7;
    for slot in kind.info().slots {
        match slot.name {
            "signal" => builder.slot(9),
            "sender_pid" => builder.slot(8),
            "sender_comm" | "comm" => builder.slot(u64::from_le_bytes(*b"kill\0\0\0\0")).slot(0),
            _ => builder.slot(0),
        };
    }
    let owner = Entity {
        key: 5,
        kind: EntityKind::Unit,
        unit: "a.service".into(),
        name: "a.service".into(),
        cgroup_path: "/system.slice/a.service".into(),
        ..Entity::default()
    };
    Shown { words: builder.finish().into(), owner, sequence }
}

/// What stands in the end.
fn standing(hindsight: &mut Hindsight, standing: &mut Vec<Fact>) {
    let news = hindsight.news();
    standing.retain(|fact| !news.taken.contains(fact));
    standing.extend(news.told);
}

/// Scenario: the end of a process is seen before the signal that it ended by.
/// Guarantees: the same fact as in the right order; nothing is told twice.
#[test]
fn what_comes_late_is_seen_in_its_place() {
    let (kill, end) = (shown(Kind::Signal, SECOND_NS, 1), shown(Kind::ProcessExit, 2 * SECOND_NS, 2));
    let mut right = Hindsight::new("n1");
    right.event(kill.clone());
    right.event(end.clone());
    let right = right.news();
    assert_eq!(right.told.len(), 1, "{right:?}");
    let mut late = Hindsight::new("n1");
    late.event(end);
    let mut facts = Vec::new();
    standing(&mut late, &mut facts);
    assert!(facts.is_empty(), "{facts:?}");
    late.event(kill.clone());
    standing(&mut late, &mut facts);
    assert_eq!(facts, right.told);
    late.event(kill);
    assert_eq!(late.news(), News::default());
    assert_eq!(late.too_late(), 0);
}

/// Scenario: many times more events than are kept, then one of long ago.
/// Guarantees: the bounds hold; what cannot be put in its place is counted.
#[test]
fn what_is_kept_is_bounded() {
    let mut hindsight = Hindsight::new("n1");
    for number in 0..3 * LOG_MAX as u64 {
        hindsight.event(shown(Kind::Signal, SECOND_NS + number * 1_000_000, number));
        assert!(hindsight.log.len() <= LOG_MAX && hindsight.told_len <= TOLD_MAX);
        assert!(hindsight.states.len() <= 32);
        if number % 100 == 0 {
            hindsight.tick(SECOND_NS + number * 1_000_000);
            drop(hindsight.news());
        }
    }
    hindsight.event(shown(Kind::ProcessExit, 2 * SECOND_NS, 1));
    assert_eq!(hindsight.too_late(), 1);
}
