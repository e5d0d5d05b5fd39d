//! What is still to be asked of the manager.
//!
//! Asking for a unit makes the manager load it if it is not, which is announced as a new unit: two that ask for every
//! new unit would keep each other and the manager busy for ever. So a new unit is asked for only once it has stayed
//! for a while or has come to life, and not again if it went and came back.
//!
//! Invariants:
//! - Every queue here is bounded by what it is about: units by the units of the model, jobs by [`JOBS_MAX`], the
//!   memory of units that went by [`WENT_MAX`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Jobs that wait to be asked for at most; further ones stay without a type.
const JOBS_MAX: usize = 512;

/// Units that were asked for and went, at most.
const WENT_MAX: usize = 4096;

/// How long a unit that went is not asked for again just because it came back.
const WENT_FOR: Duration = Duration::from_secs(600);

/// The next question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    Job(u32),
    Unit(Box<str>),
}

/// The questions, in the order of their urgency.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    jobs: VecDeque<u32>,
    now: VecDeque<Box<str>>,
    /// In the order of their times, since all wait equally long.
    later: VecDeque<(Instant, Box<str>)>,
    /// Those in `now` or `later` that are still wanted.
    units: HashSet<Box<str>>,
    went: HashMap<Box<str>, Instant>,
}

impl Wanted {
    /// Wants a unit at once.
    pub(super) fn now(&mut self, unit: &str) {
        // One that waits for later is found in both queues, and taken out of the first that comes to it.
        self.units.insert(unit.into());
        self.now.push_back(unit.into());
    }

    /// Wants a new unit if it is still there at this time, unless it was asked for not long ago.
    pub(super) fn later(&mut self, unit: &str, at: Instant) {
        let is_back = self.went.get(unit).is_some_and(|went| went.elapsed() < WENT_FOR);
        if !is_back && self.units.insert(unit.into()) {
            self.later.push_back((at, unit.into()));
        }
    }

    /// Wants the type of a job; false if too many wait.
    pub(super) fn job(&mut self, id: u32) -> bool {
        let fits = self.jobs.len() < JOBS_MAX;
        if fits {
            self.jobs.push_back(id);
        }
        fits
    }

    /// Does not want a unit any more: it is gone.
    pub(super) fn forget(&mut self, unit: &str, was_read: bool) {
        let waited = self.units.remove(unit);
        if was_read && !waited {
            if self.went.len() >= WENT_MAX {
                self.went.retain(|_, went| went.elapsed() < WENT_FOR);
            }
            if self.went.len() < WENT_MAX {
                self.went.insert(unit.into(), Instant::now());
            }
        }
    }

    /// Forgets every question about units.
    pub(super) fn clear_units(&mut self) {
        self.now.clear();
        self.later.clear();
        self.units.clear();
    }

    /// When the next unit that waits for later is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.later.front().map(|(at, _)| *at)
    }

    /// Takes the next question.
    pub(super) fn next(&mut self) -> Option<Question> {
        if let Some(id) = self.jobs.pop_front() {
            return Some(Question::Job(id));
        }
        while let Some(unit) = self.now.pop_front() {
            if self.units.remove(&unit) {
                return Some(Question::Unit(unit));
            }
        }
        while let Some((_, unit)) = self.later.pop_front_if(|(at, _)| *at <= Instant::now()) {
            if self.units.remove(&unit) {
                return Some(Question::Unit(unit));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str) -> Option<Question> {
        Some(Question::Unit(name.into()))
    }

    /// Scenario: two observers: each question loads the unit, which goes at once and is announced as new again.
    /// Guarantees: it is asked for once, not for ever.
    #[test]
    fn questions_do_not_feed_themselves() {
        let mut wanted = Wanted::default();
        let mut asked = 0;
        for _ in 0..100 {
            wanted.later("a.service", Instant::now());
            if wanted.next().is_some() {
                asked += 1;
            }
            wanted.forget("a.service", true);
        }
        assert_eq!(asked, 1);
    }

    /// Scenario: a new unit comes to life before it is due; another goes before it is due; jobs come in between.
    /// Guarantees: jobs are first, the living unit is asked for once, the other never.
    #[test]
    fn what_is_gone_is_not_asked_for() {
        let mut wanted = Wanted::default();
        let due = Instant::now();
        wanted.later("alive.service", due);
        wanted.later("gone.service", due);
        wanted.now("alive.service");
        wanted.forget("gone.service", false);
        assert!(wanted.job(7));
        assert_eq!(wanted.next(), Some(Question::Job(7)));
        assert_eq!((wanted.next(), wanted.next()), (unit("alive.service"), None));
        wanted.later("gone.service", Instant::now() + Duration::from_secs(60));
        assert_eq!(wanted.next(), None);
        assert!(wanted.due().is_some());
    }

    /// Scenario: more jobs than may wait.
    /// Guarantees: those beyond are refused.
    #[test]
    fn jobs_are_bounded() {
        let mut wanted = Wanted::default();
        let accepted = (0..10_000).filter(|id| wanted.job(*id)).count();
        assert_eq!(accepted, JOBS_MAX);
    }
}
