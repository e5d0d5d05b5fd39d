//! Rounds over made-up hosts: v2, v1, and both.

use std::fs;

use super::super::files::{ABSENT, Field};
use super::*;
use crate::event::{Event, Fields};

const SECOND: u64 = 1_000_000_000;

/// A host in a folder: a proc and its hierarchies.
struct Fake {
    folder: tempfile::TempDir,
}

/// What was sent: kind, cgroup, slots, and a mount point.
type Seen = (Kind, u64, Vec<u64>, String);

impl Fake {
    /// Hierarchies by name, each with the type and options of its mount.
    fn new(hierarchies: &[(&str, &str, &str)]) -> Self {
        let fake = Self { folder: tempfile::tempdir().expect("a folder") };
        let root = fake.folder.path().display();
        let mounts: String = hierarchies
            .iter()
            .map(|(name, kind, options)| format!("1 0 0:9 / {root}/{name} rw - {kind} cgroup rw,{options}\n"))
            .collect();
        fake.write("proc/self/mountinfo", &mounts);
        for (name, _, _) in hierarchies {
            fs::create_dir_all(fake.folder.path().join(name)).expect("made");
        }
        fake
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    fn round(&self) -> Round {
        Round::new(&self.folder.path().join("proc"))
    }

    /// The id of a directory.
    fn inode(&self, path: &str) -> u64 {
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(self.folder.path().join(path)).expect("is there"))
    }
}

fn run(round: &mut Round, now: u64, fast: bool) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut builder = EventBuilder::default();
    let mut send = |event: &mut EventBuilder| {
        let event = Event::parse(event.finish()).expect("an event");
        let mount = Fields::new(event.text()).get(fields::MOUNT).into_owned();
        seen.push((event.info().kind, event.header().cgroup, event.slots().to_vec(), mount));
    };
    if fast {
        round.fast(now, &mut builder, &mut send)
    } else {
        round.whole(now, &mut builder, &mut send)
    }
    seen
}

/// What was sent of one cgroup.
fn of(seen: &[Seen], id: u64) -> Vec<Usage> {
    let cgroups = seen.iter().filter(|(kind, cgroup, _, _)| *kind == Kind::CgroupUsage && *cgroup == id);
    cgroups.map(|(_, _, slots, _)| Usage(slots.as_slice().try_into().expect("all slots"))).collect()
}

const WEB: &str = "system.slice/web.service";

fn v2() -> Fake {
    let fake = Fake::new(&[("cg", "cgroup2", "nsdelegate")]);
    for (name, text) in [
        ("memory.current", "1000000\n"),
        ("memory.max", "2000000\n"),
        ("memory.stat", "anon 600000\nfile 400000\n"),
        ("memory.events", "low 0\noom_kill 0\n"),
        ("pids.current", "7\n"),
        ("pids.max", "max\n"),
        ("cpu.stat", "usage_usec 5000\n"),
        ("cgroup.procs", "77\n"),
    ] {
        fake.write(&format!("cg/{WEB}/{name}"), text);
    }
    fake.write(
        "proc/77/limits",
        "Max open files            1024                 4096                 files\n",
    );
    for file in 0..5 {
        fake.write(&format!("proc/77/fd/{file}"), "");
    }
    fs::create_dir_all(fake.folder.path().join(format!("cg/{WEB}/inner"))).expect("made");
    fake
}

/// Scenario: a v2 host with a service, sampled again without a change, with a small one, a large one, after a minute,
/// and after the service is gone.
/// Guarantees: the first sample has every number; only news and the minute's sample follow; what is inside a service is
/// not sampled; gone means silent.
#[test]
fn changes_only_are_sent() {
    let fake = v2();
    let mut round = fake.round();
    let id = fake.inode(&format!("cg/{WEB}"));
    let seen = run(&mut round, SECOND, false);
    let sent = of(&seen, id);
    assert_eq!(sent.len(), 1, "{seen:?}");
    for (field, value) in [
        (Field::MemoryBytes, 1_000_000),
        (Field::MemoryLimitBytes, 2_000_000),
        (Field::AnonBytes, 600_000),
        (Field::Tasks, 7),
        (Field::TasksLimit, ABSENT),
        (Field::OpenFiles, 5),
        (Field::OpenFilesLimit, 1024),
        (Field::CpuUs, 5000),
        (Field::OomKills, 0),
        (Field::IoStalledUs, ABSENT),
    ] {
        assert_eq!(sent[0].get(field), value, "{field:?}");
    }
    assert!(of(&seen, fake.inode(&format!("cg/{WEB}/inner"))).is_empty());
    assert_eq!(seen.iter().filter(|(kind, ..)| *kind == Kind::NodeUsage).count(), 1);

    assert!(run(&mut round, 11 * SECOND, false).is_empty(), "nothing has changed");
    fake.write(&format!("cg/{WEB}/memory.current"), "1005000\n");
    assert!(of(&run(&mut round, 21 * SECOND, false), id).is_empty());
    fake.write(&format!("cg/{WEB}/memory.current"), "1100000\n");
    fake.write(&format!("cg/{WEB}/memory.stat"), "anon 700000\n");
    let sent = of(&run(&mut round, 31 * SECOND, false), id);
    assert_eq!(
        (sent.len(), sent[0].get(Field::MemoryBytes), sent[0].get(Field::AnonBytes)),
        (1, 1_100_000, 700_000)
    );
    assert!(of(&run(&mut round, 90 * SECOND, false), id).is_empty());
    assert_eq!(of(&run(&mut round, 91 * SECOND, false), id).len(), 1, "once a minute");
    fs::remove_dir_all(fake.folder.path().join("cg/system.slice")).expect("removed");
    assert!(run(&mut round, 92 * SECOND, false).iter().all(|(kind, ..)| *kind != Kind::CgroupUsage));
    assert_eq!(round.descriptors.0, places(), "every place was given back");
}

/// Scenario: the service comes near its limit, and leaves it.
/// Guarantees: it is sampled in the fast rounds as long as it is near, and its changes are sent.
#[test]
fn what_is_near_a_limit_is_looked_at_more_often() {
    let fake = v2();
    let mut round = fake.round();
    let id = fake.inode(&format!("cg/{WEB}"));
    run(&mut round, SECOND, false);
    assert!(!round.has_pressing());
    fake.write(&format!("cg/{WEB}/memory.current"), "1700000\n");
    run(&mut round, 11 * SECOND, false);
    assert!(round.has_pressing());
    fake.write(&format!("cg/{WEB}/memory.current"), "1900000\n");
    let sent = of(&run(&mut round, 12 * SECOND, true), id);
    assert_eq!(sent[0].get(Field::MemoryBytes), 1_900_000);
    fake.write(&format!("cg/{WEB}/memory.current"), "1000000\n");
    run(&mut round, 13 * SECOND, true);
    assert!(!round.has_pressing());
}

/// Scenario: a hybrid host: a container on the v1 hierarchies only, a service on v2 as well.
/// Guarantees: the numbers come from v1; the ids are those that events of processes have: v2 where the cgroup is
/// there, else that of the v1 memory hierarchy.
#[test]
fn hybrid_hosts_have_their_numbers_on_v1() {
    let fake = Fake::new(&[
        ("unified", "cgroup2", "x"),
        ("memory", "cgroup", "memory"),
        ("pids", "cgroup", "pids"),
        ("cpu", "cgroup", "cpu,cpuacct"),
    ]);
    let container = format!("docker/{}", "ab".repeat(32));
    for path in [WEB, container.as_str()] {
        fake.write(&format!("memory/{path}/memory.usage_in_bytes"), "5000\n");
        fake.write(&format!("memory/{path}/memory.limit_in_bytes"), "9223372036854771712\n");
        fake.write(&format!("memory/{path}/memory.oom_control"), "under_oom 0\noom_kill 3\n");
        fake.write(&format!("pids/{path}/pids.current"), "4\n");
        fake.write(&format!("pids/{path}/pids.max"), "10\n");
        fake.write(&format!("cpu/{path}/cpu.stat"), "nr_periods 6\nnr_throttled 5\nthrottled_time 4000\n");
        fake.write(&format!("cpu/{path}/cpuacct.usage"), "9000\n");
    }
    fake.write(&format!("unified/{WEB}/memory.pressure"), "some avg10=0.00 total=11\n");
    let seen = run(&mut fake.round(), SECOND, false);
    let ids = [fake.inode(&format!("unified/{WEB}")), fake.inode(&format!("memory/{container}")) | CGROUP_V1];
    for (id, stalled) in ids.into_iter().zip([11, ABSENT]) {
        let sent = of(&seen, id);
        assert_eq!(sent.len(), 1, "{seen:?}");
        for (field, value) in [
            (Field::MemoryBytes, 5000),
            (Field::MemoryLimitBytes, ABSENT),
            (Field::Tasks, 4),
            (Field::TasksLimit, 10),
            (Field::CpuUs, 9),
            (Field::CpuThrottledPeriods, 5),
            (Field::CpuThrottledUs, 4),
            (Field::OomKills, 3),
            (Field::MemoryStalledUs, stalled),
        ] {
            assert_eq!(sent[0].get(field), value, "{field:?}");
        }
    }
}

/// Scenario: more services than are sampled, all of them near a limit, and no descriptors to spare.
/// Guarantees: what is beyond is counted, fast ones are bounded, and without descriptors the numbers are the same.
#[test]
fn bounds_hold() {
    let fake = Fake::new(&[("cg", "cgroup2", "x")]);
    for number in 0..CGROUPS_MAX + 10 {
        let path = format!("cg/s{number}.service");
        fs::create_dir(fake.folder.path().join(&path)).expect("made");
        if number < 100 {
            fake.write(&format!("{path}/memory.current"), "9\n");
            fake.write(&format!("{path}/memory.max"), "10\n");
        }
    }
    let mut round = fake.round();
    round.descriptors = Descriptors(3);
    let seen = run(&mut round, SECOND, false);
    assert_eq!(round.beyond(), 10);
    assert_eq!(round.descriptors.0, 0);
    assert_eq!(round.pressing.len(), FAST_MAX);
    let sent = seen.iter().filter(|(kind, _, slots, _)| *kind == Kind::CgroupUsage && slots[..2] == [9, 10]);
    assert!(sent.count() > FAST_MAX);
}
