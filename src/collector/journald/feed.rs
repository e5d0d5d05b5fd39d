//! One journal: its reader, where it stands, and where that is kept.
//!
//! Invariants:
//! - `at` is behind the last entry that was sent or passed over, and before every hole that was not told yet: seeking
//!   there leaves out nothing, and repeats only what was read behind such a hole.
//! - The first position is behind an entry wherever there is one before the time asked for: what is removed before the
//!   next start is counted then.

use std::path::{Path, PathBuf};

use super::journal::{Cause, Cursor, Entry, Gap, Reader, Seek, Source};
use super::missing::Missing;
use super::position::{Kept, Mark, PositionFile};

/// One journal.
#[derive(Debug)]
pub(super) struct Feed {
    source: Source,
    file: PositionFile,
    /// None until there is such a journal, and after a panic.
    reader: Option<Reader>,
    /// Behind the last entry that was sent or passed over.
    at: Mark,
    /// What its file holds.
    kept: Option<Mark>,
    missing: Missing,
    /// Counted as lost: drop records up to this number of this lineage.
    counted: ([u8; 16], u64),
}

impl Feed {
    /// A journal that is read from where its file says, else from `start_us` on.
    pub(super) fn new(source: Source, state_dir: &Path, start_us: u64) -> Self {
        let file = PositionFile::of(&source, state_dir);
        let (at, kept) = match file.load() {
            Kept::Mark(mark) => (mark, Some(mark)),
            Kept::Nothing => (Mark::From(start_us), None),
            Kept::Damaged(why) => {
                tracing::warn!("the position in the journal is lost: {why}; it is read from now on");
                (Mark::From(crate::clock::unix_ns() / 1000), None)
            }
        };
        Self { source, file, reader: None, at, kept, missing: Missing::default(), counted: ([0; 16], 0) }
    }

    /// Opens the journal if it is not; why it cannot be.
    pub(super) fn open(&mut self) -> Result<(), String> {
        if self.reader.is_none() {
            self.reader = Some(Reader::open(self.source.clone()).map_err(|error| error.to_string())?);
            self.seek(self.at());
        }
        Ok(())
    }

    /// Goes to a position.
    pub(super) fn seek(&mut self, mark: Mark) {
        self.at = mark;
        let Some(reader) = &mut self.reader else { return };
        self.missing.restart(None);
        match reader.seek(mark.position()) {
            Ok(Seek::Exact) => {
                if let Some(cursor) = reader.before() {
                    self.at = Mark::Behind(cursor);
                }
                if let Mark::Behind(cursor) = self.at {
                    self.missing.restart(Some((cursor.seqnum_id, cursor.seqnum)));
                }
            }
            Ok(Seek::Gone) => {
                tracing::warn!(
                    "the entry of the journal that was read last is gone ({}): it goes on with the next \
                     there is, and a log_gap says so",
                    self.file.path().display()
                );
            }
            // Opened again, and sought again, with the next pass.
            Err(error) => {
                tracing::warn!("the journal cannot be read now: {error}");
                self.reader = None;
            }
        }
    }

    /// The reader is not to be trusted any more: the next pass opens it again.
    pub(super) fn close(&mut self) {
        self.reader = None;
    }

    /// The next entry, if there is one.
    pub(super) fn next(&mut self) -> Option<Entry<'_>> {
        self.reader.as_mut()?.next()
    }

    /// Looks for new files.
    pub(super) fn refresh(&mut self) {
        if let Some(reader) = &mut self.reader {
            reader.refresh();
        }
    }

    /// An entry was read.
    pub(super) fn read(&mut self, cursor: &Cursor, now_ns: u64) {
        self.missing.read(cursor.seqnum_id, cursor.seqnum, now_ns, self.at);
    }

    /// Whether the reader met something that it could not read.
    pub(super) fn has_gaps(&self) -> bool {
        self.reader.as_ref().is_some_and(Reader::has_gaps)
    }

    /// What could not be read.
    pub(super) fn take_gaps(&mut self, now_ns: u64) -> Vec<Gap> {
        let mut gaps = self.reader.as_mut().map(Reader::take_gaps).unwrap_or_default();
        while let Some(lost) = self.missing.due(now_ns) {
            gaps.push(Gap { cause: Cause::Vacuumed, lost: Some(lost), file: PathBuf::new() });
        }
        gaps
    }

    /// The entry of this cursor was sent or passed over.
    pub(super) fn passed(&mut self, cursor: Cursor) {
        self.at = Mark::Behind(cursor);
    }

    /// Where a start would have to read on.
    pub(super) fn at(&self) -> Mark {
        self.missing.before().unwrap_or(self.at)
    }

    /// Whether the loss that the entry of this cursor tells of is not counted yet.
    pub(super) fn counts(&mut self, cursor: &Cursor) -> bool {
        let (lineage, number) = self.counted;
        let new = lineage != cursor.seqnum_id || cursor.seqnum > number;
        if new {
            self.counted = (cursor.seqnum_id, cursor.seqnum);
        }
        new
    }

    /// Keeps a position in its file.
    pub(super) fn keep(&mut self, mark: Mark) -> Result<(), String> {
        if self.kept == Some(mark) {
            return Ok(());
        }
        let kept = self.file.keep(mark);
        kept.map_err(|error| format!("{} cannot be written: {error}", self.file.path().display()))?;
        self.kept = Some(mark);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
