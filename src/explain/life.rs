//! Whether an incident goes on.
//!
//! Invariants:
//! - Pure: the same facts at the same time give the same answer; time passing is the only other thing that
//!   changes it.

use super::component::Component;
use super::incident::State;
use super::verdict::Scene;
use crate::detect::{Fact, FactKind, Key, KeyKind};

/// Quiet for this long, an incident whose entities run again is over.
pub const QUIET_NS: u64 = 600_000_000_000;

/// Quiet for this long, it is over in any case: nobody repairs it, or nothing says that it was.
pub const GIVEN_UP_NS: u64 = 3_600_000_000_000;

/// Where an incident is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Its state.
    pub state: State,
    /// Whether everything that failed was seen to run again.
    pub recovered: bool,
    /// When the last fact was.
    pub last_ns: u64,
    /// When the state changes if nothing happens.
    pub due_ns: u64,
}

/// The state of the incident with these members.
#[must_use]
pub fn of(scene: Scene<'_>, component: &Component<'_>, members: &[usize]) -> Life {
    let last_ns = members.iter().map(|&place| component.facts[place].until_ns).max().unwrap_or(0);
    let mut failed = members
        .iter()
        .filter(|&&place| component.suffers[place])
        .map(|&place| component.facts[place])
        .peekable();
    let recovered = failed.peek().is_some() && failed.all(|fact| runs_again(scene, fact));
    let lasting =
        members.iter().any(|&place| component.suffers[place] && is_lasting(component.facts[place].kind));
    let quiet = if recovered || !lasting { QUIET_NS } else { GIVEN_UP_NS };
    let due_ns = last_ns.saturating_add(quiet);
    let state = if scene.now_ns >= due_ns { State::Closed } else { State::Open };
    Life { state, recovered, last_ns, due_ns: if state == State::Open { due_ns } else { u64::MAX } }
}

/// Kinds that are not over by themselves.
fn is_lasting(kind: FactKind) -> bool {
    matches!(
        kind,
        FactKind::UnitFailed
            | FactKind::StartLimitHit
            | FactKind::DependencyFailed
            | FactKind::CrashLoop
            | FactKind::KubeletDown
            | FactKind::RuntimeDown
            | FactKind::NodeNotReady
            | FactKind::NodePressure
            | FactKind::EndpointsEmpty
            | FactKind::ReadOnlyFilesystem
            | FactKind::ImagePullFailed
            | FactKind::ConfigMissing
            | FactKind::MountFailed
            | FactKind::Unschedulable
            | FactKind::SandboxFailed
            | FactKind::RolloutFailed
    )
}

/// Whether what failed was started later.
fn runs_again(scene: Scene<'_>, fact: &Fact) -> bool {
    let started = |key: &Key, kind: FactKind| {
        scene.window.under(key, kind).filter_map(|slot| scene.window.fact(slot)).any(|start| {
            start.until_ns >= fact.from_ns && start.from_ns.saturating_add(2_000_000_000) >= fact.from_ns
        })
    };
    let of_unit = |key: &Key| key.kind == KeyKind::Unit && started(key, FactKind::UnitStarted);
    let of_pod = |key: &Key| {
        let same = |start: &Fact| start.subject == fact.subject || fact.subject.kind != "container";
        key.kind == KeyKind::Pod
            && scene
                .window
                .under(key, FactKind::ContainerStarted)
                .filter_map(|slot| scene.window.fact(slot))
                .any(|start| same(start) && start.until_ns >= fact.from_ns)
    };
    // A fact of something that is not run, like a connection, has nothing to start again.
    let is_run = fact.keys.iter().any(|key| matches!(key.kind, KeyKind::Unit | KeyKind::Pod));
    is_run && fact.keys.iter().any(|key| of_unit(key) || of_pod(key))
}
