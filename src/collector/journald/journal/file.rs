//! One journal file: its entries one behind the other, by the list that they stand in and, where that is broken,
//! by looking for them.
//!
//! Invariants:
//! - The place in the file only moves on, and so do the offsets of the arrays and entries that are accepted: no loop
//!   in a file is followed.
//! - Every entry that the header counts is delivered or counted as lost.

use std::cmp::Ordering;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::gap::{Cause, Gaps};
use super::layout::{ENTRY_BYTES_MIN, EntryHead, Layout, State};
use super::place::{Look, Place};
use super::values::Pages;
use crate::sys::Map;

/// A file among all files of the host.
pub(super) type Inode = (u64, u64);

/// What a map that has moved on this far gives back its pages for.
const RELEASE_BYTES: u64 = 16 << 20;

/// An open journal file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) inode: Inode,
    /// `None` for one that is only in memory.
    handle: Option<fs::File>,
    pub(super) map: Map,
    pub(super) layout: Layout,
    pub(super) serial: u32,
    place: Place,
    /// The entry at the place, once it was looked at.
    head: Option<EntryHead>,
    /// Entries the header counted when it was last looked at.
    entries: u64,
    /// How long the file ought to be, as far as is known.
    bytes_expected: u64,
    /// The place for which the file was last mapped anew.
    cured_at: Option<u64>,
    /// From where on pages were read since they were last given back.
    released: u64,
    /// Nobody writes to it any more.
    pub(super) is_final: bool,
}

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// Retry: it may be a matter of rights, or the file is not written yet.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Skip: it is no journal.
    #[error(transparent)]
    Header(#[from] super::layout::HeaderError),
}

impl File {
    /// Opens and maps a file.
    pub(super) fn open(path: &Path, serial: u32) -> Result<Self, OpenError> {
        let handle = fs::File::open(path)?;
        let metadata = handle.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
        }
        let map = map(&handle, metadata.len())?;
        let inode = (metadata.dev(), metadata.ino());
        Self::new(path, map, serial).map(|file| Self { handle: Some(handle), inode, ..file })
    }

    /// The same for bytes in memory.
    pub(super) fn new(path: &Path, map: Map, serial: u32) -> Result<Self, OpenError> {
        let layout = Layout::read(&map)?;
        Ok(Self {
            path: path.to_owned(),
            inode: (0, 0),
            handle: None,
            bytes_expected: layout.file_bytes(&map),
            is_final: layout.state(&map) == State::Archived,
            entries: layout.entries(&map).unwrap_or(0),
            map,
            layout,
            serial,
            place: Place::default(),
            head: None,
            cured_at: None,
            released: 0,
        })
    }

    pub(super) fn pages(&self) -> Pages<'_> {
        Pages { map: &self.map, layout: self.layout, serial: self.serial }
    }

    /// The entry at the place, if it was looked at and there is one.
    #[inline]
    pub(super) fn head(&self) -> Option<&EntryHead> {
        self.head.as_ref()
    }

    /// Goes behind the entry at the place.
    #[inline]
    pub(super) fn consume(&mut self) {
        if let Some(head) = self.head.take() {
            self.place.pass(&head);
            if head.offset > self.released + RELEASE_BYTES {
                self.released = head.offset;
                self.map.release_pages();
            }
        }
    }

    /// Looks for the entry at the place; false where there is none now.
    pub(super) fn advance(&mut self, gaps: &mut Gaps) -> bool {
        while self.head.is_none() {
            let Some(count) = self.layout.entries(&self.map) else { return false };
            self.entries = self.entries.max(count);
            let settled = self.place.is_broken() && self.is_settled();
            match self.place.look(&self.layout, &self.map, count, settled) {
                Look::Entry(head) => self.head = Some(head),
                Look::End if self.place.is_broken() && self.place.index() < count => {
                    // The last one may still be being written.
                    let lost = self.place.give_up(if settled { count } else { count - 1 });
                    if lost == 0 {
                        return false;
                    }
                    self.count(gaps, lost);
                }
                Look::End if !self.map.is_cut() => return false,
                Look::End => self.remap(gaps),
                Look::BadEntry(_) | Look::BadList(_) if self.may_be_cured() => self.remap(gaps),
                Look::BadEntry(_) => {
                    self.place.pass_damaged();
                    self.count(gaps, 1);
                }
                Look::BadList(_) => self.place.leave_list(),
            }
        }
        true
    }

    /// Whether nobody is writing to it now.
    fn is_settled(&self) -> bool {
        self.is_final || self.layout.state(&self.map) != State::Online
    }

    /// Whether what is at the place may look better after the file was mapped anew: it has grown, or was cut. Says so
    /// once for each place, so that a page that cannot be read is not tried for ever.
    fn may_be_cured(&mut self) -> bool {
        let index = self.place.index();
        let other = self.map.is_cut() || self.bytes() != self.map.len();
        other && self.cured_at.replace(index) != Some(index)
    }

    /// Whether the entry at the place is still what it was when it was looked at. Looks again where it is not.
    pub(super) fn recheck(&mut self, gaps: &mut Gaps) -> bool {
        if !self.map.is_cut() {
            return true;
        }
        self.head = None;
        if self.may_be_cured() {
            self.remap(gaps);
        } else {
            self.place.pass_damaged();
            self.count(gaps, 1);
        }
        false
    }

    /// Whether all there will ever be was read.
    pub(super) fn is_drained(&self) -> bool {
        self.is_final
            && self.head.is_none()
            && self.place.index() >= self.layout.entries(&self.map).unwrap_or(0)
    }

    /// Whether journald has archived it and `refresh` has not seen that yet.
    pub(super) fn is_archived_now(&self) -> bool {
        !self.is_final && self.layout.state(&self.map) == State::Archived
    }

    /// Looks at what may have changed: whether it will be written any more, and whether it was cut.
    pub(super) fn refresh(&mut self, gaps: &mut Gaps) {
        let links = self.handle.as_ref().and_then(|handle| handle.metadata().ok()).map(|file| file.nlink());
        self.is_final |= links == Some(0) || self.layout.state(&self.map) == State::Archived;
        if self.map.is_cut() || (self.bytes() < self.map.len()) {
            self.head = None;
            self.remap(gaps);
        }
    }

    /// How long the file is now.
    fn bytes(&self) -> u64 {
        let length = |handle: &fs::File| handle.metadata().map(|metadata| metadata.len()).ok();
        self.handle.as_ref().map_or(self.map.len(), |handle| length(handle).unwrap_or(0))
    }

    /// Maps the file as long as it is now. What is behind its end is lost, and the place then is at the end.
    fn remap(&mut self, gaps: &mut Gaps) {
        let Some(handle) = &self.handle else { return };
        let was_cut = self.map.is_cut() || self.bytes() < self.map.len();
        let mapped = map(handle, self.bytes());
        let same = mapped.ok().filter(|map| Layout::read(map).is_ok_and(|layout| layout == self.layout));
        match same {
            Some(map) => {
                self.bytes_expected = self.bytes_expected.max(self.layout.file_bytes(&map));
                self.map = map;
                if was_cut {
                    // What is remembered about its fields may be about zeros.
                    self.serial = self.serial.wrapping_add(1 << 16);
                }
            }
            None => {
                // Nothing of it is left, or it is another file by now.
                let lost = self.entries.saturating_sub(self.place.index());
                gaps.add(Cause::Truncated, Some(lost), &self.path);
                self.map = Map::copy_of(&[]);
                self.handle = None;
                self.is_final = true;
            }
        }
    }

    fn count(&self, gaps: &mut Gaps, lost: u64) {
        let cause = match (self.map.len() < self.bytes_expected, self.place.is_broken()) {
            (true, _) => Cause::Truncated,
            (false, true) => Cause::DamagedList,
            (false, false) => Cause::DamagedEntry,
        };
        // A header that counts more entries than would fit is damaged itself.
        let plausible = self.entries <= self.bytes_expected.max(self.map.len()) / ENTRY_BYTES_MIN;
        gaps.add(cause, plausible.then_some(lost), &self.path);
    }

    /// Goes to the first entry that `is_behind` says is behind the position, given that it says so of all that follow.
    /// Returns the entry before it, if it can be read.
    pub(super) fn seek(&mut self, is_behind: impl Fn(&EntryHead) -> bool) -> Option<EntryHead> {
        let (layout, map) = (&self.layout, &self.map);
        let count = layout.entries(map).unwrap_or(0);
        self.entries = count;
        self.head = None;
        let (place, before) = Place::find(layout, map, count, |entry| {
            if is_behind(entry) { Ordering::Greater } else { Ordering::Less }
        });
        self.place = place;
        before
    }

    /// Whether an entry that was already passed is `wanted`, given how it compares with others.
    pub(super) fn has_passed(&self, compare: impl Fn(&EntryHead) -> Ordering) -> bool {
        let count = self.place.index();
        let (_, before) = Place::find(&self.layout, &self.map, count, &compare);
        before.is_some_and(|entry| compare(&entry) == Ordering::Equal)
    }
}

fn map(handle: &fs::File, bytes: u64) -> io::Result<Map> {
    let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
    if bytes == 0 { Ok(Map::copy_of(&[])) } else { Map::of_file(handle, bytes) }
}
