//! Where reading goes on after a restart: a file for each journal, with a cursor in libsystemd's text.
//!
//! `journalctl --after-cursor "$(cat FILE)"` shows what the collector would read next.
//!
//! Invariants:
//! - A file is whole or absent: written aside, synced, then put in place.
//! - What cannot be read costs one message and the entries since, never the start.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::journal::{Cursor, Position, Source};
use crate::entity::replace_file;

/// A position between two entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Behind this entry.
    Behind(Cursor),
    /// Before the first entry of this time, in microseconds since 1970: where nothing was read yet.
    From(u64),
}

impl Mark {
    /// The position to seek.
    pub(super) fn position(self) -> Position {
        match self {
            Self::Behind(cursor) => Position::Cursor(cursor),
            Self::From(realtime_us) => Position::RealtimeUs(realtime_us),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Behind(cursor) => cursor.fmt(formatter),
            // A cursor may name nothing but a time.
            Self::From(realtime_us) => write!(formatter, "t={realtime_us:x}"),
        }
    }
}

fn parse(text: &str) -> Option<Mark> {
    let text = text.trim();
    let time = text.strip_prefix("t=").and_then(|digits| u64::from_str_radix(digits, 16).ok());
    time.map(Mark::From).or_else(|| text.parse().ok().map(Mark::Behind))
}

/// The file of one journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PositionFile {
    directory: PathBuf,
    name: String,
}

/// What a file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// Nothing was kept.
    Nothing,
    /// Where to go on.
    Mark(Mark),
    /// It cannot be read; why.
    Damaged(String),
}

impl PositionFile {
    /// The file for a journal in the state directory.
    pub(super) fn of(source: &Source, state_dir: &Path) -> Self {
        let name = match source {
            Source::Host => "journald.cursor".to_owned(),
            Source::Namespace(namespace) => format!("journald@{namespace}.cursor"),
            Source::Directory(path) => {
                let hash = crate::event::named_key("DIRECTORY", &path.to_string_lossy());
                format!("journald-{hash:016x}.cursor")
            }
        };
        Self { directory: state_dir.to_owned(), name }
    }

    /// What was kept last.
    pub(super) fn load(&self) -> Kept {
        let path = self.path();
        match std::fs::read_to_string(&path) {
            Ok(text) => match parse(&text) {
                Some(mark) => Kept::Mark(mark),
                None => Kept::Damaged(format!("{} holds no cursor", path.display())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::Nothing,
            Err(error) => Kept::Damaged(format!("{} cannot be read: {error}", path.display())),
        }
    }

    /// Keeps a position.
    pub(super) fn keep(&self, mark: Mark) -> io::Result<()> {
        replace_file(&self.directory, &self.name, &format!("{mark}\n"))
    }

    /// Where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a cursor and a time are kept and loaded; then the file is missing, cut, empty and a directory.
    /// Guarantees: marks come back as libsystemd writes them; what is damaged says so and is no panic.
    #[test]
    fn marks_are_kept() {
        let state = tempfile::tempdir().expect("temporary directory");
        let file = PositionFile::of(&Source::Host, state.path());
        assert_eq!(file.load(), Kept::Nothing);
        let cursor = Cursor {
            seqnum_id: [1; 16],
            seqnum: 0x2a,
            boot_id: [2; 16],
            monotonic_us: 7,
            realtime_us: 0x6444_e3a9_c1b0,
            xor_hash: 0x8bad_f00d,
        };
        for mark in [Mark::Behind(cursor), Mark::From(0x6444_e3a9_c1b0)] {
            file.keep(mark).expect("writable");
            assert_eq!(file.load(), Kept::Mark(mark));
        }
        assert_eq!(std::fs::read_to_string(file.path()).expect("kept"), "t=6444e3a9c1b0\n");
        for garbage in ["", "s=1;i=2", "t=xyz", "\u{e4}"] {
            std::fs::write(file.path(), garbage).expect("writable");
            assert!(
                matches!(file.load(), Kept::Damaged(why) if why.contains("journald.cursor")),
                "{garbage}"
            );
        }
        std::fs::write(file.path(), [0xff, 0xfe]).expect("writable");
        assert!(matches!(file.load(), Kept::Damaged(_)));
        assert_eq!(
            std::fs::read_dir(state.path()).expect("readable").count(),
            1,
            "nothing is left beside it"
        );
    }

    /// Scenario: the journals that can be read at once.
    /// Guarantees: each has a file of its own, whose name has no slash.
    #[test]
    fn files_are_distinct() {
        let sources = [
            Source::Host,
            Source::Namespace("a".into()),
            Source::Directory("/a".into()),
            Source::Directory("/b".into()),
        ];
        let names: std::collections::BTreeSet<_> =
            sources.iter().map(|source| PositionFile::of(source, Path::new("/state")).path()).collect();
        assert_eq!(names.len(), sources.len());
        assert!(names.iter().all(|path| path.parent() == Some(Path::new("/state"))));
    }
}
