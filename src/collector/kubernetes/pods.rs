//! Pods: what changed in the status of a pod and of each of its containers.
//!
//! Invariants:
//! - The end of a run is said once, whether it was seen as the present state, as the last one, or as both.
//! - A change of status that two updates have in common is said with the first.

use super::draft::{Draft, hash, number, unix_s};
use super::known::{Container, Detail, Memory, Word};
use super::object::{Condition, ContainerStatus, Pod, Terminated, text};
use crate::event::{Kind, fields};

/// What names a pod and its owner in every event about it.
#[derive(Debug)]
pub(super) struct Named<'pod> {
    /// The uid.
    pub(super) uid: &'pod str,
    /// The version.
    pub(super) version: &'pod str,
    /// `Kind/namespace/name` of the workload.
    pub(super) owner: &'pod str,
    /// The revision of the workload.
    pub(super) revision: &'pod str,
}

impl Named<'_> {
    fn fill(&self, draft: Draft, pod: &Pod) -> Draft {
        draft
            .field(fields::POD_UID, self.uid)
            .field(fields::NAMESPACE, text(pod.metadata.namespace.as_ref()))
            .field(fields::POD, text(pod.metadata.name.as_ref()))
            .field(fields::NODE, text(pod.spec.node_name.as_ref()))
            .field(fields::OWNER, self.owner)
            .field(fields::REVISION, self.revision)
    }
}

/// Compares a pod with what is known of it.
pub(super) fn compare(
    pod: &Pod,
    named: &Named<'_>,
    before: Option<&Detail>,
    memory: &mut Memory,
) -> (Detail, Vec<Draft>) {
    let (known_status, known_containers): (u32, &[Container]) = match before {
        Some(Detail::Pod(status, containers)) => (*status, containers),
        _ => (0, &[]),
    };
    let mut drafts = Vec::new();
    let status = short(hash(&status_parts(pod).each_ref().map(String::as_str)));
    if status != known_status {
        drafts.push(pod_state(pod, named));
    }
    let groups = [
        ("", &pod.status.container_statuses),
        ("init", &pod.status.init_container_statuses),
        ("ephemeral", &pod.status.ephemeral_container_statuses),
    ];
    let mut containers = Vec::new();
    for (group, statuses) in groups {
        for status in statuses.iter().flatten() {
            let name = text(status.name.as_ref());
            let known = known_containers.iter().find(|known| known.name.text() == name);
            let compared = Compared { pod, named, group, status };
            containers.push(compared.container(known, memory.word(name), &mut drafts));
        }
    }
    (Detail::Pod(status, containers.into_boxed_slice()), drafts)
}

/// Never 0, which stands for a status that is not known.
fn short(hash: u64) -> u32 {
    u32::try_from(hash >> 32).unwrap_or(0).max(1)
}

fn condition<'pod>(pod: &'pod Pod, kind: &str) -> Option<&'pod Condition> {
    let conditions = pod.status.conditions.as_deref().unwrap_or_default();
    conditions.iter().find(|condition| text(condition.kind.as_ref()) == kind)
}

/// The condition that says why a pod is not scheduled, or why it has to go.
fn telling(pod: &Pod) -> Option<&Condition> {
    let is = |condition: &&Condition, status: &str| text(condition.status.as_ref()) == status;
    let disrupted = condition(pod, "DisruptionTarget").filter(|condition| is(condition, "True"));
    disrupted.or_else(|| condition(pod, "PodScheduled").filter(|condition| is(condition, "False")))
}

fn addresses(pod: &Pod) -> String {
    let ips = pod.status.pod_ips.as_deref().unwrap_or_default();
    let ips: Vec<&str> = ips.iter().map(|ip| text(ip.ip.as_ref())).filter(|ip| !ip.is_empty()).collect();
    ips.join(" ")
}

fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| text(condition.status.as_ref()) == "True")
}

/// Everything of a pod's own status that makes an event when it changes.
fn status_parts(pod: &Pod) -> [String; 8] {
    let telling = telling(pod);
    let of = |field: fn(&Condition) -> Option<&String>| text(telling.and_then(field)).to_owned();
    [
        text(pod.status.phase.as_ref()).to_owned(),
        text(pod.status.reason.as_ref()).to_owned(),
        text(pod.status.message.as_ref()).to_owned(),
        is_ready(pod).to_string(),
        text(pod.metadata.deletion_timestamp.as_ref()).to_owned(),
        addresses(pod),
        of(|condition| condition.reason.as_ref()),
        of(|condition| condition.message.as_ref()),
    ]
}

fn pod_state(pod: &Pod, named: &Named<'_>) -> Draft {
    let status = &pod.status;
    let telling = telling(pod);
    let first = |own: &Option<String>, other: fn(&Condition) -> Option<&String>| {
        let own = text(own.as_ref());
        if own.is_empty() { text(telling.and_then(other)).to_owned() } else { own.to_owned() }
    };
    let reason = first(&status.reason, |condition| condition.reason.as_ref());
    let message = first(&status.message, |condition| condition.message.as_ref());
    let draft =
        Draft::new(Kind::PodState, fields::POD_UID, named.uid, number(named.uid, named.version, "pod"));
    let deleted_unix_s = unix_s(text(pod.metadata.deletion_timestamp.as_ref()));
    let draft = draft
        .slot(u64::from(is_ready(pod)))
        .slot(deleted_unix_s)
        .slot(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
    named
        .fill(draft, pod)
        .field(fields::PHASE, text(status.phase.as_ref()))
        .field(fields::REASON, &reason)
        .field(fields::CONDITION, telling.map_or("", |condition| text(condition.kind.as_ref())))
        .field(fields::ADDRESSES, &addresses(pod))
        .field(fields::MESSAGE, &message)
}

/// One container of a pod.
struct Compared<'pod> {
    pod: &'pod Pod,
    named: &'pod Named<'pod>,
    group: &'static str,
    status: &'pod ContainerStatus,
}

/// What the present state of a container says.
#[derive(Default)]
struct Present<'pod> {
    state: &'static str,
    reason: &'pod str,
    message: &'pod str,
    started: &'pod str,
}

/// The id of a container without the runtime's scheme.
fn bare_id(id: Option<&String>) -> &str {
    let id = text(id);
    id.split_once("://").map_or(id, |(_, id)| id)
}

/// What tells one end of a run from another. Never 0.
fn end_of(terminated: &Terminated) -> u64 {
    let exit = terminated.exit_code.unwrap_or(0).to_string();
    // A run that never started has no id of its own, but a time.
    let id = bare_id(terminated.container_id.as_ref());
    let finished = text(terminated.finished_at.as_ref());
    hash(&[id, finished, &exit, text(terminated.reason.as_ref())]).max(1)
}

impl<'pod> Compared<'pod> {
    fn name(&self) -> &'pod str {
        text(self.status.name.as_ref())
    }

    /// Compares with what is known of the container and says what is new.
    fn container(&self, known: Option<&Container>, name: Word, drafts: &mut Vec<Draft>) -> Container {
        let restarts_before = known.map_or(0, |known| known.restarts);
        let mut ended = known.map_or(0, |known| known.ended);
        let present = self.present();
        let id = bare_id(self.status.container_id.as_ref());
        let restarts = u32::try_from(self.status.restart_count.unwrap_or(0)).unwrap_or(u32::MAX);
        let last = self.status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        let now = self.status.state.as_ref().and_then(|state| state.terminated.as_ref());
        if let Some(last) = last
            && end_of(last) != ended
        {
            ended = end_of(last);
            drafts.push(self.end(last, u64::from(restarts), restarts_before));
        }
        if let Some(now) = now
            && end_of(now) != ended
        {
            ended = end_of(now);
            drafts.push(self.end(now, u64::from(restarts), restarts_before));
        }
        let parts = [
            present.state,
            present.reason,
            present.message,
            present.started,
            id,
            text(self.status.image.as_ref()),
            &restarts.to_string(),
            if self.is_ready() { "ready" } else { "" },
        ];
        let state = short(hash(&parts));
        // The end of a run was said above, with all there is to say.
        if known.is_none_or(|known| known.state != state) && now.is_none() && !present.state.is_empty() {
            drafts.push(self.state(&present, id, restarts_before));
        }
        Container { name, id: id.into(), restarts, state, ended }
    }

    fn is_ready(&self) -> bool {
        self.status.ready.unwrap_or(false)
    }

    fn present(&self) -> Present<'pod> {
        let Some(state) = &self.status.state else { return Present::default() };
        if let Some(waiting) = &state.waiting {
            let (reason, message) = (text(waiting.reason.as_ref()), text(waiting.message.as_ref()));
            return Present { state: "waiting", reason, message, started: "" };
        }
        if let Some(running) = &state.running {
            let started = text(running.started_at.as_ref());
            return Present { state: "running", started, ..Present::default() };
        }
        if let Some(ended) = &state.terminated {
            let (reason, message) = (text(ended.reason.as_ref()), text(ended.message.as_ref()));
            return Present {
                state: "terminated",
                reason,
                message,
                started: text(ended.started_at.as_ref()),
            };
        }
        Present::default()
    }

    /// The end of a run. Its number is that of the run, not of the version that was seen first: a relist that finds
    /// the same end later says the same event.
    fn end(&self, ended: &Terminated, restarts: u64, restarts_before: u32) -> Draft {
        let name = format!("end {} {:016x}", self.name(), end_of(ended));
        let number = number(self.named.uid, "", &name);
        let id = bare_id(ended.container_id.as_ref());
        let finished_unix_s = unix_s(text(ended.finished_at.as_ref()));
        let draft = self
            .draft(id, number)
            .at(finished_unix_s)
            .slot(restarts)
            .slot(0)
            .slot(ended.exit_code.unwrap_or(0).cast_unsigned())
            .slot(ended.signal.unwrap_or(0))
            .slot(unix_s(text(ended.started_at.as_ref())))
            .slot(finished_unix_s)
            .slot(1)
            .slot(u64::from(restarts_before));
        self.fill(draft, "terminated")
            .field(fields::REASON, text(ended.reason.as_ref()))
            .field(fields::MESSAGE, text(ended.message.as_ref()))
    }

    fn state(&self, present: &Present<'_>, id: &str, restarts_before: u32) -> Draft {
        let part = format!("state {}", self.name());
        let number = number(self.named.uid, self.named.version, &part);
        let started_unix_s = unix_s(present.started);
        let draft = self
            .draft(id, number)
            .at(if present.state == "running" { started_unix_s } else { 0 })
            .slot(self.status.restart_count.unwrap_or(0))
            .slot(u64::from(self.is_ready()))
            .slot(0)
            .slot(0)
            .slot(started_unix_s)
            .slot(0)
            .slot(0)
            .slot(u64::from(restarts_before));
        self.fill(draft, present.state)
            .field(fields::REASON, present.reason)
            .field(fields::MESSAGE, present.message)
    }

    /// A container without an id has never run: its events are the pod's.
    fn draft(&self, id: &str, number: u64) -> Draft {
        if id.is_empty() {
            return Draft::new(Kind::ContainerState, fields::POD_UID, self.named.uid, number);
        }
        Draft::new(Kind::ContainerState, fields::CONTAINER_ID, id, number)
    }

    fn fill(&self, draft: Draft, state: &str) -> Draft {
        let draft = self.named.fill(draft, self.pod);
        draft
            .field(fields::CONTAINER, self.name())
            .field(fields::CONTAINER_TYPE, self.group)
            .field(fields::IMAGE, text(self.status.image.as_ref()))
            .field(fields::STATE, state)
    }
}
