//! The agent in the rig: a unit there like any other, with a server on this host.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tapio::explain::Incident;

use super::changes::Event;
use super::host::Rig;
use crate::server::client::Server;

const UNIT: &str = "tapio-collector.service";
const SOCKET: &str = "--socket=/run/tapio/collector.sock";

/// Longest wait for the agent to be or say something.
const TRIES_MAX: u32 = 300;

/// A running agent and its server.
pub(super) struct Agent<'rig> {
    rig: &'rig Rig,
    pub(super) server: Server,
    /// Paths of the rig that it cannot see.
    hidden: &'static str,
}

impl<'rig> Agent<'rig> {
    /// Starts both, keeping the server's data in a folder, and waits until these collectors run.
    pub(super) fn start(rig: &'rig Rig, folder: &Path, collectors: &[&str], flags: &[&str]) -> Self {
        let agent = Self::start_without(rig, folder, "", flags);
        agent.await_running(collectors);
        agent
    }

    /// Starts both, the agent without these paths, and waits for nothing.
    pub(super) fn start_without(rig: &'rig Rig, folder: &Path, hidden: &'static str, flags: &[&str]) -> Self {
        let agent = Self { rig, server: Server::start(folder, &[]), hidden };
        agent.start_again(flags);
        agent
    }

    /// Starts only the agent, with the same state as before.
    pub(super) fn start_again(&self, flags: &[&str]) {
        let server = format!("--server={}", self.server.grpc);
        let (unit, hidden) =
            (format!("--unit={UNIT}"), format!("--property=InaccessiblePaths={}", self.hidden));
        let mut command = vec!["systemd-run", "--quiet", "--collect", &unit, &hidden];
        command.extend(["--property=NetworkNamespacePath=/run/host-network", "--property=LimitNOFILE=4096"]);
        command.extend(["/usr/local/bin/tapio-collector", SOCKET, "--state-dir=/var/lib/tapio", &server]);
        command.extend(["--flush-interval=20ms", "--shutdown-deadline=20s"]);
        command.extend(flags);
        self.rig.text(&command);
    }

    /// What `status` says; nothing while the agent does not answer.
    pub(super) fn status(&self) -> Option<Value> {
        let output =
            self.rig.command(&["/usr/local/bin/tapio-collector", "status", "--json", SOCKET]).output();
        serde_json::from_slice(&output.unwrap().stdout).ok()
    }

    /// What `incidents` says.
    pub(super) fn incidents(&self) -> Vec<Incident> {
        let command = ["/usr/local/bin/tapio-collector", "incidents", "--json", SOCKET];
        serde_json::from_str(&self.rig.text(&command)).expect("a list of incidents")
    }

    pub(super) fn await_running(&self, collectors: &[&str]) {
        collectors.iter().for_each(|name| self.await_state(name, "running"));
    }

    pub(super) fn await_state(&self, collector: &str, wanted: &str) {
        let mut last = None;
        for _ in 0..TRIES_MAX {
            last = self.status();
            if last.as_ref().is_some_and(|status| status["collectors"][collector]["state"] == wanted) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{collector} is not {wanted}: {last:#?}\n{}", self.log());
    }

    /// What the agent logged.
    fn log(&self) -> String {
        self.rig.text(&["journalctl", "--quiet", "--no-pager", "--lines=40", "--unit", UNIT])
    }

    /// Nanoseconds of processor time that the agent's threads with these names, and all of its threads, have used.
    pub(super) fn cpu_ns(&self, threads: &[&str]) -> (u64, u64) {
        const SCRIPT: &str =
            "for task in /proc/$(systemctl show --property=MainPID --value \"$0\")/task/*; do
            echo $(cat $task/schedstat) $(cat $task/comm); done";
        let (mut some, mut all) = (0, 0);
        for line in self.rig.text(&["/bin/sh", "-c", SCRIPT, UNIT]).lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let [used, _waited, _slices, name @ ..] = &words[..] else { panic!("{line}") };
            let used: u64 = used.parse().unwrap();
            all += used;
            some += if threads.contains(&&*name.join(" ")) { used } else { 0 };
        }
        (some, all)
    }

    /// Kills the agent as a crash would.
    pub(super) fn kill(&self) {
        self.rig.text(&["systemctl", "kill", "--signal=KILL", UNIT]);
        for _ in 0..TRIES_MAX {
            if self.rig.text(&["systemctl", "list-units", "--no-legend", "--plain", UNIT]).trim().is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the agent was killed and is still there");
    }

    /// Asks the agent to end, and returns the server's row of it once it has said good-bye.
    pub(super) fn stop(&self) -> Value {
        self.rig.text(&["systemctl", "stop", UNIT]);
        for _ in 0..TRIES_MAX {
            let status = self.server.json("/api/v1/status");
            let row = &status["agents"][0];
            if row["connected"] == false {
                return row.clone();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the server still waits for the agent: {:#}", self.server.json("/api/v1/status"));
    }

    /// Waits until the server has an event of a kind that is the one.
    pub(super) fn await_event(&self, kind: &str, is_it: impl Fn(&Event) -> bool) {
        for _ in 0..TRIES_MAX {
            if self.events(kind).0.iter().any(&is_it) {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("the {kind} that was waited for never came: {:#?}\n{}", self.status(), self.log());
    }

    /// Shows each event of a kind, each id once, however many there are.
    pub(super) fn each_event(&self, kind: &str, mut show: impl FnMut(&Event)) {
        let (mut seen, mut from) = (BTreeSet::new(), "0".to_owned());
        loop {
            let path = format!("/api/v1/events?kind={kind}&limit=20000&from={from}");
            let answer = self.server.json(&path);
            let before = seen.len();
            for event in answer.as_array().expect("a list").iter().cloned().map(Event) {
                event.0["time"].as_str().expect("a time").clone_into(&mut from);
                if seen.insert(event.id().to_owned()) {
                    show(&event);
                }
            }
            // Pages overlap in the time of the last event; one with nothing new is behind the end.
            if seen.len() == before {
                return;
            }
        }
    }

    /// All events of a kind, each id once, with how many there were.
    pub(super) fn events(&self, kind: &str) -> (Vec<Event>, usize) {
        let answer = self.server.json(&format!("/api/v1/events?kind={kind}&limit=100000"));
        let mut events: Vec<_> = answer.as_array().expect("a list").iter().cloned().map(Event).collect();
        let count = events.len();
        assert!(count < 100_000, "there may be more {kind} than were asked for");
        events.sort_by(|one, other| one.id().cmp(other.id()));
        events.dedup_by(|one, other| one.id() == other.id());
        (events, count)
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        // It may be gone already. The next test needs its name.
        let _gone = self.rig.command(&["systemctl", "stop", UNIT]).output();
        let _reset = self.rig.command(&["rm", "-rf", "/var/lib/tapio"]).output();
    }
}
