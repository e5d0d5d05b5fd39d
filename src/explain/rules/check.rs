//! What a rule must be beyond its grammar, alone and among the others.
//!
//! Invariants:
//! - A key of the whole host licenses an edge only from a cause that concerns the whole host.
//! - No chain of causes leads back to where it began through keys that stay the same: it would explain
//!   itself.

use std::collections::{BTreeMap, BTreeSet};

use super::parse::{Parts, RuleError};
use super::{Part, Rule, Side};
use crate::detect::{FactKind, KeyKind, Role};

/// Kinds that concern the whole host by themselves.
const NODE_WIDE: &[FactKind] = &[
    FactKind::NodeMemoryExhausted,
    FactKind::NodePressure,
    FactKind::NodeNotReady,
    FactKind::KubeletDown,
    FactKind::RuntimeDown,
    FactKind::ClockJump,
    FactKind::NetworkUnreachable,
    FactKind::ConntrackFull,
    FactKind::DiskFull,
    FactKind::InodesExhausted,
    FactKind::IoLatency,
    FactKind::IoError,
    FactKind::PidsLimitHit,
    FactKind::ReadOnlyFilesystem,
    FactKind::DnsFailure,
    FactKind::KubeletUnavailable,
    FactKind::ContainerdUnavailable,
    FactKind::KubeProxyUnavailable,
    FactKind::KubeSchedulerUnavailable,
    FactKind::NodeNetworkDelay,
    FactKind::NodeNetworkPacketLoss,
    FactKind::NodeCordoned,
];

/// Says what is wrong with one rule.
pub(super) fn rule(rule: &Rule) -> Result<(), String> {
    let verdict = |kind: &&FactKind| kind.info().role == Role::Verdict;
    if let Some(kind) = rule.causes.iter().chain(&rule.effects).find(verdict) {
        return Err(format!(
            "`{}` is an answer of the engine, not a fact: no rule can be about it",
            kind.name()
        ));
    }
    if rule.part == Part::Causes {
        let context = |kind: &&FactKind| kind.info().role == Role::Context;
        if let Some(kind) = rule.causes.iter().chain(&rule.effects).find(context) {
            let name = kind.name();
            return Err(format!(
                "`{name}` is circumstance and can neither cause nor be caused; use another `part`"
            ));
        }
    }
    if rule.part == Part::Causes && rule.keys.contains(&KeyKind::Node) {
        let narrowed = rule.when.iter().any(|condition| condition.side == Side::Cause);
        if let Some(kind) = rule.causes.iter().find(|kind| !NODE_WIDE.contains(kind)).filter(|_| !narrowed) {
            return Err(format!(
                "`{}` does not concern the whole host: leave the key `node` out, or say with a condition on the \
                 cause when it does",
                kind.name()
            ));
        }
    }
    Ok(())
}

/// Says what is wrong with the rules together.
///
/// # Errors
/// At the first rule of a circle.
pub(super) fn check(parts: &Parts) -> Result<(), RuleError> {
    let keys: BTreeSet<KeyKind> = parts.rules.iter().flat_map(|(rule, _)| rule.keys.clone()).collect();
    for key in keys {
        let mut graph: BTreeMap<FactKind, Vec<(FactKind, usize)>> = BTreeMap::new();
        for (place, (rule, _)) in parts.rules.iter().enumerate() {
            if rule.part != Part::Causes || !rule.keys.contains(&key) {
                continue;
            }
            for cause in &rule.causes {
                graph.entry(*cause).or_default().extend(rule.effects.iter().map(|effect| (*effect, place)));
            }
        }
        if let Some(circle) = circle(&graph) {
            let names: Vec<&str> = circle.iter().map(|&(kind, _)| kind.name()).collect();
            // The rule that was written last closed it: the shipped ones alone have none.
            let place = circle.iter().map(|&(_, place)| place).max().unwrap_or(0);
            let mut error = parts.rules[place].1.clone();
            error.message = format!(
                "rule `{}` closes a circle: {} -> {} by the same key `{}`; a fact would explain itself",
                parts.rules[place].0.name,
                names.join(" -> "),
                names.first().unwrap_or(&""),
                super::key_name(key),
            );
            return Err(error);
        }
    }
    Ok(())
}

type Graph = BTreeMap<FactKind, Vec<(FactKind, usize)>>;

/// Finds a circle: its kinds, each with the rule that leads away from it.
fn circle(graph: &Graph) -> Option<Vec<(FactKind, usize)>> {
    let mut done = BTreeSet::new();
    for &start in graph.keys() {
        // The way here: each kind, and how many of its edges were tried.
        let mut way: Vec<(FactKind, usize)> = vec![(start, 0)];
        while let Some((kind, tried)) = way.last_mut() {
            let Some(&(next, _)) = graph.get(kind).and_then(|edges| edges.get(*tried)) else {
                done.insert(*kind);
                way.pop();
                continue;
            };
            *tried += 1;
            if let Some(from) = way.iter().position(|&(kind, _)| kind == next) {
                let rule =
                    |&(kind, tried): &(FactKind, usize)| Some((kind, graph.get(&kind)?.get(tried - 1)?.1));
                return Some(way[from..].iter().filter_map(rule).collect());
            }
            if !done.contains(&next) {
                way.push((next, 0));
            }
        }
    }
    None
}
