//! A place in a file: between two of its entries.
//!
//! A file lists its entries in a chain of arrays. Where the chain is broken, what is behind the last entry is looked
//! through for objects that are entries.
//!
//! Invariants:
//! - Arrays and entries are accepted in the order of their offsets and do not overlap, so that each byte of a file is
//!   visited at most twice, in whatever way it is damaged.

use std::cmp::Ordering;

use super::layout::{Array, Damage, EntryHead, Layout};
use crate::sys::Map;

/// Where a file is read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    /// Entries before it, lost ones included.
    index: u64,
    /// The array that it is in, or the one before.
    array: Option<Array>,
    /// Entries in the arrays before that one.
    first: u64,
    /// Where the last entry that was accepted ends, and its number.
    end: u64,
    seqnum: u64,
    /// Where to look on for entries, once the list is broken.
    scan: Option<u64>,
}

/// What is at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Entry(EntryHead),
    /// Nothing yet.
    End,
    /// Something that is no entry.
    BadEntry(Damage),
    /// Something else than the rest of the list.
    BadList(Damage),
}

impl Place {
    /// Entries before it, lost ones included.
    pub(super) fn index(&self) -> u64 {
        self.index
    }

    /// Whether the list was given up.
    pub(super) fn is_broken(&self) -> bool {
        self.scan.is_some()
    }

    /// What is here, in a file of `count` entries. Nobody is writing to it now if it is `settled`.
    #[inline]
    pub(super) fn look(&mut self, layout: &Layout, map: &Map, count: u64, settled: bool) -> Look {
        if self.scan.is_some() {
            return self.look_around(layout, map, settled);
        }
        if self.index >= count {
            return Look::End;
        }
        let array = match self.array {
            Some(array) if self.index - self.first < array.items => array,
            _ => match self.next_array(layout, map) {
                Ok(array) => array,
                Err(damage) => return Look::BadList(damage),
            },
        };
        let place = self.index - self.first;
        let Some(offset) = layout.array_item(map, &array, place) else {
            return Look::BadList(Damage::Outside);
        };
        match layout.entry(map, offset) {
            Ok(entry) if offset >= self.end => {
                // Of two that are in the wrong order one is damaged; if the next one looks right, it is this one.
                let next =
                    if place + 1 < array.items { layout.array_item(map, &array, place + 1) } else { None };
                let swapped =
                    next.is_some_and(|next| next <= offset && next >= self.end && self.index + 1 < count);
                if swapped && self.precedes(layout, map, next, &entry) {
                    return Look::BadEntry(Damage::Malformed);
                }
                Look::Entry(entry)
            }
            Ok(_) => Look::BadEntry(Damage::Malformed),
            Err(damage) => Look::BadEntry(damage),
        }
    }

    /// Whether the entry at `next` belongs before `entry`.
    #[cold]
    fn precedes(&self, layout: &Layout, map: &Map, next: Option<u64>, entry: &EntryHead) -> bool {
        let next = next.and_then(|offset| layout.entry(map, offset).ok());
        next.is_some_and(|next| next.seqnum > self.seqnum && next.seqnum <= entry.seqnum)
    }

    fn next_array(&mut self, layout: &Layout, map: &Map) -> Result<Array, Damage> {
        loop {
            let (offset, first, end) = match &self.array {
                None => (layout.first_array(map), 0, layout.header_bytes),
                Some(array) => (layout.next_array(map, array), self.first + array.items, array.end),
            };
            if offset < end {
                return Err(Damage::Malformed);
            }
            let array = layout.array(map, offset)?;
            (self.array, self.first) = (Some(array), first);
            if self.index - first < array.items {
                return Ok(array);
            }
        }
    }

    /// Looks for the next entry behind the last one.
    #[cold]
    fn look_around(&mut self, layout: &Layout, map: &Map, settled: bool) -> Look {
        let limit = if settled { map.len() } else { layout.tail_object(map).min(map.len()) };
        let mut at = self.scan.unwrap_or(0).max(layout.header_bytes);
        while at < limit {
            let end = layout.object_end(map, at);
            if end.is_some()
                && let Ok(entry) = layout.entry(map, at)
                && entry.seqnum > self.seqnum
                && entry.boot_id != 0
            {
                self.scan = Some(at);
                return Look::Entry(entry);
            }
            // A size is believed if there is another object where it says that this one ends.
            let believed = end.filter(|&end| end >= limit || layout.object_end(map, end).is_some());
            at = believed.unwrap_or(at + 8);
        }
        self.scan = Some(at);
        Look::End
    }

    /// Goes behind the entry that is here.
    #[inline]
    pub(super) fn pass(&mut self, entry: &EntryHead) {
        self.index += 1;
        (self.end, self.seqnum) = (entry.end, entry.seqnum);
        if let Some(scan) = &mut self.scan {
            *scan = entry.end.next_multiple_of(8);
        }
    }

    /// Goes behind what is here and no entry.
    pub(super) fn pass_damaged(&mut self) {
        self.index += 1;
    }

    /// Gives up the list: from here on entries are looked for.
    pub(super) fn leave_list(&mut self) {
        self.scan = Some(self.end.next_multiple_of(8));
    }

    /// Goes behind all entries that were counted and not found. Returns how many.
    pub(super) fn give_up(&mut self, count: u64) -> u64 {
        let lost = count.saturating_sub(self.index);
        self.index += lost;
        lost
    }

    /// The place before the first of `count` entries that is [`Ordering::Greater`], given that those that are not come
    /// first; and the entry before it.
    pub(super) fn find(
        layout: &Layout,
        map: &Map,
        count: u64,
        compare: impl Fn(&EntryHead) -> Ordering,
    ) -> (Self, Option<EntryHead>) {
        let arrays = arrays(layout, map, count);
        let listed = arrays.last().map_or(0, |(array, first)| (first + array.items).min(count));
        let holder = |index: u64| {
            let after = arrays.partition_point(|(_, first)| *first <= index);
            arrays.get(after.saturating_sub(1)).copied()
        };
        let entry = |index: u64| {
            let (array, first) = holder(index)?;
            layout.entry(map, layout.array_item(map, &array, index.checked_sub(first)?)?).ok()
        };
        let (mut low, mut high) = (0, listed);
        let mut before = None;
        while low < high {
            let middle = low + (high - low) / 2;
            // Damaged ones say nothing: the next that can be read speaks for them.
            let found = (middle..high).find_map(|index| Some((index, entry(index)?)));
            match found {
                Some((index, entry)) if compare(&entry) != Ordering::Greater => {
                    low = index + 1;
                    before = Some(entry);
                }
                _ => high = middle,
            }
        }
        let held = holder(low.min(listed.saturating_sub(1)));
        let place = Self {
            index: low,
            array: held.map(|(array, _)| array),
            first: held.map_or(0, |(_, first)| first),
            end: before.map_or(0, |entry| entry.end),
            seqnum: before.map_or(0, |entry| entry.seqnum),
            scan: None,
        };
        (place, before)
    }
}

/// The arrays that list the first `count` entries, as far as the chain is whole.
fn arrays(layout: &Layout, map: &Map, count: u64) -> Vec<(Array, u64)> {
    let mut arrays: Vec<(Array, u64)> = Vec::new();
    let (mut offset, mut first, mut end) = (layout.first_array(map), 0, layout.header_bytes);
    while first < count && offset >= end {
        let Ok(array) = layout.array(map, offset) else { break };
        arrays.push((array, first));
        first += array.items;
        (offset, end) = (layout.next_array(map, &array), array.end);
    }
    arrays
}
