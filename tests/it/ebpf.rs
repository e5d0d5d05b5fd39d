//! The kernel probes on this machine's own kernel: each signal is provoked for real and its event read from
//! the ring.
//!
//! Needs root. What this kernel or machine lacks is skipped with the reason.

use std::os::unix::process::CommandExt;
use std::process::Command;

use tapio::collector::ebpf::{Counter, LoadError, Options, PROBES, load};
use tapio::config::Settings;
use tapio::event::Kind;
use tapio::health::ProbeState;

use recorder::{Recorder, options, root};

mod cgroup;
mod disk;
mod net;
mod process;
mod recorder;

/// Scenario: everything is loaded, `load` included, while processes start and end.
/// Guarantees: every probe has a row that says attached or why not, process and net are whole, and for each
/// CPU and lane the events made are those read plus those lost, with no sequence number missing.
#[test]
fn live_every_probe_is_accounted_for() {
    if !root("live_every_probe_is_accounted_for") {
        return;
    }
    let options = Options { load_probe: true, ..Options::from(&Settings::default()) };
    let mut recorder = Recorder::start(&options);
    for probe in PROBES {
        let health = &recorder.loaded.probes[probe.name];
        assert_ne!(health.state, ProbeState::Refused, "{}: {health:?}", probe.name);
        assert!(health.state == ProbeState::Attached || !health.reason.is_empty(), "{}", probe.name);
    }
    for name in ["process", "net", "signal", "oom", "errno", "cgroup", "block", "reclaim", "load"] {
        assert_eq!(recorder.loaded.probes[name].state, ProbeState::Attached, "{name}");
    }
    for _ in 0..20 {
        Command::new("true").status().unwrap();
    }
    // Every program that is attached says how often it was passed over.
    let misses = recorder.loaded.attached.misses().unwrap();
    assert!(misses.len() >= 15, "{misses:?}");
    assert!(misses.iter().any(|&(name, _)| name == "net_state"));
    let events = recorder.stop();
    assert!(events.len() >= 60, "20 forks, execs and exits");
    recorder.assert_closed(&events);
}

/// Scenario: `getpgid` with a number of its own, and many of them.
/// Guarantees: each call is one event of the caller with number and argument.
#[test]
fn live_load_counts_every_call() {
    if !root("live_load_counts_every_call") {
        return;
    }
    let mut recorder = Recorder::start(&Options { load_probe: true, ..options(&[]) });
    for _ in 0..1000 {
        let own = Some(rustix::process::getpid());
        rustix::process::getpgid(own).unwrap();
    }
    let events = recorder.stop();
    recorder.assert_closed(&events);
    let own = std::process::id();
    let calls: Vec<_> =
        events.iter().filter(|event| event.kind == Kind::Load && event.header.tgid == own).collect();
    assert_eq!(calls.len(), 1000);
    for call in calls {
        assert_eq!(call.number("value"), u64::from(own));
        assert!(call.number("number") > 0);
    }
}

/// Scenario: rings so small that a burst overruns them.
/// Guarantees: what is lost is counted by the kernel, and the sequence gaps say the same.
#[test]
fn live_overrun_is_counted() {
    if !root("live_overrun_is_counted") {
        return;
    }
    let mut recorder = Recorder::start(&Options { load_probe: true, ring_bytes: 64 << 10, ..options(&[]) });
    for _ in 0..5000 {
        rustix::process::getpgid(None).unwrap();
    }
    let events = recorder.stop();
    let lost = recorder.assert_closed(&events);
    assert!(lost > 0, "5000 records do not fit");
    assert!(!events.is_empty());
}

/// Scenario: a probe that is switched off by name, and filters that are off.
/// Guarantees: the probe says so; filtered forks, exits and connects are counted and not streamed.
#[test]
fn live_filters_and_switches() {
    if !root("live_filters_and_switches") {
        return;
    }
    let mut wanted = options(&["process", "net"]);
    wanted.filters.forks = false;
    wanted.filters.clean_exits = false;
    wanted.filters.connect_success = false;
    let mut recorder = Recorder::start(&wanted);
    let signal = &recorder.loaded.probes["signal"];
    assert_eq!((signal.state, &*signal.reason), (ProbeState::Missing, "switched off by probes_off"));
    let child = recorder::run("true", &[]);
    net::connect_once();
    let events = recorder.stop();
    let of_child: Vec<_> =
        events.iter().filter(|event| event.header.tgid == child).map(|event| event.kind).collect();
    assert_eq!(of_child, [Kind::ProcessExec]);
    assert!(events.iter().all(|event| event.kind != Kind::TcpConnect || event.number("result_errno") != 0));
    for counter in [Counter::ForksFiltered, Counter::ExitsFiltered, Counter::ConnectsFiltered] {
        assert!(recorder.loaded.cpus.total(counter) > 0, "{counter:?}");
    }
}

/// Scenario: no ring memory at all, and a little less than the least.
/// Guarantees: the error names the least that works, and that works.
#[test]
fn live_ring_limit_names_the_least() {
    if !root("live_ring_limit_names_the_least") {
        return;
    }
    let Err(LoadError::Rings(error)) = load(&Options { ring_bytes: 0, ..options(&["hang"]) }) else {
        panic!("loaded without rings")
    };
    assert!(load(&Options { ring_bytes: error.least - 1, ..options(&["process"]) }).is_err());
    load(&Options { ring_bytes: error.least, ..options(&["process"]) }).expect("the least works");
}

/// Scenario: nobody, with CAP_BPF and CAP_PERFMON and nothing else (root runs this test again so).
/// Guarantees: that is enough for every probe: no other capability is needed.
#[test]
fn live_two_capabilities_suffice() {
    const NAME: &str = "ebpf::live_two_capabilities_suffice";
    const AGAIN: &str = "TAPIO_TEST_CAPABLE";
    if std::env::var_os(AGAIN).is_none() {
        if !root(NAME) {
            return;
        }
        let test = std::env::current_exe().unwrap();
        // By number: bpf and perfmon are newer than some setpriv.
        let capable = Command::new("setpriv")
            .args(["--reuid=65534", "--clear-groups", "--inh-caps=-all,+cap_39,+cap_38"])
            .arg("--ambient-caps=-all,+cap_39,+cap_38")
            .arg(&test)
            .args(["--exact", NAME])
            .env(AGAIN, "1")
            .output();
        match capable {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
            Err(error) => crate::skipped(NAME, &format!("no setpriv: {error}")),
        }
        return;
    }
    assert!(!rustix::process::geteuid().is_root());
    let mut recorder = Recorder::start(&Options::from(&Settings::default()));
    for probe in PROBES.iter().filter(|probe| probe.name != "load") {
        assert_ne!(recorder.loaded.probes[probe.name].state, ProbeState::Refused, "{}", probe.name);
    }
    assert_eq!(recorder.loaded.probes["process"].state, ProbeState::Attached);
    let pid = recorder::run("true", &[]);
    assert_eq!(recorder::one(&recorder.stop(), Kind::ProcessExec, pid).header.tgid, pid);
}

/// Scenario: root runs this test again as nobody, and as root of a user namespace of its own.
/// Guarantees: each gets one error that names both capabilities and the two ways to grant them.
#[test]
fn unprivileged_load_names_the_capabilities() {
    const NAME: &str = "ebpf::unprivileged_load_names_the_capabilities";
    const AGAIN: &str = "TAPIO_TEST_UNPRIVILEGED";
    if rustix::process::geteuid().is_root() && std::env::var_os(AGAIN).is_none() {
        let test = std::env::current_exe().unwrap();
        let mut nobody = Command::new(&test);
        nobody.uid(65534);
        let mut container = Command::new("unshare");
        container.args(["--user", "--map-root-user"]).arg(&test);
        for command in [&mut nobody, &mut container] {
            match command.args(["--exact", NAME]).env(AGAIN, "1").output() {
                Ok(output) if String::from_utf8_lossy(&output.stderr).contains("unshare failed") => {
                    crate::skipped(NAME, "no user namespaces here");
                }
                Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
                Err(error) => crate::skipped(NAME, &format!("nobody cannot run the test: {error}")),
            }
        }
        return;
    }
    let error = load(&options(&["process"])).expect_err("it has no privilege");
    assert!(matches!(error, LoadError::Privilege { .. }), "{error}");
    let text = error.to_string();
    for part in ["CAP_BPF and CAP_PERFMON", "run as root", "setcap", "AmbientCapabilities"] {
        assert!(text.contains(part), "{text}");
    }
}
