//! What the wall clock showed: a time is told as the clock was then, not as it was set later.
//!
//! Invariants:
//! - What a step changes are the times from when it was noticed on: nothing that was told before changes.
//! - At most `STEPS_MAX` steps are known apart; older ones count as if they had always been.

use std::collections::BTreeMap;

use crate::detect::{Fact, FactKind, Value};
use crate::event::Source;

/// Steps that are known apart.
const STEPS_MAX: usize = 64;

const MS_NS: i64 = 1_000_000;

/// The steps of the wall clock since the engine began.
#[derive(Debug, Clone, Default)]
pub struct Wall {
    /// By when each was noticed, nanoseconds since boot: by how much the clock was set, nanoseconds.
    steps: BTreeMap<u64, i64>,
    /// The sum of those that are not known apart any more.
    before_ns: i64,
}

impl Wall {
    /// Takes in a step, if the fact is one: the sampler measures every step, others only say that there was one. Says
    /// whether times are others now.
    pub fn insert(&mut self, fact: &Fact) -> bool {
        let Some(delta_ns) = step(fact) else { return false };
        let is_new = self.steps.insert(fact.until_ns, delta_ns) != Some(delta_ns);
        if self.steps.len() > STEPS_MAX {
            self.before_ns += self.steps.pop_first().map_or(0, |(_, delta_ns)| delta_ns);
        }
        is_new
    }

    /// Takes a step back. Says whether times are others now.
    pub fn remove(&mut self, fact: &Fact) -> bool {
        step(fact).is_some() && self.steps.remove(&fact.until_ns).is_some()
    }

    /// What the clock showed, Unix nanoseconds. `boot_unix_ns`: Unix nanoseconds at boot, as they were before the first step.
    #[must_use]
    pub fn unix_ns(&self, boot_unix_ns: u64, boot_ns: u64) -> u64 {
        let set: i64 = self.steps.range(..=boot_ns).map(|(_, delta_ns)| delta_ns).sum();
        boot_unix_ns.saturating_add_signed(self.before_ns + set).saturating_add(boot_ns)
    }

    /// When the clock showed this, nanoseconds since boot; the latest such time until `now_ns`, where it was set back.
    #[must_use]
    pub fn boot_ns(&self, boot_unix_ns: u64, unix_ns: u64, now_ns: u64) -> u64 {
        let mut set = self.before_ns + self.steps.values().sum::<i64>();
        let mut until_ns = now_ns;
        for (from_ns, delta_ns) in self.steps.iter().rev() {
            let boot_ns = unix_ns.saturating_sub(boot_unix_ns.saturating_add_signed(set));
            if (*from_ns..=until_ns).contains(&boot_ns) {
                return boot_ns;
            }
            until_ns = *from_ns;
            set -= delta_ns;
        }
        unix_ns.saturating_sub(boot_unix_ns.saturating_add_signed(set))
    }
}

fn step(fact: &Fact) -> Option<i64> {
    match fact.detail.get("delta_ms") {
        Some(Value::Number(ms)) if fact.kind == FactKind::ClockJump && fact.source == Source::Sampler => {
            Some(ms.saturating_mul(MS_NS))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::Subject;

    /// Scenario: the clock is set forward by two hours, and back by a little more.
    /// Guarantees: times before, between and behind are as the clock showed them, and are found again by what it showed;
    /// a step that is told twice counts once, and one that was taken back not at all.
    #[test]
    fn times_are_as_the_clock_showed_them() {
        const BOOT: u64 = 1_000_000_000_000_000;
        const HOUR_NS: u64 = 3_600_000_000_000;
        let jump = |at_ns: u64, delta_ms: i64| {
            Fact::new(FactKind::ClockJump, Subject::new("node", "n"), Source::Sampler, at_ns)
                .with("delta_ms", delta_ms)
        };
        let mut wall = Wall::default();
        let (forth, back) = (jump(1_000, 7_200_000), jump(2_000, -7_201_000));
        for fact in [&back, &forth, &forth] {
            wall.insert(fact);
        }
        assert!(!wall.insert(&forth));
        let shown = [(999, 999), (1_000, 2 * HOUR_NS + 1_000), (1_999, 2 * HOUR_NS + 1_999)];
        for (boot_ns, since_boot) in shown {
            assert_eq!(wall.unix_ns(BOOT, boot_ns), BOOT + since_boot);
            assert_eq!(wall.boot_ns(BOOT, BOOT + since_boot, 2_500), boot_ns);
        }
        assert_eq!(wall.unix_ns(BOOT, 2_000), BOOT + 2_000 - 1_000_000_000);
        assert_eq!(wall.boot_ns(BOOT, BOOT + 2_000 - 1_000_000_000, 2_500), 2_000);
        assert!(wall.remove(&back) && wall.remove(&forth));
        assert_eq!(wall.unix_ns(BOOT, 5_000), BOOT + 5_000);
    }
}
