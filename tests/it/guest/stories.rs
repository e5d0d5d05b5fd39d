//! Stories that need a host of their own: cgroup v2 with systemd-oomd, and a clock that may be set.
//!
//! A boot of its own, without anything else in it: seconds where processors are virtual, and left out where they would
//! have to be emulated.

use std::path::Path;
use std::process::Command;

use super::{here, image};
use crate::rig::expected::STORIES;
use crate::rig::replay::{alive, differences, replayed, said};
use crate::skipped;

/// The scripts, the one that sets the clock last.
const SCRIPTS: [&str; 4] = ["oom-kill", "pressure-kill", "segfault", "clock-step"];

/// Scenario: stories in a guest, each with a fresh agent.
/// Guarantees: root, chain and what decided as the table says; the recording of it, replayed, says the same.
#[test]
fn stories_are_told() {
    const NAME: &str = "guest::stories::stories_are_told";
    if std::env::var_os("TAPIO_UNSETTLED").is_none() {
        let why =
            "it did not end within 300 s, and its verdicts were not seen yet: TAPIO_UNSETTLED=1 runs it";
        return skipped(NAME, why);
    }
    if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return skipped(NAME, "needs /dev/kvm: emulated it would take a quarter of an hour");
    }
    if let Some(why) = image() {
        return skipped(NAME, &why);
    }
    let folder = tempfile::tempdir().unwrap();
    let names = folder.path().join("names");
    std::fs::write(&names, SCRIPTS.join("\n")).unwrap();
    let output = Command::new(here("rigs/guest/run"))
        .arg(here("it/guest/stories.sh"))
        .args([Path::new(env!("CARGO_BIN_EXE_tapio-collector")), &names])
        .args(["lib", "reset"].iter().chain(&SCRIPTS).map(|name| here(&format!("rigs/provoke/{name}.sh"))))
        .env("TAPIO_GUEST_RESULT", folder.path())
        .env("TAPIO_GUEST_ACCEL", "kvm")
        .env("TAPIO_GUEST_LIMIT", "900")
        .output()
        .unwrap();
    let log =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the guest ended with {}: {log}", output.status);
    let left = |name: &str, what: &str| folder.path().join(format!("{name}.{what}"));
    let mut wrong = Vec::new();
    let mut table = String::new();
    for name in SCRIPTS {
        let text = |what: &str| std::fs::read_to_string(left(name, what)).unwrap_or_default();
        assert_eq!(text("status").trim(), "0", "{name}: {}{}{}", text("said"), text("errors"), text("agent"));
        let told = alive(said(&text("incidents")));
        let story = STORIES.iter().find(|story| story.script == name).unwrap();
        let mut complaints = story.complaints(&told);
        complaints.extend(differences(&told, &replayed(&left(name, "record"))));
        let roots: Vec<_> =
            told.iter().map(|one| format!("{} of {}", one.root_cause.kind, one.root_cause.entity)).collect();
        table += &format!("{:<5} {name:<21} {}\n", story.id, roots.join(", "));
        wrong.extend(complaints.into_iter().map(|what| format!("{name}: {what}")));
    }
    crate::rig::measured(NAME, &format!("\n{table}"));
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
