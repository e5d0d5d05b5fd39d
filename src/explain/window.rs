//! The facts of the last while, indexed by what they have in common, with the licensed edges between them.
//!
//! Invariants:
//! - A fact that is told again joins what is known of it: the union, whatever came first.
//! - At most [`Bounds::facts`] facts, [`Bounds::bucket`] of one kind under one key, [`Bounds::bonds`] edges
//!   at a fact: what goes beyond is counted. Circumstances give way before symptoms and causes, old ones
//!   before new ones.
//! - Within those bounds the content depends on the set of facts only, never on the order of their arrival.

use std::collections::HashSet;
use std::hash::BuildHasher;

use hashbrown::HashMap;

use super::licence::{self, Seen};
use super::rules::{Part, Rule, RuleSet};
use super::topology::Topology;
use crate::detect::{Fact, FactKind, Key, KeyKind, Role};

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Facts in all.
    pub facts: usize,
    /// Facts of one kind under one key.
    pub bucket: usize,
    /// Edges at one fact.
    pub bonds: usize,
    /// How long symptoms and causes are kept.
    pub cause_ns: u64,
    /// How long circumstances and rollouts are kept.
    pub context_ns: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            facts: 16_384,
            bucket: 64,
            bonds: 256,
            cause_ns: 3_600_000_000_000,
            context_ns: 21_600_000_000_000,
        }
    }
}

/// How many of the first facts of a bucket stay when it overflows.
const FIRST: usize = 16;

/// What did not fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WindowStats {
    /// Facts taken in, repetitions included.
    pub inserted: u64,
    /// Facts that were told before.
    pub repeated: u64,
    /// Facts that left by age.
    pub expired: u64,
    /// Facts that left because there was no room.
    pub evicted: u64,
    /// Entries of the index that did not fit.
    pub unindexed: u64,
    /// Edges that did not fit.
    pub unbound: u64,
}

/// Names a fact in the window.
pub type Slot = u32;

/// A licensed edge, as one of its ends knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bond {
    /// The rule, as a place in the rule set.
    pub rule: u16,
    /// The other end.
    pub other: Slot,
    /// Whether this end is the cause.
    pub is_cause: bool,
    /// What they have in common; nothing where a relation or the subject licenses it.
    pub key: Option<KeyKind>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    fact: Fact,
    bonds: Vec<Bond>,
    /// Of its keys, in their order, and of its subject: taken once, asked for by every rule.
    hashes: Vec<(KeyKind, u64)>,
    subject: u64,
}

/// Where a fact is in a bucket of the index: beginning and end of its interval, its id, its slot. This is the order in
/// which facts repeat each other, too: neighbours in a bucket must be neighbours in it.
type Place = (u64, u64, u64, Slot);

/// The same in every process: nothing may depend on a random seed.
type Hashes = foldhash::fast::FixedState;

/// The facts.
#[derive(Debug)]
pub struct Window {
    bounds: Bounds,
    entries: Vec<Option<Entry>>,
    free: Vec<Slot>,
    by_id: HashMap<u64, Slot, Hashes>,
    index: HashMap<(u64, FactKind), Vec<Place>, Hashes>,
    /// By end of the interval, for expiry and eviction: circumstances, and the others.
    ages: [std::collections::BTreeSet<(u64, u64)>; 2],
    /// What was counted.
    pub stats: WindowStats,
}

fn hash_of(key: &Key) -> u64 {
    Hashes::default().hash_one((key.kind as u8, &key.value))
}

fn subject_hash(fact: &Fact) -> u64 {
    Hashes::default().hash_one((u8::MAX, &fact.subject.kind, &fact.subject.name))
}

/// Which age list a kind is in: 0 for what is kept longer but gives way first.
fn class(kind: FactKind) -> usize {
    usize::from(kind.info().role != Role::Context && kind != FactKind::Rollout)
}

impl Window {
    /// An empty window.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            entries: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::default(),
            index: HashMap::default(),
            ages: Default::default(),
            stats: WindowStats::default(),
        }
    }

    /// Facts that are here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// A fact.
    #[must_use]
    pub fn fact(&self, slot: Slot) -> Option<&Fact> {
        Some(&self.entry(slot)?.fact)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self, slot: Slot) -> Option<u64> {
        Some(self.entry(slot)?.id)
    }

    /// Its edges.
    #[must_use]
    pub fn bonds(&self, slot: Slot) -> &[Bond] {
        self.entry(slot).map_or(&[], |entry| entry.bonds.as_slice())
    }

    /// Where a fact is.
    #[must_use]
    pub fn slot(&self, id: u64) -> Option<Slot> {
        self.by_id.get(&id).copied()
    }

    fn entry(&self, slot: Slot) -> Option<&Entry> {
        self.entries.get(slot as usize)?.as_ref()
    }

    fn entry_mut(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.entries.get_mut(slot as usize)?.as_mut()
    }

    /// Takes a fact in. Returns where it is, or nothing if it says nothing new; `touched` gets the facts
    /// whose verdict it may change besides its own.
    pub fn insert(
        &mut self,
        fact: Fact,
        rules: &RuleSet,
        topology: &Topology,
        touched: &mut Vec<Slot>,
    ) -> Option<Slot> {
        self.stats.inserted += 1;
        let id = fact.id();
        let known = self.slot(id).and_then(|slot| self.fact(slot)).cloned();
        let fact = match known {
            None => fact,
            Some(known) => {
                self.stats.repeated += 1;
                let joined = join(known.clone(), fact);
                if joined == known {
                    return None;
                }
                self.remove(id, touched);
                joined
            }
        };
        self.make_room(touched);
        let slot = self.place(id, fact);
        self.bind(slot, rules, topology);
        touched.extend(self.bonds(slot).iter().map(|bond| bond.other));
        self.touch_decided(slot, rules, touched);
        Some(slot)
    }

    fn place(&mut self, id: u64, fact: Fact) -> Slot {
        let hashes: Vec<(KeyKind, u64)> = fact.keys.iter().map(|key| (key.kind, hash_of(key))).collect();
        let subject = subject_hash(&fact);
        let places: Vec<u64> = hashes.iter().map(|&(_, hash)| hash).chain([subject]).collect();
        let (kind, from_ns, until_ns) = (fact.kind, fact.from_ns, fact.until_ns);
        let entry = Some(Entry { id, fact, bonds: Vec::new(), hashes, subject });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                Slot::try_from(self.entries.len() - 1).unwrap_or(Slot::MAX)
            }
        };
        self.by_id.insert(id, slot);
        self.ages[class(kind)].insert((until_ns, id));
        for hash in places {
            let bucket = self.index.entry((hash, kind)).or_default();
            let at = bucket
                .partition_point(|&(from, until, other, _)| (from, until, other) < (from_ns, until_ns, id));
            bucket.insert(at, (from_ns, until_ns, id, slot));
            if bucket.len() > self.bounds.bucket {
                // The first ones stay, since a root may be among them, and the last ones, which others will follow
                // from. Whichever order they come in, the same ones stay.
                bucket.remove(FIRST.min(bucket.len() - 1));
                self.stats.unindexed += 1;
            }
        }
        slot
    }

    /// Removes a fact; `touched` gets those that it had edges with.
    fn remove(&mut self, id: u64, touched: &mut Vec<Slot>) {
        let Some(slot) = self.by_id.remove(&id) else { return };
        let Some(entry) = self.entries.get_mut(slot as usize).and_then(Option::take) else { return };
        self.free.push(slot);
        self.ages[class(entry.fact.kind)].remove(&(entry.fact.until_ns, id));
        for hash in entry.hashes.iter().map(|&(_, hash)| hash).chain([entry.subject]) {
            let place = (hash, entry.fact.kind);
            if let Some(bucket) = self.index.get_mut(&place) {
                bucket.retain(|&(_, _, other, _)| other != id);
                if bucket.is_empty() {
                    self.index.remove(&place);
                }
            }
        }
        for bond in entry.bonds {
            if let Some(other) = self.entry_mut(bond.other) {
                other.bonds.retain(|back| back.other != slot);
                touched.push(bond.other);
            }
        }
    }

    /// Takes a fact back; `touched` gets those whose verdict that may change.
    pub fn retract(&mut self, id: u64, rules: &RuleSet, topology: &Topology, touched: &mut Vec<Slot>) {
        let Some(slot) = self.slot(id) else { return };
        self.touch_attached(slot, rules, touched);
        self.touch_decided(slot, rules, touched);
        let mut met = Vec::new();
        self.remove(id, &mut met);
        // Those before and behind it may repeat each other now.
        met.iter().for_each(|&other| self.bind(other, rules, topology));
        touched.append(&mut met);
    }

    fn make_room(&mut self, touched: &mut Vec<Slot>) {
        while self.by_id.len() >= self.bounds.facts {
            let oldest = self.ages.iter().find_map(|ages| ages.first().copied());
            let Some((_, id)) = oldest else { return };
            self.remove(id, touched);
            self.stats.evicted += 1;
        }
    }

    /// Forgets what is too old, but for the pinned ones.
    pub fn expire(&mut self, now_ns: u64, pinned: &HashSet<u64>, touched: &mut Vec<Slot>) {
        for (class, age_ns) in [(0, self.bounds.context_ns), (1, self.bounds.cause_ns)] {
            let until = now_ns.saturating_sub(age_ns);
            let old: Vec<u64> = self.ages[class].range(..(until, 0)).map(|&(_, id)| id).collect();
            for id in old.into_iter().filter(|id| !pinned.contains(id)) {
                self.remove(id, touched);
                self.stats.expired += 1;
            }
        }
    }

    /// Every fact, in no order.
    pub fn facts(&self) -> impl Iterator<Item = &Fact> {
        self.entries.iter().flatten().map(|entry| &entry.fact)
    }

    /// Every slot that is taken.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.by_id.values().copied()
    }

    /// Facts of a kind under a key, the earliest first.
    pub fn under(&self, key: &Key, kind: FactKind) -> impl Iterator<Item = Slot> + '_ {
        self.bucket(hash_of(key), kind).iter().map(|&(_, _, _, slot)| slot)
    }

    fn bucket(&self, hash: u64, kind: FactKind) -> &[Place] {
        self.index.get(&(hash, kind)).map_or(&[], Vec::as_slice)
    }

    /// Finds every edge between a fact and those that are here already.
    pub fn bind(&mut self, slot: Slot, rules: &RuleSet, topology: &Topology) {
        let mut found = Vec::new();
        if let Some(entry) = self.entry(slot) {
            let kind = entry.fact.kind;
            for (as_cause, places) in [(true, rules.from_cause(kind)), (false, rules.to_effect(kind))] {
                for &place in places.iter().filter(|&&place| rules.is_causal(place)) {
                    self.bind_rule(slot, place, as_cause, (rules, topology), &mut found);
                }
            }
        }
        // By the strongest key, whichever side looks for the other.
        found.sort_unstable_by_key(|bond: &Bond| (bond.rule, bond.other, bond.is_cause, bond.key));
        found.dedup();
        for bond in found {
            let back = Bond { other: slot, is_cause: !bond.is_cause, ..bond };
            let known = self.bonds(slot).iter().any(|old| old.rule == bond.rule && old.other == bond.other);
            if known {
                continue;
            }
            let full = |bonds: &[Bond]| bonds.len() >= self.bounds.bonds;
            if full(self.bonds(slot)) || full(self.bonds(bond.other)) {
                self.stats.unbound += 1;
                continue;
            }
            if let Some(entry) = self.entry_mut(slot) {
                entry.bonds.push(bond);
            }
            if let Some(entry) = self.entry_mut(bond.other) {
                entry.bonds.push(back);
            }
        }
    }

    fn bind_rule(
        &self,
        slot: Slot,
        place: u16,
        as_cause: bool,
        (rules, topology): (&RuleSet, &Topology),
        found: &mut Vec<Bond>,
    ) {
        let (Some(rule), Some(entry)) = (rules.rule(place), self.entry(slot)) else { return };
        let fact = &entry.fact;
        let kinds = if as_cause { &rule.effects } else { &rule.causes };
        let mut meet = |other_slot: Slot, key: Option<KeyKind>| {
            let Some(other) = self.fact(other_slot).filter(|_| other_slot != slot) else { return };
            let (cause, effect) = if as_cause { (fact, other) } else { (other, fact) };
            // Whatever happened first is not the repetition: the set decides it, not the order of arrival.
            if rule.part == Part::Repeats {
                let order = |fact: &Fact, slot: Slot| (fact.from_ns, fact.until_ns, self.id(slot));
                if (order(fact, slot) > order(other, other_slot)) == as_cause {
                    return;
                }
            }
            if licence::holds(rule, key, cause, effect) {
                found.push(Bond { rule: place, other: other_slot, is_cause: as_cause, key });
            }
        };
        for &kind in kinds.iter().filter(|&&kind| rule.part != Part::Repeats || kind == fact.kind) {
            if rule.same_subject {
                // Of its own kind only the neighbours in time: the others are joined through them.
                let bucket = self.bucket(entry.subject, kind);
                let near =
                    if rule.part == Part::Repeats { neighbours(bucket, slot) } else { 0..bucket.len() };
                bucket[near].iter().for_each(|&(_, _, _, other)| meet(other, None));
            }
            for &(key, hash) in entry.hashes.iter().filter(|(key, _)| rule.keys.contains(key)) {
                let bucket = self.bucket(hash, kind);
                let near =
                    if rule.part == Part::Repeats { neighbours(bucket, slot) } else { 0..bucket.len() };
                bucket[near].iter().for_each(|&(_, _, _, other)| meet(other, Some(key)));
            }
            if !rule.via.is_empty() {
                for needed in topology.near(fact, &rule.via, as_cause) {
                    self.under(&needed, kind).for_each(|other| meet(other, None));
                }
            }
        }
    }

    /// What rules of these parts attach to a fact: circumstances, requests, what was said; with the rule.
    pub fn attached<'rules>(
        &self,
        slot: Slot,
        rules: &'rules RuleSet,
        parts: &[Part],
    ) -> Vec<(&'rules Rule, Slot)> {
        let Some(entry) = self.entry(slot) else { return Vec::new() };
        let fact = &entry.fact;
        let wanted = rules.to_effect(fact.kind).iter().filter_map(|&place| rules.rule(place));
        let mut found = Vec::new();
        for rule in wanted.filter(|rule| parts.contains(&rule.part)) {
            for &(key, hash) in entry.hashes.iter().filter(|(key, _)| rule.keys.contains(key)) {
                for &kind in &rule.causes {
                    let others = self.bucket(hash, kind).iter().map(|&(_, _, _, other)| other);
                    let others = others.filter(|&other| other != slot);
                    let fits = |other: &Slot| {
                        self.fact(*other).is_some_and(|cause| licence::holds(rule, Some(key), cause, fact))
                    };
                    found.extend(others.filter(fits).map(|other| (rule, other)));
                }
            }
        }
        found
    }

    /// Adds the facts that this one is attached to.
    pub fn touch_attached(&self, slot: Slot, rules: &RuleSet, touched: &mut Vec<Slot>) {
        let Some(entry) = self.entry(slot) else { return };
        let fact = &entry.fact;
        let places = rules.from_cause(fact.kind).iter().filter(|&&place| !rules.is_causal(place));
        for rule in places.filter_map(|&place| rules.rule(place)) {
            for &(key, hash) in entry.hashes.iter().filter(|(key, _)| rule.keys.contains(key)) {
                for &kind in &rule.effects {
                    let fits = |other: &Slot| {
                        self.fact(*other).is_some_and(|effect| licence::holds(rule, Some(key), fact, effect))
                    };
                    let others = self.bucket(hash, kind).iter().map(|&(_, _, _, other)| other);
                    touched.extend(others.filter(fits));
                }
            }
        }
    }

    /// Marks the facts between which this one decides.
    fn touch_decided(&self, slot: Slot, rules: &RuleSet, touched: &mut Vec<Slot>) {
        let Some(fact) = self.fact(slot) else { return };
        for &(place, number) in rules.decided_by(fact.kind) {
            let Some(rule) = rules.rule(place) else { continue };
            let Some(evidence) = rule.evidence.get(usize::from(number)) else { continue };
            for key in fact.keys.iter().filter(|key| evidence.keys.contains(&key.kind)) {
                for &kind in &rule.effects {
                    touched.extend(self.under(key, kind));
                }
                for &kind in &rule.causes {
                    touched.extend(self.under(key, kind));
                }
            }
        }
    }
}

impl Seen for Window {
    fn nearby<'this>(&'this self, key: &Key, kind: FactKind, visit: &mut dyn FnMut(&'this Fact)) {
        for slot in self.under(key, kind) {
            if let Some(fact) = self.fact(slot) {
                visit(fact);
            }
        }
    }
}

/// The places beside a slot in its bucket.
fn neighbours(bucket: &[Place], slot: Slot) -> std::ops::Range<usize> {
    match bucket.iter().position(|&(_, _, _, other)| other == slot) {
        Some(at) => at.saturating_sub(1)..(at + 2).min(bucket.len()),
        None => bucket.len().saturating_sub(1)..bucket.len(),
    }
}

/// What two tellings of one fact say together.
#[must_use]
pub fn join(mut one: Fact, other: Fact) -> Fact {
    one.from_ns = one.from_ns.min(other.from_ns);
    one.until_ns = one.until_ns.max(other.until_ns);
    one.keys.extend(other.keys);
    while one.keys.len() > crate::detect::KEYS_MAX {
        one.keys.pop_last();
    }
    one.events.extend(other.events);
    while one.events.len() > crate::detect::EVENTS_MAX {
        one.events.pop_last();
    }
    for (name, value) in other.detail {
        let kept = one.detail.entry(name).or_insert_with(|| value.clone());
        if *kept < value {
            *kept = value;
        }
    }
    one
}
