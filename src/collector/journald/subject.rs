//! Whom an entry is about: who wrote it, unless it is a word of somebody who may speak of others.
//!
//! Invariants:
//! - Pure. A sender can name another as the subject only with the rights of the manager, of journald, of what stores
//!   core dumps, or of root: a program cannot put words into another's mouth.
//! - Kernel lines are the node's unless they name a cgroup.

use super::kernel;
use super::meaning::{self, By, KUBELET, Meaning};
use super::said::{Name, Said};
use crate::entity::{EntityKind, Manager, cgroup};
use crate::event::fields;

/// The programs that are kubelets, of the distributions too that put more into the same program.
const KUBELETS: [&str; 4] = ["kubelet", "kubelite", "k3s-server", "k3s-agent"];

/// Whom an entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// This host.
    Node,
    /// A unit, of the host's manager or a user's.
    Unit(String, Option<u32>),
    /// A container.
    Container(String),
    /// A pod, of no container in particular.
    Pod(String),
}

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject<'entry> {
    /// Whose it is.
    pub(super) owner: Owner,
    /// The run of the unit; 0 if it is not known.
    pub(super) invocation: u128,
    /// The process that it is about.
    pub(super) pid: Option<u64>,
    /// What its `MESSAGE_ID` means.
    pub(super) meaning: Option<&'static Meaning>,
    /// What the kernel's line says.
    pub(super) line: Option<kernel::Line<'entry>>,
}

/// The subject of an entry.
pub(super) fn of<'entry>(said: &Said<'entry>) -> Subject<'entry> {
    if is_kernel(said) {
        return of_kernel(said);
    }
    let meaning = said.id(Name::MessageId).and_then(meaning::of).filter(|meaning| may_say(said, meaning.by));
    let by = meaning.map(|meaning| meaning.by);
    let told = if is_manager(said) {
        of_manager(said)
    } else if by == Some(By::Coredump) {
        of_coredump(said)
    } else {
        of_object(said).or_else(|| of_runtime(said)).or_else(|| of_kubelet(said))
    };
    let mut subject = told.unwrap_or_else(|| of_sender(said));
    subject.meaning = meaning.or(subject.meaning);
    subject
}

fn subject<'entry>(owner: Owner, invocation: Option<u128>, pid: Option<u64>) -> Subject<'entry> {
    Subject { owner, invocation: invocation.unwrap_or(0), pid, meaning: None, line: None }
}

/// Programs can write into the kernel's log, but not with its facility.
fn is_kernel(said: &Said<'_>) -> bool {
    said.get(Name::Transport) == b"kernel" && said.get(Name::SyslogFacility) == b"0"
}

fn is_manager(said: &Said<'_>) -> bool {
    let comm = said.get(Name::Comm) == b"systemd";
    said.get(Name::Pid) == b"1" || comm && said.text(Name::SystemdUserUnit) == "init.scope"
}

fn is_root(said: &Said<'_>) -> bool {
    said.get(Name::Uid) == b"0"
}

fn may_say(said: &Said<'_>, by: By) -> bool {
    match by {
        By::Manager => is_manager(said),
        By::Journal => said.get(Name::Transport) == b"driver",
        By::Coredump => is_root(said) || said.text(Name::SystemdUnit).starts_with("systemd-coredump@"),
        By::Root => is_root(said),
        By::Unit(unit) => said.text(Name::SystemdUnit) == unit,
    }
}

fn of_kernel<'entry>(said: &Said<'entry>) -> Subject<'entry> {
    let line = kernel::parse(said.text(Name::Message));
    let value =
        |name| line.as_ref()?.fields.iter().find(|(found, _)| *found == name).map(|(_, value)| *value);
    let owner_in = |name| value(name).and_then(of_path);
    // The limit's owner is the subject of an out-of-memory kill; a kill for the whole host is the node's. The limit of a
    // pod is that of its containers together, so that a pod of one is at its limit first: the container is who was over it.
    let owner = match (owner_in(fields::LIMIT_CGROUP), owner_in(fields::CGROUP)) {
        (Some(Owner::Pod(_)), Some(victim @ Owner::Container(_))) => victim,
        (Some(limited), _) => limited,
        (None, Some(victim)) if value(fields::CONSTRAINT).is_none() => victim,
        _ => Owner::Node,
    };
    let pid = value(fields::PID).and_then(|pid| pid.parse().ok());
    Subject { line: line.clone(), ..subject(owner, None, pid) }
}

/// What a manager says about a unit.
fn of_manager<'entry>(said: &Said<'entry>) -> Option<Subject<'entry>> {
    let unit = said.text(Name::Unit);
    if !unit.is_empty() {
        return Some(subject(Owner::Unit(unit.into(), None), said.id(Name::InvocationId), None));
    }
    let unit = said.text(Name::UserUnit);
    if !unit.is_empty() {
        let owner = Owner::Unit(unit.into(), user(said));
        return Some(subject(owner, said.id(Name::UserInvocationId), None));
    }
    None
}

/// What dumped core.
fn of_coredump<'entry>(said: &Said<'entry>) -> Option<Subject<'entry>> {
    let path = said.text(Name::CoredumpCgroup);
    let unit = said.text(Name::CoredumpUnit);
    let user_unit = said.text(Name::CoredumpUserUnit);
    let owner = of_path(path).or_else(|| {
        let uid = said.number(Name::CoredumpOwnerUid).or_else(|| said.number(Name::CoredumpUid));
        let uid = uid.and_then(|uid| u32::try_from(uid).ok());
        match (user_unit.is_empty(), unit.is_empty()) {
            (false, _) => Some(Owner::Unit(user_unit.into(), uid)),
            (true, false) => Some(Owner::Unit(unit.into(), None)),
            (true, true) => None,
        }
    });
    Some(subject(owner.unwrap_or(Owner::Node), None, said.number(Name::CoredumpPid)))
}

/// journald adds these fields for senders that may speak of other processes.
fn of_object<'entry>(said: &Said<'entry>) -> Option<Subject<'entry>> {
    let driver = said.get(Name::Transport) == b"driver";
    if !driver && !is_root(said) {
        return None;
    }
    let unit = said.text(Name::ObjectSystemdUnit);
    let named = || (!unit.is_empty()).then(|| Owner::Unit(unit.into(), None));
    let owner = of_path(said.text(Name::ObjectSystemdCgroup)).or_else(named)?;
    Some(subject(owner, said.id(Name::ObjectSystemdInvocationId), said.number(Name::ObjectPid)))
}

/// What a container runtime passes on for its containers.
fn of_runtime<'entry>(said: &Said<'entry>) -> Option<Subject<'entry>> {
    let id = said.text(Name::ContainerId);
    let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_id && is_root(said)).then(|| subject(Owner::Container(id.into()), None, None))
}

/// What the kubelet says of a container, or of a pod. Its structured lines end in `key="value"` pairs, whose values have
/// their quotes escaped.
fn of_kubelet<'entry>(said: &Said<'entry>) -> Option<Subject<'entry>> {
    if !is_root(said) || !KUBELETS.contains(&said.text(Name::Comm)) {
        return None;
    }
    let message = said.text(Name::Message);
    let value = |key: &str| message.split_once(key)?.1.split_once('"').map(|(value, _)| value);
    let is_hex = |id: &str| id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let container = value(" containerID=\"").map(|id| id.split_once("://").map_or(id, |(_, id)| id));
    let owner = match container.filter(|id| id.len() == 64 && is_hex(id)) {
        Some(id) => Owner::Container(id.into()),
        None => {
            let uid = value(" podUID=\"")?;
            let parts: Vec<&str> = uid.split('-').collect();
            if parts.len() != 5 || uid.len() != 36 || !parts.into_iter().all(is_hex) {
                return None;
            }
            Owner::Pod(uid.into())
        }
    };
    Some(Subject { meaning: Some(&KUBELET), ..subject(owner, None, None) })
}

/// Who wrote the entry.
fn of_sender<'entry>(said: &Said<'entry>) -> Subject<'entry> {
    let pid = said.number(Name::Pid);
    let unit = said.text(Name::SystemdUnit);
    let user_unit = said.text(Name::SystemdUserUnit);
    let owner = of_path(said.text(Name::SystemdCgroup)).unwrap_or_else(|| {
        if !user_unit.is_empty() {
            Owner::Unit(user_unit.into(), user(said))
        } else if unit.is_empty() {
            Owner::Node
        } else {
            Owner::Unit(unit.into(), None)
        }
    });
    // journald notes the run of the host's unit only, which for a user's unit is that of the user's manager.
    let of_host = matches!(&owner, Owner::Unit(name, None) if name == unit);
    subject(owner, said.id(Name::SystemdInvocationId).filter(|_| of_host), pid)
}

fn user(said: &Said<'_>) -> Option<u32> {
    let uid = said.number(Name::SystemdOwnerUid).or_else(|| said.number(Name::Uid));
    uid.and_then(|uid| u32::try_from(uid).ok())
}

/// What owns a cgroup of the host.
fn of_path(path: &str) -> Option<Owner> {
    let found = cgroup::parse(path);
    match found.kind {
        EntityKind::Container => Some(Owner::Container(found.container_id.into())),
        EntityKind::Pod => Some(Owner::Pod(found.pod_uid)),
        EntityKind::Unit => match found.manager {
            Manager::System => Some(Owner::Unit(found.unit.into(), None)),
            Manager::User(uid) => Some(Owner::Unit(found.unit.into(), Some(uid))),
            Manager::Nested => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests;
