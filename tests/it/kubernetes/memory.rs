//! What it costs to know 5,000 pods.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tapio::config::Settings;
use tapio::health::State;

use super::agent::{Agent, settings};
use super::fake::{Fake, Fault};
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
    let mut measured = Command::new(std::env::current_exe().unwrap());
    measured.args(["--ignored", "--exact", "--nocapture", "kubernetes::memory::measured"]);
    let files = format!("{},{}", empty.kubeconfig().display(), full.kubeconfig().display());
    let output = measured.env(INSIDE, files).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.split_once("MEASURED "));
    let Some((_, figures)) = line else { panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)) };
    assert_eq!(full.fired("error inside"), 1);
    let figures: Vec<u64> = figures.split(' ').map(|figure| figure.parse().unwrap()).collect();
    let (added, peak) = (figures[1].saturating_sub(figures[0]), figures[2].saturating_sub(figures[0]));
    let before = figures[0];
    let report =
        format!("5000 pods of 10 KB: {added} KiB added, {peak} KiB at the peak, {before} KiB before\n");
    std::io::stderr().lock().write_all(report.as_bytes()).unwrap();
    assert!(added <= 8 << 10, "{report}");
    assert!(peak <= 16 << 10, "{report}");
}
