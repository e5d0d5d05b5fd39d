//! What the reader could not read: named, counted, and added up until it is asked for.
//!
//! Invariants:
//! - The number of distinct gaps kept is bounded; what is beyond is counted in one that names no file.

use std::fmt;
use std::path::{Path, PathBuf};

/// Distinct gaps kept between two calls of `take`.
const GAPS_MAX: usize = 256;

/// Why something could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The file is not a journal, or of a kind that this reader does not know.
    Header,
    /// The file could not be opened or mapped.
    Unreadable,
    /// Entries whose object is not one.
    DamagedEntry,
    /// Entries that were lost with the list that they stood in.
    DamagedList,
    /// Entries that lie behind the end of a file that was cut.
    Truncated,
    /// Fields of an entry that is delivered without them; the count is of fields.
    DamagedField,
    /// Fields that are longer than the reader expands; the count is of fields.
    OversizedField,
    /// The entry that the reading was to go on behind is gone.
    CursorGone,
    /// Sequence numbers that no file holds: deleted before they were read. Whoever reads finds that out.
    Vacuumed,
}

impl Cause {
    /// Its name in the ledger and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Header => "journal_header",
            Self::Unreadable => "journal_unreadable",
            Self::DamagedEntry => "journal_damaged_entry",
            Self::DamagedList => "journal_damaged_list",
            Self::Truncated => "journal_truncated",
            Self::DamagedField => "journal_damaged_field",
            Self::OversizedField => "journal_oversized_field",
            Self::CursorGone => "journal_cursor_gone",
            Self::Vacuumed => "journal_vacuumed",
        }
    }

    /// Whether whole entries are missing, and not only fields of some.
    #[must_use]
    pub const fn is_of_entries(self) -> bool {
        !matches!(self, Self::DamagedField | Self::OversizedField)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Why.
    pub cause: Cause,
    /// How many, where that is known: entries, or fields where the cause is about fields.
    pub lost: Option<u64>,
    /// In which file; empty where it is in none.
    pub file: PathBuf,
}

/// The gaps since they were last taken.
#[derive(Debug, Default)]
pub(super) struct Gaps(Vec<Gap>);

impl Gaps {
    /// Adds to the gap of this file and cause.
    pub(super) fn add(&mut self, cause: Cause, lost: Option<u64>, file: &Path) {
        let file = if self.0.len() < GAPS_MAX { file } else { Path::new("") };
        match self.0.iter_mut().find(|gap| gap.cause == cause && gap.file.as_os_str() == file.as_os_str()) {
            Some(gap) => gap.lost = gap.lost.zip(lost).map(|(before, more)| before.saturating_add(more)),
            None => self.0.push(Gap { cause, lost, file: file.to_owned() }),
        }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them; none afterwards.
    pub(super) fn take(&mut self) -> Vec<Gap> {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the same gap twice, another of unknown size twice, and far more files than are kept.
    /// Guarantees: equal ones add up, unknown stays unknown, and the number kept is bounded with nothing lost.
    #[test]
    fn gaps_add_up() {
        let mut gaps = Gaps::default();
        for lost in [Some(2), Some(3)] {
            gaps.add(Cause::DamagedEntry, lost, Path::new("a"));
            gaps.add(Cause::CursorGone, None, Path::new(""));
        }
        let taken = gaps.take();
        assert_eq!(taken.iter().map(|gap| gap.lost).collect::<Vec<_>>(), [Some(5), None]);
        for file in 0..2 * GAPS_MAX {
            gaps.add(Cause::Header, Some(1), Path::new(&file.to_string()));
        }
        let taken = gaps.take();
        assert!(taken.len() <= GAPS_MAX + 1);
        assert_eq!(taken.iter().filter_map(|gap| gap.lost).sum::<u64>(), 2 * GAPS_MAX as u64);
    }
}
