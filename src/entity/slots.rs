//! Where a table keeps its entities: fixed slots, second-chance replacement, retention of what is gone.
//!
//! Invariants:
//! - Slot 0 is the node and stays for ever.
//! - A slot's version changes whenever its content does, so a reference kept elsewhere can be checked.
//! - Finding a slot to reuse looks at no more than [`REPLACE_STEPS_MAX`] slots, a sweep at [`SWEEP_STEPS_MAX`].

use super::{Entity, EntityKind, EntityRef};

/// How long an entity is kept after it is gone, unless capacity forces it out.
pub(super) const RETENTION_NS: u64 = 300 * SECOND_NS;

/// An entity without an event for this many sweeps is forgotten; its next event finds it again. This is
/// what clears entities whose end was lost.
const IDLE_SWEEPS_MAX: u8 = 15;

/// A sweep starts no sooner than this after the last one began.
const SWEEP_PERIOD_NS: u64 = 60 * SECOND_NS;

const SWEEP_STEPS_MAX: usize = 256;
const REPLACE_STEPS_MAX: usize = 1024;
/// Slots looked at after one was found that can go, in case a better one is near.
const PATIENCE: usize = 32;
const SECOND_NS: u64 = 1_000_000_000;

/// Text that a full table holds for each entity, at most; long paths make room for fewer entities.
const TEXT_BYTES_MEAN: usize = 512;

/// What the hot path touches, apart from the entity so that it stays in few cache lines.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    version: u32,
    /// Since the replacement or the sweep last came by.
    used: bool,
    /// Sweeps without use.
    idle: u8,
    occupied: bool,
    /// The last process left the cgroup.
    emptied: bool,
}

/// The slots of one table.
#[derive(Debug)]
pub(super) struct Slots {
    entities: Vec<Entity>,
    marks: Vec<Mark>,
    /// When the entity went; 0 while it lives.
    gone_ns: Vec<u64>,
    free: Vec<EntityRef>,
    capacity: usize,
    replace_hand: usize,
    sweep_hand: usize,
    sweep_began_ns: u64,
    gone: usize,
    /// Text that all entities hold, bytes.
    text_bytes: usize,
}

/// How dear an entity is when a slot is needed: the least goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// Its retention is over, or a process that is gone and silent.
    Over,
    /// A process that is gone.
    Leaving,
    /// Lives but did not speak lately: can be found again.
    Silent,
    /// Gone, and late facts about it may still come.
    Remembered,
    /// Spoke lately.
    Speaking,
}

impl Slots {
    /// Slots for this many entities, the node included. Memory is reserved, and taken when used.
    pub(super) fn new(capacity: usize, node: Entity) -> Self {
        let mut slots = Self {
            entities: Vec::with_capacity(capacity),
            marks: Vec::with_capacity(capacity),
            gone_ns: Vec::with_capacity(capacity),
            free: Vec::new(),
            capacity,
            replace_hand: 1,
            sweep_hand: 1,
            sweep_began_ns: 0,
            gone: 0,
            text_bytes: 0,
        };
        slots.push(node);
        slots
    }

    pub(super) fn get(&self, slot: EntityRef) -> &Entity {
        &self.entities[slot as usize]
    }

    pub(super) fn version(&self, slot: EntityRef) -> u32 {
        self.marks[slot as usize].version
    }

    /// Notes that the entity spoke.
    pub(super) fn touch(&mut self, slot: EntityRef) {
        self.marks[slot as usize].used = true;
    }

    /// Replaces the content, and returns what was there.
    pub(super) fn replace(&mut self, slot: EntityRef, entity: Entity) -> Entity {
        let mark = &mut self.marks[slot as usize];
        mark.version = mark.version.wrapping_add(1);
        self.text_bytes += text_bytes(&entity);
        let old = std::mem::replace(&mut self.entities[slot as usize], entity);
        self.text_bytes -= text_bytes(&old);
        old
    }

    /// The entities whose cgroups are below this path. Looks at every slot.
    pub(super) fn below(&self, path: &str) -> Vec<EntityRef> {
        let is_below = |entity: &Entity| {
            entity.cgroup_path.strip_prefix(path).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
        };
        let found = self.entities.iter().enumerate().filter(|(_, entity)| is_below(entity));
        found.filter_map(|(at, _)| EntityRef::try_from(at).ok()).collect()
    }

    /// When the entity went.
    pub(super) fn gone_since(&self, slot: EntityRef) -> Option<u64> {
        Some(self.gone_ns[slot as usize]).filter(|&at| at != 0)
    }

    /// The end is final: ids are not reused, and records of a start may arrive after those of the end.
    pub(super) fn set_gone(&mut self, slot: EntityRef, now_ns: u64) {
        let at = &mut self.gone_ns[slot as usize];
        if *at == 0 && slot != 0 {
            *at = now_ns.max(1);
            self.gone += 1;
        }
    }

    /// Notes that the last process left the cgroup.
    pub(super) fn set_emptied(&mut self, slot: EntityRef) {
        self.marks[slot as usize].emptied = true;
    }

    /// Whether the cgroup was empty until now.
    pub(super) fn take_emptied(&mut self, slot: EntityRef) -> bool {
        std::mem::take(&mut self.marks[slot as usize].emptied)
    }

    /// Entities that are gone and still remembered.
    pub(super) fn gone_count(&self) -> usize {
        self.gone
    }

    fn is_full(&self) -> bool {
        let slots_full = self.free.is_empty() && self.entities.len() >= self.capacity;
        slots_full || self.text_bytes > self.capacity.saturating_mul(TEXT_BYTES_MEAN)
    }

    /// Stores an entity; [`Self::make_room`] was called before. Its first event is not a use: of those that
    /// speak once, none displaces one that speaks again.
    pub(super) fn insert(&mut self, entity: Entity) -> EntityRef {
        let Some(slot) = self.free.pop() else {
            return self.push(entity);
        };
        self.replace(slot, entity);
        let mark = &mut self.marks[slot as usize];
        *mark = Mark { version: mark.version, used: false, idle: 0, occupied: true, emptied: false };
        slot
    }

    fn push(&mut self, entity: Entity) -> EntityRef {
        // The table bounds its capacity well below 2^32.
        let slot = EntityRef::try_from(self.entities.len()).unwrap_or(EntityRef::MAX);
        self.text_bytes += text_bytes(&entity);
        self.entities.push(entity);
        self.marks.push(Mark { version: 1, used: false, idle: 0, occupied: true, emptied: false });
        self.gone_ns.push(0);
        slot
    }

    /// Empties a slot if none is left, or too much text is held, and says which key it held. `keep` counts as
    /// just used.
    pub(super) fn make_room(&mut self, keep: EntityRef, now_ns: u64) -> Option<u64> {
        if !self.is_full() {
            return None;
        }
        self.touch(keep);
        let mut choice = None;
        let mut patience = PATIENCE;
        for _ in 0..REPLACE_STEPS_MAX.min(self.entities.len() - 1) {
            let at = self.replace_hand;
            self.replace_hand = if at + 1 < self.entities.len() { at + 1 } else { 1 };
            if !self.marks[at].occupied {
                continue;
            }
            let worth = self.worth(at, now_ns);
            self.marks[at].used = at == keep as usize;
            if choice.is_none_or(|(least, _)| worth < least) {
                choice = Some((worth, at));
            }
            // Something cheap is worth a short look around, something dear a long one.
            patience -= usize::from(choice.is_some_and(|(least, _)| least <= Worth::Silent));
            if worth == Worth::Over || patience == 0 {
                break;
            }
        }
        let slot = EntityRef::try_from(choice?.1).ok()?;
        Some(self.remove(slot))
    }

    fn worth(&self, at: usize, now_ns: u64) -> Worth {
        let (gone_ns, used) = (self.gone_ns[at], self.marks[at].used);
        let retained = now_ns.saturating_sub(gone_ns) < RETENTION_NS;
        let process = self.entities[at].kind == EntityKind::Process;
        match (gone_ns != 0, used) {
            (true, _) if !retained => Worth::Over,
            (true, true) if process => Worth::Leaving,
            (true, false) if process => Worth::Over,
            (_, true) => Worth::Speaking,
            (false, false) => Worth::Silent,
            (true, false) => Worth::Remembered,
        }
    }

    /// Empties a slot and returns the key it held.
    fn remove(&mut self, slot: EntityRef) -> u64 {
        let key = self.replace(slot, Entity::default()).key;
        self.marks[slot as usize].occupied = false;
        if std::mem::take(&mut self.gone_ns[slot as usize]) != 0 {
            self.gone -= 1;
        }
        self.free.push(slot);
        key
    }

    /// Goes on with the sweep and calls `forget` for each slot it empties, with the key it held.
    pub(super) fn sweep(&mut self, keep: EntityRef, now_ns: u64, mut forget: impl FnMut(EntityRef, u64)) {
        if self.sweep_hand >= self.entities.len() {
            if now_ns.saturating_sub(self.sweep_began_ns) < SWEEP_PERIOD_NS {
                return;
            }
            self.sweep_hand = 1;
        }
        if self.sweep_hand == 1 {
            self.sweep_began_ns = now_ns;
        }
        self.touch(keep);
        let end = self.entities.len().min(self.sweep_hand + SWEEP_STEPS_MAX);
        for at in self.sweep_hand..end {
            let mark = &mut self.marks[at];
            mark.idle = if mark.used { 0 } else { mark.idle.saturating_add(1) };
            mark.used = false;
            let over = match self.gone_ns[at] {
                0 => mark.idle >= IDLE_SWEEPS_MAX,
                gone_ns => now_ns.saturating_sub(gone_ns) >= RETENTION_NS,
            };
            if mark.occupied
                && over
                && let Ok(slot) = EntityRef::try_from(at)
            {
                let key = self.remove(slot);
                forget(slot, key);
            }
        }
        self.sweep_hand = end;
    }
}

fn text_bytes(entity: &Entity) -> usize {
    let Entity { name, container_id, pod_uid, cgroup_path, unit, .. } = entity;
    [name, container_id, pod_uid, cgroup_path, unit].into_iter().map(String::len).sum()
}
