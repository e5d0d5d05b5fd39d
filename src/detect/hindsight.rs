//! Detectors that think again: what comes late is seen in its place after all.
//!
//! Sources differ in how soon they say something: the kernel at once, the journal in a moment, the API of Kubernetes
//! after half a minute. An event that is older than one that was seen before is put where it belongs among the events of
//! the last while, and what came after it is seen once more, from a state of the detectors that was kept. What this says
//! otherwise is told, and what it does not say any more is taken back. A name that becomes known late is put into the
//! facts that were told without it.
//!
//! Invariants:
//! - In the end the facts are those of the same events in the order of their times, then of their names, as long as none
//!   came later than the states that are kept reach back; what did is seen when it comes, and counted.
//! - At most [`LOG_MAX`] events and [`TOLD_MAX`] facts of [`REACH_NS`] are kept. A state is a copy that shares what did
//!   not change since.
//! - Seeing again costs at most as much as seeing [`AGAIN_MAX`] events a tick: more waits for the next one.

use std::collections::BTreeMap;

use super::fact::{EventId, Fact};
use super::names::Names;
use super::{Detectors, Seen, is_watched};
use crate::entity::Entity;
use crate::event::{Event, Source};

/// Events that can be seen again, at most.
const LOG_MAX: usize = 16_384;

/// Facts that can be taken back, at most.
const TOLD_MAX: usize = 4096;

/// How far back is looked: Kubernetes is half a minute late, and its clock may be off.
const REACH_NS: u64 = 90_000_000_000;

/// A state is kept each time so much went by.
const STATE_NS: u64 = 2_000_000_000;

/// Events seen again in a second, at most.
const AGAIN_MAX: usize = 8192;

/// An event for the detectors.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The words of the event.
    pub words: Box<[u64]>,
    /// Whose it is.
    pub owner: Entity,
    /// Its full number.
    pub sequence: u64,
}

impl Shown {
    /// When it happened and what it is called: the order in which events are seen.
    #[must_use]
    pub fn order(&self) -> Option<(u64, EventId)> {
        let header = Event::parse(&self.words).ok()?.header();
        let source = Source::from_number(header.source)?;
        Some((header.time_ns, EventId { source, producer: header.producer, sequence: self.sequence }))
    }
}

/// What detectors have to say since they were asked last.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct News {
    /// Facts that do not hold: to be taken back before others are told.
    pub taken: Vec<Fact>,
    /// Facts.
    pub told: Vec<Fact>,
}

/// Where an event is among the others: its time, how many came too late right before it, its name.
type Place = (u64, u64, EventId);

const FIRST: EventId = EventId { source: Source::Ebpf, producer: 0, sequence: 0 };

/// The detectors as they were before the event at this place.
#[derive(Debug, Clone)]
struct State {
    before: Place,
    detectors: Detectors,
}

/// See the module.
#[derive(Debug)]
pub struct Hindsight {
    detectors: Detectors,
    names: Names,
    log: BTreeMap<Place, Shown>,
    /// None while too many events come to remember them.
    states: Vec<State>,
    state_due_ns: u64,
    told: BTreeMap<Place, Vec<Fact>>,
    told_len: usize,
    /// The last event that was seen, and the last tick.
    last: Place,
    ticked_ns: u64,
    /// The first event that was not seen in its place yet.
    late: Option<Place>,
    /// How many events may still be seen again.
    again: usize,
    too_late: u64,
    news: News,
}

impl Hindsight {
    /// Detectors that have seen nothing, of the host of this name.
    #[must_use]
    pub fn new(host: &str) -> Self {
        let detectors = Detectors::new(host);
        let before = (0, 0, FIRST);
        Self {
            states: vec![State { before, detectors: detectors.clone() }],
            state_due_ns: 0,
            detectors,
            names: Names::default(),
            log: BTreeMap::new(),
            told: BTreeMap::new(),
            told_len: 0,
            last: before,
            ticked_ns: 0,
            late: None,
            again: LOG_MAX,
            too_late: 0,
            news: News::default(),
        }
    }

    /// Takes in an event; what it says is in the next [`Hindsight::news`].
    pub fn event(&mut self, shown: Shown) {
        let Ok(event) = Event::parse(&shown.words) else { return };
        let Some((time_ns, id)) = shown.order().filter(|_| is_watched(&event)) else { return };
        let above = Default::default();
        let seen = Seen { event, owner: &shown.owner, id, host: self.detectors.host(), above: &above };
        self.names.learn(&seen);
        let mut place = (time_ns, 0, id);
        if self.log.contains_key(&place) {
            return;
        }
        if place < self.last {
            if self.states.first().is_some_and(|state| state.before <= place) {
                self.late = Some(self.late.map_or(place, |late| late.min(place)));
                self.log.insert(place, shown);
                return self.make_room();
            }
            self.too_late += 1;
            place = (self.last.0, self.last.1 + 1, id);
        }
        self.keep_state(place);
        let mut facts = Vec::new();
        self.detectors.event(&event, &shown.owner, id, &mut facts);
        self.last = place;
        self.log.insert(place, shown);
        self.tell(place, facts);
        self.make_room();
    }

    /// Lets the detectors say what they held back until now, `CLOCK_BOOTTIME` nanoseconds; once a second.
    pub fn tick(&mut self, now_ns: u64) {
        self.again = (self.again + AGAIN_MAX).min(LOG_MAX);
        let mut facts = Vec::new();
        self.detectors.tick(now_ns, &mut facts);
        self.ticked_ns = self.ticked_ns.max(now_ns);
        self.tell(self.last, facts);
    }

    /// What there is to say since this was asked last.
    pub fn news(&mut self) -> News {
        self.see_late(self.again);
        self.name_again();
        std::mem::take(&mut self.news)
    }

    /// Sees what came late, if it costs no more than seeing so many events.
    fn see_late(&mut self, events_max: usize) {
        let Some(late) = self.late else { return };
        let from = self.states.partition_point(|state| state.before <= late).saturating_sub(1);
        let before = self.states.get(from).map_or(late, |state| state.before);
        let events = self.log.range(before..).count();
        if events <= events_max {
            self.again = self.again.saturating_sub(events);
            self.late = None;
            self.see_again(from);
        }
    }

    /// What was forgotten because there was more than there is room for.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.detectors.evicted() + self.names.evicted()
    }

    /// Events that came later than could be looked back.
    #[must_use]
    pub const fn too_late(&self) -> u64 {
        self.too_late
    }

    fn tell(&mut self, place: Place, mut facts: Vec<Fact>) {
        if facts.is_empty() {
            return;
        }
        facts.iter_mut().for_each(|fact| self.names.complete(fact));
        self.news.told.extend(facts.iter().cloned());
        self.told_len += facts.len();
        self.told.entry(place).or_default().append(&mut facts);
    }

    /// Keeps the state before the event at this place, if the last one is old; the older, the fewer are kept.
    fn keep_state(&mut self, place: Place) {
        let now_ns = place.0;
        if now_ns < self.state_due_ns {
            return;
        }
        self.state_due_ns = now_ns.saturating_add(STATE_NS);
        self.states.push(State { before: place, detectors: self.detectors.clone() });
        let age = |state: &State| now_ns.saturating_sub(state.before.0);
        let mut at = 1;
        while at + 1 < self.states.len() {
            // One that is not much younger than the one before says little more.
            if age(&self.states[at - 1]) < age(&self.states[at + 1]).saturating_mul(2) {
                self.states.remove(at);
            } else {
                at += 1;
            }
        }
        while self.states.get(1).is_some_and(|state| age(state) > REACH_NS) {
            self.states.remove(0);
        }
        self.forget();
    }

    /// Forgets what is too much, and the states from which it would be missing.
    fn make_room(&mut self) {
        if self.log.len() <= LOG_MAX && self.told_len <= TOLD_MAX {
            return;
        }
        // What came late and was not seen yet would be lost.
        self.see_late(usize::MAX);
        let mut last = None;
        while self.log.len() > LOG_MAX / 4 * 3 {
            last = last.max(self.log.pop_first().map(|(place, _)| place));
        }
        let mut over = self.told_len.saturating_sub(TOLD_MAX / 4 * 3);
        for (&place, facts) in &self.told {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(facts.len());
            last = last.max(Some(place));
        }
        self.states.retain(|state| Some(state.before) > last);
        self.forget();
    }

    /// Forgets what is before the first state.
    fn forget(&mut self) {
        let next = (self.last.0, self.last.1 + 1, FIRST);
        let first = self.states.first().map_or(next, |state| state.before);
        self.log = self.log.split_off(&first);
        self.told = self.told.split_off(&first);
        self.told_len = self.told.values().map(Vec::len).sum();
    }

    /// Sees what came after a state once more, in its order.
    fn see_again(&mut self, from: usize) {
        self.states.truncate(from + 1);
        let Some(state) = self.states.last().cloned() else { return };
        self.state_due_ns = state.before.0.saturating_add(STATE_NS);
        let old = self.told.split_off(&state.before);
        let before = std::mem::take(&mut self.news);
        self.detectors = state.detectors;
        let end = self.last.max(self.log.last_key_value().map_or(self.last, |(place, _)| *place));
        let again = self.log.split_off(&state.before);
        for (place, shown) in again {
            self.keep_state(place);
            let mut facts = Vec::new();
            self.detectors.tick(place.0, &mut facts);
            if let (Ok(event), Some((_, id))) = (Event::parse(&shown.words), shown.order()) {
                self.detectors.event(&event, &shown.owner, id, &mut facts);
            }
            self.last = place;
            self.log.insert(place, shown);
            self.tell(place, facts);
        }
        let mut facts = Vec::new();
        self.detectors.tick(end.0.max(self.ticked_ns), &mut facts);
        self.last = end;
        self.tell(end, facts);
        self.told_len = self.told.values().map(Vec::len).sum();
        let new = std::mem::replace(&mut self.news, before).told;
        self.correct(old.into_values().flatten().collect(), new);
    }

    /// Puts names that became known into what was told without them.
    fn name_again(&mut self) {
        let learnt = self.names.take_learnt();
        if learnt.is_empty() {
            return;
        }
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for fact in self.told.values_mut().flatten() {
            if !fact.keys.iter().any(|key| learnt.contains(&key.value)) {
                continue;
            }
            let mut named = fact.clone();
            self.names.complete(&mut named);
            if named != *fact {
                new.push(named.clone());
                old.push(std::mem::replace(fact, named));
            }
        }
        self.correct(old, new);
    }

    /// Takes back what does not hold any more, and tells what holds now.
    fn correct(&mut self, old: Vec<Fact>, new: Vec<Fact>) {
        let mut both: BTreeMap<u64, (Vec<Fact>, Vec<Fact>)> = BTreeMap::new();
        old.into_iter().for_each(|fact| both.entry(fact.id()).or_default().0.push(fact));
        new.into_iter().for_each(|fact| both.entry(fact.id()).or_default().1.push(fact));
        both.retain(|_, (old, new)| old != new);
        // What is told of a fact adds up: without one part, all others have to be told anew.
        let all: Vec<Fact> = self
            .told
            .values()
            .flatten()
            .filter(|fact| both.get(&fact.id()).is_some_and(|(old, _)| !old.is_empty()))
            .cloned()
            .collect();
        for (_, (old, new)) in both {
            self.news.told.retain(|fact| !old.contains(fact));
            if old.is_empty() {
                self.news.told.extend(new);
            }
            self.news.taken.extend(old);
        }
        self.news.told.extend(all);
    }
}

#[cfg(test)]
mod tests;
