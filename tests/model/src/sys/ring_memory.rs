//! The memory of a ring as loom sees it, and the kernel's half of the protocol.

use std::os::fd::BorrowedFd;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use loom::sync::{Arc, Mutex};

const BUSY: u32 = 1 << 31;

/// What both halves share.
#[derive(Debug)]
struct Shared {
    consumer: AtomicU64,
    producer: AtomicU64,
    /// One for each word of data; those at the start of a record are used.
    headers: Vec<AtomicU32>,
    data: Vec<UnsafeCell<u64>>,
    /// The kernel's spin lock around a reserve, and its own copy of the producer position: loom forgets that the
    /// reader looked at an atomic once the writer has looked too, and would skip most interleavings.
    lock: Mutex<u64>,
}

// SAFETY: the protocol under test hands each word from one side to the other; loom checks exactly that.
unsafe impl Sync for Shared {}

// SAFETY: as for Sync.
unsafe impl Send for Shared {}

/// The reader's view: the interface of the agent's `RingMemory`.
#[derive(Debug)]
pub(crate) struct RingMemory(Arc<Shared>);

/// The kernel's half.
#[derive(Debug)]
pub(crate) struct Kernel(Arc<Shared>);

impl RingMemory {
    pub(crate) fn new(data_words: usize) -> (Self, Kernel) {
        let shared = Arc::new(Shared {
            consumer: AtomicU64::new(0),
            producer: AtomicU64::new(0),
            headers: (0..data_words).map(|_| AtomicU32::new(0)).collect(),
            data: (0..data_words).map(|_| UnsafeCell::new(0)).collect(),
            lock: Mutex::new(0),
        });
        (Self(Arc::clone(&shared)), Kernel(shared))
    }

    pub(crate) fn map(_fd: BorrowedFd<'_>, _data_bytes: usize) -> std::io::Result<Self> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn consumer(&self) -> &AtomicU64 {
        &self.0.consumer
    }

    pub(crate) fn producer(&self) -> &AtomicU64 {
        &self.0.producer
    }

    pub(crate) fn mask(&self) -> u64 {
        self.0.data.len() as u64 * 8 - 1
    }

    pub(crate) fn record_header(&self, position: u64) -> &AtomicU32 {
        &self.0.headers[(position & self.mask()) as usize / 8]
    }

    /// Reads each word under loom's eyes; the copy outlives the model's iteration, which is short.
    ///
    /// # Safety
    /// As for the agent's.
    pub(crate) unsafe fn words(&self, position: u64, words: usize) -> &[u64] {
        let start = (position & self.mask()) as usize / 8;
        let end = (start + words).min(self.0.data.len());
        // SAFETY: loom fails the test if a write runs at the same time.
        let copy: Vec<u64> =
            self.0.data[start..end].iter().map(|cell| cell.with(|word| unsafe { *word })).collect();
        copy.leak()
    }
}

impl Kernel {
    /// Like `__bpf_ringbuf_reserve`.
    pub(crate) fn reserve(&self, words: usize) -> Option<u64> {
        let shared = &self.0;
        let consumed = shared.consumer.load(Ordering::Acquire);
        let mut produced_next = shared.lock.lock().expect("no panic");
        let produced = *produced_next;
        let next = produced + words as u64 * 8 + 8;
        if next - consumed > shared.data.len() as u64 * 8 {
            return None;
        }
        self.header(produced).store(words as u32 * 8 | BUSY, Ordering::Relaxed);
        *produced_next = next;
        shared.producer.store(next, Ordering::Release);
        Some(produced)
    }

    /// Like `bpf_ringbuf_commit` without flags; says whether it wakes the reader.
    pub(crate) fn submit(&self, at: u64, words: &[u64]) -> bool {
        let shared = &self.0;
        for (word, value) in (at / 8 + 1..).zip(words) {
            let cell = &shared.data[word as usize % shared.data.len()];
            // SAFETY: loom fails the test if the reader reads at the same time.
            cell.with_mut(|word| unsafe { *word = *value });
        }
        // The kernel's xchg: a full barrier on both sides.
        fence(Ordering::SeqCst);
        self.header(at).swap(words.len() as u32 * 8, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        shared.consumer.load(Ordering::Acquire) == at
    }

    fn header(&self, at: u64) -> &AtomicU32 {
        &self.0.headers[(at / 8) as usize % self.0.headers.len()]
    }
}
