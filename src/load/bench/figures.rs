//! The table of figures: what each is called, what it should cost, and how it is measured.

use super::journal::{Backfill, Side};
use super::legs::{self, Baseline, LoadLeg};
use super::line::{Head, Line};
use super::programs::Program;
use super::report::{Measure, Report};
use super::rounds::{self, Rounds};
use super::{Rig, collectors, explain, journal_tail, sampler, slowdown};
use crate::load::LoadError;

/// How a figure is measured.
#[derive(Debug, Clone, Copy)]
enum How {
    /// The agent under a load.
    Load(LoadLeg, Measure),
    /// The same in turns with something else.
    Against(LoadLeg, Measure, Baseline),
    /// The server with its disk, beside the disk alone.
    Disk(LoadLeg),
    /// The agent with nothing to do.
    Idle(Measure),
    /// The collectors of the journal and of systemd with nothing to do.
    Collectors,
    /// The sampler with so many services beside it.
    Sampler(usize),
    /// The agent under a load, beside the same without its flight recorder.
    Recorder(LoadLeg),
    /// The causal engine under so many facts a second for so many seconds.
    Facts(u64, u64, Measure),
    /// Crashes of services for so many seconds.
    Verdicts(u64),
    /// An observed program.
    Real(Program),
    /// The worst observed program.
    Worst,
    /// A whole journal, read by each side.
    JournalBackfill,
    /// The tail of a live journal.
    JournalTail,
}

/// A figure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figure {
    pub(super) head: Head,
    /// What it tells, for `--list`.
    pub(super) about: &'static str,
    how: How,
}

const fn load(rate: u64, seconds: u64) -> LoadLeg {
    LoadLeg { rate, seconds, low_latency: false, durable: false, recorder: true }
}

const MILLION: LoadLeg = load(1_000_000, 10);
const TWO_MILLION: LoadLeg = load(2_000_000, 60);

const fn figure(
    name: &'static str,
    unit: &'static str,
    goal: Option<f64>,
    how: How,
    about: &'static str,
) -> Figure {
    Figure { head: Head { name, unit, goal }, about, how }
}

/// Every figure, in the order in which they are measured.
pub(super) const FIGURES: &[Figure] = &[
    figure(
        "agent_cpu_us_per_event",
        "us",
        Some(0.12),
        How::Against(MILLION, Measure::AgentUs, Baseline::Otlp),
        "CPU of the agent an event, kernel to acked, 1 M/s, against OTLP rows",
    ),
    figure(
        "agent_cpu_vs_ring",
        "us",
        Some(0.12),
        How::Against(MILLION, Measure::AgentUs, Baseline::Ring),
        "the same, against libbpf's default ring that only counts",
    ),
    figure(
        "agent_cpu_vs_bpftrace",
        "us",
        None,
        How::Against(load(165_000, 10), Measure::AgentUs, Baseline::Bpftrace),
        "the same at 165 k/s, against bpftrace printf, which holds up the calls at more",
    ),
    figure(
        "server_cpu_null",
        "us",
        Some(0.08),
        How::Load(MILLION, Measure::ServerUs),
        "CPU of the server an event: decode, check sequences, ack",
    ),
    figure(
        "server_cpu_durable",
        "us",
        Some(0.15),
        How::Disk(LoadLeg { durable: true, ..MILLION }),
        "the same, written and synced, beside the disk alone",
    ),
    figure(
        "sustained_2m",
        "core",
        Some(0.25),
        How::Load(TWO_MILLION, Measure::AgentCore),
        "cores of the agent at 2 M/s for 60 s with nothing lost",
    ),
    figure(
        "core_at_165k",
        "core",
        Some(0.04),
        How::Load(load(165_000, 10), Measure::AgentCore),
        "cores of the agent at 165 k/s",
    ),
    figure(
        "slowdown_worst",
        "x",
        Some(2.1),
        How::Worst,
        "a loop of getpgid with one event a call, against libbpf's default ring",
    ),
    figure(
        "slowdown_nginx",
        "pct",
        Some(1.0),
        How::Real(Program::Nginx),
        "nginx under wrk, kept connections",
    ),
    figure(
        "slowdown_nginx_connections",
        "pct",
        Some(1.0),
        How::Real(Program::NginxConnections),
        "nginx under wrk, a connection for each request",
    ),
    figure("slowdown_redis", "pct", Some(1.0), How::Real(Program::Redis), "redis under redis-benchmark"),
    figure("slowdown_forkexec", "pct", Some(1.0), How::Real(Program::ForkExec), "a fork/exec storm"),
    figure(
        "latency_p50_1m",
        "us",
        Some(500.0),
        How::Load(MILLION, Measure::LatencyP50),
        "ring to batch at 1 M/s, median",
    ),
    figure(
        "latency_p50_1m_low",
        "us",
        Some(100.0),
        How::Load(LoadLeg { low_latency: true, ..MILLION }, Measure::LatencyP50),
        "the same with --latency low",
    ),
    figure(
        "latency_p50_10k",
        "us",
        Some(15.0),
        How::Load(LoadLeg { low_latency: true, ..load(10_000, 10) }, Measure::LatencyP50),
        "ring to batch at 10 k/s with --latency low, median",
    ),
    figure(
        "latency_p50_10k_normal",
        "us",
        None,
        How::Load(load(10_000, 10), Measure::LatencyP50),
        "the same with the default, which saves CPU instead",
    ),
    figure(
        "memory_idle",
        "MiB",
        Some(24.0),
        How::Idle(Measure::PeakMib),
        "peak resident memory with nothing to do",
    ),
    figure(
        "memory_full",
        "MiB",
        Some(64.0),
        How::Load(TWO_MILLION, Measure::PeakMib),
        "peak resident memory at 2 M/s, 32 MiB of rings",
    ),
    figure(
        "idle_cpu",
        "pct",
        Some(0.3),
        How::Idle(Measure::IdlePct),
        "CPU with nothing to do, percent of a core",
    ),
    figure(
        "collectors_idle_cpu",
        "pct",
        Some(0.1),
        How::Collectors,
        "the threads of the journal and of systemd in a container where nothing happens, percent of a core",
    ),
    figure(
        "sampler_cpu",
        "pct",
        Some(0.1),
        How::Sampler(200),
        "the sampler's thread with 200 services, every 10 s, percent of a core",
    ),
    figure(
        "recorder_cpu",
        "pct",
        Some(5.0),
        How::Recorder(load(165_000, 10)),
        "what the flight recorder adds to the agent's CPU at 165 k/s, against none",
    ),
    figure(
        "explain_cpu",
        "pct",
        Some(2.0),
        How::Facts(1_000, 60, Measure::ExplainPct),
        "the causal engine alone at 1,000 facts/s, percent of a core",
    ),
    figure(
        "explain_memory",
        "MiB",
        Some(64.0),
        How::Facts(16_667, 120, Measure::ExplainMib),
        "memory of the causal engine at 10^6 facts a minute for two minutes",
    ),
    figure(
        "verdict_p99",
        "ms",
        Some(100.0),
        How::Verdicts(30),
        "from the end of a crashing service's process to the incident in --output",
    ),
    figure(
        "journal_backfill",
        "us",
        Some(1.0),
        How::JournalBackfill,
        "CPU an entry of 400 k of 20 fields, every byte touched, against libsystemd and journalctl",
    ),
    figure(
        "journal_tail_p50",
        "ms",
        Some(5.0),
        How::JournalTail,
        "send to read through a private journald, looked at every ms, against journalctl --follow",
    ),
];

/// Runs that more than one figure reads, kept so that they are made once.
#[derive(Debug, Default)]
pub(super) struct Cache {
    loads: Vec<(LoadLeg, Rounds)>,
    idle: Option<Rounds>,
}

impl Cache {
    fn load(&mut self, rig: &Rig, leg: LoadLeg) -> Result<&Rounds, LoadError> {
        let known = self.loads.iter().position(|(known, _)| *known == leg);
        let index = match known {
            Some(index) => index,
            None => {
                // A minute is its own median: it holds more turns than seven runs of ten seconds.
                let runs = if leg.seconds >= 60 { 1 } else { rig.runs(7) };
                let rounds = rounds::run(1, runs, |_| legs::agent(rig, leg))?;
                self.loads.push((leg, rounds));
                self.loads.len() - 1
            }
        };
        Ok(&self.loads[index].1)
    }

    fn idle(&mut self, rig: &Rig) -> Result<&Rounds, LoadError> {
        if self.idle.is_none() {
            self.idle = Some(rounds::run(1, 1, |_| legs::idle(rig))?);
        }
        self.idle.as_ref().ok_or_else(|| LoadError::process("idle", "was not measured"))
    }
}

fn values(reports: &[&Report], measure: Measure) -> Vec<f64> {
    reports.iter().filter_map(|report| report.get(measure)).collect()
}

fn plain(head: Head, rounds: &Rounds, measure: Measure) -> Line {
    let reports = rounds.side(0);
    Line::new(head, &values(&reports, measure), &reports, rounds.clean).with_details(&reports, "")
}

/// Measures one figure.
pub(super) fn measure(rig: &Rig, cache: &mut Cache, figure: &Figure) -> Result<Line, LoadError> {
    let head = figure.head;
    match figure.how {
        How::Load(leg, measure) => Ok(plain(head, cache.load(rig, leg)?, measure)),
        How::Idle(measure) => Ok(plain(head, cache.idle(rig)?, measure)),
        How::Disk(leg) => {
            let rounds = cache.load(rig, leg)?;
            let reports = rounds.side(0);
            let (server, disk) = (values(&reports, Measure::ServerUs), values(&reports, Measure::DiskUs));
            let ratios: Vec<f64> = server.iter().zip(&disk).map(|(server, disk)| disk / server).collect();
            Ok(plain(head, rounds, Measure::ServerUs).against("write and fdatasync alone", &disk, &ratios))
        }
        How::Against(leg, measure, baseline) => against(rig, cache, head, (leg, measure, baseline)),
        How::Collectors => {
            let rounds = rounds::run(1, rig.runs(3), |_| collectors::run(rig))?;
            Ok(plain(head, &rounds, Measure::CollectorsPct))
        }
        How::Sampler(services) => {
            let rounds = rounds::run(1, 1, |_| sampler::run(rig, services))?;
            Ok(plain(head, &rounds, Measure::SamplerPct))
        }
        How::Recorder(leg) => recorder(rig, head, leg),
        How::Facts(rate, seconds, measure) => {
            let rounds = rounds::run(1, rig.runs(5), |_| explain::engine(rig, rate, seconds))?;
            Ok(plain(head, &rounds, measure))
        }
        How::Verdicts(seconds) => {
            let rounds = rounds::run(1, rig.runs(3), |_| explain::verdicts(rig, seconds))?;
            Ok(plain(head, &rounds, Measure::VerdictP99))
        }
        How::Real(program) => slowdown::real(rig, head, program),
        How::Worst => slowdown::worst(rig, head),
        How::JournalBackfill => journal_backfill(rig, head),
        How::JournalTail => journal_tail(rig, head),
    }
}

fn recorder(rig: &Rig, head: Head, leg: LoadLeg) -> Result<Line, LoadError> {
    let rounds =
        rounds::run(2, rig.runs(7), |side| legs::agent(rig, LoadLeg { recorder: side == 0, ..leg }))?;
    let (with, without) = (rounds.side(0), rounds.side(1));
    let (own, other) = (values(&with, Measure::AgentUs), values(&without, Measure::AgentUs));
    let added: Vec<f64> = own.iter().zip(&other).map(|(own, other)| (own / other - 1.0) * 100.0).collect();
    let all: Vec<&Report> = with.iter().chain(&without).copied().collect();
    Ok(Line::new(head, &added, &all, rounds.clean).with_details(&with, "").with_details(&without, "without_"))
}

fn journal_backfill(rig: &Rig, head: Head) -> Result<Line, LoadError> {
    let mut backfill = Backfill::prepare(rig)?;
    let sides = backfill.sides();
    let rounds = rounds::run(sides.len(), rig.runs(5), |side| {
        backfill.run(rig, sides.get(side).copied().unwrap_or(Side::Own))
    })?;
    let all: Vec<&Report> = rounds.reports.iter().flatten().collect();
    let own = values(&rounds.side(0), Measure::EntryUs);
    let mut line = Line::new(head, &own, &all, rounds.clean);
    for (index, side) in sides.iter().enumerate() {
        line = line.with_details(&rounds.side(index), side.prefix());
    }
    // The fastest of the others is the baseline; the rest is in the details.
    let others = values(&rounds.side(1), Measure::EntryUs);
    let ratios: Vec<f64> = own.iter().zip(&others).map(|(own, other)| other / own).collect();
    Ok(line.against(sides.get(1).map_or("none", |side| side.name()), &others, &ratios))
}

fn journal_tail(rig: &Rig, head: Head) -> Result<Line, LoadError> {
    let messages = rig.seconds(10) * 20;
    let rounds = rounds::run(2, rig.runs(3), |side| match side {
        0 => journal_tail::own(messages),
        _ => journal_tail::journalctl(messages / 4),
    })?;
    let (own, other) = (rounds.side(0), rounds.side(1));
    let (own_ms, other_ms) = (values(&own, Measure::TailMs), values(&other, Measure::TailMs));
    let ratios: Vec<f64> = own_ms.iter().zip(&other_ms).map(|(own, other)| other / own).collect();
    let all: Vec<&Report> = own.iter().chain(&other).copied().collect();
    Ok(Line::new(head, &own_ms, &all, rounds.clean)
        .against("journalctl --follow", &other_ms, &ratios)
        .with_details(&own, "")
        .with_details(&other, "journalctl_"))
}

fn against(
    rig: &Rig,
    cache: &mut Cache,
    head: Head,
    (leg, measure, baseline): (LoadLeg, Measure, Baseline),
) -> Result<Line, LoadError> {
    let rounds = rounds::run(2, rig.runs(7), |side| match side {
        0 => legs::agent(rig, leg),
        _ => legs::baseline(rig, baseline, leg.rate, leg.seconds),
    })?;
    let (agent, other) = (rounds.side(0), rounds.side(1));
    let (own, others) = (values(&agent, measure), values(&other, measure));
    let ratios: Vec<f64> = own.iter().zip(&others).map(|(own, other)| other / own).collect();
    let all: Vec<&Report> = agent.iter().chain(&other).copied().collect();
    let line = Line::new(head, &own, &all, rounds.clean)
        .against(baseline.name(), &others, &ratios)
        .with_details(&agent, "")
        .with_details(&other, "baseline_");
    // The agent's half of the pairs is a series of its own for the figures that need no baseline.
    if !cache.loads.iter().any(|(known, _)| *known == leg) {
        let reports = rounds
            .reports
            .into_iter()
            .map(|mut round| {
                round.truncate(1);
                round
            })
            .collect();
        cache.loads.push((leg, Rounds { reports, clean: rounds.clean }));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the table of figures.
    /// Guarantees: names are unique, snake_case, and a figure that has a goal has one above zero.
    #[test]
    fn names_are_unique() {
        for (index, figure) in FIGURES.iter().enumerate() {
            let name = figure.head.name;
            assert!(
                name.chars()
                    .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
            );
            assert!(FIGURES[..index].iter().all(|other| other.head.name != name), "{name} twice");
            assert!(figure.head.goal.is_none_or(|goal| goal > 0.0), "{name}");
        }
    }
}
