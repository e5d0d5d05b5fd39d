//! Entries that no file has: holes in the sequence numbers of a journal.
//!
//! journald numbers what it writes without holes. Where the next entry's number is not the next number, files were
//! deleted before they were read, or another file has the entries and was not seen yet: that shows within a moment.
//!
//! Invariants:
//! - A hole is told once, after a grace time, with the entries that have not turned up until then. Until it is told, a
//!   start has to read on from before it: [`Missing::before`].
//! - The lineages and holes remembered are bounded; a lineage that is forgotten starts anew, a hole is told early.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use super::position::Mark;

/// How long entries may take to turn up in a file that was not known yet: a few looks for new files.
const GRACE_NS: u64 = 2_000_000_000;

/// Lineages of sequence numbers that are remembered.
const LINEAGES_MAX: usize = 64;

/// Holes that wait for their grace time to end.
const HOLES_MAX: usize = 64;

#[derive(Debug)]
struct Hole {
    lineage: [u8; 16],
    numbers: RangeInclusive<u64>,
    left: u64,
    due_ns: u64,
    /// Behind the entry that was read before the hole was seen.
    before: Mark,
}

/// The holes of one journal.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// The highest number of each lineage, the one seen last at the end.
    last: Vec<([u8; 16], u64)>,
    holes: VecDeque<Hole>,
}

impl Missing {
    /// Reading goes on behind this entry, or somewhere else.
    pub(super) fn restart(&mut self, behind: Option<([u8; 16], u64)>) {
        self.last.clear();
        self.holes.clear();
        self.last.extend(behind);
    }

    /// An entry was read; until then, everything up to `before` was.
    pub(super) fn read(&mut self, lineage: [u8; 16], number: u64, now_ns: u64, before: Mark) {
        // Nearly always that of the entry before.
        let place = self.last.iter().rposition(|(known, _)| *known == lineage);
        let Some((_, last)) = place.and_then(|place| self.last.get_mut(place)) else {
            if self.last.len() >= LINEAGES_MAX {
                self.last.remove(0);
            }
            self.last.push((lineage, number));
            return;
        };
        let expected = last.saturating_add(1);
        if number < expected {
            let hole =
                self.holes.iter_mut().find(|hole| hole.lineage == lineage && hole.numbers.contains(&number));
            if let Some(hole) = hole {
                hole.left = hole.left.saturating_sub(1);
            }
            return;
        }
        *last = number;
        if number > expected {
            if self.holes.len() >= HOLES_MAX {
                self.holes.iter_mut().for_each(|hole| hole.due_ns = 0);
            }
            let due_ns = now_ns.saturating_add(GRACE_NS);
            let numbers = expected..=number - 1;
            self.holes.push_back(Hole { lineage, numbers, left: number - expected, due_ns, before });
        }
    }

    /// The position before the first hole that is not told yet.
    pub(super) fn before(&self) -> Option<Mark> {
        self.holes.front().map(|hole| hole.before)
    }

    /// How many entries are missing for certain now, hole by hole.
    pub(super) fn due(&mut self, now_ns: u64) -> Option<u64> {
        while self.holes.front().is_some_and(|hole| hole.due_ns <= now_ns) {
            let left = self.holes.pop_front().map_or(0, |hole| hole.left);
            if left > 0 {
                return Some(left);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 16] = [1; 16];
    const B: [u8; 16] = [2; 16];
    const HERE: Mark = Mark::From(7);

    /// Scenario: two lineages, one with a hole of three of which one turns up late.
    /// Guarantees: the two others are told once, after the grace time; until then the position stays before the hole.
    #[test]
    fn holes_are_told_after_a_while() {
        let mut missing = Missing::default();
        for (lineage, number) in [(A, 5), (B, 900), (A, 6), (B, 901), (A, 10), (A, 11)] {
            missing.read(lineage, number, 100, HERE);
        }
        assert_eq!((missing.due(100 + GRACE_NS - 1), missing.before()), (None, Some(HERE)));
        missing.read(A, 8, 200, HERE);
        missing.read(A, 4, 200, Mark::From(8));
        assert_eq!(missing.due(100 + GRACE_NS), Some(2));
        assert_eq!((missing.due(u64::MAX), missing.before()), (None, None));
    }

    /// Scenario: everything that was missing turns up; reading restarts behind an entry, with and without a hole.
    /// Guarantees: nothing is told of the first; a restart knows its place and forgets the rest.
    #[test]
    fn what_turns_up_is_not_missing() {
        let mut missing = Missing::default();
        for number in [1, 3, 2] {
            missing.read(A, number, 0, HERE);
        }
        assert_eq!(missing.due(u64::MAX), None);
        missing.read(A, 9, 0, HERE);
        missing.restart(Some((A, 20)));
        missing.read(A, 21, 0, HERE);
        assert_eq!(missing.due(u64::MAX), None);
        missing.restart(Some((A, 20)));
        missing.read(A, 31, 0, HERE);
        assert_eq!(missing.due(u64::MAX), Some(10));
        missing.restart(None);
        missing.read(A, 500, 0, HERE);
        assert_eq!(missing.due(u64::MAX), None);
    }

    /// Scenario: more lineages and holes than are remembered.
    /// Guarantees: both stay bounded; every hole of a known lineage is told.
    #[test]
    fn memory_is_bounded() {
        let mut missing = Missing::default();
        for id in 0..200 {
            missing.read([id; 16], 1, 0, HERE);
        }
        assert_eq!(missing.last.len(), LINEAGES_MAX);
        let mut told = 0;
        for number in (3..1003).step_by(2) {
            missing.read([199; 16], number, 0, HERE);
            told += std::iter::from_fn(|| missing.due(0)).sum::<u64>();
            assert!(missing.holes.len() <= HOLES_MAX + 1);
        }
        told += std::iter::from_fn(|| missing.due(u64::MAX)).sum::<u64>();
        assert_eq!(told, 500);
    }
}
