//! The memory of a BPF ring as the kernel lays it out, and a heap stand-in of the same layout.
//!
//! Invariants:
//! - `data` is `mask + 1` bytes, a power of two, 8-byte aligned, valid as long as `self`.
//! - Bytes between the consumer and the producer position are written by the producer only before it
//!   clears the busy bit of their record, and not again until the consumer position has passed them.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::io::Result;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A mapped ring. The data is mapped once, not twice as the kernel would allow: resident memory is
/// half, and the one record that wraps is put together by the reader.
#[derive(Debug)]
pub(crate) struct RingMemory {
    consumer: Mapping,
    /// The producer's page, then the data.
    producer: Mapping,
    data_offset: usize,
    mask: u64,
}

/// An owned range of mapped memory.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    Kernel,
    /// Keeps the allocation of the heap stand-in alive.
    #[cfg(test)]
    Heap(#[expect(dead_code, reason = "held for its drop")] std::sync::Arc<HeapRange>),
}

// SAFETY: a mapping is plain shared memory that any thread may access; all access through it is atomic
// or to bytes that the ring protocol gives to the reader.
unsafe impl Send for Mapping {}

// SAFETY: as for Send; `&Mapping` allows no access that another thread's would race with.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` of `fd` at `offset`.
    pub(super) fn new(fd: BorrowedFd<'_>, offset: u64, bytes: usize, protection: ProtFlags) -> Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses overlaps nothing of ours.
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, fd, offset)? };
        let start = NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self { start, bytes, backing: Backing::Kernel })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The `index`-th 8-byte word, as an atomic.
    pub(super) fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.bytes / 8, "word {index} lies outside a mapping of {} bytes", self.bytes);
        // SAFETY: `index` was checked against the size, so the pointer stays inside the mapping.
        let word = unsafe { self.start.cast::<u64>().add(index) };
        // SAFETY: the mapping is page-aligned (the heap stand-in 8-byte aligned), lives as long as
        // `self`, and every access to positions and counters is atomic on both sides.
        unsafe { AtomicU64::from_ptr(word.as_ptr()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if matches!(self.backing, Backing::Kernel) {
            // SAFETY: the range was mapped by `new` and no borrow of it outlives `self`.
            let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
            // The only failure is a bad range, which `new` rules out; memory would stay mapped.
            debug_assert!(unmapped.is_ok());
        }
    }
}

impl RingMemory {
    /// Maps the ring behind `fd`, whose data is `data_bytes` long (a power of two, whole pages).
    pub(super) fn map(fd: BorrowedFd<'_>, data_bytes: usize) -> Result<Self> {
        let page = rustix::param::page_size();
        if !data_bytes.is_power_of_two() || !data_bytes.is_multiple_of(page) {
            return Err(rustix::io::Errno::INVAL);
        }
        let consumer = Mapping::new(fd, 0, page, ProtFlags::READ | ProtFlags::WRITE)?;
        let producer = Mapping::new(fd, page as u64, page + data_bytes, ProtFlags::READ)?;
        Ok(Self { consumer, producer, data_offset: page, mask: data_bytes as u64 - 1 })
    }

    pub(super) fn consumer(&self) -> &AtomicU64 {
        self.consumer.word(0)
    }

    pub(super) fn producer(&self) -> &AtomicU64 {
        self.producer.word(0)
    }

    pub(super) fn mask(&self) -> u64 {
        self.mask
    }

    /// The length word of the record at `position`, which is a multiple of 8.
    #[inline]
    pub(super) fn record_header(&self, position: u64) -> &AtomicU32 {
        // SAFETY: the masked position is inside the data, and 4 bytes fit since it is a multiple of 8.
        let header = unsafe { self.at(position) };
        // SAFETY: 8-byte aligned, valid while `self` lives, and the kernel writes it atomically.
        unsafe { AtomicU32::from_ptr(header.cast::<u32>().as_ptr()) }
    }

    /// The words from `position` to the end of the record or of the data, whichever comes first.
    ///
    /// # Safety
    /// The bytes belong to a record whose busy bit was seen clear with Acquire, and the consumer
    /// position is not moved past them while the slice lives.
    #[inline]
    pub(super) unsafe fn words(&self, position: u64, words: usize) -> &[u64] {
        let to_end = ((self.mask + 1 - (position & self.mask)) / 8) as usize;
        // SAFETY: the masked position is inside the data.
        let start = unsafe { self.at(position) };
        // SAFETY: aligned, in bounds by the minimum, and not written while borrowed, by the contract above.
        unsafe { std::slice::from_raw_parts(start.cast::<u64>().as_ptr(), words.min(to_end)) }
    }

    /// # Safety
    /// None beyond `self`: `position` is masked. Unsafe only because it does pointer arithmetic.
    #[inline]
    unsafe fn at(&self, position: u64) -> NonNull<u8> {
        #[expect(clippy::cast_possible_truncation, reason = "masked to the data size, which is a usize")]
        let offset = (position & self.mask & !7) as usize;
        // SAFETY: `data_offset + offset` is less than the length of the mapping.
        unsafe { self.producer.start.add(self.data_offset + offset) }
    }
}

#[cfg(test)]
pub(crate) use heap::HeapProducer;
#[cfg(test)]
pub(super) use heap::{HeapRange, heap};

#[cfg(test)]
mod heap {
    use std::cell::UnsafeCell;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::{AtomicU32, AtomicU64, Backing, Mapping, NonNull, RingMemory};

    const BUSY: u32 = 1 << 31;

    /// An allocation laid out as a ring: a consumer word, a producer word, the data.
    #[derive(Debug)]
    pub(in super::super) struct HeapRange(Box<[UnsafeCell<u64>]>);

    // SAFETY: positions and headers are accessed atomically; data by the ring protocol.
    unsafe impl Send for HeapRange {}

    // SAFETY: as for Send.
    unsafe impl Sync for HeapRange {}

    impl HeapRange {
        fn pointer(&self) -> NonNull<u8> {
            // The whole slice's pointer, so that its provenance covers every word.
            NonNull::from(&*self.0).cast()
        }
    }

    fn part(range: &Arc<HeapRange>, word: usize, bytes: usize) -> Mapping {
        // SAFETY: callers pass words inside the allocation.
        let start = unsafe { range.pointer().add(word * 8) };
        Mapping { start, bytes, backing: Backing::Heap(Arc::clone(range)) }
    }

    /// A ring on the heap with `data_words` (a power of two) of data, and the kernel's half of the protocol.
    pub(in super::super) fn heap(data_words: usize) -> (RingMemory, HeapProducer) {
        let range = Arc::new(HeapRange((0..2 + data_words).map(|_| UnsafeCell::new(0)).collect()));
        let mask = data_words as u64 * 8 - 1;
        let memory = RingMemory {
            consumer: part(&range, 0, 8),
            producer: part(&range, 1, 8 + data_words * 8),
            data_offset: 8,
            mask,
        };
        (memory, HeapProducer { range, mask })
    }

    /// Does to a heap ring what the kernel does to a BPF ring.
    pub(crate) struct HeapProducer {
        range: Arc<HeapRange>,
        mask: u64,
    }

    impl HeapProducer {
        fn word(&self, index: usize) -> &AtomicU64 {
            // SAFETY: callers pass words inside the allocation.
            let word = unsafe { self.range.pointer().cast::<u64>().add(index) };
            // SAFETY: aligned, alive, and only accessed atomically or by the ring protocol.
            unsafe { AtomicU64::from_ptr(word.as_ptr()) }
        }

        fn header(&self, position: u64) -> &AtomicU32 {
            let word = self.word(2 + usize::try_from((position & self.mask) / 8).expect("small"));
            // SAFETY: the low half of an aligned word (little endian), alive, accessed atomically.
            unsafe { AtomicU32::from_ptr(word.as_ptr().cast()) }
        }

        /// Reserves a record; `None` when the ring is full.
        pub(crate) fn reserve(&self, words: usize) -> Option<u64> {
            let need = words as u64 * 8 + 8;
            let produced = self.word(1).load(Ordering::Relaxed);
            // Acquire: pairs with the reader's Release of the consumer position; its reads are over.
            let consumed = self.word(0).load(Ordering::Acquire);
            if produced + need - consumed > self.mask + 1 {
                return None;
            }
            let length = u32::try_from(words * 8).expect("small");
            self.header(produced).store(length | BUSY, Ordering::Relaxed);
            // Release: the reader that sees the new position sees the busy header.
            self.word(1).store(produced + need, Ordering::Release);
            Some(produced)
        }

        /// Fills a reserved record and hands it over.
        pub(crate) fn commit(&self, position: u64, words: &[u64], flags: u32) {
            for (index, &value) in words.iter().enumerate() {
                let at = (position + 8 + index as u64 * 8) & self.mask;
                let word = self.word(2 + usize::try_from(at / 8).expect("small"));
                // SAFETY: reserved and not handed over: only this thread touches these bytes. A plain
                // write, so that Miri sees a race if the reader does not wait for the header.
                unsafe { word.as_ptr().write(value) };
            }
            let length = u32::try_from(words.len() * 8).expect("small");
            // Release: pairs with the reader's Acquire of the header; it publishes the data.
            self.header(position).store(length | flags, Ordering::Release);
        }
    }
}
