//! The ledger: counters at every hop whose sums must agree, per source.
//!
//! `produced = ring_lost + drained`, `drained = enriched + shed`,
//! `enriched = acked + spooled + in_flight + dropped`.
//!
//! Each counter has one writing room, which adds once a pass or batch, never once an event: the
//! collector writes `produced`, `ring_lost`; drain `drained`, `shed`; shards `enriched`, `shed`; egress the rest.
//! Every counter is measured where it happens; none is computed from the others to make a sum fit.
//!
//! While the agent runs, events are under way between two counters. A [`LedgerRow`] shows them as `queued` (made and
//! not yet read) and `batching` (read and not yet in a batch): the sums agree with these added, both stay within
//! [`Bounds`], and once everything has stopped both are 0.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::utils::CachePadded;
use serde::{Deserialize, Serialize};

use crate::event::{HEADER_WORDS, Source};
use crate::proto;

macro_rules! reasons {
    ($(#[doc = $doc:literal])+ $name:ident { $( $(#[doc = $variant_doc:literal])+ $variant:ident = $text:literal ),+ $(,)? }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( $(#[doc = $variant_doc])+ $variant ),+ }

        impl $name {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in `status`, metrics and pages.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

reasons! {
    /// Why a drained event was not enriched.
    Shed {
        /// The queue to its shard was full.
        QueueFull = "queue_full",
        /// The record was not an event.
        Malformed = "malformed",
        /// The shard panicked while it held the event.
        WorkerPanic = "worker_panic",
    }
}

reasons! {
    /// Why an enriched event was not delivered.
    Dropped {
        /// Too much was unacked: the server was absent or slow.
        WindowFull = "window_full",
        /// The queue from the shard to egress was full.
        EgressQueueFull = "egress_queue_full",
        /// Still unacked when the deadline of the shutdown passed.
        ShutdownDeadline = "shutdown_deadline",
        /// The spool was at its limit, or its disk failed.
        SpoolFull = "spool_full",
        /// Egress broke down while it held the event.
        WorkerPanic = "worker_panic",
    }
}

/// What became of the events in the even or the odd stretches of a source that has a position.
#[derive(Debug, Default)]
pub struct StretchLedger {
    /// Events the server has stored durably.
    pub acked: AtomicU64,
    /// Events given up after enrichment, for whatever reason.
    pub dropped: AtomicU64,
}

/// The counters of one source.
#[derive(Debug, Default)]
pub struct SourceLedger {
    /// Events that the source made, lost ones included.
    pub produced: CachePadded<AtomicU64>,
    /// Events that did not fit a ring.
    pub ring_lost: CachePadded<AtomicU64>,
    /// Events read.
    pub drained: CachePadded<AtomicU64>,
    /// Events read and given up before enrichment, by reason.
    pub shed: CachePadded<[AtomicU64; Shed::ALL.len()]>,
    /// Events put into a batch.
    pub enriched: CachePadded<AtomicU64>,
    /// Events the server has stored durably.
    pub acked: CachePadded<AtomicU64>,
    /// Events on this host's disk, waiting for the server.
    pub spooled: CachePadded<AtomicI64>,
    /// Events that egress holds in memory: handed over and neither acked, spooled nor dropped.
    pub held: CachePadded<AtomicI64>,
    /// Events given up after enrichment, by reason.
    pub dropped: CachePadded<[AtomicU64; Dropped::ALL.len()]>,
    /// `acked` and `dropped` once more, of even and of odd stretches: what a source reads that keeps a position.
    pub stretches: CachePadded<[StretchLedger; 2]>,
}

impl SourceLedger {
    /// Counts events that were given up before enrichment.
    pub fn shed(&self, reason: Shed, events: u64) {
        self.shed[reason as usize].fetch_add(events, Ordering::Relaxed);
    }

    /// Counts events that were given up after enrichment.
    pub fn drop_events(&self, reason: Dropped, events: u64) {
        self.dropped[reason as usize].fetch_add(events, Ordering::Relaxed);
    }
}

/// The counters of all sources.
#[derive(Debug, Default)]
pub struct Ledger {
    sources: [SourceLedger; Source::ALL.len()],
}

impl Ledger {
    /// The counters of one source.
    #[must_use]
    pub fn source(&self, source: Source) -> &SourceLedger {
        &self.sources[source as usize]
    }

    /// Counts what egress held as given up. Call it when egress is gone and nobody writes any more.
    pub fn drop_held(&self, reason: Dropped) {
        for source in &self.sources {
            let held = source.held.swap(0, Ordering::Relaxed);
            source.drop_events(reason, u64::try_from(held).unwrap_or(0));
        }
    }

    /// The counters of every source, read so that their sums agree: from the end of the path to its beginning, since
    /// what is counted at a hop was counted before it or will be within the writer's pass; and again for as long as a
    /// writer is found between two counters of one event.
    ///
    /// `refresh` brings the counters that the kernel keeps up to date. It is called last, for the same reason.
    /// Waits 10 ms at most, for a writer that does not run now; a row whose sums still disagree then says so.
    #[must_use]
    pub fn snapshot(&self, refresh: impl Fn(&Self)) -> Vec<LedgerRow> {
        let mut rows = self.read(&refresh);
        for _ in 0..READ_ATTEMPTS {
            if rows.iter().all(LedgerRow::is_coherent) {
                break;
            }
            std::thread::sleep(READ_PAUSE);
            rows = self.read(&refresh);
        }
        rows
    }

    fn read(&self, refresh: &impl Fn(&Self)) -> Vec<LedgerRow> {
        let mut rows: Vec<LedgerRow> =
            Source::ALL.iter().map(|source| self.source(*source).downstream()).collect();
        refresh(self);
        for (row, source) in rows.iter_mut().zip(Source::ALL) {
            source.name().clone_into(&mut row.source);
            row.add_upstream(self.source(source));
        }
        rows
    }
}

/// How often and how long a reader waits for a writer that is between two counters.
const READ_ATTEMPTS: u32 = 50;
const READ_PAUSE: Duration = Duration::from_micros(200);

/// Bytes that the kernel adds to each record of a ring.
const RECORD_HEADER: u64 = 8;

impl SourceLedger {
    fn downstream(&self) -> LedgerRow {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let acked = count(&self.acked);
        let dropped = named(Dropped::ALL.iter().map(|reason| reason.name()), &self.dropped[..]);
        let spooled = self.spooled.load(Ordering::Relaxed);
        let in_flight = self.held.load(Ordering::Relaxed);
        let enriched = count(&self.enriched);
        let shed = named(Shed::ALL.iter().map(|reason| reason.name()), &self.shed[..]);
        LedgerRow { acked, dropped, spooled, in_flight, enriched, shed, ..LedgerRow::default() }
    }
}

/// The counters that are not 0, by name.
fn named(names: impl Iterator<Item = &'static str>, counters: &[AtomicU64]) -> BTreeMap<String, u64> {
    let counts = counters.iter().map(|counter| counter.load(Ordering::Relaxed));
    names.zip(counts).filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), count)).collect()
}

/// The ledger of one source at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LedgerRow {
    /// The name of the source.
    pub source: String,
    /// See [`SourceLedger::produced`].
    pub produced: u64,
    /// See [`SourceLedger::ring_lost`].
    pub ring_lost: u64,
    /// See [`SourceLedger::drained`].
    pub drained: u64,
    /// Made and neither lost nor read yet: in a ring. Below 0 only if events were counted twice.
    pub queued: i64,
    /// By reason; those that never happened are left out.
    pub shed: BTreeMap<String, u64>,
    /// See [`SourceLedger::enriched`].
    pub enriched: u64,
    /// Read and neither shed nor enriched yet: in a queue or in an open batch. Below 0 as for `queued`.
    pub batching: i64,
    /// See [`SourceLedger::acked`].
    pub acked: u64,
    /// See [`SourceLedger::spooled`].
    pub spooled: i64,
    /// See [`SourceLedger::held`].
    pub in_flight: i64,
    /// By reason; those that never happened are left out.
    pub dropped: BTreeMap<String, u64>,
}

/// What may be between two counters of a running agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Events that the rings can hold.
    pub queued: u64,
    /// Events that the queues and the open batches can hold.
    pub batching: u64,
}

impl Bounds {
    /// Nothing is under way any more.
    pub const STOPPED: Self = Self { queued: 0, batching: 0 };

    /// What fits the given bytes of rings, words of queues, and events of open batches.
    #[must_use]
    pub fn new(ring_bytes: u64, queue_words: u64, batch_events: u64) -> Self {
        // Every event has a slot behind its header.
        let event_words = HEADER_WORDS as u64 + 1;
        let queued = ring_bytes / (RECORD_HEADER + event_words * 8);
        // What a drain has in hand comes from the rings, and is counted once its pass ends.
        Self { queued, batching: queued + queue_words / event_words + batch_events }
    }
}

impl LedgerRow {
    fn add_upstream(&mut self, counters: &SourceLedger) {
        self.drained = counters.drained.load(Ordering::Relaxed);
        self.ring_lost = counters.ring_lost.load(Ordering::Relaxed);
        self.produced = counters.produced.load(Ordering::Relaxed);
        let settled = self.enriched.wrapping_add(self.shed.values().sum());
        self.batching = self.drained.wrapping_sub(settled).cast_signed();
        self.queued = self.produced.wrapping_sub(self.ring_lost).wrapping_sub(self.drained).cast_signed();
    }

    /// Enriched events that are in none of the places they can go to: 0, or an error.
    #[must_use]
    pub fn unaccounted(&self) -> i64 {
        let settled = self.acked.wrapping_add(self.dropped.values().sum());
        let waiting = self.spooled.wrapping_add(self.in_flight);
        self.enriched.wrapping_sub(settled).cast_signed().wrapping_sub(waiting)
    }

    fn is_coherent(&self) -> bool {
        self.queued >= 0 && self.batching >= 0 && self.unaccounted() == 0
    }

    /// Whether every sum agrees, with no more under way than there is room for.
    #[must_use]
    pub fn closed(&self, bounds: &Bounds) -> bool {
        let within = |gap: i64, bound: u64| u64::try_from(gap).is_ok_and(|gap| gap <= bound);
        within(self.queued, bounds.queued)
            && within(self.batching, bounds.batching)
            && self.unaccounted() == 0
            && self.in_flight >= 0
            && self.spooled >= 0
    }

    /// Events that will never arrive, whatever the reason.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.ring_lost + self.shed.values().sum::<u64>() + self.dropped.values().sum::<u64>()
    }
}

/// Whether every row closes.
#[must_use]
pub fn closed(rows: &[LedgerRow], bounds: &Bounds) -> bool {
    rows.iter().all(|row| row.closed(bounds))
}

impl From<&LedgerRow> for proto::LedgerRow {
    fn from(row: &LedgerRow) -> Self {
        let source = Source::ALL.iter().find(|source| source.name() == row.source);
        Self {
            source: source.map_or(0, |source| i32::from(*source as u8)),
            produced: row.produced,
            ring_lost: row.ring_lost,
            drained: row.drained,
            shed: row.shed.clone().into_iter().collect(),
            enriched: row.enriched,
            acked: row.acked,
            spooled: u64::try_from(row.spooled).unwrap_or(0),
            in_flight: u64::try_from(row.in_flight).unwrap_or(0),
            dropped: row.dropped.clone().into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests;
