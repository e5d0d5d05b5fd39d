//! Whom an incident hits, and whom it may hit next: from who needs whom, not from the length of the chain.
//!
//! Invariants:
//! - Everybody named is a subject of a fact or of a relation; the score says what it is made of.

use std::collections::{BTreeMap, BTreeSet};

use super::component::Component;
use super::incident::{Affected, Impact, Level};
use super::topology::{self, Topology};
use crate::detect::{Fact, FactKind, Subject};

/// Those named.
const AFFECTED_MAX: usize = 64;

/// How likely a dependant fails with what it needs, by relation.
fn pull(relation: &str) -> f64 {
    match relation {
        "binds_to" => 0.9,
        "requires" => 0.7,
        "part_of" | "routes_to" => 0.6,
        "connects_to" => 0.4,
        "wants" => 0.1,
        _ => 0.0,
    }
}

/// How much a symptom weighs: the first of its kind, in words that the score names.
fn weight(kind: FactKind) -> f64 {
    match kind {
        FactKind::NodeNotReady
        | FactKind::NodeMemoryExhausted
        | FactKind::KubeletDown
        | FactKind::RuntimeDown => 0.7,
        FactKind::KubeSchedulerUnavailable
        | FactKind::KubeletUnavailable
        | FactKind::ContainerdUnavailable => 0.7,
        FactKind::EndpointsEmpty => 0.55,
        FactKind::ReadOnlyFilesystem | FactKind::IoError | FactKind::ConntrackFull | FactKind::DiskFull => {
            0.5
        }
        FactKind::StartLimitHit | FactKind::CrashLoop | FactKind::NodePressure | FactKind::Evicted => 0.4,
        FactKind::UnitFailed
        | FactKind::DependencyFailed
        | FactKind::ImagePullFailed
        | FactKind::ConfigMissing => 0.3,
        FactKind::SandboxFailed
        | FactKind::MountFailed
        | FactKind::Unschedulable
        | FactKind::RolloutFailed => 0.3,
        FactKind::RestartLoop | FactKind::PidsLimitHit | FactKind::FdExhausted | FactKind::Preempted => 0.3,
        FactKind::ContainerRestart | FactKind::ContainerFailed | FactKind::ExitFailure => 0.1,
        _ => 0.15,
    }
}

/// Rounds a share to two digits, so that it reads the same everywhere.
#[must_use]
pub fn share(value: f64) -> f64 {
    (value.clamp(0.0, 1.0) * 100.0).round() / 100.0
}

/// Whom the tree below `root` hits. `recovered`: what failed runs again.
#[must_use]
pub fn assess(component: &Component<'_>, members: &[usize], topology: &Topology, recovered: bool) -> Impact {
    let symptoms: Vec<&Fact> = members
        .iter()
        .filter(|&&place| component.suffers[place])
        .map(|&place| component.facts[place])
        .collect();
    let mut failed: BTreeMap<&Subject, FactKind> = BTreeMap::new();
    for fact in &symptoms {
        let worst = failed.entry(&fact.subject).or_insert(fact.kind);
        if weight(fact.kind) > weight(*worst) {
            *worst = fact.kind;
        }
    }
    let mut places: BTreeSet<Subject> = BTreeSet::new();
    for &place in members {
        let fact = component.facts[place];
        if component.suffers[place] || fact.kind == FactKind::ListenerGone {
            places.extend(topology::subjects(fact));
        }
    }
    let exposed = dependants(&places, &failed, topology);
    let mut affected: Vec<Affected> = failed
        .iter()
        .map(|(subject, kind)| Affected {
            kind: subject.kind.clone(),
            name: subject.name.clone(),
            how: kind.name().into(),
            failed: true,
        })
        .collect();
    for (subject, (relation, target, _)) in &exposed {
        let how = format!("{relation} {target}");
        affected.push(Affected {
            kind: subject.kind.clone(),
            name: subject.name.clone(),
            how,
            failed: false,
        });
    }
    let affected_more = affected.len().saturating_sub(AFFECTED_MAX);
    affected.truncate(AFFECTED_MAX);
    let (score, terms) = score(&failed, &exposed, recovered);
    let stays: f64 = exposed.values().map(|(.., pull)| 1.0 - pull).product();
    let cascade = share((1.0 - stays) * if recovered { 0.2 } else { 1.0 });
    Impact {
        level: Level::of(score),
        score,
        terms,
        affected,
        affected_more: affected_more as u64,
        cascade_probability: cascade,
        cascade_targets: exposed.keys().take(AFFECTED_MAX).map(ToString::to_string).collect(),
    }
}

type Exposed = BTreeMap<Subject, (String, Subject, f64)>;

/// Who needs one of these directly and has not failed yet.
fn dependants(
    places: &BTreeSet<Subject>,
    failed: &BTreeMap<&Subject, FactKind>,
    topology: &Topology,
) -> Exposed {
    let mut exposed = Exposed::new();
    for place in places {
        for need in topology.dependants(place) {
            let pull = pull(&need.relation);
            if pull <= 0.0 || failed.contains_key(&need.other) || places.contains(&need.other) {
                continue;
            }
            let known = exposed.get(&need.other).is_some_and(|(.., known)| *known >= pull);
            if !known {
                exposed.insert(need.other.clone(), (need.relation.clone(), place.clone(), pull));
            }
        }
    }
    exposed
}

fn score(failed: &BTreeMap<&Subject, FactKind>, exposed: &Exposed, recovered: bool) -> (f64, Vec<String>) {
    let mut kinds: BTreeMap<FactKind, u64> = BTreeMap::new();
    for kind in failed.values() {
        *kinds.entry(*kind).or_default() += 1;
    }
    let mut well = 1.0;
    let mut terms = Vec::new();
    for (kind, count) in kinds {
        // Each further one of a kind adds a tenth of the first, up to ten.
        let more = u8::try_from(count.saturating_sub(1)).unwrap_or(u8::MAX).min(10);
        let term = (weight(kind) * (1.0 + f64::from(more) / 10.0)).min(0.95);
        well *= 1.0 - term;
        terms.push(format!("{count} x {}: {}", kind.name(), share(term)));
    }
    if !exposed.is_empty() {
        let count = u8::try_from(exposed.len()).unwrap_or(u8::MAX).min(10);
        let term = f64::from(count) * 0.04;
        well *= 1.0 - term;
        terms.push(format!("{} depend on them: {}", exposed.len(), share(term)));
    }
    let mut score = 1.0 - well;
    if recovered {
        score *= 0.5;
        terms.push("what failed runs again: halved".into());
    }
    (share(score), terms)
}
