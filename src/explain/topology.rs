//! Who needs whom: units that require units, services that lead to pods, clients that connect to servers.
//!
//! Invariants:
//! - At most [`RELATIONS_MAX`] relations; what does not fit is counted, and what was told last of a relation
//!   counts.
//! - A relation stays as long as one of the facts that tell it does, of the last [`TELLERS_MAX`].
//! - A walk ends after [`STEPS_MAX`] steps and [`REACH_MAX`] places, so that a circle of units costs no more.

use std::collections::{BTreeMap, BTreeSet};

use crate::detect::{Fact, FactKind, Key, KeyKind, Subject, Value};

/// Relations kept.
pub const RELATIONS_MAX: usize = 32_768;

/// Facts that are remembered of each relation: what could be taken back of more than these is long told again.
pub const TELLERS_MAX: usize = 4;

/// How many relations one after the other are followed.
pub const STEPS_MAX: usize = 6;

/// How many places one walk visits.
pub const REACH_MAX: usize = 256;

/// One relation: the dependant needs the target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// `requires`, `binds_to`, `part_of`, `wants`, `routes_to`, `connects_to`, `runs_on`.
    pub relation: String,
    /// Who or what is at the other end.
    pub other: Subject,
    /// Replicas that are wanted, of a workload or service; negative if nobody said.
    pub replicas: i64,
}

/// The relations.
#[derive(Debug, Default)]
pub struct Topology {
    /// By dependant, with the facts that tell each.
    needs: BTreeMap<Subject, BTreeMap<Need, Vec<u64>>>,
    /// By target.
    needed_by: BTreeMap<Subject, BTreeSet<Need>>,
    /// What an entity may use and how it is restarted, by name.
    limits: BTreeMap<Subject, BTreeMap<&'static str, u64>>,
    count: usize,
    /// Relations that did not fit.
    pub refused: u64,
}

fn text<'fact>(fact: &'fact Fact, name: &str) -> Option<&'fact str> {
    match fact.detail.get(name)? {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

/// Remembers that a fact tells a relation.
fn tell(tellers: &mut Vec<u64>, fact: &Fact) {
    let id = fact.id();
    tellers.retain(|teller| *teller != id);
    if tellers.len() >= TELLERS_MAX {
        tellers.remove(0);
    }
    tellers.push(id);
}

impl Topology {
    /// Takes in a relation. Says whether it is news.
    pub fn insert(&mut self, fact: &Fact) -> bool {
        if text(fact, "relation") == Some("limits") {
            return self.insert_limits(fact);
        }
        let (FactKind::Relation, Some(relation), Some(kind), Some(name)) =
            (fact.kind, text(fact, "relation"), text(fact, "target_type"), text(fact, "target"))
        else {
            return false;
        };
        let target = Subject::new(kind, name);
        let replicas = match fact.detail.get("replicas") {
            Some(Value::Number(number)) => *number,
            _ => -1,
        };
        let of = |other: Subject| Need { relation: relation.to_owned(), other, replicas };
        let dependant = fact.subject.clone();
        let known = self.needs.entry(dependant.clone()).or_default();
        if let Some(tellers) = known.get_mut(&of(target.clone())) {
            tell(tellers, fact);
            return false;
        }
        let old = known.keys().find(|need| need.relation == relation && need.other == target).cloned();
        let mut tellers = Vec::new();
        if let Some(old) = old {
            tellers = known.remove(&old).unwrap_or_default();
            if let Some(back) = self.needed_by.get_mut(&target) {
                back.retain(|need| need.relation != relation || need.other != dependant);
            }
            self.count -= 1;
        } else if self.count >= RELATIONS_MAX {
            self.refused += 1;
            return false;
        }
        self.count += 1;
        tell(&mut tellers, fact);
        self.needs.entry(dependant.clone()).or_default().insert(of(target.clone()), tellers);
        self.needed_by.entry(target).or_default().insert(of(dependant));
        true
    }

    /// Takes a fact back that tells a relation. Says whether the relation is gone with it. Limits stay: what is said last of
    /// them counts anyway.
    pub fn remove(&mut self, fact: &Fact) -> bool {
        let (Some(relation), Some(kind), Some(name)) =
            (text(fact, "relation"), text(fact, "target_type"), text(fact, "target"))
        else {
            return false;
        };
        let target = Subject::new(kind, name);
        let Some(needs) = self.needs.get_mut(&fact.subject) else { return false };
        let id = fact.id();
        let before = needs.len();
        needs.retain(|need, tellers| {
            let is_it = need.relation == relation && need.other == target;
            if is_it {
                tellers.retain(|teller| *teller != id);
            }
            !is_it || !tellers.is_empty()
        });
        let removed = before - needs.len();
        if removed == 0 {
            return false;
        }
        if let Some(back) = self.needed_by.get_mut(&target) {
            back.retain(|need| need.relation != relation || need.other != fact.subject);
        }
        self.count -= removed;
        true
    }

    fn insert_limits(&mut self, fact: &Fact) -> bool {
        if self.limits.len() >= RELATIONS_MAX && !self.limits.contains_key(&fact.subject) {
            self.refused += 1;
            return false;
        }
        let number = |value: &Value| match value {
            Value::Number(number) => u64::try_from(*number).ok(),
            _ => None,
        };
        let limits = fact.detail.iter().filter_map(|(name, value)| Some((*name, number(value)?))).collect();
        let old = self.limits.insert(fact.subject.clone(), limits);
        old.as_ref() != self.limits.get(&fact.subject)
    }

    /// What an entity may use at most, or how often it may be started.
    #[must_use]
    pub fn limit(&self, subject: &Subject, name: &str) -> Option<u64> {
        self.limits.get(subject)?.get(name).copied()
    }

    /// Relations kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Who needs this directly.
    pub fn dependants(&self, target: &Subject) -> impl Iterator<Item = &Need> {
        self.needed_by.get(target).into_iter().flatten()
    }

    /// What this needs directly.
    pub fn needs(&self, dependant: &Subject) -> impl Iterator<Item = &Need> {
        self.needs.get(dependant).into_iter().flat_map(BTreeMap::keys)
    }

    /// The keys of what the fact's subject needs by these relations, or of what needs it.
    #[must_use]
    pub fn near(&self, fact: &Fact, via: &[String], dependants: bool) -> Vec<Key> {
        let mut reached: BTreeSet<&Subject> = BTreeSet::new();
        let places = subjects(fact);
        let mut border: Vec<&Subject> = places.iter().collect();
        for _ in 0..STEPS_MAX {
            let mut next = Vec::new();
            for place in border {
                let needs: Box<dyn Iterator<Item = &Need>> =
                    if dependants { Box::new(self.dependants(place)) } else { Box::new(self.needs(place)) };
                for need in needs.filter(|need| via.contains(&need.relation)) {
                    if reached.len() < REACH_MAX && reached.insert(&need.other) {
                        next.push(&need.other);
                    }
                }
            }
            border = next;
        }
        reached.iter().map(|subject| key_of(subject)).collect()
    }
}

/// The places of the topology that a fact is about.
#[must_use]
pub fn subjects(fact: &Fact) -> BTreeSet<Subject> {
    let mut places = BTreeSet::from([fact.subject.clone()]);
    for key in &fact.keys {
        match key.kind {
            KeyKind::Unit => drop(places.insert(Subject::new("unit", &*key.value))),
            KeyKind::Pod => drop(places.insert(Subject::new("pod", &*key.value))),
            KeyKind::Owner | KeyKind::Object => {
                if let Some((kind, name)) = key.value.split_once('/') {
                    places.insert(Subject::new(&kind.to_lowercase(), name));
                }
            }
            _ => {}
        }
    }
    places
}

/// The key by which facts about a place are found.
fn key_of(subject: &Subject) -> Key {
    let kind = match subject.kind.as_str() {
        "unit" => KeyKind::Unit,
        "pod" => KeyKind::Pod,
        "node" => KeyKind::Node,
        other => {
            let mut kind = other.to_owned();
            if let Some(first) = kind.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            return Key { kind: KeyKind::Object, value: format!("{kind}/{}", subject.name) };
        }
    };
    Key { kind, value: subject.name.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::EventId;
    use crate::event::Source;

    fn relation(number: u64, replicas: i64) -> Fact {
        let id = EventId { source: Source::Kubernetes, producer: 0, sequence: number };
        Fact::new(FactKind::Relation, Subject::new("container", "shop/a/main"), Source::Kubernetes, number)
            .event(id)
            .with("relation", "part_of")
            .with("target_type", "deployment")
            .with("target", "shop/a")
            .with("replicas", replicas)
    }

    /// Scenario: a relation is told by two facts and by one many times over; they are taken back, one of them that nobody
    /// told.
    /// Guarantees: it stays as long as one of them does; each end knows of it, or neither.
    #[test]
    fn a_relation_stays_as_long_as_somebody_tells_it() {
        let mut topology = Topology::default();
        let (container, deployment) =
            (Subject::new("container", "shop/a/main"), Subject::new("deployment", "shop/a"));
        let known = |topology: &Topology| {
            let ends = (topology.needs(&container).count(), topology.dependants(&deployment).count());
            assert_eq!(ends, (topology.len(), topology.len()));
            topology.len() == 1
        };
        assert!(topology.insert(&relation(1, 2)) && !topology.insert(&relation(2, 2)));
        assert!(!topology.remove(&relation(1, 2)) && !topology.remove(&relation(9, 2)) && known(&topology));
        assert!(topology.insert(&relation(3, 4)), "other replicas are news");
        assert!(!topology.remove(&relation(2, 2)) && known(&topology));
        (10..100).for_each(|number| {
            topology.insert(&relation(number, 4));
        });
        assert!(!topology.remove(&relation(3, 4)) && known(&topology));
        (10..100).for_each(|number| {
            topology.remove(&relation(number, 4));
        });
        assert!(!known(&topology) && topology.is_empty());
    }
}
