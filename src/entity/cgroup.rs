//! Reads the path of a cgroup: which unit, slice, container and pod it belongs to.
//!
//! Knows systemd on v1, v2 and hybrid hierarchies, both cgroup drivers of Kubernetes, containerd, docker,
//! cri-o, podman, nspawn, lxc and ecs, and these inside each other. What is innermost wins: in a cluster that
//! runs in containers, the pod's container and not the node's.
//!
//! Invariants:
//! - Pure, total and linear: any text is a path, and no text is an error.
//! - A container's monitor (conmon) is not the container.

use super::{EntityKind, Manager};

/// What made the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Runtime {
    /// No container, or its path does not say.
    #[default]
    Unknown,
    /// containerd, through CRI or nerdctl.
    Containerd,
    /// Docker.
    Docker,
    /// CRI-O.
    CriO,
    /// Podman.
    Podman,
    /// LXC or LXD; the container id is the container's name.
    Lxc,
    /// Amazon ECS.
    Ecs,
}

/// What a path says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CgroupPath<'path> {
    /// What owns the cgroup.
    pub kind: EntityKind,
    /// The innermost unit, escaped as systemctl shows it; empty for none.
    pub unit: &'path str,
    /// Whose unit it is.
    pub manager: Manager,
    /// Path of the unit's own cgroup; empty for none.
    pub unit_path: &'path str,
    /// The innermost slice; empty for none.
    pub slice: &'path str,
    /// The innermost container; empty for none.
    pub container_id: &'path str,
    /// What made that container.
    pub runtime: Runtime,
    /// The innermost pod, with dashes as Kubernetes writes it; empty for none.
    pub pod_uid: String,
}

/// Prefixes that runtimes put before the container id, and whether the cgroup is the container's.
const PREFIXES: [(&str, Runtime, bool); 9] = [
    ("cri-containerd-", Runtime::Containerd, true),
    ("nerdctl-", Runtime::Containerd, true),
    ("docker-", Runtime::Docker, true),
    ("crio-conmon-", Runtime::CriO, false),
    ("crio-", Runtime::CriO, true),
    ("libpod-conmon-", Runtime::Podman, false),
    ("libpod-payload-", Runtime::Podman, true),
    ("libpod-", Runtime::Podman, true),
    ("conmon-", Runtime::Unknown, false),
];

/// The types of units that have cgroups.
const UNIT_SUFFIXES: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// Reads a path, given from the root of its hierarchy.
#[must_use]
pub fn parse(path: &str) -> CgroupPath<'_> {
    let mut found = CgroupPath { kind: EntityKind::Node, ..CgroupPath::default() };
    // Whose units the next component may name: systemd looks for units below slices only, so below
    // anything else they are another manager's.
    let mut manager = Manager::System;
    let mut parents = ["", ""];
    let mut end = 0;
    for component in path.split('/') {
        let after = end + component.len();
        end = after + 1;
        if matches!(component, "" | "." | "..") {
            continue;
        }
        found.kind = EntityKind::Cgroup;
        // systemd puts an underscore before names that would read as a control file.
        let name = component.strip_prefix('_').unwrap_or(component);
        if let Some(uid) = pod_uid(name) {
            found.pod_uid = uid.replace('_', "-");
            found.container_id = "";
            found.runtime = Runtime::Unknown;
        }
        let container = container(name, parents);
        if is_unit(name) {
            found.unit = name;
            found.manager = manager;
            found.unit_path = path.get(..after).unwrap_or_default();
            if name.ends_with(".slice") {
                found.slice = name;
            } else {
                manager = user_manager(name, manager);
            }
        } else {
            manager = Manager::Nested;
        }
        if let Some((runtime, id)) = container {
            found.container_id = id;
            found.runtime = runtime;
            manager = Manager::Nested;
        }
        parents = [name, parents[0]];
    }
    if !found.container_id.is_empty() {
        found.kind = EntityKind::Container;
    } else if !found.pod_uid.is_empty() {
        found.kind = EntityKind::Pod;
    } else if !found.unit.is_empty() {
        found.kind = EntityKind::Unit;
    }
    found
}

/// Whose units live below this unit, which is not a slice.
fn user_manager(unit: &str, manager: Manager) -> Manager {
    let uid = unit.strip_prefix("user@").and_then(|rest| rest.strip_suffix(".service"));
    match (manager, uid.and_then(|uid| uid.parse().ok())) {
        (Manager::System, Some(uid)) => Manager::User(uid),
        _ => Manager::Nested,
    }
}

fn is_unit(name: &str) -> bool {
    let Some(stem) = UNIT_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)) else {
        return false;
    };
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    // "x@.service" is a template, which never runs.
    !stem.is_empty()
        && !stem.starts_with('@')
        && !stem.ends_with('@')
        && name.len() <= 255
        && stem.bytes().all(legal)
}

/// The container whose cgroup has this name, below these parents (nearest first).
fn container<'path>(name: &'path str, parents: [&str; 2]) -> Option<(Runtime, &'path str)> {
    // The systemd cgroup syntax given to the cgroupfs driver: SLICE:RUNTIME:ID.
    if let Some((rest, id)) = name.rsplit_once(':')
        && let Some((_, runtime)) = rest.rsplit_once(':')
        && is_hex(id, 12)
    {
        return Some((runtime_named(runtime), id));
    }
    let stem = name.strip_suffix(".scope").unwrap_or(name);
    for (prefix, runtime, is_container) in PREFIXES {
        if let Some(id) = stem.strip_prefix(prefix)
            && is_hex(id, 12)
        {
            return is_container.then_some((runtime, id));
        }
    }
    if let Some(id) = name.strip_prefix("lxc.payload.") {
        return (!id.is_empty()).then_some((Runtime::Lxc, id));
    }
    if matches!(parents[0], "lxc" | "lxc.payload") && !is_unit(name) {
        return Some((Runtime::Lxc, name));
    }
    if parents[1] == "ecs"
        && let Some((task, number)) = name.rsplit_once('-')
        && is_hex(task, 32)
        && number.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Some((Runtime::Ecs, name));
    }
    bare_container(stem, parents)
}

/// A full id, alone or behind a prefix that nobody told us about.
fn bare_container<'path>(stem: &'path str, parents: [&str; 2]) -> Option<(Runtime, &'path str)> {
    let id = stem.rsplit_once('-').map_or(stem, |(_, id)| id);
    if id.len() != 64 || !is_hex(id, 64) || stem.contains("conmon") {
        return None;
    }
    let runtime = if parents[1] == "ecs" { Runtime::Ecs } else { runtime_named(parents[0]) };
    Some((runtime, id))
}

/// The runtime that names its parent cgroup, or itself, like this.
fn runtime_named(name: &str) -> Runtime {
    match name {
        "cri-containerd" | "containerd" | "nerdctl" | "default" | "k8s.io" => Runtime::Containerd,
        "docker" => Runtime::Docker,
        "crio" => Runtime::CriO,
        "libpod" | "libpod_parent" => Runtime::Podman,
        _ => Runtime::Unknown,
    }
}

/// The uid in a pod's cgroup name: `podUID`, or a slice that ends in `-podUID`, and either before a colon.
fn pod_uid(name: &str) -> Option<&str> {
    let name = name.split(':').next().unwrap_or(name);
    let stem = name.strip_suffix(".slice").unwrap_or(name);
    // The uid itself holds dashes under the cgroupfs driver, so look for the last "pod".
    let at = stem.rfind("pod")?;
    let (before, uid) = (stem.get(..at)?, stem.get(at + 3..)?);
    let known = before.is_empty() || (before.ends_with('-') && before.contains("kubepods"));
    (known && is_pod_uid(uid)).then_some(uid)
}

/// A UUID with dashes or underscores, or the 32 digits of a static pod.
fn is_pod_uid(text: &str) -> bool {
    if text.len() == 32 {
        return is_hex(text, 32);
    }
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-' || byte == b'_',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Hexadecimal, with at least this many and at most 64 digits.
fn is_hex(text: &str, digits_min: usize) -> bool {
    (digits_min..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests;
