//! The ledger: counters at every hop whose sums must agree, per source.
//!
//! `produced = ring_lost + drained`, `drained = enriched + shed`,
//! `enriched = acked + spooled + in_flight + dropped`.
//!
//! Each counter has one writing room, which adds once a pass or batch, never once an event: the
//! collector writes `produced`, `ring_lost`; drain `drained`, `shed`; shards `enriched`, `shed`; egress the rest.
//! Every counter is measured where it happens; none is computed from the others to make a sum fit.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use crate::event::Source;

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
    }
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
    /// Events handed to egress.
    pub batched: CachePadded<AtomicU64>,
    /// Events given up after enrichment, by reason.
    pub dropped: CachePadded<[AtomicU64; Dropped::ALL.len()]>,
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
}
