//! One resource as this agent sees it: takes objects, remembers them, and says what changed.
//!
//! Invariants:
//! - What a version changed is said once: an object that comes again, or an older version after a newer one, says
//!   nothing.
//! - A list that replaces a watch is compared with what was known, object by object; what it lacks is gone.
//! - Nothing here waits or asks: the same objects in the same order make the same drafts, live or from a file.

mod changes;

use super::draft::{Draft, number};
use super::endpoints::{self, Counts};
use super::known::{Detail, Entry, Key, Known, Memory};
use super::object::{ApiEvent, EndpointSlice, Lease, Meta, Node, Plain, Pod, text};
use super::resource::{Resource, Role};
use super::shape::Shape;
use super::{api_events, leases, nodes, pods};
use crate::event::{Kind, fields};

/// What came with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is in a list.
    Listed,
    /// It was made or changed.
    Changed,
    /// It is gone, or does not belong to the watch any more.
    Deleted,
}

/// What the objects are looked at with.
pub struct Scene<'scene> {
    /// This node.
    pub node: &'scene str,
    /// Events of the API that have nothing to do with this node count, too.
    pub everything: bool,
    /// Unix time.
    pub now_unix_s: u64,
    /// Events of the API that are older are of no interest, unless they were missed.
    pub since_unix_s: u64,
    /// Where strings and the budget are.
    pub memory: &'scene mut Memory,
    /// The container ids of pods that are known: of a pod and a container's name.
    pub pods: &'scene dyn Fn(&str, &str) -> Option<String>,
}

impl std::fmt::Debug for Scene<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Scene").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Counters of what came and was not used.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// Objects that came a second time, or after a newer version.
    pub repeated: u64,
}

/// One resource.
#[derive(Debug)]
pub struct Tracker {
    resource: &'static Resource,
    shape: Shape,
    known: Known,
    /// Counts lists, to tell what the last one lacked.
    list: u32,
    /// Whatever is not in the watch any more may still exist.
    leaves_quietly: bool,
    /// The version up to which everything was seen; 0 at first, and where versions are no numbers.
    floor: u64,
    passed: Passed,
}

/// A version as a number; 0 when it is none.
fn ordered(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}

impl Tracker {
    /// Knows nothing yet. `leaves_quietly`: an object that is deleted from the watch need not be gone.
    #[must_use]
    pub fn new(resource: &'static Resource, leaves_quietly: bool) -> Self {
        let shape = Shape::new(resource.keep);
        Self {
            resource,
            shape,
            known: Known::default(),
            list: 0,
            leaves_quietly,
            floor: 0,
            passed: Passed::default(),
        }
    }

    /// What it is about.
    #[must_use]
    pub fn resource(&self) -> &'static Resource {
        self.resource
    }

    /// What is known.
    #[must_use]
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// As [`Self::known`], to be filled from a file.
    pub fn known_mut(&mut self) -> &mut Known {
        &mut self.known
    }

    /// What was passed over.
    #[must_use]
    pub fn passed(&self) -> Passed {
        self.passed
    }

    /// A list begins.
    pub fn begin_list(&mut self) {
        self.list = self.list.wrapping_add(1);
    }

    /// The list is complete: what it lacked is gone.
    pub fn end_list(&mut self, version: &str, scene: &mut Scene<'_>) -> Vec<Draft> {
        self.seen_up_to(version);
        let gone = self.known.sweep(self.list, scene.memory);
        let mut drafts = Vec::new();
        for (key, entry) in gone {
            self.left(key, &entry, version, &mut drafts);
        }
        drafts
    }

    /// Everything up to this version was seen.
    pub fn seen_up_to(&mut self, version: &str) {
        self.floor = ordered(version);
    }

    /// Takes an object.
    ///
    /// # Errors
    /// When it is not what the API says it is: it is left out.
    pub fn take(
        &mut self,
        change: Change,
        object: &[u8],
        scene: &mut Scene<'_>,
    ) -> serde_json::Result<Vec<Draft>> {
        if self.resource.role == Role::Event {
            return self.take_event(change, object, scene);
        }
        let plain: Plain = serde_json::from_slice(object)?;
        let meta = &plain.metadata;
        let version = text(meta.resource_version.as_ref());
        if self.is_repeated(change, version) {
            return Ok(Vec::new());
        }
        let uid = text(meta.uid.as_ref());
        let key = Key::of(uid);
        if let Some(entry) = self.known.get_mut(key).filter(|_| change == Change::Listed) {
            entry.seen_in = self.list;
            if entry.version > 0 && entry.version >= ordered(version) {
                return Ok(Vec::new());
            }
        }
        if change == Change::Deleted && self.known.get(key).is_none() {
            let mut drafts = Vec::new();
            let entry = self.entry(meta, scene.memory);
            self.left(key, &entry, version, &mut drafts);
            return Ok(drafts);
        }
        let mut entry = self.entry(meta, scene.memory);
        let mut drafts = Vec::new();
        self.compare(&Parsed { text: object, plain: &plain }, &mut entry, scene, &mut drafts)?;
        if change == Change::Deleted {
            self.known.remove(key, scene.memory);
            self.left(key, &entry, version, &mut drafts);
        } else {
            self.known.put(key, entry, scene.memory);
        }
        Ok(drafts)
    }

    /// Whether a watch shows something that it has shown before. Versions of one watch only grow.
    fn is_repeated(&mut self, change: Change, version: &str) -> bool {
        let version = ordered(version);
        if change == Change::Listed || version == 0 {
            return false;
        }
        let repeated = version <= self.floor;
        if repeated {
            self.passed.repeated += 1;
        } else {
            self.floor = version;
        }
        repeated
    }

    fn entry(&self, meta: &Meta, memory: &mut Memory) -> Entry {
        let uid = text(meta.uid.as_ref());
        let (owner, revision) = workload(self.resource.kind, meta);
        let is_usual = Key::of(uid).uuid() == uid;
        Entry {
            version: ordered(text(meta.resource_version.as_ref())),
            odd_uid: (!is_usual).then(|| uid.into()),
            namespace: memory.word(text(meta.namespace.as_ref())),
            name: text(meta.name.as_ref()).into(),
            owner: memory.word(&owner),
            revision: memory.word(&revision),
            hashes: Box::default(),
            detail: Detail::None,
            seen_in: self.list,
        }
    }

    /// Compares by role, and fills in what is to be remembered.
    fn compare(
        &self,
        parsed: &Parsed<'_>,
        entry: &mut Entry,
        scene: &mut Scene<'_>,
        drafts: &mut Vec<Draft>,
    ) -> serde_json::Result<()> {
        let (object, meta) = (parsed.text, &parsed.plain.metadata);
        let (uid, version) = (text(meta.uid.as_ref()), text(meta.resource_version.as_ref()));
        let before = self.known.get(Key::of(uid));
        let detail = before.map(|before| &before.detail);
        match self.resource.role {
            Role::Pod => {
                let pod: Pod = serde_json::from_slice(object)?;
                self.compare_object(parsed, before, entry, drafts)?;
                let (owner, revision) = (entry.owner.text(), entry.revision.text());
                let named = pods::Named { uid, version, owner, revision };
                let (detail, said) = pods::compare(&pod, &named, detail, scene.memory);
                entry.detail = detail;
                drafts.extend(said);
            }
            Role::Node => {
                let node: Node = serde_json::from_slice(object)?;
                self.compare_object(parsed, before, entry, drafts)?;
                let (detail, said) = nodes::compare(&node, [uid, version], detail, scene.memory);
                entry.detail = detail;
                drafts.extend(said);
            }
            Role::Endpoints => {
                let slice: EndpointSlice = serde_json::from_slice(object)?;
                drafts.extend(self.compare_slice(&slice, entry, scene));
            }
            Role::Lease => {
                let lease: Lease = serde_json::from_slice(object)?;
                let now = (scene.now_unix_s, &mut *scene.memory);
                let (detail, said) = leases::compare(&lease, [uid, version], detail, now);
                entry.detail = detail;
                drafts.extend(said);
            }
            Role::Object if is_lock(meta) => {}
            Role::Object => {
                self.compare_object(parsed, before, entry, drafts)?;
            }
            Role::Event => {}
        }
        Ok(())
    }

    /// An object is not in the watch any more.
    fn left(&self, key: Key, entry: &Entry, version: &str, drafts: &mut Vec<Draft>) {
        if self.leaves_quietly || self.resource.role == Role::Event {
            return;
        }
        let uid = entry.uid(key);
        if let Detail::Endpoints(service, ..) = &entry.detail {
            let after = self.sums(entry.namespace.text(), service.text(), Some(key));
            let before = after.plus(&entry.detail);
            if before != after {
                let names = [entry.namespace.text(), service.text()];
                drafts.push(endpoints::draft(None, [&uid, version], names, [before, after]));
            }
            return;
        }
        // Something is deleted once, by whichever list or watch this is noticed.
        let path = api_events::path(self.resource.kind, entry.namespace.text(), &entry.name);
        let draft = Draft::new(Kind::ObjectChange, fields::OBJECT, path, number(&uid, "", "deleted"));
        let draft = draft.slot(0).slot(0).slot(0).slot(1).slot(0).slot(1);
        drafts.push(
            draft
                .field(fields::OBJECT_UID, &uid)
                .field(fields::NAMESPACE, entry.namespace.text())
                .field(fields::OWNER, entry.owner.text())
                .field(fields::REVISION, entry.revision.text())
                .field(fields::CHANGED, "deleted"),
        );
    }

    fn compare_slice(
        &self,
        slice: &EndpointSlice,
        entry: &mut Entry,
        scene: &mut Scene<'_>,
    ) -> Option<Draft> {
        let meta = &slice.metadata;
        let service = text(meta.labels.as_ref().and_then(|labels| labels.service_name.as_ref()));
        let counts = endpoints::counts(slice);
        entry.detail = Detail::Endpoints(scene.memory.word(service), counts.ready, counts.not_ready);
        if service.is_empty() {
            return None;
        }
        let (uid, version) = (text(meta.uid.as_ref()), text(meta.resource_version.as_ref()));
        let key = Key::of(uid);
        let namespace = text(meta.namespace.as_ref());
        let others = self.sums(namespace, service, Some(key));
        let known = self.known.get(key);
        let before = known.map_or(others, |known| others.plus(&known.detail));
        let after = others.plus(&entry.detail);
        if known.is_some() && before == after {
            return None;
        }
        Some(endpoints::draft(Some(slice), [uid, version], [namespace, service], [before, after]))
    }

    /// The sums of a service over its slices, one of them left out.
    fn sums(&self, namespace: &str, service: &str, without: Option<Key>) -> Counts {
        let of_service = self.known.iter().filter(|(key, entry)| {
            let is_it = matches!(&entry.detail, Detail::Endpoints(name, ..) if name.text() == service);
            is_it && entry.namespace.text() == namespace && Some(*key) != without
        });
        of_service.fold(Counts::default(), |counts, (_, entry)| counts.plus(&entry.detail))
    }

    fn take_event(
        &mut self,
        change: Change,
        object: &[u8],
        scene: &mut Scene<'_>,
    ) -> serde_json::Result<Vec<Draft>> {
        let event: ApiEvent = serde_json::from_slice(object)?;
        let version = text(event.metadata.resource_version.as_ref());
        // Events end by themselves after an hour, which says nothing.
        if self.is_repeated(change, version) || change == Change::Deleted {
            return Ok(Vec::new());
        }
        if change == Change::Listed {
            let is_seen = self.floor > 0 && ordered(version) <= self.floor;
            let is_old = self.floor == 0 && api_events::last_unix_s(&event) < scene.since_unix_s;
            if is_seen || is_old {
                return Ok(Vec::new());
            }
        }
        let is_own_pod = |uid: &str| (scene.pods)(uid, "").is_some();
        if !scene.everything && !api_events::is_own(&event, scene.node, is_own_pod) {
            return Ok(Vec::new());
        }
        let container_id = |uid: &str, name: &str| (scene.pods)(uid, name).unwrap_or_default();
        Ok(vec![api_events::draft(&event, container_id)])
    }

    /// Leases that are overdue now.
    pub fn overdue(&mut self, now_unix_s: u64) -> Vec<Draft> {
        if self.resource.role != Role::Lease {
            return Vec::new();
        }
        let keys: Vec<Key> = self.known.iter().map(|(key, _)| key).collect();
        let known = &mut self.known;
        keys.into_iter().filter_map(|key| leases::overdue(key, known.get_mut(key)?, now_unix_s)).collect()
    }

    /// Leases count as renewed now: nobody looked for a while.
    pub fn renew_leases(&mut self, now_unix_s: u64) {
        let keys: Vec<Key> = self.known.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(Entry { detail: Detail::Lease(_, seen_unix_s, ..), .. }) = self.known.get_mut(key) {
                *seen_unix_s = now_unix_s;
            }
        }
    }

    /// The container id of a pod that is known; empty where it is not known or the name is empty.
    #[must_use]
    pub fn container_id(&self, pod_uid: &str, container: &str) -> Option<String> {
        let entry = self.known.get(Key::of(pod_uid))?;
        let Detail::Pod(_, containers) = &entry.detail else { return Some(String::new()) };
        let found = containers.iter().find(|known| known.name.text() == container);
        Some(found.map_or_else(String::new, |known| known.id.to_string()))
    }
}

/// A lock in the old way, which is written every other second.
fn is_lock(meta: &Meta) -> bool {
    meta.annotations.as_ref().is_some_and(|annotations| annotations.leader.is_some())
}

/// The workload that an object belongs to, and its revision of it.
fn workload(kind: &str, meta: &Meta) -> (String, String) {
    let labels = meta.labels.as_ref();
    let template_hash = text(labels.and_then(|labels| labels.pod_template_hash.as_ref()));
    let controller_hash = text(labels.and_then(|labels| labels.controller_revision_hash.as_ref()));
    let namespace = text(meta.namespace.as_ref());
    let references = meta.owner_references.as_deref().unwrap_or_default();
    let owner = references.iter().find(|owner| owner.controller == Some(true)).or_else(|| references.first());
    let revision = if template_hash.is_empty() { controller_hash } else { template_hash };
    let Some(owner) = owner else {
        let itself = api_events::path(kind, namespace, text(meta.name.as_ref()));
        return (if kind == "Pod" { String::new() } else { itself }, revision.to_owned());
    };
    let (owner_kind, name) = (text(owner.kind.as_ref()), text(owner.name.as_ref()));
    // A ReplicaSet of a Deployment is called like it, with the hash of the template behind.
    let deployment = name.strip_suffix(template_hash).and_then(|name| name.strip_suffix('-'));
    let path = match deployment {
        Some(name) if owner_kind == "ReplicaSet" && !template_hash.is_empty() => {
            api_events::path("Deployment", namespace, name)
        }
        _ => api_events::path(owner_kind, namespace, name),
    };
    (path, revision.to_owned())
}

/// An object as it came, and what every object has.
struct Parsed<'object> {
    text: &'object [u8],
    plain: &'object Plain,
}

#[cfg(test)]
mod tests;
