//! That the engine stays within its bounds whatever comes; `scripts/bench` has what it costs.

use rustix::time::{ClockId, clock_gettime};

use super::{shipped, show};
use crate::detect::{EventId, Fact, FactKind, KeyKind, Subject};
use crate::event::Source;
use crate::explain::State;
use crate::explain::registry::{ENDED_FACTS_MAX, INCIDENTS_MAX};
use crate::explain::{Bounds, Explain};

/// What this thread has used of a core, in microseconds: the clock on the wall also counts the neighbours.
fn spent_us() -> i64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
}

const SECOND_NS: u64 = 1_000_000_000;

fn fact(kind: FactKind, unit: u64, run: u64, at_ns: u64, number: u64) -> Fact {
    let name = format!("u{unit}.service");
    Fact::new(kind, Subject::new("unit", &*name), Source::Systemd, at_ns)
        .key(KeyKind::Unit, &*name)
        .key(KeyKind::Invocation, format!("{unit:x}-{run:x}"))
        .key(KeyKind::Cgroup, format!("/system.slice/{name}"))
        .key(KeyKind::Node, "n1")
        .event(EventId { source: Source::Systemd, producer: 0, sequence: number })
        .with("exit_code", 1_i64)
}

/// Scenario: a million facts within a minute.
/// Guarantees: no more are kept than the bound, what left is counted, and the engine still answers.
#[test]
fn a_million_facts_stay_within_bounds() {
    let mut engine = Explain::new([1; 16], shipped(), Bounds::default());
    let mut out = Vec::new();
    let started = spent_us();
    for number in 0..1_000_000_u64 {
        let at_ns = 100 * SECOND_NS + number * 60_000;
        let kind = if number % 3 == 0 { FactKind::ExitFailure } else { FactKind::LogError };
        engine.insert(fact(kind, number % 5_000, number / 5_000, at_ns, number + 1));
        if number % 2_000 == 0 {
            engine.settle(at_ns, 0, &mut out);
            out.clear();
        }
    }
    let stats = engine.stats();
    assert!(stats.facts <= Bounds::default().facts);
    assert_eq!(stats.window.inserted, 1_000_000);
    assert_eq!(stats.window.evicted + stats.window.expired + stats.facts as u64, 1_000_000);
    assert!(stats.open <= INCIDENTS_MAX);
    show(&format!("\n10^6 facts: {} ms, {stats:?}\n", (spent_us() - started) / 1000));
}

/// Scenario: 1,000 units fail twelve times each, and then it turns out that nothing of it was so.
/// Guarantees: of the incidents that ended, the last ones are kept, with no more facts than the bound.
#[test]
fn ended_incidents_keep_few_facts() {
    let mut engine = Explain::new([1; 16], shipped(), Bounds::default());
    let facts: Vec<Fact> = (0..12_000_u64)
        .map(|number| {
            let at_ns = 100 * SECOND_NS + number * 1_000_000;
            fact(FactKind::ExitFailure, number % 1_000, number / 1_000, at_ns, number + 1)
        })
        .collect();
    let shown = |engine: &Explain| -> usize {
        let ended = engine.incidents().filter(|incident| incident.state != State::Open);
        ended.map(|incident| incident.facts.len()).sum()
    };
    facts.iter().for_each(|fact| engine.insert(fact.clone()));
    engine.settle(112 * SECOND_NS, 0, &mut Vec::new());
    assert_eq!(shown(&engine), 0);
    facts.iter().for_each(|fact| engine.retract(fact));
    engine.settle(112 * SECOND_NS, 0, &mut Vec::new());
    assert!(shown(&engine) > ENDED_FACTS_MAX, "{}", shown(&engine));
    engine.settle(114 * SECOND_NS, 0, &mut Vec::new());
    assert!((ENDED_FACTS_MAX - 64..=ENDED_FACTS_MAX).contains(&shown(&engine)), "{}", shown(&engine));
}

/// So many units fail within the second 100.
pub(crate) fn failures(engine: &mut Explain, count: u64) {
    let mut out = Vec::new();
    for number in 0..count {
        let at_ns = 100 * SECOND_NS + number * SECOND_NS / count;
        engine.insert(fact(FactKind::UnitFailed, number, 1, at_ns, number + 1));
        if number % 2_000 == 0 {
            engine.settle(at_ns, 0, &mut out);
        }
    }
    engine.settle(101 * SECOND_NS, 0, &mut out);
}

/// Scenario: 10^5 units fail in one second, then one more does.
/// Guarantees: incidents and facts stay within their bounds, what did not fit is counted, and the one more is
/// found out once there is room.
#[test]
fn a_hundred_thousand_failures_in_a_second() {
    let mut engine = Explain::new([1; 16], shipped(), Bounds::default());
    let mut out = Vec::new();
    let started = spent_us();
    failures(&mut engine, 100_000);
    let stats = engine.stats();
    assert_eq!(stats.open, INCIDENTS_MAX);
    assert!(stats.refused > 0 && stats.facts <= Bounds::default().facts);
    let later = 101 * SECOND_NS + 5_000 * SECOND_NS;
    engine.settle(later, 0, &mut out);
    out.clear();
    engine.insert(fact(FactKind::UnitFailed, 1_000_000, 1, later, 1_000_000));
    engine.settle(later, 0, &mut out);
    assert!(
        out.iter().any(|incident| incident.root_cause.entity.name == "u1000000.service"),
        "{}",
        out.len()
    );
    show(&format!("\n10^5 failures in a second: {} ms, {stats:?}\n", (spent_us() - started) / 1000));
}

/// Scenario: facts whose times are zero, far ahead, and the wrong way round.
/// Guarantees: the engine goes on, and an ordinary failure is still explained.
#[test]
fn clocks_that_jump() {
    let mut engine = Explain::new([1; 16], shipped(), Bounds::default());
    let mut out = Vec::new();
    for (number, at_ns) in [0, u64::MAX, 1, u64::MAX - 1, 50].into_iter().enumerate() {
        let mut odd = fact(FactKind::ExitFailure, number as u64, 1, at_ns, number as u64 + 1);
        odd.until_ns = at_ns / 2;
        engine.insert(odd);
        engine.settle(100 * SECOND_NS, 0, &mut out);
    }
    out.clear();
    engine.insert(fact(FactKind::ExitFailure, 77, 1, 100 * SECOND_NS, 100));
    engine.insert(fact(FactKind::UnitFailed, 77, 1, 100 * SECOND_NS + 1, 101));
    engine.settle(101 * SECOND_NS, 0, &mut out);
    let incident =
        out.iter().find(|incident| incident.root_cause.entity.name == "u77.service").expect("explained");
    assert_eq!(incident.chain.len(), 1);
}
