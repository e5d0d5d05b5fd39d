//! An engine with this collector alone, and everything that came out of it.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::super::place;
use super::super::session::Bounds;
use super::super::{Collector, INFO};
use crate::collector::{CollectorInfo, Context, Unavailable};
use crate::config::Settings;
use crate::engine::shard::Inspect;
use crate::engine::worker::Worker;
use crate::engine::{self, Engine, Live, Shared, Stopped};
use crate::entity::{CgroupLookup, Entity, EntityTable};
use crate::event::{Event, Kind, Source, fields};
use crate::health::{CollectorHealth, Health};
use crate::ledger::{Ledger, LedgerRow, Shed};
use crate::proto::{Hello, LedgerReport};

/// An event as a test looks at it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) kind: Kind,
    pub(super) words: Vec<u64>,
    pub(super) owner: Entity,
}

impl Seen {
    fn event(&self) -> Event<'_> {
        Event::parse(&self.words).expect("it was one")
    }

    pub(super) fn field(&self, name: &str) -> String {
        self.event().fields().get(name).into_owned()
    }

    pub(super) fn slot(&self, name: &str) -> u64 {
        self.event().slot(name).expect("a slot of this kind")[0]
    }

    pub(super) fn id(&self) -> u128 {
        let words = self.event().slot("invocation_id").expect("a slot of this kind");
        u128::from(words[0]) << 64 | u128::from(words[1])
    }

    /// `unit active_before>active/sub result`.
    pub(super) fn state(&self) -> String {
        let field = |name| self.field(name);
        format!(
            "{} {}>{}/{} {}",
            field(fields::UNIT),
            field(fields::ACTIVE_STATE_BEFORE),
            field(fields::ACTIVE_STATE),
            field(fields::SUB_STATE),
            field(fields::RESULT)
        )
    }
}

struct Record(Arc<Mutex<Vec<Seen>>>);

impl Inspect for Record {
    fn kinds(&self) -> u128 {
        u128::MAX
    }

    fn event(&mut self, event: &Event<'_>, owner: &Entity, _sequence: u64) {
        let kind = event.info().kind;
        let seen = Seen { kind, words: event.words().to_vec(), owner: owner.clone() };
        self.0.lock().expect("no test panics in here").push(seen);
    }

    fn tick(&mut self, _now_ns: u64) {}
}

struct NoHost;

impl CgroupLookup for NoHost {
    fn path(&mut self, _cgroup: u64) -> Option<String> {
        None
    }

    fn invocation_id(&mut self, _path: &str) -> Option<[u8; 16]> {
        None
    }
}

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running engine.
pub(super) struct Agent {
    engine: Option<Engine>,
    shared: Shared,
    seen: Arc<Mutex<Vec<Seen>>>,
}

fn quick() -> Bounds {
    Bounds {
        ring: 32_768,
        answer: Duration::from_millis(500),
        new_unit: Duration::from_millis(50),
        settle: Duration::from_millis(50),
        compare: Duration::from_millis(100),
        retry: [Duration::from_millis(20), Duration::from_millis(100)],
    }
}

fn open(context: Context, bounds: Bounds) -> Result<Box<dyn Worker>, Unavailable> {
    let places = place::places(&context.live.load().systemd_bus);
    Ok(Box::new(Collector::new(context, places, bounds)))
}

impl Agent {
    /// With times that suit a test.
    pub(super) fn quick(address: &str) -> Self {
        Self::start(address, |context| open(context, quick()))
    }

    /// With a ring that overflows soon.
    pub(super) fn narrow(address: &str) -> Self {
        Self::start(address, |context| open(context, Bounds { ring: 50, ..quick() }))
    }

    fn start(address: &str, open: fn(Context) -> Result<Box<dyn Worker>, Unavailable>) -> Self {
        let settings = Settings {
            shards: 1,
            server: "127.0.0.1:1".into(),
            systemd_bus: address.into(),
            state_dir: Path::new("/nonexistent").into(),
            ..Settings::default()
        };
        let shared = Shared {
            live: Arc::new(Live::from_pointee(settings)),
            ledger: Arc::new(Ledger::default()),
            health: Arc::new(Health::default()),
        };
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let engine = engine::start(
            &shared,
            engine::Parts {
                rings: None,
                collectors: vec![CollectorInfo { open, ..INFO }],
                unavailable: &mut |_, why| panic!("{why}"),
                hello: Hello::default(),
                entities: Box::new(|| EntityTable::new([7; 16], 1 << 16, Box::new(NoHost))),
                inspect: Box::new(move || Record(Arc::clone(&record))),
                explain: None,
                ledger_report: Box::new(|_| LedgerReport::default()),
            },
        )
        .expect("threads");
        Self { engine: Some(engine), shared, seen }
    }

    pub(super) fn health(&self) -> Option<CollectorHealth> {
        self.shared.health.collectors().remove("systemd")
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no test panics in here").clone()
    }

    pub(super) fn of(&self, kind: Kind) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.kind == kind).collect()
    }

    /// The states of a unit, as [`Seen::state`] writes them.
    pub(super) fn states(&self, unit: &str) -> Vec<String> {
        let states = self.of(Kind::UnitState);
        states.iter().filter(|seen| seen.field(fields::UNIT) == unit).map(Seen::state).collect()
    }

    /// How often the manager was in this state.
    pub(super) fn manager(&self, state: &str) -> usize {
        self.of(Kind::ManagerState).iter().filter(|seen| seen.field(fields::STATE) == state).count()
    }

    /// Waits for something to become true.
    pub(super) fn until(&self, what: &str, mut is_true: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !is_true(self) {
            assert!(begun.elapsed() < PATIENCE, "{what} never came: {:?}; {:#?}", self.health(), self.tail());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn tail(&self) -> Vec<String> {
        let seen = self.seen();
        let text = |seen: &Seen| format!("{:?} {}", seen.kind, String::from_utf8_lossy(seen.event().text()));
        seen.iter().rev().take(30).map(text).collect()
    }

    pub(super) fn row(&self) -> LedgerRow {
        self.shared.ledger.snapshot(|_| {}).remove(Source::Systemd as usize)
    }

    pub(super) fn malformed(&self) -> u64 {
        self.shared.ledger.source(Source::Systemd).shed[Shed::Malformed as usize].load(Ordering::Relaxed)
    }

    /// Ends it; the ledger that remains, which closes.
    pub(super) fn stop(mut self) -> LedgerRow {
        let engine = self.engine.take().expect("it stops once");
        assert_eq!(engine.stop(Duration::from_millis(50)), Stopped::InOrder);
        let row = self.row();
        assert!(row.closed(&crate::ledger::Bounds::STOPPED), "{row:?}");
        assert_eq!(self.shared.health.workers_replaced.load(Ordering::Relaxed), 0);
        row
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            let _stopped = engine.stop(Duration::ZERO);
        }
    }
}
