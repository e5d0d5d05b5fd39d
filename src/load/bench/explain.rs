//! What it costs to explain, and how soon the agent does.
//!
//! Invariants:
//! - The cgroups and processes that it makes are gone when it ends.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::Rig;
use super::agent::{Agent, Server};
use super::report::{Measure, Report};
use super::sampler::Services;
use crate::load::LoadError;
use crate::load::child::{Start, pause};
use crate::load::control::Watch;
use crate::load::facts::Used;
use crate::load::stats::float;

/// Services that crash at most, each once.
const SERVICES: usize = 400;

/// A crash that has no verdict by then has none.
const VERDICT_LIMIT: Duration = Duration::from_secs(5);

/// Between two crashes.
const BETWEEN: Duration = Duration::from_millis(30);

/// Facts at a rate, into the causal engine alone.
pub(super) fn engine(rig: &Rig, rate: u64, seconds: u64) -> Result<Report, LoadError> {
    let watch = Watch::start()?;
    let start = rig.own().args(["facts", "--rate"]).arg(rate).arg("--seconds").arg(rig.seconds(seconds));
    let text = start.on(&rig.agent_cpus).output(Duration::from_secs(seconds * 10 + 60))?;
    let used: Used = serde_json::from_str(&text)
        .map_err(|error| LoadError::process("facts", format!("{error} in its output {text:?}")))?;
    let mut report = Report::new(watch.finish()?);
    report.put(Measure::ExplainPct, used.core_pct);
    report.put(Measure::ExplainSlowest, used.slowest_ms);
    report.put(Measure::ExplainKept, float(used.kept));
    report.put(Measure::ExplainHalfMib, float(used.half_kib) / 1024.0);
    report.put(Measure::ExplainMib, float(used.whole_kib) / 1024.0);
    Ok(report)
}

/// A line of `--output`, as far as it is needed.
#[derive(Deserialize)]
struct Line {
    facts: Vec<LineFact>,
}

#[derive(Deserialize)]
struct LineFact {
    kind: String,
    entity: Entity,
}

#[derive(Deserialize)]
struct Entity {
    name: String,
}

/// Real processes of services crash, one after the other: from the moment at which the harness knows of the end, to the
/// moment at which the agent's `--output` has the incident with that end in it.
pub(super) fn verdicts(rig: &Rig, seconds: u64) -> Result<Report, LoadError> {
    let output = rig.place.scratch.join("incidents.jsonl");
    std::fs::write(&output, "").map_err(LoadError::io(output.display().to_string()))?;
    let server = Server::start(&rig.place, &rig.program_cpus, None)?;
    let services = Services::make(SERVICES)?;
    let mut extra = rig.extra.clone();
    extra.push(format!("--output={}", output.display()));
    let agent = Agent::start(&rig.place, &rig.agent_cpus, &server, &extra)?;
    pause(Duration::from_secs(2))?;
    let watch = Watch::start()?;
    let end = Instant::now() + Duration::from_secs(rig.seconds(seconds));
    let mut waits = Vec::new();
    for number in 0..SERVICES {
        if Instant::now() >= end {
            break;
        }
        crash(rig, &services, number)?;
        waits.push(until_told(&output, &format!("s{number}.service"))?.as_secs_f64() * 1e3);
        pause(BETWEEN)?;
    }
    let mut report = Report::new(watch.finish()?);
    waits.sort_by(f64::total_cmp);
    let at =
        |per_mille: usize| waits.get((waits.len() * per_mille / 1000).min(waits.len().saturating_sub(1)));
    report.put(Measure::VerdictP50, at(500).copied().unwrap_or(f64::NAN));
    report.put(Measure::VerdictP99, at(990).copied().unwrap_or(f64::NAN));
    report.put(Measure::Verdicts, float(waits.len() as u64));
    agent.stop()?;
    drop(services);
    server.stop()?;
    Ok(report)
}

/// A shell moves itself into the service and has a segmentation fault.
fn crash(rig: &Rig, services: &Services, number: usize) -> Result<(), LoadError> {
    let folders: Vec<String> =
        services.of(number).map(|folder| format!("echo $$ > '{}/cgroup.procs'", folder.display())).collect();
    let script = format!("ulimit -c 0; {}; kill -SEGV $$", folders.join("; "));
    let shell = Start::new("/bin/sh").arg("-c").arg(script).on(&rig.program_cpus);
    match shell.run(VERDICT_LIMIT) {
        // It is meant to die.
        Ok(()) => Err(LoadError::process("/bin/sh", "did not crash")),
        Err(LoadError::Process { .. }) => Ok(()),
        Err(other) => Err(other),
    }
}

/// How long it takes until a line tells of the end of a service's process.
fn until_told(output: &Path, service: &str) -> Result<Duration, LoadError> {
    let began = Instant::now();
    let tells = |text: &str| {
        let line: Option<Line> = serde_json::from_str(text).ok();
        let is = |fact: &LineFact| fact.kind == "crash" && fact.entity.name == service;
        line.is_some_and(|line| line.facts.iter().any(is))
    };
    while began.elapsed() < VERDICT_LIMIT {
        let text = std::fs::read_to_string(output).map_err(LoadError::io(output.display().to_string()))?;
        // The newest lines are the last ones.
        if text.lines().rev().take(8).any(tells) {
            return Ok(began.elapsed());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(LoadError::process("tapio-collector", format!("said nothing of {service} within {VERDICT_LIMIT:?}")))
}
