//! The one time axis: `CLOCK_BOOTTIME` nanoseconds, and how it maps to the wall clock.

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

/// Unix nanoseconds at boot: add it to a boot time to get the wall clock. It moves when the wall clock is set.
#[must_use]
pub fn boot_unix_ns() -> u64 {
    unix_ns().saturating_sub(boot_ns())
}

/// Nanoseconds since boot without time asleep: the clock of journald and of systemd.
#[must_use]
pub fn monotonic_ns() -> u64 {
    read_ns(ClockId::Monotonic)
}
