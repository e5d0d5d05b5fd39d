//! A file mapped for reading while others write it, and even cut it.
//!
//! Touching a page behind the end of a file that was cut raises SIGBUS. The handler that is installed here puts
//! zeros in its place and marks the map, so that its reader sees nonsense that it checks anyway, and then why.
//!
//! Invariants:
//! - Nothing outside `0..len` is touched, whatever offset is asked for.
//! - A fault outside the maps of this file goes to the handler that was there before.
//! - Words that others may still change are read atomically, once. Bytes are for what is written once and read after.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use super::bus_error::{self, Guard};

/// A file, or a copy of some bytes, to read from.
#[derive(Debug)]
pub struct Map {
    start: NonNull<u8>,
    bytes: usize,
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    File(Guard),
    /// Keeps the allocation alive.
    Heap(#[expect(dead_code, reason = "held for its drop")] Vec<u64>),
}

// SAFETY: the memory belongs to the process, not to a thread, and is only read.
unsafe impl Send for Map {}

// SAFETY: as for Send; all methods on `&Map` only read.
unsafe impl Sync for Map {}

impl Map {
    /// Maps the first `bytes` of a file.
    ///
    /// # Errors
    /// Of `mmap(2)` and `sigaction(2)`; `ENFILE` when there are as many maps as can be guarded.
    pub fn of_file(file: &File, bytes: usize) -> io::Result<Self> {
        let (protection, flags) = (ProtFlags::READ, MapFlags::SHARED);
        // SAFETY: a new mapping at an address that the kernel chooses overlaps nothing of ours.
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, protection, flags, file.as_fd(), 0)? };
        let unmap = || {
            // SAFETY: just mapped, and nothing else knows of it.
            let _ = unsafe { munmap(start, bytes) };
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let guard = bus_error::guard(start.addr().get(), bytes).inspect_err(|_| unmap())?;
        Ok(Self { start, bytes, backing: Backing::File(guard) })
    }

    /// The same over bytes in memory, for tests and for files that cannot be mapped.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let word = |chunk: &[u8]| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        };
        let mut words: Vec<u64> = bytes.chunks(8).map(word).collect();
        let start = NonNull::new(words.as_mut_ptr().cast()).unwrap_or(NonNull::dangling());
        Self { start, bytes: bytes.len(), backing: Backing::Heap(words) }
    }

    /// Bytes there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes as u64
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether a page was touched that the file no longer has: what was read since the last look may be zeros.
    #[must_use]
    #[inline]
    pub fn is_cut(&self) -> bool {
        matches!(&self.backing, Backing::File(guard) if guard.is_hit())
    }

    /// Where `count` items of `size` bytes at `offset` start, if they lie inside and are aligned to their size.
    #[inline]
    fn range(&self, offset: u64, count: usize, size: usize) -> Option<NonNull<u8>> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(count.checked_mul(size)?)?;
        if end > self.bytes || !offset.is_multiple_of(size) {
            return None;
        }
        // SAFETY: `offset` is not behind the end of the memory that `self` owns.
        Some(unsafe { self.start.add(offset) })
    }

    /// The little-endian word at `offset`; `None` when it is not inside or not aligned.
    #[must_use]
    #[inline]
    pub fn word(&self, offset: u64) -> Option<u64> {
        self.words(offset, 1)?.first().map(|word| u64::from_le(word.load(Ordering::Relaxed)))
    }

    /// The same for a word that says how far others have written: all that it promises is visible afterwards.
    #[must_use]
    pub fn word_acquire(&self, offset: u64) -> Option<u64> {
        let word = self.word(offset);
        // Pairs with the full barrier of the writer before it counts. A fence, since only a relaxed load is allowed
        // on memory that is mapped for reading only.
        fence(Ordering::Acquire);
        word
    }

    /// `count` words at `offset`, to be loaded relaxed and converted from little-endian.
    #[must_use]
    #[inline]
    pub fn words(&self, offset: u64, count: usize) -> Option<&[AtomicU64]> {
        let start = self.range(offset, count, 8)?;
        // SAFETY: `range` checked bounds and alignment, the memory lives as long as `self`, and an atomic may be
        // changed by others while it is borrowed.
        Some(unsafe { std::slice::from_raw_parts(start.cast().as_ptr(), count) })
    }

    /// `count` half words at `offset`, likewise.
    #[must_use]
    #[inline]
    pub fn halves(&self, offset: u64, count: usize) -> Option<&[AtomicU32]> {
        let start = self.range(offset, count, 4)?;
        // SAFETY: as in `words`.
        Some(unsafe { std::slice::from_raw_parts(start.cast().as_ptr(), count) })
    }

    /// Bytes that are not written any more once a word read with [`Self::word_acquire`] has promised them.
    #[must_use]
    #[inline]
    pub fn bytes(&self, offset: u64, count: u64) -> Option<&[u8]> {
        let count = usize::try_from(count).ok()?;
        let start = self.range(offset, count, 1)?;
        // SAFETY: `range` checked the bounds and the memory lives as long as `self`. Writers of the file write such
        // bytes once, before they publish them; one that breaks this, or cuts the file, can only change which bytes
        // are seen: every value of a byte is valid, and none is read twice to decide about memory.
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), count) })
    }

    /// Gives back the memory of the pages read so far; they are read from the file again when needed.
    pub fn release_pages(&self) {
        if matches!(self.backing, Backing::File(_)) {
            // SAFETY: the range is the whole of our own mapping of a file, shared and read only: its pages come back
            // with the same contents.
            let released = unsafe { madvise(self.start.as_ptr().cast(), self.bytes, Advice::LinuxDontNeed) };
            // It is only a hint: memory stays resident where it is refused.
            debug_assert!(released.is_ok());
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if let Backing::File(guard) = &mut self.backing {
            guard.release();
            // SAFETY: the range was mapped by `of_file`, no borrow of it outlives `self`.
            let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
            // The only failure is a bad range, which `of_file` rules out; memory would stay mapped.
            debug_assert!(unmapped.is_ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: every offset and count around the edges of a map of eleven bytes.
    /// Guarantees: what is inside and aligned is read, and nothing else.
    #[test]
    fn nothing_outside_is_read() {
        let map = Map::copy_of(b"0123456789a");
        assert_eq!((map.len(), map.is_empty(), map.is_cut()), (11, false, false));
        assert_eq!(map.word(0), Some(u64::from_le_bytes(*b"01234567")));
        assert_eq!([map.word(8), map.word(1), map.word(u64::MAX), map.word(u64::MAX - 7)], [None; 4]);
        assert_eq!(map.bytes(8, 3), Some(&b"89a"[..]));
        assert_eq!(map.bytes(11, 0), Some(&b""[..]));
        assert_eq!([map.bytes(8, 4), map.bytes(12, 0), map.bytes(1, u64::MAX)], [None; 3]);
        assert_eq!(
            map.halves(4, 1).map(|half| half[0].load(Ordering::Relaxed)),
            Some(u32::from_le_bytes(*b"4567"))
        );
        assert!(
            map.halves(8, 1).is_none() && map.halves(2, 1).is_none() && map.words(0, usize::MAX).is_none()
        );
        assert!(Map::copy_of(b"").is_empty());
    }

    /// Scenario: a mapped file is cut to one page; the page behind is read, then the first, then another map.
    /// Guarantees: the process lives, the missing page reads as zeros and marks its map and no other.
    #[test]
    #[cfg_attr(miri, ignore = "Miri does not map files")]
    fn a_cut_file_reads_as_zeros() {
        let page = rustix::param::page_size();
        let file = tempfile::tempfile().expect("a file");
        io::Write::write_all(&mut &file, &vec![7; 4 * page]).expect("written");
        let [map, other] = [(); 2].map(|()| Map::of_file(&file, 4 * page).expect("mapped"));
        assert_eq!(map.bytes(3 * page as u64, 1), Some(&[7][..]));
        file.set_len(page as u64).expect("cut");
        assert_eq!(map.bytes(0, 1), Some(&[7][..]));
        assert!(!map.is_cut());
        assert_eq!(map.word(2 * page as u64), Some(0));
        assert!(map.is_cut() && !other.is_cut());
        assert_eq!(map.bytes(0, 1), Some(&[7][..]), "what is still there is still read");
        map.release_pages();
        assert_eq!(map.bytes(0, 1), Some(&[7][..]));
        drop(map);
        assert_eq!(other.word(page as u64), Some(0));
        assert!(other.is_cut());
    }
}
