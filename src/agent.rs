//! The agent's life: identify, load, start, run until told to stop, drain, close the ledger.
//!
//! Invariants:
//! - A collector that cannot run is said once, with the remedy, and the others go on; it ends the start
//!   only if it was asked for by name, or if nothing is left to collect.
//! - Programs are detached before the engine stops, so the ledger can close exactly.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock;
use crate::collector::ebpf::{self, Attached, CpuWords, Lane, LoadError, Loaded};
use crate::collector::{COLLECTORS, CollectorInfo, Unavailable};
use crate::config::{Settings, Switch};
use crate::engine::{self, Engine, Live, Reports, Rings, Shared, Stopped, drain, shard};
use crate::entity::{self, EntityTable, Host, HostError, LiveLookup};
use crate::event::Source;
use crate::health::{CollectorHealth, Health, ProbeState, State};
use crate::ledger::Ledger;
use crate::proto::{Hello, LedgerReport};

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
    /// The threads did not start.
    #[error(transparent)]
    Start(#[from] engine::StartError),
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
    /// Attaches the errno probe for a part of every second; ends when the programs are detached.
    errno_window: Option<JoinHandle<()>>,
}

/// What the kernel counts; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    cpus: Option<Arc<CpuWords>>,
    /// Until the stop, which detaches them.
    programs: Arc<Mutex<Option<Attached>>>,
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
    pub fn start(settings: Settings) -> Result<Self, AgentError> {
        let host = Host::identify(&settings.state_dir)?;
        if let Some(notice) = &host.notice {
            tracing::warn!("{notice}");
        }
        let health = Arc::new(Health::default());
        let (loaded, ebpf_failure) = start_ebpf(&settings, &health)?;
        let collectors = own_collectors(&settings, &health);
        let cpus = loaded.as_ref().map(|loaded| Arc::clone(&loaded.cpus));
        let (rings, programs) = loaded.map(split).unzip();
        let counters = Counters { cpus, programs: Arc::new(Mutex::new(programs)) };
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
        let mut unavailable = Vec::new();
        let has_rings = rings.is_some();
        let engine = engine::start(
            &shared,
            engine::Parts {
                rings,
                collectors,
                unavailable: &mut |source, why| unavailable.push((source, why)),
                hello: hello(&host),
                entities: Box::new(move || {
                    EntityTable::new(boot_id, entity::CAPACITY, Box::new(LiveLookup::open()))
                }),
                inspect: Box::new(|| shard::NoInspect),
                ledger_report,
            },
        )?;
        let collecting = engine.collectors() > 0 || has_rings;
        if let Some(error) = verdict(&shared, unavailable, ebpf_failure, collecting) {
            counters.detach();
            // What the threads say now adds nothing to the reason.
            let _stopped = engine.stop(Duration::ZERO);
            return Err(error);
        }
        let errno_window = errno_window(&shared, &counters)?;
        Ok(Self { shared, engine, counters, errno_window })
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
        if let Some(thread) = self.errno_window {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::warn!("the thread of the errno window panicked");
            }
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

fn hello(host: &Host) -> Hello {
    Hello {
        agent_id: host.agent_id.to_vec().into(),
        epoch: host.epoch,
        boot_id: host.boot_id.to_vec().into(),
        host_name: host.host_name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

/// The program that every system call of the host pays for while it is attached.
const ERRNO_PROGRAM: &str = "errno_sys_exit";

/// The period of its window. What the probe is for, an exhausted resource, fails again and again for longer.
const ERRNO_PERIOD: Duration = Duration::from_secs(1);

/// Starts the thread that keeps the errno probe attached for a part of every second, unless it always is.
fn errno_window(shared: &Shared, counters: &Counters) -> Result<Option<JoinHandle<()>>, AgentError> {
    let window = shared.live.load().filters.errno_window;
    if window >= ERRNO_PERIOD {
        return Ok(None);
    }
    let counters = counters.clone();
    let thread = std::thread::Builder::new().name("errno-window".into()).spawn(move || {
        for attached in [false, true].into_iter().cycle() {
            let rest = if attached { window } else { ERRNO_PERIOD.saturating_sub(window) };
            if rest.is_zero() && attached {
                continue;
            }
            match counters.programs().as_mut().map(|programs| programs.set_attached(ERRNO_PROGRAM, attached))
            {
                Some(Ok(true)) => {}
                Some(Ok(false)) | None => return,
                Some(Err(error)) => {
                    tracing::warn!(
                        "the errno probe is off from now on: it cannot be attached again: {error}"
                    );
                    return;
                }
            }
            // A stop wakes it up early, and finds the programs gone.
            std::thread::park_timeout(rest);
        }
    });
    let failed = |error| engine::StartError::Thread("errno-window".into(), error);
    Ok(Some(thread.map_err(failed)?))
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
    let window = settings.filters.errno_window;
    if let Some(errno) = probes.get_mut("errno").filter(|_| window < ERRNO_PERIOD)
        && errno.state == ProbeState::Attached
    {
        errno.reason = format!("looks {window:?} of every second (--filter-errno-window)");
    }
    CollectorHealth { state, reason, probes }
}

fn ledger_report(counters: &Counters, shared: &Shared, _reports: &Reports) -> LedgerReport {
    let rows = shared.ledger.snapshot(|ledger| counters.refresh(ledger));
    LedgerReport { time_ns: clock::boot_ns(), rows: rows.iter().map(Into::into).collect() }
}
