//! The order of entries, within and across files: libsystemd's.
//!
//! Invariants:
//! - Two keys are equal only if they are of the same entry, whatever files they were read from.

use std::cmp::Ordering;

use super::cursor::Cursor;
use super::layout::EntryHead;

/// What entries are ordered by. Ids are little-endian numbers, since only their equality counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) seqnum_id: u128,
    pub(super) seqnum: u64,
    pub(super) boot_id: u128,
    pub(super) monotonic_us: u64,
    pub(super) realtime_us: u64,
    pub(super) xor_hash: u64,
}

impl Key {
    #[inline]
    pub(super) fn new(seqnum_id: u128, entry: &EntryHead) -> Self {
        let &EntryHead { seqnum, boot_id, monotonic_us, realtime_us, xor_hash, .. } = entry;
        Self { seqnum_id, seqnum, boot_id, monotonic_us, realtime_us, xor_hash }
    }

    /// By number where both count alike, else by the clock of the boot that they share, else by time.
    #[inline]
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let by_number =
            if self.seqnum_id == other.seqnum_id { self.seqnum.cmp(&other.seqnum) } else { Ordering::Equal };
        by_number.then_with(|| {
            let by_clock = if self.boot_id == other.boot_id {
                self.monotonic_us.cmp(&other.monotonic_us)
            } else {
                Ordering::Equal
            };
            by_clock
                .then_with(|| self.realtime_us.cmp(&other.realtime_us))
                .then_with(|| self.xor_hash.cmp(&other.xor_hash))
        })
    }

    pub(super) fn cursor(&self) -> Cursor {
        let &Self { seqnum, monotonic_us, realtime_us, xor_hash, .. } = self;
        let (seqnum_id, boot_id) = (self.seqnum_id.to_le_bytes(), self.boot_id.to_le_bytes());
        Cursor { seqnum_id, seqnum, boot_id, monotonic_us, realtime_us, xor_hash }
    }
}

impl From<&Cursor> for Key {
    fn from(cursor: &Cursor) -> Self {
        let &Cursor { seqnum, monotonic_us, realtime_us, xor_hash, .. } = cursor;
        let (seqnum_id, boot_id) =
            (u128::from_le_bytes(cursor.seqnum_id), u128::from_le_bytes(cursor.boot_id));
        Self { seqnum_id, seqnum, boot_id, monotonic_us, realtime_us, xor_hash }
    }
}

/// Where reading began: entries of files that appear later are read from there on, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Head,
    Behind(Key),
    At(u64),
}

impl Start {
    /// Whether an entry is to be read.
    pub(super) fn admits(&self, key: &Key) -> bool {
        match self {
            Self::Head => true,
            Self::Behind(start) => key.compare(start) == Ordering::Greater,
            Self::At(realtime_us) => key.realtime_us >= *realtime_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key =
        Key { seqnum_id: 1, seqnum: 5, boot_id: 7, monotonic_us: 50, realtime_us: 500, xor_hash: 9 };

    /// Scenario: pairs that agree in less and less: journal, boot, neither.
    /// Guarantees: the number decides in one journal, the boot's clock in one boot, else the time; and the hash in the end.
    #[test]
    fn the_closest_measure_decides() {
        let earlier = [
            Key { seqnum: 4, monotonic_us: 60, realtime_us: 600, ..KEY },
            Key { seqnum_id: 2, seqnum: 9, monotonic_us: 49, realtime_us: 600, ..KEY },
            Key { seqnum_id: 2, seqnum: 9, boot_id: 8, monotonic_us: 60, realtime_us: 499, ..KEY },
            Key { xor_hash: 8, ..KEY },
        ];
        for key in earlier {
            assert_eq!(
                (key.compare(&KEY), KEY.compare(&key)),
                (Ordering::Less, Ordering::Greater),
                "{key:?}"
            );
        }
        assert_eq!(
            KEY.compare(&Key { seqnum_id: 2, seqnum: 3, ..KEY }),
            Ordering::Equal,
            "a copy of the entry"
        );
        assert_eq!(Key::from(&KEY.cursor()), KEY);
    }

    /// Scenario: each start and the entries around it.
    /// Guarantees: behind a key the key itself is not read; at a time it is.
    #[test]
    fn starts_admit_what_follows() {
        let next = Key { seqnum: 6, ..KEY };
        assert!(Start::Head.admits(&KEY) && Start::Behind(KEY).admits(&next) && Start::At(500).admits(&KEY));
        assert!(!Start::Behind(KEY).admits(&KEY) && !Start::At(501).admits(&KEY));
    }
}
