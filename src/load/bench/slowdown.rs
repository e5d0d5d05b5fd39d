//! How much an observed program is slowed down: with the agent and without it, in turns.

use std::time::Duration;

use super::agent::{Agent, Server};
use super::legs::{Baseline, account, start_consumer};
use super::line::{Head, Line};
use super::programs::{Program, Running};
use super::report::{Measure, Report};
use super::{Rig, rounds};
use crate::load::LoadError;
use crate::load::baseline::Consumed;
use crate::load::child::pause;
use crate::load::stats::{median, median_range, round};

const OFF: usize = 0;
const AGENT: usize = 1;
const RING: usize = 2;

/// How long attached probes get to settle, and the program to recover from their start.
const SETTLE: Duration = Duration::from_millis(500);

/// Real programs: how many percent slower. The baseline is the noise floor: the runs without the agent against each other.
pub(super) fn real(rig: &Rig, head: Head, program: Program) -> Result<Line, LoadError> {
    let seconds = rig.seconds(4);
    // The server stays up in every leg: only the agent comes and goes.
    let server = Server::start(&rig.place, &rig.agent_cpus, None)?;
    let running = Running::start(program, rig)?;
    running.measure(rig, 1)?;
    let rounds = rounds::run(2, rig.runs(11), |side| {
        if side == AGENT {
            return with_agent(rig, &server, &rig.extra, || running.measure(rig, seconds));
        }
        pause(SETTLE)?;
        running.measure(rig, seconds)
    })?;
    drop(running);
    server.stop()?;
    let rate = |report: &Report| report.get(Measure::Operations).unwrap_or(0.0);
    let (off, on) = (rounds.side(OFF), rounds.side(AGENT));
    let values: Vec<f64> = off.iter().zip(&on).map(|(off, on)| slower(rate(off), rate(on))).collect();
    let noise: Vec<f64> =
        off.iter().zip(off.iter().skip(1)).map(|(one, next)| slower(rate(one), rate(next)).abs()).collect();
    let all: Vec<&Report> = off.iter().chain(&on).copied().collect();
    let mut line = Line::new(head, &values, &all, rounds.clean)
        .against("A/A: without the agent against without it, median difference", &noise, &[])
        .with_details(&off, "off_")
        .with_details(&on, "on_");
    let cost = |report: &Report| report.get(Measure::OperationUs);
    let cpu: Vec<f64> =
        off.iter().zip(&on).filter_map(|(off, on)| Some(slower(cost(on)?, cost(off)?))).collect();
    let mut put = |name: String, value: f64| line.detail.insert(name, round(value));
    if let Some(median) = median(&cpu) {
        put("cpu_slowdown_pct".to_owned(), median);
    }
    for (name, pairs) in [("slowdown", &values), ("cpu_slowdown", &cpu)] {
        if let Some([low, high]) = median_range(pairs) {
            put(format!("{name}_low_pct"), low);
            put(format!("{name}_high_pct"), high);
        }
    }
    Ok(line)
}

/// Percent by which `on` is slower than `off`.
fn slower(off: f64, on: f64) -> f64 {
    (off / on.max(f64::MIN_POSITIVE) - 1.0) * 100.0
}

/// The worst case: how many times slower, beside libbpf's default ring.
pub(super) fn worst(rig: &Rig, head: Head) -> Result<Line, LoadError> {
    let seconds = rig.seconds(3);
    let server = Server::start(&rig.place, &rig.agent_cpus, None)?;
    let running = Running::start(Program::Getpgid, rig)?;
    let rounds = rounds::run(3, rig.runs(7), |side| match side {
        AGENT => with_agent(rig, &server, &rig.load_args(), || running.measure(rig, seconds)),
        RING => {
            let consumer = start_consumer(rig, None)?;
            pause(SETTLE)?;
            let report = running.measure(rig, seconds)?;
            let _: Consumed = consumer.finish_json(Duration::from_secs(30))?;
            Ok(report)
        }
        _ => {
            pause(SETTLE)?;
            running.measure(rig, seconds)
        }
    })?;
    server.stop()?;
    let times = |side: usize| -> Vec<f64> {
        let rate = |report: &&Report| report.get(Measure::Operations).unwrap_or(f64::NAN);
        rounds.side(OFF).iter().zip(rounds.side(side)).map(|(off, on)| rate(off) / rate(&on)).collect()
    };
    let (agent, ring) = (times(AGENT), times(RING));
    let ratios: Vec<f64> = agent.iter().zip(&ring).map(|(agent, ring)| ring / agent).collect();
    let all: Vec<&Report> = (OFF..=RING).flat_map(|side| rounds.side(side)).collect();
    Ok(Line::new(head, &agent, &all, rounds.clean)
        .against(Baseline::Ring.name(), &ring, &ratios)
        .with_details(&rounds.side(OFF), "off_")
        .with_details(&rounds.side(AGENT), "on_")
        .with_details(&rounds.side(RING), "ring_"))
}

/// One run with the agent attached.
fn with_agent(
    rig: &Rig,
    server: &Server,
    arguments: &[String],
    measure: impl FnOnce() -> Result<Report, LoadError>,
) -> Result<Report, LoadError> {
    let before = server.received()?;
    let agent = Agent::start(&rig.place, &rig.agent_cpus, server, arguments)?;
    pause(SETTLE)?;
    let mut report = measure()?;
    agent.stop()?;
    let calls = report.calls;
    account(&mut report, &server.received()?, &before, calls);
    Ok(report)
}
