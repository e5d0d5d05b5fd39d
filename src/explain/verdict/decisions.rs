//! What decided: the evidence that tells a cause from its look-alikes.
//!
//! Invariants:
//! - At most [`DECISIONS_MAX`], each once, the most telling first.

use std::collections::{BTreeMap, BTreeSet};

use super::super::incident::Decision;
use super::super::rules::value_text;
use super::Draft;
use crate::detect::{Fact, FactKind, Subject};

/// Decisions shown.
const DECISIONS_MAX: usize = 32;

impl Draft<'_> {
    /// What decided against look-alikes, the most telling first: on the way from the root to the worst, then beside it.
    pub(super) fn decisions(&self) -> Vec<Decision> {
        let beside = |place: &usize| self.component.parents[*place];
        let mut edges = self.way.clone();
        edges.extend(self.members.iter().filter_map(beside).filter(|edge| !self.way.contains(edge)));
        edges.retain(|&edge| self.way.contains(&edge) || !self.component.edges[edge].repeats);
        let mut list = self.proofs(&edges);
        list.extend(self.culprit.iter().map(|(subject, how)| Decision {
            evidence: format!("{subject}: {how}"),
            weight: 0.0,
            fact: None,
        }));
        list.extend(self.shown(&edges));
        list.extend(self.fan_in());
        let mut seen = BTreeSet::new();
        list.retain(|decision| seen.insert(decision.evidence.clone()));
        list.truncate(DECISIONS_MAX);
        list
    }

    /// What weighed on these edges, and what could not.
    fn proofs(&self, edges: &[usize]) -> Vec<Decision> {
        let mut list: Vec<Decision> = Vec::new();
        for weighed in edges.iter().map(|&edge| &self.component.edges[edge].weighed) {
            list.extend(weighed.proofs.iter().map(|proof| Decision {
                evidence: proof.says.clone(),
                weight: proof.weight,
                fact: proof.fact.and_then(|id| self.names.get(&id).cloned()),
            }));
            list.extend(weighed.deaf.iter().map(|source| Decision {
                evidence: format!("{} missed something: its silence does not count", source.name()),
                weight: 0.0,
                fact: None,
            }));
        }
        list
    }

    /// What the root and the effects of these edges say that tells them from their look-alikes, and what is said of them
    /// once more.
    fn shown(&self, edges: &[usize]) -> Vec<Decision> {
        let effects = edges.iter().map(|&edge| self.component.edges[edge].effect);
        let told: Vec<&Fact> =
            std::iter::once(self.root).chain(effects).map(|place| self.fact(place)).collect();
        let is_told =
            |fact: &&Fact| told.iter().any(|told| told.kind == fact.kind && told.subject == fact.subject);
        let again = self.members.iter().map(|&place| self.fact(place)).filter(is_told);
        let mut list = Vec::new();
        for fact in told.iter().copied().chain(again) {
            let shows = self.scene.rules.shows.iter().filter(|shows| shows.kinds.contains(&fact.kind));
            for name in shows.flat_map(|shows| &shows.details) {
                list.extend(fact.detail.get(name.as_str()).map(|value| Decision {
                    evidence: format!("{name} = {}", value_text(value)),
                    weight: 0.0,
                    fact: self.name(fact),
                }));
            }
        }
        list
    }

    /// Of how many the same is told: what many have in common is their cause's.
    fn fan_in(&self) -> Vec<Decision> {
        let mut counted: BTreeMap<FactKind, BTreeSet<&Subject>> = BTreeMap::new();
        for &place in self.members.iter().filter(|&&place| place != self.root) {
            counted.entry(self.fact(place).kind).or_default().insert(&self.fact(place).subject);
        }
        let many = counted.into_iter().filter(|(_, subjects)| subjects.len() > 1);
        many.map(|(kind, subjects)| Decision {
            evidence: format!("{} of {} has one cause", kind.name(), subjects.len()),
            weight: 0.0,
            fact: None,
        })
        .collect()
    }
}
