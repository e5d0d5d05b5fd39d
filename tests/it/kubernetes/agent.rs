//! An engine that runs the kubernetes collector and nothing else, and keeps what it makes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, Once, OnceLock};
use std::time::{Duration, Instant};

use tapio::collector::kubernetes;
use tapio::config::{ClusterScope, Settings};
use tapio::engine::shard::Inspect;
use tapio::engine::{Engine, Live, Parts, Reports, Shared, start};
use tapio::entity::{Entity, EntityTable, LiveLookup};
use tapio::event::{Event, Kind, Source};
use tapio::health::{CollectorHealth, Health};
use tapio::ledger::{Ledger, LedgerRow};
use tapio::proto::{Hello, LedgerReport};
use tapio::server::options::{Options, StoreKind};
use tapio::server::serve::Bound;
use tracing_subscriber::layer::{Context, SubscriberExt};

/// Longest wait for anything; a test that waits this long has failed. Other builds may share the machine.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(90);

/// An event that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) kind: Kind,
    /// The number that names it.
    pub(super) number: u64,
    pub(super) time_ns: u64,
    slots: Vec<u64>,
    fields: Vec<(String, String)>,
}

impl Seen {
    /// A field of its text; empty when there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.fields.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    /// A slot.
    pub(super) fn slot(&self, name: &str) -> u64 {
        let at = self.kind.info().slots.iter().position(|slot| slot.name == name);
        self.slots[at.unwrap_or_else(|| panic!("{:?} has no slot {name}", self.kind))]
    }
}

#[derive(Clone, Default)]
struct Recorder {
    seen: Arc<Mutex<Vec<Seen>>>,
    is_silent: bool,
}

impl Inspect for Recorder {
    fn kinds(&self) -> u128 {
        if self.is_silent { 0 } else { u128::MAX }
    }

    fn event(&mut self, event: &Event<'_>, _owner: &Entity, sequence: u64) {
        let fields = event.fields().map(|(name, value)| (name.to_owned(), value.into_owned())).collect();
        let header = event.header();
        let (kind, slots) = (event.info().kind, event.slots().to_vec());
        self.seen.lock().unwrap().push(Seen {
            kind,
            number: sequence,
            time_ns: header.time_ns,
            slots,
            fields,
        });
    }

    fn tick(&mut self, _now_ns: u64) {}
}

/// A running engine.
pub(super) struct Agent {
    engine: Option<Engine>,
    pub(super) shared: Shared,
    seen: Recorder,
}

/// What most tests want.
pub(super) fn settings(kubeconfig: &Path, state_dir: &Path) -> Settings {
    Settings {
        kubeconfig: kubeconfig.display().to_string(),
        node_name: "here".into(),
        k8s_scope: ClusterScope::Node,
        state_dir: state_dir.to_owned(),
        // Nobody listens there: what is made is kept here, and the collector must not mind.
        server: "127.0.0.1:9".into(),
        flush_interval: Duration::from_millis(20),
        ..Settings::default()
    }
}

impl Agent {
    pub(super) fn start(settings: Settings) -> Self {
        Self::start_with(settings, false)
    }

    /// Keeps no events.
    pub(super) fn start_silent(settings: Settings) -> Self {
        Self::start_with(settings, true)
    }

    fn start_with(settings: Settings, is_silent: bool) -> Self {
        watch_log();
        let shared = Shared {
            live: Arc::new(Live::from_pointee(settings)),
            ledger: Arc::new(Ledger::default()),
            health: Arc::new(Health::default()),
        };
        let seen = Recorder { is_silent, ..Recorder::default() };
        let recorder = seen.clone();
        // Batches are numbered by epoch: a later start has a later one.
        static EPOCHS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let epoch = EPOCHS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let hello = Hello {
            agent_id: vec![1; 16].into(),
            epoch,
            boot_id: vec![2; 16].into(),
            host_name: "here".into(),
            version: "test".into(),
        };
        let engine = start(
            &shared,
            Parts {
                rings: None,
                collectors: vec![kubernetes::INFO],
                unavailable: &mut |_, why| panic!("not available: {why}"),
                hello,
                entities: Box::new(|| EntityTable::new([2; 16], 4096, Box::new(LiveLookup::open()))),
                inspect: Box::new(move || recorder.clone()),
                explain: None,
                recorder: None,
                ledger_report: Box::new(|_: &Reports| LedgerReport::default()),
            },
        );
        Self { engine: Some(engine.expect("the engine starts")), shared, seen }
    }

    /// Everything so far.
    pub(super) fn events(&self) -> Vec<Seen> {
        self.seen.seen.lock().unwrap().clone()
    }

    /// The events of one kind so far.
    pub(super) fn of(&self, kind: Kind) -> Vec<Seen> {
        self.events().into_iter().filter(|seen| seen.kind == kind).collect()
    }

    /// Waits until what was made so far is as wanted.
    pub(super) fn wait_for(&self, what: &str, wanted: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let until = Instant::now() + WAIT_MAX;
        loop {
            let events = self.events();
            if wanted(&events) {
                return events;
            }
            let last: Vec<_> = events.iter().rev().take(5).collect();
            assert!(
                Instant::now() < until,
                "waited in vain for {what}; {} events, the last: {last:#?}; {:?}",
                events.len(),
                self.health()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How the collector says it is.
    pub(super) fn health(&self) -> Option<CollectorHealth> {
        self.shared.health.collectors().get(Source::Kubernetes.name()).cloned()
    }

    /// Waits until the collector says that it is as wanted.
    pub(super) fn wait_health(
        &self,
        what: &str,
        wanted: impl Fn(&CollectorHealth) -> bool,
    ) -> CollectorHealth {
        let until = Instant::now() + WAIT_MAX;
        loop {
            let health = self.health();
            if let Some(health) = health.clone().filter(&wanted) {
                return health;
            }
            assert!(Instant::now() < until, "waited in vain for {what}: {health:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The ledger of the collector.
    pub(super) fn ledger(&self) -> LedgerRow {
        let rows = self.shared.ledger.snapshot(|_| {});
        rows.into_iter().find(|row| row.source == Source::Kubernetes.name()).expect("a row")
    }

    /// Waits until the ledger is as wanted.
    pub(super) fn wait_ledger(&self, what: &str, wanted: impl Fn(&LedgerRow) -> bool) {
        let until = Instant::now() + WAIT_MAX;
        while !wanted(&self.ledger()) {
            assert!(
                Instant::now() < until,
                "waited in vain for {what}: {:?} {:?}",
                self.ledger(),
                self.health()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn stop(mut self) -> Vec<Seen> {
        self.end();
        self.events()
    }

    fn end(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.stop(Duration::from_millis(200));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}

/// Lines of the log that this process wrote about Kubernetes at warning level or above.
static LOG: OnceLock<Mutex<Vec<String>>> = OnceLock::new();

struct Lines;

#[derive(Default)]
struct Message(String);

impl tracing::field::Visit for Message {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        if *event.metadata().level() > tracing::Level::WARN {
            return;
        }
        let mut message = Message::default();
        event.record(&mut message);
        if message.0.starts_with("kubernetes") {
            LOG.get_or_init(Mutex::default).lock().unwrap().push(message.0);
        }
    }
}

fn watch_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Another test may have taken the log: then there is nothing to see, and who looks fails.
        let _taken = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Lines));
    });
}

/// The warnings that have these words, in order.
pub(super) fn warnings(words: &str) -> Vec<String> {
    let lines = LOG.get_or_init(Mutex::default).lock().unwrap();
    lines.iter().filter(|line| line.contains(words)).cloned().collect()
}

/// A tapio-server that acks everything and keeps nothing, until it is dropped.
pub(super) struct Acks {
    pub(super) address: String,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Acks {
    pub(super) fn start(data_dir: &Path) -> Self {
        let options = Options {
            grpc_listen: ([127, 0, 0, 1], 0).into(),
            http_listen: ([127, 0, 0, 1], 0).into(),
            data_dir: data_dir.to_owned(),
            store: StoreKind::Null,
            store_bytes: 64 << 20,
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
        };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (address, bound) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Bound::new(&options).await.expect("it binds");
                address.send(server.grpc_address().unwrap()).unwrap();
                server.serve(async { drop(stopped.await) }).await.expect("it serves");
            });
        });
        let address = bound.recv().expect("an address").to_string();
        Self { address, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Acks {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _failed = thread.join();
        }
    }
}

/// How often each number came.
pub(super) fn numbers(events: &[Seen]) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for event in events {
        *counts.entry(event.number).or_default() += 1;
    }
    counts
}
