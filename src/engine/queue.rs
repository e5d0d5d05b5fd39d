//! Queues between threads: bounded, single producer, single consumer, counted.
//!
//! [`words`] carries events of any length as 8-byte words, [`batches`] carries owned values. A full
//! queue refuses and leaves the decision to the producer, who counts it.
//!
//! Invariants:
//! - An event is in a queue whole or not at all.
//! - No other file imports rtrb.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use crate::event::EVENT_WORDS_MAX;

/// Why a push did nothing: there is no space now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full")]
pub struct Full;

/// Events pushed and popped, for the ledger.
#[derive(Debug, Default)]
pub struct QueueCounters {
    /// Events that went in.
    pub pushed: CachePadded<AtomicU64>,
    /// Events that came out.
    pub popped: CachePadded<AtomicU64>,
}

/// The sending end of a queue of events.
#[derive(Debug)]
pub struct WordSender {
    producer: rtrb::Producer<u64>,
    counters: Arc<QueueCounters>,
    unpublished: u64,
}

/// The receiving end of a queue of events.
#[derive(Debug)]
pub struct WordReceiver {
    consumer: rtrb::Consumer<u64>,
    counters: Arc<QueueCounters>,
    scratch: Box<[u64; EVENT_WORDS_MAX]>,
}

/// A queue of events that holds `capacity` words, at least one event of the greatest length.
#[must_use]
pub fn words(capacity: usize) -> (WordSender, WordReceiver) {
    let (producer, consumer) = rtrb::RingBuffer::new(capacity.max(EVENT_WORDS_MAX));
    let counters = Arc::new(QueueCounters::default());
    let sender = WordSender { producer, counters: Arc::clone(&counters), unpublished: 0 };
    (sender, WordReceiver { consumer, counters, scratch: Box::new([0; EVENT_WORDS_MAX]) })
}

impl WordSender {
    /// Puts one event in. Its second word half of the header says how long it is, so the caller has
    /// checked that `event` is as long as its header says.
    ///
    /// # Errors
    /// [`Full`]: nothing was put in.
    #[inline]
    pub fn push(&mut self, event: &[u64]) -> Result<(), Full> {
        self.producer.push_entire_slice(event).map_err(|_| Full)?;
        self.unpublished += 1;
        Ok(())
    }

    /// Adds the events pushed since the last call to the counter; true if there were any.
    pub fn publish(&mut self) -> bool {
        let events = std::mem::take(&mut self.unpublished);
        self.counters.pushed.fetch_add(events, Ordering::Relaxed);
        events > 0
    }

    /// What went in and came out.
    #[must_use]
    pub fn counters(&self) -> &Arc<QueueCounters> {
        &self.counters
    }

    /// The receiver is gone.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.producer.is_abandoned()
    }
}

impl WordReceiver {
    /// Takes every event that is in the queue now, oldest first, and shows it to `take`, at most about
    /// `words_max` words. An event is counted as popped before it is shown, so that one that makes
    /// `take` panic does not come again. Returns the number of events.
    pub fn drain(&mut self, words_max: usize, mut take: impl FnMut(&[u64])) -> u64 {
        let available = self.consumer.slots().min(words_max.max(EVENT_WORDS_MAX));
        let Ok(chunk) = self.consumer.read_chunk(available) else { return 0 };
        let mut walk = Walk { chunk: Some(chunk), read: 0, events: 0, counters: &self.counters };
        let Some(chunk) = &walk.chunk else { return 0 };
        let (head, tail) = chunk.as_slices();
        while walk.read < head.len() + tail.len() {
            let Some(words) = length(head, tail, walk.read) else { break };
            let end = walk.read + words;
            let event = if end <= head.len() {
                &head[walk.read..end]
            } else if walk.read >= head.len() {
                &tail[walk.read - head.len()..end - head.len()]
            } else {
                let (first, rest) = self.scratch[..words].split_at_mut(head.len() - walk.read);
                first.copy_from_slice(&head[walk.read..]);
                rest.copy_from_slice(&tail[..rest.len()]);
                &self.scratch[..words]
            };
            walk.read = end;
            walk.events += 1;
            take(event);
        }
        walk.events
    }

    /// Nothing is in the queue now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.consumer.is_empty()
    }

    /// The sender is gone: once empty, the queue stays so.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.consumer.is_abandoned()
    }
}

/// The length of the event that starts at word `at` of the two slices, when it is whole.
#[inline]
fn length(head: &[u64], tail: &[u64], at: usize) -> Option<usize> {
    // The fifth word holds kind, words, producer, source, flags from its low end.
    let word = |index: usize| head.get(index).or_else(|| tail.get(index - head.len())).copied();
    let words = usize::from(u16::try_from(word(at + 4)? >> 16 & 0xffff).unwrap_or(0));
    (words > 0 && words <= EVENT_WORDS_MAX && at + words <= head.len() + tail.len()).then_some(words)
}

/// Commits what was read when it goes out of scope, also when `take` panics.
struct Walk<'queue> {
    chunk: Option<rtrb::chunks::ReadChunk<'queue, u64>>,
    read: usize,
    events: u64,
    counters: &'queue QueueCounters,
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        self.counters.popped.fetch_add(self.events, Ordering::Relaxed);
        if let Some(chunk) = self.chunk.take() {
            chunk.commit(self.read);
        }
    }
}

/// The sending end of a queue of owned values.
#[derive(Debug)]
pub struct BatchSender<T>(rtrb::Producer<T>);

/// The receiving end of a queue of owned values.
#[derive(Debug)]
pub struct BatchReceiver<T>(rtrb::Consumer<T>);

/// A queue of at most `capacity` values.
#[must_use]
pub fn batches<T>(capacity: usize) -> (BatchSender<T>, BatchReceiver<T>) {
    let (producer, consumer) = rtrb::RingBuffer::new(capacity);
    (BatchSender(producer), BatchReceiver(consumer))
}

impl<T> BatchSender<T> {
    /// Puts one value in, or gives it back when the queue is full.
    ///
    /// # Errors
    /// The value: nothing was put in.
    pub fn push(&mut self, value: T) -> Result<(), T> {
        self.0.push(value).map_err(|rtrb::PushError::Full(value)| value)
    }
}

impl<T> BatchReceiver<T> {
    /// Takes the oldest value.
    pub fn pop(&mut self) -> Option<T> {
        self.0.pop().ok()
    }

    /// Nothing is in the queue now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sender is gone and nothing is left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        // In this order: what was pushed before the sender left is then seen.
        self.0.is_abandoned() && self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(words: u16, value: u64) -> Vec<u64> {
        let mut event = vec![value; usize::from(words)];
        event[4] = u64::from(words) << 16;
        event
    }

    /// Scenario: events of changing length go through a small queue many times.
    /// Guarantees: each comes out once, in order, whole, also where it wraps; the counters agree.
    #[test]
    fn events_survive_the_wrap() {
        let (mut sender, mut receiver) = words(0);
        let rounds: u64 = if cfg!(miri) { 60 } else { 2000 };
        for round in 0..rounds {
            let sent = [event(5 + (round % 90) as u16, round), event(7, round)];
            for event in &sent {
                sender.push(event).expect("space");
            }
            let mut received = Vec::new();
            receiver.drain(usize::MAX, |event| received.push(event.to_vec()));
            assert_eq!(received, sent);
        }
        assert!(sender.publish());
        assert_eq!(sender.counters().pushed.load(Ordering::Relaxed), 2 * rounds);
        assert_eq!(sender.counters().popped.load(Ordering::Relaxed), 2 * rounds);
    }

    /// Scenario: the consumer panics at the second of three events.
    /// Guarantees: the third comes next: neither lost nor shown twice.
    #[test]
    fn a_panic_loses_one_event() {
        let (mut sender, mut receiver) = words(0);
        for value in 1..4 {
            sender.push(&event(6, value)).expect("space");
        }
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            receiver.drain(usize::MAX, |event| assert_ne!(event[0], 2, "injected"));
        }));
        assert!(caught.is_err());
        let mut left = Vec::new();
        receiver.drain(usize::MAX, |event| left.push(event[0]));
        assert_eq!(left, [3]);
        assert_eq!(sender.counters().popped.load(Ordering::Relaxed), 3);
    }

    /// Scenario: a queue is filled to the brim.
    /// Guarantees: the push that does not fit changes nothing.
    #[test]
    fn full_refuses_whole_events() {
        let (mut sender, mut receiver) = words(EVENT_WORDS_MAX);
        let mut pushed = 0;
        while sender.push(&event(100, pushed)).is_ok() {
            pushed += 1;
        }
        let mut received = 0;
        receiver.drain(usize::MAX, |event| {
            assert_eq!(event[0], received);
            received += 1;
        });
        assert_eq!((received, receiver.is_empty()), (pushed, true));
    }
}
