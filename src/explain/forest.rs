//! Chooses for every fact the one cause that explains it best.
//!
//! Invariants:
//! - The result is a forest: each fact has at most one parent, and nothing explains itself in a circle.
//! - It depends on facts and edges only: edges are taken surest first, ties are broken by what the facts are.

use super::licence::Weighed;
use crate::detect::{Fact, KeyKind};

/// A licensed edge between two facts of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Edge {
    /// Place of the cause.
    pub cause: usize,
    /// Place of the effect.
    pub effect: usize,
    /// Place of the rule in the rule set.
    pub rule: u16,
    /// Whether it says no more than that it happened again.
    pub repeats: bool,
    /// What they have in common.
    pub key: Option<KeyKind>,
    /// How sure it is.
    pub weighed: Weighed,
}

/// How long the effect followed the cause, in nanoseconds; negative if it was seen before.
#[must_use]
pub fn delay_ns(cause: &Fact, effect: &Fact) -> i64 {
    let (cause, effect) = (i128::from(cause.from_ns), i128::from(effect.from_ns));
    i64::try_from(effect - cause).unwrap_or(i64::MAX)
}

/// For each fact the place of the edge to its cause, if something explains it. `facts` are in the canonical
/// order.
#[must_use]
pub fn grow(facts: &[&Fact], edges: &[Edge]) -> Vec<Option<usize>> {
    let mut order: Vec<usize> = (0..edges.len())
        .filter(|&place| {
            let weighed = &edges[place].weighed;
            weighed.excluded.is_none() && weighed.confidence >= super::licence::CONFIDENCE_MIN
        })
        .collect();
    order.sort_by(|&one, &other| {
        let (one, other) = (&edges[one], &edges[other]);
        let far = |edge: &Edge| delay_ns(facts[edge.cause], facts[edge.effect]).unsigned_abs();
        other
            .weighed
            .confidence
            .total_cmp(&one.weighed.confidence)
            .then_with(|| far(one).cmp(&far(other)))
            .then_with(|| (one.cause, one.effect, one.rule).cmp(&(other.cause, other.effect, other.rule)))
    });
    let mut parents: Vec<Option<usize>> = vec![None; facts.len()];
    for place in order {
        let edge = &edges[place];
        if parents[edge.effect].is_none() && !is_above(edge.effect, edge.cause, &parents, edges) {
            parents[edge.effect] = Some(place);
        }
    }
    parents
}

/// Whether `high` is `low` or explains it.
fn is_above(high: usize, low: usize, parents: &[Option<usize>], edges: &[Edge]) -> bool {
    let mut at = low;
    loop {
        if at == high {
            return true;
        }
        match parents[at] {
            Some(edge) => at = edges[edge].cause,
            None => return false,
        }
    }
}

/// The root above each fact.
#[must_use]
pub fn roots(parents: &[Option<usize>], edges: &[Edge]) -> Vec<usize> {
    (0..parents.len())
        .map(|place| {
            let mut at = place;
            while let Some(edge) = parents[at] {
                at = edges[edge].cause;
            }
            at
        })
        .collect()
}
