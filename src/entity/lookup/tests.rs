//! Trees, links and lines that stand for the live system.

use std::os::unix::fs::symlink;

use super::*;

/// Scenario: a tree of directories stands for a hierarchy that may not be opened by id.
/// Guarantees: ids become paths by the walk, within its bound; an unknown id is none.
#[test]
fn a_walk_finds_what_handles_cannot() {
    let root = tempfile::tempdir().expect("temporary directory");
    let leaf = root.path().join("system.slice/a.service");
    fs::create_dir_all(&leaf).expect("writable");
    fs::write(root.path().join("cgroup.procs"), "").expect("writable");
    let mut lookup =
        LiveLookup::with_mounts(Mounts { unified: Some(root.path().to_owned()), ..Mounts::default() });
    assert!(lookup.walks());
    let id = fs::metadata(&leaf).expect("exists").ino();
    assert_eq!(lookup.path(id).as_deref(), Some("/system.slice/a.service"));
    assert_eq!(lookup.path(id | CGROUP_V1), None, "no v1 hierarchy is mounted");
    assert_eq!(lookup.path(u64::MAX >> 3), None);
    assert_eq!(walk(root.path(), 1).len(), 1);
    assert_eq!(walk(root.path(), 9).len(), 2);
}

/// Scenario: links as the system manager and a user's manager keep them; a unit of the same name in a container.
/// Guarantees: each unit gets the id from its own manager, the container's none.
#[test]
fn links_belong_to_their_manager() {
    let run = tempfile::tempdir().expect("temporary directory");
    for (directory, digit) in [("systemd/units", "1"), ("user/1000/systemd/units", "2")] {
        let units = run.path().join(directory);
        fs::create_dir_all(&units).expect("writable");
        symlink(digit.repeat(32), units.join("invocation:a.service")).expect("writable");
    }
    let id = |path| linked_invocation_id(run.path(), path);
    assert_eq!(id("/system.slice/a.service"), Some([0x11; 16]));
    assert_eq!(id("/user.slice/user-1000.slice/user@1000.service/app.slice/a.service"), Some([0x22; 16]));
    assert_eq!(id("/user.slice/user-7.slice/user@7.service/app.slice/a.service"), None);
    assert_eq!(id("/system.slice/docker.service/docker/x/system.slice/a.service"), None);
    assert_eq!(id("/system.slice/b.service"), None);
    assert_eq!(id("/x"), None);
}

/// Scenario: the stat lines of processes with brackets and spaces in their names, and lines cut short.
/// Guarantees: the name, only if the start is the one asked for.
#[test]
fn a_name_needs_the_right_start() {
    let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4321 999 1";
    assert_eq!(name_in_stat(stat, 43_219_999_999, 100).as_deref(), Some("a) b (c)"));
    assert_eq!(name_in_stat(stat, 43_220_000_000, 100), None);
    assert_eq!(name_in_stat(stat, 43_209_999_999, 100), None);
    assert_eq!(name_in_stat("7 (a) S 1", 0, 100), None);
    assert_eq!(name_in_stat("", 0, 0), None);
}

/// Scenario: this very process is asked for, by its real start and by a wrong one.
/// Guarantees: its own name, and none.
#[test]
#[cfg_attr(miri, ignore = "Miri has no /proc")]
fn this_process_has_a_name() {
    let stat = fs::read_to_string("/proc/self/stat").expect("readable");
    let ticks: u64 =
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)?.parse().ok()).expect("22");
    let start_ns = ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second()) + 5;
    let mut lookup = LiveLookup::default();
    let name = fs::read_to_string("/proc/self/comm").expect("readable");
    let tgid = std::process::id();
    assert_eq!(lookup.process_name(tgid, start_ns).as_deref(), Some(name.trim_end()));
    assert_eq!(lookup.process_name(tgid, start_ns + 1_000_000_000), None);
}
