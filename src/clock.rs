//! The one time axis: `CLOCK_BOOTTIME` nanoseconds, and how it maps to the wall clock.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of a clock; 0 for a clock that reads before its epoch.
fn read_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Nanoseconds since boot, time asleep included: the axis of all events.
#[must_use]
pub fn boot_ns() -> u64 {
    read_ns(ClockId::Boottime)
}

/// Nanoseconds since boot of a time that `CLOCK_MONOTONIC` shows in microseconds. That clock stands still while the
/// host sleeps, so a time from before a sleep comes out too late by its length.
#[must_use]
pub fn boot_ns_of(monotonic_us: u64) -> u64 {
    let asleep_ns = boot_ns().saturating_sub(read_ns(ClockId::Monotonic));
    monotonic_us.saturating_mul(1000).saturating_add(asleep_ns)
}

/// Wall clock in Unix nanoseconds.
#[must_use]
pub fn unix_ns() -> u64 {
    read_ns(ClockId::Realtime)
}

/// Less is no step of the wall clock, but how long it took to read both clocks.
const STEP_NS: u64 = 10_000_000;

/// What [`boot_unix_ns`] said last.
static BOOT_UNIX_NS: AtomicU64 = AtomicU64::new(0);

/// Unix nanoseconds at boot: add it to a boot time to get the wall clock. The same for everybody who asks, until the wall
/// clock is set: what is told again has the same times.
#[must_use]
pub fn boot_unix_ns() -> u64 {
    let now = unix_ns().saturating_sub(boot_ns());
    let known = BOOT_UNIX_NS.load(Ordering::Relaxed);
    if known.abs_diff(now) < STEP_NS {
        return known;
    }
    // Of some readings the one between which this thread was not interrupted.
    let reading = || {
        let before = boot_ns();
        let unix = unix_ns();
        (boot_ns().saturating_sub(before), unix.saturating_sub(before))
    };
    let (_, steady) = std::iter::repeat_with(reading).take(4).min().unwrap_or((0, now));
    if known.abs_diff(steady) >= STEP_NS {
        BOOT_UNIX_NS.store(steady, Ordering::Relaxed);
        return steady;
    }
    known
}

/// Nanoseconds since boot without time asleep: the clock of journald and of systemd.
#[must_use]
pub fn monotonic_ns() -> u64 {
    read_ns(ClockId::Monotonic)
}
