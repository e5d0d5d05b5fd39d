//! Processes and signals.

use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use tapio::event::Kind;

use super::recorder::{Recorder, of, one, options, root, run};

/// The start of a process as `/proc` has it, in clock ticks since boot.
fn start_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap()
}

/// Scenario: a program runs and exits with 7, another with 0, while a thread of this process comes and goes.
/// Guarantees: fork, exec and exit say who, whose child, what program and what status; failures travel in the
/// urgent lane, ordinary life in the bulk lane; a thread is no event.
#[test]
fn live_process_life() {
    if !root("live_process_life") {
        return;
    }
    let mut recorder = Recorder::start(&options(&["process"]));
    let own = std::process::id();
    let failed = run("/bin/sh", &["-c", "exit 7"]);
    let fine = run("/bin/true", &[]);
    std::thread::spawn(|| ()).join().unwrap();
    let events = recorder.stop();

    let fork = one(&events, Kind::ProcessFork, failed);
    assert_eq!(fork.number("parent_pid"), u64::from(own));
    let exec = one(&events, Kind::ProcessExec, failed);
    assert_eq!((&*exec.text, &*exec.chars("comm")), ("/bin/sh", "sh"));
    assert_eq!(exec.number("parent_pid"), u64::from(own));
    let exit = one(&events, Kind::ProcessExit, failed);
    assert_eq!((exit.number("exit_code"), exit.number("signal"), exit.number("core_dumped")), (7, 0, 0));
    assert_eq!(exit.chars("comm"), "sh");
    assert_eq!((fork.header.producer % 2, exec.header.producer % 2, exit.header.producer % 2), (0, 0, 1));

    let fine = one(&events, Kind::ProcessExit, fine);
    assert_eq!((fine.number("exit_code"), fine.number("signal"), fine.header.producer % 2), (0, 0, 0));
    assert!(of(&events, Kind::ProcessExit, own).is_empty() && of(&events, Kind::ProcessFork, own).is_empty());

    for event in [fork, exec, exit] {
        assert_eq!(event.header.start_ns, fork.header.start_ns);
        assert_eq!(event.header.cgroup, fork.header.cgroup);
    }
    assert!(fork.header.start_ns <= fork.header.time_ns);
}

/// Scenario: a sleeping process is killed with SIGTERM by this one; a shell aborts itself.
/// Guarantees: the target owns the signal and the sender is named whole; the exit says by which signal; the
/// start time is the one in `/proc`.
#[test]
fn live_signal_names_its_sender() {
    if !root("live_signal_names_its_sender") {
        return;
    }
    let mut recorder = Recorder::start(&options(&["process", "signal"]));
    let own = std::process::id();
    let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = sleeper.id();
    let ticks = start_ticks(pid);
    kill_process(Pid::from_child(&sleeper), Signal::TERM).unwrap();
    sleeper.wait().unwrap();
    let aborted = run("/bin/sh", &["-c", "ulimit -c 0; kill -ABRT $$"]);
    let events = recorder.stop();

    let signal = one(&events, Kind::Signal, pid);
    assert_eq!((signal.number("signal"), signal.signed("code"), signal.number("group")), (15, 0, 1));
    assert_eq!((signal.number("result"), signal.number("sender_uid")), (0, 0));
    assert_eq!(signal.number("sender_pid"), u64::from(own));
    let per_tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
    assert_eq!(signal.number("sender_start_ns") / per_tick, start_ticks(own));
    assert_eq!(signal.header.start_ns / per_tick, ticks);
    assert_eq!(signal.number("sender_cgroup"), signal.header.cgroup, "both are in this cgroup");
    assert_eq!(signal.header.producer % 2, 1);
    let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
    assert_eq!(signal.chars("sender_comm"), name.trim_end());

    let exit = one(&events, Kind::ProcessExit, pid);
    assert_eq!((exit.number("exit_code"), exit.number("signal")), (0, 15));
    let signal = one(&events, Kind::Signal, aborted);
    assert_eq!((signal.number("signal"), signal.number("sender_pid")), (6, u64::from(aborted)));
    let exit = one(&events, Kind::ProcessExit, aborted);
    // The limit does not hold for a core that goes to a program, such as systemd-coredump's.
    let piped = std::fs::read("/proc/sys/kernel/core_pattern").unwrap().starts_with(b"|");
    assert_eq!((exit.number("signal"), exit.number("core_dumped")), (6, u64::from(piped)));
}

/// Scenario: a process whose leader ended before its last thread.
/// Guarantees: it has exactly one exit, when the last thread ends, with the status that its parent sees.
#[test]
fn live_leader_may_end_first() {
    const SCRIPT: &str = "import ctypes, os, threading, time\n\
        def last():\n    time.sleep(0.2)\n    os._exit(9)\n\
        threading.Thread(target=last).start()\n\
        ctypes.CDLL(None).syscall(60, 0)\n";
    if !root("live_leader_may_end_first") {
        return;
    }
    if cfg!(not(target_arch = "x86_64")) || Command::new("python3").arg("--version").output().is_err() {
        crate::skipped("live_leader_may_end_first", "needs python3 on x86-64");
        return;
    }
    let mut recorder = Recorder::start(&options(&["process"]));
    let mut child = Command::new("python3").args(["-c", SCRIPT]).spawn().unwrap();
    let status = child.wait().unwrap();
    let events = recorder.stop();
    assert_eq!(status.code(), Some(9));
    assert_eq!(one(&events, Kind::ProcessExit, child.id()).number("exit_code"), 9);
}

/// Scenario: an executable whose path is longer than a record's text.
/// Guarantees: the text is cut, and the flags say so.
#[test]
fn live_long_path_is_cut() {
    if !root("live_long_path_is_cut") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let deep = (0..4).fold(folder.path().to_owned(), |path, _| path.join("d".repeat(200)));
    std::fs::create_dir_all(&deep).unwrap();
    let program = deep.join("true");
    std::fs::copy("/bin/true", &program).unwrap();
    let mut recorder = Recorder::start(&options(&["process"]));
    let pid = run(program.to_str().unwrap(), &[]);
    let events = recorder.stop();
    let exec = one(&events, Kind::ProcessExec, pid);
    assert_eq!(exec.text, program.to_str().unwrap()[..511]);
    assert_eq!(exec.header.flags, tapio::event::TEXT_CUT);
    let whole: Vec<_> =
        events.iter().filter(|event| event.kind == Kind::ProcessExec && event.text.len() < 500).collect();
    assert!(whole.iter().all(|event| event.header.flags == 0));
}
