//! What the server counts since its start.
//!
//! Invariants:
//! - Counters only grow; each is added to by the one place that sees the thing happen.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $name:literal ),+ $(,)?) => {
        /// A counter.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Counter { $( $(#[doc = $doc])+ $variant ),+ }

        impl Counter {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in `status`; metrics put `tapio_server_` before and `_total` behind it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// What it counts.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+)),+ }
            }
        }
    };
}

counters! {
    /// Streams opened.
    Streams = "streams",
    /// Streams refused: no greeting, a bad one, an epoch that is over, or too many.
    StreamsRefused = "streams_refused",
    /// Batches accepted.
    Batches = "batches",
    /// Events in accepted batches.
    Events = "events",
    /// Bytes of accepted batches.
    Bytes = "bytes",
    /// Batches that were accepted before and came again.
    Duplicates = "duplicate_batches",
    /// Batches refused because their columns do not fit together or their bytes are not a batch.
    Malformed = "malformed_batches",
    /// Batches refused because others before them are missing.
    Gaps = "gaps",
    /// Batches acked to an agent once that this server does not have.
    Forgotten = "forgotten_batches",
    /// Queries answered.
    Queries = "queries",
    /// Queries refused or ended by an error.
    QueriesFailed = "queries_failed",
}

/// The values.
#[derive(Debug, Default)]
pub struct Counters {
    values: [AtomicU64; Counter::ALL.len()],
}

impl Counters {
    /// Adds to a counter.
    pub fn add(&self, counter: Counter, count: u64) {
        self.values[counter as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// The value of a counter.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize].load(Ordering::Relaxed)
    }
}
