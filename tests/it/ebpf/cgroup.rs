//! The life of cgroups, who owns what in them, and the OOM killer.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tapio::collector::ebpf::Counter;
use tapio::event::{CGROUP_V1, Kind};

use super::recorder::{Recorder, Seen, one, options, root};
use crate::skipped;

/// A cgroup of the hierarchy that owns events here, removed at the end.
struct Group {
    folder: PathBuf,
    /// As the kernel's tracepoints have it.
    path: String,
    v1: bool,
    hierarchy: u64,
}

impl Group {
    /// Makes one where memory is controlled: v1 on a hybrid host, else v2.
    fn make(name: &str) -> io::Result<Self> {
        let mounts = std::fs::read_to_string("/proc/mounts")?;
        let mut found = None;
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            match fields[2] {
                "cgroup" if fields[3].split(',').any(|option| option == "memory") => {
                    found = Some((fields[1].to_owned(), true));
                }
                "cgroup2" if found.is_none() => found = Some((fields[1].to_owned(), false)),
                _ => {}
            }
        }
        let (mount, v1) = found.ok_or_else(|| io::Error::other("no cgroup hierarchy is mounted"))?;
        let name = format!("tapio-test-{name}-{}", std::process::id());
        let folder = Path::new(&mount).join(&name);
        std::fs::create_dir(&folder)?;
        let cgroups = std::fs::read_to_string("/proc/cgroups")?;
        let memory = cgroups.lines().find(|line| line.starts_with("memory\t"));
        let hierarchy = memory.and_then(|line| line.split('\t').nth(1)?.parse().ok()).unwrap_or(0);
        Ok(Self { folder, path: format!("/{name}"), v1, hierarchy: if v1 { hierarchy } else { 0 } })
    }

    /// As in `Header::cgroup`: the inode number is the kernfs id.
    fn id(&self) -> u64 {
        let id = std::fs::metadata(&self.folder).unwrap().ino();
        if self.v1 { id | CGROUP_V1 } else { id }
    }

    fn limit_memory(&self, bytes: u64) -> io::Result<()> {
        let file = if self.v1 { "memory.limit_in_bytes" } else { "memory.max" };
        std::fs::write(self.folder.join(file), bytes.to_string())
    }

    /// Runs a shell command in the group to its end.
    fn run(&self, command: &str) -> u32 {
        let procs = self.folder.join("cgroup.procs");
        let mut shell = Command::new("/bin/sh");
        shell.arg0("sh").args(["-c", &format!("echo $$ >{}; {command}", procs.display())]);
        let mut child = shell.spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_dir(&self.folder);
    }
}

fn kinds_of(events: &[Seen], id: u64) -> Vec<Kind> {
    let lives = [Kind::CgroupCreated, Kind::CgroupAttached, Kind::CgroupEmpty, Kind::CgroupRemoved];
    events
        .iter()
        .filter(|event| event.header.cgroup == id && lives.contains(&event.kind))
        .map(|event| event.kind)
        .collect()
}

/// Scenario: a cgroup is made, a process moves in, runs a program and ends, and the cgroup is removed.
/// Guarantees: four events in that order with id, path, hierarchy and level; the attach names the process;
/// what the process does next is owned by the cgroup.
#[test]
fn live_cgroup_life() {
    if !root("live_cgroup_life") {
        return;
    }
    let mut recorder = Recorder::start(&options(&["cgroup", "process"]));
    let group = match Group::make("life") {
        Ok(group) => group,
        Err(error) => return skipped("live_cgroup_life", &error.to_string()),
    };
    let id = group.id();
    let pid = group.run("exec /bin/sh -c 'exit 3'");
    // The kernel says a little later that the group is empty.
    std::thread::sleep(Duration::from_millis(100));
    std::fs::remove_dir(&group.folder).unwrap();
    let events = recorder.stop();

    let lives = [Kind::CgroupCreated, Kind::CgroupAttached, Kind::CgroupEmpty, Kind::CgroupRemoved];
    assert_eq!(kinds_of(&events, id), lives);
    for event in events.iter().filter(|event| event.header.cgroup == id && lives.contains(&event.kind)) {
        assert_eq!((&*event.text, event.number("level")), (&*group.path, 1));
        assert_eq!(event.number("hierarchy"), group.hierarchy);
    }
    let attached = one(&events, Kind::CgroupAttached, pid);
    let exit = one(&events, Kind::ProcessExit, pid);
    assert_eq!((exit.header.cgroup, exit.number("exit_code")), (id, 3));
    assert_eq!(attached.header.start_ns, exit.header.start_ns);
    assert_eq!(
        one(&events, Kind::ProcessFork, pid).header.cgroup,
        one_of_this_test(&events),
        "before it moved"
    );
}

/// The cgroup of this process, by any of its own children before they moved.
fn one_of_this_test(events: &[Seen]) -> u64 {
    let own = std::process::id();
    let fork = events
        .iter()
        .find(|event| event.kind == Kind::ProcessFork && event.number("parent_pid") == u64::from(own));
    fork.expect("this process forked").header.cgroup
}

/// Scenario: a process in a cgroup limited to 24 MiB takes more and more memory.
/// Guarantees: reclaim is counted; the victim is named with what it held, inside the limit; the kernel's
/// signal and the exit by it follow, all of the same process and cgroup.
#[test]
fn live_oom_in_a_cgroup() {
    const LIMIT: u64 = 24 << 20;
    if !root("live_oom_in_a_cgroup") {
        return;
    }
    let group = match Group::make("oom").and_then(|group| group.limit_memory(LIMIT).map(|()| group)) {
        Ok(group) => group,
        Err(error) => return skipped("live_oom_in_a_cgroup", &format!("no memory limit here: {error}")),
    };
    let mut recorder = Recorder::start(&options(&["oom", "signal", "process", "reclaim"]));
    let pid = group.run("exec tail /dev/zero");
    let events = recorder.stop();

    let victim = one(&events, Kind::OomVictim, pid);
    assert_eq!((victim.header.cgroup, victim.header.producer % 2), (group.id(), 1));
    assert_eq!(
        (&*victim.chars("comm"), victim.number("uid"), victim.signed("oom_score_adj")),
        ("tail", 0, own_adj())
    );
    let anon_kib = victim.number("anon_rss_kib");
    assert!((LIMIT / 2048..=LIMIT / 1024 + 1024).contains(&anon_kib), "{anon_kib} KiB");
    assert!(victim.number("total_vm_kib") >= anon_kib);
    assert!((1..1024).contains(&victim.number("pgtables_kib")));
    assert!(victim.number("file_rss_kib") < 16 << 10 && victim.number("shmem_rss_kib") < 1024);

    let signal = one(&events, Kind::Signal, pid);
    assert_eq!((signal.number("signal"), signal.signed("code")), (9, 128));
    let exit = one(&events, Kind::ProcessExit, pid);
    assert_eq!((exit.number("signal"), exit.header.cgroup), (9, group.id()));
    for event in [signal, exit] {
        assert_eq!(event.header.start_ns, victim.header.start_ns);
    }
    assert!(recorder.loaded.cpus.total(Counter::ReclaimMemcg) > 0);
}

fn own_adj() -> i64 {
    std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap()
}
