//! Counters shared with BPF programs: an mmapable array map read and written as atomic words.

use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicU64;

use rustix::mm::ProtFlags;

use super::ring_memory::Mapping;

/// The values of a `BPF_F_MMAPABLE` array, as 8-byte words.
#[derive(Debug)]
pub struct SharedWords {
    mapping: Mapping,
    words: usize,
}

impl SharedWords {
    /// Maps `words` words of the array behind `fd`.
    ///
    /// # Errors
    /// Of `mmap(2)`: the map is smaller, or not mmapable.
    pub fn map(fd: BorrowedFd<'_>, words: usize) -> std::io::Result<Self> {
        let bytes = (words * 8).next_multiple_of(rustix::param::page_size());
        let mapping = Mapping::new(fd, 0, bytes, ProtFlags::READ | ProtFlags::WRITE)?;
        Ok(Self { mapping, words })
    }

    /// Words there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// The word at `index`; `None` outside the map.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&AtomicU64> {
        debug_assert!(self.words * 8 <= self.mapping.bytes());
        (index < self.words).then(|| self.mapping.word(index))
    }
}
