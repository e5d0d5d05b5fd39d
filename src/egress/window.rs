//! The window: batches that the server has not acked yet, bounded in bytes.
//!
//! A batch waits without a number until it is sent for the first time, so it can still be given up
//! without a hole in the numbering. Once numbered it is kept until acked, and sent again after a reconnect.
//!
//! Invariants:
//! - Numbers have no gaps, and the numbered batches are the consecutive ones behind the last ack.
//! - Over the bound, the oldest unsent batch that is not urgent is given up first, then the oldest
//!   unsent urgent one; a numbered batch never is.

use std::collections::VecDeque;
use std::ops::AddAssign;
use std::sync::atomic::Ordering;

use super::batch::Sealed;
use crate::event::Source;
use crate::ledger::{Dropped, Ledger};
use crate::proto::EventBatch;

/// Batches that left the path together: acked, or given up.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Events, by source number.
    pub counts: [u64; Source::ALL.len()],
    /// Those of them in odd stretches.
    pub odd: [u64; Source::ALL.len()],
}

impl From<&Sealed> for Settled {
    fn from(sealed: &Sealed) -> Self {
        Self { counts: sealed.counts.map(u64::from), odd: sealed.odd.map(u64::from) }
    }
}

impl AddAssign for Settled {
    fn add_assign(&mut self, other: Self) {
        for (sum, count) in self.counts.iter_mut().zip(other.counts) {
            *sum += count;
        }
        for (sum, count) in self.odd.iter_mut().zip(other.odd) {
            *sum += count;
        }
    }
}

impl Settled {
    fn add(&mut self, sealed: &Sealed) {
        *self += Self::from(sealed);
    }

    /// Counts the events as stored by the server.
    pub fn count_acked(&self, ledger: &Ledger) {
        for (source, count, odd) in self.by_source() {
            let row = ledger.source(source);
            row.acked.fetch_add(count, Ordering::Relaxed);
            row.held.fetch_sub(count.cast_signed(), Ordering::Relaxed);
            for (stretch, events) in row.stretches.iter().zip([count - odd, odd]) {
                stretch.acked.fetch_add(events, Ordering::Relaxed);
            }
        }
    }

    /// Counts the events as given up.
    pub fn count_dropped(&self, ledger: &Ledger, reason: Dropped) {
        for (source, count, odd) in self.by_source() {
            let row = ledger.source(source);
            row.drop_events(reason, count);
            row.held.fetch_sub(count.cast_signed(), Ordering::Relaxed);
            for (stretch, events) in row.stretches.iter().zip([count - odd, odd]) {
                stretch.dropped.fetch_add(events, Ordering::Relaxed);
            }
        }
    }

    /// Events and odd ones of each source that has some.
    fn by_source(&self) -> impl Iterator<Item = (Source, u64, u64)> {
        let rows = Source::ALL.into_iter().zip(self.counts).zip(self.odd);
        rows.map(|((source, count), odd)| (source, count, odd)).filter(|&(_, count, _)| count > 0)
    }

    /// Whether nothing left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|&count| count == 0)
    }
}

/// An ack that cannot be: the connection is of no use, the batches are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server acked batch {acked}, but {sent} is the last one sent; check that the endpoint is a tapio-server"
)]
pub struct AckError {
    /// What it said.
    pub acked: u64,
    /// The highest number that makes sense.
    pub sent: u64,
}

/// The window of one epoch.
#[derive(Debug)]
pub struct Window {
    bytes_max: usize,
    /// Bytes of all batches in it, and of the numbered ones.
    bytes: usize,
    numbered_bytes: usize,
    /// Not numbered yet: ordinary, urgent.
    waiting: [VecDeque<Sealed>; 2],
    /// Numbered, oldest first.
    numbered: VecDeque<Sealed>,
    /// How many of `numbered` went out on the present connection.
    sent: usize,
    last_number: u64,
}

impl Window {
    /// An empty window of at most `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            numbered_bytes: 0,
            waiting: [VecDeque::new(), VecDeque::new()],
            numbered: VecDeque::new(),
            sent: 0,
            last_number: 0,
        }
    }

    /// Takes a batch in; returns what had to be given up for it.
    pub fn offer(&mut self, sealed: Sealed) -> Settled {
        self.bytes += sealed.bytes;
        self.waiting[usize::from(sealed.urgent)].push_back(sealed);
        let mut dropped = Settled::default();
        while self.bytes > self.bytes_max {
            let [ordinary, urgent] = &mut self.waiting;
            let Some(oldest) = ordinary.pop_front().or_else(|| urgent.pop_front()) else { break };
            self.bytes -= oldest.bytes;
            dropped.add(&oldest);
        }
        dropped
    }

    /// The next batch to send, if the server wants at most `unacked_max` bytes unacked (0: no wish).
    pub fn next(&mut self, unacked_max: u64) -> Option<EventBatch> {
        if !self.has_next(unacked_max) {
            return None;
        }
        if self.sent == self.numbered.len() {
            let [ordinary, urgent] = &mut self.waiting;
            let mut sealed = urgent.pop_front().or_else(|| ordinary.pop_front())?;
            self.last_number += 1;
            sealed.batch.sequence = self.last_number;
            self.numbered_bytes += sealed.bytes;
            self.numbered.push_back(sealed);
        }
        self.sent += 1;
        // The columns are shared, not copied.
        self.numbered.get(self.sent - 1).map(|sealed| sealed.batch.clone())
    }

    /// Whether [`Self::next`] has something.
    #[must_use]
    pub fn has_next(&self, unacked_max: u64) -> bool {
        let wanted = unacked_max == 0 || self.sent == 0 || (self.numbered_bytes as u64) < unacked_max;
        self.sent < self.numbered.len() || wanted && self.waiting.iter().any(|lane| !lane.is_empty())
    }

    /// Settles every batch up to the number `acked`.
    ///
    /// # Errors
    /// [`AckError`] for a batch that was not sent on this connection. Reconnect; nothing was settled.
    pub fn ack(&mut self, acked: u64) -> Result<Settled, AckError> {
        let first = self.last_number + 1 - self.numbered.len() as u64;
        let sent = first + self.sent as u64 - 1;
        if acked > sent {
            return Err(AckError { acked, sent });
        }
        let mut settled = Settled::default();
        for _ in first..=acked {
            let Some(sealed) = self.numbered.pop_front() else { break };
            self.sent -= 1;
            self.bytes -= sealed.bytes;
            self.numbered_bytes -= sealed.bytes;
            settled.add(&sealed);
        }
        Ok(settled)
    }

    /// A new connection: every numbered batch goes out again, but for those the server has already.
    ///
    /// # Errors
    /// [`AckError`] for a batch that never had a number.
    pub fn restart(&mut self, acked: u64) -> Result<Settled, AckError> {
        // The first ack of a connection may name batches of the one before.
        self.sent = self.numbered.len();
        let settled = self.ack(acked);
        self.sent = 0;
        settled
    }

    /// Gives up everything that is left.
    pub fn abandon(&mut self) -> Settled {
        let mut dropped = Settled::default();
        for sealed in self.numbered.drain(..).chain(self.waiting.iter_mut().flat_map(|lane| lane.drain(..))) {
            dropped.add(&sealed);
        }
        (self.bytes, self.numbered_bytes, self.sent) = (0, 0, 0);
        dropped
    }

    /// Batches in it.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.numbered.len() + self.waiting.iter().map(VecDeque::len).sum::<usize>()
    }

    /// Their bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(events: u32, bytes: usize, urgent: bool) -> Sealed {
        Sealed { batch: EventBatch::default(), counts: [events, 0, 0, 0, 0], odd: [0; 5], bytes, urgent }
    }

    fn number(window: &mut Window) -> Option<u64> {
        window.next(0).map(|batch| batch.sequence)
    }

    /// Scenario: three batches go out, one is acked, the connection breaks, the next one knows of the second.
    /// Guarantees: exactly the third is sent again, under its number.
    #[test]
    fn a_reconnect_resends_what_is_unacked() {
        let mut window = Window::new(1000);
        for events in 1..=3 {
            window.offer(sealed(events, 10, false));
            assert_eq!(number(&mut window), Some(u64::from(events)));
        }
        assert_eq!(window.ack(1).expect("sent").counts[0], 1);
        assert_eq!(window.restart(2).expect("numbered").counts[0], 2);
        assert_eq!(number(&mut window), Some(3));
        assert_eq!(number(&mut window), None);
        assert_eq!(window.ack(3).expect("sent").counts[0], 3);
        assert_eq!((window.batches(), window.bytes()), (0, 0));
    }

    /// Scenario: acks of batches that were never sent, and old ones again.
    /// Guarantees: the first are errors that settle nothing, the second settle nothing.
    #[test]
    fn nonsense_acks_settle_nothing() {
        let mut window = Window::new(1000);
        window.offer(sealed(5, 10, false));
        assert_eq!(window.ack(1), Err(AckError { acked: 1, sent: 0 }));
        assert_eq!(number(&mut window), Some(1));
        assert_eq!(window.ack(u64::MAX), Err(AckError { acked: u64::MAX, sent: 1 }));
        assert_eq!(window.restart(7), Err(AckError { acked: 7, sent: 1 }));
        assert_eq!(number(&mut window), Some(1));
        assert_eq!(window.ack(1).expect("sent").counts[0], 5);
        assert!(window.ack(1).expect("old").is_empty());
        assert!(window.ack(0).expect("old").is_empty());
    }

    /// Scenario: the server is absent and the window overflows with ordinary and urgent batches, one is numbered.
    /// Guarantees: ordinary ones go first, oldest first; urgent and numbered ones stay; the bound holds.
    #[test]
    fn overflow_gives_up_the_least() {
        let mut window = Window::new(100);
        window.offer(sealed(1, 40, false));
        assert_eq!(number(&mut window), Some(1));
        assert!(window.offer(sealed(10, 20, true)).is_empty());
        assert!(window.offer(sealed(100, 40, false)).is_empty());
        assert_eq!(window.offer(sealed(1000, 40, false)).counts[0], 100);
        assert_eq!(window.offer(sealed(10_000, 40, true)).counts[0], 1000);
        // 40 bytes too many: the urgent batch of 20 is not enough, the next oldest goes too.
        assert_eq!(window.offer(sealed(100_000, 40, true)).counts[0], 10_010);
        assert!(window.bytes() <= 100);
        assert_eq!(window.abandon().counts[0], 100_001);
        assert_eq!((window.batches(), window.bytes()), (0, 0));
    }

    /// Scenario: the server wants 50 bytes unacked at most, then acks.
    /// Guarantees: no new batch goes out beyond that, and one does after the ack; urgent ones go first.
    #[test]
    fn flow_control_holds_back() {
        let mut window = Window::new(1000);
        window.offer(sealed(1, 60, false));
        window.offer(sealed(2, 60, false));
        window.offer(sealed(4, 60, true));
        assert_eq!(window.next(50).map(|batch| batch.sequence), Some(1));
        assert!(!window.has_next(50));
        assert_eq!(window.ack(1).expect("sent").counts[0], 4);
        assert!(window.has_next(50));
    }
}
