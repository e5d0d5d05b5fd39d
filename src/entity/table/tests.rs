//! A table between events and a system that a test can change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use proptest::prelude::*;
use zerocopy::FromBytes;

use super::super::slots::RETENTION_NS;
use super::*;

const SECOND: u64 = 1_000_000_000;
const BOOT: [u8; 16] = [9; 16];

/// A system that a test can change while a table asks it.
#[derive(Default)]
struct System {
    paths: BTreeMap<u64, String>,
    invocations: BTreeMap<String, [u8; 16]>,
    names: BTreeMap<(u32, u64), String>,
    questions: u64,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<System>>);

impl Fake {
    fn system(&self) -> MutexGuard<'_, System> {
        self.0.lock().expect("no test panics while it holds the lock")
    }

    fn table(&self, capacity: usize) -> EntityTable {
        EntityTable::new(BOOT, capacity, Box::new(self.clone()))
    }
}

impl CgroupLookup for Fake {
    fn path(&mut self, cgroup: u64) -> Option<String> {
        self.system().questions += 1;
        self.system().paths.get(&cgroup).cloned()
    }

    fn invocation_id(&mut self, path: &str) -> Option<[u8; 16]> {
        self.system().questions += 1;
        self.system().invocations.get(path).copied()
    }

    fn process_name(&mut self, tgid: u32, start_ns: u64) -> Option<String> {
        self.system().questions += 1;
        self.system().names.get(&(tgid, start_ns)).cloned()
    }
}

fn process(tgid: u32, start_ns: u64) -> Header {
    Header { tgid, start_ns, time_ns: start_ns + 1, ..Header::default() }
}

fn in_cgroup(cgroup: u64, time_ns: u64) -> Header {
    Header { cgroup, time_ns, tgid: 1, start_ns: 1, ..Header::default() }
}

/// Lets the table observe an event of this kind, with this text where the kind has a command name or a path.
fn observe(table: &mut EntityTable, kind: Kind, header: Header, text: &str) {
    let info = kind.info();
    let mut words = vec![0; HEADER + info.slot_words()];
    let mut place = HEADER;
    for slot in info.slots {
        if slot.name == "comm" {
            words[place..place + 2].as_mut_bytes()[..text.len()].copy_from_slice(text.as_bytes());
        }
        place += slot.form.words();
    }
    if info.text.is_some() {
        let mut padded = vec![0; text.len().div_ceil(8)];
        padded.as_mut_bytes()[..text.len()].copy_from_slice(text.as_bytes());
        words.extend(padded);
    }
    let length = u16::try_from(words.len()).expect("short");
    let header = Header { kind: kind as u16, words: length, ..header };
    words[..HEADER].copy_from_slice(<[u64]>::ref_from_bytes(header.as_bytes()).expect("aligned"));
    table.observe(&Event::parse(&words).expect("an event"));
}

const HEADER: usize = crate::event::HEADER_WORDS;

/// Scenario: a process forks, execs and exits; then its pid is used again; then the first speaks late.
/// Guarantees: two entities that are never mixed up, named by their events without a question to the system.
#[test]
fn a_reused_pid_is_another_entity() {
    let fake = Fake::default();
    let mut table = fake.table(16);
    let (first, second) = (process(7, 100), process(7, 200));
    observe(&mut table, Kind::ProcessFork, first, "sh");
    observe(&mut table, Kind::ProcessExec, first, "nginx");
    observe(&mut table, Kind::ProcessExit, first, "worker");
    observe(&mut table, Kind::ProcessFork, second, "cron");
    let (one, two) = (table.resolve(&first), table.resolve(&second));
    assert_ne!(one, two);
    assert_eq!([table.get(one).name.as_str(), table.get(two).name.as_str()], ["nginx", "cron"]);
    assert_ne!(table.get(one).trace_id, table.get(two).trace_id);
    assert_eq!(
        (table.get(one).kind, table.get(one).pid, table.get(one).start_ns),
        (EntityKind::Process, 7, 100)
    );
    assert_eq!((table.stats().live, table.stats().gone), (2, 1));
    assert_eq!(fake.system().questions, 0);
}

/// Scenario: a process that nobody announced speaks; the system knows it, or another with its pid.
/// Guarantees: the name of the right one, or none; the exec that follows completes it.
#[test]
fn names_come_from_the_process_that_started_then() {
    let fake = Fake::default();
    fake.system().names.insert((7, 100), "nginx".into());
    let mut table = fake.table(16);
    let known = table.resolve(&process(7, 100));
    let other = table.resolve(&process(7, 101));
    assert_eq!(table.get(known).name, "nginx");
    assert_eq!(table.get(other).name, "");
    let version = table.version(other);
    observe(&mut table, Kind::OomVictim, process(7, 101), "java");
    assert_eq!(table.get(other).name, "java");
    assert_ne!(table.version(other), version);
    let stats = table.stats();
    assert_eq!((stats.lookups, stats.lookup_failures, stats.late_joins), (2, 1, 1));
}

/// Scenario: the urgent ring is read first, so an exit arrives before the fork of its process.
/// Guarantees: the process stays gone.
#[test]
fn an_exit_read_before_its_fork_stays() {
    let mut table = Fake::default().table(16);
    observe(&mut table, Kind::ProcessExit, process(7, 100), "true");
    observe(&mut table, Kind::ProcessFork, process(7, 100), "sh");
    assert_eq!(table.stats().gone, 1);
}

/// Scenario: events without a process; of a process in a root cgroup of v1 and of v2; of cgroup 77 on v1 and v2.
/// Guarantees: node, process and two different cgroups.
#[test]
fn roots_own_nothing_and_hierarchies_are_apart() {
    let fake = Fake::default();
    fake.system().paths.insert(77, "/system.slice/a.service".into());
    fake.system().paths.insert(77 | CGROUP_V1, "/docker/x".into());
    let mut table = fake.table(16);
    let kind = |table: &mut EntityTable, header| {
        let entity = table.resolve(&header);
        (table.get(entity).kind, table.get(entity).name.clone())
    };
    assert_eq!(kind(&mut table, Header::default()).0, EntityKind::Node);
    for root in [0, 1, CGROUP_V1, CGROUP_V1 | 1] {
        let header = Header { cgroup: root, ..process(7, 100) };
        assert_eq!(kind(&mut table, header).0, EntityKind::Process, "{root:x}");
    }
    assert_eq!(kind(&mut table, in_cgroup(77, 0)), (EntityKind::Unit, "a.service".into()));
    assert_eq!(kind(&mut table, in_cgroup(77 | CGROUP_V1, 0)), (EntityKind::Cgroup, "/docker/x".into()));
    assert_eq!(table.stats().live, 4);
}

/// Scenario: a unit, a container and its pod speak, all known to the system.
/// Guarantees: the trace id of the unit is its invocation id, that of the container the first half of its id.
#[test]
fn trace_ids_are_those_the_system_has() {
    let fake = Fake::default();
    let pod = "/kubepods.slice/kubepods-pod2b5f1c7e_8d3a_4e6f_9a0b_1c2d3e4f5a6b.slice";
    let id = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";
    fake.system().paths.insert(10, "/system.slice/a.service/worker".into());
    fake.system().invocations.insert("/system.slice/a.service".into(), [5; 16]);
    fake.system().paths.insert(11, format!("{pod}/cri-containerd-{id}.scope"));
    fake.system().paths.insert(12, pod.into());
    let mut table = fake.table(16);
    let [unit, container, pod] = [10, 11, 12].map(|cgroup| table.resolve(&in_cgroup(cgroup, 0)));
    assert_eq!((table.get(unit).trace_id, table.get(unit).unit.as_str()), ([5; 16], "a.service"));
    assert_eq!(table.get(container).trace_id[..3], [0x00, 0x11, 0x22]);
    assert_eq!((table.get(container).name.as_str(), table.get(container).kind), (id, EntityKind::Container));
    assert_eq!(table.get(pod).name, "2b5f1c7e-8d3a-4e6f-9a0b-1c2d3e4f5a6b");
    assert_eq!(table.get(container).pod_uid, table.get(pod).pod_uid);
    let wire = table.get(container).to_proto();
    assert_eq!((wire.name.as_str(), wire.key, wire.trace_id.len()), (id, 11, 16));
}

/// Scenario: a cgroup speaks that is gone already; the record of its removal, with its path, comes after.
/// Guarantees: the identity is joined to the same reference under a new version, and is kept.
#[test]
fn a_path_that_comes_late_is_joined() {
    let mut table = Fake::default().table(16);
    let entity = table.resolve(&in_cgroup(10, 5));
    assert_eq!((table.get(entity).kind, table.get(entity).name.as_str()), (EntityKind::Cgroup, ""));
    let version = table.version(entity);
    observe(&mut table, Kind::CgroupRemoved, in_cgroup(10, 6), "/system.slice/once.service");
    assert_eq!(table.resolve(&in_cgroup(10, 7)), entity);
    assert_eq!((table.get(entity).kind, table.get(entity).name.as_str()), (EntityKind::Unit, "once.service"));
    assert_ne!(table.version(entity), version);
    assert_eq!((table.stats().late_joins, table.stats().gone), (1, 1));
    let version = table.version(entity);
    observe(&mut table, Kind::CgroupEmpty, in_cgroup(10, 8), "/system.slice/once.service");
    assert_eq!(table.version(entity), version, "what is known already is no change");
}

/// Scenario: systemd makes a cgroup and sets the invocation id 3 ms later; the unit is restarted in place.
/// Guarantees: the hash, then the first id, then the second; the version follows; questions are bounded.
#[test]
fn invocation_ids_are_asked_for_again() {
    let fake = Fake::default();
    let mut table = fake.table(16);
    let path = "/system.slice/a.service";
    observe(&mut table, Kind::CgroupCreated, in_cgroup(10, SECOND), path);
    let entity = table.resolve(&in_cgroup(10, SECOND));
    let (hash, version) = (table.get(entity).trace_id, table.version(entity));
    table.expire(SECOND + 2_000_000);
    assert_eq!(table.get(entity).trace_id, hash);
    fake.system().invocations.insert(path.into(), [1; 16]);
    observe(&mut table, Kind::Load, process(7, SECOND + 9_000_000), "");
    assert_eq!(table.get(entity).trace_id, [1; 16]);
    assert_ne!(table.version(entity), version);

    fake.system().invocations.insert(path.into(), [2; 16]);
    observe(&mut table, Kind::CgroupAttached, in_cgroup(10, 2 * SECOND), path);
    table.expire(3 * SECOND);
    assert_eq!(table.get(entity).trace_id, [1; 16], "nothing said that the unit was restarted");
    observe(&mut table, Kind::CgroupEmpty, in_cgroup(10, 4 * SECOND), path);
    observe(&mut table, Kind::CgroupAttached, in_cgroup(10, 5 * SECOND), path);
    table.expire(6 * SECOND);
    assert_eq!(table.get(entity).trace_id, [2; 16]);

    let questions = fake.system().questions;
    for second in 7..100 {
        table.expire(second * SECOND);
    }
    assert_eq!(fake.system().questions, questions, "nothing is missing");
}

/// Scenario: a process and a cgroup go, another process stays silent, a third speaks once a minute.
/// Guarantees: what is gone is kept for five minutes, then forgotten; so is the silent one, later; the speaker stays.
#[test]
fn the_gone_are_kept_for_five_minutes() {
    let fake = Fake::default();
    let mut table = fake.table(64);
    table.resolve(&process(7, 1));
    table.resolve(&process(8, 1));
    let speaker = table.resolve(&process(9, 1));
    observe(&mut table, Kind::ProcessExit, Header { time_ns: SECOND, ..process(7, 1) }, "a");
    observe(&mut table, Kind::CgroupRemoved, in_cgroup(10, SECOND), "/a");
    let mut left = Vec::new();
    for second in 1..1200 {
        table.expire(second * SECOND);
        if second % 60 == 0 {
            assert_eq!(table.resolve(&process(9, 1)), speaker);
            // Another key in between, so that the speaker is not only the last one.
            table.resolve(&Header::default());
        }
        left.push((table.stats().live, table.stats().gone));
    }
    let retention = usize::try_from(RETENTION_NS / SECOND).expect("small");
    assert_eq!(left[retention - 1], (3, 2), "five minutes are not over");
    assert_eq!(left[retention + 120], (3, 0));
    assert_eq!(left[1100], (2, 0), "only node and speaker are left");
    assert_eq!(table.stats().expired, 3);
    assert_eq!(table.stats().evicted, 0);
}

/// Scenario: the last process that spoke is gone and forgotten, and speaks again; another takes its slot.
/// Guarantees: it is not found in the slot it had.
#[test]
fn the_last_speaker_can_be_forgotten() {
    let mut table = Fake::default().table(16);
    let header = process(7, 1);
    let before = table.resolve(&header);
    observe(&mut table, Kind::ProcessExit, header, "a");
    table.expire(RETENTION_NS + SECOND);
    assert_eq!(table.stats().expired, 1);
    assert_eq!(table.get(before).key, 0, "the slot is blank");
    observe(&mut table, Kind::ProcessFork, process(8, 2), "b");
    table.resolve(&Header::default());
    let after = table.resolve(&header);
    assert_eq!(table.get(after).key, trace_key(&header));
    assert_ne!(after, before);
}

/// Scenario: the last process that spoke is forgotten and speaks at once.
/// Guarantees: it is taken in again.
#[test]
fn the_last_speaker_is_taken_in_again() {
    let mut table = Fake::default().table(16);
    let header = process(7, 1);
    table.resolve(&header);
    observe(&mut table, Kind::ProcessExit, header, "a");
    table.expire(RETENTION_NS + SECOND);
    let again = table.resolve(&header);
    assert_eq!(table.get(again).key, trace_key(&header));
}

/// Scenario: a million cgroups speak once each, a hundred speak all the time, in a table for 4096.
/// Guarantees: the table stays within bounds, all that is forced out is counted, the busy ones stay, and no
/// event is given to the entity of another.
#[test]
fn a_million_cgroups_stay_within_bounds() {
    let mut table = Fake::default().table(4096);
    let busy: Vec<_> = (0..100).map(|id| in_cgroup(1000 + id, 0)).collect();
    let refs: Vec<_> = busy.iter().map(|header| table.resolve(header)).collect();
    for id in 0..1_000_000_u64 {
        let header = in_cgroup(10_000 + id, id);
        let entity = table.resolve(&header);
        assert_eq!(table.get(entity).key, trace_key(&header));
        let turn = usize::try_from(id % 100).expect("small");
        assert_eq!(table.resolve(&busy[turn]), refs[turn], "a busy entity was forced out");
    }
    let stats = table.stats();
    assert_eq!(stats.live, 4096);
    assert_eq!(stats.evicted, 1_000_000 + 100 + 1 - 4096);
}

/// Scenario: a hundred thousand cgroups with the longest paths speak in a table for 1024.
/// Guarantees: fewer of them are kept than there are slots, so that their text stays within its bound; all that
/// was forced out is counted.
#[test]
fn long_paths_make_room_for_fewer() {
    let mut table = Fake::default().table(1024);
    for id in 0..100_000_u64 {
        observe(
            &mut table,
            Kind::CgroupCreated,
            in_cgroup(2 + id, id),
            &format!("/{id}{}", "x".repeat(2000)),
        );
        let entity = table.resolve(&in_cgroup(2 + id, id));
        assert_eq!(table.get(entity).key, 2 + id);
    }
    let stats = table.stats();
    // Name and path, each cut at the bound, against 512 bytes for each slot.
    let room = 1024 * 512 / (2 * PATH_BYTES_MAX as u64);
    assert!((room..=room + 2).contains(&stats.live), "{stats:?}");
    assert_eq!(stats.live + stats.evicted, 100_001);
}

/// Scenario: processes storm through a full table in which containers lie that are gone.
/// Guarantees: processes that are gone make room first; the containers, to which late facts may come, stay.
#[test]
fn gone_processes_make_room_before_gone_containers() {
    let mut table = Fake::default().table(256);
    let containers: Vec<_> = (0..100_u64).map(|id| in_cgroup(1000 + id, 1)).collect();
    for header in &containers {
        observe(&mut table, Kind::CgroupRemoved, *header, "/docker/x");
    }
    let refs: Vec<_> = containers.iter().map(|header| table.resolve(header)).collect();
    for tgid in 0..10_000 {
        let header = process(2 + tgid, SECOND + u64::from(tgid));
        observe(&mut table, Kind::ProcessFork, header, "sh");
        observe(&mut table, Kind::ProcessExit, header, "sh");
    }
    let kept =
        refs.iter().zip(&containers).filter(|(slot, header)| table.get(**slot).key == trace_key(header));
    assert!(kept.count() >= 95);
}

/// Scenario: paths with the mount point in front, cut by the source, and longer than what is kept.
/// Guarantees: read from the root; asked for when cut; read whole and then cut at the bound.
#[test]
fn odd_paths_are_read() {
    let fake = Fake::default();
    fake.system().paths.insert(12, "/system.slice/whole.service".into());
    let mut table = fake.table(16);
    let long = format!("/{}/docker-{}.scope", "\u{e9}".repeat(700), "ab".repeat(32));
    observe(&mut table, Kind::CgroupCreated, in_cgroup(10, 0), "/sys/fs/cgroup/system.slice/a.service");
    let v1 = in_cgroup(11 | CGROUP_V1, 0);
    observe(&mut table, Kind::CgroupCreated, v1, "/sys/fs/cgroup/memory/system.slice/b.service");
    let cut = Header { flags: 1, ..in_cgroup(12, 0) };
    observe(&mut table, Kind::CgroupCreated, cut, "/system.slice/who");
    observe(&mut table, Kind::CgroupCreated, in_cgroup(13, 0), &long);
    let entities = [in_cgroup(10, 0), v1, cut, in_cgroup(13, 0)].map(|header| table.resolve(&header));
    let name = |index: usize| table.get(entities[index]).name.as_str();
    assert_eq!([name(0), name(1), name(2)], ["a.service", "b.service", "whole.service"]);
    assert_eq!(name(3), "ab".repeat(32));
    assert_eq!(table.get(entities[0]).cgroup_path, "/system.slice/a.service");
    assert_eq!(table.get(entities[3]).cgroup_path.len(), PATH_BYTES_MAX - 1);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Resolve(Header),
    Observe(Kind, Header),
    Expire,
}

fn any_step() -> impl Strategy<Value = Step> {
    let header = (0_u64..24, 1_u32..8, 1_u64..4).prop_map(|(cgroup, tgid, start_ns)| Header {
        cgroup: if cgroup < 12 { 0 } else { cgroup },
        ..process(tgid, start_ns)
    });
    let kinds: Vec<Kind> = crate::event::KINDS.iter().map(|info| info.kind).collect();
    prop_oneof![
        4 => header.clone().prop_map(Step::Resolve),
        3 => (prop::sample::select(kinds), header).prop_map(|(kind, header)| Step::Observe(kind, header)),
        1 => Just(Step::Expire),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Scenario: any order of events and sweeps, in a table too small for them, with time going on.
    /// Guarantees: an event's entity is its own; a reference whose version is unchanged reads the same as when it
    /// was taken; the counters agree with what happened.
    #[test]
    fn references_are_right_while_their_version_stays(
        steps in prop::collection::vec((any_step(), 0_u64..100), 1..200),
        capacity in 2_usize..12,
    ) {
        let mut table = Fake::default().table(capacity);
        let mut taken: BTreeMap<(EntityRef, u32), Entity> = BTreeMap::new();
        let mut now_ns = 0;
        for (step, pause) in steps {
            now_ns += pause * SECOND;
            match step {
                Step::Resolve(header) => {
                    let header = Header { time_ns: now_ns, ..header };
                    let entity = table.resolve(&header);
                    prop_assert_eq!(table.get(entity).key, trace_key(&header));
                    taken.insert((entity, table.version(entity)), table.get(entity).clone());
                }
                Step::Observe(kind, header) => {
                    observe(&mut table, kind, Header { time_ns: now_ns, ..header }, "/a.service");
                }
                Step::Expire => table.expire(now_ns),
            }
            for (&(entity, version), content) in &taken {
                if table.version(entity) == version {
                    prop_assert_eq!(table.get(entity), content);
                }
            }
            let stats = table.stats();
            prop_assert!(stats.live + stats.gone <= capacity as u64);
            prop_assert!(stats.lookup_failures <= stats.lookups);
        }
    }
}

/// Scenario: cgroups that the kernel names from the root of the host, in an agent that runs in a container with a systemd
/// of its own: one that is gone before it can be asked for, one that is there, and later ones that are not; one beside the
/// container, and one of a systemd in a container below the agent.
/// Guarantees: the units of the agent's own systemd have its paths, whenever they came; those of others stay others'.
#[test]
fn paths_are_those_of_the_agent() {
    let fake = Fake::default();
    let mut table = fake.table(16);
    let above = "/machine/rig/payload";
    let tell = |table: &mut EntityTable, cgroup: u64, path: &str| {
        observe(table, Kind::CgroupCreated, in_cgroup(cgroup, SECOND), path);
        table.resolve(&in_cgroup(cgroup, SECOND))
    };
    let gone = tell(&mut table, 6, &format!("{above}/system.slice/gone.service"));
    assert_eq!(table.get(gone).manager, Manager::Nested);
    fake.system().paths.insert(7, "/system.slice/db.service".into());
    let there = tell(&mut table, 7, &format!("{above}/system.slice/db.service"));
    let later = tell(&mut table, 8, &format!("{above}/system.slice/later.service"));
    for (entity, name) in [(gone, "gone.service"), (there, "db.service"), (later, "later.service")] {
        let entity = table.get(entity);
        assert_eq!(entity.cgroup_path, format!("/system.slice/{name}"));
        assert_eq!((entity.unit.as_str(), entity.manager), (name, Manager::System));
    }
    for path in [
        "/machine/rig/payloads/system.slice/db.service",
        "/machine/rig/payload/system.slice/x.service/app/system.slice/db.service",
    ] {
        let other = tell(&mut table, 9, path);
        assert_eq!(table.get(other).manager, Manager::Nested, "{path}");
    }
}
