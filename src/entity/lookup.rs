//! Asks the live system: path of a cgroup id, invocation id of a unit, name of a process.
//!
//! A path costs four system calls however many cgroups there are: the kernel opens a cgroup by its id. Without
//! `CAP_DAC_READ_SEARCH` it does not; then the hierarchy is walked, at most once a second, and remembered.
//!
//! Invariants:
//! - Whatever cannot be answered is `None`; nothing here stops the agent.
//! - A walk and what is kept of it are bounded by [`WALK_LEN_MAX`] directories.
//! - Another manager's unit is never looked up among the host's by its name.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::mounts::{self, Mounts};
use super::{CgroupLookup, Manager, cgroup, trace};
use crate::event::CGROUP_V1;
use crate::sys::cgroup::open_by_id;

/// Directories that a walk looks at, at most.
pub const WALK_LEN_MAX: usize = 65_536;

const WALK_PAUSE: Duration = Duration::from_secs(1);

/// How systemd stores an invocation id on the cgroup of a unit: privileged, and from version 252 not.
const ATTRIBUTES: [&str; 2] = ["trusted.invocation_id", "user.invocation_id"];

/// One mounted hierarchy.
#[derive(Debug)]
struct Hierarchy {
    point: PathBuf,
    directory: File,
    /// Where opening by id is refused: paths by inode number, which is the id.
    walked: Option<HashMap<u64, String>>,
    walked_at: Option<Instant>,
}

/// The live system.
#[derive(Debug, Default)]
pub struct LiveLookup {
    unified: Option<Hierarchy>,
    memory: Option<Hierarchy>,
    /// The v1 hierarchy that systemd names itself, which carries no controller.
    systemd: Option<Hierarchy>,
}

impl LiveLookup {
    /// Finds the hierarchies in this process's mounts. One that cannot be opened is as good as absent.
    #[must_use]
    pub fn open() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self::with_mounts(mounts::parse(&mounts))
    }

    fn with_mounts(mounts: Mounts) -> Self {
        Self {
            unified: mounts.unified.and_then(Hierarchy::open),
            memory: mounts.memory.and_then(Hierarchy::open),
            systemd: mounts.systemd.and_then(Hierarchy::open),
        }
    }

    /// Where the v2 hierarchy and the v1 memory hierarchy are mounted, for people.
    #[must_use]
    pub fn mount_points(&self) -> [Option<&Path>; 2] {
        [&self.unified, &self.memory].map(|found| found.as_ref().map(|one| one.point.as_path()))
    }

    /// Whether a hierarchy has to be walked, since this process lacks `CAP_DAC_READ_SEARCH`.
    #[must_use]
    pub fn walks(&self) -> bool {
        [&self.unified, &self.memory].into_iter().flatten().any(|one| one.walked.is_some())
    }
}

impl CgroupLookup for LiveLookup {
    fn path(&mut self, cgroup: u64) -> Option<String> {
        let hierarchy = if cgroup & CGROUP_V1 == 0 { &mut self.unified } else { &mut self.memory };
        hierarchy.as_mut()?.path(cgroup & !CGROUP_V1)
    }

    fn invocation_id(&mut self, path: &str) -> Option<[u8; 16]> {
        // On a hybrid host, systemd may use any of the three.
        [&self.unified, &self.systemd, &self.memory]
            .into_iter()
            .flatten()
            .find_map(|hierarchy| hierarchy.invocation_id(path))
            .or_else(|| linked_invocation_id(Path::new("/run"), path))
    }

    fn process_name(&mut self, tgid: u32, start_ns: u64) -> Option<String> {
        let stat = fs::read(format!("/proc/{tgid}/stat")).ok()?;
        name_in_stat(&String::from_utf8_lossy(&stat), start_ns, rustix::param::clock_ticks_per_second())
    }
}

impl Hierarchy {
    fn open(point: PathBuf) -> Option<Self> {
        let directory = File::open(&point).ok()?;
        // Once is enough to know: the mount's own directory surely exists.
        let own_id = directory.metadata().ok()?.ino();
        let walked = open_by_id(&directory, own_id).is_err().then(HashMap::new);
        Some(Self { point, directory, walked, walked_at: None })
    }

    fn path(&mut self, id: u64) -> Option<String> {
        if self.walked.is_none() { self.path_by_handle(id).ok() } else { self.path_by_walk(id) }
    }

    fn path_by_handle(&self, id: u64) -> io::Result<String> {
        let opened = open_by_id(&self.directory, id)?;
        let path = fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))?;
        let path = path.strip_prefix(&self.point).map_err(io::Error::other)?;
        let path = path.to_string_lossy();
        // Removed between the two calls.
        Ok(format!("/{}", path.strip_suffix(" (deleted)").unwrap_or(&path)))
    }

    fn path_by_walk(&mut self, id: u64) -> Option<String> {
        let walked = self.walked.get_or_insert_default();
        if let Some(path) = walked.get(&id) {
            return Some(path.clone());
        }
        if self.walked_at.is_none_or(|at| at.elapsed() >= WALK_PAUSE) {
            *walked = walk(&self.point, WALK_LEN_MAX);
            self.walked_at = Some(Instant::now());
        }
        walked.get(&id).cloned()
    }

    fn invocation_id(&self, path: &str) -> Option<[u8; 16]> {
        let directory = self.point.join(path.trim_start_matches('/'));
        ATTRIBUTES.into_iter().find_map(|name| {
            let mut value = [0; 33];
            let length = rustix::fs::lgetxattr(&directory, name, &mut value[..]).ok()?;
            trace::parse_hex(std::str::from_utf8(value.get(..length)?).ok()?)
        })
    }
}

/// The paths of all directories below `point`, by inode number, up to `len_max` of them.
fn walk(point: &Path, len_max: usize) -> HashMap<u64, String> {
    let mut found = HashMap::new();
    let mut left = vec![String::new()];
    while let Some(path) = left.pop() {
        let Ok(entries) = fs::read_dir(point.join(path.trim_start_matches('/'))) else { continue };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if found.len() >= len_max {
                return found;
            }
            let below = format!("{path}/{}", entry.file_name().to_string_lossy());
            left.push(below.clone());
            found.insert(entry.ino(), below);
        }
    }
    found
}

/// The link that a manager keeps for each of its units below `run`, which is readable without privilege.
fn linked_invocation_id(run: &Path, path: &str) -> Option<[u8; 16]> {
    let parsed = cgroup::parse(path);
    let units = match parsed.manager {
        Manager::System => run.join("systemd/units"),
        Manager::User(uid) => run.join(format!("user/{uid}/systemd/units")),
        Manager::Nested => return None,
    };
    if parsed.unit.is_empty() {
        return None;
    }
    let target = fs::read_link(units.join(format!("invocation:{}", parsed.unit))).ok()?;
    trace::parse_hex(target.to_str()?)
}

/// The command name in `/proc/PID/stat`, if the process in there started at this time.
fn name_in_stat(stat: &str, start_ns: u64, ticks_per_second: u64) -> Option<String> {
    // The name is in brackets and may hold any of them itself.
    let (_, rest) = stat.split_once('(')?;
    let (name, rest) = rest.rsplit_once(')')?;
    // Field 22; the first behind the name is field 3.
    let ticks: u64 = rest.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let nanoseconds_per_tick = 1_000_000_000_u64.checked_div(ticks_per_second)?;
    (start_ns.checked_div(nanoseconds_per_tick)? == ticks).then(|| name.to_owned())
}

#[cfg(test)]
mod tests;
