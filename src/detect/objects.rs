//! Events and objects of the Kubernetes API: probes, images, volumes, sandboxes, scheduling, rollouts, nodes.
//!
//! Invariants:
//! - [`classify`] is the one place that knows the words of the API's Events.
//! - An Event that is repeated is the same statement until its count doubles.

use super::Detector;
use super::bounded::Bounded;
use super::fact::{Fact, FactKind, KeyKind, Value};
use super::seen::{Seen, object, with_text};
use super::text;
use crate::event::{Kind, fields};

/// Events remembered, at most.
const EVENTS_MAX: usize = 8192;

/// Pods behind a service that are remembered, at most.
const PODS_MAX: usize = 8;

/// What an Event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meaning {
    /// The kind of fact.
    pub(super) kind: FactKind,
    /// One word more: which probe, which resource, why an image could not be pulled; empty for none.
    pub(super) word: &'static str,
}

const fn meaning(kind: FactKind, word: &'static str) -> Option<Meaning> {
    Some(Meaning { kind, word })
}

/// Reads an Event by its reason and message.
pub(super) fn classify(reason: &str, message: &str) -> Option<Meaning> {
    use FactKind as F;
    match reason {
        "Unhealthy" => meaning(F::ProbeFailed, probe(message)),
        "Killing" if message.contains("liveness probe") => meaning(F::RuntimeKill, "liveness"),
        "Killing" if message.contains("startup probe") => meaning(F::RuntimeKill, "startup"),
        "BackOff" if message.contains("pulling image") => meaning(F::ImagePullFailed, "back_off"),
        "BackOff" => meaning(F::CrashLoop, ""),
        "Failed" | "FailedSync" | "InspectFailed" | "ErrImageNeverPull" => failed(message),
        "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" => match missing_object(message) {
            Some(_) => meaning(F::ConfigMissing, "mount"),
            None if message.contains("Multi-Attach") => meaning(F::MountFailed, "multi_attach"),
            None => meaning(F::MountFailed, ""),
        },
        "FailedCreatePodSandBox" | "FailedPodSandBoxStatus" => meaning(F::SandboxFailed, ""),
        "NetworkNotReady" => meaning(F::SandboxFailed, "network_not_ready"),
        "FailedScheduling" => meaning(F::Unschedulable, ""),
        "Preempted" | "Preempting" => meaning(F::Preempted, ""),
        "Evicted" | "TaintManagerEviction" if !message.starts_with("Cancelling") => meaning(F::Evicted, ""),
        "EvictionThresholdMet" => meaning(F::NodePressure, "threshold"),
        "NodeHasDiskPressure" => meaning(F::NodePressure, "disk"),
        "NodeHasInsufficientMemory" => meaning(F::NodePressure, "memory"),
        "NodeHasInsufficientPID" => meaning(F::NodePressure, "pids"),
        "FreeDiskSpaceFailed" | "ImageGCFailed" => meaning(F::NodePressure, "disk"),
        "SystemOOM" => meaning(F::NodeMemoryExhausted, "memory"),
        "NodeNotReady" => meaning(F::NodeNotReady, ""),
        "FailedCreate" => quota(message),
        "ScalingReplicaSet" => meaning(F::Rollout, "scaling"),
        "BackoffLimitExceeded" | "DeadlineExceeded" | "ProgressDeadlineExceeded" => {
            meaning(F::RolloutFailed, "")
        }
        "FailedPostStartHook" => meaning(F::ContainerFailed, "post_start_hook"),
        _ => None,
    }
}

fn probe(message: &str) -> &'static str {
    match message.get(..4).unwrap_or_default() {
        "Live" => "liveness",
        "Read" => "readiness",
        "Star" => "startup",
        _ => "",
    }
}

/// `Failed`: a pull, a missing object, or a program that could not be executed.
fn failed(message: &str) -> Option<Meaning> {
    if message.contains("ImagePullBackOff") {
        return meaning(FactKind::ImagePullFailed, "back_off");
    }
    if message.contains("ErrImagePull") || message.contains("ailed to pull image") {
        return meaning(FactKind::ImagePullFailed, pull_failure(message).unwrap_or(""));
    }
    if missing_object(message).is_some() {
        return meaning(FactKind::ConfigMissing, "reference");
    }
    let spawn =
        ["executable file not found", "failed to create containerd task", "OCI runtime", "no such file"];
    spawn
        .iter()
        .any(|words| message.contains(words))
        .then_some(Meaning { kind: FactKind::SpawnFailed, word: "" })
}

/// Why an image could not be pulled, by the message of the registry.
pub(super) fn pull_failure(message: &str) -> Option<&'static str> {
    let lower = message.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&["no such host", "server misbehaving", "temporary failure in name resolution"]) {
        Some("no_such_host")
    } else if has(&["x509", "certificate"]) {
        Some("x509")
    } else if has(&["unauthorized", "authentication required", "access denied", "denied", "forbidden"]) {
        Some("unauthorized")
    } else if has(&["not found", "manifest unknown", "invalid reference", "does not exist"]) {
        Some("not_found")
    } else if has(&["connection refused", "i/o timeout", "deadline exceeded"]) {
        Some("unreachable")
    } else {
        None
    }
}

/// The ConfigMap or Secret that a message misses, as `Kind/name`.
pub(super) fn missing_object(message: &str) -> Option<String> {
    let lower = message.to_ascii_lowercase();
    if !lower.contains("not found") && !lower.contains("couldn't find key") {
        return None;
    }
    for (word, kind) in [("configmap", "ConfigMap"), ("secret", "Secret")] {
        if let Some(rest) = text::after(message, &format!("{word} \"")) {
            return rest.split('"').next().map(|name| format!("{kind}/{name}"));
        }
    }
    None
}

/// Which resource of a namespace's quota is used up.
pub(super) fn quota(message: &str) -> Option<Meaning> {
    use FactKind as F;
    if !message.contains("exceeded quota") {
        return meaning(F::RolloutFailed, "create");
    }
    let requested = text::until(message, "requested: ", &[' ']).unwrap_or_default();
    let kind = match () {
        () if requested.contains("memory") => F::NamespaceMemoryQuotaExceeded,
        () if requested.contains("storage") || requested.contains("persistentvolumeclaims") => {
            F::NamespaceStorageQuotaExceeded
        }
        () if requested.contains("services") => F::NamespaceServiceQuotaExceeded,
        () if requested.contains("cpu") => F::NamespaceCpuQuotaExceeded,
        () => F::NamespacePodQuotaExceeded,
    };
    meaning(kind, "quota")
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Objects {
    /// By object, reason and word: the count that was told.
    told: Bounded<(String, String, &'static str), u64>,
    /// By workload: the revision that was seen.
    revisions: Bounded<String, String>,
    /// By `ReplicaSet`: the pods that it was to have.
    replicas: Bounded<String, u64>,
    /// By service: the pods that were ready.
    behind: Bounded<String, Vec<String>>,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            told: Bounded::new(EVENTS_MAX),
            revisions: Bounded::new(EVENTS_MAX),
            replicas: Bounded::new(EVENTS_MAX),
            behind: Bounded::new(EVENTS_MAX),
        }
    }
}

impl Detector for Objects {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        match seen.kind() {
            Kind::ObjectEvent => self.announced(seen, out),
            Kind::ObjectChange => self.changed(seen, out),
            Kind::EndpointsReady => out.extend(self.endpoints(seen)),
            Kind::NodeCondition => {
                out.extend(unavailable(seen));
                out.extend(condition(seen));
            }
            _ => {}
        }
    }

    fn evicted(&self) -> u64 {
        let of_workloads = self.revisions.evicted() + self.replicas.evicted() + self.behind.evicted();
        self.told.evicted() + of_workloads
    }
}

impl Objects {
    fn announced(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let (reason, message) = (seen.field(fields::REASON), seen.field(fields::MESSAGE));
        // Whose quota it is, and whose pods, is for a comparison to say.
        let Some(meaning) = classify(&reason, &message).filter(|meaning| meaning.word != "quota") else {
            return;
        };
        // Each pod of a lost node gets one, too; what is lost is the node, which says so itself.
        if meaning.kind == FactKind::NodeNotReady && seen.field(fields::OBJECT).starts_with("Pod/") {
            return;
        }
        let about = match seen.field(fields::OBJECT) {
            object if object.is_empty() => seen.subject().to_string(),
            object => object.into_owned(),
        };
        let count = seen.number("count").max(1);
        let key = (about, reason.to_string(), meaning.word);
        // A new Event of the same words has its own count and time, so less than before is new.
        let before = self.told.get(&key).copied().unwrap_or(0);
        if before > 0 && count >= before && count < before.saturating_mul(2) {
            return;
        }
        self.told.insert(key, count);
        let fact = seen.fact_about(meaning.kind, about_subject(seen)).with("count", count);
        let fact = with_text(with_text(fact, "reason", &reason), "text", &message);
        out.push(worded(fact, meaning, &message));
    }

    /// A service whose last ready endpoint is gone: with the pods that it had.
    fn endpoints(&mut self, seen: &Seen<'_>) -> Option<Fact> {
        let subject = about_subject(seen);
        let (ready, before) = (seen.number("ready"), seen.number("ready_before"));
        let namespace = subject.name.split('/').next().unwrap_or_default().to_owned();
        let named = |field| -> Vec<String> {
            let names = seen.field(field);
            names.split_whitespace().take(PODS_MAX).map(|pod| format!("{namespace}/{pod}")).collect()
        };
        if ready > 0 {
            self.behind.insert(subject.name, named(fields::PODS));
            return None;
        }
        let had = self.behind.remove(&subject.name).unwrap_or_default();
        if before == 0 {
            return None;
        }
        let mut fact = seen.fact_about(FactKind::EndpointsEmpty, subject.clone()).with("before", before);
        for pod in had.into_iter().chain(named(fields::PODS_NOT_READY)) {
            fact = fact.key(KeyKind::Pod, pod);
        }
        Some(fact.with("ready", ready).with("service", subject.name))
    }

    fn changed(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let name = seen.field(fields::OBJECT).into_owned();
        let (changed, reason) = (seen.field(fields::CHANGED), seen.field(fields::REASON));
        if seen.number("deleted") == 1 {
            out.push(seen.fact_about(FactKind::RequestedStop, about_subject(seen)).with("by", "deletion"));
            return;
        }
        if reason == "ProgressDeadlineExceeded"
            || reason == "BackoffLimitExceeded"
            || reason == "FailedCreate"
        {
            let fact = seen.fact_about(FactKind::RolloutFailed, about_subject(seen));
            out.push(with_text(seen.with_message(fact), "reason", &reason));
            return;
        }
        out.extend(self.begun(seen, &name, &changed));
        let revision = seen.field(fields::REVISION).into_owned();
        let before = self.revisions.get(&name).cloned();
        if !revision.is_empty() {
            self.revisions.insert(name.clone(), revision.clone());
        }
        let template = changed.split_whitespace().any(|field| {
            ["template", "image", "images", "env", "limits", "resources"]
                .iter()
                .any(|word| field.ends_with(word))
        });
        let replaced = before.is_some_and(|before| !revision.is_empty() && before != revision);
        let data = (name.starts_with("ConfigMap/") || name.starts_with("Secret/")) && !changed.is_empty();
        if !template && !replaced && !data {
            return;
        }
        let fact = seen
            .fact_about(FactKind::Rollout, about_subject(seen))
            .with("generation", seen.number("generation"));
        let fact = with_text(with_text(fact, "change", &changed), "image", &seen.field(fields::IMAGE));
        out.push(fact.with("replicas", seen.number("desired")));
    }
}

impl Objects {
    /// A new revision of a Deployment, which does not say by which hash its pods know it: the `ReplicaSet` does that begins
    /// to make them, be it a new one or that of an earlier revision.
    fn begun(&mut self, seen: &Seen<'_>, name: &str, changed: &str) -> Option<Fact> {
        let (owner, revision) = (seen.field(fields::OWNER), seen.field(fields::REVISION));
        let is_revision = name.starts_with("ReplicaSet/") && owner.starts_with("Deployment/");
        if !is_revision || revision.is_empty() || seen.number("part") > 0 {
            return None;
        }
        let desired = seen.number("desired");
        let desired_before = self.replicas.get(&name.to_owned()).copied().unwrap_or(0);
        self.replicas.insert(name.to_owned(), desired);
        if desired == 0 || desired_before > 0 {
            return None;
        }
        let before = self.revisions.get(&owner.to_string()).cloned();
        self.revisions.insert(owner.to_string(), revision.to_string());
        // What the first list finds has not changed, and the first revision replaces nothing.
        let before = before.filter(|before| *before != *revision && !changed.is_empty())?;
        let fact = seen.fact_about(FactKind::Rollout, object(&owner));
        let fact = with_text(fact, "image", &seen.field(fields::IMAGE));
        Some(fact.with("change", format!("revision {before} -> {revision}")).with("replicas", desired))
    }
}

/// The object that an event names, or its owner.
fn about_subject(seen: &Seen<'_>) -> super::Subject {
    match seen.field(fields::OBJECT) {
        // A pod's own name says more, and its container's still more.
        name if name.is_empty() || name.starts_with("Pod/") => seen.subject(),
        name => object(&name),
    }
}

/// Puts the word where rules look for it.
fn worded(fact: Fact, meaning: Meaning, message: &str) -> Fact {
    match meaning.kind {
        FactKind::ProbeFailed => {
            let fact = with_text(fact, "probe", meaning.word);
            match text::end_point(message) {
                Some((_, port)) => fact.with("port", u64::from(port)),
                None => fact,
            }
        }
        FactKind::RuntimeKill => with_text(fact.with("sender", "kubelet"), "probe", meaning.word),
        FactKind::ImagePullFailed if !meaning.word.is_empty() => fact.with("reason", meaning.word),
        FactKind::Evicted
        | FactKind::Unschedulable
        | FactKind::SandboxFailed
        | FactKind::MountFailed
        | FactKind::NodeNotReady => with_long_reason(fact, message),
        FactKind::NodePressure => {
            let resource = match meaning.word {
                "threshold" if message.contains("memory") => "memory",
                "threshold" if message.contains("pid") => "pids",
                "threshold" => "disk",
                word => word,
            };
            with_long_reason(fact, message).with("resource", resource)
        }
        FactKind::ConfigMissing => match missing_object(message) {
            Some(object) => {
                let namespace = fact.keys.iter().find(|key| key.kind == KeyKind::Pod);
                let namespace =
                    namespace.and_then(|key| key.value.split('/').next()).unwrap_or_default().to_owned();
                let (kind, name) = object.split_once('/').unwrap_or_default();
                fact.key(KeyKind::Object, format!("{kind}/{namespace}/{name}")).with("object", &*object)
            }
            None => fact,
        },
        FactKind::Rollout => fact.with("change", "replicas"),
        // "Preempted by pod UID on node NODE"; older schedulers say "Preempted by NAMESPACE/NAME on node NODE".
        FactKind::Preempted => match text::after(message, "Preempted by ") {
            Some(rest) => {
                let rest = rest.strip_prefix("pod ").unwrap_or(rest);
                let by = rest.split(' ').next().unwrap_or_default();
                fact.key(KeyKind::Claimant, by).with("by", format!("pod {by}"))
            }
            None => fact,
        },
        _ => with_text(fact, "cause", meaning.word),
    }
}

/// Reason and message together: one word of the API often says too little to decide by.
pub(super) fn with_long_reason(fact: Fact, message: &str) -> Fact {
    match fact.detail.get("reason") {
        Some(Value::Text(reason)) if !message.is_empty() => {
            let long = format!("{reason}: {message}");
            fact.with("reason", text::cut(&long))
        }
        _ => fact,
    }
}

/// What a failed pull says of the workload, where the registry's answer leaves one explanation.
pub(super) fn pull_cause(seen: &Seen<'_>, cause: &str) -> Option<Fact> {
    let kind = match cause {
        "no_such_host" => FactKind::ImageRegistryDnsFailure,
        "not_found" => FactKind::IncorrectImageReference,
        "unauthorized" => FactKind::MissingImagePullSecret,
        _ => return None,
    };
    let owner = seen.field(fields::OWNER);
    let subject = if owner.is_empty() { seen.subject() } else { object(&owner) };
    Some(with_text(seen.with_message(seen.fact_about(kind, subject)), "image", &seen.field(fields::IMAGE)))
}

/// What a node's readiness says of those that it depends on.
fn unavailable(seen: &Seen<'_>) -> Option<Fact> {
    let message = seen.field(fields::MESSAGE);
    let kind = match (&*seen.field(fields::CONDITION), &*seen.field(fields::STATUS)) {
        ("Ready", "Unknown") if message.contains("stopped posting node status") => {
            FactKind::KubeletUnavailable
        }
        ("Ready", "False")
            if message.contains("runtime is down") || message.contains("PLEG is not healthy") =>
        {
            FactKind::ContainerdUnavailable
        }
        _ => return None,
    };
    Some(seen.with_message(seen.fact(kind)).key(KeyKind::Node, &*seen.field(fields::NODE)))
}

/// A condition of a node: what it says in the state that is bad.
fn condition(seen: &Seen<'_>) -> Option<Fact> {
    let (condition, status) = (seen.field(fields::CONDITION), seen.field(fields::STATUS));
    let (kind, resource) = match (&*condition, &*status) {
        ("Ready", "False" | "Unknown") => (FactKind::NodeNotReady, ""),
        ("MemoryPressure", "True") => (FactKind::NodePressure, "memory"),
        ("DiskPressure", "True") => (FactKind::NodePressure, "disk"),
        ("PIDPressure", "True") => (FactKind::NodePressure, "pids"),
        ("NetworkUnavailable", "True") => (FactKind::NetworkUnreachable, ""),
        ("ReadonlyFilesystem", "True") => (FactKind::ReadOnlyFilesystem, ""),
        ("KernelDeadlock", "True") => (FactKind::Hung, ""),
        _ => return None,
    };
    let fact = seen.with_message(seen.fact(kind)).with("status", Value::Text(status.into_owned()));
    let fact = with_text(with_text(fact, "reason", &seen.field(fields::REASON)), "resource", resource);
    let fact = with_long_reason(fact, &seen.field(fields::MESSAGE));
    let node = seen.field(fields::NODE);
    let fact = fact.key(KeyKind::Node, &*node).with("condition", &*condition);
    Some(fact)
}

#[cfg(test)]
mod tests;
