//! The layout of a journal file: header and objects, each checked before it is believed.
//!
//! Invariants:
//! - Functions of this file are pure: they read a map and keep nothing.
//! - What they return lies inside the map as it was when they looked.

use crate::sys::Map;

/// What stands at the start of every journal file.
const SIGNATURE: u64 = u64::from_le_bytes(*b"LPKSHHRH");
/// The oldest header there is.
const HEADER_BYTES_MIN: u64 = 208;

const COMPRESSED_XZ: u32 = 1;
const COMPRESSED_LZ4: u32 = 1 << 1;
const KEYED_HASH: u32 = 1 << 2;
const COMPRESSED_ZSTD: u32 = 1 << 3;
const COMPACT: u32 = 1 << 4;
const KNOWN: u32 = COMPRESSED_XZ | COMPRESSED_LZ4 | KEYED_HASH | COMPRESSED_ZSTD | COMPACT;

/// What a file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Closed, and to be opened again.
    Offline,
    /// Being written, or left by a writer that was killed.
    Online,
    /// Not to be written any more.
    Archived,
}

/// Offsets in the header of what changes while the file is written.
const STATE: u64 = 16;
const ARENA_BYTES: u64 = 96;
const TAIL_OBJECT: u64 = 136;
const N_ENTRIES: u64 = 152;
const ENTRY_ARRAY: u64 = 176;

/// Bytes of the header of an object.
const OBJECT_BYTES: u64 = 16;
/// The least that an entry takes.
pub(super) const ENTRY_BYTES_MIN: u64 = 72;
/// Where the items of an entry start, behind the start of its object.
const ENTRY_ITEMS: u64 = 64;
/// Where those of an array of entries start.
const ARRAY_ITEMS: u64 = 24;
/// More fields an entry than journald lets in by far (1024 and its own).
const ITEMS_MAX: u64 = 4096;
/// Times are microseconds below this.
const TIME_MAX: u64 = 1 << 55;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Data = 1,
    Entry = 3,
    EntryArray = 6,
}

/// Why an object cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// It ends behind the map: the file has grown since, or was cut.
    Outside,
    /// It is not what it should be.
    Malformed,
}

/// What is fixed in the header of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) compact: bool,
    pub(super) header_bytes: u64,
    pub(super) file_id: u128,
    pub(super) seqnum_id: u128,
}

/// The head of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryHead {
    pub(super) offset: u64,
    /// Where its object ends.
    pub(super) end: u64,
    pub(super) items: usize,
    pub(super) seqnum: u64,
    pub(super) realtime_us: u64,
    pub(super) monotonic_us: u64,
    pub(super) boot_id: u128,
    pub(super) xor_hash: u64,
}

/// Where the payload of a data object is, and how it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Payload {
    pub(super) start: u64,
    pub(super) bytes: u64,
    /// The compression bits of its object; 0 for none.
    pub(super) compression: u8,
}

/// One link of the list of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Array {
    pub(super) offset: u64,
    pub(super) end: u64,
    pub(super) items: u64,
}

/// Why a file is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("too short for a header")]
    Short,
    #[error("not a journal file")]
    Signature,
    #[error("needs features that this reader does not know")]
    Features,
    #[error("its header contradicts itself")]
    Malformed,
}

fn id(map: &Map, offset: u64) -> Option<u128> {
    Some(u128::from(map.word(offset)?) | u128::from(map.word(offset + 8)?) << 64)
}

/// The low half of a word.
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
const fn low(word: u64) -> u32 {
    word as u32
}

impl Layout {
    /// Reads and checks the header.
    pub(super) fn read(map: &Map) -> Result<Self, HeaderError> {
        let word = |offset| map.word(offset).ok_or(HeaderError::Short);
        if word(0)? != SIGNATURE {
            return Err(HeaderError::Signature);
        }
        let flags = low(word(8)? >> 32);
        if flags & !KNOWN != 0 {
            return Err(HeaderError::Features);
        }
        let header_bytes = word(88)?;
        if header_bytes > map.len() {
            return Err(HeaderError::Short);
        }
        if header_bytes < HEADER_BYTES_MIN || !header_bytes.is_multiple_of(8) {
            return Err(HeaderError::Malformed);
        }
        let ids = id(map, 24).zip(id(map, 72)).ok_or(HeaderError::Short)?;
        Ok(Self { compact: flags & COMPACT != 0, header_bytes, file_id: ids.0, seqnum_id: ids.1 })
    }

    /// Whether it is being written.
    pub(super) fn state(&self, map: &Map) -> State {
        match map.word(STATE).map(u64::to_le_bytes) {
            Some([0, ..]) => State::Offline,
            Some([2, ..]) => State::Archived,
            _ => State::Online,
        }
    }

    /// How many entries there are, with all they consist of.
    #[inline]
    pub(super) fn entries(&self, map: &Map) -> Option<u64> {
        map.word_acquire(N_ENTRIES)
    }

    /// The object that may still be being written; what is before it is whole.
    pub(super) fn tail_object(&self, map: &Map) -> u64 {
        map.word_acquire(TAIL_OBJECT).unwrap_or(0)
    }

    /// How long the file should be at least.
    pub(super) fn file_bytes(&self, map: &Map) -> u64 {
        self.header_bytes.saturating_add(map.word(ARENA_BYTES).unwrap_or(0))
    }

    /// Where the list of entries starts; 0 while there is none.
    pub(super) fn first_array(&self, map: &Map) -> u64 {
        map.word(ENTRY_ARRAY).unwrap_or(0)
    }

    fn item_bytes(&self) -> u64 {
        if self.compact { 4 } else { 8 }
    }

    /// Flags and size of the object of some kind at `offset`.
    #[inline]
    fn object(&self, map: &Map, offset: u64, kind: Kind) -> Result<(u8, u64), Damage> {
        if offset < self.header_bytes || !offset.is_multiple_of(8) {
            return Err(Damage::Malformed);
        }
        let size_offset = offset.checked_add(8).ok_or(Damage::Malformed)?;
        let (head, size) = map.word(offset).zip(map.word(size_offset)).ok_or(Damage::Outside)?;
        let [found, flags, ..] = head.to_le_bytes();
        if found != kind as u8 || size < OBJECT_BYTES {
            return Err(Damage::Malformed);
        }
        if size > map.len() - offset {
            return Err(Damage::Outside);
        }
        Ok((flags, size))
    }

    /// The entry at `offset`.
    #[inline]
    pub(super) fn entry(&self, map: &Map, offset: u64) -> Result<EntryHead, Damage> {
        let (_, size) = self.object(map, offset, Kind::Entry)?;
        let item_bytes = if self.compact { 4 } else { 16 };
        let items_bytes = size.checked_sub(ENTRY_ITEMS).ok_or(Damage::Malformed)?;
        let items = items_bytes / item_bytes;
        if !items_bytes.is_multiple_of(item_bytes) || items == 0 || items > ITEMS_MAX {
            return Err(Damage::Malformed);
        }
        let words = map.words(offset + OBJECT_BYTES, 6).ok_or(Damage::Outside)?;
        let word = |index: usize| words.get(index).map_or(0, load);
        let head = EntryHead {
            offset,
            end: offset + size,
            items: usize::try_from(items).unwrap_or(0),
            seqnum: word(0),
            realtime_us: word(1),
            monotonic_us: word(2),
            boot_id: u128::from(word(3)) | u128::from(word(4)) << 64,
            xor_hash: word(5),
        };
        let timed = head.realtime_us > 0 && head.realtime_us < TIME_MAX && head.monotonic_us < TIME_MAX;
        if head.seqnum == 0 || !timed { Err(Damage::Malformed) } else { Ok(head) }
    }

    /// Calls `each` with the offset of every data object of an entry.
    #[inline]
    pub(super) fn items(&self, map: &Map, entry: &EntryHead, mut each: impl FnMut(u64)) {
        let start = entry.offset + ENTRY_ITEMS;
        if self.compact {
            let items = map.halves(start, entry.items).unwrap_or_default();
            items.iter().for_each(|item| each(u64::from(load_half(item))));
        } else {
            let items = map.words(start, 2 * entry.items).unwrap_or_default();
            items.iter().step_by(2).for_each(|item| each(load(item)));
        }
    }

    /// The payload of the data object at `offset`.
    #[inline]
    pub(super) fn data(&self, map: &Map, offset: u64) -> Result<Payload, Damage> {
        let (flags, size) = self.object(map, offset, Kind::Data)?;
        let head = if self.compact { 72 } else { 64 };
        match size.checked_sub(head) {
            Some(bytes @ 1..) => Ok(Payload { start: offset + head, bytes, compression: flags & 7 }),
            _ => Err(Damage::Malformed),
        }
    }

    /// The array of entries at `offset`.
    pub(super) fn array(&self, map: &Map, offset: u64) -> Result<Array, Damage> {
        let (_, size) = self.object(map, offset, Kind::EntryArray)?;
        let bytes = size.checked_sub(ARRAY_ITEMS).ok_or(Damage::Malformed)?;
        let items = bytes / self.item_bytes();
        if items == 0 || !bytes.is_multiple_of(self.item_bytes()) {
            return Err(Damage::Malformed);
        }
        Ok(Array { offset, end: offset + size, items })
    }

    /// Where the array after this one is; 0 while there is none.
    pub(super) fn next_array(&self, map: &Map, array: &Array) -> u64 {
        map.word(array.offset + OBJECT_BYTES).unwrap_or(0)
    }

    /// The offset of an entry by its place in an array.
    #[inline]
    pub(super) fn array_item(&self, map: &Map, array: &Array, place: u64) -> Option<u64> {
        let offset = array.offset + ARRAY_ITEMS + place * self.item_bytes();
        if self.compact {
            map.halves(offset, 1)?.first().map(|item| u64::from(load_half(item)))
        } else {
            map.word(offset)
        }
    }

    /// Where the object at `offset` ends, whatever it is, if it looks like one.
    pub(super) fn object_end(&self, map: &Map, offset: u64) -> Option<u64> {
        let (head, size) = map.word(offset).zip(map.word(offset.checked_add(8)?))?;
        let [kind, flags, reserved @ ..] = head.to_le_bytes();
        let plausible = matches!(kind, 1..=7) && flags <= 7 && reserved == [0; 6] && size >= OBJECT_BYTES;
        let end = offset.checked_add(size)?.checked_next_multiple_of(8)?;
        (plausible && size <= map.len() - offset).then_some(end)
    }
}

#[inline]
fn load(word: &std::sync::atomic::AtomicU64) -> u64 {
    u64::from_le(word.load(std::sync::atomic::Ordering::Relaxed))
}

#[inline]
fn load_half(half: &std::sync::atomic::AtomicU32) -> u32 {
    u32::from_le(half.load(std::sync::atomic::Ordering::Relaxed))
}
