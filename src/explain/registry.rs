//! What was said before: the incidents, their revisions, and which fact belongs to which.
//!
//! Invariants:
//! - A revision is made only when something besides its number changed.
//! - At most [`INCIDENTS_MAX`] incidents; further ones are refused and counted, ended ones give way first. Of ended ones
//!   at most [`ENDED_FACTS_MAX`] facts are kept, since large ones take a hundred times the memory of small ones.
//! - An incident that turns out to be part of another, or none, says so in a last revision.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::incident::{Incident, State};
use super::verdict::Verdict;

/// Incidents kept, closed ones included.
pub const INCIDENTS_MAX: usize = 1_024;

/// Facts that ended incidents show, all together: some 3 KiB each.
pub const ENDED_FACTS_MAX: usize = 8_192;

/// How long a closed incident is kept for who asks.
pub const CLOSED_NS: u64 = 86_400_000_000_000;

#[derive(Debug)]
struct Kept {
    incident: Incident,
    facts: Vec<u64>,
    due_ns: u64,
    last_ns: u64,
    /// In which order it was first seen.
    number: u64,
    /// When it closed, for its expiry.
    closed_ns: u64,
}

/// The incidents.
#[derive(Debug, Default)]
pub struct Registry {
    kept: BTreeMap<String, Kept>,
    of_fact: BTreeMap<u64, String>,
    pinned: HashSet<u64>,
    numbers: u64,
    now_ns: u64,
    /// Every incident is open, and there is no room for another: so until one ends.
    full: bool,
    /// Incidents that did not fit.
    pub refused: u64,
    /// Revisions made.
    pub revisions: u64,
}

impl Registry {
    /// The incidents, oldest first.
    pub fn incidents(&self) -> impl Iterator<Item = &Incident> {
        let mut list: Vec<&Kept> = self.kept.values().collect();
        list.sort_by_key(|kept| kept.number);
        list.into_iter().map(|kept| &kept.incident)
    }

    /// How many are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.kept.values().filter(|kept| kept.incident.state == State::Open).count()
    }

    /// Whether a fact is one of an incident's.
    #[must_use]
    pub fn has_fact(&self, id: u64) -> bool {
        self.of_fact.contains_key(&id)
    }

    /// The facts of the incident that a fact is one of.
    #[must_use]
    pub fn beside(&self, id: u64) -> &[u64] {
        let kept = self.of_fact.get(&id).and_then(|incident| self.kept.get(incident));
        kept.map_or(&[], |kept| kept.facts.as_slice())
    }

    /// The facts of incidents.
    pub fn open_facts(&self) -> impl Iterator<Item = u64> + '_ {
        self.pinned.iter().copied()
    }

    /// The facts that must not expire: those of incidents, so that none loses its root alone.
    #[must_use]
    pub fn pinned(&self) -> &HashSet<u64> {
        &self.pinned
    }

    /// Each incident whose state may have changed by now, and one of its facts.
    pub fn due(&self, now_ns: u64) -> impl Iterator<Item = (String, Option<u64>)> + '_ {
        let due = self.kept.iter().filter(move |(_, kept)| kept.due_ns <= now_ns);
        due.map(|(id, kept)| (id.clone(), kept.facts.first().copied()))
    }

    /// Closes an incident whose facts are gone.
    pub fn close(&mut self, id: &str, out: &mut Vec<Incident>) {
        let Some(kept) = self.kept.get_mut(id) else { return };
        kept.due_ns = u64::MAX;
        kept.closed_ns = self.now_ns;
        kept.incident.state = State::Closed;
        kept.incident.revision += 1;
        self.full = false;
        self.revisions += 1;
        out.push(kept.incident.clone());
    }

    /// Lets go of the facts of incidents that are over for `facts_ns`, all of an incident at once, and
    /// forgets incidents that closed long ago.
    pub fn expire(&mut self, now_ns: u64, facts_ns: u64) {
        self.now_ns = now_ns;
        let over: Vec<(String, Vec<u64>)> = self
            .kept
            .iter_mut()
            .filter(|(_, kept)| kept.incident.state != State::Open && !kept.facts.is_empty())
            .filter(|(_, kept)| kept.last_ns.saturating_add(facts_ns) < now_ns)
            .map(|(id, kept)| (id.clone(), std::mem::take(&mut kept.facts)))
            .collect();
        for (id, facts) in over {
            self.release(&id, &facts);
        }
        let until = now_ns.saturating_sub(CLOSED_NS);
        let old = |kept: &Kept| kept.incident.state != State::Open && kept.closed_ns < until;
        let gone: Vec<String> =
            self.kept.iter().filter(|(_, kept)| old(kept)).map(|(id, _)| id.clone()).collect();
        for id in gone.into_iter().chain(self.beyond(ENDED_FACTS_MAX)) {
            self.remove(&id);
        }
    }

    /// The incidents that ended before the last ones, which show so many facts together.
    fn beyond(&self, facts_max: usize) -> Vec<String> {
        let mut ended: Vec<(&String, &Kept)> =
            self.kept.iter().filter(|(_, kept)| kept.incident.state != State::Open).collect();
        ended.sort_by_key(|(_, kept)| std::cmp::Reverse((kept.closed_ns, kept.number)));
        let mut shown = 0;
        let beyond = |(id, kept): (&String, &Kept)| {
            shown += kept.incident.facts.len();
            (shown > facts_max).then(|| id.clone())
        };
        ended.into_iter().filter_map(beyond).collect()
    }

    /// Whether an incident with this id can be kept.
    pub fn has_room(&mut self, id: &str) -> bool {
        if self.kept.contains_key(id) || self.kept.len() < INCIDENTS_MAX {
            return true;
        }
        self.full = self.full || !self.make_room();
        !self.full
    }

    /// Takes in what was judged of these facts.
    pub fn settle(&mut self, facts: &[u64], verdicts: Vec<Verdict>, out: &mut Vec<Incident>) {
        let before: BTreeSet<String> =
            facts.iter().filter_map(|fact| self.of_fact.get(fact).cloned()).collect();
        let now: BTreeSet<String> = verdicts.iter().map(|verdict| verdict.incident.id.clone()).collect();
        // Where the facts of one that is gone went: asked before they are given away.
        let gone: Vec<(String, Option<String>)> =
            before.difference(&now).map(|id| (id.clone(), self.heir(id, &verdicts))).collect();
        for verdict in verdicts {
            self.keep(verdict, out);
        }
        for (id, heir) in gone {
            self.end(&id, heir, out);
        }
    }

    /// Which of the verdicts has the root of an incident, or most of its other facts.
    fn heir(&self, id: &str, verdicts: &[Verdict]) -> Option<String> {
        let facts = &self.kept.get(id)?.facts;
        let has = |verdict: &Verdict| facts.iter().filter(|fact| verdict.facts.contains(fact)).count();
        let best = verdicts
            .iter()
            .max_by_key(|verdict| (has(verdict), std::cmp::Reverse(verdict.incident.id.clone())))?;
        (has(best) > 0).then(|| best.incident.id.clone())
    }

    fn keep(&mut self, verdict: Verdict, out: &mut Vec<Incident>) {
        let id = verdict.incident.id.clone();
        let known = self.kept.get(&id);
        let mut incident = verdict.incident;
        let (revision, number) = match known {
            Some(kept) => {
                incident.revision = kept.incident.revision;
                let same = kept.incident == incident;
                (incident.revision + u64::from(!same), kept.number)
            }
            None => {
                self.numbers += 1;
                (1, self.numbers)
            }
        };
        let changed = known.is_none_or(|kept| kept.incident.revision != revision);
        incident.revision = revision;
        if let Some(old) = self.kept.remove(&id) {
            self.release(&id, &old.facts);
        }
        for &fact in &verdict.facts {
            self.of_fact.insert(fact, id.clone());
            self.pinned.insert(fact);
        }
        self.full = self.full && incident.state == State::Open;
        if changed {
            self.revisions += 1;
            out.push(incident.clone());
        }
        let (due_ns, last_ns) = (verdict.due_ns, verdict.last_ns);
        let kept = Kept { incident, facts: verdict.facts, due_ns, last_ns, number, closed_ns: self.now_ns };
        self.kept.insert(id, kept);
    }

    fn end(&mut self, id: &str, heir: Option<String>, out: &mut Vec<Incident>) {
        let Some(mut kept) = self.kept.remove(id) else { return };
        self.release(id, &kept.facts);
        self.full = false;
        kept.facts.clear();
        kept.due_ns = u64::MAX;
        kept.closed_ns = self.now_ns;
        kept.incident.state = if heir.is_some() { State::Merged } else { State::Withdrawn };
        kept.incident.merged_into = heir;
        kept.incident.revision += 1;
        self.revisions += 1;
        out.push(kept.incident.clone());
        self.kept.insert(id.to_owned(), kept);
    }

    fn release(&mut self, id: &str, facts: &[u64]) {
        for fact in facts {
            if self.of_fact.get(fact).is_some_and(|owner| owner == id) {
                self.of_fact.remove(fact);
                self.pinned.remove(fact);
            }
        }
    }

    fn remove(&mut self, id: &str) {
        if let Some(kept) = self.kept.remove(id) {
            self.release(id, &kept.facts);
            self.full = false;
        }
    }

    /// Lets the incident go that closed first.
    fn make_room(&mut self) -> bool {
        let closed = self.kept.iter().filter(|(_, kept)| kept.incident.state != State::Open);
        let oldest = closed.min_by_key(|(_, kept)| (kept.closed_ns, kept.number)).map(|(id, _)| id.clone());
        oldest.inspect(|id| self.remove(id)).is_some()
    }
}
