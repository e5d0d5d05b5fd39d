//! The ring between the signal connection, which must never wait, and the collector, which sometimes must.
//!
//! Invariants:
//! - It holds [`Ring::new`]'s `most` signals; what does not fit is counted, and the counter is what starts a resync.
//! - Under a storm, a signal that repeats the unit's last one in the ring takes its place. No transition, result or
//!   invocation is merged away.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::signal::Signal;

/// From this many waiting signals on, repetitions are looked for.
const STORM_LEN: usize = 64;

/// Signals on their way from the connection to the collector.
#[derive(Debug)]
pub(super) struct Ring {
    most: usize,
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    signals: VecDeque<Signal>,
    /// How many signals were taken out ever: the number of the first one waiting.
    taken: u64,
    /// By unit, the numbers of the last state and the last run signal. Empty outside storms.
    last: HashMap<Box<str>, [Option<u64>; 2]>,
    counts: Counts,
    ended: Option<String>,
}

/// What became of signals that did not go through, since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Did not fit.
    pub(super) lost: u64,
    /// Repeated one that waited.
    pub(super) merged: u64,
    /// Could not be read.
    pub(super) malformed: u64,
}

impl Ring {
    pub(super) fn new(most: usize) -> Self {
        Self { most, waiting: Mutex::default(), changed: Notify::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // No section below can panic half-way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a signal in, in place of the one that it repeats, or counts that it does not fit.
    pub(super) fn push(&self, signal: Signal) {
        let mut waiting = self.waiting();
        if waiting.merge(&signal) {
            waiting.counts.merged += 1;
        } else if waiting.signals.len() >= self.most {
            waiting.counts.lost += 1;
        } else {
            waiting.signals.push_back(signal);
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// Counts a message that could not be read.
    pub(super) fn malformed(&self) {
        self.waiting().counts.malformed += 1;
        self.changed.notify_one();
    }

    /// Says that nothing more will come, and why.
    pub(super) fn end(&self, why: String) {
        self.waiting().ended.get_or_insert(why);
        self.changed.notify_one();
    }

    pub(super) fn pop(&self) -> Option<Signal> {
        let mut waiting = self.waiting();
        let signal = waiting.signals.pop_front()?;
        waiting.taken += 1;
        if waiting.signals.is_empty() {
            waiting.last.clear();
        }
        Some(signal)
    }

    /// Why nothing more will come; the signals that wait are still good.
    pub(super) fn ended(&self) -> Option<String> {
        self.waiting().ended.clone()
    }

    /// Takes the counters.
    pub(super) fn counts(&self) -> Counts {
        std::mem::take(&mut self.waiting().counts)
    }

    /// Waits until something was put in, counted or ended since the last time.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Waiting {
    /// Puts the signal in the place of the one that it repeats, if one waits.
    fn merge(&mut self, signal: &Signal) -> bool {
        if self.signals.len() < STORM_LEN {
            return false;
        }
        let (unit, which) = match signal {
            Signal::State { unit, .. } => (unit, 0),
            Signal::Run { unit, .. } => (unit, 1),
            _ => return false,
        };
        let next = self.taken + self.signals.len() as u64;
        let places = self.last.entry(unit.clone()).or_default();
        let place = places[which].replace(next);
        let index = place.and_then(|place| usize::try_from(place.checked_sub(self.taken)?).ok());
        let Some(waiting) = index.and_then(|index| self.signals.get_mut(index)) else { return false };
        let repeats = match (signal, &*waiting) {
            (Signal::State { change, .. }, Signal::State { change: earlier, .. }) => change.repeats(earlier),
            (Signal::Run { change, .. }, Signal::Run { change: earlier, .. }) => change.repeats(earlier),
            _ => false,
        };
        if repeats {
            *waiting = signal.clone();
            places[which] = place;
        }
        repeats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::systemd::unit::{RunChange, StateChange};

    fn state(unit: &str, changed_us: u64, active: &str) -> Signal {
        let change = StateChange {
            changed_us: Some(changed_us),
            active: Some(active.into()),
            ..StateChange::default()
        };
        Signal::State { unit: unit.into(), change: Box::new(change) }
    }

    fn run(unit: &str, result: &str, status_text: &str) -> Signal {
        let change = RunChange {
            result: Some(result.into()),
            status_text: Some(status_text.into()),
            ..RunChange::default()
        };
        Signal::Run { unit: unit.into(), change: Box::new(change) }
    }

    fn drained(ring: &Ring) -> Vec<Signal> {
        std::iter::from_fn(|| ring.pop()).collect()
    }

    /// Scenario: a unit announces its status text ten thousand times, between two transitions, while nobody reads.
    /// Guarantees: the repetitions become one signal, which has the last text; both transitions stay, in order.
    #[test]
    fn repetitions_are_merged() {
        let ring = Ring::new(1000);
        for number in 0..STORM_LEN {
            ring.push(state(&format!("{number}.service"), 1, "active"));
        }
        ring.push(state("a.service", 5, "active"));
        for number in 0..10_000 {
            ring.push(run("a.service", "success", &number.to_string()));
            ring.push(state("a.service", 5, "active"));
        }
        ring.push(run("a.service", "exit-code", ""));
        ring.push(state("a.service", 6, "failed"));
        assert_eq!(ring.counts(), Counts { lost: 0, merged: 19_999, malformed: 0 });
        let expected = [
            state("a.service", 5, "active"),
            run("a.service", "success", "9999"),
            run("a.service", "exit-code", ""),
            state("a.service", 6, "failed"),
        ];
        assert_eq!(drained(&ring)[STORM_LEN..], expected);
    }

    /// Scenario: units go up and down in a storm, so that states come back.
    /// Guarantees: nothing is merged: the times differ.
    #[test]
    fn transitions_are_never_merged() {
        let ring = Ring::new(usize::MAX);
        let signals: Vec<Signal> = (0..1000)
            .map(|time| {
                state(
                    &format!("{}.service", time % 3),
                    time,
                    if time % 2 == 0 { "active" } else { "inactive" },
                )
            })
            .collect();
        signals.iter().for_each(|signal| ring.push(signal.clone()));
        assert_eq!(ring.counts(), Counts::default());
        assert_eq!(drained(&ring), signals);
    }

    /// Scenario: more transitions than fit.
    /// Guarantees: those that fit are kept in order, the others are counted; once read, there is room again.
    #[test]
    fn what_does_not_fit_is_counted() {
        let ring = Ring::new(10);
        (0..25).for_each(|time| ring.push(state("a.service", time, "active")));
        assert_eq!(ring.counts().lost, 15);
        assert_eq!(drained(&ring).len(), 10);
        ring.push(state("a.service", 30, "active"));
        assert_eq!((ring.counts().lost, drained(&ring).len()), (0, 1));
    }
}
