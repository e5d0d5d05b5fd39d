//! Identity: which process, unit, container or pod an event is about, and its trace id.
//!
//! `cgroup` reads paths, `trace` makes trace ids, `table` remembers entities, `lookup` asks the live system,
//! `host` knows the host and the agent.
//!
//! Invariants:
//! - A process is (tgid, start time), never a bare pid; a cgroup is its kernfs id, which is never reused.
//! - Trace ids that the system already has are used as they are: invocation ids and container ids.
//! - An [`EntityTable`] belongs to one shard: no locks, bounded, and no allocation for what it knows.

pub mod cgroup;
pub mod host;
pub mod lookup;
mod mounts;
mod named;
mod pending;
mod slots;
mod table;
mod trace;

pub(crate) use host::replace_file;
pub use host::{Host, HostError};
pub use lookup::LiveLookup;
pub use table::{CAPACITY, EntityStats, EntityTable};

use crate::proto;

/// Index of an entity in its shard's table; valid while [`EntityTable::version`] stays the same.
pub type EntityRef = u32;

/// What an entity is; the names of `tapio.v1.EntityType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EntityKind {
    /// A process that no cgroup but the root contains.
    Process,
    /// A systemd unit, slices and scopes included.
    Unit,
    /// A container.
    Container,
    /// A pod, outside its containers.
    Pod,
    /// A cgroup that is none of these, or whose path is not known yet.
    #[default]
    Cgroup,
    /// The host itself.
    Node,
    /// Another object of Kubernetes.
    Object,
}

impl From<EntityKind> for proto::EntityType {
    fn from(kind: EntityKind) -> Self {
        match kind {
            EntityKind::Process => Self::Process,
            EntityKind::Unit => Self::Unit,
            EntityKind::Container => Self::Container,
            EntityKind::Pod => Self::Pod,
            EntityKind::Cgroup => Self::Cgroup,
            EntityKind::Node => Self::Node,
            EntityKind::Object => Self::Object,
        }
    }
}

/// Which service manager a unit belongs to. The names of units are unique within one manager only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Manager {
    /// The host's system manager, or there is no unit.
    #[default]
    System,
    /// The manager of the user with this uid, on the host.
    User(u32),
    /// A manager inside a container: its `nginx.service` is not the host's.
    Nested,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entity {
    /// The trace key: stable within a boot.
    pub key: u64,
    /// What it is.
    pub kind: EntityKind,
    /// Unit name, container id, pod uid, cgroup path or command name; empty while it is not known.
    pub name: String,
    /// Invocation id, first half of the container id, or a hash of the identity.
    pub trace_id: [u8; 16],
    /// The innermost container; empty for none.
    pub container_id: String,
    /// The pod; empty for none.
    pub pod_uid: String,
    /// From the root of the hierarchy; empty for processes and while it is not known. Cut at 1 KiB.
    pub cgroup_path: String,
    /// The innermost unit; empty for none.
    pub unit: String,
    /// Whose unit it is.
    pub manager: Manager,
    /// Thread group id; process entities only.
    pub pid: u32,
    /// `CLOCK_BOOTTIME` of the process's start, nanoseconds; process entities only.
    pub start_ns: u64,
}

impl Entity {
    /// The wire form.
    #[must_use]
    pub fn to_proto(&self) -> proto::Entity {
        proto::Entity {
            key: self.key,
            r#type: proto::EntityType::from(self.kind).into(),
            name: self.name.clone(),
            trace_id: bytes::Bytes::copy_from_slice(&self.trace_id),
            container_id: self.container_id.clone(),
            pod_uid: self.pod_uid.clone(),
            cgroup_path: self.cgroup_path.clone(),
            unit: self.unit.clone(),
            pid: self.pid,
            start_time_ns: self.start_ns,
        }
    }
}

/// What the table asks the live system; a seam, so that tests and replays need none.
pub trait CgroupLookup {
    /// The path of the cgroup, from the root of its hierarchy. `cgroup` is [`crate::event::Header::cgroup`].
    fn path(&mut self, cgroup: u64) -> Option<String>;

    /// The invocation id of the unit whose cgroup is at this path.
    fn invocation_id(&mut self, path: &str) -> Option<[u8; 16]>;

    /// The command name of the process, only if the process with this id started at this time.
    fn process_name(&mut self, tgid: u32, start_ns: u64) -> Option<String> {
        let _ = (tgid, start_ns);
        None
    }
}
