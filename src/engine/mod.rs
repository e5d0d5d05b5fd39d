//! The engine: threads, queues and their order of life. Wiring only.
//!
//! Invariants:
//! - Every queue has a bound, every refusal a counter in the ledger.
//! - The work ends from its source on: collectors stop, drains empty the rings and leave, shards empty
//!   their queues and leave, egress waits for acks until the deadline. Each learns from the queue's
//!   abandoned end that nothing more will come.

pub mod drain;
pub mod placement;
pub mod port;
pub mod queue;
pub mod shard;
pub mod worker;

/// Two ways through the agent: events of the urgent one never wait behind, or give way to, the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Ordinary life.
    Bulk = 0,
    /// Failures.
    Urgent = 1,
}

/// The settings in force, replaced as a whole by a reload; a load costs a few nanoseconds.
pub type Live = arc_swap::ArcSwap<Settings>;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::collector::{CollectorInfo, Context, Stop, Unavailable};
use crate::config::Settings;
use crate::egress::batch::{Sealed, Sequences};
use crate::egress::stream::{self, StreamReport};
use crate::entity::EntityTable;
use crate::event::Source;
use crate::health::Health;
use crate::ledger::{Dropped, Ledger};
use crate::proto::{Hello, LedgerReport};
use crate::recording::Recorder;
use crate::sys::Ring;
use queue::QueueCounters;
use worker::End;

/// Words in a bulk queue to a shard: 1 MiB, a few milliseconds at the highest rates. What does not fit
/// waits in the kernel's ring, which is larger.
const BULK_QUEUE_WORDS: usize = 128 << 10;

/// Words in an urgent queue to a shard.
const URGENT_QUEUE_WORDS: usize = 16 << 10;

/// Words in each queue from a collector with its own thread to a shard: their rates are a hundredth.
const PORT_QUEUE_WORDS: usize = 16 << 10;

/// Words in a queue of this source and lane.
#[must_use]
pub const fn queue_words(source: Source, lane: Lane) -> usize {
    match (source, lane) {
        (Source::Ebpf, Lane::Bulk) => BULK_QUEUE_WORDS,
        (Source::Ebpf, Lane::Urgent) => URGENT_QUEUE_WORDS,
        _ => PORT_QUEUE_WORDS,
    }
}

/// Batches between a shard and egress, for each lane.
const BATCH_QUEUE: usize = 64;

/// The rings of the ebpf collector, and how to quiet their wake-ups.
pub struct Rings {
    /// One for each CPU.
    pub bulk: Vec<(usize, Ring)>,
    /// One for all.
    pub urgent: Ring,
    /// Makes the word writer of the given CPUs.
    pub awake: MakeAwake,
}

/// Makes what tells the programs of the given CPUs whether to wake their reader.
pub type MakeAwake = Box<dyn Fn(&[usize]) -> Box<dyn drain::Awake>>;

impl std::fmt::Debug for Rings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Rings").finish_non_exhaustive()
    }
}

/// What everything in the agent shares.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The settings in force.
    pub live: Arc<Live>,
    /// The counters.
    pub ledger: Arc<Ledger>,
    /// The health.
    pub health: Arc<Health>,
}

/// What status and metrics read from the engine.
#[derive(Debug, Default)]
pub struct Reports {
    /// The stream.
    pub stream: Arc<Mutex<StreamReport>>,
    /// By shard.
    pub shards: Vec<Arc<Mutex<shard::ShardReport>>>,
    /// The queues to the shards.
    pub queues: Vec<(Source, Lane, Arc<QueueCounters>)>,
    /// Highest fill of a bulk ring, per mille; reset it to 0 when read.
    pub fill_permille: Arc<AtomicU64>,
}

/// The running threads.
#[derive(Debug)]
pub struct Engine {
    drains: Vec<JoinHandle<End>>,
    collectors: Vec<JoinHandle<End>>,
    stop_collectors: watch::Sender<bool>,
    shards: Vec<JoinHandle<End>>,
    explain: Option<JoinHandle<End>>,
    egress: JoinHandle<End>,
    stop: Arc<AtomicBool>,
    wake: Arc<Notify>,
    deadline: watch::Sender<Option<Instant>>,
    ledger: Arc<Ledger>,
    /// What status and metrics read.
    pub reports: Arc<Reports>,
}

/// What the engine is made of, besides settings.
pub struct Parts<'start, Inspect> {
    /// The rings; none when the ebpf collector does not run.
    pub rings: Option<Rings>,
    /// The collectors that may run besides.
    pub collectors: Vec<CollectorInfo>,
    /// Told of each collector that cannot run.
    pub unavailable: &'start mut dyn FnMut(Source, Unavailable),
    /// Who is sending.
    pub hello: Hello,
    /// Makes the entity table of a shard.
    pub entities: Box<dyn Fn() -> EntityTable>,
    /// Makes what sees the events of a shard.
    pub inspect: Box<dyn Fn() -> Inspect>,
    /// Makes the worker of the thread that follows the shards and ends after them; it gets a way to egress of its
    /// own. Called once every shard has its `inspect`.
    pub explain: Option<MakeExplain<'start>>,
    /// Gets a copy of every batch.
    pub recorder: Option<Recorder>,
    /// Makes the report that the server shows.
    pub ledger_report: Box<dyn Fn(&Reports) -> LedgerReport + Send>,
}

/// Makes a worker that sends batches.
pub type MakeExplain<'start> = Box<dyn FnOnce(shard::Output) -> Box<dyn worker::Worker> + 'start>;

impl<Inspect> std::fmt::Debug for Parts<'_, Inspect> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread or an epoll set could not be made: the host is out of threads or file descriptors.
    #[error("cannot start thread {0}: {1}; raise the limits on tasks and open files")]
    Thread(String, std::io::Error),
}

/// How the engine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Everything was drained, or given up and counted.
    InOrder,
    /// A thread was broken or did not end.
    Broken,
}

/// Starts the threads from the end of the path to its beginning, so that each finds its successor alive.
///
/// # Errors
/// [`StartError`]: those that were started end by themselves, since their queues are abandoned.
pub fn start<Inspect: shard::Inspect>(
    shared: &Shared,
    parts: Parts<'_, Inspect>,
) -> Result<Engine, StartError> {
    let settings = shared.live.load_full();
    let placement = place(&settings, parts.rings.as_ref().map_or(0, |rings| rings.bulk.len()));
    let boot_id = <[u8; 16]>::try_from(&parts.hello.boot_id[..]).unwrap_or_default();
    let wake = Arc::new(Notify::new());
    let (deadline, deadline_seen) = watch::channel(None);

    let drains = if parts.rings.is_some() { placement.drains.len() } else { 0 };
    let mut queues = Queues::new(placement.shards.len(), &wake);
    let explain_output = parts.explain.is_some().then(|| queues.way_to_egress());
    let ports: Vec<_> = (0..drains).map(|_| queues.producer(Source::Ebpf)).collect();
    let own: Vec<_> = parts.collectors.iter().map(|collector| queues.producer(collector.source)).collect();
    let Queues { reports, sealed_inputs, outputs, inputs, .. } = queues;
    let reports = Arc::new(reports);

    let egress = spawn_egress(
        &placement,
        stream::Parts {
            server: settings.server.clone(),
            insecure: settings.grpc_insecure,
            tls: settings.tls_files(),
            hello: parts.hello,
            inputs: sealed_inputs,
            wake: Arc::clone(&wake),
            window_bytes: usize::try_from(settings.window_bytes).unwrap_or(usize::MAX),
            ledger: Arc::clone(&shared.ledger),
            report: Arc::clone(&reports.stream),
            ledger_report: {
                let reports = Arc::clone(&reports);
                Box::new(move || (parts.ledger_report)(&reports))
            },
            recorder: parts.recorder,
            deadline: deadline_seen,
        },
        &shared.health,
    )?;

    let ends = inputs.into_iter().zip(outputs).zip(reports.shards.iter().cloned()).collect();
    let shards = spawn_shards(shared, &placement.shards, ends, &*parts.entities, &*parts.inspect)?;
    let explain = parts.explain.zip(explain_output).map(|(make, output)| make(output));
    let explain = explain.map(|worker| spawn("explain", placement.egress, shared, worker)).transpose()?;
    let (stop_collectors, stop_seen) = Stop::new();
    let context = |port| context(shared, port, boot_id, stop_seen.clone());
    let own = own.into_iter().map(|lanes| shard_ports(lanes, &shards)).zip(parts.collectors).collect();
    let collectors = spawn_collectors(shared, placement.egress, own, &context, parts.unavailable)?;
    let stop = Arc::new(AtomicBool::new(false));
    let signals =
        drain::Signals { stop: Arc::clone(&stop), fill_permille: Arc::clone(&reports.fill_permille) };
    let ports = ports.into_iter().map(|lanes| shard_ports(lanes, &shards));
    let spawn = |rings| spawn_drains(shared, &placement.drains, rings, ports.collect(), &signals);
    let drains = parts.rings.map(spawn).transpose()?.unwrap_or_default();
    Ok(Engine {
        drains,
        collectors,
        stop_collectors,
        shards,
        explain,
        egress,
        stop,
        wake,
        deadline,
        ledger: Arc::clone(&shared.ledger),
        reports,
    })
}

/// Where threads run, on the cores that this process may use.
fn place(settings: &Settings, rings: usize) -> placement::Placement {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let cores: Vec<usize> = cores.into_iter().map(|core| core.id).collect();
    placement::place(&cores, rings, &settings.cores, settings.shards)
}

/// The queues of the path, with those of their ends that are not given away yet.
struct Queues {
    reports: Reports,
    wake: Arc<Notify>,
    /// To egress, by sender.
    sealed_inputs: Vec<[queue::BatchReceiver<Sealed>; 2]>,
    /// By shard.
    outputs: Vec<shard::Output>,
    inputs: Vec<Vec<shard::Input>>,
}

impl Queues {
    fn new(shards: usize, wake: &Arc<Notify>) -> Self {
        let mut queues = Self {
            reports: Reports::default(),
            wake: Arc::clone(wake),
            sealed_inputs: Vec::new(),
            outputs: Vec::new(),
            inputs: (0..shards).map(|_| Vec::new()).collect(),
        };
        for _ in 0..shards {
            let output = queues.way_to_egress();
            queues.outputs.push(output);
            queues.reports.shards.push(Arc::new(Mutex::new(shard::ShardReport::new())));
        }
        queues
    }

    fn way_to_egress(&mut self) -> shard::Output {
        let [bulk, urgent] = [0; 2].map(|_| queue::batches(BATCH_QUEUE));
        self.sealed_inputs.push([bulk.1, urgent.1]);
        shard::Output { lanes: [bulk.0, urgent.0], wake: Arc::clone(&self.wake) }
    }

    /// From one producer to every shard.
    fn producer(&mut self, source: Source) -> Vec<[queue::WordSender; 2]> {
        let Self { inputs, reports, .. } = self;
        inputs.iter_mut().map(|inputs| connect(inputs, source, reports)).collect()
    }
}

fn context(shared: &Shared, port: port::Port, boot_id: [u8; 16], stop: Stop) -> Context {
    Context {
        port,
        live: Arc::clone(&shared.live),
        health: Arc::clone(&shared.health),
        ledger: Arc::clone(&shared.ledger),
        stop,
        boot_id,
        state_dir: shared.live.load().state_dir.clone(),
    }
}

/// Makes the two queues from one producer to one shard.
fn connect(inputs: &mut Vec<shard::Input>, source: Source, reports: &mut Reports) -> [queue::WordSender; 2] {
    [Lane::Bulk, Lane::Urgent].map(|lane| {
        let (sender, receiver) = queue::words(queue_words(source, lane));
        reports.queues.push((source, lane, Arc::clone(sender.counters())));
        inputs.push(shard::Input { source, lane, receiver });
        sender
    })
}

fn shard_ports(lanes: Vec<[queue::WordSender; 2]>, shards: &[JoinHandle<End>]) -> Vec<drain::ShardPort> {
    let ports = lanes.into_iter().zip(shards);
    ports.map(|(lanes, shard)| drain::ShardPort { lanes, thread: shard.thread().clone() }).collect()
}

fn spawn(
    name: &str,
    core: usize,
    shared: &Shared,
    worker: impl worker::Worker,
) -> Result<JoinHandle<End>, StartError> {
    worker::spawn(name, core, Arc::clone(&shared.health), worker)
        .map_err(|error| StartError::Thread(name.to_owned(), error))
}

/// What ties a shard to its neighbours: the queues to it, the queues from it, its report.
type ShardEnds = ((Vec<shard::Input>, shard::Output), Arc<Mutex<shard::ShardReport>>);

fn spawn_shards<Inspect: shard::Inspect>(
    shared: &Shared,
    cores: &[usize],
    ends: Vec<ShardEnds>,
    entities: &dyn Fn() -> EntityTable,
    inspect: &dyn Fn() -> Inspect,
) -> Result<Vec<JoinHandle<End>>, StartError> {
    let sequence_base = Sequences::base_at(crate::clock::boot_ns());
    let mut shards = Vec::new();
    for ((number, ((inputs, output), report)), &core) in (0..).zip(ends).zip(cores) {
        let shard = shard::Shard::new(shard::Parts {
            number,
            sequence_base,
            inputs,
            entities: entities(),
            output,
            ledger: Arc::clone(&shared.ledger),
            live: Arc::clone(&shared.live),
            report,
            inspect: inspect(),
        });
        shards.push(spawn(&format!("shard-{number:02}"), core, shared, shard)?);
    }
    Ok(shards)
}

/// Starts the collectors that can run here, on the core of egress: like it, they mostly wait.
fn spawn_collectors(
    shared: &Shared,
    core: usize,
    own: Vec<(Vec<drain::ShardPort>, CollectorInfo)>,
    context: &dyn Fn(port::Port) -> Context,
    unavailable: &mut dyn FnMut(Source, Unavailable),
) -> Result<Vec<JoinHandle<End>>, StartError> {
    let mut threads = Vec::new();
    for (shards, collector) in own {
        let port = port::Port::new(collector.source, shards, Arc::clone(&shared.ledger));
        match (collector.open)(context(port)) {
            Ok(worker) => threads.push(spawn(collector.thread, core, shared, worker)?),
            Err(why) => unavailable(collector.source, why),
        }
    }
    Ok(threads)
}

fn spawn_egress(
    placement: &placement::Placement,
    parts: stream::Parts,
    health: &Arc<Health>,
) -> Result<JoinHandle<End>, StartError> {
    let failed = |error| StartError::Thread("egress".into(), error);
    let core = placement.egress;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let stream = stream::Stream::new(parts);
    let health = Arc::clone(health);
    std::thread::Builder::new()
        .name("egress".into())
        .spawn(move || {
            core_affinity::set_for_current(core_affinity::CoreId { id: core });
            stream::supervise(&runtime, stream, &health)
        })
        .map_err(failed)
}

fn spawn_drains(
    shared: &Shared,
    cores: &[usize],
    rings: Rings,
    ports: Vec<Vec<drain::ShardPort>>,
    signals: &drain::Signals,
) -> Result<Vec<JoinHandle<End>>, StartError> {
    let mut by_drain: Vec<Vec<(usize, Ring)>> = cores.iter().map(|_| Vec::new()).collect();
    for (index, ring) in rings.bulk.into_iter().enumerate() {
        by_drain[index % cores.len()].push(ring);
    }
    let mut urgent = Some(rings.urgent);
    let mut drains = Vec::new();
    for (((number, bulk), ports), &core) in (0..).zip(by_drain).zip(ports).zip(cores) {
        let (cpus, bulk): (Vec<usize>, Vec<Ring>) = bulk.into_iter().unzip();
        let name = format!("drain-{number:02}");
        let drain = drain::Drain::new(drain::Parts {
            bulk,
            urgent: urgent.take(),
            ports,
            awake: (rings.awake)(&cpus),
            ledger: Arc::clone(&shared.ledger),
            live: Arc::clone(&shared.live),
            signals: signals.clone(),
        })
        .map_err(|error| StartError::Thread(name.clone(), error))?;
        drains.push(spawn(&name, core, shared, drain)?);
    }
    Ok(drains)
}

impl Engine {
    /// Ends the threads in the order of the path. Call it when no program produces any more. What the
    /// server has not acked after `longest` is given up and counted.
    pub fn stop(self, longest: Duration) -> Stopped {
        // No receiver means that every collector is gone already.
        let _gone = self.stop_collectors.send(true);
        self.stop.store(true, Ordering::Release);
        // No receiver means that egress is gone already, which the join below reports.
        let _gone = self.deadline.send(Some(Instant::now() + longest));
        let mut stopped = Stopped::InOrder;
        for thread in &self.collectors {
            thread.thread().unpark();
        }
        let shards = self.shards.into_iter().chain(self.explain);
        for thread in self.collectors.into_iter().chain(self.drains).chain(shards) {
            if !matches!(thread.join(), Ok(End::Finished)) {
                stopped = Stopped::Broken;
            }
        }
        // The queues are abandoned now; egress looks again.
        self.wake.notify_one();
        if !matches!(self.egress.join(), Ok(End::Finished)) {
            stopped = Stopped::Broken;
            self.ledger.drop_held(Dropped::WorkerPanic);
        }
        stopped
    }

    /// Whether a thread ended that should not have.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        let threads = self.drains.iter().chain(&self.collectors).chain(&self.shards).chain(&self.explain);
        threads.into_iter().any(JoinHandle::is_finished) || self.egress.is_finished()
    }

    /// Collectors with a thread of their own that run.
    #[must_use]
    pub fn collectors(&self) -> usize {
        self.collectors.len()
    }
}

#[cfg(test)]
mod tests;
