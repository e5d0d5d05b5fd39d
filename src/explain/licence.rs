//! Whether a rule licenses an edge between two facts, and how sure the edge is.
//!
//! Invariants:
//! - Pure: the two facts, the rule, and what else was seen near them decide. Time alone never licenses
//!   anything.
//! - A piece of evidence that is absent counts only if its source missed nothing meanwhile.
//! - A bare process id licenses an edge within a second only, since ids are used again.

use super::gaps::Gaps;
use super::rules::{Condition, Evidence, Need, Rule, Side};
use crate::detect::{Fact, FactKind, Key, KeyKind};
use crate::event::Source;

const SECOND_NS: u64 = 1_000_000_000;

/// Edges below this are no answer.
pub const CONFIDENCE_MIN: f64 = 0.2;

/// What else was seen.
pub trait Seen {
    /// Visits the facts of a kind under a key.
    fn nearby<'this>(&'this self, key: &Key, kind: FactKind, visit: &mut dyn FnMut(&'this Fact));
}

/// Something beside cause and effect that weighed.
#[derive(Debug, Clone, PartialEq)]
pub struct Proof {
    /// What it says: `oom_victim present`, `sender = systemd-oomd`.
    pub says: String,
    /// What it added to the confidence.
    pub weight: f64,
    /// The fact that was there.
    pub fact: Option<u64>,
}

/// How sure an edge is.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighed {
    /// From 0 to 1.
    pub confidence: f64,
    /// What weighed.
    pub proofs: Vec<Proof>,
    /// Why there is no edge after all.
    pub excluded: Option<String>,
    /// Sources whose silence could not count because they missed something.
    pub deaf: Vec<Source>,
}

/// Whether the rule licenses the edge, other evidence aside. `key` is what they were found by.
#[must_use]
pub fn holds(rule: &Rule, key: Option<KeyKind>, cause: &Fact, effect: &Fact) -> bool {
    let slack = if key == Some(KeyKind::Pid) { rule.slack_ns.min(SECOND_NS) } else { rule.slack_ns };
    let window = if key == Some(KeyKind::Pid) { rule.window_ns.min(SECOND_NS) } else { rule.window_ns };
    effect.from_ns <= cause.until_ns.saturating_add(window)
        && cause.from_ns <= effect.until_ns.saturating_add(slack)
        && !(rule.same_run && are_different_runs(cause, effect))
        && rule.when.iter().all(|condition| condition.holds(cause, effect))
}

/// Whether both belong to runs of a unit or pod, but not to one.
pub(super) fn are_different_runs(one: &Fact, other: &Fact) -> bool {
    // One run has many processes: they tell runs apart only where nothing else is shared.
    let strong = [KeyKind::Invocation, KeyKind::PodUid, KeyKind::Container];
    strong.iter().any(|&kind| differ(one, other, kind))
        || (differ(one, other, KeyKind::Process) && !shares_run(one, other))
}

/// Whether both have keys of a kind, but none in common.
fn differ(one: &Fact, other: &Fact, kind: KeyKind) -> bool {
    let mut ours = one.keys.iter().filter(|key| key.kind == kind).peekable();
    let is_theirs = other.keys.iter().any(|key| key.kind == kind);
    is_theirs && ours.peek().is_some() && !ours.any(|key| other.keys.contains(key))
}

fn shares_run(one: &Fact, other: &Fact) -> bool {
    one.keys.iter().any(|key| {
        matches!(key.kind, KeyKind::Invocation | KeyKind::Container | KeyKind::Cgroup | KeyKind::PodUid)
            && other.keys.contains(key)
    })
}

/// Weighs an edge that [`holds`].
#[must_use]
pub fn weigh(
    rule: &Rule,
    key: Option<KeyKind>,
    (cause, effect): (&Fact, &Fact),
    seen: &dyn Seen,
    gaps: &Gaps,
) -> Weighed {
    let mut weighed = Weighed {
        confidence: rule.confidence * strength(key),
        proofs: Vec::new(),
        excluded: None,
        deaf: Vec::new(),
    };
    for condition in &rule.when {
        weighed.proofs.push(Proof { says: said(condition, cause, effect), weight: 0.0, fact: None });
    }
    for evidence in &rule.evidence {
        weigh_evidence(evidence, (cause, effect), seen, gaps, &mut weighed);
    }
    weighed.confidence = weighed.confidence.clamp(0.01, 0.99);
    weighed
}

fn weigh_evidence(
    evidence: &Evidence,
    (cause, effect): (&Fact, &Fact),
    seen: &dyn Seen,
    gaps: &Gaps,
    weighed: &mut Weighed,
) {
    let near = if evidence.near == Side::Cause { cause } else { effect };
    // Where there is nothing to find it by, it is neither there nor missing.
    if !near.keys.iter().any(|key| evidence.keys.contains(&key.kind)) {
        return;
    }
    let names: Vec<&str> = evidence.kinds.iter().map(|kind| kind.name()).collect();
    let names = names.join(" or ");
    if let Some(found) = find(evidence, near, (cause, effect), seen) {
        if evidence.need == Need::Excluded {
            weighed.excluded = Some(format!("{} present", found.kind.name()));
        }
        weighed.confidence += evidence.present;
        weighed.proofs.push(Proof {
            says: format!("{} present", found.kind.name()),
            weight: evidence.present,
            fact: Some(found.id()),
        });
        return;
    }
    let (from, until) =
        (near.from_ns.saturating_sub(evidence.window_ns), near.until_ns.saturating_add(evidence.window_ns));
    if gaps.covers(evidence.source, from, until) {
        weighed.deaf.push(evidence.source);
        return;
    }
    if evidence.need == Need::Required {
        weighed.excluded = Some(format!("{names} absent"));
    }
    weighed.confidence += evidence.absent;
    // What would not have weighed is not missed.
    if evidence.absent != 0.0 || evidence.need != Need::Weighs {
        weighed.proofs.push(Proof { says: format!("{names} absent"), weight: evidence.absent, fact: None });
    }
}

/// The earliest fact that is this evidence.
fn find<'seen>(
    evidence: &Evidence,
    near: &Fact,
    (cause, effect): (&Fact, &Fact),
    seen: &'seen dyn Seen,
) -> Option<&'seen Fact> {
    let mut best: Option<&Fact> = None;
    for key in near.keys.iter().filter(|key| evidence.keys.contains(&key.kind)) {
        for &kind in &evidence.kinds {
            seen.nearby(key, kind, &mut |fact| {
                let is_far = fact.from_ns > near.until_ns.saturating_add(evidence.window_ns)
                    || near.from_ns > fact.until_ns.saturating_add(evidence.window_ns);
                let is_itself = fact == cause || fact == effect;
                let fits = !is_far
                    && !is_itself
                    && evidence.when.iter().all(|condition| condition.holds(near, fact));
                if fits && best.is_none_or(|old| (fact.from_ns, fact.id()) < (old.from_ns, old.id())) {
                    best = Some(fact);
                }
            });
        }
    }
    best
}

/// How much a key is worth: the weaker, the more could share it.
fn strength(key: Option<KeyKind>) -> f64 {
    match key {
        Some(KeyKind::Node) => 0.97,
        Some(KeyKind::Pid) => 0.98,
        _ => 1.0,
    }
}

/// A condition with what it found.
fn said(condition: &Condition, cause: &Fact, effect: &Fact) -> String {
    use super::rules::Read;
    let fact = if condition.side == Side::Cause { cause } else { effect };
    match (&condition.read, condition.side) {
        (Read::Detail(name), Side::Cause | Side::Effect) => match fact.detail.get(name.as_str()) {
            Some(value) => format!("{name} = {}", super::rules::value_text(value)),
            None => format!("{name} not known"),
        },
        _ => condition.text.clone(),
    }
}
