//! The fields of the entry at hand, each parsed once for all entries of its file that share it.
//!
//! journald stores equal fields once. What was learnt about one (its length, where its name ends, its expanded
//! payload) is kept by its offset, in tables of fixed size.
//!
//! Invariants:
//! - No memory is taken for an entry once the buffers have grown to what entries need.
//! - What is kept says where bytes are, never what they are: bounds are checked again at each use.

use hashbrown::HashMap;

use super::inflate::{FIELD_BYTES_MAX, Inflater, Refused};
use super::layout::{EntryHead, Layout, Payload};
use crate::sys::Map;

/// Fields remembered, as a power of two.
const SLOTS_LOG2: u32 = 13;
/// Expanded bytes an entry may have.
const ENTRY_BYTES_MAX: usize = 2 * FIELD_BYTES_MAX;
/// Expanded bytes kept for the entries that follow.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// A field of the entry at hand.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FieldRef {
    start: u64,
    bytes: u32,
    name_bytes: u32,
    /// Whether `start` counts in the expanded bytes, not in the file.
    expanded: bool,
}

/// Names a field: its offset and the serial of its map.
type Key = (u64, u32);

/// What is known of a field of a file.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Which; all 0 while unused.
    key: Key,
    bytes: u32,
    name_bytes: u32,
}

/// What could not be delivered of an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) damaged: u64,
    pub(super) oversized: u64,
}

/// A file as far as fields need it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pages<'a> {
    pub(super) map: &'a Map,
    pub(super) layout: Layout,
    /// Tells maps apart; a new one for each map of a file that was cut. Not 0.
    pub(super) serial: u32,
}

/// The fields of one entry, and what is remembered for the next.
#[derive(Debug)]
pub(super) struct Values {
    fields: Vec<FieldRef>,
    slots: Box<[Slot]>,
    expanded: Vec<u8>,
    /// Where in `expanded` the fields are, by key.
    kept: HashMap<Key, FieldRef, foldhash::fast::FixedState>,
    inflater: Inflater,
}

impl Values {
    pub(super) fn new() -> Self {
        Self {
            fields: Vec::with_capacity(64),
            slots: vec![Slot::default(); 1 << SLOTS_LOG2].into(),
            expanded: Vec::new(),
            kept: HashMap::default(),
            inflater: Inflater::default(),
        }
    }

    /// The fields of the entry that was last [`Self::read`].
    pub(super) fn fields(&self) -> &[FieldRef] {
        &self.fields
    }

    /// The expanded bytes that some of them are in.
    pub(super) fn expanded(&self) -> &[u8] {
        &self.expanded
    }

    /// Finds all fields of an entry.
    pub(super) fn read(&mut self, pages: Pages<'_>, entry: &EntryHead) -> Missing {
        self.fields.clear();
        if self.expanded.len() > KEPT_BYTES_MAX {
            self.kept.clear();
            self.expanded.clear();
            self.expanded.shrink_to(KEPT_BYTES_MAX);
        }
        let before = self.expanded.len();
        let mut missing = Missing::default();
        let Pages { map, layout, serial } = pages;
        let head = if layout.compact { 72 } else { 64 };
        layout.items(map, entry, |offset| {
            let key = (offset, serial);
            let slot = self.slots[slot_of(offset)];
            if slot.key == key {
                let (bytes, name_bytes) = (slot.bytes, slot.name_bytes);
                self.fields.push(FieldRef { start: offset + head, bytes, name_bytes, expanded: false });
                return;
            }
            match self.parse(pages, offset, ENTRY_BYTES_MAX.saturating_sub(self.expanded.len() - before)) {
                Ok(field) => self.fields.push(field),
                Err(Refused::Damaged) => missing.damaged += 1,
                Err(Refused::Oversized) => missing.oversized += 1,
            }
        });
        missing
    }

    #[cold]
    fn parse(&mut self, pages: Pages<'_>, offset: u64, bytes_max: usize) -> Result<FieldRef, Refused> {
        let Pages { map, layout, serial } = pages;
        let key = (offset, serial);
        let Payload { start, bytes, compression } = layout.data(map, offset).map_err(|_| Refused::Damaged)?;
        let stored = map.bytes(start, bytes).ok_or(Refused::Damaged)?;
        if compression != 0 {
            return self.expand(key, compression, stored, bytes_max);
        }
        let name_bytes = name_of(stored)?;
        let bytes = u32::try_from(bytes).map_err(|_| Refused::Oversized)?;
        self.slots[slot_of(offset)] = Slot { key, bytes, name_bytes };
        Ok(FieldRef { start, bytes, name_bytes, expanded: false })
    }

    fn expand(
        &mut self,
        key: Key,
        compression: u8,
        stored: &[u8],
        bytes_max: usize,
    ) -> Result<FieldRef, Refused> {
        if let Some(&known) = self.kept.get(&key) {
            return Ok(known);
        }
        let start = self.expanded.len();
        let bytes_max = bytes_max.min(FIELD_BYTES_MAX);
        self.inflater.append(compression, stored, &mut self.expanded, bytes_max)?;
        let text = self.expanded.get(start..).unwrap_or_default();
        let name_bytes = name_of(text)?;
        let bytes = u32::try_from(text.len()).map_err(|_| Refused::Oversized)?;
        let field = FieldRef { start: start as u64, bytes, name_bytes, expanded: true };
        self.kept.insert(key, field);
        Ok(field)
    }
}

/// Where the name ends.
fn name_of(text: &[u8]) -> Result<u32, Refused> {
    let end = memchr::memchr(b'=', text).ok_or(Refused::Damaged)?;
    u32::try_from(end).map_err(|_| Refused::Damaged)
}

#[inline]
fn slot_of(offset: u64) -> usize {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS_LOG2)) as usize
}

impl FieldRef {
    /// Its name and its value.
    #[inline]
    pub(super) fn split<'a>(&self, map: &'a Map, expanded: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let text = if self.expanded {
            let start = usize::try_from(self.start).ok()?;
            expanded.get(start..)?.get(..usize::try_from(self.bytes).ok()?)?
        } else {
            map.bytes(self.start, u64::from(self.bytes))?
        };
        let (name, rest) = text.split_at_checked(usize::try_from(self.name_bytes).ok()?)?;
        Some((name, rest.get(1..)?))
    }
}
