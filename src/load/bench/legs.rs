//! One run under generated load: of the agent with its server, or of a baseline in its place.
//!
//! The generator and whatever receives share one CPU, what is measured has the other.

use std::time::{Duration, Instant};

use super::Rig;
use super::agent::{Agent, Row, Server, Status};
use super::report::{Measure, Report};
use crate::load::baseline::{Consumed, bpftrace::Bpftrace};
use crate::load::child::{Child, pause};
use crate::load::control::{Watch, join};
use crate::load::generate::Generated;
use crate::load::procfs::Memory;
use crate::load::stats::float;
use crate::load::{LoadError, disk, procfs};

/// How long what was generated may take to be acked or counted as lost.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// A load of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LoadLeg {
    /// Calls a second.
    pub(super) rate: u64,
    /// For how long; the harness divides it for a quick run.
    pub(super) seconds: u64,
    /// `--latency low`.
    pub(super) low_latency: bool,
    /// The server writes to its disk.
    pub(super) durable: bool,
}

/// What stands in the agent's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Baseline {
    Ring,
    Otlp,
    Bpftrace,
}

impl Baseline {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ring => "libbpf-rs RingBuffer, one shared ring, epoll, events only counted",
            Self::Otlp => "row OTLP through prost and tonic",
            Self::Bpftrace => "bpftrace printf",
        }
    }
}

/// Makes the load and waits for its end.
fn generate(rig: &Rig, rate: u64, seconds: u64) -> Result<Generated, LoadError> {
    let text = rig
        .own()
        .args(["generate", "--cpu"])
        .arg(join(&rig.program_cpus))
        .arg("--rate")
        .arg(rate)
        .arg("--seconds")
        .arg(seconds)
        .on(&rig.program_cpus)
        .output(Duration::from_secs(seconds * 4 + 30))?;
    serde_json::from_str(&text)
        .map_err(|error| LoadError::process("generator", format!("{error} in its output {text:?}")))
}

fn put_generated(report: &mut Report, made: &Generated) {
    report.put(Measure::Rate, made.rate);
    report.put(Measure::GeneratorUs, made.cpu_s * 1e6 / float(made.calls.max(1)));
    report.put(Measure::GeneratorGapMs, made.max_gap_ms);
}

/// Why a run of the agent does not count. A baseline that slows the generator down is measured as it is: that is
/// what it costs.
fn shortfall(rig: &Rig, made: &Generated, asked: u64) -> Option<String> {
    if rig.profile.is_some() {
        return Some("the profiler took part".to_owned());
    }
    (made.rate < float(asked) * 0.99)
        .then(|| format!("the generator reached {:.0} of {asked} calls a second", made.rate))
}

fn seconds(nanos: u64) -> f64 {
    float(nanos) / 1e9
}

/// One run of the agent.
pub(super) fn agent(rig: &Rig, leg: LoadLeg) -> Result<Report, LoadError> {
    let store = rig.place.scratch.join("store");
    let server = Server::start(&rig.place, &rig.program_cpus, leg.durable.then_some(store.as_path()))?;
    let mut extra = rig.load_args();
    extra.extend(["--latency".to_owned(), if leg.low_latency { "low" } else { "normal" }.to_owned()]);
    let agent = Agent::start(&rig.place, &rig.agent_cpus, &server, &extra)?;
    pause(Duration::from_secs(1))?;

    let mut report = Report::default();
    let before = agent.row()?;
    let (disk_before, received_before) = (disk::bytes_below(&store), server.received()?);
    let watch = Watch::start()?;
    let (agent_cpu, server_cpu) = (procfs::cpu_ns(agent.pid()), procfs::cpu_ns(server.pid()));
    let profile = rig.profile(agent.pid(), rig.seconds(leg.seconds))?;
    let made = generate(rig, leg.rate, rig.seconds(leg.seconds))?;
    if let Some(profile) = profile {
        profile.terminate(Duration::from_secs(60))?;
    }
    let settled = settle(&agent, &before, made.calls)?;
    let agent_s = seconds(procfs::cpu_ns(agent.pid()).saturating_sub(agent_cpu));
    let server_s = seconds(procfs::cpu_ns(server.pid()).saturating_sub(server_cpu));
    report.control = watch.finish()?;

    put_generated(&mut report, &made);
    report.shortfall = shortfall(rig, &made, leg.rate);
    let after = settled.row;
    report.ledger = settled.problem;
    report.lost = after.lost().saturating_sub(before.lost());
    let delivered = after.acked.saturating_sub(before.acked);
    let produced = after.produced.saturating_sub(before.produced);
    report.put(Measure::AgentUs, agent_s * 1e6 / float(delivered.max(1)));
    report.put(Measure::AgentCore, agent_s / made.seconds);
    report.put(Measure::ServerUs, server_s * 1e6 / float(delivered.max(1)));
    report.put(Measure::OtherEvents, float(produced.saturating_sub(made.calls)));
    report.put(Measure::LostPct, float(report.lost) * 100.0 / float(produced.max(1)));
    put_memory(&mut report, procfs::memory(agent.pid()));
    let status = agent.status()?;
    let received = server.received()?;
    if received.events < status.acked() {
        let problem = format!(
            "the agent counts {} events as acked, the server has {}",
            status.acked(),
            received.events
        );
        report.ledger.get_or_insert(problem);
    }
    let latency = status.latency;
    if latency.samples > 0 {
        report.put(Measure::LatencyP50, latency.p50_us);
        report.put(Measure::LatencyP99, latency.p99_us);
    }
    if rig.verbose {
        rig.print_threads("agent", agent.pid());
        rig.print_threads("server", server.pid());
    }
    agent.stop()?;
    server.stop()?;
    if leg.durable {
        let bytes = disk::bytes_below(&store).saturating_sub(disk_before);
        put_disk(&mut report, rig, bytes, (delivered, received.syncs.saturating_sub(received_before.syncs)))?;
        std::fs::remove_dir_all(&store).map_err(LoadError::io(store.display().to_string()))?;
    }
    Ok(report)
}

struct Settled {
    row: Row,
    problem: Option<String>,
}

/// Waits until everything that was produced by now is acked or counted as lost, and checks the sums.
fn settle(agent: &Agent, before: &Row, calls: u64) -> Result<Settled, LoadError> {
    let produced = agent.row()?.produced;
    let end = Instant::now() + SETTLE_LIMIT;
    loop {
        let status = agent.status()?;
        let open = unsettled(&status, produced);
        // A snapshot of a running agent may be torn: a sum counts as open only if it stays so.
        if open.is_none() || Instant::now() >= end {
            let row = status.ebpf_row();
            let problem = open.or_else(|| missing(before, &row, calls));
            return Ok(Settled { row, problem });
        }
        pause(Duration::from_millis(100))?;
    }
}

/// What is still open of `produced` events, or in the sums.
fn unsettled(status: &Status, produced: u64) -> Option<String> {
    let row = status.ebpf_row();
    if row.settled() < produced {
        return Some(format!("{} events neither acked nor counted as lost", produced - row.settled()));
    }
    let claim = || (!status.ledger_closed).then(|| "the agent says that its ledger is open".to_owned());
    row.open_sum().or_else(claim)
}

/// Calls that left no event at all.
fn missing(before: &Row, after: &Row, calls: u64) -> Option<String> {
    let missing = calls.saturating_sub(after.produced.saturating_sub(before.produced));
    (missing > 0).then(|| format!("{missing} of {calls} calls left no event and were not counted as lost"))
}

fn put_memory(report: &mut Report, memory: Memory) {
    report.put(Measure::PeakMib, float(memory.peak) / 1024.0);
    report.put(Measure::PssMib, float(memory.once) / 1024.0);
}

/// The disk's own limit, right after the run and with syncs of the size that the run had.
fn put_disk(
    report: &mut Report,
    rig: &Rig,
    bytes: u64,
    (events, syncs): (u64, u64),
) -> Result<(), LoadError> {
    let per_event = float(bytes) / float(events.max(1));
    let chunk = usize::try_from(bytes / syncs.max(1)).unwrap_or(1 << 20).clamp(4 << 10, 64 << 20);
    let disk = disk::limit(&rig.place.scratch, chunk, Duration::from_secs(2))?;
    report.put(Measure::DiskBytes, per_event);
    report.put(Measure::DiskSync, float(bytes) / float(syncs.max(1)));
    report.put(Measure::DiskEvents, disk.bytes_per_s / per_event.max(1.0));
    report.put(Measure::DiskUs, disk.cpu_s_per_byte * per_event * 1e6);
    Ok(())
}

/// One run of a baseline.
pub(super) fn baseline(rig: &Rig, kind: Baseline, rate: u64, seconds: u64) -> Result<Report, LoadError> {
    match kind {
        Baseline::Bpftrace => with_bpftrace(rig, rate, seconds),
        Baseline::Ring => with_consumer(rig, rate, seconds, None),
        Baseline::Otlp => {
            let port = super::agent::free_port()?;
            let sink = rig.own().args(["baseline", "otlp-sink", "--listen"]);
            let sink = sink.arg(format_args!("127.0.0.1:{port}")).on(&rig.program_cpus);
            let mut sink = sink.stdin_piped().stdout_piped().spawn()?;
            super::agent::wait_for_port(&mut sink, port)?;
            with_consumer(rig, rate, seconds, Some((sink, port)))
        }
    }
}

/// A started ring or OTLP baseline that is attached.
pub(super) fn start_consumer(rig: &Rig, otlp_port: Option<u16>) -> Result<Child, LoadError> {
    let mut start = rig.own().arg("baseline");
    start = match otlp_port {
        Some(port) => start.args(["otlp", "--endpoint"]).arg(format_args!("127.0.0.1:{port}")),
        None => start.arg("ring"),
    };
    let mut child = start.on(&rig.agent_cpus).stdin_piped().stdout_piped().spawn()?;
    let mut output = child.take_stdout().ok_or_else(|| LoadError::process("baseline", "has no output"))?;
    child.expect_line(&mut output)?;
    child.give_stdout(output);
    Ok(child)
}

fn with_consumer(
    rig: &Rig,
    rate: u64,
    seconds_wanted: u64,
    sink: Option<(Child, u16)>,
) -> Result<Report, LoadError> {
    let consumer = start_consumer(rig, sink.as_ref().map(|&(_, port)| port))?;
    pause(Duration::from_millis(300))?;
    let watch = Watch::start()?;
    let made = generate(rig, rate, rig.seconds(seconds_wanted))?;
    let peak = procfs::memory(consumer.pid());
    // It reads what is left in the ring and sends it before it ends, so its CPU time is complete only then.
    let consumed: Consumed = consumer.finish_json(Duration::from_secs(30))?;
    let mut report = Report::new(watch.finish()?);
    put_generated(&mut report, &made);
    put_memory(&mut report, peak);
    report.put(Measure::AgentUs, consumed.cpu_s * 1e6 / float(consumed.delivered.max(1)));
    report.put(Measure::AgentCore, consumed.cpu_s / made.seconds);
    report.put(Measure::LostPct, float(consumed.lost) * 100.0 / float(consumed.produced.max(1)));
    if let Some((sink, _)) = sink {
        let received: Consumed = sink.finish_json(Duration::from_secs(30))?;
        if received.delivered != consumed.delivered {
            let (sent, got) = (consumed.delivered, received.delivered);
            return Err(LoadError::process("baseline otlp", format!("sent {sent} rows, the sink has {got}")));
        }
    }
    Ok(report)
}

fn with_bpftrace(rig: &Rig, rate: u64, seconds_wanted: u64) -> Result<Report, LoadError> {
    let bpftrace = Bpftrace::start(&rig.agent_cpus, &rig.program_cpus, &rig.place.scratch)?;
    let watch = Watch::start()?;
    let cpu = procfs::cpu_ns(bpftrace.pid());
    let made = generate(rig, rate, rig.seconds(seconds_wanted))?;
    pause(Duration::from_secs(1))?;
    let used = seconds(procfs::cpu_ns(bpftrace.pid()).saturating_sub(cpu));
    let mut report = Report::new(watch.finish()?);
    put_generated(&mut report, &made);
    put_memory(&mut report, procfs::memory(bpftrace.pid()));
    let delivered = bpftrace.finish()?;
    report.put(Measure::AgentUs, used * 1e6 / float(delivered.max(1)));
    report.put(Measure::AgentCore, used / made.seconds);
    report.put(
        Measure::LostPct,
        float(made.calls.saturating_sub(delivered)) * 100.0 / float(made.calls.max(1)),
    );
    Ok(report)
}

/// The agent with nothing to do.
pub(super) fn idle(rig: &Rig) -> Result<Report, LoadError> {
    let server = Server::start(&rig.place, &rig.program_cpus, None)?;
    let agent = Agent::start(&rig.place, &rig.agent_cpus, &server, &rig.extra)?;
    pause(Duration::from_secs(5))?;
    let watch = Watch::start()?;
    let (start, cpu) = (Instant::now(), procfs::cpu_ns(agent.pid()));
    pause(Duration::from_secs(rig.seconds(60)))?;
    let used = seconds(procfs::cpu_ns(agent.pid()).saturating_sub(cpu));
    let lasted = start.elapsed().as_secs_f64();
    let mut report = Report::new(watch.finish()?);
    report.put(Measure::IdlePct, used * 100.0 / lasted);
    put_memory(&mut report, procfs::memory(agent.pid()));
    if rig.verbose {
        rig.print_threads("agent", agent.pid());
    }
    agent.stop()?;
    server.stop()?;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(row: Row) -> Status {
        Status { ledger_closed: true, ledger: vec![row], ..Status::default() }
    }

    /// Scenario: an agent that has acked everything, one that has lost some and counted it, one that has lost some
    /// silently, one whose sums do not close, one that says so itself, and one that never saw some calls.
    /// Guarantees: only the first two have a result.
    #[test]
    fn silent_loss_is_found() {
        let source = || "ebpf".to_owned();
        let fine = Row { source: source(), produced: 9, drained: 9, enriched: 9, acked: 9, ..Row::default() };
        assert_eq!(unsettled(&status(fine.clone()), 9), None);
        let counted = Row { ring_lost: 2, drained: 7, enriched: 7, acked: 7, ..fine.clone() };
        assert_eq!(unsettled(&status(counted), 9), None);
        let silent = Row { produced: 7, drained: 7, enriched: 7, acked: 7, ..fine.clone() };
        assert_eq!(
            unsettled(&status(silent), 9).as_deref(),
            Some("2 events neither acked nor counted as lost")
        );
        let open = Row { drained: 8, ..fine.clone() };
        assert!(unsettled(&status(open), 9).is_some());
        assert!(unsettled(&Status { ledger_closed: false, ..status(fine.clone()) }, 9).is_some());
        let before = Row { produced: 4, ..Row::default() };
        assert_eq!(missing(&before, &fine, 5), None);
        assert!(missing(&before, &fine, 6).is_some_and(|why| why.starts_with("1 of 6 calls")));
    }
}
