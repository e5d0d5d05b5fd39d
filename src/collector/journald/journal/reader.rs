//! The entries of all files of a source, in one order.
//!
//! Invariants:
//! - An entry is handed out once, though several files may hold it.
//! - A file that is deleted is read to its end first, unless it was emptied, as journald does to what it vacuums: that is a
//!   gap. One that appears later is read from where reading began.
//! - Entries of one file are never handed out in another order than they have in it.

use std::path::PathBuf;

use super::cursor::Cursor;
use super::files::Files;
use super::gap::{Cause, Gap};
use super::order::{Key, Start};
use super::values::{FieldRef, Values};
use crate::sys::Map;

/// Which journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// This host's, in `/run/log/journal` and `/var/log/journal`.
    Host,
    /// This host's of one namespace.
    Namespace(String),
    /// Whatever lies in a directory, or in directories in it that are named after a machine.
    Directory(PathBuf),
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// At the first entry there is.
    Head,
    /// Behind the last entry there is.
    Tail,
    /// Behind the entry of this cursor.
    Cursor(Cursor),
    /// At the first entry of this time, in microseconds since 1970.
    RealtimeUs(u64),
}

/// Where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// Where it was asked to.
    Exact,
    /// The cursor's entry no longer exists: behind where it was, by sequence number or time. A gap says so.
    Gone,
}

/// Why there is nothing to read. Retry: the journal may appear.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such journal.
    #[error("no journal in {0}: journald has not written one, or it is not mounted here")]
    Missing(String),
}

/// One entry, until the next is read.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Its number among the entries of its journal.
    pub seqnum: u64,
    /// Whose sequence numbers these are.
    pub seqnum_id: [u8; 16],
    /// The boot it was written in.
    pub boot_id: [u8; 16],
    /// Microseconds of that boot's monotonic clock when journald got it.
    pub monotonic_us: u64,
    /// Microseconds since 1970 when journald got it.
    pub realtime_us: u64,
    /// A hash over all its fields.
    pub xor_hash: u64,
    fields: Fields<'a>,
}

/// The fields of an entry, in the order in which they are stored: name and value.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    left: std::slice::Iter<'a, FieldRef>,
    map: &'a Map,
    expanded: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // A field that cannot be split was one when it was looked at: its file was cut, which is a gap of its own.
        self.left.find_map(|field| field.split(self.map, self.expanded))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left.len()))
    }
}

impl<'a> Entry<'a> {
    /// Its fields; a name may occur more than once.
    #[must_use]
    #[inline]
    pub fn fields(&self) -> Fields<'a> {
        self.fields.clone()
    }

    /// Whether all that was read from it was still there: false once its file was cut while it was read, and
    /// then what was read may be zeros.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        !self.fields.map.is_cut()
    }

    /// Where it stands.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        let &Self { seqnum_id, seqnum, boot_id, monotonic_us, realtime_us, xor_hash, .. } = self;
        Cursor { seqnum_id, seqnum, boot_id, monotonic_us, realtime_us, xor_hash }
    }
}

/// Reads a journal.
#[derive(Debug)]
pub struct Reader {
    files: Files,
    values: Values,
    /// The last entry before the position that was sought.
    before: Option<Cursor>,
}

impl Reader {
    /// Finds the files of `source` and stands at their first entry.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is no directory for them. Files that cannot be read are gaps.
    pub fn open(source: Source) -> Result<Self, Error> {
        let places = super::directory::places(&source);
        if !places.iter().any(|place| place.is_dir()) {
            let names: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
            return Err(Error::Missing(names.join(" or ")));
        }
        let mut files = Files::new(Some(source));
        files.refresh();
        // What was refused and is still the same is no file that is just being created.
        files.refresh();
        Ok(Self { files, values: Values::new(), before: None })
    }

    /// The same for files in memory.
    #[must_use]
    pub fn of_maps(maps: Vec<Map>) -> Self {
        let mut files = Files::new(None);
        maps.into_iter().for_each(|map| files.add_map(map));
        Self { files, values: Values::new(), before: None }
    }

    /// Goes to a position.
    ///
    /// # Errors
    /// None that a damaged file could cause.
    pub fn seek(&mut self, position: Position) -> Result<Seek, Error> {
        self.before = None;
        match position {
            Position::Head => {
                let _none = self.files.seek(Start::Head);
            }
            Position::Tail => self.files.seek_end(),
            Position::RealtimeUs(time) => {
                self.before = self.files.seek(Start::At(time)).map(|key| key.cursor());
            }
            Position::Cursor(cursor) => {
                let key = Key::from(&cursor);
                let _before = self.files.seek(Start::Behind(key));
                if !self.files.is_behind(&key) {
                    let lost = self.files.first_of(key.seqnum_id).map(|next| {
                        // Its own entry was read already.
                        next.saturating_sub(key.seqnum.saturating_add(1))
                    });
                    self.files.gaps.add(Cause::CursorGone, lost, std::path::Path::new(""));
                    return Ok(Seek::Gone);
                }
            }
        }
        Ok(Seek::Exact)
    }

    /// The last entry before the time that was sought; `None` after another seek, and where the journal starts later.
    #[must_use]
    pub fn before(&self) -> Option<Cursor> {
        self.before
    }

    /// The next entry; `None` when there is none now. Cheap then: it looks at two words of each file.
    #[expect(
        clippy::should_implement_trait,
        reason = "what is handed out borrows the reader, as no Iterator can"
    )]
    pub fn next(&mut self) -> Option<Entry<'_>> {
        let Self { files, values, .. } = self;
        let (index, key) = loop {
            let Some(index) = files.choose() else {
                // Where journald goes on is known at once, before it can be rotated and removed in its turn.
                if !files.is_rotated() {
                    return None;
                }
                files.refresh();
                continue;
            };
            let Some((file, head)) = files.at(index) else { continue };
            let missing = values.read(file.pages(), &head);
            let key = Key::new(file.layout.seqnum_id, &head);
            if files.deliver(index, &key) {
                files.count_missing(index, missing);
                break (index, key);
            }
        };
        let (file, _) = files.at(index)?;
        let fields = Fields { left: values.fields().iter(), map: &file.map, expanded: values.expanded() };
        let Cursor { seqnum_id, seqnum, boot_id, monotonic_us, realtime_us, xor_hash } = key.cursor();
        Some(Entry { seqnum, seqnum_id, boot_id, monotonic_us, realtime_us, xor_hash, fields })
    }

    /// Looks for new, renamed and deleted files. To be called now and then, a second apart at most.
    pub fn refresh(&mut self) {
        self.files.refresh();
    }

    /// Whether there is something that could not be read since the last call of `take_gaps`.
    #[must_use]
    pub fn has_gaps(&self) -> bool {
        !self.files.gaps.is_empty()
    }

    /// What could not be read since the last call.
    pub fn take_gaps(&mut self) -> Vec<Gap> {
        self.files.gaps.take()
    }
}
