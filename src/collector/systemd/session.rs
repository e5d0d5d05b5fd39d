//! One connection's life: apply what is announced, ask for what is missing, compare with the list of all units.
//!
//! A comparison (at the start, after a reload, after a loss) lists the units, reads each, waits until what was announced
//! meanwhile has arrived, and only then says what the announcements did not say.
//!
//! Invariants:
//! - Signals are applied in their order and never wait for an answer.
//! - Questions under way are bounded; answers that never come end the session.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::emit::Emitter;
use super::link::{Calls, LinkError};
use super::model::{JobEnd, Listed, Model};
use super::output::Output;
use super::ring::Ring;
use super::signal::Signal;
use super::unit::Found;
use super::wanted::{Question, Wanted};
use crate::clock;
use crate::collector::Stop;

/// Questions under way at most: enough to keep the manager from idling between two, not more.
const ASKING_MAX: usize = 8;

/// Signals between two looks at everything else.
const SIGNALS_IN_A_ROW: usize = 64;

/// Sizes and times that the tests shorten.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Signals in the ring at most.
    pub(super) ring: usize,
    /// Longest time for an answer. The manager answers nobody while it reloads.
    pub(super) answer: Duration,
    /// How long a new unit must stay before it is asked for.
    pub(super) new_unit: Duration,
    /// How long announcements from before a reading may be under way.
    pub(super) settle: Duration,
    /// Shortest time between two comparisons because of overflows.
    pub(super) compare: Duration,
    /// The first pause before connecting again; it doubles up to the last.
    pub(super) retry: [Duration; 2],
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            ring: 32_768,
            answer: Duration::from_secs(60),
            new_unit: Duration::from_secs(1),
            settle: Duration::from_millis(200),
            compare: Duration::from_secs(5),
            retry: [Duration::from_millis(100), Duration::from_secs(30)],
        }
    }
}

/// What a question led to.
#[derive(Debug)]
enum Answer {
    List(Result<Vec<Listed>, LinkError>),
    /// With what [`Model::gone`] said when it was asked.
    Unit(Box<str>, u64, Result<Box<Found>, LinkError>),
    Job(u32, Result<Box<str>, LinkError>),
}

/// A comparison under way.
#[derive(Debug, Default)]
struct Comparison {
    is_listed: bool,
    listed: Vec<Listed>,
    /// Units that were not read yet.
    left: HashSet<Box<str>>,
    found: Vec<(Box<str>, Box<Found>)>,
    /// Since when everything is read.
    settles: Option<Instant>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// The agent ends. Stop.
    #[error("the agent ends")]
    Stopped,
    /// The manager left the bus, or is another one. Connect again.
    #[error("the manager left the bus")]
    OwnerChanged,
    /// The connection ended. Connect again.
    #[error("{0}")]
    Closed(String),
    /// A question was not answered. Connect again.
    #[error(transparent)]
    Silent(#[from] LinkError),
}

/// What outlives a session.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) model: Model,
    pub(super) emitter: Emitter,
    /// Said, and not sent yet.
    pub(super) outputs: VecDeque<Output>,
    /// Whether a comparison was ever completed.
    pub(super) is_complete: bool,
}

impl Kept {
    pub(super) async fn flush(&mut self) {
        self.emitter.send(&mut self.outputs).await;
    }
}

/// One connection's state.
#[derive(Debug)]
pub(super) struct Session<'kept> {
    kept: &'kept mut Kept,
    bounds: Bounds,
    ring: Arc<Ring>,
    calls: Calls,
    asking: JoinSet<Answer>,
    wanted: Wanted,
    comparison: Option<Comparison>,
    /// Another comparison is due at this time.
    compare_at: Option<Instant>,
    /// The manager reloads: what it says of units is not to be trusted.
    is_reloading: bool,
}

impl<'kept> Session<'kept> {
    pub(super) fn new(kept: &'kept mut Kept, bounds: Bounds, ring: Arc<Ring>, calls: Calls) -> Self {
        Self {
            kept,
            bounds,
            ring,
            calls,
            asking: JoinSet::new(),
            wanted: Wanted::default(),
            comparison: None,
            compare_at: Some(Instant::now()),
            is_reloading: false,
        }
    }

    /// Runs until the connection or the agent ends.
    pub(super) async fn run(&mut self, stop: &mut Stop) -> Ended {
        loop {
            self.ask();
            let due = self.due();
            let far = Instant::now() + Duration::from_secs(3600);
            let step = tokio::select! {
                () = stop.wait() => Err(Ended::Stopped),
                () = self.ring.changed() => self.take_signals().await,
                Some(answer) = self.asking.join_next() => self.take_answer(answer).await,
                () = sleep_until(due.unwrap_or(far)), if due.is_some() => self.settle().await,
            };
            if let Err(ended) = step {
                return ended;
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        let settles = self.comparison.as_ref().and_then(|comparison| comparison.settles);
        let idle = self.asking.len() < ASKING_MAX;
        let compare_at = self.compare_at.filter(|_| self.comparison.is_none() && !self.is_reloading);
        [settles, compare_at, self.wanted.due().filter(|_| idle)].into_iter().flatten().min()
    }

    /// Starts the questions that there is room for.
    fn ask(&mut self) {
        // The last unit that was left may have been read, or may have gone.
        if let Some(comparison) = &mut self.comparison
            && comparison.is_listed
            && comparison.left.is_empty()
        {
            comparison.settles.get_or_insert(Instant::now() + self.bounds.settle);
        }
        if self.comparison.is_none()
            && !self.is_reloading
            && self.compare_at.is_some_and(|at| at <= Instant::now())
        {
            self.compare_at = None;
            self.comparison = Some(Comparison::default());
            self.wanted.clear_units();
            self.kept.model.list();
            let calls = self.calls.clone();
            self.asking.spawn(async move { Answer::List(calls.list().await) });
        }
        while self.asking.len() < ASKING_MAX
            && let Some(question) = self.wanted.next()
        {
            let (calls, gone) = (self.calls.clone(), self.kept.model.gone());
            self.asking.spawn(async move {
                match question {
                    Question::Job(id) => Answer::Job(id, calls.job_kind(id).await),
                    Question::Unit(unit) => {
                        let found = calls.unit(&unit).await;
                        Answer::Unit(unit, gone, found.map(Box::new))
                    }
                }
            });
        }
    }

    /// Wants a comparison, no sooner than after this time.
    fn compare(&mut self, pause: Duration) {
        let at = Instant::now() + pause;
        self.compare_at = Some(self.compare_at.map_or(at, |already| already.min(at)));
    }

    async fn take_signals(&mut self) -> Result<(), Ended> {
        let mut in_a_row = 0;
        while let Some(signal) = self.ring.pop() {
            self.apply(signal)?;
            self.kept.flush().await;
            in_a_row += 1;
            if in_a_row % SIGNALS_IN_A_ROW == 0 {
                // The task that empties the connection runs on this thread, too.
                tokio::task::yield_now().await;
            }
        }
        let counts = self.ring.counts();
        self.kept.emitter.malformed(counts.malformed);
        self.kept.emitter.lost(self.kept.model.take_refused());
        if counts.lost > 0 {
            tracing::warn!("systemd: {} signals did not fit; every unit is read again", counts.lost);
            self.kept.emitter.lost(counts.lost);
            let lost = self.kept.model.manager("lost", "overflow");
            self.kept.outputs.push_back(lost);
            self.kept.flush().await;
            // The end of a reload may be among them.
            self.is_reloading = false;
            self.compare(self.bounds.compare);
        }
        self.ring.ended().map_or(Ok(()), |why| Err(Ended::Closed(why)))
    }

    fn apply(&mut self, signal: Signal) -> Result<(), Ended> {
        let Kept { model, outputs, .. } = &mut *self.kept;
        match signal {
            Signal::OwnerChanged => return Err(Ended::OwnerChanged),
            Signal::Reloading(begins) => {
                self.is_reloading = begins;
                outputs.push_back(model.manager(if begins { "reloading" } else { "reloaded" }, ""));
                self.compare(Duration::ZERO);
            }
            Signal::Started => outputs.push_back(model.manager("started", "")),
            // Everything is taken down and put up again; the comparison after it tells what is new.
            _ if self.is_reloading => {}
            Signal::UnitNew { unit } => {
                model.add(&unit);
                self.wanted.later(&unit, Instant::now() + self.bounds.new_unit);
            }
            Signal::UnitRemoved { unit } => {
                self.wanted.forget(&unit, model.knows(&unit) && !model.lacks_reading(&unit));
                if let Some(comparison) = &mut self.comparison {
                    comparison.left.remove(&unit);
                    comparison.listed.retain(|listed| listed.unit != unit);
                    comparison.found.retain(|(found, _)| *found != unit);
                }
                model.remove(&unit, outputs);
            }
            Signal::JobNew { id, unit, at_ns } => {
                if model.job_new(id, &unit, at_ns, outputs) && !self.wanted.job(id) {
                    model.job_kind(id, "", outputs);
                }
            }
            Signal::JobRemoved { id, unit, result, at_ns } => {
                model.job_removed(JobEnd { id, unit: &unit, result: &result, at_ns }, outputs);
            }
            Signal::Run { unit, change } => model.run(&unit, &change),
            Signal::State { unit, change } => {
                model.state(&unit, &change, outputs);
                if model.lacks_reading(&unit) && model.is_alive(&unit) && self.comparison.is_none() {
                    self.wanted.now(&unit);
                }
            }
        }
        Ok(())
    }

    async fn take_answer(&mut self, answer: Result<Answer, JoinError>) -> Result<(), Ended> {
        // A question that panicked is as good as one without an answer.
        let answer = answer.map_err(|error| Ended::Closed(error.to_string()))?;
        match answer {
            Answer::List(listed) => {
                let Some(comparison) = &mut self.comparison else { return Ok(()) };
                comparison.listed = listed?;
                comparison.is_listed = true;
                for listed in &comparison.listed {
                    comparison.left.insert(listed.unit.clone());
                    self.wanted.now(&listed.unit);
                }
            }
            Answer::Unit(unit, gone, found) => {
                let found = self.readable(found)?;
                let Kept { model, outputs, .. } = &mut *self.kept;
                let compared = self.comparison.as_mut().filter(|comparison| comparison.left.contains(&unit));
                if let Some(comparison) = compared {
                    comparison.left.remove(&unit);
                    comparison.found.extend(found.map(|found| (unit, found)));
                } else if let Some(found) = found
                    && model.is_still(&unit, gone)
                {
                    model.found(&unit, &found, false, outputs);
                }
            }
            Answer::Job(id, kind) => {
                let kind = self.readable(kind)?.unwrap_or_default();
                self.kept.model.job_kind(id, &kind, &mut self.kept.outputs);
            }
        }
        self.kept.flush().await;
        Ok(())
    }

    /// The answer; nothing where it is gone or, which is counted, cannot be read.
    fn readable<T>(&mut self, answer: Result<T, LinkError>) -> Result<Option<T>, Ended> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(LinkError::Gone) => Ok(None),
            Err(error @ (LinkError::Answer(..) | LinkError::Property(_))) => {
                tracing::debug!("systemd: passed over an answer: {error}");
                self.kept.emitter.malformed(1);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Ends the comparison, if it is time.
    async fn settle(&mut self) -> Result<(), Ended> {
        let is_due = |comparison: &Comparison| comparison.settles.is_some_and(|at| at <= Instant::now());
        if !self.comparison.as_ref().is_some_and(is_due) {
            return Ok(());
        }
        let Some(comparison) = self.comparison.take() else { return Ok(()) };
        if self.is_reloading || self.compare_at.is_some() {
            // What was read may be from before; the next comparison is on its way.
            return Ok(());
        }
        for (unit, found) in comparison.found {
            let Kept { model, outputs, .. } = &mut *self.kept;
            model.found(&unit, &found, true, outputs);
            self.kept.flush().await;
        }
        let Kept { model, outputs, is_complete, .. } = &mut *self.kept;
        model.reconcile(&comparison.listed, clock::boot_ns(), outputs);
        let state = if std::mem::replace(is_complete, true) { "resynced" } else { "running" };
        outputs.push_back(model.manager(state, ""));
        self.kept.flush().await;
        Ok(())
    }
}
