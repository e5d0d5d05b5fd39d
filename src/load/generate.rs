//! The load generator: real getpgid(2) calls at a rate, in bursts on an absolute schedule.
//!
//! The agent's `load` probe makes one event of each, so `calls` is the number of events to account for.
//!
//! Invariants:
//! - The schedule never moves: what a late wake-up left out is made up for, and every call is made.
//! - At most [`CATCH_UP_BURSTS`] bursts are made at once, so a long pause is followed by twice the rate
//!   and not by one huge burst.
//! - Nothing but the generator's loop calls getpgid in this process.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use rustix::thread::{clock_nanosleep_absolute, set_current_timer_slack};
use rustix::time::{ClockId, Timespec, clock_gettime};
use serde::{Deserialize, Serialize};

use super::stats::float;
use super::{LoadError, pin};

/// Bursts made at once after a pause, at most.
pub const CATCH_UP_BURSTS: u64 = 2;

/// Calls between two readings of the clock when the rate is not limited.
const UNTHROTTLED_BURST: u64 = 1000;

/// What to generate.
#[derive(Debug, Clone)]
pub struct Load {
    /// Calls a second, of all threads together; 0: as fast as they go.
    pub rate: u64,
    /// For how long.
    pub duration: Duration,
    /// Length of a burst's turn.
    pub burst: Duration,
    /// One thread on each.
    pub cpus: Vec<usize>,
}

/// What was generated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    /// Calls made: exact.
    pub calls: u64,
    /// From the first call to the last.
    pub seconds: f64,
    /// Calls a second reached.
    pub rate: f64,
    /// CPU time of the threads, including what the probe did in their context.
    pub cpu_s: f64,
    /// The longest time that a wake-up was late or a burst took too long.
    pub max_gap_ms: f64,
    /// The most calls that were due at once.
    pub backlog_max: u64,
}

impl Generated {
    fn join(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            seconds: self.seconds.max(other.seconds),
            rate: self.rate + other.rate,
            cpu_s: self.cpu_s + other.cpu_s,
            max_gap_ms: self.max_gap_ms.max(other.max_gap_ms),
            backlog_max: self.backlog_max.max(other.backlog_max),
        }
    }
}

/// Which calls are due when: pure arithmetic on nanoseconds since the start.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    rate: u64,
    turn_ns: u64,
    total: u64,
}

impl Schedule {
    fn new(rate: u64, turn: Duration, duration: Duration) -> Self {
        let turn_ns = nanos(turn).max(1);
        Self { rate, turn_ns, total: scaled(rate, nanos(duration)) }
    }

    /// Calls that should have been made by now. The turn that is running counts as a whole: its burst
    /// is made at its start.
    fn due(&self, elapsed_ns: u64) -> u64 {
        let turns = elapsed_ns / self.turn_ns + 1;
        scaled(self.rate, turns.saturating_mul(self.turn_ns)).min(self.total)
    }

    /// Calls to make now, and those that were due.
    fn burst(&self, elapsed_ns: u64, made: u64) -> (u64, u64) {
        let due = self.due(elapsed_ns).saturating_sub(made);
        let most = scaled(self.rate, self.turn_ns).max(1).saturating_mul(CATCH_UP_BURSTS);
        (due.min(most), due)
    }

    /// Start of the next turn.
    fn next_turn(&self, elapsed_ns: u64) -> u64 {
        (elapsed_ns / self.turn_ns + 1).saturating_mul(self.turn_ns)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// `rate` a second over `ns`.
fn scaled(rate: u64, ns: u64) -> u64 {
    u64::try_from(u128::from(rate) * u128::from(ns) / 1_000_000_000).unwrap_or(u64::MAX)
}

/// Generates.
///
/// # Errors
/// When a thread cannot be pinned or started.
pub fn run(load: &Load) -> Result<Generated, LoadError> {
    let threads = u64::try_from(load.cpus.len()).unwrap_or(1).max(1);
    let share = |index: u64| load.rate / threads + u64::from(index < load.rate % threads);
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for (index, &cpu) in (0_u64..).zip(&load.cpus) {
            let rate = share(index);
            running.push(scope.spawn(move || {
                pin::pin_current(&[cpu])?;
                if load.rate == 0 {
                    Ok(unthrottled(load.duration))
                } else {
                    paced(&Schedule::new(rate, load.burst, load.duration))
                }
            }));
        }
        let mut all = Generated::default();
        for thread in running {
            let made = thread.join().map_err(|_| LoadError::process("generator", "a thread panicked"))??;
            all = all.join(made);
        }
        Ok(all)
    })
}

fn call() {
    // Cannot fail for the calling process itself; the call is what matters.
    let _ = rustix::process::getpgid(None);
}

fn unthrottled(duration: Duration) -> Generated {
    let start = Instant::now();
    let (mut calls, mut last, mut gap) = (0, start, Duration::ZERO);
    while last - start < duration {
        for _ in 0..UNTHROTTLED_BURST {
            call();
        }
        calls += UNTHROTTLED_BURST;
        let now = Instant::now();
        gap = gap.max(now - last);
        last = now;
    }
    summary(calls, last - start, nanos(gap), 0)
}

fn paced(schedule: &Schedule) -> Result<Generated, LoadError> {
    // The default slack of 50 us would make every second turn late.
    set_current_timer_slack(NonZeroU64::new(1))
        .map_err(|error| LoadError::io("setting the timer slack")(error.into()))?;
    let start = monotonic_ns();
    let (mut made, mut gap, mut backlog_max, mut elapsed) = (0, 0, 0, 0);
    while made < schedule.total {
        let (burst, due) = schedule.burst(elapsed, made);
        backlog_max = backlog_max.max(due);
        for _ in 0..burst {
            call();
        }
        made += burst;
        let done = monotonic_ns() - start;
        gap = gap.max(done - elapsed);
        if made >= schedule.total {
            elapsed = done;
            break;
        }
        let wake = schedule.next_turn(elapsed).max(done);
        if wake > done {
            sleep_until(start + wake);
        }
        elapsed = monotonic_ns() - start;
        gap = gap.max(elapsed - wake);
    }
    Ok(summary(made, Duration::from_nanos(elapsed), gap, backlog_max))
}

fn summary(calls: u64, took: Duration, gap_ns: u64, backlog_max: u64) -> Generated {
    let seconds = took.as_secs_f64();
    let cpu = clock_gettime(ClockId::ThreadCPUTime);
    let cpu = Duration::try_from(cpu).unwrap_or_default();
    Generated {
        calls,
        seconds,
        rate: float(calls) / seconds.max(f64::MIN_POSITIVE),
        cpu_s: cpu.as_secs_f64(),
        max_gap_ms: float(gap_ns) / 1e6,
        backlog_max,
    }
}

/// `CLOCK_MONOTONIC`.
pub(super) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Sleeps until `CLOCK_MONOTONIC` shows `ns`; a signal may end it early.
pub(super) fn sleep_until(ns: u64) {
    let second = 1_000_000_000;
    let at = Timespec {
        tv_sec: i64::try_from(ns / second).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(ns % second).unwrap_or(0),
    };
    // An early wake-up only makes an empty turn: what is due is decided by the clock.
    let _ = clock_nanosleep_absolute(ClockId::Monotonic, &at);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a rate that is no whole number of calls a turn, walked turn by turn without delay.
    /// Guarantees: the calls add up to exactly rate times duration and never run ahead by more than a burst.
    #[test]
    fn schedule_is_exact() {
        let schedule = Schedule::new(165_000, Duration::from_micros(100), Duration::from_millis(1003));
        assert_eq!(schedule.total, 165_495);
        let (mut made, mut elapsed) = (0, 0);
        while made < schedule.total {
            let (burst, due) = schedule.burst(elapsed, made);
            assert_eq!(burst, due, "no delay, so no backlog");
            assert!((16..=17).contains(&burst) || made + burst == schedule.total);
            made += burst;
            elapsed = schedule.next_turn(elapsed);
        }
        assert_eq!(made, schedule.total);
        assert!(elapsed <= nanos(Duration::from_millis(1003)) + schedule.turn_ns);
    }

    /// Scenario: the generator sleeps through 50 turns.
    /// Guarantees: it makes at most two bursts at a time until the backlog is gone, and nothing is left out.
    #[test]
    fn a_pause_is_made_up_for_at_twice_the_rate() {
        let schedule = Schedule::new(1_000_000, Duration::from_micros(100), Duration::from_millis(20));
        let (mut made, mut elapsed, mut turns) = (0, 5_000_000, 0);
        let mut backlog_max = 0;
        while made < schedule.total {
            let (burst, due) = schedule.burst(elapsed, made);
            assert!(burst <= 200);
            backlog_max = backlog_max.max(due);
            made += burst;
            elapsed = schedule.next_turn(elapsed);
            turns += 1;
        }
        assert_eq!((made, backlog_max), (20_000, 5_100));
        assert_eq!(turns, 150, "the 50 turns that were slept through, and no more, are missing from 200");
    }

    /// Scenario: a real run, two threads, 30,000 calls a second.
    /// Guarantees: the number of calls is exact whatever the machine did meanwhile.
    #[test]
    fn a_run_makes_every_call() {
        let load = Load {
            rate: 30_001,
            duration: Duration::from_millis(100),
            burst: Duration::from_micros(100),
            cpus: vec![pin::allowed()[0]; 2],
        };
        let made = run(&load).expect("it needs no rights");
        assert_eq!(made.calls, 1500 + 1500);
        assert!(made.seconds > 0.09);
    }
}
