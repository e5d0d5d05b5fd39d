//! Units whose invocation id is not known yet: systemd sets it shortly after it makes the cgroup.
//!
//! Invariants:
//! - Each unit is asked for a bounded number of times, each time later; the queue is bounded.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::EntityRef;

const LEN_MAX: usize = 1024;
/// 1, 4, 16, 64, 256, 1024 and 4096 ms after the time before.
const ATTEMPTS_MAX: u8 = 7;
const FIRST_DELAY_NS: u64 = 1_000_000;

/// One unit that waits. Ordered by time; the key tells whether the slot still holds the same entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wait {
    due_ns: u64,
    pub(super) key: u64,
    pub(super) slot: EntityRef,
    attempt: u8,
}

/// The units that wait, soonest first.
#[derive(Debug)]
pub(super) struct Pending {
    heap: BinaryHeap<Reverse<Wait>>,
    next_due_ns: u64,
}

impl Pending {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::with_capacity(LEN_MAX), next_due_ns: u64::MAX }
    }

    /// When [`Self::pop_due`] has something next; `u64::MAX` for never.
    pub(super) fn next_due_ns(&self) -> u64 {
        self.next_due_ns
    }

    /// Waits for a unit for the first time. False when the queue is full.
    #[must_use]
    pub(super) fn push(&mut self, key: u64, slot: EntityRef, now_ns: u64) -> bool {
        self.put(Wait { due_ns: now_ns.saturating_add(FIRST_DELAY_NS), key, slot, attempt: 0 })
    }

    /// Waits again after a failure. False when that was the last attempt, or the queue is full.
    #[must_use]
    pub(super) fn again(&mut self, wait: Wait, now_ns: u64) -> bool {
        let attempt = wait.attempt + 1;
        let delay_ns = FIRST_DELAY_NS << (2 * u32::from(attempt));
        attempt < ATTEMPTS_MAX && self.put(Wait { due_ns: now_ns.saturating_add(delay_ns), attempt, ..wait })
    }

    fn put(&mut self, wait: Wait) -> bool {
        if self.heap.len() >= LEN_MAX {
            return false;
        }
        self.heap.push(Reverse(wait));
        self.next_due_ns = self.next_due_ns.min(wait.due_ns);
        true
    }

    /// Takes the unit that waits longest, if its time has come.
    pub(super) fn pop_due(&mut self, now_ns: u64) -> Option<Wait> {
        if now_ns < self.next_due_ns {
            return None;
        }
        let due = self.heap.pop();
        self.next_due_ns = self.heap.peek().map_or(u64::MAX, |Reverse(wait)| wait.due_ns);
        due.map(|Reverse(wait)| wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a unit never gets its id, and time goes on in steps of a millisecond.
    /// Guarantees: it is asked for seven times within six seconds, then never again.
    #[test]
    fn attempts_are_bounded_and_back_off() {
        let mut pending = Pending::new();
        assert!(pending.push(1, 2, 0));
        let mut asked = Vec::new();
        for ms in 0..20_000 {
            while let Some(wait) = pending.pop_due(ms * 1_000_000) {
                asked.push(ms);
                let _ = pending.again(wait, ms * 1_000_000);
            }
        }
        assert_eq!(asked, [1, 5, 21, 85, 341, 1365, 5461]);
        assert_eq!(pending.next_due_ns(), u64::MAX);
    }

    /// Scenario: more units wait than the queue holds.
    /// Guarantees: the ones too many are refused, and the refusal is visible.
    #[test]
    fn a_full_queue_refuses() {
        let mut pending = Pending::new();
        let taken = (0..2000).filter(|&key| pending.push(key, 0, key)).count();
        assert_eq!(taken, LEN_MAX);
    }
}
