//! The agent from its first signal handler to its last line: start, answer, reload, stop.
//!
//! Invariants:
//! - Signals are caught before anything starts, so that no start is left half undone.
//! - The socket is made before the kernel is touched: a second agent changes nothing.
//! - Everything here runs on one thread of its own and waits for nobody: a stalled client, scraper or receiver
//!   delays neither a signal nor the status line.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::Vitals;
use super::snapshot::Otlp;
use super::socket::{Socket, SocketError};
use super::vitals::AgentVitals;
use crate::agent::{Agent, AgentError, rules};
use crate::config::{Args, Correlation, Settings, reload};
use crate::egress::otlp;
use crate::entity::Host;
use crate::logging::Log;
use crate::metrics::http;
use crate::metrics::otlp::{Exporter, OtlpError};
use crate::proto::SemanticGroup;

/// The status line is logged this often.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// A broken worker is noticed within this time.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Why the agent did not start, or ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another agent runs.
    #[error(transparent)]
    Socket(SocketError),
    /// The agent itself.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The address for metrics is taken or not ours.
    #[error("cannot serve metrics on {address}: {source}; choose another --metrics-listen")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Metrics cannot be exported.
    #[error(transparent)]
    Otlp(#[from] OtlpError),
    /// No signal handler or runtime: the host is out of file descriptors or threads.
    #[error("cannot start: {0}; raise the limits on tasks and open files")]
    Runtime(io::Error),
}

/// Runs the agent until SIGINT or SIGTERM, or until it breaks down. SIGHUP reads the settings of `args` again.
///
/// # Errors
/// [`RunError`].
pub fn run(args: &Args, settings: Settings, log: &Log) -> Result<(), RunError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::Runtime)?;
    let mut signals = runtime.block_on(async { Signals::catch() }).map_err(RunError::Runtime)?;
    let socket = bind(&settings)?;
    let listener = listen(settings.metrics_listen)?;
    let export = Arc::new(Mutex::new(otlp::Report::default()));
    let host = Host::identify(&settings.state_dir).map_err(AgentError::from)?;
    let incidents = export_incidents(&runtime, &settings, &host, &export)?;
    let (revisions, exporting) = incidents.unzip();
    let agent = Agent::start(settings, &host, revisions)?;
    tracing::info!("tapio-collector {} runs", env!("CARGO_PKG_VERSION"));

    let otlp = Arc::new(Mutex::new(Otlp::default()));
    let vitals = Arc::new(AgentVitals::new(&agent, Arc::clone(&otlp), export));
    let ended = runtime.block_on(async {
        let exporter =
            Exporter::start(&vitals.settings(), Arc::clone(&vitals) as Arc<dyn Vitals>, Arc::clone(&otlp))?;
        serve(socket, listener, &vitals);
        let mut life = Life { args, log, vitals: &vitals, otlp: &otlp, exporter };
        life.watch(&agent, &mut signals).await;
        if let Some(exporter) = life.exporter.take() {
            exporter.stop().await;
        }
        Ok::<(), OtlpError>(())
    });
    let stopped = agent.stop();
    if let Some(exporting) = exporting {
        // The last revisions are in its queue now. A panic there was said by the runtime.
        let _ended = runtime.block_on(exporting);
    }
    tracing::info!("{}", vitals.last_snapshot().status_line());
    // Drops the socket and its clients.
    runtime.shutdown_background();
    ended?;
    Ok(stopped?)
}

/// Where revisions go, and the task that exports them.
type IncidentExport = (mpsc::Sender<SemanticGroup>, tokio::task::JoinHandle<()>);

/// Starts the export of incidents over OTLP, unless it is switched off or there will be none.
fn export_incidents(
    runtime: &Runtime,
    settings: &Settings,
    host: &Host,
    report: &Arc<Mutex<otlp::Report>>,
) -> Result<Option<IncidentExport>, RunError> {
    if settings.correlation == Correlation::Basic {
        return Ok(None);
    }
    let origin = otlp::Origin::new(settings, host.boot_id, &host.host_name);
    let _within = runtime.enter();
    let exporter = otlp::IncidentExporter::new(settings, origin, Arc::clone(report))?;
    Ok(exporter.map(|exporter| {
        let (sender, revisions) = mpsc::channel(otlp::QUEUE_MAX);
        (sender, runtime.spawn(exporter.run(revisions)))
    }))
}

/// The socket; without it the agent works, but not beside another agent.
fn bind(settings: &Settings) -> Result<Option<Socket>, RunError> {
    match Socket::bind(&settings.socket) {
        Ok(socket) => Ok(Some(socket)),
        Err(error @ SocketError::InUse(_)) => Err(RunError::Socket(error)),
        Err(error) => {
            tracing::warn!("{error}");
            Ok(None)
        }
    }
}

fn listen(address: Option<SocketAddr>) -> Result<Option<TcpListener>, RunError> {
    let bind = |address| TcpListener::bind(address).map_err(|source| RunError::Metrics { address, source });
    address.map(bind).transpose()
}

/// Starts what answers others. It ends with the runtime.
fn serve(socket: Option<Socket>, listener: Option<TcpListener>, vitals: &Arc<AgentVitals>) {
    if let Some(socket) = socket {
        let vitals = Arc::clone(vitals);
        tokio::spawn(async move {
            if let Err(error) = socket.serve(vitals).await {
                tracing::warn!("`status` will not work: {error}");
            }
        });
    }
    if let Some(listener) = listener {
        let vitals = Arc::clone(vitals);
        tokio::spawn(async move {
            if let Err(error) = http::serve(listener, vitals).await {
                tracing::warn!("metrics are not served any more: {error}");
            }
        });
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

struct Life<'run> {
    args: &'run Args,
    log: &'run Log,
    vitals: &'run Arc<AgentVitals>,
    otlp: &'run Arc<Mutex<Otlp>>,
    exporter: Option<Exporter>,
}

impl Life<'_> {
    /// Returns when the agent is told to stop, or is broken.
    async fn watch(&mut self, agent: &Agent, signals: &mut Signals) {
        let mut status = interval_at(Instant::now() + STATUS_EVERY, STATUS_EVERY);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = signals.interrupt.recv() => return tracing::info!("SIGINT: stopping"),
                _ = signals.terminate.recv() => return tracing::info!("SIGTERM: stopping"),
                _ = signals.hangup.recv() => self.reload().await,
                _ = status.tick() => tracing::info!("{}", self.vitals.snapshot().status_line()),
                _ = look.tick() => if agent.is_broken() {
                    return tracing::error!("a worker ended that should not have: stopping");
                },
            }
        }
    }

    async fn reload(&mut self) {
        let old = self.vitals.settings();
        let (new, changes) = match reload(&old, self.args) {
            Ok(reloaded) => reloaded,
            Err(error) => return tracing::error!("SIGHUP: {error}; the settings stay as they were"),
        };
        // Their files may have changed although the settings did not.
        match rules(new.rules.as_slice()) {
            Ok(rules) => {
                tracing::info!("SIGHUP: {} rules are in force", rules.rules.len());
                self.vitals.set_rules(rules);
            }
            Err(error) => tracing::error!("SIGHUP: {error}; the rules stay as they were"),
        }
        if changes.is_empty() {
            return tracing::info!("SIGHUP: the settings are as they were");
        }
        for change in &changes {
            if change.live { tracing::info!("SIGHUP: {change}") } else { tracing::warn!("SIGHUP: {change}") }
        }
        if new.log_level != old.log_level
            && let Err(error) = self.log.set_filter(&new.log_level)
        {
            tracing::error!("{error}");
        }
        let export_again = new.otel_metrics_interval != old.otel_metrics_interval;
        self.vitals.set_settings(new);
        if export_again {
            self.export_again().await;
        }
    }

    async fn export_again(&mut self) {
        if let Some(exporter) = self.exporter.take() {
            exporter.stop().await;
        }
        let vitals = Arc::clone(self.vitals) as Arc<dyn Vitals>;
        match Exporter::start(&self.vitals.settings(), vitals, Arc::clone(self.otlp)) {
            Ok(exporter) => self.exporter = exporter,
            Err(error) => tracing::error!("{error}"),
        }
    }
}
