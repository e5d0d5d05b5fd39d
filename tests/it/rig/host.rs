//! The container rig as the tests see it: booted once, asked by commands, gone with the test binary.
//!
//! Invariants:
//! - The rig ends when this process does, however that ends: it holds the other end of the rig's input.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use super::script::Said;
use crate::skipped;

/// A booted rig.
#[derive(Debug)]
pub(super) struct Rig {
    /// What its `exec` calls it.
    name: String,
    /// Its PID 1, as the host numbers it.
    leader: u32,
    /// Never ended by hand: it ends when its standard input does.
    _hold: Child,
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rigs").join(path)
}

/// Why no rig can be booted here; nothing where one can.
fn missing() -> Option<String> {
    if std::env::var("TAPIO_NSPAWN").is_ok_and(|value| value == "off") {
        return Some("TAPIO_NSPAWN=off".into());
    }
    if !rustix::process::geteuid().is_root() {
        return Some("needs root, to boot a container".into());
    }
    if Command::new("systemd-nspawn").arg("--version").output().is_err() {
        return Some("systemd-nspawn is missing: scripts/setup --tests installs it".into());
    }
    // Built here rather than at the boot, so that "cannot be built" and "failed" are told apart.
    let output = Command::new(here("nspawn/build")).output().expect("the rig's build script starts");
    if output.status.success() {
        return None;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Some(format!("the root could not be built: {}", said.lines().last().unwrap_or("it said nothing")))
}

fn boot() -> Rig {
    let bind = |from: &str, to: &str| format!("--bind-ro={from}:{to}");
    let mut hold = Command::new(here("nspawn/run"))
        .arg("hold")
        .arg(bind(here("provoke").to_str().unwrap(), "/host"))
        .arg(bind(env!("CARGO_BIN_EXE_tapio-collector"), "/usr/local/bin/tapio-collector"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let facts = BufReader::new(hold.stdout.take().unwrap()).lines().map_while(Result::ok).take(3);
    let facts: Vec<String> = facts.collect();
    let fact = |name| {
        let found = facts.iter().find_map(|fact| fact.strip_prefix(name));
        found.unwrap_or_else(|| panic!("the rig did not boot, it said why above: {facts:?}"))
    };
    Rig { name: fact("rig=").to_owned(), leader: fact("leader=").parse().unwrap(), _hold: hold }
}

/// Longest time that a command in the rig may take, seconds.
const LIMIT_S: u32 = 240;

impl Rig {
    /// The rig of this test run; nothing, and said, where there is none.
    pub(super) fn get(test: &str) -> Option<&'static Self> {
        static RIG: OnceLock<Result<Rig, String>> = OnceLock::new();
        match RIG.get_or_init(|| missing().map_or_else(|| Ok(boot()), Err)) {
            Ok(rig) => Some(rig),
            Err(reason) => {
                skipped(&format!("rig::{test}"), reason);
                None
            }
        }
    }

    /// A command that runs in the rig as root, for [`LIMIT_S`] at most.
    pub(super) fn command(&self, command: &[&str]) -> Command {
        self.command_within(LIMIT_S, command)
    }

    fn command_within(&self, limit_s: u32, command: &[&str]) -> Command {
        let mut run = Command::new("timeout");
        run.arg("--kill-after=5").arg(limit_s.to_string()).arg(here("nspawn/run"));
        run.arg("exec").arg(&self.name).args(command).stdin(Stdio::null());
        run
    }

    /// A path in it, as the host reaches it.
    pub(super) fn path(&self, path: &str) -> String {
        format!("/proc/{}/root{path}", self.leader)
    }

    fn output(&self, command: &[&str]) -> Output {
        self.command(command).output().unwrap()
    }

    /// What a command prints, which must succeed.
    pub(super) fn text(&self, command: &[&str]) -> String {
        let output = self.output(command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Journal entries that match, oldest first: all that was sent until now.
    pub(super) fn journal(&self, matches: &[&str]) -> Vec<Value> {
        // journald may be far behind after a burst.
        self.text(&["journalctl", "--sync"]);
        let command = [&["journalctl", "--quiet", "--output=json", "--all"], matches].concat();
        self.text(&command).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Runs a script of `tests/rigs/provoke`; what it said that it did. Nothing, and said, where it cannot run.
    pub(super) fn provoke(&self, test: &str, script: &str) -> Option<Said> {
        self.provoke_within(LIMIT_S, test, script)
    }

    /// The same, for a script that takes so many seconds at most.
    pub(super) fn provoke_within(&self, limit_s: u32, test: &str, script: &str) -> Option<Said> {
        match self.attempt_within(limit_s, script) {
            Provoked::Did(said) => Some(said),
            Provoked::Cannot(why) => {
                skipped(&format!("rig::{test}"), &why);
                None
            }
            Provoked::Failed(why) => panic!("{why}"),
        }
    }

    /// The same, where what becomes of it is for the caller to judge.
    pub(super) fn attempt(&self, script: &str) -> Provoked {
        self.attempt_within(LIMIT_S, script)
    }

    fn attempt_within(&self, limit_s: u32, script: &str) -> Provoked {
        let (name, arguments) = script.split_once(' ').unwrap_or((script, ""));
        let path = format!("/host/{name}.sh");
        let command: Vec<&str> = ["/bin/sh", &path].into_iter().chain(arguments.split_whitespace()).collect();
        let output = self.command_within(limit_s, &command).output().unwrap();
        let (said, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.code() == Some(77) {
            return Provoked::Cannot(errors.trim().to_owned());
        }
        if !output.status.success() {
            return Provoked::Failed(format!("{script} ended with {}:\n{said}\n{errors}", output.status));
        }
        let said = Said::read(&said);
        if said.is_whole(name) {
            Provoked::Did(said)
        } else {
            Provoked::Failed(format!("{script}: {said:?}"))
        }
    }
}

/// What became of a script.
#[derive(Debug)]
pub(super) enum Provoked {
    /// It did what it was meant to.
    Did(Said),
    /// This host cannot do it, and why.
    Cannot(String),
    /// The host did otherwise.
    Failed(String),
}
