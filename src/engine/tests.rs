//! The whole path: on one thread in random order, as a schedule says; and on its threads with a fault.

mod journal;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use tokio::sync::Notify;
use zerocopy::IntoBytes;

use self::journal::{Journal, entries};
use super::drain::{self, Awake, Drain, ShardPort};
use super::queue::{self, BatchReceiver, QueueCounters};
use super::shard::{Input, Output, Shard, ShardReport};
use super::worker::Worker;
use super::{Lane, Live, Shared, shard};
use crate::collector::stretches::ATTEMPTS_MAX;
use crate::config::Settings;
use crate::egress::batch::Sealed;
use crate::egress::window::{Settled, Window};
use crate::entity::{CgroupLookup, Entity, EntityTable};
use crate::event::{Event, Header, Kind, Source, mix};
use crate::health::Health;
use crate::ledger::{Dropped, Ledger, Shed};
use crate::proto::{Hello, LedgerReport};
use crate::sys::ring::testing::{HeapProducer, ring};

/// What may happen next.
#[derive(Debug, Clone)]
enum Step {
    /// The kernel makes this many events for one of a few cgroups, in the bulk or the urgent ring.
    Produce { events: u8, cgroup: u8, urgent: bool },
    /// The drain makes a pass.
    Drain,
    /// A shard takes a turn.
    Shard(u8),
    /// A shard panics at its next event.
    Panic(u8),
    /// The journal grows by this many entries.
    Append(u8),
    /// Its collector reads up to this many and looks at its stretches.
    Read(u8),
    /// Egress empties the queues into the window.
    Absorb,
    /// Egress sends up to this many batches.
    Send(u8),
    /// The server acks up to this many of the batches that were sent.
    Ack(u8),
    /// The connection breaks; the server had stored up to this many more.
    Reconnect(u8),
    /// Time goes by, so that batches become due and stuck queues are shed.
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<u8>(), 2..6_u8, any::<bool>()).prop_map(|(events, cgroup, urgent)| Step::Produce { events, cgroup, urgent }),
        6 => Just(Step::Drain),
        6 => (0..2_u8).prop_map(Step::Shard),
        1 => (0..2_u8).prop_map(Step::Panic),
        4 => (0..20_u8).prop_map(Step::Append),
        6 => any::<u8>().prop_map(Step::Read),
        4 => Just(Step::Absorb),
        4 => (0..9_u8).prop_map(Step::Send),
        4 => (0..9_u8).prop_map(Step::Ack),
        1 => (0..9_u8).prop_map(Step::Reconnect),
        2 => (0..2000_u16).prop_map(Step::Wait),
    ]
}

struct NeverAwake;

impl Awake for NeverAwake {
    fn set(&self, _awake: bool) {}
}

/// A host without cgroups.
struct NoHost;

impl CgroupLookup for NoHost {
    fn path(&mut self, _cgroup: u64) -> Option<String> {
        None
    }

    fn invocation_id(&mut self, _path: &str) -> Option<[u8; 16]> {
        None
    }
}

/// Shows every event to a function.
struct Show(Box<dyn FnMut(&Event<'_>) + Send>);

impl shard::Inspect for Show {
    fn kinds(&self) -> u128 {
        u128::MAX
    }

    fn event(&mut self, event: &Event<'_>, _owner: &Entity, _sequence: u64) {
        (self.0)(event);
    }

    fn tick(&mut self, _now_ns: u64) {}
}

fn event(time_ns: u64, cgroup: u64, sequence: u32, urgent: bool) -> [u64; 7] {
    let mut words = [0_u64; 7];
    let header = Header {
        time_ns,
        cgroup,
        start_ns: 1,
        tgid: 7,
        sequence,
        kind: Kind::Load as u16,
        words: 7,
        producer: u16::from(urgent),
        source: Source::Ebpf as u8,
        flags: 0,
    };
    words.as_mut_bytes()[..size_of::<Header>()].copy_from_slice(header.as_bytes());
    words
}

/// The queues from one producer to one shard.
fn connect(source: Source, inputs: &mut Vec<Input>) -> ShardPort {
    let lanes = [Lane::Bulk, Lane::Urgent].map(|lane| {
        let (sender, receiver) = queue::words(0);
        inputs.push(Input { source, lane, receiver });
        sender
    });
    ShardPort { lanes, thread: std::thread::current() }
}

/// The path, and what the kernel would count.
struct World {
    now_ns: u64,
    producers: [HeapProducer; 2],
    sequences: [u32; 2],
    produced: u64,
    ring_lost: u64,
    drain: Drain,
    shards: Vec<Shard<Show>>,
    panic_next: Vec<Arc<AtomicBool>>,
    inputs: Vec<[BatchReceiver<Sealed>; 2]>,
    queues: Vec<Arc<QueueCounters>>,
    window: Window,
    sent: u64,
    acked: u64,
    ledger: Arc<Ledger>,
    /// Sequence numbers that the server has, by producer.
    stored: Vec<(u32, u64)>,
    journal: Journal,
    /// The entries in each batch that was sent, and those in acked ones.
    entries_sent: Vec<Vec<u64>>,
    entries_acked: BTreeSet<u64>,
    /// A shard panicked: an entry may be left behind on purpose.
    panicked: u64,
}

impl World {
    fn new() -> Self {
        let (bulk, bulk_producer) = ring(1 << 12);
        let (urgent, urgent_producer) = ring(1 << 9);
        let ledger = Arc::new(Ledger::default());
        let settings = Settings { buffer_size: 100, ..Settings::default() };
        let live = Arc::new(Live::from_pointee(settings));
        let mut world_inputs = Vec::new();
        let mut queues = Vec::new();
        let mut ports = Vec::new();
        let mut own_ports = Vec::new();
        let mut shards = Vec::new();
        let mut panic_next = Vec::new();
        for number in 0..2 {
            let mut inputs = Vec::new();
            ports.push(connect(Source::Ebpf, &mut inputs));
            let lanes = &ports.last().expect("pushed").lanes;
            queues.extend(lanes.iter().map(|lane| Arc::clone(lane.counters())));
            own_ports.push(connect(Source::Journald, &mut inputs));
            let [bulk, urgent] = [0; 2].map(|_| queue::batches(2));
            world_inputs.push([bulk.1, urgent.1]);
            let fault = Arc::new(AtomicBool::new(false));
            panic_next.push(Arc::clone(&fault));
            let inspect = Show(Box::new(move |_| assert!(!fault.swap(false, Ordering::Relaxed), "injected")));
            shards.push(Shard::new(shard::Parts {
                number,
                sequence_base: 0,
                inputs,
                entities: EntityTable::new([7; 16], 64, Box::new(NoHost)),
                output: Output { lanes: [bulk.0, urgent.0], wake: Arc::new(Notify::new()) },
                ledger: Arc::clone(&ledger),
                live: Arc::clone(&live),
                report: Arc::new(Mutex::new(ShardReport::new())),
                inspect,
            }));
        }
        let drain = Drain::new(drain::Parts {
            bulk: vec![bulk],
            urgent: Some(urgent),
            ports,
            awake: Box::new(NeverAwake),
            ledger: Arc::clone(&ledger),
            live,
            signals: drain::Signals::default(),
        })
        .expect("epoll");
        Self {
            now_ns: 1_000_000_000,
            producers: [bulk_producer, urgent_producer],
            sequences: [0; 2],
            produced: 0,
            ring_lost: 0,
            drain,
            shards,
            panic_next,
            inputs: world_inputs,
            queues,
            window: Window::new(20_000),
            sent: 0,
            acked: 0,
            journal: Journal::new(own_ports, &ledger),
            entries_sent: Vec::new(),
            entries_acked: BTreeSet::new(),
            panicked: 0,
            ledger,
            stored: Vec::new(),
        }
    }

    fn produce(&mut self, events: u8, cgroup: u8, urgent: bool) {
        let lane = usize::from(urgent);
        for _ in 0..events {
            let words = event(self.now_ns, cgroup.into(), self.sequences[lane], urgent);
            self.sequences[lane] += 1;
            self.produced += 1;
            match self.producers[lane].reserve(7) {
                Some(at) => self.producers[lane].commit(at, &words, 0),
                None => self.ring_lost += 1,
            }
        }
    }

    fn turn(&mut self, number: usize) -> u64 {
        let now_ns = self.now_ns;
        let shard = &mut self.shards[number];
        let turn = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let taken = shard.turn();
            shard.tend(now_ns);
            taken
        }));
        turn.unwrap_or_else(|_| {
            self.shards[number].recover();
            self.panicked += 1;
            1
        })
    }

    fn absorb(&mut self) {
        let mut dropped = Settled::default();
        for lane in [1, 0] {
            for input in &mut self.inputs {
                while let Some(sealed) = input[lane].pop() {
                    dropped += self.window.offer(sealed);
                }
            }
        }
        dropped.count_dropped(&self.ledger, Dropped::WindowFull);
    }

    fn send(&mut self, batches: u64) {
        for _ in 0..batches {
            let Some(batch) = self.window.next(0) else { return };
            if batch.sequence > self.acked && batch.sequence > self.sent {
                for run in batch.runs.iter().filter(|run| run.source == Source::Ebpf as i32) {
                    self.stored.push((run.producer, u64::from(run.count)));
                }
                self.entries_sent.push(entries(&batch));
            }
            self.sent = self.sent.max(batch.sequence);
        }
    }

    fn ack(&mut self, batches: u64, restart: bool) {
        self.acked = self.sent.min(self.acked + batches);
        let settled = if restart { self.window.restart(self.acked) } else { self.window.ack(self.acked) };
        // Without a restart an ack may name a batch that this connection has not sent again yet.
        if let Ok(settled) = settled {
            settled.count_acked(&self.ledger);
        }
        let acked = usize::try_from(self.acked).expect("few batches");
        self.entries_acked.extend(self.entries_sent.iter().take(acked).flatten());
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Produce { events, cgroup, urgent } => self.produce(events, cgroup, urgent),
            Step::Drain => _ = self.drain.pass(self.now_ns),
            Step::Shard(number) => _ = self.turn(usize::from(number)),
            Step::Panic(number) => self.panic_next[usize::from(number)].store(true, Ordering::Relaxed),
            Step::Append(entries) => self.journal.length += u64::from(entries),
            Step::Read(entries) => self.journal.read(entries.into(), self.now_ns),
            Step::Absorb => self.absorb(),
            Step::Send(batches) => self.send(u64::from(batches)),
            Step::Ack(batches) => self.ack(u64::from(batches), false),
            Step::Reconnect(batches) => self.ack(u64::from(batches), true),
            Step::Wait(ms) => self.now_ns += u64::from(ms) * 1_000_000,
        }
        self.now_ns += 1000;
    }

    /// Runs everything to its end, with a server that stores all it gets.
    fn finish(&mut self) {
        for panic in &self.panic_next {
            panic.store(false, Ordering::Relaxed);
        }
        for _ in 0..10_000 {
            self.now_ns += 2_000_000_000;
            self.journal.read(64, self.now_ns);
            let drained = self.drain.pass(self.now_ns);
            let taken = self.turn(0) + self.turn(1);
            self.absorb();
            self.ack(0, true);
            self.send(1 << 40);
            self.ack(1 << 40, false);
            let read = self.journal.next == self.journal.length && self.journal.stretches.is_settled();
            if drained + taken == 0 && self.window.batches() == 0 && read {
                return;
            }
        }
        panic!("something never settles: {:?}", self.journal.stretches);
    }

    /// Nothing before the kept position is missing, except what made shards panic.
    fn check_journal(&self, over: bool) -> Result<(), TestCaseError> {
        let kept = self.journal.kept;
        if over {
            prop_assert_eq!(kept, self.journal.length);
        }
        if self.panicked < u64::from(ATTEMPTS_MAX) {
            prop_assert_eq!(self.entries_acked.range(..kept).count() as u64, kept);
        }
        Ok(())
    }

    fn check(&self, over: bool) -> Result<(), TestCaseError> {
        self.check_journal(over)?;
        let row = self.ledger.source(Source::Ebpf);
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let sum = |counters: &[AtomicU64]| counters.iter().map(get).sum::<u64>();
        let (drained, enriched) = (get(&row.drained), get(&row.enriched));
        let in_ring = self.produced - self.ring_lost - drained;
        let in_queues: u64 = self.queues.iter().map(|queue| get(&queue.pushed) - get(&queue.popped)).sum();
        let open = drained - in_queues - enriched - sum(&*row.shed);
        let held = row.held.load(Ordering::Relaxed);
        prop_assert_eq!(
            enriched.cast_signed(),
            get(&row.acked).cast_signed() + held + sum(&*row.dropped).cast_signed()
        );
        if over {
            prop_assert_eq!((in_ring, in_queues, open, held), (0, 0, 0, 0));
            let stored: u64 = self.stored.iter().map(|(_, count)| count).sum();
            prop_assert_eq!(stored, get(&row.acked));
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Scenario: random schedules of producing, draining, turns, panics, absorbing, sending, acks and reconnects.
    /// Guarantees: no sum is ever negative, in the end every sum closes, and the server has exactly what was acked.
    /// No position of the journal is kept before everything in front of it is acked; in the end its last one is.
    #[test]
    fn the_ledger_closes(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check(false)?;
        }
        world.finish();
        world.check(true)?;
    }
}

/// Scenario: the threads run, one of two shards panics at one event, with events of both before and behind it.
/// Guarantees: it is replaced and counted; the other shard loses nothing, itself at most what it held; the ledger closes.
#[test]
fn a_panicking_shard_costs_the_others_nothing() {
    const EVENTS: u32 = 2000;
    let (bulk, producer) = ring(1 << 15);
    let (urgent, _urgent_producer) = ring(1 << 9);
    let settings = Settings { shards: 2, server: "127.0.0.1:1".into(), ..Settings::default() };
    let shared = Shared {
        live: Arc::new(Live::from_pointee(settings)),
        ledger: Arc::new(Ledger::default()),
        health: Arc::new(Health::default()),
    };
    // Two cgroups of different shards: the first of the other one after cgroup 2.
    let shard_of = |cgroup: u64| mix(cgroup) % 2;
    let other = (3..).find(|&cgroup| shard_of(cgroup) != shard_of(2)).unwrap_or(0);
    let seen = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let poison = u64::from(EVENTS / 2);
    let inspect = {
        let seen = Arc::clone(&seen);
        move || {
            let seen = Arc::clone(&seen);
            Show(Box::new(move |event: &Event<'_>| {
                assert_ne!(event.header().time_ns, poison, "injected");
                seen[usize::from(event.header().cgroup != 2)].fetch_add(1, Ordering::Relaxed);
            }))
        }
    };
    let engine = super::start(
        &shared,
        super::Parts {
            recorder: None,
            rings: Some(super::Rings {
                bulk: vec![(0, bulk)],
                urgent,
                awake: Box::new(|_| Box::new(NeverAwake)),
            }),
            collectors: Vec::new(),
            unavailable: &mut |_, _| {},
            hello: Hello::default(),
            entities: Box::new(|| EntityTable::new([7; 16], 64, Box::new(NoHost))),
            inspect: Box::new(inspect),
            explain: None,
            ledger_report: Box::new(|_| LedgerReport::default()),
        },
    )
    .expect("threads");
    for sequence in 0..EVENTS {
        let cgroup = if sequence % 2 == 0 { 2 } else { other };
        let at = producer.reserve(7).expect("a ring for all of them");
        producer.commit(at, &event(sequence.into(), cgroup, sequence, false), 0);
    }
    assert_eq!(engine.stop(Duration::from_millis(200)), super::Stopped::InOrder);
    let row = shared.ledger.source(Source::Ebpf);
    let shed = row.shed[Shed::WorkerPanic as usize].load(Ordering::Relaxed);
    let enriched = row.enriched.load(Ordering::Relaxed);
    assert_eq!(shared.health.workers_replaced.load(Ordering::Relaxed), 1);
    assert!(shared.health.last_panic().contains("injected"), "{}", shared.health.last_panic());
    assert_eq!(row.drained.load(Ordering::Relaxed), u64::from(EVENTS));
    assert_eq!(enriched + shed, u64::from(EVENTS));
    // Everything but the one event was seen, by the shard that panicked too: it went on.
    let [first, second] = [0, 1].map(|index| seen[index].load(Ordering::Relaxed));
    assert_eq!((first, second), (u64::from(EVENTS / 2) - 1, u64::from(EVENTS / 2)));
    assert!((1..=u64::from(EVENTS / 2)).contains(&shed), "{shed}");
    let dropped: u64 = row.dropped.iter().map(|count| count.load(Ordering::Relaxed)).sum();
    assert_eq!((row.held.load(Ordering::Relaxed), dropped), (0, enriched));
}

/// A tapio-server of this process that keeps nothing; it ends with the sender.
fn null_server() -> (std::net::SocketAddr, tokio::sync::oneshot::Sender<()>) {
    use crate::server::options::Options;
    use clap::Parser;
    let free = ["tapio-server", "--store=null", "--grpc-listen=127.0.0.1:0", "--http-listen=127.0.0.1:0"];
    let (address_out, address) = std::sync::mpsc::sync_channel(1);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let options = Options::parse_from(free);
            let server = crate::server::serve::Bound::new(&options).await.expect("free ports");
            address_out.send(server.grpc_address().expect("bound")).expect("somebody waits");
            let _ended = server.serve(async { drop(stopped.await) }).await;
        });
    });
    (address.recv_timeout(Duration::from_secs(30)).expect("it listens"), stop)
}

/// Scenario: egress panics whenever it is connected, with events on their way.
/// Guarantees: it is given up after the bound; the engine is broken and says so, its stop ends, and every event is
/// acked or counted as dropped.
#[test]
fn a_broken_egress_breaks_the_engine() {
    const EVENTS: u32 = 500;
    let (server, stop_server) = null_server();
    let (bulk, producer) = ring(1 << 15);
    let (urgent, _urgent_producer) = ring(1 << 9);
    let settings = Settings { server: server.to_string(), ..Settings::default() };
    let shared = Shared {
        live: Arc::new(Live::from_pointee(settings)),
        ledger: Arc::new(Ledger::default()),
        health: Arc::new(Health::default()),
    };
    let id = || bytes::Bytes::from_static(&[7; 16]);
    let engine = super::start(
        &shared,
        super::Parts {
            recorder: None,
            rings: Some(super::Rings {
                bulk: vec![(0, bulk)],
                urgent,
                awake: Box::new(|_| Box::new(NeverAwake)),
            }),
            collectors: Vec::new(),
            unavailable: &mut |_, _| {},
            hello: Hello { agent_id: id(), boot_id: id(), epoch: 1, ..Hello::default() },
            entities: Box::new(|| EntityTable::new([7; 16], 64, Box::new(NoHost))),
            inspect: Box::new(|| None::<Show>),
            explain: None,
            ledger_report: Box::new(|_| panic!("injected")),
        },
    )
    .expect("threads");
    for sequence in 0..EVENTS {
        let at = producer.reserve(7).expect("a ring for all of them");
        producer.commit(at, &event(sequence.into(), 2, sequence, false), 0);
    }
    for _ in 0..3000 {
        if engine.is_broken() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(engine.is_broken(), "{} panics", shared.health.workers_replaced.load(Ordering::Relaxed));
    assert_eq!(shared.health.workers_replaced.load(Ordering::Relaxed), u64::from(super::worker::PANICS_MAX));
    assert_eq!(engine.stop(Duration::from_secs(60)), super::Stopped::Broken);
    let row = shared.ledger.source(Source::Ebpf);
    let dropped: u64 = row.dropped.iter().map(|count| count.load(Ordering::Relaxed)).sum();
    assert_eq!(row.held.load(Ordering::Relaxed), 0);
    assert_eq!(row.enriched.load(Ordering::Relaxed), u64::from(EVENTS));
    assert_eq!(row.acked.load(Ordering::Relaxed) + dropped, u64::from(EVENTS));
    drop(stop_server);
}
