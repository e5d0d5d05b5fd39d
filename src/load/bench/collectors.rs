//! What the collectors of the journal and of systemd cost on a host where nothing happens.
//!
//! The host is the container rig of the tests: a whole systemd with its journal, whatever this machine runs.
//!
//! Invariants:
//! - The container is gone when the run ends: it holds the other end of its standard input.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Rig;
use super::agent::{Server, Status};
use super::report::{Measure, Report};
use crate::load::LoadError;
use crate::load::child::{Child, Start, pause};
use crate::load::control::Watch;

/// Boots the container and runs commands in it; a path in the repository, from where `scripts/bench` runs.
const RUN: &str = "tests/rigs/nspawn/run";

/// The agent in it.
const AGENT: &str = "/usr/local/bin/tapio-collector";
const UNIT: &str = "tapio-collector.service";

/// The collectors that are measured, and their threads.
const COLLECTORS: [&str; 2] = ["journald", "systemd"];
const THREADS: [&str; 2] = ["journal", "systemd"];

/// Prints the nanoseconds and the name of each thread of the unit's main process.
const CPU: &str = "for task in /proc/$(systemctl show --property=MainPID --value \"$0\")/task/*; do
    echo $(cut -d ' ' -f 1 $task/schedstat) $(cat $task/comm); done";

const COMMAND_LIMIT: Duration = Duration::from_secs(30);
const READY_LIMIT: Duration = Duration::from_secs(60);

/// How long the start is given to be over.
const SETTLE: Duration = Duration::from_secs(10);

/// A booted container.
struct Host {
    /// What its `exec` calls it.
    name: String,
    /// Ended by its drop.
    _hold: Child,
}

impl Host {
    fn boot(rig: &Rig) -> Result<Self, LoadError> {
        if !Path::new(RUN).exists() {
            let remedy = "scripts/bench in a clone of the repository has it";
            return Err(LoadError::Missing { program: RUN.into(), remedy });
        }
        // So that what is not installed is told apart from what does not boot.
        Start::new("systemd-nspawn").arg("--version").run(COMMAND_LIMIT)?;
        let agent = rig.place.programs.join("tapio-collector");
        let log = rig.place.scratch.join("host.log");
        let start = Start::new(RUN).arg("hold").arg(format_args!("--bind-ro={}:{AGENT}", agent.display()));
        let mut hold = start.stdin_piped().stdout_piped().log(&log)?.spawn()?;
        let missing = || LoadError::process("the container", "does not say where it is");
        let mut output = hold.take_stdout().ok_or_else(missing)?;
        let line = hold.expect_line(&mut output).map_err(|error| {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            LoadError::process("the container", format!("{error}: {}", said.trim()))
        })?;
        let name = line.trim().strip_prefix("rig=").ok_or_else(missing)?.to_owned();
        Ok(Self { name, _hold: hold })
    }

    fn command(&self, command: &[&str]) -> Start {
        Start::new(RUN).arg("exec").arg(&self.name).args(command)
    }

    /// Starts the agent as a unit and waits until both collectors run.
    fn start_agent(&self, rig: &Rig, server: &Server) -> Result<(), LoadError> {
        let (unit, server) = (format!("--unit={UNIT}"), format!("--server={}", server.address()));
        let mut command = vec!["systemd-run", "--quiet", &unit];
        // To reach the server, which is outside.
        command.push("--property=NetworkNamespacePath=/run/host-network");
        command.extend([AGENT, &server, "--enable-ebpf=false", "--enable-k8s=false"]);
        command.push("--enable-sampler=false");
        command.extend(rig.extra.iter().map(String::as_str));
        self.command(&command).run(COMMAND_LIMIT)?;
        let end = Instant::now() + READY_LIMIT;
        loop {
            let answer = self.command(&[AGENT, "status", "--json"]).output(COMMAND_LIMIT);
            let status = answer.ok().and_then(|text| serde_json::from_str::<Status>(&text).ok());
            let runs = |status: &Status, name: &str| {
                status.collectors.get(name).is_some_and(|collector| collector.state == "running")
            };
            if status.as_ref().is_some_and(|status| COLLECTORS.iter().all(|name| runs(status, name))) {
                return Ok(());
            }
            if Instant::now() >= end {
                let why = format!("does not run {COLLECTORS:?}: {status:?}");
                return Err(LoadError::process("tapio-collector", why));
            }
            pause(Duration::from_millis(200))?;
        }
    }

    /// The time that the threads have used.
    fn used(&self) -> Result<Duration, LoadError> {
        let text = self.command(&["/bin/sh", "-c", CPU, UNIT]).output(COMMAND_LIMIT)?;
        let threads = text.lines().filter_map(|line| line.split_once(' '));
        let used: Vec<u64> = threads
            .filter(|(_, name)| THREADS.contains(name))
            .filter_map(|(nanos, _)| nanos.parse().ok())
            .collect();
        if used.len() != THREADS.len() {
            return Err(LoadError::process("tapio-collector", format!("has other threads: {text}")));
        }
        Ok(Duration::from_nanos(used.iter().sum()))
    }
}

/// One run: the CPU time of both threads over a minute.
pub(super) fn run(rig: &Rig) -> Result<Report, LoadError> {
    let server = Server::start(&rig.place, &rig.program_cpus, None)?;
    let host = Host::boot(rig)?;
    host.start_agent(rig, &server)?;
    pause(SETTLE)?;
    let watch = Watch::start()?;
    let (start, before) = (Instant::now(), host.used()?);
    pause(Duration::from_secs(rig.seconds(60)))?;
    let used = host.used()?.saturating_sub(before).as_secs_f64();
    let lasted = start.elapsed().as_secs_f64();
    let mut report = Report::new(watch.finish()?);
    report.put(Measure::CollectorsPct, used * 100.0 / lasted);
    host.command(&["systemctl", "stop", UNIT]).run(COMMAND_LIMIT)?;
    drop(host);
    server.stop()?;
    Ok(report)
}
