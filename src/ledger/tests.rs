//! Sums under schedules and while several threads write.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;

const ROOM: Bounds = Bounds { queued: 1000, batching: 1000 };

fn add(counter: &AtomicU64, events: u64) {
    counter.fetch_add(events, Ordering::Relaxed);
}

/// Where an event is, and what the ledger says about it there.
#[derive(Debug, Default, Clone, Copy)]
struct Path {
    ring: u64,
    queue: u64,
    held: u64,
    spool: i64,
}

/// One step of one event, as the rooms count it.
fn step(ledger: &Ledger, path: &mut Path, choice: u8) {
    let row = ledger.source(Source::Ebpf);
    match choice % 8 {
        0 => {
            add(&row.produced, 1);
            path.ring += 1;
        }
        1 => {
            add(&row.produced, 1);
            add(&row.ring_lost, 1);
        }
        2 if path.ring > 0 => {
            path.ring -= 1;
            add(&row.drained, 1);
            path.queue += 1;
        }
        3 if path.queue > 0 => {
            path.queue -= 1;
            row.shed(Shed::QueueFull, 1);
        }
        4 if path.queue > 0 => {
            path.queue -= 1;
            add(&row.enriched, 1);
            row.held.fetch_add(1, Ordering::Relaxed);
            path.held += 1;
        }
        5 if path.held > 0 => {
            path.held -= 1;
            add(&row.acked, 1);
            row.held.fetch_sub(1, Ordering::Relaxed);
        }
        6 if path.held > 0 => {
            path.held -= 1;
            row.drop_events(Dropped::WindowFull, 1);
            row.held.fetch_sub(1, Ordering::Relaxed);
        }
        7 if path.held > 0 => {
            path.held -= 1;
            path.spool += 1;
            row.spooled.fetch_add(1, Ordering::Relaxed);
            row.held.fetch_sub(1, Ordering::Relaxed);
        }
        _ => {}
    }
}

fn ebpf(ledger: &Ledger) -> LedgerRow {
    ledger.snapshot(|_| {}).swap_remove(Source::Ebpf as usize)
}

proptest! {
    /// Scenario: events go through the hops in any order; then one counter is wrong by some.
    /// Guarantees: the row closes after every schedule and shows what is under way; it does not close with the error.
    #[test]
    fn any_schedule_closes_and_no_error_does(
        choices in proptest::collection::vec(any::<u8>(), 0..300),
        wrong in 0..6_usize,
        by in 1001..5000_u64,
    ) {
        let (ledger, mut path) = (Ledger::default(), Path::default());
        for choice in choices {
            step(&ledger, &mut path, choice);
        }
        let row = ebpf(&ledger);
        prop_assert!(row.closed(&ROOM), "{row:?}");
        prop_assert_eq!(row.queued, path.ring.cast_signed());
        prop_assert_eq!(row.batching, path.queue.cast_signed());
        prop_assert_eq!((row.in_flight, row.spooled), (path.held.cast_signed(), path.spool));
        let empty = path.ring + path.queue == 0;
        prop_assert_eq!(row.closed(&Bounds::STOPPED), empty);
        prop_assert_eq!(row.lost(), row.produced - row.acked - path.ring - path.queue - path.held
            - path.spool.cast_unsigned());

        let mut bad = row.clone();
        let field = [&mut bad.produced, &mut bad.ring_lost, &mut bad.drained, &mut bad.enriched, &mut bad.acked];
        match field.into_iter().nth(wrong) {
            Some(field) => *field += by,
            None => bad.in_flight += by.cast_signed(),
        }
        // As a reader would compute them.
        bad.batching = (bad.drained - row.shed.values().sum::<u64>()).wrapping_sub(bad.enriched).cast_signed();
        bad.queued = bad.produced.wrapping_sub(bad.ring_lost).wrapping_sub(bad.drained).cast_signed();
        prop_assert!(!bad.closed(&ROOM), "{bad:?}");
    }
}

/// Scenario: three threads move events along while a reader looks; the drain counts after its pass, as the real one.
/// Guarantees: no look shows a sum below zero or an event without a place; in the end all sums are exact.
#[test]
fn a_live_read_closes() {
    let ledger = Arc::new(Ledger::default());
    let stop = Arc::new(AtomicBool::new(false));
    let (ring, queue, held) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let take = |from: &AtomicU64| from.swap(0, Ordering::AcqRel);
    std::thread::scope(|scope| {
        let spawn = |work: Box<dyn Fn(&SourceLedger) + Send>| {
            let (ledger, stop) = (Arc::clone(&ledger), Arc::clone(&stop));
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    work(ledger.source(Source::Ebpf));
                    std::thread::yield_now();
                }
                work(ledger.source(Source::Ebpf));
            });
        };
        let (from, to) = (Arc::clone(&ring), Arc::clone(&queue));
        spawn(Box::new(move |row| {
            add(&row.produced, 3);
            from.fetch_add(3, Ordering::AcqRel);
            let taken = take(&from);
            to.fetch_add(taken, Ordering::AcqRel);
            add(&row.drained, taken);
        }));
        let (from, to) = (Arc::clone(&queue), Arc::clone(&held));
        spawn(Box::new(move |row| {
            let taken = take(&from);
            add(&row.enriched, taken);
            row.held.fetch_add(taken.cast_signed(), Ordering::Relaxed);
            to.fetch_add(taken, Ordering::AcqRel);
        }));
        let from = Arc::clone(&held);
        spawn(Box::new(move |row| {
            let taken = take(&from);
            add(&row.acked, taken);
            row.held.fetch_sub(taken.cast_signed(), Ordering::Relaxed);
        }));
        for _ in 0..2000 {
            let row = ebpf(&ledger);
            assert!(row.is_coherent(), "{row:?}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let row = ebpf(&ledger);
    let left = [&ring, &queue, &held].map(|place| place.load(Ordering::Relaxed));
    assert_eq!(row.queued.cast_unsigned(), left[0]);
    assert_eq!(row.batching.cast_unsigned(), left[1]);
    assert_eq!(row.in_flight.cast_unsigned(), left[2]);
}

/// Scenario: a counter that is wrong for good.
/// Guarantees: the read ends, and the row says that it does not close.
#[test]
fn a_broken_sum_is_shown() {
    let ledger = Ledger::default();
    add(&ledger.source(Source::Journald).acked, 1);
    let rows = ledger.snapshot(|_| {});
    assert!(!closed(&rows, &ROOM));
    let row = &rows[Source::Journald as usize];
    assert_eq!((row.source.as_str(), row.unaccounted()), ("journald", -1));
}

/// Scenario: 64 KiB of rings with the smallest events.
/// Guarantees: the bound is what fits, header of the kernel included.
#[test]
fn bounds_are_what_fits() {
    let bounds = Bounds::new(64 << 10, 600, 7);
    assert_eq!(bounds, Bounds { queued: 1170, batching: 1170 + 100 + 7 });
}

/// Scenario: a row with losses becomes a message.
/// Guarantees: every number arrives under its name.
#[test]
fn a_row_becomes_a_message() {
    let ledger = Ledger::default();
    let row = ledger.source(Source::Kubernetes);
    add(&row.drained, 9);
    row.shed(Shed::Malformed, 2);
    row.drop_events(Dropped::SpoolFull, 3);
    let row = ledger.snapshot(|_| {}).swap_remove(Source::Kubernetes as usize);
    let message = proto::LedgerRow::from(&row);
    assert_eq!(message.source, 3);
    assert_eq!(message.drained, 9);
    assert_eq!(message.shed.into_iter().collect::<Vec<_>>(), [("malformed".to_owned(), 2)]);
    assert_eq!(message.dropped.into_iter().collect::<Vec<_>>(), [("spool_full".to_owned(), 3)]);
}
