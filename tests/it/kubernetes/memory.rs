//! What it costs to know 5,000 pods, and what an API server can make it cost.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tapio::config::Settings;
use tapio::health::State;

use super::agent::{Agent, settings, warnings};
use super::fake::{Endless, Fake, Fault};
use super::place::{pod, running};

const PODS: usize = 5_000;

/// Set in the process that is measured.
const INSIDE: &str = "TAPIO_TEST_KUBECONFIG";

/// A number of `/proc/self/status`, KiB.
fn status_kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// Makes the present use the peak so far.
fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// The part that is measured: an agent in a process of its own, at API servers in another.
#[test]
#[ignore = "the process that memory_of_5000_pods_is_bounded measures"]
fn measured() {
    let Some(kubeconfigs) = std::env::var(INSIDE).ok() else { return };
    let (empty, full) = kubeconfigs.split_once(',').unwrap();
    let folder = tempfile::tempdir().unwrap();
    // What waits for a server that is not there is not what is measured.
    let wanted = |file: &str| Settings { window_bytes: 1 << 20, ..settings(Path::new(file), folder.path()) };
    let agent = Agent::start_silent(wanted(empty));
    agent.wait_health("health", |health| health.state == State::Running);
    agent.wait_ledger("as many events", |row| row.drained >= 3 * PODS as u64);
    std::thread::sleep(Duration::from_secs(2));
    let before = status_kib("VmRSS");
    drop(agent);
    reset_peak();
    let agent = Agent::start_silent(wanted(full));
    // A gap, after the second list: the first watch is answered with 410.
    agent.wait_ledger("the second list", |row| row.ring_lost == 1);
    std::thread::sleep(Duration::from_secs(2));
    assert!(agent.ledger().drained >= 3 * PODS as u64, "{:?}", agent.ledger());
    let line = format!("MEASURED {before} {} {}\n", status_kib("VmRSS"), status_kib("VmHWM"));
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

/// Scenario: an agent lists 5,000 pods of 10 KB, and lists them again after a gap; another has as many events and no pods.
/// Guarantees: what the first has more is within 8 MiB, what it needs on the way within 16 MiB.
#[test]
fn memory_of_5000_pods_is_bounded() {
    let (empty, full) = (Fake::start(), Fake::start());
    for number in 0..PODS {
        let mut pod = pod(&format!("web-{number}"), 0, &running(), &json!({}));
        pod["metadata"]["uid"] = json!(format!("{number:08x}-d9cb-469f-a165-70867728950e"));
        // What real pods are made of mostly.
        pod["metadata"]["managedFields"] = json!([{"manager": "kubelet", "fieldsV1": "f".repeat(6_000)}]);
        pod["spec"]["volumes"] = json!([{"name": "token", "projected": {"sources": ["s".repeat(1_000)]}}]);
        pod["metadata"]["annotations"] = json!({"last-applied": "a".repeat(2_000)});
        full.put("pods", pod);
    }
    // What an agent needs that handles as many events and has nothing to remember of them.
    for number in 0..3 * PODS {
        let object = json!({"kind": "Node", "name": "here"});
        empty.put(
            "events",
            json!({"metadata": {"uid": number.to_string()}, "involvedObject": object,
            "reason": "Rebooted", "message": "m".repeat(200), "lastTimestamp": "2100-01-01T00:00:00Z"}),
        );
    }
    full.fault("pods", Fault::ErrorInside(410));
    let figures = measure("measured", &[&empty, &full]);
    assert_eq!(full.fired("error inside"), 1);
    let (added, peak) = (figures[1].saturating_sub(figures[0]), figures[2].saturating_sub(figures[0]));
    let before = figures[0];
    let report =
        format!("5000 pods of 10 KB: {added} KiB added, {peak} KiB at the peak, {before} KiB before\n");
    std::io::stderr().lock().write_all(report.as_bytes()).unwrap();
    assert!(added <= 8 << 10, "{report}");
    assert!(peak <= 16 << 10, "{report}");
}

/// Runs a test of this file in a process of its own, and returns the figures that it says.
fn measure(test: &str, fakes: &[&Fake]) -> Vec<u64> {
    let mut measured = Command::new(std::env::current_exe().unwrap());
    measured.args(["--ignored", "--exact", "--nocapture", &format!("kubernetes::memory::{test}")]);
    let files: Vec<String> = fakes.iter().map(|fake| fake.kubeconfig().display().to_string()).collect();
    let output = measured.env(INSIDE, files.join(",")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.split_once("MEASURED "));
    let Some((_, figures)) = line else { panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)) };
    figures.split(' ').map(|figure| figure.parse().unwrap()).collect()
}

/// The part of `endless_lists_are_given_up` that is measured: an agent at each of the fakes in turn.
#[test]
#[ignore = "the process that endless_lists_are_given_up measures"]
fn measured_endless() {
    let Some(kubeconfigs) = std::env::var(INSIDE).ok() else { return };
    let folder = tempfile::tempdir().unwrap();
    let wanted = |file: &str| Settings { window_bytes: 1 << 20, ..settings(Path::new(file), folder.path()) };
    let mut figures = Vec::new();
    for (number, file) in kubeconfigs.split(',').enumerate() {
        let agent = Agent::start_silent(wanted(file));
        if number == 0 {
            agent.wait_health("health", |health| health.state == State::Running);
            figures.push(status_kib("VmRSS"));
            continue;
        }
        reset_peak();
        let health = agent.wait_health("the reason", |health| health.reason.contains("does not end"));
        assert_eq!(health.state, State::Degraded, "the others are watched: {}", health.reason);
        // One that gave up and tries again says nothing more.
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(warnings("does not end").len(), number, "{:?}", warnings("does not end"));
        let is_refused = agent.health().unwrap().reason.contains("did not fit the memory budget");
        figures.extend([status_kib("VmHWM"), u64::from(is_refused)]);
    }
    let figures: Vec<String> = figures.iter().map(ToString::to_string).collect();
    let line = format!("MEASURED {}\n", figures.join(" "));
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

/// Scenario: a list of pods that does not end: objects without end, of which most do not fit the budget; one object
/// without end; pages without end and without objects.
/// Guarantees: each is given up with one message that says so, what does not fit is counted, the other watches work, and
/// the memory at the peak stays within 16 MiB.
#[test]
fn endless_lists_are_given_up() {
    let fakes = [Fake::start(), Fake::start(), Fake::start(), Fake::start()];
    for (fake, endless) in fakes[1..].iter().zip([Endless::Objects, Endless::Object, Endless::Pages]) {
        for _ in 0..10_000 {
            fake.fault("pods", Fault::EndlessList(endless));
        }
    }
    let figures = measure("measured_endless", &fakes.each_ref());
    let report =
        format!("endless lists, KiB before, KiB at the peak and whether objects were refused: {figures:?}\n");
    std::io::stderr().lock().write_all(report.as_bytes()).unwrap();
    for (fake, figures_of_one) in fakes[1..].iter().zip(figures[1..].chunks(2)) {
        assert!(fake.fired("endless list") > 0);
        assert!(figures_of_one[0].saturating_sub(figures[0]) <= 16 << 10, "{report}");
    }
    assert_eq!([figures[2], figures[4], figures[6]], [1, 0, 0], "{report}");
}
