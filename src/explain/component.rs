//! What hangs together: the facts that edges connect, split into trees with one root each.
//!
//! Invariants:
//! - A component is a pure function of the window: the same facts make the same trees, in the same order.
//! - At most [`MEMBERS_MAX`] facts; what goes beyond is not followed, and the tree says so.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashSet;

use super::forest::{self, Edge};
use super::gaps::Gaps;
use super::licence;
use super::rules::{Part, RuleSet};
use super::window::{Slot, Window};
use crate::detect::{Fact, Role};

/// Facts of one component.
pub const MEMBERS_MAX: usize = 512;

/// Two sources tell of the same within this time.
const RETOLD_NS: u64 = 2_000_000_000;

/// The facts that edges connect.
#[derive(Debug)]
pub struct Component<'window> {
    /// Where they are, in the canonical order.
    pub slots: Vec<Slot>,
    /// Them.
    pub facts: Vec<&'window Fact>,
    /// The licensed edges between them.
    pub edges: Vec<Edge>,
    /// For each fact the edge to its cause.
    pub parents: Vec<Option<usize>>,
    /// For each fact the root above it.
    pub roots: Vec<usize>,
    /// For each fact whether it is a symptom that nobody asked for.
    pub suffers: Vec<bool>,
}

/// The slots that edges connect with this one.
#[must_use]
pub fn reach(window: &Window, rules: &RuleSet, start: Slot) -> Vec<Slot> {
    let mut seen: HashSet<Slot> = HashSet::from([start]);
    let mut found = vec![start];
    let mut next = 0;
    while let Some(&slot) = found.get(next) {
        next += 1;
        for bond in window.bonds(slot) {
            if rules.is_causal(bond.rule) && found.len() < MEMBERS_MAX && seen.insert(bond.other) {
                found.push(bond.other);
            }
        }
    }
    found.sort_unstable();
    found
}

impl<'window> Component<'window> {
    /// Chooses the causes among these facts.
    #[must_use]
    pub fn new(window: &'window Window, rules: &RuleSet, gaps: &Gaps, slots: &[Slot]) -> Self {
        let mut members: Vec<(&Fact, u64, Slot)> =
            slots.iter().filter_map(|&slot| Some((window.fact(slot)?, window.id(slot)?, slot))).collect();
        members.sort_by_key(|(fact, id, _)| (fact.from_ns, fact.until_ns, fact.kind, *id));
        let slots: Vec<Slot> = members.iter().map(|&(_, _, slot)| slot).collect();
        let facts: Vec<&Fact> = members.iter().map(|&(fact, _, _)| fact).collect();
        let place_of: std::collections::HashMap<Slot, usize> =
            slots.iter().enumerate().map(|(place, &slot)| (slot, place)).collect();
        let mut edges = Vec::new();
        for (cause, &slot) in slots.iter().enumerate() {
            for bond in window.bonds(slot).iter().filter(|bond| bond.is_cause) {
                let (Some(&effect), Some(rule)) = (place_of.get(&bond.other), rules.rule(bond.rule)) else {
                    continue;
                };
                if !matches!(rule.part, Part::Causes | Part::Repeats) {
                    continue;
                }
                let weighed = licence::weigh(rule, bond.key, (facts[cause], facts[effect]), window, gaps);
                let repeats = rule.part == Part::Repeats;
                edges.push(Edge { cause, effect, rule: bond.rule, repeats, key: bond.key, weighed });
            }
        }
        // A repetition follows the one right before it: facts that arrived between two others leave an edge
        // over them.
        let mut before: BTreeMap<(u16, usize), usize> = BTreeMap::new();
        for edge in edges.iter().filter(|edge| edge.repeats) {
            let last = before.entry((edge.rule, edge.effect)).or_insert(edge.cause);
            *last = edge.cause.max(*last);
        }
        edges.retain(|edge| !edge.repeats || before.get(&(edge.rule, edge.effect)) == Some(&edge.cause));
        edges.sort_by_key(|edge| (edge.cause, edge.effect, edge.rule));
        let suffers =
            slots.iter().zip(&facts).map(|(&slot, fact)| suffers(window, rules, slot, fact)).collect();
        let parents = forest::grow(&facts, &edges);
        let roots = forest::roots(&parents, &edges);
        Self { slots, facts, edges, parents, roots, suffers }
    }

    /// The roots of trees in which somebody suffers.
    #[must_use]
    pub fn incidents(&self) -> Vec<usize> {
        let found: BTreeSet<usize> = self
            .roots
            .iter()
            .zip(&self.suffers)
            .filter(|(_, suffers)| **suffers)
            .map(|(&root, _)| root)
            .collect();
        found.into_iter().collect()
    }

    /// The places of the tree below a root, in the canonical order.
    #[must_use]
    pub fn members(&self, root: usize) -> Vec<usize> {
        (0..self.facts.len()).filter(|&place| self.roots[place] == root).collect()
    }

    /// A fact, with the details that other sources tell of the same.
    #[must_use]
    pub fn retold(&self, place: usize, members: &[usize]) -> Fact {
        let mut told = self.facts[place].clone();
        for other in members.iter().map(|&member| self.facts[member]) {
            let is_same = other.kind == told.kind
                && other.subject == told.subject
                && other.from_ns.abs_diff(told.from_ns) < RETOLD_NS
                && !licence::are_different_runs(other, &told);
            for (name, value) in other.detail.iter().filter(|_| is_same) {
                told.detail.entry(name).or_insert_with(|| value.clone());
            }
        }
        told
    }

    /// The way from the root down to a fact, as places of edges.
    #[must_use]
    pub fn way_to(&self, place: usize) -> Vec<usize> {
        let mut way = Vec::new();
        let mut at = place;
        while let Some(edge) = self.parents[at] {
            way.push(edge);
            at = self.edges[edge].cause;
        }
        way.reverse();
        way
    }
    /// How many edges lead to each fact from its root, repetitions aside.
    #[must_use]
    pub fn depths(&self) -> Vec<usize> {
        let mut depths: Vec<Option<usize>> =
            self.parents.iter().map(|parent| parent.map_or(Some(0), |_| None)).collect();
        let mut way = Vec::new();
        for place in 0..depths.len() {
            let mut at = place;
            let mut depth = loop {
                match (depths[at], self.parents[at]) {
                    (Some(depth), _) => break depth,
                    (None, Some(edge)) => {
                        way.push((at, edge));
                        at = self.edges[edge].cause;
                    }
                    (None, None) => break 0,
                }
            };
            while let Some((below, edge)) = way.pop() {
                depth += usize::from(!self.edges[edge].repeats);
                depths[below] = Some(depth);
            }
        }
        depths.into_iter().map(Option::unwrap_or_default).collect()
    }
}

/// Whether a fact is a symptom that nobody asked for and that concerns somebody.
fn suffers(window: &Window, rules: &RuleSet, slot: Slot, fact: &Fact) -> bool {
    let silenced = || !window.attached(slot, rules, &[Part::Silences]).is_empty();
    let muted = || {
        rules.mutes.iter().any(|mute| {
            mute.kinds.contains(&fact.kind) && mute.when.iter().all(|condition| condition.holds(fact, fact))
        })
    };
    fact.kind.info().role == Role::Symptom && !muted() && !silenced()
}
