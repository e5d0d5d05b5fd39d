//! An event with its owner, as detectors see it: values by name, and facts that already have the owner's keys.
//!
//! Invariants:
//! - Only what a batch carries is looked at, so that a recording gives the same facts as the running agent.
//! - A process key needs a start time, which only entities of processes have.

use std::borrow::Cow;

use super::fact::{EventId, Fact, FactKind, KeyKind, Subject, Value};
use super::names::container_of_unit;
use super::text;
use crate::entity::cgroup::{self, CgroupPath};
use crate::entity::{Entity, EntityKind, Manager};
use crate::event::{Event, Kind, Source, chars, fields};

const SECOND_NS: u64 = 1_000_000_000;

/// How far the clock of the Kubernetes API may be from the host's, beside the part of a second that it leaves out.
const SKEW_NS: u64 = SECOND_NS;

/// One event.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'event> {
    /// The event.
    pub event: Event<'event>,
    /// Whose it is.
    pub owner: &'event Entity,
    /// Its name.
    pub id: EventId,
    /// The name of the host, which is the value of its key.
    pub host: &'event str,
    /// What the kernel's paths have in front of those that this host knows, where it is a container, of v2 and v1.
    pub above: &'event [String; 2],
}

impl<'event> Seen<'event> {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.event.info().kind
    }

    /// When, `CLOCK_BOOTTIME` nanoseconds.
    #[must_use]
    pub fn time_ns(&self) -> u64 {
        self.event.header().time_ns
    }

    /// The thread group id; 0 for none.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.event.header().tgid
    }

    /// A slot of one word; 0 when the kind has none of this name.
    #[must_use]
    pub fn number(&self, slot: &str) -> u64 {
        self.event.slot(slot).and_then(|words| words.first().copied()).unwrap_or(0)
    }

    /// A slot of one word with a sign.
    #[must_use]
    pub fn signed(&self, slot: &str) -> i64 {
        self.number(slot).cast_signed()
    }

    /// A slot of text.
    #[must_use]
    pub fn chars(&self, slot: &str) -> String {
        self.event.slot(slot).map(chars).unwrap_or_default()
    }

    /// A field of the text; empty when there is none.
    #[must_use]
    pub fn field(&self, name: &str) -> Cow<'event, str> {
        self.event.fields().get(name)
    }

    /// A field that is a path of the kernel's, as this host knows it.
    #[must_use]
    pub fn kernel_path(&self, name: &str) -> Cow<'event, str> {
        let path = self.field(name);
        let below = |above: &String| path.strip_prefix(above.as_str()).filter(|here| here.starts_with('/'));
        let here = self.above.iter().filter_map(below).map(str::len).min();
        match (here, path) {
            (None, path) => path,
            (Some(len), Cow::Borrowed(path)) => Cow::Borrowed(&path[path.len() - len..]),
            (Some(len), Cow::Owned(path)) => Cow::Owned(path[path.len() - len..].to_owned()),
        }
    }

    /// An id of 128 bits; 0 for none.
    #[must_use]
    pub fn id_slot(&self, slot: &str) -> u128 {
        match self.event.slot(slot) {
            Some(&[high, low]) => u128::from(high) << 64 | u128::from(low),
            _ => 0,
        }
    }

    /// What the event is about.
    #[must_use]
    pub fn subject(&self) -> Subject {
        let owner = self.owner;
        match owner.kind {
            EntityKind::Unit => match container_of_unit(&owner.unit) {
                Some(id) => Subject::new("container", id),
                None => Subject::new("unit", self.unit_name()),
            },
            EntityKind::Container => Subject::new("container", self.container_name()),
            // A container that never ran has no id: its events are the pod's.
            EntityKind::Pod
                if !self.field(fields::CONTAINER).is_empty() && !self.field(fields::POD).is_empty() =>
            {
                Subject::new("container", self.container_name())
            }
            EntityKind::Pod => Subject::new("pod", self.pod_name()),
            EntityKind::Process => {
                let comm = if owner.name.is_empty() { "process" } else { &owner.name };
                Subject::new("process", format!("{comm}[{}]", owner.pid))
            }
            EntityKind::Cgroup if owner.cgroup_path.is_empty() => {
                Subject::new("cgroup", format!("{:x}", owner.key))
            }
            EntityKind::Cgroup => Subject::new("cgroup", owner.cgroup_path.clone()),
            EntityKind::Node if owner.name.is_empty() => self.node(),
            EntityKind::Node => Subject::new("node", owner.name.clone()),
            EntityKind::Object => object(&owner.name),
        }
    }

    /// This host.
    #[must_use]
    pub fn node(&self) -> Subject {
        Subject::new("node", self.host)
    }

    /// The name of the owner's unit as a key: `uid:name` for a user's.
    #[must_use]
    pub fn unit_name(&self) -> String {
        unit_key(&self.owner.unit, self.owner.manager)
    }

    fn container_name(&self) -> String {
        match (self.field(fields::NAMESPACE), self.field(fields::POD), self.field(fields::CONTAINER)) {
            (namespace, pod, container) if !pod.is_empty() && !container.is_empty() => {
                format!("{namespace}/{pod}/{container}")
            }
            _ => self.owner.container_id.clone(),
        }
    }

    /// `namespace/name` of the pod, or its uid while nobody says more.
    fn pod_name(&self) -> String {
        match (self.field(fields::NAMESPACE), self.field(fields::POD)) {
            (namespace, pod) if !pod.is_empty() => format!("{namespace}/{pod}"),
            _ => self.owner.pod_uid.clone(),
        }
    }

    /// A fact about the owner, at the time of the event, with the owner's keys.
    #[must_use]
    pub fn fact(&self, kind: FactKind) -> Fact {
        self.fact_about(kind, self.subject())
    }

    /// A fact about something else that the event says, with the owner's keys.
    #[must_use]
    pub fn fact_about(&self, kind: FactKind, subject: Subject) -> Fact {
        self.with_owner(self.bare(kind, subject))
    }

    /// A fact about something else, without keys but that of the host.
    #[must_use]
    pub fn bare(&self, kind: FactKind, subject: Subject) -> Fact {
        let source = Source::from_number(self.event.header().source).unwrap_or(Source::Ebpf);
        let mut fact = Fact::new(kind, subject, source, self.time_ns()).event(self.id);
        if source == Source::Kubernetes {
            // The API says seconds, of a clock that may differ.
            fact.from_ns = fact.from_ns.saturating_sub(SKEW_NS);
            fact.until_ns = fact.until_ns.saturating_add(SECOND_NS + SKEW_NS);
        }
        if self.is_of_cluster() { fact } else { fact.key(KeyKind::Node, self.host) }
    }

    /// Whether it is about an object of the cluster that no node has.
    fn is_of_cluster(&self) -> bool {
        self.owner.kind == EntityKind::Object
            && self.event.header().source == Source::Kubernetes as u8
            && self.field(fields::NODE).is_empty()
            && !self.owner.name.starts_with("Pod/")
    }

    /// Adds the keys of the owner.
    #[must_use]
    pub fn with_owner(&self, fact: Fact) -> Fact {
        let owner = self.owner;
        let mut fact = with_path(fact, &owner.cgroup_path);
        if let Some(id) = container_of_unit(&owner.unit) {
            fact = fact.key(KeyKind::Container, id);
        } else if owner.manager != Manager::Nested && owner.container_id.is_empty() {
            fact = fact.key(KeyKind::Unit, self.unit_name());
        }
        fact = fact.key(KeyKind::Container, &*owner.container_id).key(KeyKind::PodUid, &*owner.pod_uid);
        if owner.kind == EntityKind::Unit && is_random(owner.trace_id) {
            fact = fact.key(KeyKind::Invocation, hex(u128::from_be_bytes(owner.trace_id)));
        }
        if owner.kind == EntityKind::Process && owner.start_ns > 0 {
            fact = fact.key(KeyKind::Process, format!("{}:{}", owner.pid, owner.start_ns));
        }
        // The manager writes of everybody: its own id ties nothing together.
        if self.pid() > 1 {
            fact = fact.key(KeyKind::Pid, self.pid().to_string());
        }
        if self.event.has_text() { self.with_fields(fact) } else { fact }
    }

    /// Adds the keys that the fields of the text say.
    fn with_fields(&self, mut fact: Fact) -> Fact {
        let invocation = self.id_slot("invocation_id");
        if invocation != 0 {
            fact = fact.key(KeyKind::Invocation, hex(invocation));
        }
        let (mut namespace, mut pod, mut unit, mut user) =
            (Cow::Borrowed(""), Cow::Borrowed(""), Cow::Borrowed(""), Cow::Borrowed(""));
        for (name, value) in self.event.fields() {
            match name {
                fields::INVOCATION_ID => fact = fact.key(KeyKind::Invocation, value),
                fields::CONTAINER_ID => fact = fact.key(KeyKind::Container, value),
                fields::POD_UID => fact = fact.key(KeyKind::PodUid, value),
                fields::CGROUP => fact = with_path(fact, &value),
                fields::TRACE_ID => fact = fact.key(KeyKind::Trace, value),
                fields::OWNER => {
                    fact = fact.key(KeyKind::Owner, &*value).key(KeyKind::Object, value);
                }
                fields::OBJECT => {
                    if let Some(pod) = value.strip_prefix("Pod/") {
                        fact = fact.key(KeyKind::Pod, pod);
                    } else if is_workload(&value) {
                        fact = fact.key(KeyKind::Owner, &*value);
                    }
                    fact = fact.key(KeyKind::Object, value);
                }
                fields::NODE => fact = fact.key(KeyKind::Object, format!("Node/{value}")),
                fields::REVISION if !value.is_empty() => fact = fact.with("revision", value.into_owned()),
                fields::PID if self.pid() <= 1 && value != "1" => fact = fact.key(KeyKind::Pid, value),
                fields::NAMESPACE => namespace = value,
                fields::POD => pod = value,
                fields::UNIT => unit = value,
                fields::USER => user = value,
                _ => {}
            }
        }
        if let Some(id) = container_of_unit(&unit) {
            fact = fact.key(KeyKind::Container, id);
        } else if !unit.is_empty() {
            let unit = if user.is_empty() { unit.into_owned() } else { format!("{user}:{unit}") };
            fact = fact.key(KeyKind::Unit, unit);
        }
        if !pod.is_empty() {
            fact = fact.key(KeyKind::Pod, format!("{namespace}/{pod}"));
        }
        fact
    }

    /// The message as a detail, cut.
    #[must_use]
    pub fn with_message(&self, fact: Fact) -> Fact {
        with_text(fact, "text", &self.field(fields::MESSAGE))
    }
}

/// What the kernel's path of a cgroup, the text of its event, has in front of the one that this host knows; and whether
/// that is of v1.
pub(super) fn above(event: &Event<'_>, owner: &Entity) -> Option<(bool, String)> {
    if !matches!(event.info().kind, Kind::CgroupCreated | Kind::CgroupAttached) || owner.cgroup_path.len() < 2
    {
        return None;
    }
    let text = String::from_utf8_lossy(event.text());
    let above = text.strip_suffix(owner.cgroup_path.as_str()).filter(|above| !above.is_empty())?;
    // Not the header's flag, which a recording does not have.
    let is_v1 = event.slot("hierarchy").is_some_and(|words| words.first() != Some(&0));
    Some((is_v1, above.to_owned()))
}

/// With a detail, unless it is empty.
pub(super) fn with_text(fact: Fact, name: &'static str, value: &str) -> Fact {
    let value = text::cut(value);
    if value.is_empty() { fact } else { fact.with(name, Value::Text(value)) }
}

/// Adds the keys of a cgroup: its path, its unit, its container and pod.
pub(super) fn with_path(fact: Fact, path: &str) -> Fact {
    if path.is_empty() || path == "/" {
        return fact;
    }
    let read = cgroup::parse(path);
    let fact = with_unit(fact, &read).key(KeyKind::Cgroup, path);
    fact.key(KeyKind::Container, read.container_id).key(KeyKind::PodUid, read.pod_uid)
}

fn with_unit(fact: Fact, read: &CgroupPath<'_>) -> Fact {
    let own = read.unit.is_empty() || !read.container_id.is_empty() || read.unit.ends_with(".slice");
    if own || read.manager == Manager::Nested {
        return fact;
    }
    fact.key(KeyKind::Unit, unit_key(read.unit, read.manager)).key(KeyKind::Cgroup, read.unit_path)
}

/// What a cgroup is, by its path.
pub(super) fn subject_of(path: &str) -> Subject {
    let read = cgroup::parse(path);
    match read.kind {
        EntityKind::Container => Subject::new("container", read.container_id),
        EntityKind::Pod => Subject::new("pod", read.pod_uid),
        EntityKind::Unit => Subject::new("unit", unit_key(read.unit, read.manager)),
        _ => Subject::new("cgroup", path),
    }
}

/// The key of a unit.
pub(super) fn unit_key(unit: &str, manager: Manager) -> String {
    match manager {
        Manager::User(uid) if !unit.is_empty() => format!("{uid}:{unit}"),
        _ => unit.to_owned(),
    }
}

/// The subject of `Kind/namespace/name`.
pub(super) fn object(name: &str) -> Subject {
    match name.split_once('/') {
        Some((kind, name)) => Subject::new(&kind.to_ascii_lowercase(), name),
        None => Subject::new("object", name),
    }
}

/// Whether an object makes pods.
fn is_workload(object: &str) -> bool {
    const KINDS: [&str; 7] =
        ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob", "ReplicationController"];
    object.split_once('/').is_some_and(|(kind, _)| KINDS.contains(&kind))
}

/// Whether an id is one that systemd rolled, which is a UUID of version 4: a unit whose invocation is not known has the
/// hash of its path instead, and that says nothing about a run.
fn is_random(id: [u8; 16]) -> bool {
    id[6] >> 4 == 4 && id[8] >> 6 == 2
}

/// 32 digits.
pub(super) fn hex(id: u128) -> String {
    format!("{id:032x}")
}
