//! What all watches of one agent share: the way into the engine, the memory, and what there is to complain of.
//!
//! Invariants:
//! - A draft is sent or waits for room; it is never dropped, since the watch behind it can wait, too.
//! - A complaint is logged once when it begins and once when it ends, however many watches have it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

use super::connect::{self, Connected, Found, NoCluster};
use super::draft::{Draft, hash};
use super::failure::{Class, Failure, complaint};
use super::known::Memory;
use crate::clock;
use crate::collector::Context;
use crate::collector::stretches::{Advice, Stretches};
use crate::engine::Lane;
use crate::event::{EventBuilder, Kind, Severity, Source, fields};
use crate::health::{CollectorHealth, State};

/// How long to wait for room in a full queue.
const FULL_PAUSE: Duration = Duration::from_millis(2);

/// How long complaints gather before they are said, so that those of one cause are one.
const GATHER: Duration = Duration::from_millis(400);

/// What sends events.
struct Way<'run> {
    context: &'run mut Context,
    builder: EventBuilder,
    /// Tells when positions may be kept; a position is the number of a candidate of the file.
    stretches: Stretches<u64>,
}

/// What the watches have to complain of, by class and watch.
#[derive(Default)]
struct Complaints {
    now: BTreeMap<Class, BTreeMap<String, String>>,
    said: BTreeMap<Class, String>,
    /// Watches that are to work, and those that do.
    watches: usize,
    working: BTreeSet<String>,
}

/// See the head of this file.
pub(super) struct Hub<'run> {
    /// This node.
    pub(super) node: String,
    /// Unix time of the start.
    pub(super) since_unix_s: u64,
    /// Where the cluster was found.
    pub(super) found: Found,
    /// Strings and the budget.
    pub(super) memory: RefCell<Memory>,
    /// Events that have nothing to do with this node count, too.
    pub(super) everything: Cell<bool>,
    /// One list at a time, so that their peaks do not add up.
    pub(super) listing: Semaphore,
    /// Nothing is sent for now, so that what is under way can settle.
    held_back: Cell<bool>,
    way: RefCell<Way<'run>>,
    connected: RefCell<Option<Rc<Connected>>>,
    complaints: RefCell<Complaints>,
    changed: Notify,
    server: RefCell<String>,
    notes: RefCell<BTreeMap<String, u64>>,
}

impl<'run> Hub<'run> {
    pub(super) fn new(context: &'run mut Context, found: Found, node: String) -> Self {
        let stretches = Stretches::new(Source::Kubernetes, Arc::clone(&context.ledger), 0);
        Self {
            node,
            since_unix_s: clock::unix_ns() / 1_000_000_000,
            found,
            memory: RefCell::default(),
            everything: Cell::new(false),
            listing: Semaphore::new(1),
            way: RefCell::new(Way { context, builder: EventBuilder::default(), stretches }),
            held_back: Cell::new(false),
            connected: RefCell::default(),
            complaints: RefCell::default(),
            changed: Notify::new(),
            server: RefCell::default(),
            notes: RefCell::default(),
        }
    }

    /// The client; a new one after [`Self::reconnect`].
    pub(super) async fn connected(&self) -> Result<Rc<Connected>, NoCluster> {
        if let Some(connected) = &*self.connected.borrow() {
            return Ok(Rc::clone(connected));
        }
        let settings = self.way.borrow().context.live.load_full();
        let connected = Rc::new(connect::connect(&self.found, &settings).await?);
        self.server.borrow_mut().clone_from(&connected.server);
        *self.connected.borrow_mut() = Some(Rc::clone(&connected));
        Ok(connected)
    }

    /// The credentials are to be read again.
    pub(super) fn reconnect(&self) {
        self.connected.borrow_mut().take();
    }

    /// Sends drafts, and waits while there is no room.
    pub(super) async fn send(&self, drafts: &[Draft]) {
        for draft in drafts {
            while self.held_back.get() || !self.try_send(draft) {
                tokio::time::sleep(FULL_PAUSE).await;
            }
        }
        self.way.borrow_mut().context.port.publish();
    }

    fn try_send(&self, draft: &Draft) -> bool {
        let way = &mut *self.way.borrow_mut();
        draft.write(&mut way.builder, clock::boot_ns(), clock::boot_unix_ns());
        way.builder.header().flags |= way.stretches.flag();
        let urgent = draft.kind.info().severity >= Severity::Error;
        let lane = if urgent { Lane::Urgent } else { Lane::Bulk };
        let sent = way.context.port.send(&mut way.builder, lane).is_ok();
        if sent {
            way.stretches.moved(1);
        } else {
            way.context.port.publish();
        }
        sent
    }

    /// What to do about positions now. `write` makes a candidate and returns its number.
    pub(super) fn advise(&self, write: impl FnOnce() -> u64) -> Advice<u64> {
        let advice = self.way.borrow_mut().stretches.advise(clock::boot_ns(), write);
        self.held_back.set(advice == Advice::HoldBack);
        advice
    }

    /// Nothing is sent for now.
    pub(super) fn is_held_back(&self) -> bool {
        self.held_back.get()
    }

    /// A position moved although nothing was sent.
    pub(super) fn moved(&self) {
        self.way.borrow_mut().stretches.moved(0);
    }

    /// Says that changes of a resource may have been missed; `lost` is 0 where nobody knows how many. `at` is where in
    /// the watch: the same gap that is found again is the same event.
    pub(super) async fn gap(&self, resource: &str, cause: &str, at: &str, lost: u64) {
        let number = hash(&["gap", resource, cause, at]).max(1);
        let draft = Draft::new(Kind::WatchGap, fields::NODE, self.node.as_str(), number).slot(lost);
        let draft = draft.field(fields::RESOURCE, resource).field(fields::CAUSE, cause);
        // A gap of unknown size counts as one: a ledger that shows nothing would lie more.
        self.way.borrow_mut().context.port.lost(lost.max(1));
        self.send(&[draft]).await;
    }

    /// Logs what happens again and again the first time, and then each time its number has doubled.
    pub(super) fn note(&self, what: &str) {
        let mut notes = self.notes.borrow_mut();
        let count = notes.entry(what.to_owned()).or_default();
        *count += 1;
        if count.is_power_of_two() {
            tracing::warn!("kubernetes: {what} ({count} so far)");
        }
    }

    /// Forgets what the watches were, so that others can begin.
    pub(super) fn start_over(&self) {
        *self.memory.borrow_mut() = Memory::default();
        *self.complaints.borrow_mut() = Complaints::default();
        self.everything.set(false);
        self.held_back.set(false);
    }

    /// Counts a watch that is to work.
    pub(super) fn expect_watch(&self) {
        self.complaints.borrow_mut().watches += 1;
        self.changed.notify_one();
    }

    /// A watch is not wanted any more.
    pub(super) fn forget_watch(&self, watch: &str) {
        self.report(watch, None);
        let mut complaints = self.complaints.borrow_mut();
        complaints.working.remove(watch);
        complaints.watches = complaints.watches.saturating_sub(1);
    }

    /// Something was not remembered: that is said, too.
    pub(super) fn refused(&self) {
        self.changed.notify_one();
    }

    /// Records how a watch is: fine, or what it fails of.
    pub(super) fn report(&self, watch: &str, failure: Option<&Failure>) {
        let mut complaints = self.complaints.borrow_mut();
        let class = failure.and_then(Failure::class);
        let mut changed = match failure {
            None => complaints.working.insert(watch.to_owned()),
            Some(_) if class.is_some() => complaints.working.remove(watch),
            Some(_) => false,
        };
        for (other, watches) in &mut complaints.now {
            changed |= Some(*other) != class && watches.remove(watch).is_some();
        }
        complaints.now.retain(|_, watches| !watches.is_empty());
        if let (Some(class), Some(failure)) = (class, failure) {
            let watches = complaints.now.entry(class).or_default();
            changed |= watches.insert(watch.to_owned(), failure.to_string()).is_none();
        }
        if changed {
            self.changed.notify_one();
        }
    }

    /// Says that the configuration cannot be used, once for each reason.
    pub(super) fn unusable(&self, unusable: &NoCluster) {
        let reason = unusable.to_string();
        self.note(&reason);
        self.way.borrow().context.health.set(Source::Kubernetes, CollectorHealth::new(State::Failed, reason));
    }

    /// Says complaints as they begin and end, for ever.
    pub(super) async fn say_complaints(&self) {
        loop {
            self.changed.notified().await;
            tokio::time::sleep(GATHER).await;
            self.say();
        }
    }

    fn say(&self) {
        let complaints = &mut *self.complaints.borrow_mut();
        let server = self.server.borrow();
        let mut reasons = Vec::new();
        for (class, watches) in &complaints.now {
            let names: Vec<&str> = watches.keys().map(String::as_str).collect();
            let why = watches.values().next().map_or("", String::as_str);
            let text = complaint(*class, &server, &names, why);
            if complaints.said.insert(*class, text.clone()).is_none() {
                tracing::warn!("kubernetes: {text}");
            }
            reasons.push(text);
        }
        let over: Vec<Class> =
            complaints.said.keys().filter(|class| !complaints.now.contains_key(class)).copied().collect();
        for class in over {
            complaints.said.remove(&class);
            tracing::info!("kubernetes: over: {class:?}");
        }
        let failing: usize = complaints.now.values().map(BTreeMap::len).sum();
        let refused = self.memory.borrow().refused;
        if refused > 0 {
            reasons.push(format!(
                "{refused} times an object did not fit the memory budget and was not compared"
            ));
        }
        let (working, watches) = (complaints.working.len(), complaints.watches);
        let state = match reasons.is_empty() {
            true if working >= watches => State::Running,
            true => {
                reasons.push(format!("{working} of {watches} watches work so far"));
                State::Degraded
            }
            false if failing >= watches => State::Failed,
            false => State::Degraded,
        };
        let health = CollectorHealth::new(state, reasons.join("; "));
        self.way.borrow().context.health.set(Source::Kubernetes, health);
    }
}
