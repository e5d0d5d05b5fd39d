//! The open files of a source, and which of them has the next entry.
//!
//! Invariants:
//! - At most `FILES_MAX` files are open; others wait until one was read to its end.
//! - A file that is known by its inode is not opened again, whatever it is called by now; one that got the inode of a
//!   deleted file is.

use std::cmp::Ordering;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::directory::Listing;
use super::file::{File, Inode, OpenError};
use super::gap::{Cause, Gaps};
use super::layout::EntryHead;
use super::order::{Key, Start};
use super::reader::Source;
use super::values::Missing;
use crate::sys::Map;

/// Files that are open at the same time.
const FILES_MAX: usize = 512;
/// Entries taken from one file before the others are looked at again.
const TURN_ENTRIES_MAX: u32 = 256;
/// How often a file that was read is kept, for files that appear and may repeat it.
const KEPT_REFRESHES: u8 = 3;
/// How often a listing that holds is believed before the directories are read again all the same.
const BELIEFS_MAX: u8 = 20;

/// A file and what the merge knows of it.
#[derive(Debug)]
struct Member {
    file: File,
    /// It appeared while reading: what it starts with may have been read from another file.
    is_late: bool,
    /// How often it was found read to its end, with nobody writing to it.
    drained: u8,
}

/// What tells a file from one that got its inode later: its length and when it was written.
type Stamp = (u64, (i64, i64));

/// A file that could not be read, as it was then.
#[derive(Debug)]
struct Refused {
    inode: Inode,
    stamp: Stamp,
    /// Why, until it was told.
    cause: Option<Cause>,
}

/// All files of a source.
#[derive(Debug)]
pub(super) struct Files {
    /// `None` for files in memory.
    source: Option<Source>,
    members: Vec<Member>,
    /// Files that were read to their end and are still there, as they are since then.
    done: Vec<(Inode, Stamp)>,
    refused: Vec<Refused>,
    /// What is known of the directories, and how often it may still be believed.
    listing: Option<Listing>,
    beliefs: u8,
    pub(super) gaps: Gaps,
    start: Start,
    /// The last entry that was handed out.
    last: Option<Key>,
    /// The file that it is still at.
    delivered: Option<usize>,
    turn: Turn,
    serials: u32,
}

/// Which file is read until when: while its entries come before the first of all others.
#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    index: usize,
    until: Option<Key>,
    entries_left: u32,
}

impl Files {
    pub(super) fn new(source: Option<Source>) -> Self {
        Self {
            source,
            members: Vec::new(),
            done: Vec::new(),
            refused: Vec::new(),
            listing: None,
            beliefs: 0,
            gaps: Gaps::default(),
            start: Start::Head,
            last: None,
            delivered: None,
            turn: Turn::default(),
            serials: 0,
        }
    }

    /// The file at `index` and the entry it is at.
    #[inline]
    pub(super) fn at(&self, index: usize) -> Option<(&File, EntryHead)> {
        let file = &self.members.get(index)?.file;
        Some((file, *file.head()?))
    }

    /// Which file has the next entry.
    #[inline]
    pub(super) fn choose(&mut self) -> Option<usize> {
        self.leave();
        if self.turn.entries_left > 0 && self.has_turn() {
            self.turn.entries_left -= 1;
            return Some(self.turn.index);
        }
        loop {
            self.compare_all()?;
            if !self.is_repeated(self.turn.index) {
                return Some(self.turn.index);
            }
            self.members.get_mut(self.turn.index)?.file.consume();
        }
    }

    /// Goes behind the entry that was handed out.
    #[inline]
    fn leave(&mut self) {
        if let Some(member) = self.delivered.take().and_then(|index| self.members.get_mut(index)) {
            member.file.consume();
        }
    }

    /// Whether the file whose turn it is has an entry that comes before those of all others.
    #[inline]
    fn has_turn(&mut self) -> bool {
        let Some(Member { file, is_late: false, .. }) = self.members.get_mut(self.turn.index) else {
            return false;
        };
        if !file.advance(&mut self.gaps) {
            return false;
        }
        let key = file.head().map(|head| Key::new(file.layout.seqnum_id, head));
        let until = self.turn.until.as_ref();
        key.is_some_and(|key| until.is_none_or(|until| key.compare(until) == Ordering::Less))
    }

    /// Gives the turn to the file with the first entry of all, and drops that entry from all others.
    fn compare_all(&mut self) -> Option<()> {
        // An entry may be written to one file and the next to another after the first file was looked at. Whoever
        // sees the second looks again and sees the first.
        let mut appeared = true;
        let mut passes = 0;
        while appeared && passes < 2 {
            appeared = false;
            passes += 1;
            for member in &mut self.members {
                appeared |= member.file.head().is_none() && member.file.advance(&mut self.gaps);
            }
        }
        let mut first: Option<(usize, Key)> = None;
        let mut second: Option<Key> = None;
        for (index, Member { file, .. }) in self.members.iter_mut().enumerate() {
            while let Some(head) = file.head() {
                let key = Key::new(file.layout.seqnum_id, head);
                match first.as_ref().map(|(_, best)| (key.compare(best), *best)) {
                    Some((Ordering::Equal, _)) => {
                        file.consume();
                        file.advance(&mut self.gaps);
                        continue;
                    }
                    Some((Ordering::Greater, _)) => second = earlier(second, key),
                    Some((Ordering::Less, best)) => {
                        second = Some(best);
                        first = Some((index, key));
                    }
                    None => first = Some((index, key)),
                }
                break;
            }
        }
        let (index, _) = first?;
        self.turn = Turn { index, until: second, entries_left: TURN_ENTRIES_MAX };
        Some(())
    }

    /// Whether the next entry of a file that appeared late was read from another file already.
    fn is_repeated(&mut self, index: usize) -> bool {
        let Some(last) = self.last else { return false };
        let Some((member, key)) =
            self.members.get(index).filter(|member| member.is_late).and_then(|member| {
                Some((member, Key::new(member.file.layout.seqnum_id, member.file.head()?)))
            })
        else {
            return false;
        };
        if key.compare(&last) == Ordering::Greater {
            if let Some(member) = self.members.get_mut(index) {
                member.is_late = false;
            }
            return false;
        }
        let own = member.file.inode;
        let passed = |other: &Member| {
            let id = other.file.layout.seqnum_id;
            other.file.inode != own && other.file.has_passed(|entry| Key::new(id, entry).compare(&key))
        };
        self.members.iter().any(passed)
    }

    /// Makes the entry at `index` the one that is handed out; false if it is not there any more.
    #[inline]
    pub(super) fn deliver(&mut self, index: usize, key: &Key) -> bool {
        let whole = self.members.get_mut(index).is_some_and(|member| member.file.recheck(&mut self.gaps));
        if whole {
            self.delivered = Some(index);
            self.last = Some(*key);
        }
        whole
    }

    /// Counts fields that the entry at `index` is delivered without.
    #[inline]
    pub(super) fn count_missing(&mut self, index: usize, missing: Missing) {
        if missing != Missing::default()
            && let Some(Member { file, .. }) = self.members.get(index)
        {
            for (cause, lost) in
                [(Cause::DamagedField, missing.damaged), (Cause::OversizedField, missing.oversized)]
            {
                if lost > 0 {
                    self.gaps.add(cause, Some(lost), &file.path);
                }
            }
        }
    }

    /// Goes to a place in every file. Returns the last entry before it, if one is left.
    pub(super) fn seek(&mut self, start: Start) -> Option<Key> {
        self.reset(start);
        let mut last: Option<Key> = None;
        for Member { file, .. } in &mut self.members {
            last = later(last, seek(file, start));
        }
        if let (Start::At(_), Some(before)) = (start, last) {
            // Files that appear later are measured by numbers and not by a clock that may be set back.
            self.start = Start::Behind(before);
        }
        last
    }

    /// Goes behind the last entry of every file.
    pub(super) fn seek_end(&mut self) {
        self.reset(Start::Head);
        for Member { file, .. } in &mut self.members {
            let id = file.layout.seqnum_id;
            self.last = later(self.last, file.seek(|_| false).map(|entry| Key::new(id, &entry)));
        }
        self.start = self.last.map_or(Start::Head, Start::Behind);
    }

    fn reset(&mut self, start: Start) {
        self.start = start;
        self.last = None;
        self.delivered = None;
        self.turn = Turn::default();
        // What was read to its end and let go is to be read again.
        self.done.clear();
        self.listing = None;
        self.refresh();
        self.members.iter_mut().for_each(|member| member.is_late = false);
    }

    /// Whether a file has this entry, directly before where it is read.
    pub(super) fn is_behind(&self, key: &Key) -> bool {
        self.members.iter().any(|Member { file, .. }| {
            let id = file.layout.seqnum_id;
            file.has_passed(|entry| Key::new(id, entry).compare(key))
        })
    }

    /// The number of the next entry among those of one journal.
    pub(super) fn first_of(&mut self, seqnum_id: u128) -> Option<u64> {
        let mut first = None;
        for Member { file, .. } in &mut self.members {
            if file.layout.seqnum_id == seqnum_id && file.advance(&mut self.gaps) {
                let number = file.head().map(|head| head.seqnum);
                first = first.into_iter().chain(number).min();
            }
        }
        first
    }

    /// Whether a file was closed for good since it was looked at: then there is a new one.
    pub(super) fn is_rotated(&self) -> bool {
        self.members.iter().any(|member| member.file.is_archived_now())
    }

    /// Adds a file in memory.
    pub(super) fn add_map(&mut self, map: Map) {
        self.serials += 1;
        match File::new(Path::new(""), map, self.serials) {
            Ok(mut file) => {
                file.is_final = true;
                file.inode = (0, u64::from(self.serials));
                self.members.push(Member { file, is_late: false, drained: 0 });
            }
            Err(_) => self.gaps.add(Cause::Header, None, Path::new("")),
        }
    }

    /// Looks for new, renamed and deleted files, and lets go those that were read.
    pub(super) fn refresh(&mut self) {
        if self.is_unchanged() {
            self.members.iter_mut().for_each(|member| member.file.refresh(&mut self.gaps));
            return;
        }
        let Some(source) = &self.source else { return };
        let mut listing = Listing::of(source);
        let paths = std::mem::take(&mut listing.files);
        self.listing = Some(listing);
        self.leave();
        let mut seen = Vec::with_capacity(paths.len());
        for path in paths {
            // Gone since it was listed: the next time says what became of it.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let inode = (metadata.dev(), metadata.ino());
            let stamp = (metadata.len(), (metadata.mtime(), metadata.mtime_nsec()));
            seen.push((inode, stamp));
            self.meet(path, inode, stamp);
        }
        self.done.retain(|done| seen.contains(done));
        self.refused.retain(|refused| seen.contains(&(refused.inode, refused.stamp)));
        for member in &mut self.members {
            member.file.refresh(&mut self.gaps);
        }
        self.let_go(&seen);
    }

    /// Whether only files that are open can have changed since the last look. On an idle host this is nearly all that a
    /// look costs.
    fn is_unchanged(&mut self) -> bool {
        let waits = self.members.len() >= FILES_MAX
            || !self.refused.is_empty()
            || self.members.iter().any(|member| member.file.is_drained());
        let same = !waits && self.beliefs > 0 && self.listing.as_ref().is_some_and(Listing::holds);
        self.beliefs = if same { self.beliefs - 1 } else { BELIEFS_MAX };
        same
    }

    /// Opens a file, if it is not known.
    fn meet(&mut self, path: PathBuf, inode: Inode, stamp: Stamp) {
        if let Some(member) = self.members.iter_mut().find(|member| member.file.inode == inode) {
            // journald never writes again to what it gave such a name.
            member.file.is_final |= path.extension().is_some_and(|extension| extension == "journal~");
            member.file.path = path;
            return;
        }
        if let Some(refused) =
            self.refused.iter_mut().find(|refused| (refused.inode, refused.stamp) == (inode, stamp))
        {
            // One that is being created has no header for a moment: only what stays so is a gap.
            if let Some(cause) = refused.cause.take() {
                self.gaps.add(cause, None, &path);
            }
            return;
        }
        if self.done.contains(&(inode, stamp)) || self.members.len() >= FILES_MAX {
            return;
        }
        self.serials = self.serials % u32::from(u16::MAX) + 1;
        match File::open(&path, self.serials) {
            Ok(mut file) => {
                file.is_final |= path.extension().is_some_and(|extension| extension == "journal~");
                let _before = seek(&mut file, self.start);
                self.refused.retain(|refused| refused.inode != inode);
                self.members.push(Member { file, is_late: self.last.is_some(), drained: 0 });
                // Others may have to wait for what it starts with.
                self.turn.entries_left = 0;
            }
            Err(error) => {
                let cause = match error {
                    OpenError::Io(_) => Cause::Unreadable,
                    OpenError::Header(_) => Cause::Header,
                };
                self.refused.retain(|refused| refused.inode != inode);
                self.refused.push(Refused { inode, stamp, cause: Some(cause) });
            }
        }
    }

    /// Closes the files that were read to their end and are not needed to recognise what late ones repeat.
    fn let_go(&mut self, seen: &[(Inode, Stamp)]) {
        let late = self.members.iter().any(|member| member.is_late && member.file.head().is_some());
        let mut closed = Vec::new();
        self.members.retain_mut(|Member { file, drained, .. }| {
            *drained = if file.is_drained() { drained.saturating_add(1) } else { 0 };
            let keep = late || *drained < KEPT_REFRESHES;
            if !keep {
                closed.extend(seen.iter().find(|(inode, _)| *inode == file.inode));
            }
            keep
        });
        self.done.append(&mut closed);
        // Places in the list have changed.
        self.turn = Turn::default();
    }
}

fn earlier(known: Option<Key>, key: Key) -> Option<Key> {
    known.filter(|known| known.compare(&key) != Ordering::Greater).or(Some(key))
}

fn later(known: Option<Key>, key: Option<Key>) -> Option<Key> {
    let Some(known) = known else { return key };
    key.filter(|key| key.compare(&known) == Ordering::Greater).or(Some(known))
}

/// Goes to the first entry of a file that is to be read. Returns the one before it.
fn seek(file: &mut File, start: Start) -> Option<Key> {
    let id = file.layout.seqnum_id;
    file.seek(|entry| start.admits(&Key::new(id, entry))).map(|entry| Key::new(id, &entry))
}
