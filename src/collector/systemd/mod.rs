//! The systemd collector: what the manager announces of its units and jobs, without ever polling it.
//!
//! `place` knows where the manager may be, `link` connects, through `relay` where there is no bus, and asks, `signal`
//! and `property` read messages, `ring` stands between the connection and everything that may wait, `model` and `known`
//! say what is new, `wanted` knows what is still to be asked, `session` keeps them together, `emit` makes events. Where
//! the manager cannot be asked, `fallback` follows its records in the journal, and `rebuild` makes the same of them.
//!
//! Invariants:
//! - Subscribed first, listed second, compared third: no transition falls between two of them.
//! - An idle manager costs nothing: there is no timer unless something is under way.
//! - A manager that is not there, is slow, restarts or says nonsense costs its own events only, and those are counted.

mod emit;
mod fallback;
mod known;
mod link;
mod model;
mod name;
mod output;
mod place;
mod property;
mod rebuild;
mod relay;
mod ring;
mod session;
mod signal;
mod unit;
mod wanted;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::emit::Emitter;
use self::fallback::Fallback;
use self::link::Link;
use self::model::Model;
use self::place::Place;
use self::ring::Ring;
use self::session::{Bounds, Ended, Kept, Session};
use super::{CollectorInfo, Context, Stop, Unavailable};
use crate::engine::worker::Worker;
use crate::event::Source;
use crate::health::{CollectorHealth, Health, State};

/// The row of this collector.
pub const INFO: CollectorInfo = CollectorInfo { source: Source::Systemd, thread: "systemd", open };

/// A session that lasted this long was a good one.
const GOOD: Duration = Duration::from_secs(10);

fn open(context: Context) -> Result<Box<dyn Worker>, Unavailable> {
    let wish = context.live.load().systemd_bus.clone();
    if wish.is_empty() && !place::is_possible() {
        return Err(Unavailable(
            "systemd does not manage this host; in a container, mount the host's /run/dbus/system_bus_socket \
             or name the bus with --systemd-bus"
                .into(),
        ));
    }
    Ok(Box::new(Collector::new(context, place::places(&wish), Bounds::default())))
}

/// The collector's thread.
#[derive(Debug)]
struct Collector {
    places: Vec<Place>,
    bounds: Bounds,
    kept: Kept,
    health: Arc<Health>,
    stop: Stop,
    boot_id: [u8; 16],
    /// Whether the journal will do: not where somebody named a place.
    may_fall_back: bool,
    fallback: Option<Fallback>,
    /// What the log says already.
    logged: String,
}

impl Collector {
    fn new(context: Context, places: Vec<Place>, bounds: Bounds) -> Self {
        let may_fall_back = context.live.load().systemd_bus.is_empty();
        let emitter = Emitter::new(context.port, context.ledger, context.stop.clone());
        Self {
            places,
            bounds,
            kept: Kept { model: Model::default(), emitter, outputs: VecDeque::new(), is_complete: false },
            health: context.health,
            stop: context.stop,
            boot_id: context.boot_id,
            may_fall_back,
            fallback: None,
            logged: String::new(),
        }
    }

    fn say(&mut self, state: State, reason: &str) {
        if self.logged != reason {
            match state {
                State::Running => tracing::info!("the systemd collector runs"),
                State::Disabled => tracing::info!("the systemd collector is off: {reason}"),
                State::Degraded | State::Failed => tracing::warn!("the systemd collector: {reason}"),
            }
            reason.clone_into(&mut self.logged);
        }
        self.health.set(Source::Systemd, CollectorHealth::new(state, reason));
    }

    /// Connects, and connects again, until the agent ends.
    async fn work(&mut self) {
        let [first, last] = self.bounds.retry;
        let mut pause = first;
        loop {
            match self.connect().await {
                Ok((link, ring)) => {
                    self.fallback = None;
                    let begun = Instant::now();
                    let ended = self.converse(link, ring).await;
                    if matches!(ended, Ended::Stopped) {
                        return;
                    }
                    if begun.elapsed() >= GOOD {
                        pause = first;
                    }
                    let reason = format!("not connected to the manager, trying again: {ended}");
                    self.say(State::Degraded, &reason);
                }
                Err(reason) => {
                    let at = Instant::now() + last;
                    match self.fall_back(&reason, at).await {
                        Some(true) => return,
                        Some(false) => continue,
                        None if self.kept.is_complete => self.say(State::Degraded, &reason),
                        None => self.say(State::Disabled, &reason),
                    }
                }
            }
            tokio::select! {
                () = self.stop.wait() => return,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(last),
            }
        }
    }

    /// Follows the journal until this time, if there is one; true if the agent ends.
    async fn fall_back(&mut self, reason: &str, until: Instant) -> Option<bool> {
        if self.fallback.is_none() && self.may_fall_back {
            self.fallback = Fallback::open(self.boot_id);
        }
        let mut fallback = self.fallback.take()?;
        self.say(
            State::Degraded,
            &format!(
                "units are followed through the journal, without relations, limits and what is not logged: {reason}"
            ),
        );
        let ends = fallback.follow(&mut self.kept, until, &mut self.stop).await;
        self.fallback = Some(fallback);
        Some(ends)
    }

    /// The first place where a manager answers.
    async fn connect(&mut self) -> Result<(Link, Arc<Ring>), String> {
        let mut reasons = Vec::new();
        for place in &self.places {
            let ring = Arc::new(Ring::new(self.bounds.ring));
            let opening = Link::open(place, self.bounds.answer, Arc::clone(&ring));
            let mut stop = self.stop.clone();
            tokio::select! {
                () = stop.wait() => return Err("the agent ends".into()),
                opened = opening => match opened {
                    Ok(link) => return Ok((link, ring)),
                    Err(error) => reasons.push(error.to_string()),
                },
            }
        }
        Err(format!("the manager cannot be reached, trying again: {}", reasons.join("; ")))
    }

    async fn converse(&mut self, link: Link, ring: Arc<Ring>) -> Ended {
        self.say(State::Running, "");
        let calls = link.calls.clone();
        let ended = Session::new(&mut self.kept, self.bounds, ring, calls).run(&mut self.stop).await;
        if !matches!(ended, Ended::Stopped) {
            let lost = self.kept.model.manager("lost", "reconnect");
            self.kept.outputs.push_back(lost);
        }
        self.kept.flush().await;
        ended
    }
}

impl Worker for Collector {
    fn run(&mut self) {
        while !self.stop.is_set() {
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(self.work()),
                Err(error) => {
                    self.say(State::Failed, &format!("no event loop, trying again: {error}"));
                    // A stop unparks.
                    std::thread::park_timeout(self.bounds.retry[1]);
                }
            }
        }
    }

    fn recover(&mut self) {
        let held = self.kept.outputs.len() as u64;
        self.kept.emitter.shed(held);
        self.kept.outputs.clear();
        // It may be half changed; the next comparison fills it again.
        self.kept.model = Model::default();
    }
}

#[cfg(test)]
mod tests;
