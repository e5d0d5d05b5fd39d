//! Tests of the stretches against a ledger that is filled by hand.

use super::*;
use crate::ledger::Shed;

const SECOND: u64 = 1_000_000_000;

struct Bench {
    ledger: Arc<Ledger>,
    stretches: Stretches<u64>,
    position: u64,
    now_ns: u64,
}

impl Bench {
    fn new() -> Self {
        let ledger = Arc::new(Ledger::default());
        let stretches = Stretches::new(Source::Journald, Arc::clone(&ledger), 0);
        Self { ledger, stretches, position: 0, now_ns: SECOND }
    }

    /// Sends events; returns the parity they were flagged with.
    fn send(&mut self, events: u64) -> usize {
        let parity = usize::from(self.stretches.flag() != 0);
        self.position += events;
        self.stretches.moved(events);
        parity
    }

    fn ack(&self, parity: usize, events: u64) {
        let row = &self.ledger.source(Source::Journald).stretches[parity];
        row.acked.fetch_add(events, Ordering::Relaxed);
    }

    fn drop_events(&self, parity: usize, events: u64) {
        let row = &self.ledger.source(Source::Journald).stretches[parity];
        row.dropped.fetch_add(events, Ordering::Relaxed);
    }

    fn panic(&self, events: u64) {
        self.ledger.source(Source::Journald).shed(Shed::WorkerPanic, events);
    }

    fn advise(&mut self) -> Advice<u64> {
        let position = self.position;
        self.stretches.advise(self.now_ns, || position)
    }

    fn wait(&mut self, seconds: u64) -> Advice<u64> {
        self.now_ns += seconds * SECOND;
        self.advise()
    }
}

/// Scenario: events of three stretches, acked in parts and in order.
/// Guarantees: a position is kept only when all before it is acked, and then at once; stretches alternate.
#[test]
fn a_position_is_kept_behind_its_acks() {
    let mut bench = Bench::new();
    assert_eq!(bench.send(3), 0);
    assert_eq!(bench.advise(), Advice::ReadOn);
    assert_eq!(bench.send(2), 1);
    bench.ack(0, 2);
    assert_eq!(bench.advise(), Advice::ReadOn);
    bench.ack(0, 1);
    assert_eq!(bench.advise(), Advice::Keep(3));
    assert_eq!(bench.send(1), 0);
    assert_eq!(bench.advise(), Advice::ReadOn);
    bench.ack(1, 2);
    assert_eq!(bench.advise(), Advice::Keep(5));
    assert!(!bench.stretches.is_settled());
    bench.ack(0, 1);
    assert_eq!(bench.advise(), Advice::Keep(6));
    assert!(bench.stretches.is_settled());
    assert_eq!(bench.advise(), Advice::ReadOn);
}

/// Scenario: the open stretch is acked before the one that waits.
/// Guarantees: its acks do not count for the other.
#[test]
fn acks_of_the_next_stretch_do_not_count() {
    let mut bench = Bench::new();
    bench.send(2);
    assert_eq!(bench.advise(), Advice::ReadOn);
    bench.send(5);
    bench.ack(1, 5);
    assert_eq!(bench.advise(), Advice::ReadOn);
    bench.ack(0, 2);
    assert_eq!(bench.advise(), Advice::Keep(2));
    assert_eq!(bench.advise(), Advice::Keep(7));
}

/// Scenario: the source passes over entries that make no event.
/// Guarantees: the position moves with it.
#[test]
fn what_makes_no_event_moves_the_position() {
    let mut bench = Bench::new();
    bench.stretches.moved(0);
    bench.position = 9;
    assert_eq!(bench.advise(), Advice::ReadOn);
    assert_eq!(bench.advise(), Advice::Keep(9));
}

/// Scenario: a part of a stretch is given up while the server is away; it comes back and acks.
/// Guarantees: the source reads on meanwhile, holds back for what is under way, and goes back to what was kept.
#[test]
fn what_was_given_up_is_read_again() {
    let mut bench = Bench::new();
    bench.send(4);
    bench.ack(0, 4);
    assert_eq!(bench.advise(), Advice::ReadOn);
    bench.send(3);
    assert_eq!(bench.advise(), Advice::Keep(4));
    bench.drop_events(1, 1);
    assert_eq!(bench.advise(), Advice::ReadOn);
    for _ in 0..50 {
        assert_eq!(bench.wait(3), Advice::ReadOn);
    }
    bench.ack(1, 1);
    assert_eq!(bench.advise(), Advice::HoldBack);
    bench.ack(1, 1);
    assert_eq!(bench.advise(), Advice::GoBack(4));
    bench.position = 4;
    let parity = bench.send(3);
    bench.ack(parity, 3);
    assert_eq!(bench.advise(), Advice::ReadOn);
    assert_eq!(bench.advise(), Advice::Keep(7));
}

/// Scenario: the server goes away again while the source holds back.
/// Guarantees: it does not hold back for ever, and still goes back later.
#[test]
fn holding_back_ends() {
    let mut bench = Bench::new();
    bench.send(5);
    bench.drop_events(0, 1);
    bench.advise();
    bench.ack(0, 1);
    assert_eq!(bench.wait(2), Advice::HoldBack);
    assert_eq!(bench.wait(9), Advice::HoldBack);
    assert_eq!(bench.wait(2), Advice::ReadOn);
    bench.ack(0, 3);
    assert_eq!(bench.wait(2), Advice::HoldBack);
    assert_eq!(bench.advise(), Advice::GoBack(0));
}

/// Scenario: the same event makes a worker panic whenever it is read.
/// Guarantees: it is tried a few times, with growing pauses, then left behind; what comes after it is kept again.
#[test]
fn a_poisoned_event_is_left_behind() {
    let mut bench = Bench::new();
    let mut gone_back = 0;
    for _ in 0..=ATTEMPTS_MAX {
        bench.position = 0;
        let parity = bench.send(3);
        bench.panic(1);
        bench.ack(parity, 2);
        let mut advice = bench.advise();
        while advice == Advice::ReadOn {
            advice = bench.wait(1);
        }
        assert_eq!(advice, Advice::HoldBack);
        match bench.advise() {
            Advice::GoBack(0) => gone_back += 1,
            other => assert_eq!(other, Advice::Keep(3)),
        }
    }
    assert_eq!(gone_back, ATTEMPTS_MAX);
    assert_eq!(*bench.stretches.kept(), 3);
    let parity = bench.send(1);
    bench.ack(parity, 1);
    bench.advise();
    assert_eq!(bench.advise(), Advice::Keep(4));
}

/// Scenario: an outage so long that everything is given up again and again.
/// Guarantees: the source always goes back in the end: an outage is no poison.
#[test]
fn an_outage_is_no_poison() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        bench.position = 0;
        let parity = bench.send(3);
        bench.drop_events(parity, 3);
        let mut advice = bench.advise();
        while advice == Advice::ReadOn {
            advice = bench.wait(1);
        }
        assert_eq!(advice, Advice::HoldBack);
        assert_eq!(bench.advise(), Advice::GoBack(0));
    }
}

/// Scenario: the source itself panicked and does not know what it sent.
/// Guarantees: it goes back once nothing is under way.
#[test]
fn a_torn_source_goes_back() {
    let mut bench = Bench::new();
    bench.send(3);
    bench.stretches.tear(bench.now_ns);
    assert_eq!(bench.advise(), Advice::ReadOn);
    bench.ack(0, 3);
    assert_eq!(bench.wait(1), Advice::HoldBack);
    assert_eq!(bench.advise(), Advice::GoBack(0));
}
