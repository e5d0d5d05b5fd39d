//! The entries of all files of a source, in one order.

use std::path::PathBuf;

use super::cursor::Cursor;
use super::gap::{Gap, Gaps};

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
    fields: &'a [()],
}

/// The fields of an entry, in the order in which they are stored: name and value.
#[derive(Debug, Clone)]
pub struct Fields<'a>(std::slice::Iter<'a, ()>);

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|()| (&b""[..], &b""[..]))
    }
}

impl<'a> Entry<'a> {
    /// Its fields; a name may occur more than once.
    #[must_use]
    pub fn fields(&self) -> Fields<'a> {
        Fields(self.fields.iter())
    }

    /// Whether all that was read from it was still there: false once its file was cut while it was read, and
    /// then what was read may be zeros. The next call of [`Reader::next`] counts that as a gap.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        true
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
    gaps: Gaps,
}

impl Reader {
    /// Finds the files of `source` and stands at their first entry.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is no directory for them. Files that cannot be read are gaps.
    pub fn open(source: Source) -> Result<Self, Error> {
        drop(source);
        Ok(Self { gaps: Gaps::default() })
    }

    /// Goes to a position.
    ///
    /// # Errors
    /// None that a damaged file could cause.
    pub fn seek(&mut self, position: Position) -> Result<Seek, Error> {
        let _ = position;
        Ok(Seek::Exact)
    }

    /// The next entry; `None` when there is none now. Cheap then: it looks at a word of each file.
    pub fn next(&mut self) -> Option<Entry<'_>> {
        None
    }

    /// Looks for new, renamed and deleted files.
    pub fn refresh(&mut self) {}

    /// What could not be read since the last call.
    pub fn take_gaps(&mut self) -> Vec<Gap> {
        self.gaps.take()
    }
}
