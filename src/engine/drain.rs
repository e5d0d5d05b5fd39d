//! Drain threads: empty the BPF rings and scatter the records over the shards.
//!
//! Idle, a thread sleeps in epoll and every record wakes it. Under load it sleeps on a timer and the
//! BPF programs do not wake it (the `awake` word says so), because a wake-up runs inside the observed
//! program and costs more than the record.
//!
//! Invariants:
//! - Records are read, scattered and counted; nothing else happens here.
//! - A full queue holds a ring back at most [`BLOCKED_MAX`]; then its events are shed, counted, so that one
//!   stuck shard cannot make the others lose.
//! - The urgent ring is read before each bulk ring.

use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::thread::Thread;
use std::time::Duration;

use rustix::event::{Timespec, epoll};

use super::queue::{Full, WordSender};
use super::worker::Worker;
use super::{Lane, Live};
use crate::clock;
use crate::config::Latency;
use crate::event::{HEADER_WORDS, Header, Source, mix, trace_key};
use crate::ledger::{Ledger, Shed};
use crate::sys::Ring;

/// A full queue may hold its ring back this long.
pub const BLOCKED_MAX: Duration = Duration::from_millis(100);

/// When to change between waking up for every record and the timer.
///
/// A wake-up for each record gives it to its batch within some 20 us and costs about 15 us of the agent's CPU, besides
/// what it costs the observed program. The timer costs about 1 % of a core whatever the rate.
#[derive(Debug, Clone, Copy)]
struct Switch {
    /// Events a second above which the timer takes over.
    timer_above: u64,
    /// Events a second below which it gives back.
    epoll_below: u64,
}

impl Switch {
    const fn of(latency: Latency) -> Self {
        match latency {
            Latency::Normal => Self { timer_above: 1000, epoll_below: 500 },
            Latency::Low => Self { timer_above: 15_000, epoll_below: 12_000 },
        }
    }
}

/// The timer's interval for each [`Latency`]: half of it is the median age of a record when it is read.
const TIMER_NORMAL: Duration = Duration::from_micros(800);

/// The interval below [`BUSY_ABOVE`] events a second: fewer passes, the median age still below a millisecond.
const TIMER_MODERATE: Duration = Duration::from_micros(1600);
const BUSY_ABOVE: u64 = 500_000;
const TIMER_LOW: Duration = Duration::from_micros(100);

/// The kernel may add this much to a sleep; its default of 50 us would be half of the short interval.
const TIMER_SLACK_NS: u64 = 5_000;

/// The rate is judged over at least this long: soon when it may be too high to wake up for each record, later when
/// it may have become low enough, so that a pause in a burst changes nothing.
const WINDOW_NS: u64 = 10_000_000;
const TIMER_WINDOW_NS: u64 = 100_000_000;

/// Longest sleep: bounds what a lost wake-up can cost.
const IDLE_WAIT: Duration = Duration::from_millis(100);

/// The first sleep after wake-ups were asked for again. A program that read `awake` just before it was
/// cleared submits without a wake-up; its record waits this long at most.
const FIRST_IDLE_WAIT: Duration = Duration::from_millis(1);

/// Sleep while a queue is full.
const BLOCKED_WAIT: Duration = Duration::from_micros(50);

/// The words that tell the BPF programs of each CPU whether its reader polls on a timer.
pub trait Awake: Send {
    /// While true, bulk records of this thread's CPUs wake nobody.
    fn set(&self, awake: bool);
}

/// The queues to one shard.
#[derive(Debug)]
pub struct ShardPort {
    /// By [`Lane`].
    pub lanes: [WordSender; 2],
    /// Woken after a pass.
    pub thread: Thread,
}

/// Everything a drain thread is made of.
pub struct Parts {
    /// The rings of its CPUs.
    pub bulk: Vec<Ring>,
    /// The ring of all CPUs, in one of the drain threads.
    pub urgent: Option<Ring>,
    /// The shards.
    pub ports: Vec<ShardPort>,
    /// How its CPUs learn whether to wake it.
    pub awake: Box<dyn Awake>,
    /// The counters.
    pub ledger: Arc<Ledger>,
    /// The settings that may change.
    pub live: Arc<Live>,
    /// What it hears and says.
    pub signals: Signals,
}

/// What drain threads share with the rest of the agent.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// No program produces any more: empty the rings and end.
    pub stop: Arc<AtomicBool>,
    /// Highest fill of a bulk ring since it was last read out, per mille.
    pub fill_permille: Arc<AtomicU64>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// A drain thread.
pub struct Drain {
    parts: Parts,
    scatter: Scatter,
    /// All rings; and the urgent ring only, for the timer.
    idle_set: rustix::fd::OwnedFd,
    timer_set: rustix::fd::OwnedFd,
    timer: bool,
    /// Events a second in the last window.
    rate: u64,
    window: Window,
    /// Events counted in the ledger.
    counted: u64,
}

impl std::fmt::Debug for Drain {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Drain").finish_non_exhaustive()
    }
}

/// The shards, and what was done with the records.
struct Scatter {
    ports: Vec<Port>,
    drained: u64,
    malformed: u64,
    settled_malformed: u64,
    in_hand: bool,
}

struct Port {
    port: ShardPort,
    /// When its queue refused first, and whether its events are shed since.
    blocked_since_ns: u64,
    shedding: bool,
    shed: u64,
}

struct Window {
    since_ns: u64,
    events: u64,
}

// === impl Drain ===

impl Drain {
    /// A drain thread's state.
    ///
    /// # Errors
    /// When epoll cannot watch the rings.
    pub fn new(mut parts: Parts) -> std::io::Result<Self> {
        let idle_set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer_set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(0);
        for ring in parts.bulk.iter().chain(&parts.urgent) {
            epoll::add(&idle_set, ring.as_fd(), data, epoll::EventFlags::IN)?;
        }
        if let Some(ring) = &parts.urgent {
            epoll::add(&timer_set, ring.as_fd(), data, epoll::EventFlags::IN)?;
        }
        let ports = std::mem::take(&mut parts.ports);
        let scatter = Scatter {
            ports: ports.into_iter().map(Port::new).collect(),
            drained: 0,
            malformed: 0,
            settled_malformed: 0,
            in_hand: false,
        };
        let window = Window { since_ns: clock::boot_ns(), events: 0 };
        Ok(Self { parts, scatter, idle_set, timer_set, timer: false, rate: 0, window, counted: 0 })
    }

    /// Reads every ring once, the urgent one before each other; returns the number of records taken.
    pub fn pass(&mut self, now_ns: u64) -> u64 {
        let before = self.scatter.drained;
        for index in 0..self.parts.bulk.len() {
            self.pass_urgent(now_ns);
            let ring = &mut self.parts.bulk[index];
            let fill = ring.fill() * 1000 / ring.capacity();
            self.parts.signals.fill_permille.fetch_max(fill, Ordering::Relaxed);
            let scatter = &mut self.scatter;
            let pass = ring.drain(|words| scatter.take(words, Lane::Bulk, now_ns));
            self.scatter.oversized(pass.oversized);
        }
        self.pass_urgent(now_ns);
        self.publish();
        self.scatter.drained - before
    }

    fn pass_urgent(&mut self, now_ns: u64) {
        let Some(ring) = &mut self.parts.urgent else { return };
        let scatter = &mut self.scatter;
        let pass = ring.drain(|words| scatter.take(words, Lane::Urgent, now_ns));
        self.scatter.oversized(pass.oversized);
    }

    /// Brings the ledger up to date and wakes the shards that got something.
    fn publish(&mut self) {
        let ledger = self.parts.ledger.source(Source::Ebpf);
        for port in &mut self.scatter.ports {
            port.publish(ledger);
        }
        let malformed = self.scatter.malformed - self.scatter.settled_malformed;
        if malformed > 0 {
            ledger.shed(Shed::Malformed, malformed);
            self.scatter.settled_malformed = self.scatter.malformed;
        }
        ledger.drained.fetch_add(self.scatter.drained - self.counted, Ordering::Relaxed);
        self.counted = self.scatter.drained;
    }

    /// Sleeps until there may be more to read.
    fn wait(&mut self, now_ns: u64, taken: u64) {
        self.window.events += taken;
        let span = now_ns.saturating_sub(self.window.since_ns);
        if span >= if self.timer { TIMER_WINDOW_NS } else { WINDOW_NS } {
            let rate = self.window.events.saturating_mul(1_000_000_000) / span;
            self.rate = rate;
            self.window = Window { since_ns: now_ns, events: 0 };
            let switch = Switch::of(self.parts.live.load().latency);
            if !self.timer && rate > switch.timer_above {
                self.set_timer(true);
            } else if self.timer && rate < switch.epoll_below {
                self.set_timer(false);
                // Records submitted without a wake-up before the word was cleared are still there.
                return self.sleep(FIRST_IDLE_WAIT);
            }
        }
        if self.scatter.is_blocked() {
            std::thread::sleep(BLOCKED_WAIT);
        } else if self.timer {
            // From the start of the pass: the work is part of the interval.
            let spent = Duration::from_nanos(clock::boot_ns().saturating_sub(now_ns));
            self.sleep(self.interval().saturating_sub(spent));
        } else if taken == 0 {
            // Pairs with the kernel's barrier at submit: either it sees our position and wakes us, or
            // we see its record here.
            fence(Ordering::SeqCst);
            if self.is_empty() {
                self.sleep(IDLE_WAIT);
            }
        }
    }

    fn set_timer(&mut self, timer: bool) {
        self.timer = timer;
        self.parts.awake.set(timer);
        // Before the next look at the rings: a program either sees the word cleared and wakes us, or
        // its record is seen by that look.
        fence(Ordering::SeqCst);
    }

    /// The timer's interval: shorter when the last one let a ring fill by more than an eighth.
    fn interval(&self) -> Duration {
        let interval = match self.parts.live.load().latency {
            Latency::Normal if self.rate < BUSY_ABOVE => TIMER_MODERATE,
            Latency::Normal => TIMER_NORMAL,
            Latency::Low => TIMER_LOW,
        };
        let filled = self.parts.bulk.iter().any(|ring| ring.fill() > ring.capacity() / 8);
        if filled { interval / 8 } else { interval }
    }

    fn sleep(&self, longest: Duration) {
        let set = if self.timer { &self.timer_set } else { &self.idle_set };
        let timeout = Timespec {
            tv_sec: i64::try_from(longest.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(longest.subsec_nanos()),
        };
        let mut ready = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 4];
        // An interrupted or failed wait costs one early pass.
        let _early = epoll::wait(set, &mut ready, Some(&timeout));
    }

    fn is_empty(&self) -> bool {
        self.parts.bulk.iter().chain(&self.parts.urgent).all(|ring| ring.fill() == 0)
    }
}

impl Worker for Drain {
    fn run(&mut self) {
        if let Err(error) = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(TIMER_SLACK_NS))
        {
            tracing::debug!("the timer keeps its default slack: {error}");
        }
        loop {
            let stop = self.parts.signals.stop.load(Ordering::Acquire);
            let now_ns = clock::boot_ns();
            let taken = self.pass(now_ns);
            if stop && self.is_empty() {
                self.scatter.leave();
                return;
            }
            self.wait(now_ns, taken);
        }
    }

    fn recover(&mut self) {
        if std::mem::take(&mut self.scatter.in_hand) {
            self.parts.ledger.source(Source::Ebpf).shed(Shed::WorkerPanic, 1);
        }
        self.publish();
    }
}

// === impl Scatter ===

impl Scatter {
    /// Puts one record into the queue of its shard; breaks when that is full and may still empty.
    #[inline]
    fn take(&mut self, words: &[u64], lane: Lane, now_ns: u64) -> ControlFlow<()> {
        self.in_hand = true;
        self.drained += 1;
        let flow = self.place(words, lane, now_ns);
        if flow.is_break() {
            self.drained -= 1;
        }
        self.in_hand = false;
        flow
    }

    #[inline]
    fn place(&mut self, words: &[u64], lane: Lane, now_ns: u64) -> ControlFlow<()> {
        let header = match zerocopy::FromBytes::ref_from_prefix(zerocopy::IntoBytes::as_bytes(words)) {
            Ok((header, _)) => header,
            Err(_) => return self.reject(),
        };
        let header: &Header = header;
        if usize::from(header.words) != words.len() || words.len() < HEADER_WORDS {
            return self.reject();
        }
        let count = self.ports.len() as u64;
        let shard = if count <= 1 { 0 } else { mix(trace_key(header)) % count };
        let Some(port) = usize::try_from(shard).ok().and_then(|shard| self.ports.get_mut(shard)) else {
            return self.reject();
        };
        match port.port.lanes[lane as usize].push(words) {
            Ok(()) => ControlFlow::Continue(()),
            Err(Full) => port.refused(now_ns),
        }
    }

    fn reject(&mut self) -> ControlFlow<()> {
        self.malformed += 1;
        ControlFlow::Continue(())
    }

    /// Lets go of the queues' ends, and wakes the shards to see that this was all.
    fn leave(&mut self) {
        for port in self.ports.drain(..) {
            let thread = port.port.thread.clone();
            drop(port);
            thread.unpark();
        }
    }

    /// Counts records that are too long to be events.
    fn oversized(&mut self, records: u64) {
        self.drained += records;
        self.malformed += records;
    }

    fn is_blocked(&self) -> bool {
        self.ports.iter().any(|port| port.blocked_since_ns != 0 && !port.shedding)
    }
}

impl Port {
    fn new(port: ShardPort) -> Self {
        Self { port, blocked_since_ns: 0, shedding: false, shed: 0 }
    }

    #[cold]
    fn refused(&mut self, now_ns: u64) -> ControlFlow<()> {
        if self.blocked_since_ns == 0 {
            self.blocked_since_ns = now_ns;
        }
        let blocked = Duration::from_nanos(now_ns.saturating_sub(self.blocked_since_ns));
        if blocked < BLOCKED_MAX {
            return ControlFlow::Break(());
        }
        self.shedding = true;
        self.shed += 1;
        ControlFlow::Continue(())
    }

    fn publish(&mut self, ledger: &crate::ledger::SourceLedger) {
        let mut pushed = false;
        for lane in &mut self.port.lanes {
            pushed |= lane.publish();
        }
        if pushed {
            // Something fitted: the shard lives.
            self.blocked_since_ns = 0;
            self.shedding = false;
        }
        if pushed || self.blocked_since_ns != 0 {
            self.port.thread.unpark();
        }
        let shed = std::mem::take(&mut self.shed);
        if shed > 0 {
            ledger.shed(Shed::QueueFull, shed);
        }
    }
}
