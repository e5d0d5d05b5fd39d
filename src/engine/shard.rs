//! A shard: takes events from its queues, gives each its entity, and fills batches.
//!
//! All events of one entity come to one shard, so its state needs no lock.
//!
//! Invariants:
//! - An event that came out of a queue is enriched or shed, and counted so once its batch is sealed.
//! - Events of the urgent queues go into batches of their own, which no other event can displace.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::Notify;

use super::queue::{BatchSender, WordReceiver};
use super::worker::Worker;
use super::{Lane, Live};
use crate::clock;
use crate::egress::batch::{BatchBuilder, Sealed, Sequences};
use crate::egress::window::Settled;
use crate::entity::{Entity, EntityStats, EntityTable};
use crate::event::{COARSE_TIME, Event, KINDS, Source, is_before_boot};
use crate::ledger::{Dropped, Ledger, Shed};

/// Words taken from one queue before the next gets its turn: 64 KiB, which stays in the cache.
const TURN_WORDS: usize = 8 << 10;

/// An urgent event waits this long in a batch at most.
const URGENT_FLUSH: Duration = Duration::from_millis(10);

/// Housekeeping (expiry, statistics) runs this often.
const HOUSEKEEPING_NS: u64 = 1_000_000_000;

/// Steps of expiry in one housekeeping: a full table is swept within a minute.
const EXPIRE_STEPS: usize = 8;

/// Under load a batch is not sent as soon as it has `buffer_size` events, but gathers for this long: each batch
/// costs system calls and wake-ups on both sides, measured at 56 us in the agent for one of 800 events.
const GATHER: Duration = Duration::from_millis(4);

/// The kinds that bring their own sequence number, as a bit set by number.
const NUMBERED: u128 = {
    let mut set = 0;
    let mut index = 0;
    while index < KINDS.len() {
        if KINDS[index].is_numbered() {
            set |= 1 << KINDS[index].kind as u32;
        }
        index += 1;
    }
    set
};

/// One event in this many has its latency recorded; in a short turn, every one.
const SAMPLE: u64 = 16;
const SHORT_TURN: usize = 64;

/// What a shard tells others, once a second.
#[derive(Debug)]
pub struct ShardReport {
    /// Nanoseconds from an event's time to its place in a batch.
    pub latency_ns: Histogram<u64>,
    /// The entity table.
    pub entities: EntityStats,
}

/// A histogram from 100 ns to a minute with 1 % resolution.
#[must_use]
#[expect(clippy::expect_used, reason = "it fails only for bounds that these constants are not")]
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(100, 60_000_000_000, 2).expect("valid bounds")
}

/// A queue to a shard.
#[derive(Debug)]
pub struct Input {
    /// Whose events it carries.
    pub source: Source,
    /// Which of them.
    pub lane: Lane,
    /// The queue.
    pub receiver: WordReceiver,
}

impl ShardReport {
    /// The report of a shard that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { latency_ns: latency_histogram(), entities: EntityStats::default() }
    }
}

impl Default for ShardReport {
    fn default() -> Self {
        Self::new()
    }
}

/// Where sealed batches go.
#[derive(Debug)]
pub struct Output {
    /// By [`Lane`].
    pub lanes: [BatchSender<Sealed>; 2],
    /// Wakes egress.
    pub wake: Arc<Notify>,
}

/// What sees the events of a shard after their owners are known.
pub trait Inspect: Send + 'static {
    /// The kinds of events that it wants to see, as a bit set by number.
    fn kinds(&self) -> u128;

    /// Sees one event, its owner, and its full sequence number.
    fn event(&mut self, event: &Event<'_>, owner: &Entity, sequence: u64);

    /// Called about once a second, and once more at the end.
    fn tick(&mut self, now_ns: u64);
}

/// None sees nothing.
impl<I: Inspect> Inspect for Option<I> {
    fn kinds(&self) -> u128 {
        self.as_ref().map_or(0, I::kinds)
    }

    fn event(&mut self, event: &Event<'_>, owner: &Entity, sequence: u64) {
        if let Some(inspect) = self {
            inspect.event(event, owner, sequence);
        }
    }

    fn tick(&mut self, now_ns: u64) {
        if let Some(inspect) = self {
            inspect.tick(now_ns);
        }
    }
}

/// Everything a shard is made of.
pub struct Parts<I> {
    /// Its number.
    pub number: u32,
    /// Added to the counters of producers; the same for all shards.
    pub sequence_base: u64,
    /// The queues to it.
    pub inputs: Vec<Input>,
    /// Who the events are about.
    pub entities: EntityTable,
    /// Where batches go.
    pub output: Output,
    /// The counters.
    pub ledger: Arc<Ledger>,
    /// The settings that may change.
    pub live: Arc<Live>,
    /// Read by status and metrics.
    pub report: Arc<Mutex<ShardReport>>,
    /// Sees the events that it wants.
    pub inspect: I,
}

impl<I> std::fmt::Debug for Parts<I> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// A shard.
pub struct Shard<I> {
    inputs: Vec<Input>,
    state: State<I>,
}

impl<I> std::fmt::Debug for Shard<I> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shard").finish_non_exhaustive()
    }
}

struct State<I> {
    entities: EntityTable,
    output: Output,
    ledger: Arc<Ledger>,
    live: Arc<Live>,
    report: Arc<Mutex<ShardReport>>,
    inspect: I,
    /// The kinds that `inspect` wants to see.
    wanted: u128,
    /// By [`Lane`].
    open: [OpenBatch; 2],
    sequences: Sequences,
    /// By source: events that came out of a queue, and those of them counted as enriched or shed.
    popped: [u64; Source::ALL.len()],
    settled: [u64; Source::ALL.len()],
    /// Times of the first events of the turn, and of one in [`SAMPLE`] of all.
    first: Vec<u64>,
    sampled: Vec<u64>,
    latency: Histogram<u64>,
    boot_unix_ns: u64,
    housekeeping_due_ns: u64,
}

struct OpenBatch {
    builder: BatchBuilder,
    since_ns: u64,
}

// === impl Shard ===

impl<I: Inspect> Shard<I> {
    /// A shard that has seen nothing.
    pub fn new(parts: Parts<I>) -> Self {
        let open = [Lane::Bulk, Lane::Urgent].map(|lane| OpenBatch {
            builder: BatchBuilder::new(parts.number, matches!(lane, Lane::Urgent)),
            since_ns: 0,
        });
        let state = State {
            entities: parts.entities,
            output: parts.output,
            ledger: parts.ledger,
            live: parts.live,
            report: parts.report,
            wanted: parts.inspect.kinds(),
            inspect: parts.inspect,
            open,
            sequences: Sequences::new(parts.sequence_base),
            popped: [0; Source::ALL.len()],
            settled: [0; Source::ALL.len()],
            first: Vec::with_capacity(SHORT_TURN + 1),
            sampled: Vec::with_capacity(TURN_WORDS),
            latency: latency_histogram(),
            boot_unix_ns: clock::boot_unix_ns(),
            housekeeping_due_ns: 0,
        };
        Self { inputs: parts.inputs, state }
    }

    /// Takes a turn at every queue, urgent ones first; returns the number of events taken.
    pub fn turn(&mut self) -> u64 {
        let Self { inputs, state } = self;
        let mut taken = 0;
        for lane in [Lane::Urgent, Lane::Bulk] {
            for input in inputs.iter_mut().filter(|input| input.lane == lane) {
                let source = input.source;
                taken += input.receiver.drain(TURN_WORDS, |words| state.event(words, source, lane));
                state.record_latency();
            }
        }
        taken
    }

    /// Sends what is due, keeps house, and says how long nothing else is due.
    pub fn tend(&mut self, now_ns: u64) -> Duration {
        self.state.tend(now_ns)
    }

    /// Every queue is empty and will stay so.
    fn is_over(&self) -> bool {
        self.inputs.iter().all(|input| input.receiver.is_abandoned() && input.receiver.is_empty())
    }
}

impl<I: Inspect> Worker for Shard<I> {
    fn run(&mut self) {
        loop {
            // Asked before the turn: what was pushed before the sender left is then seen by the turn.
            let over = self.is_over();
            let taken = self.turn();
            let wait = self.tend(clock::boot_ns());
            if taken == 0 {
                if over {
                    self.state.finish();
                    return;
                }
                std::thread::park_timeout(wait);
            }
        }
    }

    fn recover(&mut self) {
        self.state.recover();
    }
}

// === impl State ===

impl<I: Inspect> State<I> {
    #[inline]
    fn event(&mut self, words: &[u64], source: Source, lane: Lane) {
        self.popped[source as usize] += 1;
        let Ok(event) = Event::parse(words) else {
            self.shed(source, Shed::Malformed, 1);
            return;
        };
        let header = event.header();
        self.entities.observe(&event);
        let entity = self.entities.resolve(header);
        let sequence = if NUMBERED >> (header.kind & 127) & 1 == 0 {
            self.sequences.extend(header.source, header.producer, header.sequence)
        } else {
            event.slots()[0]
        };
        // What happened in another boot says nothing about what there is in this one.
        if self.wanted >> (header.kind & 127) & 1 != 0 && !is_before_boot(header.time_ns) {
            self.inspect.event(&event, self.entities.get(entity), sequence);
        }
        let index = lane as usize;
        if self.open[index].builder.push(&event, sequence, entity, &self.entities).is_err() {
            self.seal(lane);
            let pushed = self.open[index].builder.push(&event, sequence, entity, &self.entities);
            // An empty batch takes any event: its base is the event's own time, its bound one maximal event.
            debug_assert!(pushed.is_ok());
        }
        // How long ago something happened that was not read at once is no latency.
        if header.flags & COARSE_TIME != 0 {
            return;
        }
        if self.first.len() <= SHORT_TURN {
            self.first.push(header.time_ns);
        }
        if self.popped[source as usize].is_multiple_of(SAMPLE) {
            self.sampled.push(header.time_ns);
        }
    }

    fn record_latency(&mut self) {
        if self.first.is_empty() {
            return;
        }
        let now = clock::boot_ns();
        // The first events of a turn are its oldest: in a long one they would weigh too much.
        let times = if self.first.len() > SHORT_TURN { &self.sampled } else { &self.first };
        for time_ns in times {
            self.latency.saturating_record(now.saturating_sub(*time_ns).max(1));
        }
        self.first.clear();
        self.sampled.clear();
    }

    fn shed(&mut self, source: Source, reason: Shed, events: u64) {
        self.settled[source as usize] += events;
        self.ledger.source(source).shed(reason, events);
    }

    /// Sends the open batch of a lane, if it has events.
    fn seal(&mut self, lane: Lane) {
        let open = &mut self.open[lane as usize];
        open.since_ns = 0;
        let Some(sealed) = open.builder.seal(self.boot_unix_ns) else { return };
        for (source, &count) in Source::ALL.iter().zip(&sealed.counts) {
            self.settled[*source as usize] += u64::from(count);
            let ledger = self.ledger.source(*source);
            ledger.enriched.fetch_add(u64::from(count), Ordering::Relaxed);
            // Before the push: egress subtracts what it settles, maybe at once.
            ledger.held.fetch_add(i64::from(count), Ordering::Relaxed);
        }
        if let Err(refused) = self.output.lanes[lane as usize].push(sealed) {
            Settled::from(&refused).count_dropped(&self.ledger, Dropped::EgressQueueFull);
        }
        self.output.wake.notify_one();
    }

    fn tend(&mut self, now_ns: u64) -> Duration {
        let settings = self.live.load();
        let mut wait = Duration::from_nanos(HOUSEKEEPING_NS);
        for lane in [Lane::Urgent, Lane::Bulk] {
            let open = &mut self.open[lane as usize];
            if open.builder.is_empty() {
                continue;
            }
            if open.since_ns == 0 {
                open.since_ns = now_ns;
            }
            let longest = match lane {
                Lane::Urgent => settings.flush_interval.min(URGENT_FLUSH),
                Lane::Bulk => settings.flush_interval,
            };
            let longest =
                if open.builder.len() >= settings.buffer_size { longest.min(GATHER) } else { longest };
            let age = Duration::from_nanos(now_ns.saturating_sub(open.since_ns));
            if age >= longest {
                self.seal(lane);
            } else {
                wait = wait.min(longest - age);
            }
        }
        if now_ns >= self.housekeeping_due_ns {
            self.housekeeping_due_ns = now_ns + HOUSEKEEPING_NS;
            self.keep_house(now_ns);
        }
        wait
    }

    fn keep_house(&mut self, now_ns: u64) {
        self.inspect.tick(now_ns);
        self.boot_unix_ns = clock::boot_unix_ns();
        for _ in 0..EXPIRE_STEPS {
            self.entities.expire(now_ns);
        }
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        if report.latency_ns.add(&self.latency).is_ok() {
            self.latency.reset();
        }
        report.entities = self.entities.stats();
    }

    fn finish(&mut self) {
        self.seal(Lane::Urgent);
        self.seal(Lane::Bulk);
        self.keep_house(clock::boot_ns());
    }

    /// After a panic the open batches may be half written: their events and the one in hand are shed.
    fn recover(&mut self) {
        for open in &mut self.open {
            let urgent = open.builder.is_urgent();
            *open = OpenBatch { builder: BatchBuilder::new(open.builder.shard(), urgent), since_ns: 0 };
        }
        for source in Source::ALL {
            let lost = self.popped[source as usize] - self.settled[source as usize];
            self.shed(source, Shed::WorkerPanic, lost);
        }
    }
}
