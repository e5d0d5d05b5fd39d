//! What is known of one unit, and what is new in what the manager says of it.
//!
//! The manager announces all properties of a unit at once, those of its type first, and it merges announcements: of
//! several transitions in one pass of its loop only the last is seen. Its time stamps betray the others, which are
//! then said, too: that a unit began, became active, or ended.
//!
//! Invariants:
//! - A transition, named by unit, time, states and result, is said once.
//! - What is older than what is known is said, and changes nothing.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use super::output::{Output, UnitState};
use super::unit::{Found, RunChange, StateChange};

/// The result of a run in which nothing failed.
const SUCCESS: &str = "success";

/// The result that replaces the one it follows from.
const START_LIMIT_HIT: &str = "start-limit-hit";

/// One unit.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Its result and process are up to date, the rest is what was said last.
    pub(super) state: UnitState,
    /// Whether a state was said or found: until then the states are empty.
    pub(super) is_known: bool,
    /// The list of all units that it was there before.
    pub(super) listing: u32,
    /// How many units had gone when it came.
    pub(super) gone_before: u64,
    /// Of limits and relations, once they were read.
    pub(super) digest: Option<u64>,
    /// The result that was said last.
    said: Box<str>,
    /// The time of the last transition that was said before or after a reading of something newer overtook it.
    overtaken_us: u64,
    /// Times of transitions that the last reading betrayed: they are said, and may still be announced.
    betrayed_us: [u64; 3],
    /// The time of a state that was read, and said, before the unit was loaded into it; 0 for none.
    pub(super) ahead_us: u64,
    /// The last result that was a failure, until the unit ends well.
    failure: Box<str>,
    /// The relations that are not empty, as a bit set.
    related: u32,
}

impl Known {
    pub(super) fn new(unit: &str, listing: u32) -> Self {
        let state = UnitState { unit: unit.into(), ..UnitState::default() };
        Self { state, listing, ..Self::default() }
    }

    /// The properties of its type changed; those of all units follow.
    pub(super) fn run(&mut self, change: &RunChange) {
        let state = &mut self.state;
        if let Some(result) = &change.result {
            if !matches!(&**result, SUCCESS | START_LIMIT_HIT) {
                self.failure.clone_from(result);
            }
            state.result.clone_from(result);
        }
        state.restarts = change.restarts.unwrap_or(state.restarts);
        state.main_pid = change.main_pid.unwrap_or(state.main_pid);
        state.exec_code = change.exec_code.unwrap_or(state.exec_code);
        state.exec_status = change.exec_status.unwrap_or(state.exec_status);
        if let Some(text) = &change.status_text {
            state.status_text.clone_from(text);
        }
    }

    /// The properties of all units changed.
    pub(super) fn change(&mut self, change: &StateChange, found: bool, out: &mut VecDeque<Output>) {
        let known = &self.state;
        let mut next = known.clone();
        next.found = found;
        next.changed_us = change.changed_us.unwrap_or(known.changed_us);
        next.invocation = change.invocation.unwrap_or(known.invocation);
        for (place, value) in
            [(&mut next.load, &change.load), (&mut next.active, &change.active), (&mut next.sub, &change.sub)]
        {
            if let Some(value) = value {
                place.clone_from(value);
            }
        }
        next.active_before.clone_from(&known.active);
        next.result_before =
            if &*next.result == START_LIMIT_HIT { self.failure.clone() } else { Box::default() };
        // A start is announced before the state changes, with the new invocation and without the old result.
        let is_same_run = matches!(&*next.result, "" | SUCCESS) || next.result == self.said;
        let is_same = self.is_known
            && (next.changed_us, &next.active, &next.sub) == (known.changed_us, &known.active, &known.sub);
        if is_same && is_same_run {
            self.state.load = next.load;
            return;
        }
        if self.is_known && next.changed_us < known.changed_us {
            // It was overtaken by a reading of something newer.
            if next.changed_us > self.overtaken_us && !self.betrayed_us.contains(&next.changed_us) {
                self.overtaken_us = next.changed_us;
                next.active_before = Box::default();
                out.push_back(Output::State(Box::new(next)));
            }
            return;
        }
        if self.is_known {
            let betrayed_us = self.passed(change, &mut next, out);
            if found {
                self.overtaken_us = self.overtaken_us.max(self.state.changed_us);
                self.betrayed_us = betrayed_us;
            }
        }
        if &*next.active == "inactive" && &*next.result == SUCCESS {
            self.failure = Box::default();
        }
        self.is_known = true;
        self.said.clone_from(&next.result);
        self.state = next.clone();
        if next.changed_us == 0 || next.changed_us != self.ahead_us {
            out.push_back(Output::State(Box::new(next)));
        }
    }

    /// The time of a state that was read and may still be announced, of this unit after it is loaded anew; 0 for none.
    pub(super) fn read_ahead_us(&self) -> u64 {
        let read_us = if self.state.found { self.state.changed_us } else { 0 };
        read_us.max(self.ahead_us)
    }

    /// Says the transitions between what is known and `next` that nothing announced. Their times, 0 for fewer.
    fn passed(&mut self, change: &StateChange, next: &mut UnitState, out: &mut VecDeque<Output>) -> [u64; 3] {
        let between = |time: Option<u64>, active| {
            time.filter(|time| (self.state.changed_us + 1..next.changed_us).contains(time))
                .map(|time| (time, active))
        };
        let begun = change.inactive_exit_us.unwrap_or(0);
        // A unit that is active at once has not been anything before.
        let is_begun = change.active_enter_us != Some(begun);
        let mut passed = [
            between(change.inactive_exit_us.filter(|_| is_begun), "activating"),
            between(change.active_enter_us, "active"),
            between(change.inactive_enter_us, "inactive"),
        ];
        passed.sort_unstable();
        let mut times = [0; 3];
        for (place, (time, active)) in times.iter_mut().zip(passed.into_iter().flatten()) {
            if active == "inactive" && begun > time && next.sub.starts_with("auto-restart") {
                // What is announced, a restart with the result, says this, too.
                continue;
            }
            // The result belongs to the run that ended, unless another one began since.
            let is_own = active == "inactive" && begun <= time;
            let result = if is_own { next.result.clone() } else { Box::default() };
            let failed = is_own && !matches!(&*result, "" | SUCCESS);
            let state = UnitState {
                changed_us: time,
                active_before: next.active_before.clone(),
                active: if failed { "failed".into() } else { active.into() },
                sub: Box::default(),
                result,
                invocation: if begun > time { self.state.invocation } else { next.invocation },
                ..next.clone()
            };
            next.active_before.clone_from(&state.active);
            *place = time;
            out.push_back(Output::State(Box::new(state)));
        }
        times
    }

    /// Says limits and relations, if they are not those that were read last.
    pub(super) fn read(&mut self, found: &Found, out: &mut VecDeque<Output>) {
        let digest = FixedState::default().hash_one((&found.limits, &found.relations));
        if self.digest.replace(digest) == Some(digest) {
            return;
        }
        let unit = &self.state.unit;
        out.push_back(Output::Limits { unit: unit.clone(), limits: Box::new(found.limits.clone()) });
        let mut related = 0;
        for (relation, units) in &found.relations {
            related |= 1 << relation;
            let units = units.clone();
            out.push_back(Output::Relation { unit: unit.clone(), relation: *relation, units });
        }
        for relation in (0..super::unit::RELATIONS.len()).filter(|index| self.related >> index & 1 != 0) {
            if related >> relation & 1 == 0 {
                out.push_back(Output::Relation { unit: unit.clone(), relation, units: Vec::new() });
            }
        }
        self.related = related;
    }
}
