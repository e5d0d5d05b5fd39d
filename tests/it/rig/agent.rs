//! The engine with the systemd collector alone, in this process, and everything that came out of it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tapio::collector::systemd;
use tapio::config::Settings;
use tapio::engine::shard::Inspect;
use tapio::engine::{self, Engine, Live, Shared, Stopped};
use tapio::entity::{Entity, EntityTable, LiveLookup};
use tapio::event::{Event, Kind, Source, fields};
use tapio::health::Health;
use tapio::ledger::{Ledger, LedgerRow};
use tapio::proto::{Hello, LedgerReport};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(180);

/// An event as a test looks at it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) kind: Kind,
    words: Vec<u64>,
    /// How long after its own time a shard saw it.
    pub(super) late: Duration,
}

impl Seen {
    fn event(&self) -> Event<'_> {
        Event::parse(&self.words).unwrap()
    }

    pub(super) fn field(&self, name: &str) -> String {
        self.event().fields().get(name).into_owned()
    }

    pub(super) fn slot(&self, name: &str) -> u64 {
        self.event().slot(name).unwrap()[0]
    }

    /// The invocation as systemd writes it.
    pub(super) fn invocation(&self) -> String {
        let words = self.event().slot("invocation_id").unwrap();
        format!("{:016x}{:016x}", words[0], words[1])
    }

    /// What names a transition.
    pub(super) fn transition(&self) -> (String, u64, String, String) {
        let unit = self.field(fields::UNIT);
        let state = format!("{}/{}", self.field(fields::ACTIVE_STATE), self.field(fields::SUB_STATE));
        (unit, self.slot("changed_us"), state, self.field(fields::RESULT))
    }
}

struct Record(Arc<Mutex<Vec<Seen>>>);

impl Inspect for Record {
    fn kinds(&self) -> u128 {
        u128::MAX
    }

    fn event(&mut self, event: &Event<'_>, _owner: &Entity, _sequence: u64) {
        let late = Duration::from_nanos(tapio::clock::boot_ns().saturating_sub(event.header().time_ns));
        self.0.lock().unwrap().push(Seen { kind: event.info().kind, words: event.words().to_vec(), late });
    }

    fn tick(&mut self, _now_ns: u64) {}
}

/// A running engine.
#[derive(Debug)]
pub(super) struct Agent {
    engine: Engine,
    shared: Shared,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Agent {
    /// Of the manager at this place.
    pub(super) fn start(systemd_bus: &str) -> Self {
        let settings = Settings {
            shards: 1,
            server: "127.0.0.1:1".into(),
            systemd_bus: systemd_bus.into(),
            ..Settings::default()
        };
        let shared = Shared {
            live: Arc::new(Live::from_pointee(settings)),
            ledger: Arc::new(Ledger::default()),
            health: Arc::new(Health::default()),
        };
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let parts = engine::Parts {
            rings: None,
            collectors: vec![systemd::INFO],
            unavailable: &mut |_, why| panic!("{why}"),
            hello: Hello::default(),
            entities: Box::new(|| EntityTable::new([7; 16], 1 << 16, Box::new(LiveLookup::open()))),
            inspect: Box::new(move || Record(Arc::clone(&record))),
            explain: None,
            recorder: None,
            ledger_report: Box::new(|_| LedgerReport::default()),
        };
        let engine = engine::start(&shared, parts).unwrap();
        let agent = Self { engine, shared, seen };
        agent.until("the first list", |agent| agent.manager("running") == 1);
        agent
    }

    pub(super) fn of(&self, kind: Kind) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|seen| seen.kind == kind).cloned().collect()
    }

    /// How often the manager was in this state.
    pub(super) fn manager(&self, state: &str) -> usize {
        self.of(Kind::ManagerState).iter().filter(|seen| seen.field(fields::STATE) == state).count()
    }

    /// Waits for something to become true.
    pub(super) fn until(&self, what: &str, mut is_true: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !is_true(self) {
            let health = self.shared.health.collectors();
            assert!(begun.elapsed() < PATIENCE, "{what} never came: {health:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it; the ledger that remains.
    pub(super) fn stop(self) -> LedgerRow {
        assert_eq!(self.engine.stop(Duration::from_millis(50)), Stopped::InOrder);
        let mut rows = self.shared.ledger.snapshot(|_| {});
        rows.swap_remove(Source::Systemd as usize)
    }
}
