//! The entities that one shard knows, by trace key.
//!
//! An event resolves to a slot. What is not known is looked up once, in the live system or in the event itself;
//! what becomes known later (a path, a name, an invocation id) is joined, and the slot's version says so.
//!
//! Invariants:
//! - A reference is right as long as its version is the same; a slot is never shared by two keys.
//! - The work of each call is bounded, and so is the table: what capacity forces out is counted. Once in a life, in a
//!   container, a call looks at every slot.
//! - A known entity costs a comparison, or one hash look-up; it allocates nothing.

use std::collections::HashMap;
use std::fmt;

use foldhash::fast::FixedState;
use zerocopy::IntoBytes;

use super::cgroup::{self, CgroupPath};
use super::named;
use super::pending::{Pending, Wait};
use super::slots::Slots;
use super::trace::{self, Identity};
use super::{CgroupLookup, Entity, EntityKind, EntityRef, Manager};
use crate::event::{CGROUP_V1, Event, Header, Kind, NAMED, is_before_boot, trace_key};

/// How many entities a shard remembers unless told otherwise.
pub const CAPACITY: usize = 65_536;

/// A longer path is cut, after everything in it was read.
const PATH_BYTES_MAX: usize = 1024;

/// Invocation ids looked up in one call, at most.
const RETRIES_MAX: usize = 16;

/// Entities forced out for a new one, at most: enough that the longest texts cannot pile up.
const EVICTIONS_MAX: usize = 8;

/// The kinds that say something about entities, as a bit set by number.
const WATCHED: u128 = 1 << Kind::ProcessFork as u32
    | 1 << Kind::ProcessExec as u32
    | 1 << Kind::ProcessExit as u32
    | 1 << Kind::OomVictim as u32
    | 1 << Kind::CgroupCreated as u32
    | 1 << Kind::CgroupRemoved as u32
    | 1 << Kind::CgroupAttached as u32
    | 1 << Kind::CgroupEmpty as u32;

/// What the table did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EntityStats {
    /// Entities in the table that are not known to be gone.
    pub live: u64,
    /// Entities in the table that are gone.
    pub gone: u64,
    /// Entities forced out by capacity.
    pub evicted: u64,
    /// Entities forgotten because they were gone long enough, or silent for long.
    pub expired: u64,
    /// Questions to the live system.
    pub lookups: u64,
    /// Questions that the live system could not answer.
    pub lookup_failures: u64,
    /// Identities completed after their first event.
    pub late_joins: u64,
}

/// What an event itself says about a new entity.
#[derive(Clone, Copy)]
enum Known<'event> {
    Nothing,
    Name(&'event [u8]),
    Path(&'event str),
}

/// The entities of one shard.
pub struct EntityTable {
    boot_id: [u8; 16],
    lookup: Box<dyn CgroupLookup + Send>,
    index: HashMap<u64, EntityRef, FixedState>,
    slots: Slots,
    last_key: u64,
    last_ref: EntityRef,
    pending: Pending,
    /// What the kernel's paths have in front that this agent does not see, of v2 and v1, once that is known.
    above: [Option<String>; 2],
    stats: EntityStats,
}

impl fmt::Debug for EntityTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("EntityTable").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl EntityTable {
    /// A table with room for `capacity` entities (2 to 16 Mi), the node among them.
    #[must_use]
    pub fn new(boot_id: [u8; 16], capacity: usize, lookup: Box<dyn CgroupLookup + Send>) -> Self {
        let capacity = capacity.clamp(2, 1 << 24);
        let node_key = trace_key(&Header::default());
        let node = node(&boot_id, node_key);
        let mut index = HashMap::with_capacity_and_hasher(capacity, FixedState::default());
        index.insert(node_key, 0);
        Self {
            boot_id,
            lookup,
            index,
            slots: Slots::new(capacity, node),
            last_key: node_key,
            last_ref: 0,
            pending: Pending::new(),
            above: [None, None],
            stats: EntityStats::default(),
        }
    }

    /// The entity that owns the event.
    #[inline]
    pub fn resolve(&mut self, header: &Header) -> EntityRef {
        let key = trace_key(header);
        if key == self.last_key { self.last_ref } else { self.resolve_other(key, header) }
    }

    fn resolve_other(&mut self, key: u64, header: &Header) -> EntityRef {
        let Some(&slot) = self.index.get(&key) else {
            return self.admit(key, header, Known::Nothing);
        };
        self.slots.touch(slot);
        (self.last_key, self.last_ref) = (key, slot);
        slot
    }

    /// The entity in this slot. A slot that was emptied holds a blank one, under another version.
    #[must_use]
    pub fn get(&self, entity: EntityRef) -> &Entity {
        self.slots.get(entity)
    }

    /// Changes whenever the content of the slot does.
    #[must_use]
    #[inline]
    pub fn version(&self, entity: EntityRef) -> u32 {
        self.slots.version(entity)
    }

    /// Learns from an event what it says about entities. Before [`Self::resolve`], it saves a look-up.
    #[inline]
    pub fn observe(&mut self, event: &Event<'_>) {
        let header = event.header();
        if header.time_ns >= self.pending.next_due_ns() && !is_before_boot(header.time_ns) {
            self.retry(header.time_ns);
        }
        if WATCHED >> (header.kind & 127) & 1 != 0 {
            self.learn(event);
        } else if header.cgroup & NAMED != 0 {
            self.learn_named(event);
        }
    }

    /// Takes in the entity that the event names, or the new run of one that is known.
    fn learn_named(&mut self, event: &Event<'_>) {
        let key = trace_key(event.header());
        let Some(&slot) = self.index.get(&key) else {
            self.make_room(event.header());
            self.insert(key, named::entity(&self.boot_id, key, event));
            return;
        };
        let known = self.slots.get(slot);
        if known.kind == EntityKind::Unit && named::invocation(event).is_some_and(|id| id != known.trace_id) {
            self.slots.replace(slot, named::entity(&self.boot_id, key, event));
        }
    }

    fn learn(&mut self, event: &Event<'_>) {
        let (header, slots) = (event.header(), event.slots());
        match event.info().kind {
            Kind::ProcessFork => self.learn_name(header, &slots[1..3], false),
            Kind::ProcessExec => self.learn_name(header, &slots[1..3], true),
            Kind::OomVictim => self.learn_name(header, &slots[..2], false),
            Kind::ProcessExit => {
                self.learn_name(header, &slots[3..5], false);
                if owned_by_process(header) {
                    self.set_gone(header);
                }
            }
            Kind::CgroupCreated => {
                self.learn_path(event);
            }
            Kind::CgroupAttached => {
                if let Some(slot) = self.learn_path(event)
                    && self.slots.take_emptied(slot)
                {
                    // A restarted unit may keep its cgroup, but never its invocation id.
                    self.await_invocation(slot, header.time_ns);
                }
            }
            Kind::CgroupEmpty => {
                if let Some(slot) = self.learn_path(event) {
                    self.slots.set_emptied(slot);
                }
            }
            Kind::CgroupRemoved => {
                self.learn_path(event);
                if !owned_by_process(header) {
                    self.set_gone(header);
                }
            }
            _ => {}
        }
    }

    /// Forgets some of what is gone or long silent, and asks again for what was not known.
    pub fn expire(&mut self, now_ns: u64) {
        self.retry(now_ns);
        let Self { slots, index, last_key, last_ref, stats, .. } = self;
        let keep = *last_ref;
        slots.sweep(keep, now_ns, |slot, key| {
            index.remove(&key);
            stats.expired += 1;
            if slot == keep {
                (*last_key, *last_ref) = (trace_key(&Header::default()), 0);
            }
        });
    }

    /// What the table did so far.
    #[must_use]
    pub fn stats(&self) -> EntityStats {
        let gone = self.slots.gone_count();
        EntityStats { live: (self.index.len() - gone) as u64, gone: gone as u64, ..self.stats }
    }

    /// Takes in an entity that is not in the table.
    #[cold]
    fn admit(&mut self, key: u64, header: &Header, known: Known<'_>) -> EntityRef {
        self.make_room(header);
        let (entity, complete) = if owned_by_process(header) {
            (self.process(key, header, known), true)
        } else {
            match known {
                Known::Path(path) => self.cgroup(key, path),
                Known::Nothing | Known::Name(_) => {
                    let path = self.lookup.path(header.cgroup);
                    self.count(path.is_some());
                    self.cgroup(key, path.as_deref().unwrap_or_default())
                }
            }
        };
        let slot = self.insert(key, entity);
        if !complete {
            self.await_invocation(slot, header.time_ns);
        }
        slot
    }

    fn make_room(&mut self, header: &Header) {
        for _ in 0..EVICTIONS_MAX {
            let Some(evicted) = self.slots.make_room(self.last_ref, header.time_ns) else { break };
            self.index.remove(&evicted);
            self.stats.evicted += 1;
        }
    }

    fn insert(&mut self, key: u64, entity: Entity) -> EntityRef {
        let slot = self.slots.insert(entity);
        self.index.insert(key, slot);
        // Also when the event was only observed: that it then resolves is no second use.
        (self.last_key, self.last_ref) = (key, slot);
        slot
    }

    fn process(&mut self, key: u64, header: &Header, known: Known<'_>) -> Entity {
        let (tgid, start_ns) = (header.tgid, header.start_ns);
        if tgid == 0 {
            return node(&self.boot_id, key);
        }
        let name = match known {
            Known::Name(name) => String::from_utf8_lossy(name).into_owned(),
            Known::Nothing | Known::Path(_) => {
                let name = self.lookup.process_name(tgid, start_ns);
                self.count(name.is_some());
                name.unwrap_or_default()
            }
        };
        let trace_id = trace::hashed(&self.boot_id, Identity::Process(tgid, start_ns));
        Entity { key, kind: EntityKind::Process, name, trace_id, pid: tgid, start_ns, ..Entity::default() }
    }

    /// The entity of a cgroup, and whether nothing is missing. An empty path is one that is not known.
    fn cgroup(&mut self, key: u64, path: &str) -> (Entity, bool) {
        let parsed = if path.is_empty() { CgroupPath::default() } else { cgroup::parse(path) };
        let boot_id = &self.boot_id;
        let (name, trace_id) = match parsed.kind {
            EntityKind::Container => {
                let id = parsed.container_id;
                let hash = || trace::hashed(boot_id, Identity::Container(id));
                (id, Some(trace::of_container(id).unwrap_or_else(hash)))
            }
            EntityKind::Pod => {
                let uid = parsed.pod_uid.as_str();
                (uid, Some(trace::hashed(boot_id, Identity::Pod(uid))))
            }
            EntityKind::Unit => (parsed.unit, self.lookup.invocation_id(parsed.unit_path)),
            EntityKind::Process | EntityKind::Cgroup | EntityKind::Node | EntityKind::Object => {
                (cut(path), Some(trace::hashed(boot_id, Identity::Cgroup(key))))
            }
        };
        if parsed.kind == EntityKind::Unit {
            self.count(trace_id.is_some());
        }
        let complete = trace_id.is_some();
        let entity = Entity {
            key,
            kind: if parsed.kind == EntityKind::Node { EntityKind::Cgroup } else { parsed.kind },
            name: name.to_owned(),
            trace_id: trace_id
                .unwrap_or_else(|| trace::hashed(&self.boot_id, Identity::Unit(parsed.unit_path))),
            container_id: parsed.container_id.to_owned(),
            unit: parsed.unit.to_owned(),
            manager: parsed.manager,
            cgroup_path: cut(path).to_owned(),
            pod_uid: parsed.pod_uid,
            ..Entity::default()
        };
        (entity, complete)
    }

    fn learn_name(&mut self, header: &Header, comm: &[u64], replace: bool) {
        if !owned_by_process(header) || header.tgid == 0 {
            return;
        }
        let bytes = comm.as_bytes();
        let name = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        let key = trace_key(header);
        let Some(&slot) = self.index.get(&key) else {
            self.admit(key, header, Known::Name(name));
            return;
        };
        let known = self.slots.get(slot).name.as_bytes();
        if known.is_empty() && !name.is_empty() {
            self.stats.late_joins += 1;
        } else if !replace || known == name {
            return;
        }
        let name = String::from_utf8_lossy(name).into_owned();
        let entity = Entity { name, ..self.slots.get(slot).clone() };
        self.slots.replace(slot, entity);
    }

    /// Joins the path in the event's text to its cgroup; nothing for the root.
    fn learn_path(&mut self, event: &Event<'_>) -> Option<EntityRef> {
        let header = event.header();
        if owned_by_process(header) {
            return None;
        }
        // Flags say that the text was cut: the live system knows the whole path.
        let text = if header.flags == 0 { event.text() } else { b"" };
        let text = String::from_utf8_lossy(text);
        let path = relative(&text, header.cgroup & CGROUP_V1 != 0);
        let here = self.path_here(header, path);
        let path = here.as_deref().unwrap_or(path);
        let key = trace_key(header);
        let Some(&slot) = self.index.get(&key) else {
            let known = if path.is_empty() { Known::Nothing } else { Known::Path(path) };
            return Some(self.admit(key, header, known));
        };
        if !path.is_empty() && self.slots.get(slot).cgroup_path != cut(path) {
            let (entity, complete) = self.cgroup(key, path);
            self.slots.replace(slot, entity);
            self.stats.late_joins += 1;
            if !complete {
                self.await_invocation(slot, header.time_ns);
            }
        }
        Some(slot)
    }

    /// The path as this agent sees it, where that is shorter. The kernel tells paths from the root of the host; an agent
    /// that runs in a container with a systemd of its own has that one's units, below a path that it does not see.
    fn path_here(&mut self, header: &Header, path: &str) -> Option<String> {
        let v1 = usize::from(header.cgroup & CGROUP_V1 != 0);
        if self.above[v1].is_none() {
            self.find_above(v1, header, path);
        }
        let above = self.above[v1].as_deref().filter(|above| !above.is_empty())?;
        strip_directory(path, above).map(str::to_owned)
    }

    /// Compares both paths of one cgroup; what was stored before under the kernel's path gets its own.
    #[cold]
    fn find_above(&mut self, v1: usize, header: &Header, path: &str) {
        let read = cgroup::parse(path);
        // Units right below the root are the host's own, and the agent sees them there, too.
        if read.manager != Manager::Nested || !read.container_id.is_empty() {
            return;
        }
        let here = self.lookup.path(header.cgroup);
        self.count(here.is_some());
        // A cgroup that is gone already has no path; the next one will do.
        let Some(above) =
            here.filter(|here| here.len() > 1).and_then(|here| path.strip_suffix(here.as_str()))
        else {
            return;
        };
        self.above[v1] = Some(above.to_owned());
        if above.is_empty() {
            return;
        }
        for slot in self.slots.below(above) {
            let known = self.slots.get(slot);
            let (key, path) = (known.key, known.cgroup_path[above.len()..].to_owned());
            let (entity, complete) = self.cgroup(key, &path);
            self.slots.replace(slot, entity);
            self.stats.late_joins += 1;
            if !complete {
                self.await_invocation(slot, header.time_ns);
            }
        }
    }

    fn set_gone(&mut self, header: &Header) {
        if let Some(&slot) = self.index.get(&trace_key(header)) {
            self.slots.set_gone(slot, header.time_ns);
        }
    }

    fn count(&mut self, answered: bool) {
        self.stats.lookups += 1;
        self.stats.lookup_failures += u64::from(!answered);
    }

    fn await_invocation(&mut self, slot: EntityRef, now_ns: u64) {
        let entity = self.slots.get(slot);
        if entity.kind == EntityKind::Unit && self.slots.gone_since(slot).is_none() {
            // A full queue leaves the unit with the hash of its path; the failed look-up was counted.
            let _ = self.pending.push(entity.key, slot, now_ns);
        }
    }

    #[cold]
    fn retry(&mut self, now_ns: u64) {
        for _ in 0..RETRIES_MAX {
            let Some(wait) = self.pending.pop_due(now_ns) else { return };
            self.ask_invocation(wait, now_ns);
        }
    }

    fn ask_invocation(&mut self, wait: Wait, now_ns: u64) {
        let entity = self.slots.get(wait.slot);
        if entity.key != wait.key || entity.kind != EntityKind::Unit {
            return;
        }
        let parsed = cgroup::parse(&entity.cgroup_path);
        if parsed.unit != entity.unit {
            // The unit's name was in the part of the path that was cut off.
            return;
        }
        let found = self.lookup.invocation_id(parsed.unit_path);
        let news = found.filter(|&id| id != entity.trace_id);
        let renewed = news.map(|trace_id| Entity { trace_id, ..entity.clone() });
        self.count(found.is_some());
        if let Some(entity) = renewed {
            self.slots.replace(wait.slot, entity);
            self.stats.late_joins += 1;
        } else {
            let _ = self.pending.again(wait, now_ns);
        }
    }
}

/// Whether no cgroup but a root contains the owner.
fn owned_by_process(header: &Header) -> bool {
    header.cgroup & !CGROUP_V1 <= 1
}

fn node(boot_id: &[u8; 16], key: u64) -> Entity {
    Entity {
        key,
        kind: EntityKind::Node,
        trace_id: trace::hashed(boot_id, Identity::Node),
        ..Entity::default()
    }
}

/// The path from the root of the hierarchy, where the event's text has the usual mount point in front.
fn relative(path: &str, v1: bool) -> &str {
    let Some(rest) = strip_directory(path, "/sys/fs/cgroup") else { return path };
    strip_directory(rest, if v1 { "/memory" } else { "/unified" }).unwrap_or(rest)
}

fn strip_directory<'path>(path: &'path str, directory: &str) -> Option<&'path str> {
    path.strip_prefix(directory).filter(|rest| rest.starts_with('/'))
}

/// As much of a path as is kept.
fn cut(path: &str) -> &str {
    &path[..path.floor_char_boundary(PATH_BYTES_MAX)]
}

#[cfg(test)]
mod tests;
