//! The way into the engine for collectors that make their events themselves.
//!
//! Invariants:
//! - An event is counted as produced and drained once it is in the queue of its shard, or shed.
//! - A port belongs to one thread; the numbers of its events have no gaps.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Lane;
use super::drain::ShardPort;
use super::queue::Full;
use crate::event::{EventBuilder, Source, mix, trace_key};
use crate::ledger::{Ledger, Shed};

/// Queues to every shard for one producer of a source.
#[derive(Debug)]
pub struct Port {
    source: Source,
    shards: Vec<ShardPort>,
    ledger: Arc<Ledger>,
    sequence: u32,
}

impl Port {
    pub(super) fn new(source: Source, shards: Vec<ShardPort>, ledger: Arc<Ledger>) -> Self {
        Self { source, shards, ledger, sequence: 0 }
    }

    /// The source whose events it takes.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// Numbers the event and puts it into the queue of its shard. The shard learns of it with
    /// [`Self::publish`], which the caller owes before it waits for anything.
    ///
    /// # Errors
    /// [`Full`]: nothing happened and nothing was counted. A source that has a position publishes and tries
    /// again later; others call [`Self::shed`].
    pub fn send(&mut self, event: &mut EventBuilder, lane: Lane) -> Result<(), Full> {
        event.header().sequence = self.sequence;
        let key = trace_key(event.header());
        let count = self.shards.len().max(1) as u64;
        let shard = usize::try_from(mix(key) % count).unwrap_or(0);
        let Some(port) = self.shards.get_mut(shard) else { return Err(Full) };
        port.lanes[lane as usize].push(event.finish())?;
        self.sequence = self.sequence.wrapping_add(1);
        self.count(1);
        Ok(())
    }

    /// Wakes the shards that got something.
    pub fn publish(&mut self) {
        for port in &mut self.shards {
            let mut pushed = false;
            for lane in &mut port.lanes {
                pushed |= lane.publish();
            }
            if pushed {
                port.thread.unpark();
            }
        }
    }

    /// Counts events that were made and given up because a queue was full.
    pub fn shed(&mut self, events: u64) {
        self.count(events);
        self.ledger.source(self.source).shed(Shed::QueueFull, events);
    }

    /// Counts events that the source itself lost before anybody here could read them.
    pub fn lost(&mut self, events: u64) {
        let row = self.ledger.source(self.source);
        // Produced first: a reader of both then never sees more lost than produced.
        row.produced.fetch_add(events, Ordering::Relaxed);
        row.ring_lost.fetch_add(events, Ordering::Relaxed);
    }

    fn count(&self, events: u64) {
        let row = self.ledger.source(self.source);
        row.produced.fetch_add(events, Ordering::Relaxed);
        row.drained.fetch_add(events, Ordering::Relaxed);
    }
}

impl Drop for Port {
    /// Wakes the shards to see that this was all.
    fn drop(&mut self) {
        self.publish();
        for port in self.shards.drain(..) {
            let thread = port.thread.clone();
            drop(port);
            thread.unpark();
        }
    }
}
