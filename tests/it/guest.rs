//! The agent on a whole host of another kernel: Debian 12 with its 6.1, systemd as PID 1, cgroup v2.
//!
//! One boot for all that is looked at: under emulation the boot is what costs. `tests/rigs/guest` builds the
//! image once and boots it; `TAPIO_GUEST=off` leaves this out.
//!
//! Invariants:
//! - The guest's script only collects; every judgement is made here, where a failure can be read.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::rig::changes::{Changes, Event};
use crate::rig::script::{Line, Said};
use crate::skipped;

mod stories;

/// The scripts that provoke in the guest what the container rig cannot.
const PROVOKED: [&str; 4] = ["oom-kill", "pressure-kill", "segfault", "clock-step"];

/// What the guest left behind.
#[derive(Debug)]
struct Findings {
    folder: PathBuf,
}

impl Findings {
    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.join(name))
            .unwrap_or_else(|error| panic!("the guest left no {name} ({error})\n{}", self.log()))
    }

    fn status(&self, name: &str) -> i32 {
        self.text(&format!("{name}.status")).trim().parse().expect("the script writes a number")
    }

    fn json(&self, name: &str) -> Value {
        let text = self.text(name);
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{name} ({error}):\n{text}\n{}", self.log()))
    }

    /// All events that the server has.
    fn all(&self) -> Vec<Value> {
        self.json("events").as_array().expect("a list of events").clone()
    }

    /// The events of a kind.
    fn events(&self, kind: &str) -> Vec<Event> {
        self.all().into_iter().filter(|event| event["kind"] == kind).map(Event).collect()
    }

    /// What this script said, which must have done what it was meant to.
    fn said(&self, script: &str) -> Said {
        let said = self.text(&format!("provoked.{script}"));
        let errors = self.text(&format!("provoked.{script}.log"));
        assert_eq!(self.status(&format!("provoked.{script}")), 0, "{script}: {said}\n{errors}");
        let said = Said::read(&said);
        assert!(said.is_whole(script), "{said:?}");
        said
    }

    /// How units ended, as this script says.
    fn outcomes(&self, script: &str) -> Vec<Line> {
        self.said(script).lines("outcome").cloned().collect()
    }

    /// What was said in the guest, for a failure's message.
    fn log(&self) -> String {
        ["steps", "output", "doctor.log", "server.log", "collector.log", "status.log"]
            .iter()
            .filter_map(|name| Some((name, std::fs::read_to_string(self.folder.join(name)).ok()?)))
            .map(|(name, text)| format!("---- {name}\n{text}"))
            .collect()
    }
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

/// Why the guest cannot run here; nothing where it can.
fn missing() -> Option<String> {
    if std::env::var("TAPIO_GUEST").is_ok_and(|value| value == "off") {
        return Some("TAPIO_GUEST=off".into());
    }
    image()
}

/// Why there is no image to boot; nothing where there is one.
fn image() -> Option<String> {
    let starts =
        |tool: &str| Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !starts("qemu-system-x86_64") {
        return Some("qemu-system-x86_64 is missing: scripts/setup --tests installs it".into());
    }
    // Built here rather than at the boot, so that "cannot be built" and "failed" are told apart.
    let output = Command::new(here("rigs/guest/build")).output().expect("the rig's build script starts");
    if output.status.success() {
        return None;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Some(format!("the image could not be built: {}", said.lines().last().unwrap_or("it said nothing")))
}

/// How the one boot went.
#[derive(Debug)]
enum Guest {
    Missing(String),
    Failed(String),
    Ran(Findings),
}

/// Boots the guest with these programs and runs `guest/script.sh` in it.
fn boot() -> Guest {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("what the last run left can be removed");
    }
    let (server, collector) = (env!("CARGO_BIN_EXE_tapio-server"), env!("CARGO_BIN_EXE_tapio-collector"));
    let build = Path::new(env!("CARGO_TARGET_TMPDIR")).join("build");
    std::fs::write(&build, Path::new(server).parent().unwrap().as_os_str().as_encoded_bytes()).unwrap();
    let output = Command::new(here("rigs/guest/run"))
        .arg(here("it/guest/script.sh"))
        .args([server, collector])
        .args([&build, &std::env::current_exe().unwrap()])
        .arg(here("rigs/provoke/lib.sh"))
        .args(PROVOKED.map(|name| here(&format!("rigs/provoke/{name}.sh"))))
        .env("TAPIO_GUEST_RESULT", &folder)
        // Minutes on an idle machine, ten times that on a busy one.
        .env("TAPIO_GUEST_LIMIT", "1800")
        .output()
        .unwrap();
    let findings = Findings { folder };
    if output.status.success() {
        return Guest::Ran(findings);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Guest::Failed(format!("the guest ended with {}\n{said}\n{}", output.status, findings.log()))
}

/// What the one boot found; nothing, and said, where there is no guest.
fn findings(test: &str) -> Option<&'static Findings> {
    static GUEST: OnceLock<Guest> = OnceLock::new();
    match GUEST.get_or_init(|| missing().map_or_else(boot, Guest::Missing)) {
        Guest::Ran(findings) => Some(findings),
        Guest::Failed(why) => panic!("{why}"),
        Guest::Missing(reason) => {
            skipped(&format!("guest::{test}"), reason);
            None
        }
    }
}

/// Scenario: the guest.
/// Guarantees: it is what the tests here are about: kernel 6.1, one cgroup hierarchy.
#[test]
fn it_is_debian_12() {
    let Some(findings) = findings("it_is_debian_12") else { return };
    assert!(findings.text("kernel").starts_with("6.1."), "kernel {}", findings.text("kernel"));
    assert_eq!(findings.text("cgroup").trim(), "cgroup2fs");
}

/// Scenario: the tests of the live kernel, by this same binary, on that kernel.
/// Guarantees: they pass there, too.
#[test]
fn the_live_tests_pass() {
    let Some(findings) = findings("the_live_tests_pass") else { return };
    let text = findings.text("live");
    // Indented, so that nobody takes its results for those of this run.
    let shown = text.replace('\n', "\n    ");
    assert_eq!(findings.status("live"), 0, "{shown}");
    assert!(text.contains("test result: ok.") && !text.contains(" 0 passed"), "{shown}");
    for test in text.lines().filter_map(|line| line.strip_prefix("SKIPPED ")) {
        skipped("in the guest", test);
    }
}

/// Scenario: `doctor` on that host.
/// Guarantees: it answers, as JSON, and finds no reason why the agent could not run.
#[test]
fn doctor_finds_the_host_fit() {
    let Some(findings) = findings("doctor_finds_the_host_fit") else { return };
    let doctor = findings.json("doctor.json");
    assert_eq!(findings.status("doctor"), 0, "{doctor:#}");
    assert_eq!(doctor["ready"], true, "{doctor:#}");
}

/// Scenario: the agent has run for twenty seconds, among short processes, failed connects and a killed process.
/// Guarantees: every probe is attached, but the one that is off unless asked for; the ledger is closed.
#[test]
fn every_probe_is_attached() {
    let Some(findings) = findings("every_probe_is_attached") else { return };
    let status = findings.json("status.json");
    let ebpf = &status["collectors"]["ebpf"];
    assert_eq!(ebpf["state"], "running", "{status:#}");
    for probe in tapio::collector::ebpf::PROBES {
        let expected = if probe.name == "load" { "missing" } else { "attached" };
        assert_eq!(ebpf["probes"][probe.name]["state"], expected, "{}: {status:#}", probe.name);
    }
    assert_eq!(status["ledger_closed"], true, "{status:#}");
    assert!(status["events_total"].as_u64().is_some_and(|events| events > 50), "{status:#}");
}

/// Scenario: as above; then the server is asked for events of each sort that the guest provoked.
/// Guarantees: each has arrived and can be found by its kind, under the unit and the trace id that systemd gave.
#[test]
fn events_of_each_sort_arrive() {
    let Some(findings) = findings("events_of_each_sort_arrive") else { return };
    for kind in &["process_exec", "process_exit", "signal", "tcp_connect", "tcp_listen", "cgroup_created"] {
        let answer = findings.json(&format!("events.{kind}"));
        assert_eq!(answer.as_array().map_or(0, Vec::len), 1, "{kind}: {answer:#}\n{}", findings.log());
        assert_eq!(answer[0]["kind"], *kind, "{answer:#}");
    }
    // All of the script's processes belong to the unit that runs it; the trace id is its invocation.
    let entity = &findings.json("events.process_exec")[0]["entity"];
    assert_eq!(entity["unit"], "guest.service", "{entity:#}");
    assert_eq!(entity["trace_id"], findings.text("invocation").trim(), "{entity:#}");
}

/// Scenario: a unit that outgrows its limit again and again, one that systemd-oomd kills, one that crashes.
/// Guarantees: each ends as only a host with cgroup v2 says it, and exactly one event says the same.
#[test]
fn units_end_as_they_were_made_to() {
    let Some(findings) = findings("units_end_as_they_were_made_to") else { return };
    let outcomes: Vec<Line> =
        ["oom-kill", "pressure-kill", "segfault"].iter().flat_map(|name| findings.outcomes(name)).collect();
    let results: Vec<_> = outcomes.iter().map(|outcome| outcome.field("result")).collect();
    // systemd may hear of the end of the process before it hears of the limit.
    assert!(["oom-kill", "signal"].contains(&results[0]), "{results:?}");
    assert_eq!(results[1..], ["oom-kill", "core-dump"]);
    Changes::new(findings.events("unit_state")).assert_ends(&outcomes);
    // Of four starts within the limit, each ended by the kernel.
    assert!(findings.events("oom_victim").len() >= 3, "{}", findings.log());
}

/// Scenario: as above; then the clock is set forward and back.
/// Guarantees: the journal's word of the core dump and of each step of the clock has arrived.
#[test]
fn the_journal_of_the_guest_arrives() {
    let Some(findings) = findings("the_journal_of_the_guest_arrives") else { return };
    assert_eq!(findings.outcomes("clock-step").len(), 1, "one unit ends by it");
    let records = findings.events("log_record");
    let count = |id: &str| records.iter().filter(|record| record.0["slots"]["message_id"] == id).count();
    assert_eq!(count("fc2e22bc6ee647b6b90729ab34a250b1"), 1, "core dumps; {}", findings.log());
    assert!(count("c7a787079b354eaaa9e77b371893cd27") >= 2, "steps of the clock; {}", findings.log());
}

/// Scenario: the agent is told to stop, then the server.
/// Guarantees: both end with 0, and what the agent made is on the server or accounted for.
#[test]
fn the_ledger_closes_at_the_end() {
    let Some(findings) = findings("the_ledger_closes_at_the_end") else { return };
    assert_eq!(findings.status("collector"), 0, "{}", findings.log());
    assert_eq!(findings.status("server"), 0, "{}", findings.log());

    let server = findings.json("server.json");
    let agent = &server["agents"][0];
    let rows = agent["ledger"]["rows"].as_array().unwrap_or_else(|| panic!("{server:#}"));
    let mut acked = 0;
    for row in rows {
        let number = |name: &str| row[name].as_u64().unwrap_or_else(|| panic!("{name}: {server:#}"));
        assert_eq!(number("produced"), number("ring_lost") + number("drained"), "{server:#}");
        // The server was there all the time, and the rings are far larger than what happened: nothing was lost.
        assert_eq!(number("produced"), number("acked"), "{server:#}");
        acked += number("acked");
    }
    for source in ["ebpf", "journald", "systemd"] {
        let row = rows.iter().find(|row| row["source"] == source).unwrap_or_else(|| panic!("{server:#}"));
        assert!(row["acked"].as_u64().is_some_and(|acked| acked > 50), "{server:#}");
    }
    for stored in [&agent["events"], &server["store"]["events"]] {
        assert_eq!(stored.as_u64(), Some(acked), "{server:#}");
    }
}
