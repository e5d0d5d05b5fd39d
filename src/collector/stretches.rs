//! When a source with a position may keep it: once everything before it has been stored by the server.
//!
//! The events of such a source are flagged in alternating stretches ([`STRETCH_ODD`]), which the ledger counts apart.
//! One stretch is open and gets the events; the one before it waits for its acks. When it has them all, the position
//! behind it may be kept, and the open one is closed in its place. When some of them were given up on the way, the
//! source has to go back to the position it kept last and read again: ids do not change, so receivers know again
//! what they have.
//!
//! Invariants:
//! - A position is given out to be kept only when every event before it was acked, except those that made workers
//!   panic [`ATTEMPTS_MAX`] times: these are left behind, as the ledger says, or nothing would ever come after them.
//! - An outage of the server does not stop the source: it reads on, and goes back when acks come again.
//! - Events of one source are flagged by one [`Stretches`] only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::event::{STRETCH_ODD, Source};
use crate::ledger::Ledger;

/// Reading again what made a worker panic makes it panic again, most likely.
pub const ATTEMPTS_MAX: u32 = 3;

/// The first and the longest pause between a loss and reading again; it doubles in between.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How long the source may be told to hold back for what is under way, before it reads on for a while.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// What a source is to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice<Position> {
    /// Read on.
    ReadOn,
    /// Everything before this position is stored: keep it, and read on.
    Keep(Position),
    /// Make no events for now: what is under way has to settle, so that it can be read again.
    HoldBack,
    /// Go back to the position that was kept last.
    GoBack(Position),
}

/// What the ledger says of the source now.
#[derive(Debug, Clone, Copy)]
struct Counts {
    acked: [u64; 2],
    dropped: [u64; 2],
    shed: u64,
}

impl Counts {
    fn settled(&self, parity: usize) -> u64 {
        self.acked[parity] + self.dropped[parity]
    }

    fn acked(&self) -> u64 {
        self.acked.iter().sum()
    }

    fn lost(&self) -> u64 {
        self.dropped.iter().sum::<u64>() + self.shed
    }
}

/// Something was lost and has to be read again.
#[derive(Debug, Clone, Copy)]
enum Torn {
    /// Not yet: the source reads on. `acked` is how many were acked when the last event was lost.
    Waiting { lost_ns: u64, acked: u64 },
    /// The source holds back.
    Settling { since_ns: u64 },
}

/// The stretches of one source.
#[derive(Debug)]
pub struct Stretches<Position> {
    ledger: Arc<Ledger>,
    source: Source,
    /// Events sent in even and odd stretches, in the ledger's count.
    sent: [u64; 2],
    /// Events shed before what is sent now, and lost ones that are known.
    shed: u64,
    lost: u64,
    /// The parity of the open stretch.
    open: usize,
    /// The source moved since the stretch was opened.
    moved: bool,
    /// The position behind the stretch that waits.
    waiting: Option<Position>,
    /// Kept last.
    kept: Position,
    torn: Option<Torn>,
    /// How often the source went back to `kept`; whether a worker panicked since then.
    attempts: u32,
    panicked: bool,
}

impl<Position: Clone> Stretches<Position> {
    /// The stretches of a source that starts at `kept`, the position that a restart would start from.
    #[must_use]
    pub fn new(source: Source, ledger: Arc<Ledger>, kept: Position) -> Self {
        let mut new = Self {
            ledger,
            source,
            sent: [0; 2],
            shed: 0,
            lost: 0,
            open: 0,
            moved: false,
            waiting: None,
            kept,
            torn: None,
            attempts: 0,
            panicked: false,
        };
        new.forget(&new.counts());
        new
    }

    /// What the header of the next event gets into its flags.
    #[must_use]
    pub fn flag(&self) -> u8 {
        if self.open == 1 { STRETCH_ODD } else { 0 }
    }

    /// The source moved on and sent so many events: none, where it passed over something.
    pub fn moved(&mut self, events: u64) {
        self.moved = true;
        self.sent[self.open] += events;
    }

    /// The source does not know what it sent: it has to go back.
    pub fn tear(&mut self, now_ns: u64) {
        self.torn = Some(Torn::Waiting { lost_ns: now_ns, acked: self.counts().acked() });
        self.panicked = true;
    }

    /// The position kept last.
    #[must_use]
    pub fn kept(&self) -> &Position {
        &self.kept
    }

    /// Events that are in the memory of this agent: sent, and neither settled nor spooled.
    #[must_use]
    pub fn in_memory(&self) -> u64 {
        let spooled = self.ledger.source(self.source).spooled.load(Ordering::Relaxed);
        self.under_way(&self.counts()).saturating_sub(u64::try_from(spooled).unwrap_or(0))
    }

    /// Events acked so far.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.counts().acked()
    }

    /// Whether every event was acked and the position behind the last one kept.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.torn.is_none() && self.waiting.is_none() && !self.moved
    }

    /// What to do now. `here` is the position behind everything that was sent. Call it some times a second: each
    /// answer may be a file to write.
    pub fn advise(&mut self, now_ns: u64, here: impl FnOnce() -> Position) -> Advice<Position> {
        let counts = self.counts();
        if counts.lost() > self.lost {
            self.panicked |= counts.shed > self.shed;
            self.lost = counts.lost();
            if !matches!(self.torn, Some(Torn::Settling { .. })) {
                self.torn = Some(Torn::Waiting { lost_ns: now_ns, acked: counts.acked() });
            }
        }
        if let Some(torn) = self.torn {
            return self.mend(torn, &counts, now_ns, here);
        }
        let waits = 1 - self.open;
        if self.waiting.is_some() && counts.settled(waits) < self.sent[waits] {
            return Advice::ReadOn;
        }
        let kept = self.waiting.take();
        if std::mem::take(&mut self.moved) {
            self.waiting = Some(here());
            self.open = waits;
        }
        match kept {
            Some(position) => self.keep(position),
            None => Advice::ReadOn,
        }
    }

    fn keep(&mut self, position: Position) -> Advice<Position> {
        self.kept = position.clone();
        self.attempts = 0;
        self.panicked = false;
        Advice::Keep(position)
    }

    fn mend(
        &mut self,
        torn: Torn,
        counts: &Counts,
        now_ns: u64,
        here: impl FnOnce() -> Position,
    ) -> Advice<Position> {
        let after = |since_ns: u64| Duration::from_nanos(now_ns.saturating_sub(since_ns));
        let under_way = self.under_way(counts);
        match torn {
            Torn::Waiting { lost_ns, acked } => {
                let pause = PAUSE_FIRST.saturating_mul(1 << self.attempts.min(16)).min(PAUSE_MAX);
                // Acks say that the server is there. With nothing under way, only trying can tell.
                let answered = counts.acked() > acked || under_way == 0;
                if after(lost_ns) < pause || !answered {
                    return Advice::ReadOn;
                }
                self.torn = Some(Torn::Settling { since_ns: now_ns });
                Advice::HoldBack
            }
            Torn::Settling { since_ns } if under_way > 0 => {
                if after(since_ns) < SETTLE_MAX {
                    return Advice::HoldBack;
                }
                self.torn = Some(Torn::Waiting { lost_ns: now_ns, acked: counts.acked() });
                Advice::ReadOn
            }
            Torn::Settling { .. } => {
                self.forget(counts);
                if self.panicked && self.attempts >= ATTEMPTS_MAX {
                    return self.keep(here());
                }
                self.attempts = self.attempts.saturating_add(1);
                self.panicked = false;
                Advice::GoBack(self.kept.clone())
            }
        }
    }

    /// Starts anew, with nothing under way.
    fn forget(&mut self, counts: &Counts) {
        self.sent = [counts.settled(0), counts.settled(1)];
        self.shed = counts.shed;
        self.lost = counts.lost();
        self.torn = None;
        self.waiting = None;
        self.moved = false;
    }

    /// Events sent and neither acked nor lost. What was shed is of unknown parity, so only the sum says.
    fn under_way(&self, counts: &Counts) -> u64 {
        let settled = counts.settled(0) + counts.settled(1) + (counts.shed - self.shed);
        (self.sent[0] + self.sent[1]).saturating_sub(settled)
    }

    fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let row = self.ledger.source(self.source);
        let [even, odd] = &*row.stretches;
        Counts {
            acked: [get(&even.acked), get(&odd.acked)],
            dropped: [get(&even.dropped), get(&odd.dropped)],
            shed: row.shed.iter().map(get).sum(),
        }
    }
}

#[cfg(test)]
mod tests;
