//! When nobody looked for failed system calls.
//!
//! Invariants:
//! - What is kept of the past is bounded by [`ABSENCES_MAX`] absences; the total counts all of them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Absences that are remembered: more than fit in the minute that is shown.
const ABSENCES_MAX: usize = 512;

/// The time that the share is of.
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Past {
    /// Ended ones, in their order, without the current one.
    absences: VecDeque<(u64, u64)>,
    /// Since when nobody looks; none while somebody does.
    since: Option<u64>,
    total_ns: u64,
}

/// When the errno probe was away. Times are `CLOCK_BOOTTIME`, nanoseconds.
#[derive(Debug, Default)]
pub struct Blind(Mutex<Past>);

impl Blind {
    fn past(&self) -> MutexGuard<'_, Past> {
        // Every change is a single step: a panic elsewhere cannot leave half of it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nobody looks.
    pub fn close(&self, now: u64) {
        self.past().since.get_or_insert(now);
    }

    /// From now on somebody looks again.
    pub fn open(&self, now: u64) {
        let mut past = self.past();
        let Some(since) = past.since.take() else { return };
        past.total_ns += now.saturating_sub(since);
        if past.absences.len() == ABSENCES_MAX {
            past.absences.pop_front();
        }
        past.absences.push_back((since, now));
    }

    /// How long nobody looked since the start.
    #[must_use]
    pub fn total(&self, now: u64) -> Duration {
        let past = self.past();
        let current = past.since.map_or(0, |since| now.saturating_sub(since));
        Duration::from_nanos(past.total_ns + current)
    }

    /// How long nobody looked between two times; of what is longer ago than is remembered, nothing.
    #[must_use]
    pub fn between(&self, from: u64, to: u64) -> Duration {
        let past = self.past();
        let current = past.since.map(|since| (since, to));
        let absences = past.absences.iter().copied().chain(current);
        let overlaps = absences.map(|(start, end)| end.min(to).saturating_sub(start.max(from)));
        Duration::from_nanos(overlaps.sum())
    }

    /// The share of the last minute in which nobody looked, 0 to 1.
    #[must_use]
    pub fn share_of_minute(&self, now: u64) -> f64 {
        let minute = u64::try_from(MINUTE.as_nanos()).unwrap_or(u64::MAX);
        self.between(now.saturating_sub(minute), now).as_secs_f64() / MINUTE.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Scenario: absences of 1 s every 4 s, the last one still going on.
    /// Guarantees: the total has all of them, a stretch what falls into it, the minute a quarter.
    #[test]
    fn absences_add_up() {
        let blind = Blind::default();
        for turn in 0..1000 {
            blind.close((turn * 4 + 3) * SECOND);
            blind.close((turn * 4 + 3) * SECOND + 5);
            if turn < 999 {
                blind.open((turn * 4 + 4) * SECOND);
            }
        }
        let now = 4000 * SECOND;
        assert_eq!(blind.total(now), Duration::from_secs(1000));
        assert!((blind.share_of_minute(now) - 0.25).abs() < 1e-9);
        assert_eq!(blind.between(3990 * SECOND, 3992 * SECOND), Duration::from_secs(1));
        assert_eq!(blind.between(3992 * SECOND, 3995 * SECOND), Duration::ZERO);
        assert_eq!(blind.past().absences.len(), ABSENCES_MAX);
        blind.open(now);
        blind.open(now + 5);
        assert_eq!(blind.total(now + 9 * SECOND), Duration::from_secs(1000));
    }
}
