//! The thread that makes incidents: what detectors want to see comes from the shards, revisions go to all who asked.
//!
//! Events of several CPUs and sources arrive out of order, by milliseconds. They are held for [`HOLD`] and shown in
//! the order of their times, so that a recording of them, read in that order, gives the same facts.
//!
//! Invariants:
//! - Shards never wait for this thread: what does not fit its queues is counted, and becomes a gap in the evidence.
//! - The work of one turn is bounded, so that outputs and the stop get theirs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, UNIX_EPOCH};

use super::outputs::Outputs;
use crate::clock;
use crate::detect::{self, EventId, Hindsight, Shown};
use crate::engine::queue::{BatchReceiver, BatchSender, batches};
use crate::engine::shard::Inspect;
use crate::engine::worker::Worker;
use crate::entity::Entity;
use crate::event::{Event, Source};
use crate::explain::{Bounds, Explain, ExplainStats, Incident, RuleSet};
use crate::ledger::Ledger;

/// Events between a shard and this thread.
const QUEUE_MAX: usize = 8192;

/// How long an event waits for earlier ones.
const HOLD: Duration = Duration::from_millis(40);

/// Events that are held; more, and the oldest go on at once.
const HELD_MAX: usize = 65_536;

/// Verdicts are looked at this often while facts come.
const SETTLE_NS: u64 = 20_000_000;

/// Housekeeping, trends and gaps.
const TICK_NS: u64 = 1_000_000_000;

/// Events taken from a queue in one turn.
const TURN_MAX: usize = 4096;

/// What shards and this thread share.
#[derive(Debug, Default)]
struct Common {
    thread: OnceLock<Thread>,
    asleep: AtomicBool,
    /// By source: events that found the queue full.
    missed: [AtomicU64; Source::ALL.len()],
    inputs: Mutex<Vec<BatchReceiver<Shown>>>,
}

/// Passes on what detectors want to see.
#[derive(Debug)]
pub(super) struct Watch {
    queue: BatchSender<Shown>,
    common: Arc<Common>,
}

impl Inspect for Watch {
    fn kinds(&self) -> u128 {
        detect::WATCHED
    }

    fn event(&mut self, event: &Event<'_>, owner: &Entity, sequence: u64) {
        if !detect::is_watched(event) {
            return;
        }
        let shown = Shown { words: event.words().into(), owner: owner.clone(), sequence };
        if self.queue.push(shown).is_err() {
            let source = usize::from(event.header().source);
            if let Some(missed) = self.common.missed.get(source) {
                missed.fetch_add(1, Ordering::Relaxed);
            }
        }
        // Pairs with the store before the last look at the queues: either it is seen there, or the thread is woken.
        if self.common.asleep.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.common.thread.get()
        {
            thread.unpark();
        }
    }

    fn tick(&mut self, _now_ns: u64) {}
}

/// Makes the two ends: what every shard gets, and the thread's worker.
#[derive(Debug, Default)]
pub(super) struct Watches(Arc<Common>);

impl Watches {
    /// What one more shard gets.
    #[must_use]
    pub(super) fn for_shard(&self) -> Watch {
        let (queue, input) = batches(QUEUE_MAX);
        locked(&self.0.inputs).push(input);
        Watch { queue, common: Arc::clone(&self.0) }
    }

    /// The worker, once every shard has what it gets.
    #[must_use]
    pub(super) fn worker(
        &self,
        host: &Host,
        rules: Arc<RuleSet>,
        ledger: Arc<Ledger>,
        outputs: Outputs,
    ) -> Explainer {
        Explainer {
            common: Arc::clone(&self.0),
            inputs: std::mem::take(&mut locked(&self.0.inputs)),
            engine: Engine::new(host, Arc::clone(&rules)),
            rules,
            host: host.clone(),
            ledger,
            outputs,
            held: BinaryHeap::new(),
            lost: [0; Source::ALL.len()],
            settle_due_ns: 0,
            tick_due_ns: 0,
            ticked_ns: [clock::boot_ns(); 2],
            said_full: false,
        }
    }
}

/// A time of an incident, Unix nanoseconds.
fn unix_ns(time: &str) -> u64 {
    let since = humantime::parse_rfc3339(time).ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Only whole values are put in and taken out.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whose incidents they are.
#[derive(Debug, Clone)]
pub(super) struct Host {
    /// Names this boot.
    pub(super) boot_id: [u8; 16],
    /// Its name.
    pub(super) name: String,
}

/// Detectors and causal engine.
#[derive(Debug)]
struct Engine {
    detectors: Hindsight,
    explain: Explain,
    /// Unix nanoseconds at boot, when it began.
    boot_unix_ns: u64,
    revisions: Vec<Incident>,
}

impl Engine {
    fn new(host: &Host, rules: Arc<RuleSet>) -> Self {
        Self {
            detectors: Hindsight::new(&host.name),
            explain: Explain::new(host.boot_id, rules, Bounds::default()),
            boot_unix_ns: clock::boot_unix_ns(),
            revisions: Vec::new(),
        }
    }

    fn take_news(&mut self) {
        self.explain.take(self.detectors.news());
    }
}

/// An event that is held, in the order of times, then of names.
#[derive(Debug)]
struct Held {
    order: (u64, EventId),
    shown: Shown,
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

/// The thread's state.
#[derive(Debug)]
pub(super) struct Explainer {
    common: Arc<Common>,
    inputs: Vec<BatchReceiver<Shown>>,
    engine: Engine,
    rules: Arc<RuleSet>,
    host: Host,
    ledger: Arc<Ledger>,
    outputs: Outputs,
    held: BinaryHeap<Reverse<Held>>,
    /// By source: what was lost when it was last looked at.
    lost: [u64; Source::ALL.len()],
    settle_due_ns: u64,
    tick_due_ns: u64,
    /// The last two looks at what was lost.
    ticked_ns: [u64; 2],
    /// That there are too many incidents has been said.
    said_full: bool,
}

impl Worker for Explainer {
    fn run(&mut self) {
        // A panic starts this again; the thread is the same.
        let _again = self.common.thread.set(std::thread::current());
        loop {
            // Asked before the turn: what was pushed before a shard left is then taken by it.
            let over = self.inputs.iter().all(BatchReceiver::is_over);
            let taken = self.take();
            let now_ns = clock::boot_ns();
            self.release(now_ns, over);
            self.tick(now_ns);
            if over && taken == 0 {
                self.settle(now_ns);
                return;
            }
            if now_ns >= self.settle_due_ns && self.engine.explain.is_dirty() {
                self.settle(now_ns);
            }
            if taken == 0 {
                self.sleep(now_ns);
            }
        }
    }

    fn recover(&mut self) {
        // Half a judgement is worth nothing: begin anew, and say what was forgotten.
        self.engine = Engine::new(&self.host, Arc::clone(&self.rules));
        let now_ns = clock::boot_ns();
        for source in Source::ALL {
            let gap = detect::ledger_gap(source, &self.host.name, (0, now_ns), 0, "restarted");
            self.engine.explain.insert(gap);
        }
    }
}

impl Explainer {
    /// Takes what the shards passed on; returns how much.
    fn take(&mut self) -> usize {
        let mut taken = 0;
        for input in &mut self.inputs {
            for _ in 0..TURN_MAX {
                let Some(shown) = input.pop() else { break };
                taken += 1;
                // It was an event when the shard took it.
                if let Some(order) = shown.order() {
                    self.held.push(Reverse(Held { order, shown }));
                }
            }
        }
        taken
    }

    /// Shows the detectors what has been held for long enough, or everything.
    fn release(&mut self, now_ns: u64, everything: bool) {
        let until_ns = now_ns.saturating_sub(u64::try_from(HOLD.as_nanos()).unwrap_or(0));
        while let Some(Reverse(first)) = self.held.peek() {
            if !everything && first.order.0 > until_ns && self.held.len() <= HELD_MAX {
                break;
            }
            if let Some(Reverse(held)) = self.held.pop() {
                self.engine.detectors.event(held.shown);
            }
        }
        self.engine.take_news();
    }

    fn tick(&mut self, now_ns: u64) {
        if now_ns < self.tick_due_ns {
            return;
        }
        self.tick_due_ns = now_ns + TICK_NS;
        if let Some(rules) = self.outputs.new_rules() {
            self.rules = Arc::clone(&rules);
            self.engine.explain.set_rules(rules);
        }
        let until_ns = now_ns.saturating_sub(u64::try_from(HOLD.as_nanos()).unwrap_or(0));
        self.engine.detectors.tick(until_ns);
        self.engine.take_news();
        self.note_losses(now_ns);
        self.settle(now_ns);
        let stats = self.stats();
        if stats.explain.refused > 0 && !std::mem::replace(&mut self.said_full, true) {
            tracing::warn!("{}", too_many(&stats.explain));
        }
        self.outputs.note(stats);
    }

    /// What was counted as lost since the last look is a gap in the evidence. It may have been lost before that look: where
    /// all threads were held, who counts may go on later than this one.
    fn note_losses(&mut self, now_ns: u64) {
        let [since_ns, last_ns] = self.ticked_ns;
        self.ticked_ns = [last_ns, now_ns];
        for (source, known) in Source::ALL.into_iter().zip(&mut self.lost) {
            let row = self.ledger.source(source);
            let shed: u64 = row.shed.iter().map(|count| count.load(Ordering::Relaxed)).sum();
            let missed = self.common.missed[source as usize].load(Ordering::Relaxed);
            let lost = row.ring_lost.load(Ordering::Relaxed) + shed + missed;
            let new = lost.saturating_sub(std::mem::replace(known, lost));
            if new > 0 {
                let gap = detect::ledger_gap(source, &self.host.name, (since_ns, now_ns), new, "lost");
                self.engine.explain.insert(gap);
            }
        }
    }

    fn settle(&mut self, now_ns: u64) {
        self.settle_due_ns = now_ns + SETTLE_NS;
        let Engine { explain, revisions, boot_unix_ns, .. } = &mut self.engine;
        explain.settle(now_ns, *boot_unix_ns, revisions);
        for revision in revisions.drain(..) {
            let since_ns = explain.wall().boot_ns(*boot_unix_ns, unix_ns(&revision.started_at), now_ns);
            self.outputs.publish(revision, since_ns);
        }
    }

    fn stats(&self) -> Stats {
        Stats {
            explain: self.engine.explain.stats(),
            detectors_evicted: self.engine.detectors.evicted(),
            too_late: self.engine.detectors.too_late(),
            missed: self.common.missed.iter().map(|count| count.load(Ordering::Relaxed)).sum(),
        }
    }

    fn sleep(&self, now_ns: u64) {
        let mut wait = Duration::from_nanos(self.tick_due_ns.saturating_sub(now_ns));
        if !self.held.is_empty() {
            wait = wait.min(HOLD / 4);
        }
        if self.engine.explain.is_dirty() {
            wait = wait.min(Duration::from_nanos(SETTLE_NS));
        }
        self.common.asleep.store(true, Ordering::SeqCst);
        if self.inputs.iter().all(BatchReceiver::is_empty) && !self.inputs.iter().all(BatchReceiver::is_over)
        {
            std::thread::park_timeout(wait);
        }
        self.common.asleep.store(false, Ordering::SeqCst);
    }
}

/// What to say when more fails at once than can be told apart.
fn too_many(stats: &ExplainStats) -> String {
    format!(
        "{} incidents are open, as many as are kept: further ones are counted ({} so far) and told once others are over; \
         look for what they have in common: tapio-collector incidents",
        stats.open, stats.refused
    )
}

/// What `status` shows of this thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// The causal engine.
    pub explain: ExplainStats,
    /// What detectors forgot for want of room.
    pub detectors_evicted: u64,
    /// Events that came later than the detectors look back.
    pub too_late: u64,
    /// Events that found the queue full.
    pub missed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::tests::{failures, shipped, show};

    /// Scenario: 10^5 units fail within a second.
    /// Guarantees: one message says how many are open and how many were not told.
    #[test]
    fn too_many_failures_are_one_message() {
        let mut engine = Explain::new([1; 16], shipped(), Bounds::default());
        failures(&mut engine, 100_000);
        let said = too_many(&engine.stats());
        assert!(said.starts_with("1024 incidents are open") && !said.contains("(0 so far)"), "{said}");
        show(&format!("\n10^5 failures in a second: {said}\n"));
    }
}
