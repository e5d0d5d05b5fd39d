//! The agent's life: identify, load, start, run until told to stop, drain, close the ledger.
//!
//! Invariants:
//! - A collector that cannot run is said once, with the remedy, and the others go on; it ends the start
//!   only if it was asked for by name, or if nothing is left to collect.
//! - Programs are detached before the engine stops, so the ledger can close exactly.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock;
use crate::collector::ebpf::errno::{self, Blind, ERRNO_PROGRAM, ErrnoWatch};
use crate::collector::ebpf::{self, Attached, CpuWords, Lane, LoadError, Loaded};
use crate::collector::{COLLECTORS, CollectorInfo, Unavailable};
use crate::config::{Settings, Switch};
use crate::engine::{self, Engine, Live, Reports, Rings, Shared, Stopped, drain};
use crate::entity::{self, EntityTable, Host, HostError, LiveLookup};
use crate::event::Source;
use crate::health::{CollectorHealth, Health, ProbeState, State};
use crate::ledger::Ledger;
use crate::proto::{Hello, LedgerReport, SemanticGroup};

mod explaining;
mod incidents;
mod outputs;

pub use incidents::Stats as ExplainThreadStats;
pub use outputs::{Counts as OutputCounts, Incidents, OutputError};

pub use explaining::{RulesError, rules};

use crate::recording::writer::Plan;
use crate::recording::{Recorder, RecorderReport};
use explaining::Explaining;
use tokio::sync::mpsc;

/// Why the agent ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The ebpf collector needs a privilege, and was asked for by name or is all there is to run.
    #[error("{0}")]
    Privilege(LoadError),
    /// A collector that was asked for by name cannot run.
    #[error("the {collector} collector was asked for and cannot run: {reason}")]
    Collector {
        /// Its name.
        collector: &'static str,
        /// Why not.
        reason: String,
    },
    /// No collector runs.
    #[error("nothing is left to collect: {0}")]
    Nothing(String),
    /// Neither the host nor the state directory says who is sending.
    #[error(transparent)]
    Host(#[from] HostError),
    /// What was asked for cannot be recorded.
    #[error("cannot record: {0}; give --record a file in a directory that can be written")]
    Record(io::Error),
    /// The threads did not start.
    #[error(transparent)]
    Start(#[from] engine::StartError),
    /// `--output` cannot be used.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The rules cannot be used.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// A thread broke down.
    #[error("a worker broke down and the agent stopped; the log above names it")]
    Broken,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    shared: Shared,
    engine: Engine,
    counters: Counters,
    errno: Option<ErrnoWatch>,
    incidents: Arc<Incidents>,
    recorder: Option<Arc<RecorderReport>>,
}

/// What the kernel counts; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    cpus: Option<Arc<CpuWords>>,
    /// Until the stop, which detaches them.
    programs: Arc<Mutex<Option<Attached>>>,
    blind: Arc<Blind>,
}

impl Counters {
    /// Brings `produced` and `ring_lost` of the ledger up to date.
    pub fn refresh(&self, ledger: &Ledger) {
        let Some(cpus) = &self.cpus else { return };
        let row = ledger.source(Source::Ebpf);
        let sum = |read: fn(&CpuWords, usize, Lane) -> u64| -> u64 {
            (0..cpus.cpus()).map(|cpu| read(cpus, cpu, Lane::Bulk) + read(cpus, cpu, Lane::Urgent)).sum()
        };
        // Lost before produced: an event is counted as made first.
        row.ring_lost.store(sum(CpuWords::lost), Ordering::Relaxed);
        row.produced.store(sum(CpuWords::sequence), Ordering::Relaxed);
    }

    /// What the kernel counts beside the ledger, by name.
    #[must_use]
    pub fn aggregates(&self) -> Vec<(&'static str, u64)> {
        let Some(cpus) = &self.cpus else { return Vec::new() };
        let counters = ebpf::COUNTERS.iter().map(|&(counter, name)| (name, cpus.total(counter)));
        counters.chain(self.passed_over().map(|count| ("programs_passed_over", count))).collect()
    }

    /// How often the kernel did not run a program because it was running already: an upper bound of the events
    /// that no sequence number shows.
    fn passed_over(&self) -> Option<u64> {
        let programs = self.programs();
        let misses = programs.as_ref()?.misses().ok()?;
        Some(misses.iter().map(|(_, count)| count).sum())
    }

    /// When nobody looked for failed system calls.
    #[must_use]
    pub fn errno_blind(&self) -> &Blind {
        &self.blind
    }

    fn detach(&self) {
        drop(self.programs().take());
    }

    fn programs(&self) -> MutexGuard<'_, Option<Attached>> {
        // Only taken out whole: a panic elsewhere cannot leave half of it.
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The words of some CPUs that say whether their reader polls.
struct AwakeWords {
    words: Arc<CpuWords>,
    cpus: Vec<usize>,
}

impl drain::Awake for AwakeWords {
    fn set(&self, awake: bool) {
        for &cpu in &self.cpus {
            self.words.set_awake(cpu, awake);
        }
    }
}

impl Agent {
    /// Starts everything that the settings ask for and this host can run.
    ///
    /// # Errors
    /// [`AgentError`]; nothing runs then.
    pub fn start(
        settings: Settings,
        host: &Host,
        otlp: Option<mpsc::Sender<SemanticGroup>>,
    ) -> Result<Self, AgentError> {
        let incidents = Arc::new(Incidents::default());
        let mut explaining = Explaining::new(&settings, host, &incidents, otlp)?;
        if let Some(notice) = &host.notice {
            tracing::warn!("{notice}");
        }
        let health = Arc::new(Health::default());
        let (loaded, ebpf_failure) = start_ebpf(&settings, &health)?;
        let collectors = own_collectors(&settings, &health);
        let cpus = loaded.as_ref().map(|loaded| Arc::clone(&loaded.cpus));
        let (rings, programs) = loaded.map(split).unzip();
        let counters = Counters { cpus, programs: Arc::new(Mutex::new(programs)), blind: Arc::default() };
        let shared = Shared {
            live: Arc::new(Live::from_pointee(settings)),
            ledger: Arc::new(Ledger::default()),
            health,
        };
        let boot_id = host.boot_id;
        let ledger_report = {
            let (counters, shared) = (counters.clone(), shared.clone());
            Box::new(move |reports: &Reports| ledger_report(&counters, &shared, reports))
        };
        let recorder = recorder(&shared.live.load(), host)?;
        let recorder_report = recorder.as_ref().map(|recorder| Arc::clone(recorder.report()));
        let mut unavailable = Vec::new();
        let has_rings = rings.is_some();
        // Each CPU that is online has its ring, whatever CPUs this process may use.
        let cpus_online = rings.as_ref().map_or(1, |rings: &Rings| rings.bulk.len());
        let engine = engine::start(
            &shared,
            engine::Parts {
                rings,
                collectors,
                unavailable: &mut |source, why| unavailable.push((source, why)),
                hello: hello(host),
                entities: Box::new(move || {
                    EntityTable::new(boot_id, entity::CAPACITY, Box::new(LiveLookup::open()))
                }),
                inspect: explaining.inspect(),
                explain: explaining.worker(&shared.ledger, recorder.as_ref().and_then(Recorder::cutter)),
                recorder,
                ledger_report,
            },
        )?;
        let collecting = has_rings || is_collecting(&shared, engine.collectors(), &unavailable);
        if let Some(error) = verdict(&shared, unavailable, ebpf_failure, collecting) {
            counters.detach();
            // What the threads say now adds nothing to the reason.
            let _stopped = engine.stop(Duration::ZERO);
            return Err(error);
        }
        let errno = watch_errno(&shared, &counters, cpus_online)?;
        Ok(Self { shared, engine, counters, errno, incidents, recorder: recorder_report })
    }

    /// The incidents that it has made.
    #[must_use]
    pub fn incidents(&self) -> &Arc<Incidents> {
        &self.incidents
    }

    /// What became of recordings, if anything is recorded.
    #[must_use]
    pub fn recorder(&self) -> Option<&Arc<RecorderReport>> {
        self.recorder.as_ref()
    }

    /// The parts that status and metrics read.
    #[must_use]
    pub fn shared(&self) -> (&Shared, &Arc<Reports>, &Counters) {
        (&self.shared, &self.engine.reports, &self.counters)
    }

    /// Whether a thread ended that should not have.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.engine.is_broken()
    }

    /// Stops in order: programs, rings, queues, batches. Waits for acks until the deadline of the settings.
    ///
    /// # Errors
    /// [`AgentError::Broken`] when a thread did not end as it should.
    pub fn stop(self) -> Result<(), AgentError> {
        self.counters.detach();
        if let Some(errno) = self.errno {
            errno.stop();
        }
        let longest = self.shared.live.load().shutdown_deadline;
        let stopped = self.engine.stop(longest);
        self.counters.refresh(&self.shared.ledger);
        match stopped {
            Stopped::InOrder => Ok(()),
            Stopped::Broken => Err(AgentError::Broken),
        }
    }
}

/// Starts what records, if anything is to be recorded. The flight recorder is not asked for by name: where it cannot
/// be, the agent goes on without.
fn recorder(settings: &Settings, host: &Host) -> Result<Option<Recorder>, AgentError> {
    let ring = (settings.state_dir.clone(), settings.flight_recorder_bytes);
    let plan = Plan { file: settings.record.clone(), ring, hello: hello(host) };
    Recorder::start(&plan).or_else(|error| {
        if plan.ring.1 == 0 {
            return Err(AgentError::Record(error));
        }
        tracing::warn!("no flight recorder: {error}");
        let ring = (PathBuf::new(), 0);
        Recorder::start(&Plan { ring, ..plan.clone() }).map_err(AgentError::Record)
    })
}

fn hello(host: &Host) -> Hello {
    Hello {
        agent_id: host.agent_id.to_vec().into(),
        epoch: host.epoch,
        boot_id: host.boot_id.to_vec().into(),
        host_name: host.host_name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

/// Keeps what the errno probe costs within its budget, unless it looks always, or never.
fn watch_errno(shared: &Shared, counters: &Counters, cpus: usize) -> Result<Option<ErrnoWatch>, AgentError> {
    let share = shared.live.load().filters.errno_budget;
    let runs = counters.programs().as_ref().is_some_and(|programs| programs.has(ERRNO_PROGRAM));
    if !runs || share == 0 || share >= errno::WHOLE {
        return Ok(None);
    }
    let watch = ErrnoWatch::start(share, cpus, counters.clone(), Arc::clone(&counters.blind));
    let failed = |error| engine::StartError::Thread("errno-budget".into(), error);
    Ok(Some(watch.map_err(failed)?))
}

impl errno::Switch for Counters {
    fn set_attached(&mut self, attached: bool) -> io::Result<bool> {
        let mut programs = self.programs();
        programs.as_mut().map_or(Ok(false), |programs| programs.set_attached(ERRNO_PROGRAM, attached))
    }

    fn calls(&self) -> u64 {
        self.cpus.as_ref().map_or(0, |cpus| cpus.calls())
    }
}

/// Parts the rings, which the engine reads, from what keeps the programs attached.
fn split(loaded: Loaded) -> (Rings, Attached) {
    let words = Arc::clone(&loaded.cpus);
    let (bulk, urgent, attached) = loaded.split();
    let bulk = bulk.into_iter().map(|(cpu, ring)| (cpu as usize, ring)).collect();
    let awake = move |cpus: &[usize]| -> Box<dyn drain::Awake> {
        Box::new(AwakeWords { words: Arc::clone(&words), cpus: cpus.to_vec() })
    };
    (Rings { bulk, urgent, awake: Box::new(awake) }, attached)
}

/// The collectors with threads of their own that are not switched off.
fn own_collectors(settings: &Settings, health: &Health) -> Vec<CollectorInfo> {
    for source in Source::ALL.into_iter().filter(|&source| source != Source::Ebpf) {
        if settings.collectors[source as usize] == Switch::Off {
            health.set(source, CollectorHealth::new(State::Disabled, "switched off"));
        } else if COLLECTORS.iter().all(|collector| collector.source != source) {
            health.set(source, CollectorHealth::new(State::Disabled, "not in this version"));
        }
    }
    let wanted = COLLECTORS.iter().filter(|info| settings.collectors[info.source as usize] != Switch::Off);
    wanted.copied().collect()
}

/// Whether one of so many collectors with threads of their own has something to collect: one that waits for it does not
/// count, nor does the sampler, unless it was asked for by name: it can run anywhere and tells of no failure by itself.
fn is_collecting(shared: &Shared, collectors: usize, unavailable: &[(Source, Unavailable)]) -> bool {
    let (health, settings) = (shared.health.collectors(), shared.live.load());
    let wanted = COLLECTORS.iter().filter(|info| settings.collectors[info.source as usize] != Switch::Off);
    let waiting = wanted.filter_map(|info| health.get(info.source.name()));
    let sampler = settings.collectors[Source::Sampler as usize] == Switch::Default
        && unavailable.iter().all(|&(source, _)| source != Source::Sampler);
    collectors > waiting.filter(|health| health.state == State::Disabled).count() + usize::from(sampler)
}

/// Says how the collectors are that cannot run, and whether the agent has to end for one of them.
fn verdict(
    shared: &Shared,
    unavailable: Vec<(Source, Unavailable)>,
    ebpf_failure: Option<AgentError>,
    collecting: bool,
) -> Option<AgentError> {
    let mut reasons = Vec::new();
    for (source, why) in unavailable {
        let reason = why.to_string();
        if shared.live.load().collectors[source as usize] == Switch::On {
            shared.health.set(source, CollectorHealth::new(State::Failed, &*reason));
            return Some(AgentError::Collector { collector: source.name(), reason });
        }
        tracing::info!("the {} collector is off: {reason}", source.name());
        shared.health.set(source, CollectorHealth::new(State::Disabled, &*reason));
        reasons.push(format!("{}: {reason}", source.name()));
    }
    match ebpf_failure {
        Some(error) if !collecting => Some(error),
        Some(error) => {
            tracing::warn!("the ebpf collector is off: {error}");
            None
        }
        None if !collecting => Some(AgentError::Nothing(if reasons.is_empty() {
            "every collector is switched off".into()
        } else {
            reasons.join("; ")
        })),
        None => None,
    }
}

/// Loads the probes; or says why not, which ends the start only if they were asked for by name, and otherwise if
/// nothing else runs.
fn start_ebpf(
    settings: &Settings,
    health: &Health,
) -> Result<(Option<Loaded>, Option<AgentError>), AgentError> {
    let switch = settings.collectors[Source::Ebpf as usize];
    if switch == Switch::Off {
        health.set(Source::Ebpf, CollectorHealth::new(State::Disabled, "switched off"));
        return Ok((None, None));
    }
    match ebpf::load(&ebpf::Options::from(settings)) {
        Ok(loaded) => {
            health.set(Source::Ebpf, ebpf_health(&loaded, settings));
            Ok((Some(loaded), None))
        }
        Err(error) => {
            health.set(Source::Ebpf, CollectorHealth::new(State::Failed, error.to_string()));
            match (error, switch) {
                (error @ LoadError::Privilege { .. }, Switch::On) => Err(AgentError::Privilege(error)),
                (error, Switch::On) => {
                    Err(AgentError::Collector { collector: "ebpf", reason: error.to_string() })
                }
                (error @ LoadError::Privilege { .. }, _) => Ok((None, Some(AgentError::Privilege(error)))),
                (error, _) => Ok((None, Some(AgentError::Nothing(error.to_string())))),
            }
        }
    }
}

/// Running if every probe is attached or switched off; else degraded, naming the others.
fn ebpf_health(loaded: &Loaded, settings: &Settings) -> CollectorHealth {
    let lacking: Vec<&str> = loaded
        .probes
        .iter()
        .filter(|(name, probe)| probe.state != ProbeState::Attached && !settings.is_probe_off(name))
        .map(|(name, _)| name.as_str())
        .collect();
    let (state, reason) = if lacking.is_empty() {
        (State::Running, String::new())
    } else {
        (State::Degraded, format!("not attached: {}", lacking.join(", ")))
    };
    let mut probes = loaded.probes.clone();
    let share = settings.filters.errno_budget;
    if let Some(errno) = probes.get_mut("errno").filter(|_| share < errno::WHOLE)
        && errno.state == ProbeState::Attached
    {
        let percent = f64::from(share) / 1000.0;
        errno.reason = format!("looks for at most {percent} % of the CPU time (--filter-errno-budget)");
    }
    CollectorHealth { state, reason, probes }
}

fn ledger_report(counters: &Counters, shared: &Shared, _reports: &Reports) -> LedgerReport {
    let rows = shared.ledger.snapshot(|ledger| counters.refresh(ledger));
    LedgerReport { time_ns: clock::boot_ns(), rows: rows.iter().map(Into::into).collect() }
}
