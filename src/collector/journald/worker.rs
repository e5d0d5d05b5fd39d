//! The thread that reads the journals: polls them, sends what they have, keeps the positions.
//!
//! Invariants:
//! - An entry is sent, passed over because it is the agent's own, or held until its queue has room: never skipped.
//! - What of the past has not arrived yet stays in the journal: at most [`BACKLOG_EVENTS_MAX`] old entries are in the
//!   agent's memory, unless the server does not answer for [`BLOCKED_MAX`]. What happens now never waits for it.
//! - An entry that makes this thread panic is passed over the next time, and counted as lost.

use std::time::{Duration, SystemTime};

use super::feed::Feed;
use super::journal::{Cause, Cursor, Source};
use super::position::Mark;
use super::record::{Made, Maker, Wishes};
use super::said::Said;
use crate::clock;
use crate::collector::Context;
use crate::collector::stretches::{Advice, Stretches};
use crate::engine::worker::Worker;
use crate::health::{CollectorHealth, State};

/// The pause between two looks at the files: the first after an entry, the longest; it doubles in between.
const PAUSE_FIRST: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// The pause once nothing was said for this many of the longest, some five seconds. Waking up costs 60 us where processors
/// are virtual, whatever is done then: twenty times a second would be more than a thousandth of a core.
const PAUSE_QUIET: Duration = Duration::from_millis(100);
const QUIET_AFTER: u32 = 100;

/// Entries of one journal before the next gets its turn.
const TURN_ENTRIES: usize = 512;

/// New files are looked for this often, and the clocks compared.
const REFRESH_NS: u64 = 500_000_000;

/// Positions are kept this often: each time is a file written and synced.
const KEEP_NS: u64 = 1_000_000_000;

/// While something has to be read again, it is looked this often whether it can be.
const MEND_NS: u64 = 20_000_000;

/// Old entries in the agent's memory at most: with the longest texts they fit the smallest default window.
const BACKLOG_EVENTS_MAX: u64 = 4096;

/// Longest wait for acks before old entries are read on: then nobody takes them, and detectors still should see them.
const BLOCKED_MAX: Duration = Duration::from_secs(30);

/// Longest wait for the last acks at the end, beside the flush interval.
const SETTLE_MAX: Duration = Duration::from_millis(500);

/// Entries that are passed over because they made this thread panic, at most; the oldest are tried again then.
const POISONED_MAX: usize = 16;

/// What to do about files that cannot be opened.
const UNREADABLE: &str =
    "files of the journal cannot be read: run the agent as root or in the group systemd-journal";

/// An event that waits for its queue, or for acks.
#[derive(Debug, Clone, Copy)]
struct Held {
    feed: usize,
    /// None for what the reader missed.
    cursor: Option<Cursor>,
    made: Made,
}

/// What may not work.
#[derive(Debug, Clone, Copy)]
enum About {
    /// Reading journals.
    Files,
    /// Keeping positions.
    Positions,
}

/// See the module.
#[derive(Debug)]
pub(super) struct JournalWorker {
    context: Context,
    feeds: Vec<Feed>,
    stretches: Stretches<Vec<Mark>>,
    maker: Maker,
    held: Option<Held>,
    holds_back: bool,
    /// Since when old entries wait for acks, and how many there were then.
    blocked: Option<(u64, u64)>,
    refresh_due_ns: u64,
    advise_due_ns: u64,
    /// Files could not be opened.
    unreadable: bool,
    reading: Option<Cursor>,
    poisoned: Vec<Cursor>,
    /// By [`About`]; empty where all is well.
    complaints: [String; 2],
}

impl JournalWorker {
    /// A worker for these journals.
    pub(super) fn new(context: Context, sources: Vec<Source>) -> Self {
        let now = SystemTime::now();
        let since =
            context.live.load().since.map_or_else(|| clock::unix_ns() / 1000, |since| since.unix_us(now));
        let mut feeds: Vec<Feed> =
            sources.into_iter().map(|source| Feed::new(source, &context.state_dir, since)).collect();
        for feed in &mut feeds {
            // Now, so that the first position is behind an entry. What cannot be opened is tried again, and told.
            let _later = feed.open();
        }
        let marks = feeds.iter().map(Feed::at).collect();
        let stretches = Stretches::new(context.port.source(), std::sync::Arc::clone(&context.ledger), marks);
        let maker = Maker::new(context.boot_id);
        Self {
            context,
            feeds,
            stretches,
            maker,
            held: None,
            holds_back: false,
            blocked: None,
            refresh_due_ns: 0,
            advise_due_ns: 0,
            unreadable: false,
            reading: None,
            poisoned: Vec::new(),
            complaints: Default::default(),
        }
    }

    /// Reads what there is, a turn of each journal; returns whether something happened.
    fn pass(&mut self, now_ns: u64) -> bool {
        let wishes = Wishes::from(&**self.context.live.load());
        if now_ns >= self.refresh_due_ns {
            self.refresh_due_ns = now_ns + REFRESH_NS;
            self.refresh();
        }
        let mut moved = false;
        if !self.holds_back {
            for feed in 0..self.feeds.len() {
                moved |= self.turn(feed, wishes, now_ns);
            }
        }
        self.context.port.publish();
        if now_ns >= self.advise_due_ns {
            self.advise(now_ns);
        }
        moved
    }

    fn refresh(&mut self) {
        self.maker.clocks = super::times::Clocks::now(self.context.boot_id);
        let mut missing = Vec::new();
        for feed in &mut self.feeds {
            match feed.open() {
                Ok(()) => feed.refresh(),
                Err(why) => missing.push(why),
            }
        }
        if self.unreadable {
            missing.push(UNREADABLE.into());
        }
        self.complain(About::Files, missing.join("; "));
    }

    /// Says once what does not work, and in the health for as long as it does not.
    fn complain(&mut self, about: About, complaint: String) {
        let before = &mut self.complaints[about as usize];
        if *before == complaint {
            return;
        }
        if !complaint.is_empty() {
            tracing::warn!("the journal collector: {complaint}");
        }
        *before = complaint;
        self.say_health();
    }

    fn say_health(&self) {
        let complaints: Vec<&str> =
            self.complaints.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
        let state = if complaints.is_empty() { State::Running } else { State::Degraded };
        self.context
            .health
            .set(self.context.port.source(), CollectorHealth::new(state, complaints.join("; ")));
    }

    /// Reads up to [`TURN_ENTRIES`] of one journal; returns whether there was one.
    fn turn(&mut self, feed: usize, wishes: Wishes, now_ns: u64) -> bool {
        let mut moved = false;
        for _ in 0..TURN_ENTRIES {
            if self.held.is_some() && !self.release(now_ns) {
                return moved;
            }
            // Before what is behind it, so that no position is kept that leaves it untold.
            if self.feeds[feed].has_gaps() {
                self.gaps(feed, now_ns);
            }
            let Some(entry) = self.feeds[feed].next() else { break };
            moved = true;
            let cursor = entry.cursor();
            let made = if self.poisoned.contains(&cursor) {
                None
            } else {
                self.reading = Some(cursor);
                let made = self.maker.entry(&cursor, &Said::new(entry.fields()), wishes);
                self.reading = None;
                made
            };
            let intact = entry.is_intact();
            self.feeds[feed].read(&cursor, now_ns);
            match made {
                // Cut off while it was read: the reader names the gap.
                _ if !intact => {}
                Some(made) => self.held = Some(Held { feed, cursor: Some(cursor), made }),
                None => self.pass_over(feed, cursor),
            }
        }
        self.gaps(feed, now_ns) || moved
    }

    fn pass_over(&mut self, feed: usize, cursor: Cursor) {
        self.feeds[feed].passed(cursor);
        self.stretches.moved(0);
    }

    /// Sends what is held; false if it has to wait.
    fn release(&mut self, now_ns: u64) -> bool {
        let Some(held) = self.held else { return true };
        if held.made.is_old && self.is_blocked(now_ns) {
            return false;
        }
        let header = self.maker.event.header();
        header.flags = header.flags & !crate::event::STRETCH_ODD | self.stretches.flag();
        if self.context.port.send(&mut self.maker.event, held.made.lane).is_err() {
            self.context.port.publish();
            return false;
        }
        self.held = None;
        self.stretches.moved(1);
        if let Some(cursor) = held.cursor {
            self.feeds[held.feed].passed(cursor);
        }
        let new = held.cursor.is_none_or(|cursor| self.feeds[held.feed].counts(&cursor));
        if let Some(lost) = held.made.lost.filter(|_| new) {
            // A gap of unknown size is of one entry at least.
            self.context.port.lost(lost.max(1));
        }
        true
    }

    /// Whether old entries have to wait until the server has taken earlier ones.
    fn is_blocked(&mut self, now_ns: u64) -> bool {
        if self.stretches.in_memory() < BACKLOG_EVENTS_MAX {
            self.blocked = None;
            return false;
        }
        let acked = self.stretches.acked();
        match self.blocked {
            Some((since_ns, then)) if then == acked => {
                Duration::from_nanos(now_ns.saturating_sub(since_ns)) < BLOCKED_MAX
            }
            _ => {
                self.blocked = Some((now_ns, acked));
                true
            }
        }
    }

    /// Sends an event for each gap that the reader met; returns whether there was one.
    fn gaps(&mut self, feed: usize, now_ns: u64) -> bool {
        if self.held.is_some() {
            return false;
        }
        let gaps = self.feeds[feed].take_gaps(now_ns);
        let any = !gaps.is_empty();
        for gap in gaps {
            self.unreadable |= gap.cause == Cause::Unreadable;
            let entries = gap.cause.is_of_entries();
            let mut made = self.maker.gap(gap.cause.name(), gap.lost, &gap.file.display().to_string());
            made.lost = made.lost.filter(|_| entries);
            self.held = Some(Held { feed, cursor: None, made });
            for _ in 0..10 {
                if self.release(now_ns) {
                    break;
                }
                // The urgent queue is full: its shard needs a moment.
                std::thread::sleep(PAUSE_FIRST);
            }
            if self.held.take().is_some() {
                self.context.port.shed(1);
            }
        }
        any
    }

    /// Keeps positions, and goes back where something has to be read again.
    fn advise(&mut self, now_ns: u64) {
        let feeds = &self.feeds;
        let advice = self.stretches.advise(now_ns, || feeds.iter().map(Feed::at).collect());
        self.holds_back = advice == Advice::HoldBack;
        self.advise_due_ns = now_ns + if self.holds_back { MEND_NS } else { KEEP_NS };
        match advice {
            Advice::ReadOn | Advice::HoldBack => {}
            Advice::Keep(marks) => self.keep(&marks),
            Advice::GoBack(marks) => {
                tracing::info!(
                    "some entries of the journal were given up on their way to the server and are read again"
                );
                self.held = None;
                for (feed, mark) in self.feeds.iter_mut().zip(marks) {
                    feed.seek(mark);
                }
            }
        }
    }

    fn keep(&mut self, marks: &[Mark]) {
        let mut failed = String::new();
        for (feed, mark) in self.feeds.iter_mut().zip(marks) {
            if let Err(why) = feed.keep(*mark) {
                failed = format!("{why}; after a restart, entries may come twice");
            }
        }
        self.complain(About::Positions, failed);
    }

    /// Waits until what was sent has been acked, so that the next start repeats nothing; not for long.
    fn settle(&mut self) {
        self.context.port.publish();
        let settings = self.context.live.load_full();
        let longest = settings.shutdown_deadline.min(settings.flush_interval + SETTLE_MAX);
        let until = clock::boot_ns().saturating_add(u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX));
        while !self.stretches.is_settled() && clock::boot_ns() < until {
            self.advise(clock::boot_ns());
            std::thread::sleep(PAUSE_FIRST);
        }
    }
}

impl Worker for JournalWorker {
    fn run(&mut self) {
        self.say_health();
        // Kept before anything is read: a start that is killed at once has its place all the same.
        let marks = self.stretches.kept().clone();
        self.keep(&marks);
        let (mut pause, mut in_vain) = (PAUSE_FIRST, 0_u32);
        while !self.context.stop.is_set() {
            if self.pass(clock::boot_ns()) {
                (pause, in_vain) = (PAUSE_FIRST, 0);
                if self.held.is_none() {
                    continue;
                }
            }
            std::thread::park_timeout(pause);
            in_vain = in_vain.saturating_add(1);
            pause = if in_vain > QUIET_AFTER { PAUSE_QUIET } else { (pause * 2).min(PAUSE_MAX) };
        }
        self.settle();
    }

    fn recover(&mut self) {
        self.held = None;
        self.stretches.tear(clock::boot_ns());
        if let Some(cursor) = self.reading.take() {
            self.context.port.lost(1);
            if self.poisoned.len() >= POISONED_MAX {
                self.poisoned.remove(0);
            }
            self.poisoned.push(cursor);
        }
        for feed in &mut self.feeds {
            feed.close();
        }
        self.refresh_due_ns = 0;
    }
}
