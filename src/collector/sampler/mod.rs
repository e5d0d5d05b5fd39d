//! The sampler: what nobody announces, read now and then. What units, containers and pods use against their limits, how
//! full file systems are, and what the host has left.
//!
//! `layout` finds the hierarchies, `tree` the cgroups, `cgroup` samples one by the table in `files`, `procs` counts open
//! files, `host`, `filesystems`, `certificates` and `step` do the rest, `change` says what is worth an event, `round` keeps it all together.
//!
//! Invariants:
//! - A sample that says what the last one sent did is not sent, except once a minute.
//! - Cgroups, file systems, open descriptors and what is looked at more often are bounded, and what is beyond is said.
//! - Nothing here waits for another host, and nobody waits for this thread.

mod certificates;
mod cgroup;
mod change;
mod files;
mod filesystems;
mod host;
mod layout;
mod procs;
mod round;
mod step;
mod tree;

use std::path::Path;
use std::time::Duration;

use super::{CollectorInfo, Context, Unavailable};
use crate::clock;
use crate::engine::Lane;
use crate::engine::worker::Worker;
use crate::event::{EventBuilder, Kind, Source};
use crate::health::{CollectorHealth, State};
use round::Round;
use step::Wall;

/// The row of this collector.
pub const INFO: CollectorInfo = CollectorInfo { source: Source::Sampler, thread: "sampler", open };

/// Pressing cgroups are looked at this often.
const FAST: Duration = Duration::from_secs(1);

/// A step of the wall clock, or a shorter interval that is set meanwhile, is noticed within this time: two readings of
/// clocks. A stop wakes the thread up.
const LOOK_EVERY: Duration = Duration::from_secs(1);

fn open(context: Context) -> Result<Box<dyn Worker>, Unavailable> {
    if std::fs::metadata("/proc/self/mountinfo").is_err() {
        return Err(Unavailable("/proc is not mounted: mount it, with the pids of the host".into()));
    }
    let (round, builder) = (Round::new(Path::new("/proc")), EventBuilder::default());
    Ok(Box::new(Sampler { round, context, builder, wall: Wall::default() }))
}

struct Sampler {
    context: Context,
    round: Round,
    builder: EventBuilder,
    wall: Wall,
}

impl Worker for Sampler {
    fn run(&mut self) {
        let health = CollectorHealth::new(State::Running, "");
        self.context.health.set(Source::Sampler, health);
        let (mut whole_due, mut fast_due) = (0, 0);
        let mut beyond = 0;
        while !self.context.stop.is_set() {
            let now = clock::boot_ns();
            self.look_at_clock(now);
            if now >= whole_due {
                self.sample(now, false);
                whole_due = now.saturating_add(nanos(self.context.live.load().sampler_interval));
                fast_due = now.saturating_add(nanos(FAST));
                if self.round.beyond() != beyond {
                    beyond = self.round.beyond();
                    self.say(beyond);
                }
            } else if now >= fast_due {
                self.sample(now, true);
                fast_due = now.saturating_add(nanos(FAST));
            }
            let due = if self.round.has_pressing() { whole_due.min(fast_due) } else { whole_due };
            let rest = Duration::from_nanos(due.saturating_sub(clock::boot_ns()));
            std::thread::park_timeout(rest.min(LOOK_EVERY));
            let interval = nanos(self.context.live.load().sampler_interval);
            whole_due = whole_due.min(clock::boot_ns().saturating_add(interval));
        }
    }

    fn recover(&mut self) {
        self.round = Round::new(Path::new("/proc"));
    }
}

impl Sampler {
    fn sample(&mut self, now: u64, fast: bool) {
        let port = &mut self.context.port;
        let mut send = |event: &mut EventBuilder| {
            if port.send(event, Lane::Bulk).is_err() {
                // The shard has no room: the next sample says the same and more.
                port.publish();
                port.shed(1);
            }
        };
        if fast {
            self.round.fast(now, &mut self.builder, &mut send);
        } else {
            self.round.whole(now, &mut self.builder, &mut send);
            let settings = self.context.live.load();
            self.round.certificates(now, &settings.certificates, &mut self.builder, &mut send);
        }
        self.context.port.publish();
    }

    fn look_at_clock(&mut self, now: u64) {
        let Some((step_ns, since_ns)) = self.wall.look(now, clock::boot_unix_ns()) else { return };
        self.builder.start(Source::Sampler, Kind::ClockStep, now);
        self.builder.slot(step_ns.cast_unsigned()).slot(since_ns);
        let port = &mut self.context.port;
        if port.send(&mut self.builder, Lane::Urgent).is_err() {
            port.publish();
            port.shed(1);
        }
        port.publish();
    }

    fn say(&self, beyond: usize) {
        let health = if beyond == 0 {
            CollectorHealth::new(State::Running, "")
        } else {
            let reason = format!("{beyond} cgroups are beyond the {} that are sampled", round::CGROUPS_MAX);
            CollectorHealth::new(State::Degraded, reason)
        };
        self.context.health.set(Source::Sampler, health);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
