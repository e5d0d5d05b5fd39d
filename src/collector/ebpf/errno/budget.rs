//! When the errno probe may look: the policy, without clock or kernel.
//!
//! While the probe is attached every system call of the host pays [`CALL_NS`], so it earns a part of the host's CPU
//! time as it passes, spends it on the calls that it sees, and leaves when nothing is left. How long it stays away
//! follows from what its next look will cost at the rate that it saw last.
//!
//! Invariants:
//! - Over any time, what was spent is at most what the budget earned, plus [`SAVED_MAX`] of it, plus the calls of one
//!   look: a debt is paid before the next look.
//! - A host whose calls cost less than the budget is looked at always.

use std::time::Duration;

/// What a system call pays while a program is attached to its end: measured, see `perf/README.md`.
pub(super) const CALL_NS: i128 = 100;

/// Between two looks at the counter while attached; less when the savings end earlier.
pub(super) const LOOK_MAX: Duration = Duration::from_millis(50);
const LOOK_MIN: Duration = Duration::from_millis(5);

/// How long the probe means to stay when it comes back.
const WINDOW: Duration = Duration::from_millis(20);

/// The shortest absence: each costs an attach and a detach.
pub(super) const AWAY_MIN: Duration = Duration::from_millis(500);

/// CPU time of an attach or detach in relation to how long it takes: beside the thread that asks for it, the others
/// are interrupted, and pay for calls meanwhile.
const SWITCH_FACTOR: i128 = 2;

/// Earnings are kept for this long: what a quiet host may spend on a sudden burst.
const SAVED_MAX: Duration = Duration::from_secs(2);

/// Units of the budget in the whole: thousandths of a percent.
pub const WHOLE: u32 = 100_000;

/// What to do, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Stay attached, and look again after this time.
    Stay(Duration),
    /// Detach, and come back after this time.
    Leave(Duration),
}

/// Earnings and spendings, nanoseconds of CPU time.
#[derive(Debug)]
pub(super) struct Budget {
    /// Thousandths of a percent of all CPUs together.
    share: i128,
    saved: i128,
    /// What the last look cost, and how long it was.
    last: (i128, i128),
    /// What the last attach and detach took.
    switches: [i128; 2],
}

fn nanos(time: Duration) -> i128 {
    i128::try_from(time.as_nanos()).unwrap_or(i128::MAX)
}

fn duration(nanos: i128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
}

impl Budget {
    /// Nothing spent, and enough for a first look. `share` is in units of [`WHOLE`], and not 0.
    pub(super) fn new(share: u32, cpus: usize) -> Self {
        let cpus = i128::try_from(cpus.max(1)).unwrap_or(1);
        let mut budget =
            Self { share: i128::from(share.max(1)) * cpus, saved: 0, last: (0, 1), switches: [0; 2] };
        budget.saved = budget.earned(nanos(SAVED_MAX) / 2);
        budget
    }

    fn earned(&self, elapsed: i128) -> i128 {
        elapsed * self.share / i128::from(WHOLE)
    }

    fn earn(&mut self, elapsed: i128, spent: i128) {
        let most = self.earned(nanos(SAVED_MAX));
        self.saved = (self.saved + self.earned(elapsed) - spent).min(most);
    }

    /// After a time attached in which so many system calls were counted.
    pub(super) fn look(&mut self, elapsed: Duration, calls: u64) -> Step {
        let elapsed = nanos(elapsed).max(1);
        let spent = i128::from(calls) * CALL_NS;
        self.earn(elapsed, spent);
        self.last = (spent, elapsed);
        if self.saved < 0 {
            return Step::Leave(self.away());
        }
        let excess = spent - self.earned(elapsed);
        let lasts = if excess > 0 { self.saved * elapsed / excess } else { i128::MAX };
        Step::Stay(duration(lasts).clamp(LOOK_MIN, LOOK_MAX))
    }

    /// How long to stay away so that the debt is paid and a window can be afforded at the last rate.
    fn away(&self) -> Duration {
        let (spent, elapsed) = self.last;
        let window = nanos(WINDOW);
        let cost =
            (spent * window / elapsed - self.earned(window)).max(0) + self.switches.iter().sum::<i128>();
        let missing = cost - self.saved;
        duration(missing * i128::from(WHOLE) / self.share).max(AWAY_MIN)
    }

    /// After a time away.
    pub(super) fn rested(&mut self, elapsed: Duration) {
        self.earn(nanos(elapsed), 0);
    }

    /// What attaching or detaching took comes out of the same budget.
    pub(super) fn switched(&mut self, attached: bool, took: Duration) {
        let took = nanos(took) * SWITCH_FACTOR;
        self.switches[usize::from(attached)] = took;
        self.saved -= took;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SWITCH: Duration = Duration::from_micros(200);

    /// What a host with a constant rate of calls pays, and how long it is looked at, in so many seconds.
    struct Played {
        spent_ns: u128,
        attached: Duration,
        windows: u32,
        longest_away: Duration,
    }

    fn play(budget: &mut Budget, calls_per_s: u64, length: Duration) -> Played {
        let mut played =
            Played { spent_ns: 0, attached: Duration::ZERO, windows: 1, longest_away: Duration::ZERO };
        let (mut now, mut rest) = (Duration::ZERO, LOOK_MIN);
        while now < length {
            now += rest;
            played.attached += rest;
            let calls = calls_per_s * u64::try_from(rest.as_nanos()).expect("short") / 1_000_000_000;
            played.spent_ns += u128::from(calls) * 100;
            match budget.look(rest, calls) {
                Step::Stay(time) => rest = time,
                Step::Leave(time) => {
                    budget.switched(false, SWITCH);
                    budget.rested(time);
                    budget.switched(true, SWITCH);
                    played.spent_ns += 4 * SWITCH.as_nanos();
                    now += time;
                    played.windows += 1;
                    played.longest_away = played.longest_away.max(time);
                    rest = LOOK_MIN;
                }
            }
        }
        played
    }

    /// Scenario: hosts of 1 to 128 CPUs with 0 to 100 million calls a second, for an hour, under several budgets.
    /// Guarantees: what is spent stays within the budget and what may be saved; no host is left for good.
    #[test]
    fn the_tax_stays_within_the_budget() {
        let hour = Duration::from_secs(3600);
        for cpus in [1, 2, 16, 128] {
            for share in [10, 200, 1000, 20_000] {
                for rate in [0, 1000, 40_000, 500_000, 5_000_000, 100_000_000] {
                    let played = play(&mut Budget::new(share, cpus), rate, hour);
                    let earned = u128::from(share) * cpus as u128 * hour.as_nanos() / u128::from(WHOLE);
                    // A look that turns out dear is paid afterwards: one of the length of the longest.
                    let one_look = u128::from(rate) * LOOK_MAX.as_nanos() / 1_000_000_000 * 100;
                    let most = earned + earned / 1000 + one_look + 4 * SWITCH.as_nanos();
                    assert!(played.spent_ns <= most, "{cpus} {share} {rate}: {} > {most}", played.spent_ns);
                    assert!(played.windows > 2 || played.attached + Duration::from_secs(1) > hour);
                }
            }
        }
    }

    /// Scenario: a host whose calls cost less than the budget.
    /// Guarantees: it is looked at all the time, and nothing is attached or detached.
    #[test]
    fn a_quiet_host_is_looked_at_always() {
        // 0.2 % of two CPUs are 4 ms a second, which 40,000 calls cost.
        let played = play(&mut Budget::new(200, 2), 39_000, Duration::from_secs(600));
        assert_eq!(played.windows, 1);
    }

    /// Scenario: the rate of a web server at full load, then of a quiet host.
    /// Guarantees: the probe looks several times a second for some milliseconds, and stays once it is quiet.
    #[test]
    fn a_busy_host_is_looked_at_in_turns() {
        let mut budget = Budget::new(200, 2);
        let minute = Duration::from_secs(60);
        let busy = play(&mut budget, 500_000, minute);
        assert!(busy.windows > 30, "{}", busy.windows);
        assert!(busy.longest_away < Duration::from_secs(2), "{:?}", busy.longest_away);
        assert!(busy.attached > minute.mul_f64(0.05), "{:?}", busy.attached);
        let quiet = play(&mut budget, 1000, minute);
        assert!(quiet.windows <= 2 && quiet.attached + Duration::from_secs(2) > minute);
    }

    /// Scenario: a burst on a host that was quiet for long.
    /// Guarantees: the savings of two seconds are spent on it, not those of a day.
    #[test]
    fn savings_are_bounded() {
        let mut budget = Budget::new(200, 1);
        for _ in 0..1000 {
            assert_eq!(budget.look(LOOK_MAX, 0), Step::Stay(LOOK_MAX));
        }
        // 4 ms are saved: 40,000 calls, of which a look at this rate sees 50,000.
        assert!(matches!(budget.look(LOOK_MAX, 50_000), Step::Leave(_)));
    }
}
