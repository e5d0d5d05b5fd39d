//! Where the cgroup hierarchies are, and which of their directories are worth a sample.
//!
//! Invariants:
//! - Pure: texts decide. Lines that are not understood are skipped.

use std::path::{Path, PathBuf};

use crate::entity::EntityKind;
use crate::entity::cgroup::{self, CgroupPath};

/// A hierarchy, or the v1 controller that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    /// The v2 hierarchy with everything that it has.
    Unified,
    /// v1, as the following ones.
    Memory,
    Pids,
    Cpu,
    Cpuacct,
    Blkio,
}

impl Controller {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Unified, ""),
        (Self::Memory, "memory"),
        (Self::Pids, "pids"),
        (Self::Cpu, "cpu"),
        (Self::Cpuacct, "cpuacct"),
        (Self::Blkio, "blkio"),
    ];
}

/// Where each hierarchy is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout([Option<PathBuf>; Controller::ALL.len()]);

impl Layout {
    /// Reads `/proc/PID/mountinfo`. Of several mounts of a hierarchy the first that shows its root is taken.
    pub(super) fn parse(mountinfo: &str) -> Self {
        let mut layout = Self::default();
        let mut whole = [false; Controller::ALL.len()];
        for line in mountinfo.lines() {
            let Some(mount) = Mount::parse(line) else { continue };
            for (controller, name) in Controller::ALL {
                let found = match controller {
                    Controller::Unified => mount.kind == "cgroup2",
                    _ => mount.kind == "cgroup" && mount.options.split(',').any(|option| option == name),
                };
                let index = controller as usize;
                let shows_root = mount.root == "/" || mount.root.starts_with("/..");
                if found && (layout.0[index].is_none() || shows_root && !whole[index]) {
                    layout.0[index] = Some(mount.point.clone());
                    whole[index] = shows_root;
                }
            }
        }
        layout
    }

    pub(super) fn point(&self, controller: Controller) -> Option<&Path> {
        self.0[controller as usize].as_deref()
    }
}

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount<'line> {
    pub(super) device: (u32, u32),
    pub(super) root: &'line str,
    pub(super) point: PathBuf,
    pub(super) kind: &'line str,
    /// What is mounted: `/dev/sda1`, or a word.
    pub(super) what: &'line str,
    options: &'line str,
}

impl<'line> Mount<'line> {
    pub(super) fn parse(line: &'line str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(2);
        let (device, root, point) = (before.next()?, before.next()?, before.next()?);
        let (major, minor) = device.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        let mut after = after.split(' ');
        let (kind, what, options) = (after.next()?, after.next()?, after.next()?);
        Some(Self { device, root, point: PathBuf::from(unescape(point)), kind, what, options })
    }
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let code = text.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (bytes[at], code) {
            (b'\\', Some(code)) => {
                plain.push(code);
                at += 4;
            }
            (byte, _) => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// Whether this path is the own cgroup of a unit, a container or a pod, not one inside it.
pub(super) fn is_own(path: &str) -> bool {
    let own = cgroup::parse(path);
    let Some((parent, _)) = path.rsplit_once('/') else { return false };
    match own.kind {
        EntityKind::Unit => own.unit_path == path,
        EntityKind::Container | EntityKind::Pod => {
            let around = cgroup::parse(parent);
            identity(&own) != identity(&around)
        }
        _ => false,
    }
}

fn identity<'path>(path: &'path CgroupPath<'_>) -> (&'path str, &'path str) {
    (path.container_id, &path.pod_uid)
}

/// Whether processes live in it: a slice only has other cgroups.
pub(super) fn has_processes(path: &str) -> bool {
    !path.ends_with(".slice")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the mounts of a v2 host, of a hybrid one, and of a container with its own view beside the host's.
    /// Guarantees: each hierarchy is where it is mounted; the host's view is taken; nonsense is skipped.
    #[test]
    fn hierarchies_are_found() {
        let layout =
            Layout::parse("29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\nx\n");
        assert_eq!(layout.point(Controller::Unified), Some(Path::new("/sys/fs/cgroup")));
        assert_eq!(layout.point(Controller::Memory), None);
        let hybrid = "32 31 0:29 / /cg/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /cg/mem\\040ory rw shared:1 - cgroup cgroup rw,memory\n\
            40 31 0:37 / /cg/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw\n";
        let layout = Layout::parse(hybrid);
        let at = |controller| layout.point(controller).and_then(Path::to_str);
        assert_eq!(at(Controller::Unified), Some("/cg/unified"));
        assert_eq!(at(Controller::Memory), Some("/cg/mem ory"));
        assert_eq!(
            (at(Controller::Cpu), at(Controller::Cpuacct)),
            (Some("/cg/cpu,cpuacct"), Some("/cg/cpu,cpuacct"))
        );
        assert_eq!((at(Controller::Pids), at(Controller::Blkio)), (None, None));
        let part = "1 2 0:3 /kubepods/x /sys/fs/cgroup rw - cgroup2 cgroup rw\n4 2 0:3 / /host/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(Layout::parse(part).point(Controller::Unified), Some(Path::new("/host/cgroup")));
    }

    /// Scenario: paths of units, of what is inside them, of pods, containers and what is inside those.
    /// Guarantees: each unit, pod and container has one cgroup.
    #[test]
    fn own_cgroups_are_told_from_those_inside() {
        let id = "3b1f7cbb6bb0e7d2e16bb2c0d1d4d6f2a9d3b4c5e6f708192a3b4c5d6e7f8091";
        let pod = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod11111111_2222_3333_4444_555555555555.slice";
        let container = format!("{pod}/cri-containerd-{id}.scope");
        for (path, own) in [
            ("/system.slice", true),
            ("/system.slice/nginx.service", true),
            ("/system.slice/nginx.service/worker", false),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/x.service", true),
            (pod, true),
            (container.as_str(), true),
            (&format!("{container}/init.scope"), false),
            (&format!("/docker/{id}"), true),
            ("/docker", false),
            ("/", false),
            ("", false),
        ] {
            assert_eq!(is_own(path), own, "{path}");
        }
    }
}
