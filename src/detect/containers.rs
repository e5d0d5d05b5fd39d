//! Containers and pods as the Kubernetes API shows them.
//!
//! Invariants:
//! - The end of one run is told once, however often the API repeats it.
//! - A deleted pod was asked to go: what its containers do then is nobody's failure.

use super::Detector;
use super::bounded::Bounded;
use super::fact::{Fact, FactKind, KeyKind};
use super::objects::{pull_cause, pull_failure, with_long_reason};
use super::seen::{Seen, with_text};
use crate::event::{Kind, fields};

/// Runs whose end was told, at most.
const RUNS_MAX: usize = 8192;

/// Pods whose state was told, at most.
const PODS_MAX: usize = 4096;

/// What a waiting container waits for.
pub(super) fn waiting(reason: &str) -> Option<FactKind> {
    match reason {
        "CrashLoopBackOff" => Some(FactKind::CrashLoop),
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable" => Some(FactKind::ImagePullFailed),
        "CreateContainerConfigError" => Some(FactKind::ConfigMissing),
        "CreateContainerError" | "RunContainerError" | "StartError" | "ContainerCannotRun" => {
            Some(FactKind::SpawnFailed)
        }
        _ => None,
    }
}

/// What the end of a run is; nothing for an end in order.
pub(super) fn terminated(reason: &str, exit_code: i64, signal: u64) -> Option<FactKind> {
    match reason {
        "OOMKilled" => Some(FactKind::OomKilled),
        "ContainerCannotRun" | "StartError" => Some(FactKind::SpawnFailed),
        "Completed" => None,
        _ if exit_code != 0 || signal != 0 => Some(FactKind::ContainerFailed),
        _ => None,
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Containers {
    /// By container id and end.
    ends: Bounded<(u64, u64), ()>,
    /// By pod uid: what it was told of.
    relations: Bounded<u64, (String, String)>,
    /// By container of a pod, which keeps its name over restarts.
    states: Bounded<String, (String, u64)>,
}

impl Default for Containers {
    fn default() -> Self {
        Self {
            ends: Bounded::new(RUNS_MAX),
            relations: Bounded::new(PODS_MAX),
            states: Bounded::new(RUNS_MAX),
        }
    }
}

impl Detector for Containers {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        match seen.kind() {
            Kind::ContainerState => self.container(seen, out),
            Kind::PodState => self.pod(seen, out),
            _ => {}
        }
    }

    fn evicted(&self) -> u64 {
        self.ends.evicted() + self.relations.evicted() + self.states.evicted()
    }
}

impl Containers {
    fn container(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let reason = seen.field(fields::REASON);
        let (exit_code, signal) = (seen.signed("exit_code"), seen.number("signal"));
        let (started, restarts) = (seen.number("started_unix_s"), seen.number("restarts"));
        self.relate(seen, out);
        if seen.number("terminated") == 1 {
            self.end(seen, &reason, (exit_code, signal), out);
        } else if seen.field(fields::STATE) == "running" {
            let key = (seen.owner.key, started);
            if self.ends.get(&key).is_none() {
                self.ends.insert(key, ());
                out.push(seen.fact(FactKind::ContainerStarted).with("restarts", restarts));
                // Restarts that were there when the container was first seen are old.
                if restarts > 0 && restarts == seen.number("restarts_before") + 1 {
                    out.push(seen.fact(FactKind::ContainerRestart).with("restarts", restarts));
                }
            }
        } else if let Some(kind) = waiting(&reason) {
            let name = format!("{} {}", seen.subject(), kind.name());
            let state = (reason.to_string(), restarts);
            if self.states.get(&name) == Some(&state) {
                return;
            }
            self.states.insert(name, state);
            let mut fact = seen.with_message(detailed(seen, kind));
            if kind == FactKind::ImagePullFailed {
                let message = seen.field(fields::MESSAGE);
                fact = with_text(fact, "image", &seen.field(fields::IMAGE));
                if let Some(cause) = pull_failure(&message) {
                    fact = fact.with("reason", cause);
                    out.extend(pull_cause(seen, cause));
                }
            }
            out.push(fact);
        }
    }

    /// The end of a run.
    fn end(&mut self, seen: &Seen<'_>, reason: &str, (exit_code, signal): (i64, u64), out: &mut Vec<Fact>) {
        let finished = seen.number("finished_unix_s");
        let key = (seen.owner.key, finished.wrapping_add(1 << 63));
        if self.ends.get(&key).is_some() {
            return;
        }
        self.ends.insert(key, ());
        if let Some(kind) = terminated(reason, exit_code, signal) {
            let fact = seen.with_message(detailed(seen, kind)).with("exit_code", exit_code);
            let fact = if signal > 0 { fact.with("signal", signal) } else { fact };
            // A later run than the first, of a container that nobody knew: it ended before anybody looked.
            let unseen = seen.number("restarts") > 0 && seen.number("restarts_before") == 0;
            out.push(if unseen { fact.with("snapshot", true) } else { fact });
        }
    }

    fn pod(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        self.relate(seen, out);
        let (deleted, reason) = (seen.number("deleted_unix_s"), seen.field(fields::REASON));
        if deleted > 0 {
            let fact = seen.fact(FactKind::RequestedStop).with("by", "deletion");
            out.push(fact.with("grace_s", seen.number("grace_s")));
        }
        let said =
            |kind| with_long_reason(seen.with_message(detailed(seen, kind)), &seen.field(fields::MESSAGE));
        match &*reason {
            "Evicted" => out.push(said(FactKind::Evicted)),
            // Of preemption by the scheduler its Event says the same, and for whom it was.
            "Preempting" | "Preempted" => out.push(said(FactKind::Preempted)),
            "Unschedulable" => out.push(said(FactKind::Unschedulable)),
            _ => {}
        }
    }

    /// What ties a pod to its workload and addresses, told when it changes.
    fn relate(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let (owner, addresses) = (seen.field(fields::OWNER), seen.field(fields::ADDRESSES));
        if owner.is_empty() {
            return;
        }
        let said = (owner.to_string(), addresses.to_string());
        let before = self.relations.get(&seen.owner.key);
        let known =
            before.is_some_and(|before| before.0 == said.0 && (addresses.is_empty() || before.1 == said.1));
        if known {
            return;
        }
        self.relations.insert(seen.owner.key, said);
        let mut fact = seen.fact(FactKind::Relation).with("relation", "part_of");
        let target = super::seen::object(&owner);
        fact = fact.with("target_type", target.kind).with("target", target.name);
        for address in addresses.split_whitespace() {
            fact = fact.key(KeyKind::Socket, format!("{address}:*"));
        }
        out.push(fact);
        let node = seen.field(fields::NODE);
        if !node.is_empty() && seen.kind() == Kind::PodState {
            let fact = seen.fact(FactKind::Relation).with("relation", "runs_on");
            out.push(fact.with("target_type", "node").with("target", &*node));
        }
    }
}

/// A fact with what the API says of a container or pod.
fn detailed(seen: &Seen<'_>, kind: FactKind) -> Fact {
    let restarts = seen.number("restarts");
    let fact = with_text(seen.fact(kind), "reason", &seen.field(fields::REASON));
    if restarts > 0 { fact.with("restarts", restarts) } else { fact }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the reasons of the API for containers that wait or ended.
    /// Guarantees: each is its kind; an end in order is none.
    #[test]
    fn reasons_of_containers() {
        for (reason, expected) in [
            ("CrashLoopBackOff", Some(FactKind::CrashLoop)),
            ("ImagePullBackOff", Some(FactKind::ImagePullFailed)),
            ("CreateContainerConfigError", Some(FactKind::ConfigMissing)),
            ("RunContainerError", Some(FactKind::SpawnFailed)),
            ("ContainerCreating", None),
            ("PodInitializing", None),
        ] {
            assert_eq!(waiting(reason), expected, "{reason}");
        }
        for (reason, exit_code, signal, expected) in [
            ("OOMKilled", 137, 0, Some(FactKind::OomKilled)),
            ("OOMKilled", 0, 0, Some(FactKind::OomKilled)),
            ("Completed", 0, 0, None),
            ("Error", 1, 0, Some(FactKind::ContainerFailed)),
            ("Error", 143, 0, Some(FactKind::ContainerFailed)),
            ("", 0, 0, None),
        ] {
            assert_eq!(terminated(reason, exit_code, signal), expected, "{reason} {exit_code}");
        }
    }
}
