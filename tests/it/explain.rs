//! Incidents of real processes that fail in a service. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Signal, geteuid};
use serde_json::Value;
use tapio::explain::{Incident, RuleSet};
use tapio::recording::{load, replay};

use super::config::{agent, outcome};
use super::control::{Running, kept_to};
use super::skipped;

/// A cgroup that looks like a service of systemd.
struct Service(PathBuf);

impl Service {
    fn make(name: &str) -> Self {
        let top = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let top = top.into_iter().find(|top| top.join("cgroup.controllers").exists());
        let slice =
            top.expect("cgroup v2 is mounted").join(format!("tapiotest{}{name}.slice", std::process::id()));
        let folder = slice.join(format!("{name}.service"));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// A process in it does this.
    fn run(&self, script: &str) {
        let script = format!("ulimit -c 0; echo $$ > '{}/cgroup.procs'; {script}", self.0.display());
        let _failed = Command::new("/bin/sh").arg("-c").arg(script).status().unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _busy = std::fs::remove_dir(&self.0);
        let _busy = self.0.parent().map(std::fs::remove_dir);
    }
}

/// What the agent of a folder answers to `incidents`, once this holds for one of them.
fn incident_when(folder: &Path, what: &str, holds: impl Fn(&Incident) -> bool) -> Incident {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let output = agent().args(["incidents", "--json"]).arg(&kept_to(folder)[0]).output().unwrap();
        let (code, error) = outcome(&output);
        assert_eq!(code, 0, "{error}");
        let incidents: Vec<Incident> = serde_json::from_slice(&output.stdout).unwrap();
        if let Some(found) = incidents.iter().find(|incident| holds(incident)) {
            return found.clone();
        }
        let titles: Vec<&str> = incidents.iter().map(|incident| incident.title.as_str()).collect();
        assert!(Instant::now() < deadline, "{what}: {titles:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// An agent of the kernel's events alone.
fn start(folder: &Path, more: &[String]) -> Running {
    let mut command = agent();
    command.args(kept_to(folder)).args(more);
    let mut running = Running::start(&mut command);
    running.line_with("runs");
    running
}

/// Scenario: a service crashes; a file of rules then gives other words for it, then is broken; each time with a SIGHUP.
/// Guarantees: the incident gets the new words without a restart and with the probes attached all the time; the broken
/// file is refused with its place, and changes nothing.
#[test]
fn live_rules_are_reloaded() {
    if !geteuid().is_root() {
        return skipped("explain::live_rules_are_reloaded", "needs root, to load BPF programs");
    }
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("mine.toml");
    std::fs::write(&rules, "[[root]]\nkind = \"crash\"\ntext = \"the first words\"\n").unwrap();
    let service = Service::make("reload");
    let mut running = start(folder.path(), &[format!("--rules={}", rules.display())]);
    service.run("kill -SEGV $$");
    let is_ours = |incident: &Incident| incident.root_cause.entity.name == "reload.service";
    let says = |words: &'static str| {
        move |incident: &Incident| is_ours(incident) && incident.root_cause.summary.contains(words)
    };
    let first = incident_when(folder.path(), "a crash", says("the first words"));

    std::fs::write(&rules, "[[root]]\nkind = \"crash\"\ntext = \"the second words\"\n").unwrap();
    running.send(Signal::HUP);
    running.line_with("rules are in force");
    let second = incident_when(folder.path(), "other words", says("the second words"));
    assert_eq!((second.id.clone(), second.revision), (first.id, first.revision + 1));
    let status = agent().args(["status", "--json"]).arg(&kept_to(folder.path())[0]).output().unwrap();
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["collectors"]["ebpf"]["probes"]["process"]["state"], "attached");
    assert_eq!(status["ledger_closed"], true, "{status}");

    std::fs::write(&rules, "[[root]]\nkind = \"crashh\"\ntext = \"the third words\"\n").unwrap();
    running.send(Signal::HUP);
    let refused = running.line_with("the rules stay as they were");
    assert!(refused.contains("mine.toml:2:8") && refused.contains("did you mean `crash`"), "{refused}");
    assert_eq!(
        incident_when(folder.path(), "as before", is_ours).root_cause.summary,
        second.root_cause.summary
    );
    running.send(Signal::TERM);
    assert_eq!(running.wait(), Some(0));
}

/// Scenario: services crash in three ways; each incident names its recording; the agent ends.
/// Guarantees: the flight recorder has cut out a file for each, and a replay of it says the verdict that the agent said, byte for byte.
#[test]
fn live_a_recording_says_what_the_agent_said() {
    if !geteuid().is_root() {
        return skipped(
            "explain::live_a_recording_says_what_the_agent_said",
            "needs root, to load BPF programs",
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let mut running = start(folder.path(), &[]);
    // Without a manager that says so, an exit with a status is no failure: all of them end by a signal of their own.
    let stories = [("crashes", "kill -SEGV $$"), ("aborts", "kill -ABRT $$"), ("misaligns", "kill -BUS $$")];
    let mut told = Vec::new();
    for (name, script) in stories {
        let service = Service::make(name);
        service.run(script);
        let unit = format!("{name}.service");
        let is_ours = |incident: &Incident| incident.root_cause.entity.name == unit;
        incident_when(folder.path(), name, is_ours);
        // What still belongs to it comes within a moment.
        std::thread::sleep(Duration::from_secs(1));
        told.push(incident_when(folder.path(), name, is_ours));
    }
    running.send(Signal::TERM);
    assert_eq!(running.wait(), Some(0));
    let rules = std::sync::Arc::new(RuleSet::shipped().unwrap());
    for incident in told {
        let file = PathBuf::from(incident.recording.clone().expect("it names its file"));
        let again = replay::incidents(&load(&[file]).unwrap(), std::sync::Arc::clone(&rules));
        let again = again.iter().find(|again| again.id == incident.id).expect("the same incident");
        let [said, again] =
            [&incident, again].map(|one| serde_json::to_string_pretty(&one.verdict()).unwrap());
        assert_eq!(again, said);
    }
}
