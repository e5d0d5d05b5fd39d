//! One run under generated load: of the agent with its server, or of a baseline in its place.
//!
//! The generator and whatever receives share one CPU, what is measured has the other.

use std::time::{Duration, Instant};

use super::Rig;
use super::agent::{Agent, Received, Server, Status};
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
    /// The flight recorder runs, as it does by default.
    pub(super) recorder: bool,
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
    let (disk_before, received_before) = (disk::bytes_below(&store), server.received()?);
    let mut extra = rig.load_args();
    extra.extend(["--latency".to_owned(), if leg.low_latency { "low" } else { "normal" }.to_owned()]);
    if !leg.recorder {
        extra.push("--flight-recorder-bytes=0".to_owned());
    }
    let agent = Agent::start(&rig.place, &rig.agent_cpus, &server, &extra)?;
    pause(Duration::from_secs(1))?;

    let mut report = Report::default();
    let before = agent.status()?.ebpf_row();
    let watch = Watch::start()?;
    let (agent_cpu, server_cpu) = (procfs::cpu_ns(agent.pid()), procfs::cpu_ns(server.pid()));
    let profile = rig.profile(agent.pid(), rig.seconds(leg.seconds))?;
    let made = generate(rig, leg.rate, rig.seconds(leg.seconds))?;
    if let Some(profile) = profile {
        profile.terminate(Duration::from_secs(60))?;
    }
    let status = settle(&agent)?;
    let agent_s = seconds(procfs::cpu_ns(agent.pid()).saturating_sub(agent_cpu));
    let server_s = seconds(procfs::cpu_ns(server.pid()).saturating_sub(server_cpu));
    report.control = watch.finish()?;
    put_generated(&mut report, &made);
    report.shortfall = shortfall(rig, &made, leg.rate);
    let delivered = status.ebpf_row().acked.saturating_sub(before.acked);
    report.put(Measure::AgentUs, agent_s * 1e6 / float(delivered.max(1)));
    report.put(Measure::AgentCore, agent_s / made.seconds);
    report.put(Measure::ServerUs, server_s * 1e6 / float(delivered.max(1)));
    put_memory(&mut report, procfs::memory(agent.pid()));
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
    let received = server.received()?;
    account(&mut report, &received, &received_before, made.calls);
    server.stop()?;
    if leg.durable {
        let bytes = disk::bytes_below(&store).saturating_sub(disk_before);
        put_disk(&mut report, rig, bytes, &received)?;
        std::fs::remove_dir_all(&store).map_err(LoadError::io(store.display().to_string()))?;
    }
    Ok(report)
}

/// Waits until everything that was produced by now is acked or counted as lost, so that its CPU time is complete.
fn settle(agent: &Agent) -> Result<Status, LoadError> {
    let produced = agent.status()?.ebpf_row().produced;
    let end = Instant::now() + SETTLE_LIMIT;
    loop {
        let status = agent.status()?;
        // What is still open at the end of the limit is found in the final ledger.
        if status.ebpf_row().settled() >= produced || Instant::now() >= end {
            return Ok(status);
        }
        pause(Duration::from_millis(100))?;
    }
}

/// Settles the account of an agent that has ended.
pub(super) fn account(report: &mut Report, received: &Received, before: &Received, calls: u64) {
    let (row, problem) = received.settle(before, calls);
    report.ledger = problem;
    report.lost = row.lost();
    report.put(Measure::OtherEvents, float(row.produced.saturating_sub(calls)));
    report.put(Measure::LostPct, float(row.lost()) * 100.0 / float(row.produced.max(1)));
}

fn put_memory(report: &mut Report, memory: Memory) {
    report.put(Measure::PeakMib, float(memory.peak) / 1024.0);
    report.put(Measure::PssMib, float(memory.once) / 1024.0);
}

/// The disk's own limit, right after the run and with syncs of the size that the run had.
fn put_disk(report: &mut Report, rig: &Rig, bytes: u64, received: &Received) -> Result<(), LoadError> {
    let (events, syncs) = (received.events, received.syncs);
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
