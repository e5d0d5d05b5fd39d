//! Identity against this machine's own cgroups.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, setxattr};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use tapio::entity::{CgroupLookup, EntityKind, EntityTable, LiveLookup};
use tapio::event::{CGROUP_V1, Header};

use crate::skipped;

/// A service's cgroup with a worker below it, in a slice of its own; removed when dropped.
struct Service {
    name: String,
    directories: [PathBuf; 3],
}

impl Service {
    fn make(mount: &Path, label: &str) -> std::io::Result<Self> {
        let name = format!("tapio-{label}-{}.service", std::process::id());
        let slice = mount.join(format!("tapiotest{label}{}.slice", std::process::id()));
        let service = slice.join(&name);
        let directories = [slice, service.clone(), service.join("worker")];
        fs::create_dir_all(&directories[2])?;
        Ok(Self { name, directories })
    }

    fn id(&self, depth: usize) -> u64 {
        fs::metadata(&self.directories[depth]).expect("the cgroup exists").ino()
    }

    fn remove(&self) {
        for directory in self.directories.iter().rev() {
            // On the second call, from drop, they are gone.
            let _ = fs::remove_dir(directory);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The hierarchies mounted here in which cgroups can be made, with the bit that their ids carry.
fn hierarchies(test: &str) -> Vec<(PathBuf, u64, Service)> {
    let mut found = Vec::new();
    let lookup = LiveLookup::open();
    for (point, bit, label) in
        [(lookup.mount_points()[0], 0, "unified"), (lookup.mount_points()[1], CGROUP_V1, "memory")]
    {
        let Some(point) = point else { continue };
        // One module's tests may run side by side: the test's name keeps them apart.
        match Service::make(point, &format!("{label}{}", test.replace('_', ""))) {
            Ok(service) => found.push((point.to_owned(), bit, service)),
            Err(error) => skipped(test, &format!("cannot make a cgroup in {}: {error}", point.display())),
        }
    }
    if found.is_empty() {
        skipped(test, "needs root and a mounted cgroup hierarchy");
    }
    found
}

/// Scenario: a service's cgroup with an invocation id, on each hierarchy that this machine has; an event of a
/// worker below it; then all of it is removed.
/// Guarantees: the id alone gives path, unit and the invocation id as trace id; after the removal it gives none.
#[test]
#[ignore = "needs root"]
fn live_cgroup_ids_give_units() {
    for (point, bit, service) in hierarchies("live_cgroup_ids_give_units") {
        setxattr(
            &service.directories[1],
            "user.invocation_id",
            b"00112233445566778899aabbccddeeff",
            XattrFlags::empty(),
        )
        .expect("cgroups take attributes");
        let cgroup = service.id(2) | bit;
        let mut table = EntityTable::new([1; 16], 16, Box::new(LiveLookup::open()));
        let entity = table.resolve(&Header { cgroup, ..Header::default() });
        let entity = table.get(entity);
        assert_eq!((entity.kind, &entity.unit), (EntityKind::Unit, &service.name), "{}", point.display());
        let path = service.directories[2].strip_prefix(&point).expect("below").display().to_string();
        assert_eq!(entity.cgroup_path, format!("/{path}"));
        assert_eq!(entity.trace_id[..4], [0, 0x11, 0x22, 0x33]);
        assert_eq!((table.stats().lookups, table.stats().lookup_failures), (2, 0));
        service.remove();
        assert_eq!(LiveLookup::open().path(cgroup), None);
    }
}

/// Scenario: the thread gives up the capability to open by id.
/// Guarantees: the walk gives the same paths.
#[test]
#[ignore = "needs root"]
fn live_walk_agrees_with_handles() {
    for (_, bit, service) in hierarchies("live_walk_agrees_with_handles") {
        let ids = [0, 1, 2].map(|depth| service.id(depth) | bit);
        let by_handle = ids.map(|id| LiveLookup::open().path(id).expect("exists"));
        let by_walk = std::thread::spawn(move || {
            let mut sets = capabilities(None).expect("readable");
            sets.effective.remove(CapabilitySet::DAC_READ_SEARCH);
            set_capabilities(None, sets).expect("giving up is allowed");
            let mut lookup = LiveLookup::open();
            assert!(lookup.walks());
            ids.map(|id| lookup.path(id).expect("exists"))
        });
        assert_eq!(by_walk.join().expect("no panic"), by_handle);
    }
}

/// Scenario: every process of this machine is asked for, by pid and start.
/// Guarantees: the names are those that /proc shows, and none for a start that is not theirs.
#[test]
#[ignore = "reads the whole machine"]
fn live_processes_have_names() {
    let ticks = rustix::param::clock_ticks_per_second();
    let mut lookup = LiveLookup::open();
    let mut names = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("mounted").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let start =
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)?.parse::<u64>().ok());
        let start_ns = start.expect("field 22") * (1_000_000_000 / ticks);
        if let Some(name) = lookup.process_name(pid, start_ns) {
            names.insert(pid, name);
            assert_eq!(lookup.process_name(pid, start_ns + 10_000_000_000), None);
        }
    }
    assert!(names.contains_key(&std::process::id()));
}

/// Scenario: systemd manages this machine; an event of every service that runs.
/// Guarantees: the trace id of each is the invocation id that systemctl shows.
#[test]
#[ignore = "needs systemd"]
fn live_services_have_their_invocation_id() {
    let test = "live_services_have_their_invocation_id";
    if !Path::new("/run/systemd/system").exists() {
        return skipped(test, "systemd does not manage this machine");
    }
    let lookup = LiveLookup::open();
    let points = [(lookup.mount_points()[0], 0), (lookup.mount_points()[1], CGROUP_V1)];
    let mut table = EntityTable::new([1; 16], 1024, Box::new(LiveLookup::open()));
    let mut checked = 0;
    for (point, bit) in points {
        let Some(slice) = point.map(|point| point.join("system.slice")) else { continue };
        for entry in fs::read_dir(slice).into_iter().flatten().flatten() {
            let unit = entry.file_name().to_string_lossy().into_owned();
            if !unit.ends_with(".service") {
                continue;
            }
            let show = ["show", "-p", "InvocationID", "--value", &unit];
            let shown = std::process::Command::new("systemctl").args(show).output().expect("systemctl runs");
            let cgroup = entry.metadata().expect("exists").ino() | bit;
            let entity = table.resolve(&Header { cgroup, ..Header::default() });
            let trace_id: String =
                table.get(entity).trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(trace_id, String::from_utf8_lossy(&shown.stdout).trim(), "{unit}");
            checked += 1;
        }
    }
    assert!(checked > 0, "systemd runs no service");
}
