//! The agent on a whole host of another kernel: Debian 12 with its 6.1, systemd as PID 1, cgroup v2.
//!
//! One boot for all that is looked at: under emulation the boot is what costs. `tests/rigs/guest` builds the
//! image once and boots it; `TAPIO_GUEST=off` leaves this out.
//!
//! Invariants:
//! - The guest's script only collects; every judgement is made here, where a failure can be read.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::skipped;

/// What the guest left behind.
struct Findings {
    folder: tempfile::TempDir,
}

impl Findings {
    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name))
            .unwrap_or_else(|error| panic!("the guest left no {name} ({error})\n{}", self.log()))
    }

    fn json(&self, name: &str) -> Value {
        let text = self.text(name);
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{name} ({error}):\n{text}\n{}", self.log()))
    }

    /// All that was said in the guest, for a failure's message.
    fn log(&self) -> String {
        ["output", "server.log", "collector.log"]
            .iter()
            .map(|name| {
                let text = std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
                format!("---- {name}\n{text}")
            })
            .collect()
    }
}

fn rig(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rigs/guest").join(name)
}

/// Why the guest cannot run here; nothing where it can.
fn missing() -> Option<String> {
    if std::env::var("TAPIO_GUEST").is_ok_and(|value| value == "off") {
        return Some("TAPIO_GUEST=off".into());
    }
    let starts =
        |tool: &str| Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !starts("qemu-system-x86_64") {
        return Some("qemu-system-x86_64 is missing: scripts/setup --tests installs it".into());
    }
    // Built here rather than at the boot, so that "cannot be built" and "failed" are told apart.
    let output = Command::new(rig("build")).output().expect("the rig's build script starts");
    if output.status.success() {
        return None;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Some(format!("the image could not be built: {}", said.lines().last().unwrap_or("it said nothing")))
}

/// Boots the guest with the two programs and runs `guest/script.sh` in it.
fn boot() -> Findings {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(rig("run"))
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/guest/script.sh"))
        .args([env!("CARGO_BIN_EXE_tapio-server"), env!("CARGO_BIN_EXE_tapio-collector")])
        .env("TAPIO_GUEST_RESULT", folder.path())
        .output()
        .unwrap();
    let findings = Findings { folder };
    assert!(
        output.status.success(),
        "the guest ended with {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        findings.log()
    );
    findings
}

/// Scenario: the programs built here run for twenty seconds on Debian 12, among short processes, failed
/// connects and a killed process.
/// Guarantees: the same binary loads on kernel 6.1; every probe is attached, or is one that is off unless asked
/// for; events of each sort reach the server; at the end the ledger closes and the agent ends with 0.
#[test]
fn the_agent_accounts_for_a_debian_12_host() {
    if let Some(reason) = missing() {
        return skipped("guest::the_agent_accounts_for_a_debian_12_host", &reason);
    }
    let findings = boot();
    assert!(findings.text("kernel").starts_with("6.1."), "kernel {}", findings.text("kernel"));
    assert_eq!(findings.text("cgroup").trim(), "cgroup2fs");
    assert_eq!(findings.json("status.json")["ledger_closed"], true);
}
