//! The reader of one BPF ring: a record at a time, in place, no copy, no system call.
//!
//! Invariants:
//! - A record is shown only after its busy bit was seen clear; one uncommitted record holds back all
//!   behind it, as the kernel defines.
//! - The consumer position moves only forward, at least every [`COMMIT_BYTES`], never past a record that was not read.
//! - There is one reader a ring: `drain` takes `&mut self`.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use super::ring_memory::RingMemory;
use crate::event::EVENT_WORDS_MAX;

const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
const HEADER_BYTES: u64 = 8;

/// The consumer position is published after this many bytes, so that a long pass frees space as it goes.
pub const COMMIT_BYTES: u64 = 64 << 10;

/// What one pass read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pass {
    /// Records shown to the callback and taken by it.
    pub records: u64,
    /// Records longer than any event, skipped.
    pub oversized: u64,
    /// Bytes of the ring freed.
    pub bytes: u64,
}

/// A mapped BPF ring.
#[derive(Debug)]
pub struct Ring {
    memory: RingMemory,
    position: u64,
    scratch: Box<[u64; EVENT_WORDS_MAX]>,
    fd: OwnedFd,
}

impl Ring {
    /// Maps the ring behind `fd`, whose data is `data_bytes` long (a power of two, whole pages).
    ///
    /// # Errors
    /// Of `mmap(2)`; `EINVAL` for a size that is not a power of two of whole pages.
    pub fn map(fd: OwnedFd, data_bytes: usize) -> std::io::Result<Self> {
        let memory = RingMemory::map(fd.as_fd(), data_bytes)?;
        Ok(Self::over(memory, fd))
    }

    pub(crate) fn over(memory: RingMemory, fd: OwnedFd) -> Self {
        let position = memory.consumer().load(Ordering::Relaxed);
        Self { memory, position, scratch: Box::new([0; EVENT_WORDS_MAX]), fd }
    }

    /// Bytes of data the ring holds.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.memory.mask() + 1
    }

    /// Bytes produced and not yet read.
    #[must_use]
    pub fn fill(&self) -> u64 {
        self.memory.producer().load(Ordering::Relaxed).wrapping_sub(self.position)
    }

    /// Shows every record there is to `take`, oldest first, until it breaks; the record at which it
    /// breaks stays in the ring and comes again.
    pub fn drain(&mut self, mut take: impl FnMut(&[u64]) -> ControlFlow<()>) -> Pass {
        let mut pass = Pass::default();
        let start = self.position;
        let mut committed = start;
        // Acquire: pairs with the kernel's Release of the position; the headers below it are written.
        let produced = self.memory.producer().load(Ordering::Acquire);
        while self.position < produced {
            // Acquire: pairs with the exchange at submit; a clear busy bit means the data is written.
            let header = self.memory.record_header(self.position).load(Ordering::Acquire);
            if header & BUSY != 0 {
                break;
            }
            let bytes = u64::from(header & !(BUSY | DISCARDED));
            let at = self.position;
            // Moved before the record is shown: one that makes the callback panic does not come again.
            self.position += (bytes + HEADER_BYTES).next_multiple_of(8);
            if header & DISCARDED == 0 {
                match self.show(at + HEADER_BYTES, bytes, &mut take) {
                    Some(ControlFlow::Continue(())) => pass.records += 1,
                    Some(ControlFlow::Break(())) => {
                        self.position = at;
                        break;
                    }
                    None => pass.oversized += 1,
                }
            }
            if self.position - committed >= COMMIT_BYTES {
                committed = self.position;
                self.commit();
            }
        }
        if self.position != committed {
            self.commit();
        }
        pass.bytes = self.position - start;
        pass
    }

    /// Shows the record whose data is at `at`; `None` when it is too long to be an event.
    #[inline]
    fn show(
        &mut self,
        at: u64,
        bytes: u64,
        take: &mut impl FnMut(&[u64]) -> ControlFlow<()>,
    ) -> Option<ControlFlow<()>> {
        let words = usize::try_from(bytes / 8).ok()?;
        if words > EVENT_WORDS_MAX {
            return None;
        }
        // SAFETY: `drain` saw the busy bit clear with Acquire and commits the position only after this.
        let head = unsafe { self.memory.words(at, words) };
        if head.len() == words {
            return Some(take(head));
        }
        // The record wraps. Its rest starts at the first byte of the data.
        let (first, rest) = self.scratch.get_mut(..words)?.split_at_mut(head.len());
        first.copy_from_slice(head);
        // SAFETY: the same record, not committed yet.
        rest.copy_from_slice(unsafe { self.memory.words(at + head.len() as u64 * 8, rest.len()) });
        Some(take(&self.scratch[..words]))
    }

    fn commit(&self) {
        // Release: pairs with the kernel's Acquire when it looks for space; our reads are over.
        self.memory.consumer().store(self.position, Ordering::Release);
    }
}

impl AsFd for Ring {
    /// The map, which epoll reports readable when a record was submitted with a wake-up.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Rings on the heap, for tests that need to see both ends.
#[cfg(test)]
pub(crate) mod testing {
    pub(crate) use super::super::ring_memory::HeapProducer;
    use super::super::ring_memory::heap;
    use super::Ring;

    /// A ring of `data_words` words, a power of two, and the kernel's end of it.
    pub(crate) fn ring(data_words: usize) -> (Ring, HeapProducer) {
        let (memory, producer) = heap(data_words);
        // Something that epoll can watch and Miri can make.
        let (fd, _) = std::os::unix::net::UnixStream::pair().expect("sockets");
        (Ring::over(memory, fd.into()), producer)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::ring;
    use super::*;

    fn read(ring: &mut Ring) -> Vec<Vec<u64>> {
        let mut records = Vec::new();
        ring.drain(|words| {
            records.push(words.to_vec());
            ControlFlow::Continue(())
        });
        records
    }

    /// Scenario: records of changing length around a small ring many times.
    /// Guarantees: each comes out once, in order, whole, also the ones that wrap.
    #[test]
    fn records_survive_the_wrap() {
        let (mut ring, producer) = ring(32);
        for round in 0..200_u64 {
            let words: Vec<u64> = (0..1 + round % 7).map(|word| round * 100 + word).collect();
            let at = producer.reserve(words.len()).expect("space");
            producer.commit(at, &words, 0);
            assert_eq!(read(&mut ring), [words]);
        }
    }

    /// Scenario: the second of three records is not committed yet; the first is discarded.
    /// Guarantees: nothing at or behind a busy record is shown, a discarded one never, and nothing is skipped.
    #[test]
    fn a_busy_record_holds_back_the_rest() {
        let (mut ring, producer) = ring(64);
        let [first, second, third] = [1, 2, 3].map(|words| producer.reserve(words).expect("space"));
        producer.commit(third, &[3, 3, 3], 0);
        producer.commit(first, &[1], DISCARDED);
        assert!(read(&mut ring).is_empty());
        producer.commit(second, &[2, 2], 0);
        assert_eq!(read(&mut ring), [vec![2, 2], vec![3, 3, 3]]);
        assert_eq!(ring.fill(), 0);
    }

    /// Scenario: the callback breaks at the second record.
    /// Guarantees: that record stays and comes again.
    #[test]
    fn a_break_keeps_the_record() {
        let (mut ring, producer) = ring(64);
        for value in 0..3 {
            let at = producer.reserve(1).expect("space");
            producer.commit(at, &[value], 0);
        }
        let pass =
            ring.drain(|words| if words == [1] { ControlFlow::Break(()) } else { ControlFlow::Continue(()) });
        assert_eq!(pass, Pass { records: 1, oversized: 0, bytes: 16 });
        assert_eq!(read(&mut ring), [[1], [2]]);
    }

    /// Scenario: a producer thread fills the ring while the reader drains it.
    /// Guarantees: no record is lost, torn or shown twice (Miri checks that there is no data race).
    #[test]
    fn concurrent_records_arrive_whole() {
        let (mut ring, producer) = ring(64);
        let records: u64 = if cfg!(miri) { 60 } else { 20_000 };
        let feeder = std::thread::spawn(move || {
            for value in 0..records {
                let words = [value; 3];
                loop {
                    if let Some(at) = producer.reserve(3) {
                        producer.commit(at, &words, 0);
                        break;
                    }
                    std::thread::yield_now();
                }
            }
        });
        let mut next = 0;
        while next < records {
            ring.drain(|words| {
                assert_eq!(words, [next; 3]);
                next += 1;
                ControlFlow::Continue(())
            });
            std::thread::yield_now();
        }
        feeder.join().expect("no panic");
    }
}
