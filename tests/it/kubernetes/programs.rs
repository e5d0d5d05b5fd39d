//! The agent and the server as programs, beside a real node: the kernel, the journal and the API at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::ops::RangeBounds;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tapio::explain::Incident;

use super::plane::Plane;
use crate::config::{agent, outcome};
use crate::journal::live::Journald;
use crate::rig::kept::{self, Left};
use crate::server::client::Server;

/// Longest wait for anything; a test that waits this long has failed. Other builds may share the machine.
const WAIT_MAX: Duration = Duration::from_secs(90);

/// An event as the server tells it.
#[derive(Debug)]
pub(super) struct Stored(Value);

impl Stored {
    /// Where it is from.
    pub(super) fn source(&self) -> &str {
        self.0["source"].as_str().unwrap_or_default()
    }

    pub(super) fn kind(&self) -> &str {
        self.0["kind"].as_str().unwrap_or_default()
    }

    /// The id of the container that it is about; empty for none.
    pub(super) fn container_id(&self) -> &str {
        self.0["entity"]["container_id"].as_str().unwrap_or_default()
    }

    /// The trace id of what it is about.
    pub(super) fn trace_id(&self) -> &str {
        self.0["entity"]["trace_id"].as_str().unwrap_or_default()
    }

    /// A slot; 0 for none.
    pub(super) fn slot(&self, name: &str) -> i64 {
        self.0["slots"][name].as_i64().unwrap_or_default()
    }

    /// A field of its text; empty for none.
    pub(super) fn field(&self, name: &str) -> &str {
        let lines = self.0["text"].as_str().unwrap_or_default().lines();
        lines.filter_map(|line| line.split_once('=')).find(|(found, _)| *found == name).map_or("", |it| it.1)
    }
}

/// A process that does not outlive its test.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Both programs, and the journald whose entries they read, if there is one.
pub(super) struct Programs {
    agent: Guarded,
    server: Server,
    journald: Option<Journald>,
    folder: tempfile::TempDir,
    /// The incidents when the agent was stopped.
    told: Vec<Incident>,
}

impl Programs {
    /// Starts them, and waits until every source delivers.
    pub(super) fn start(plane: &Plane, journald: Option<Journald>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(&folder.path().join("server"), &[]);
        let at = |name: &str| folder.path().join(name).display().to_string();
        let mut command = agent();
        command.args([
            format!("--socket={}", at("collector.sock")),
            format!("--state-dir={}", at("state")),
            format!("--server={}", server.grpc),
            format!("--kubeconfig={}", plane.kubeconfig().display()),
            format!("--record={}", at("record")),
        ]);
        command.args([
            "--node-name=rig",
            "--k8s-scope=all",
            "--flush-interval=20ms",
            "--shutdown-deadline=2s",
        ]);
        command.args(["--enable-systemd=false", "--otel-disabled"]);
        match &journald {
            Some(journald) => command.arg(format!("--journal-directory={}", journald.directory().display())),
            None => command.arg("--enable-journald=false"),
        };
        // A file takes whatever is said, and nobody has to read it meanwhile.
        let log = std::fs::File::create(at("agent.log")).unwrap();
        let child = command.env("NO_COLOR", "1").stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let programs = Self { agent: Guarded(child), server, journald, folder, told: Vec::new() };
        programs.wait("every source", |programs| {
            let status = programs.ask("status").map_err(|why| format!("{why}\n{}", programs.log()))?;
            let runs = |name: &str| status["collectors"][name]["state"] == "running";
            let journald = programs.journald.is_none() || runs("journald");
            if runs("ebpf") && runs("kubernetes") && journald { Ok(()) } else { Err(status.to_string()) }
        });
        programs
    }

    fn ask(&self, command: &str) -> Result<Value, String> {
        let socket = format!("--socket={}", self.folder.path().join("collector.sock").display());
        let output = agent().args([command, "--json", &socket]).output().unwrap();
        let (code, error) = outcome(&output);
        if code == 0 { Ok(serde_json::from_slice(&output.stdout).unwrap()) } else { Err(error) }
    }

    /// What the agent said of itself.
    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("agent.log")).unwrap_or_default()
    }

    /// Waits until something is as wanted; what is instead, if it never is.
    pub(super) fn wait<T, E: std::fmt::Debug>(&self, what: &str, look: impl Fn(&Self) -> Result<T, E>) -> T {
        let until = Instant::now() + WAIT_MAX;
        loop {
            match look(self) {
                Ok(found) => return found,
                Err(instead) => {
                    assert!(Instant::now() < until, "waited in vain for {what}: {instead:#?}");
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
        }
    }

    /// The events that a query finds, oldest first.
    pub(super) fn events(&self, query: &str) -> Vec<Stored> {
        match self.server.json(&format!("/api/v1/events?{query}&limit=100000")) {
            Value::Array(events) => events.into_iter().map(Stored).collect(),
            other => panic!("not a list: {other}"),
        }
    }

    /// What one query by the id of a container or a pod finds, by source: its first 32 digits are the trace id.
    pub(super) fn joined(&self, id: &str) -> BTreeMap<String, Vec<Stored>> {
        let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(32).collect();
        let mut joined: BTreeMap<String, Vec<Stored>> = BTreeMap::new();
        for event in self.events(&format!("trace_id={digits}")) {
            joined.entry(event.source().to_owned()).or_default().push(event);
        }
        joined
    }

    /// The incidents so far.
    pub(super) fn incidents(&self) -> Vec<Incident> {
        serde_json::from_value(self.ask("incidents").unwrap()).unwrap()
    }

    /// Ends the agent as a person would, so that all it saw is on the server and in its recording.
    pub(super) fn stop(&mut self) {
        self.told = self.incidents();
        let agent = &mut self.agent.0;
        rustix::process::kill_process(rustix::process::Pid::from_child(agent), Signal::TERM).unwrap();
        let until = Instant::now() + WAIT_MAX;
        while agent.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "the agent does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Keeps the story of what has names that begin like this, if stories are kept, of some time, RFC 3339. For after
    /// [`Programs::stop`].
    pub(super) fn keep(&self, story: &str, by: &str, name: &str, when: impl RangeBounds<String>) {
        if !kept::is_wanted() {
            return;
        }
        let mut names = BTreeSet::from([name.to_owned()]);
        for event in self.events("kind=container_state").iter().chain(&self.events("kind=pod_state")) {
            if format!("{}/{}", event.field("NAMESPACE"), event.field("POD")).starts_with(name) {
                let ids = [event.field("POD_UID"), event.container_id()].into_iter();
                names.extend(ids.filter(|id| !id.is_empty()).map(str::to_owned));
            }
        }
        let is_then =
            |event: &Value| event["time"].as_str().is_some_and(|time| when.contains(&time.to_owned()));
        let events = self.events("").into_iter().map(|event| event.0).filter(is_then).collect();
        let told: Vec<Incident> =
            self.told.iter().filter(|incident| is_about(incident, name)).cloned().collect();
        let record = &self.folder.path().join("record");
        let (file, by) = (format!("live-kube-{story}.jsonl"), by.to_owned());
        kept::keep(&Left { file, by, events, names: &names, record, told: &told });
    }

    /// The incident that is about this and whose root is as wanted.
    pub(super) fn incident(&self, about: &str, holds: impl Fn(&Incident) -> bool) -> Incident {
        self.wait(&format!("the verdict on {about}"), |programs| {
            let all = programs.incidents();
            let of_it = all.iter().filter(|incident| is_about(incident, about));
            match of_it.clone().find(|incident| holds(incident)) {
                Some(incident) => Ok(incident.clone()),
                None => Err(of_it.map(told).collect::<Vec<_>>()),
            }
        })
    }
}

/// Whether one of its facts is about something whose name starts like this.
pub(super) fn is_about(incident: &Incident, name: &str) -> bool {
    incident.facts.iter().any(|fact| fact.entity.name.starts_with(name))
}

/// Says what was seen, on a line of its own.
pub(super) fn say(line: &str) {
    std::io::stderr().lock().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Says what a verdict is.
pub(super) fn report(incident: &Incident) {
    let root = &incident.root_cause;
    say(&format!("{} of {}: {} (confidence {:.2})", root.kind, root.entity, root.summary, root.confidence));
}

/// An incident in some lines.
pub(super) fn told(incident: &Incident) -> String {
    let root = &incident.root_cause;
    let facts: Vec<String> = incident
        .facts
        .iter()
        .map(|fact| format!("{} {} ({}) {:?}", fact.id, fact.kind, fact.source, fact.entity.name))
        .collect();
    let links: Vec<String> =
        incident.chain.iter().map(|link| format!("{} -{}-> {}", link.from, link.rule, link.to)).collect();
    format!(
        "{:?} {}: {} of {} (known {}, {:.2})\n  {}\n  {}",
        incident.state,
        incident.title,
        root.kind,
        root.entity,
        root.known,
        root.confidence,
        facts.join("\n  "),
        links.join("\n  ")
    )
}
