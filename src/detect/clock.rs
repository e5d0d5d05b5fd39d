//! Steps of the wall clock, as the agent itself sees them.
//!
//! Invariants:
//! - The step is somewhere between two looks at the clocks: the fact says between which.

use super::Detector;
use super::fact::{Fact, FactKind};
use super::seen::Seen;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock;

impl Detector for Clock {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let mut fact = seen.bare(FactKind::ClockJump, seen.node());
        fact.from_ns = seen.number("since_ns").min(seen.time_ns());
        out.push(fact.with("delta_ms", seen.signed("step_ns") / 1_000_000));
    }
}
