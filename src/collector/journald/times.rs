//! When an entry happened, on the one time axis.
//!
//! An entry has two times: the monotonic clock of the boot it was written in, which stands still while the host sleeps,
//! and the wall clock, which may be set. Of this boot, the monotonic time plus the sleep so far bounds the answer from
//! above and the bare monotonic time from below; the wall clock chooses in between. Of another boot there is only the
//! wall clock, which leads to a time before this boot.
//!
//! Invariants:
//! - Pure but for [`Clocks::now`]; an entry of this boot is never put before its boot or later than its monotonic time
//!   allows.

use super::said::{Name, Said};
use crate::clock;

/// The sender's clock is believed up to this far before journald's.
const LAG_US_MAX: u64 = 60_000_000;

/// The kernel stamps its messages with a clock that drifts: later than this after boot, journald's is better.
const KERNEL_CLOCK_US_MAX: u64 = 600_000_000;

/// An entry older than this when it is read was not read as it happened.
const LIVE_NS: u64 = 3_000_000_000;

/// How the clocks stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clocks {
    /// Names this boot.
    pub(super) boot_id: [u8; 16],
    /// Unix nanoseconds at boot.
    pub(super) boot_unix_ns: u64,
    /// How long the host slept since boot.
    pub(super) asleep_ns: u64,
    /// Nanoseconds since boot.
    pub(super) now_ns: u64,
}

/// When an entry was written, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) boot_id: [u8; 16],
    pub(super) monotonic_us: u64,
    pub(super) realtime_us: u64,
}

impl Clocks {
    /// How they stand now.
    pub(super) fn now(boot_id: [u8; 16]) -> Self {
        let (awake_ns, now_ns) = (clock::monotonic_ns(), clock::boot_ns());
        // Read one after the other: what is between the two calls is no sleep.
        let asleep_ns = now_ns.saturating_sub(awake_ns);
        let asleep_ns = if asleep_ns < 1_000_000 { 0 } else { asleep_ns };
        Self { boot_id, boot_unix_ns: clock::boot_unix_ns(), asleep_ns, now_ns }
    }

    /// `CLOCK_BOOTTIME` of an entry, negative if it is of another boot.
    pub(super) fn boot_ns(&self, stamp: &Stamp, lag_us: u64) -> u64 {
        let lag_ns = lag_us * 1000;
        let wall_ns = stamp.realtime_us.saturating_mul(1000).wrapping_sub(self.boot_unix_ns);
        if stamp.boot_id != self.boot_id {
            return wall_ns.wrapping_sub(lag_ns);
        }
        let earliest = stamp.monotonic_us.saturating_mul(1000);
        let latest = earliest.saturating_add(self.asleep_ns);
        let at = wall_ns.cast_signed().clamp(earliest.cast_signed(), latest.cast_signed());
        at.cast_unsigned().saturating_sub(lag_ns)
    }

    /// Whether an entry of this time was not read as it happened.
    pub(super) fn is_old(&self, time_ns: u64) -> bool {
        // A time before boot is negative, so that the difference is large in either case.
        self.now_ns.wrapping_sub(time_ns) > LIVE_NS && self.now_ns.wrapping_sub(time_ns) >> 63 == 0
    }
}

/// How long before journald got it the sender wrote the entry, microseconds.
pub(super) fn lag_us(said: &Said<'_>, stamp: &Stamp) -> u64 {
    let written = |name| said.number(name);
    let lag = if said.get(Name::Transport) == b"kernel" {
        let early = stamp.monotonic_us < KERNEL_CLOCK_US_MAX;
        written(Name::SourceMonotonic).filter(|_| early).and_then(|at| stamp.monotonic_us.checked_sub(at))
    } else {
        written(Name::SourceRealtime).and_then(|at| stamp.realtime_us.checked_sub(at))
    };
    lag.filter(|&lag| lag <= LAG_US_MAX).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_US: u64 = 1_000_000;
    const SECOND_NS: u64 = 1_000_000_000;

    fn clocks(asleep_s: u64) -> Clocks {
        let now_ns = 5000 * SECOND_NS;
        Clocks {
            boot_id: [1; 16],
            boot_unix_ns: 1_000_000 * SECOND_NS,
            asleep_ns: asleep_s * SECOND_NS,
            now_ns,
        }
    }

    fn stamp(boot: u8, monotonic_s: u64, realtime_s: u64) -> Stamp {
        let (monotonic_us, realtime_us) = (monotonic_s * SECOND_US, realtime_s * SECOND_US);
        Stamp { boot_id: [boot; 16], monotonic_us, realtime_us }
    }

    /// Scenario: a host that never slept, with a wall clock that was set after the entry.
    /// Guarantees: the monotonic time counts.
    #[test]
    fn without_sleep_the_monotonic_clock_is_right() {
        for realtime_s in [1_000_100, 900_000, 2_000_000] {
            assert_eq!(clocks(0).boot_ns(&stamp(1, 100, realtime_s), 0), 100 * SECOND_NS);
        }
        assert_eq!(clocks(0).boot_ns(&stamp(1, 100, 0), 2 * SECOND_US), 98 * SECOND_NS);
    }

    /// Scenario: a host that slept for 1000 s; entries before, between and after its sleeps.
    /// Guarantees: the wall clock says how much of the sleep was over, within what is possible.
    #[test]
    fn sleep_is_told_by_the_wall_clock() {
        let clocks = clocks(1000);
        for (realtime_s, expected_s) in [(1_000_100, 100), (1_000_400, 400), (1_001_100, 1100)] {
            assert_eq!(clocks.boot_ns(&stamp(1, 100, realtime_s), 0), expected_s * SECOND_NS);
        }
        assert_eq!(clocks.boot_ns(&stamp(1, 100, 9_000_000), 0), 1100 * SECOND_NS);
        assert_eq!(clocks.boot_ns(&stamp(1, 100, 5), 0), 100 * SECOND_NS);
    }

    /// Scenario: entries of another boot.
    /// Guarantees: added to the wall clock of this boot, their time gives the wall clock of the entry.
    #[test]
    fn other_boots_are_before_this_one() {
        let time_ns = clocks(0).boot_ns(&stamp(2, 100, 900_000), 0);
        assert!(crate::event::is_before_boot(time_ns));
        assert_eq!(clocks(0).boot_unix_ns.wrapping_add(time_ns), 900_000 * SECOND_NS);
        assert!(clocks(0).is_old(time_ns));
        assert!(!clocks(0).is_old(4999 * SECOND_NS));
        assert!(clocks(0).is_old(4000 * SECOND_NS));
        assert!(!clocks(0).is_old(5001 * SECOND_NS));
    }

    /// Scenario: entries that say when they were written: shortly before, long before, after; and kernel lines.
    /// Guarantees: only a plausible lag counts; the kernel's clock only soon after boot.
    #[test]
    fn the_sender_knows_better_within_reason() {
        let stamp = stamp(1, 100, 1_000_100);
        let lag = |fields: &[(&'static str, &'static str)]| lag_us(&Said::of(fields), &stamp);
        assert_eq!(lag(&[("_SOURCE_REALTIME_TIMESTAMP", "1000099500000")]), 500_000);
        assert_eq!(lag(&[("_SOURCE_REALTIME_TIMESTAMP", "1000000000000")]), 0);
        assert_eq!(lag(&[("_SOURCE_REALTIME_TIMESTAMP", "1000200000000")]), 0);
        assert_eq!(lag(&[("_SOURCE_REALTIME_TIMESTAMP", "x")]), 0);
        let kernel = [("_TRANSPORT", "kernel"), ("_SOURCE_MONOTONIC_TIMESTAMP", "99000000")];
        assert_eq!(lag(&kernel), SECOND_US);
        let late = Stamp { monotonic_us: 601 * SECOND_US, ..stamp };
        let drifted = [("_TRANSPORT", "kernel"), ("_SOURCE_MONOTONIC_TIMESTAMP", "600000000")];
        assert_eq!(lag_us(&Said::of(&drifted), &late), 0);
    }
}
