//! Who is who: containers and pods by the names that people know, and those that a whole node depends on.
//!
//! The kernel knows a container by its id, the API by its name. What the API said of an id is put into every fact about it:
//! its pod, its workload, its revision, and its name.
//!
//! Invariants:
//! - An id that the API has not named keeps being an id.
//! - At most [`NAMES_MAX`] containers and as many pods; what had to make room is counted.
//! - What is said of an id holds whenever it is said: the order of what is learnt changes nothing in the end.

use std::collections::{BTreeMap, BTreeSet};

use super::bounded::Bounded;
use super::fact::{Fact, FactKind, KeyKind, Subject, Value};
use super::seen::Seen;
use crate::entity::{EntityKind, cgroup};
use crate::event::{Kind, Source, fields};

/// Containers remembered, at most; and pods.
const NAMES_MAX: usize = 16_384;

/// Pods of one name that are told apart, one after the other: those of a StatefulSet keep their names.
const SAME_NAME_MAX: usize = 8;

/// What the API says of a container or pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Named {
    /// `namespace/pod/container`, or `namespace/pod`.
    name: String,
    pod: String,
    pod_uid: String,
    owner: String,
    revision: String,
    /// Of a pod, as far as it was told.
    containers: Inside,
}

/// The containers of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Inside {
    #[default]
    Unknown,
    /// The name of the only one.
    One(String),
    Several,
}

impl Inside {
    fn learn(&mut self, name: &str) {
        *self = match std::mem::take(self) {
            Self::Unknown => Self::One(name.to_owned()),
            Self::One(known) if known == name => Self::One(known),
            _ => Self::Several,
        };
    }
}

/// What the API said.
#[derive(Debug)]
pub(super) struct Names {
    containers: Bounded<String, Named>,
    pods: Bounded<String, Named>,
    /// By `namespace/name`: the uids of the pods that had the name, and when each was seen first.
    uids: Bounded<String, BTreeMap<String, u64>>,
    /// Ids and names of which something new was learnt.
    learnt: BTreeSet<String>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            containers: Bounded::new(NAMES_MAX),
            pods: Bounded::new(NAMES_MAX),
            uids: Bounded::new(NAMES_MAX),
            learnt: BTreeSet::new(),
        }
    }
}

impl Names {
    /// What had to make room.
    pub(super) const fn evicted(&self) -> u64 {
        self.containers.evicted() + self.pods.evicted() + self.uids.evicted()
    }

    /// Learns names from an event of the API.
    pub(super) fn learn(&mut self, seen: &Seen<'_>) {
        if seen.event.header().source != Source::Kubernetes as u8
            || !matches!(seen.owner.kind, EntityKind::Container | EntityKind::Pod)
        {
            return;
        }
        let mut said = BTreeMap::new();
        for (name, value) in seen.event.fields() {
            said.entry(name).or_insert(value);
        }
        let get = |name: &str| said.get(name).map(|value| value.to_string()).unwrap_or_default();
        let (pod_name, uid) = (get(fields::POD), get(fields::POD_UID));
        if pod_name.is_empty() || uid.is_empty() {
            return;
        }
        let pod = format!("{}/{pod_name}", get(fields::NAMESPACE));
        let mut named = self.pods.get(&uid).cloned().unwrap_or_default();
        named.name.clone_from(&pod);
        named.pod.clone_from(&pod);
        named.pod_uid.clone_from(&uid);
        // Events about a pod do not say whose it is; its own states do.
        for (known, new) in
            [(&mut named.owner, get(fields::OWNER)), (&mut named.revision, get(fields::REVISION))]
        {
            if !new.is_empty() {
                *known = new;
            }
        }
        let (container, id) = (get(fields::CONTAINER), get(fields::CONTAINER_ID));
        // A status names every container of the pod.
        if seen.kind() == Kind::ContainerState && !container.is_empty() {
            named.containers.learn(&container);
        }
        if !container.is_empty() && !id.is_empty() {
            let containers = Inside::Unknown;
            let named = Named { name: format!("{pod}/{container}"), containers, ..named.clone() };
            if self.containers.get(&id) != Some(&named) {
                self.learnt.insert(id.clone());
                self.containers.insert(id, named);
            }
        }
        self.learn_uid(&pod, &uid, seen.time_ns());
        if self.pods.get(&uid) != Some(&named) {
            self.learnt.extend([uid.clone(), pod]);
            self.pods.insert(uid, named);
        }
    }

    fn learn_uid(&mut self, pod: &str, uid: &str, time_ns: u64) {
        let uids = self.uids.entry(pod.to_owned(), BTreeMap::new);
        let since_ns = uids.entry(uid.to_owned()).or_insert(u64::MAX);
        if time_ns >= *since_ns {
            return;
        }
        *since_ns = time_ns;
        while uids.len() > SAME_NAME_MAX {
            let oldest = uids.iter().min_by_key(|(_, since_ns)| **since_ns).map(|(uid, _)| uid.clone());
            oldest.and_then(|uid| uids.remove(&uid));
        }
        self.learnt.insert(pod.to_owned());
    }

    /// The pod that had a name at a time; if none had it yet, the first one.
    fn uid(&self, pod: &str, time_ns: u64) -> Option<String> {
        let uids = self.uids.get(&pod.to_owned())?;
        let before = uids.iter().filter(|(_, since_ns)| **since_ns <= time_ns);
        let first = || uids.iter().min_by_key(|(_, since_ns)| **since_ns);
        before.max_by_key(|(_, since_ns)| **since_ns).or_else(first).map(|(uid, _)| uid.clone())
    }

    /// Of which ids and names something new was learnt since this was asked last.
    pub(super) fn take_learnt(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.learnt)
    }

    /// Puts the names that are known into a fact.
    pub(super) fn complete(&self, fact: &mut Fact) {
        let key = |kind| fact.keys.iter().find(|key| key.kind == kind).map(|key| key.value.clone());
        let (container, uid) = (key(KeyKind::Container), key(KeyKind::PodUid));
        let of_container = container.as_ref().and_then(|id| self.containers.get(id));
        // What only names a pod is about the one that had the name then.
        let uid = uid.or_else(|| self.uid(&key(KeyKind::Pod)?, fact.until_ns));
        let of_pod = uid.as_ref().and_then(|uid| self.pods.get(uid));
        if let Some(named) = of_container.filter(|_| fact.subject.kind == "container")
            && Some(&fact.subject.name) == container.as_ref()
        {
            fact.subject.name.clone_from(&named.name);
        }
        if let Some(named) = of_pod.filter(|_| fact.subject.kind == "pod")
            && Some(&fact.subject.name) == uid.as_ref()
        {
            fact.subject.name.clone_from(&named.name);
        }
        // Whose a container is, its pod says too, and maybe later.
        let of_pod = of_pod.or_else(|| self.pods.get(&of_container?.pod_uid));
        if let Some(named) = of_pod.or(of_container) {
            change(fact, |fact| {
                let fact = fact.key(KeyKind::Pod, &*named.pod).key(KeyKind::PodUid, &*named.pod_uid);
                let fact = fact.key(KeyKind::Owner, &*named.owner);
                if named.revision.is_empty() { fact } else { fact.with("revision", &*named.revision) }
            });
        }
        if let Some(named) = of_pod {
            limited(fact, named);
        }
        self.claim(fact);
        if let Some(role) = role_of(fact) {
            fact.detail.entry("role").or_insert_with(|| Value::from(role));
        }
    }

    /// Ties a pod that needs room to those that had to make it, and names it to them.
    fn claim(&self, fact: &mut Fact) {
        let of = |kinds: &[KeyKind]| {
            let keys = fact.keys.iter().filter(|key| kinds.contains(&key.kind));
            keys.map(|key| key.value.clone()).collect::<Vec<_>>()
        };
        match fact.kind {
            FactKind::Unschedulable | FactKind::InsufficientNodeCpu | FactKind::InsufficientNodeMemory => {
                let own = of(&[KeyKind::PodUid, KeyKind::Pod]);
                let claim = |fact: Fact, name: String| fact.key(KeyKind::Claimant, name);
                change(fact, |fact| own.into_iter().fold(fact, claim));
            }
            FactKind::Preempted => {
                let by = of(&[KeyKind::Claimant]);
                if let Some(named) = by.iter().find_map(|uid| self.pods.get(uid)) {
                    let by = format!("pod {}", named.name);
                    change(fact, |fact| fact.with("by", by.clone()).with("culprit", by));
                }
            }
            _ => {}
        }
    }
}

/// A pod of one container is at its memory limit before the container is, because of the sandbox: the limit is the
/// container's all the same, at the same height. Of several nobody can say so.
fn limited(fact: &mut Fact, pod: &Named) {
    let Some(Value::Text(path)) = fact.detail.get("limit_of") else { return };
    if fact.kind != FactKind::MemoryLimitHit || cgroup::parse(path).kind != EntityKind::Pod {
        return;
    }
    fact.subject = match &pod.containers {
        Inside::One(name) => Subject::new("container", format!("{}/{name}", pod.name)),
        Inside::Unknown | Inside::Several => Subject::new("pod", pod.name.clone()),
    };
}

fn change(fact: &mut Fact, with: impl FnOnce(Fact) -> Fact) {
    let nothing = Fact::new(fact.kind, fact.subject.clone(), fact.source, 0);
    *fact = with(std::mem::replace(fact, nothing));
}

/// Units and pods that a whole node depends on, by how their names begin.
const PILLARS: [(&str, &str); 22] = [
    ("systemd-resolved.service", "dns"),
    ("unbound.service", "dns"),
    ("dnsmasq.service", "dns"),
    ("named.service", "dns"),
    ("bind9.service", "dns"),
    ("coredns", "dns"),
    ("kube-dns", "dns"),
    ("node-local-dns", "dns"),
    ("kubelet.service", "kubelet"),
    ("k3s.service", "kubelet"),
    ("containerd.service", "runtime"),
    ("crio.service", "runtime"),
    ("docker.service", "runtime"),
    ("kube-proxy", "proxy"),
    ("cilium", "cni"),
    ("calico", "cni"),
    ("kube-flannel", "cni"),
    ("weave-net", "cni"),
    ("antrea", "cni"),
    ("kindnet", "cni"),
    ("canal", "cni"),
    ("cni", "cni"),
];

/// Where pods live that a whole node depends on.
const SYSTEM_NAMESPACES: [&str; 5] =
    ["kube-system/", "kube-flannel/", "calico-system/", "cilium/", "openshift-dns/"];

/// What a node depends on the fact's subject for.
fn role_of(fact: &Fact) -> Option<&'static str> {
    let role = |name: &str| PILLARS.iter().find(|(start, _)| name.starts_with(start)).map(|(_, role)| *role);
    match fact.subject.kind.as_str() {
        "unit" => role(&fact.subject.name).filter(|_| !fact.subject.name.ends_with(".scope")),
        "container" | "pod" | "service" | "deployment" | "daemonset" => {
            let rest = SYSTEM_NAMESPACES.iter().find_map(|namespace| {
                fact.subject.name.strip_prefix(namespace).map(|rest| (namespace, rest))
            });
            let (namespace, rest) = rest?;
            role(rest).or_else(|| role(namespace))
        }
        _ => None,
    }
}

/// The container that a unit of systemd stands for: runtimes make a scope for each.
pub(super) fn container_of_unit(unit: &str) -> Option<String> {
    let id = cgroup::parse(unit).container_id;
    (!id.is_empty() && unit.ends_with(".scope")).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: units, pods and services with and without a part for the whole node.
    /// Guarantees: each has its role by place and name; a namesake elsewhere has none.
    #[test]
    fn pillars_have_roles() {
        for (kind, name, expected) in [
            ("unit", "unbound.service", Some("dns")),
            ("unit", "kubelet.service", Some("kubelet")),
            ("unit", "nginx.service", None),
            ("container", "kube-system/coredns-7c9/coredns", Some("dns")),
            ("service", "kube-system/kube-dns", Some("dns")),
            ("pod", "kube-system/cilium-x1", Some("cni")),
            ("pod", "cilium/agent-1", Some("cni")),
            ("pod", "shop/coredns-fan", None),
            ("node", "coredns", None),
        ] {
            let fact = Fact::new(FactKind::Crash, Subject::new(kind, name), Source::Ebpf, 1);
            assert_eq!(role_of(&fact), expected, "{kind} {name}");
        }
    }

    /// Scenario: a pod at its memory limit, of which the API then names one container, later a second one.
    /// Guarantees: the limit is the only container's, and the pod's where there is another, whenever it is learnt.
    #[test]
    fn a_pod_of_one_container_has_its_limit() {
        let uid = "f801fa24-a997-4204-bfb7-1fa9f57198d8";
        let limit_of = format!("/kubepods/burstable/pod{uid}");
        let fact = Fact::new(FactKind::MemoryLimitHit, Subject::new("pod", uid), Source::Journald, 1);
        let mut fact = fact.with("limit_of", &*limit_of).key(KeyKind::PodUid, uid);
        let mut names = Names::default();
        let mut pod = Named { name: "shop/oom".into(), pod: "shop/oom".into(), ..Named::default() };
        let mut told = vec![fact.subject.to_string()];
        for container in ["main", "main", "side"] {
            pod.containers.learn(container);
            names.pods.insert(uid.into(), pod.clone());
            names.complete(&mut fact);
            told.push(fact.subject.to_string());
        }
        let container = "container shop/oom/main".to_owned();
        assert_eq!(told, [format!("pod {uid}"), container.clone(), container, "pod shop/oom".into()]);
    }

    /// Scenario: units of container runtimes and others.
    /// Guarantees: the id of the container; nothing for other units.
    #[test]
    fn scopes_are_containers() {
        let id = "ab".repeat(32);
        assert_eq!(container_of_unit(&format!("cri-containerd-{id}.scope")).as_deref(), Some(&*id));
        assert_eq!(container_of_unit("session-3.scope"), None);
        assert_eq!(container_of_unit("docker.service"), None);
    }
}
