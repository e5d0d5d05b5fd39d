//! What cgroups, file systems and the host use of what is limited: series for predictions, and limits that bite.
//!
//! Invariants:
//! - A series has at most [`SAMPLES_MAX`] samples: when it is full, every other one goes, so that it reaches further
//!   back at half the resolution.
//! - Below [`LEVEL_MIN`] of its limit nothing is told: what is far from its limit is nobody's worry.
//! - Resources are called `memory`, `tasks`, `open_files`, `disk`, `inodes`, `conntrack` and `written_bytes`.

use super::Detector;
use super::bounded::{Bounded, Throttle};
use super::devices::number;
use super::fact::{Fact, FactKind, KeyKind, Subject, Value};
use super::seen::Seen;
use crate::event::{Kind, fields};

/// Series kept, at most.
const SERIES_MAX: usize = 8192;

/// Samples of one series, at most.
const SAMPLES_MAX: usize = 64;

/// Part of its limit from which a series is told, per cent.
const LEVEL_MIN: u64 = 40;

/// Growth from which a series of bytes without a limit is told.
const GROWTH_MIN: u64 = 16 << 20;

/// A series is told again after this time.
const AGAIN_NS: u64 = 10_000_000_000;

/// Part of its periods that a cgroup waits in when it is throttled, per cent, in at least so many periods.
const THROTTLED: u64 = 25;
const PERIODS_MIN: u64 = 20;

/// What is not said, or not limited.
const NONE: u64 = u64::MAX;

/// What was seen of one resource.
#[derive(Debug, Clone, Default)]
struct Series {
    samples: Vec<(u64, u64)>,
    limit: u64,
    /// How much time one sample stands for.
    step_ns: u64,
}

impl Series {
    fn add(&mut self, time_ns: u64, value: u64, limit: u64) {
        // A new limit is a new story.
        if self.limit != limit {
            *self = Self { limit, ..Self::default() };
        }
        match self.samples.last_mut() {
            Some((last_ns, _)) if time_ns < *last_ns => return,
            Some((last_ns, last)) if time_ns < last_ns.saturating_add(self.step_ns) => {
                *last = (*last).max(value);
                return;
            }
            _ => self.samples.push((time_ns, value)),
        }
        if self.samples.len() >= SAMPLES_MAX {
            let mut index = 0;
            self.samples.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            let span = |first: &(u64, u64), last: &(u64, u64)| last.0.saturating_sub(first.0);
            let whole =
                self.samples.first().zip(self.samples.last()).map_or(0, |(first, last)| span(first, last));
            self.step_ns = whole / u64::try_from(self.samples.len()).unwrap_or(1).max(1);
        }
    }

    /// Whether it may matter: near its limit, or, of what has no limit of its own, much more than it was.
    fn matters(&self) -> bool {
        let (first, last) = match (self.samples.first(), self.samples.last()) {
            (Some((_, first)), Some((_, last))) => (*first, *last),
            _ => return false,
        };
        if self.limit == NONE {
            return self.samples.len() >= 2 && last.saturating_sub(first) >= GROWTH_MIN;
        }
        self.samples.len() >= 3 && last.saturating_mul(100) >= self.limit.saturating_mul(LEVEL_MIN)
    }
}

/// Counters of a cgroup that only grow.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    periods: u64,
    throttled: u64,
    refused: u64,
    conntrack_full: bool,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Gauges {
    series: Bounded<(u64, String), Series>,
    counters: Bounded<u64, Counters>,
    told: Throttle<(u64, String)>,
}

impl Default for Gauges {
    fn default() -> Self {
        Self {
            series: Bounded::new(SERIES_MAX),
            counters: Bounded::new(SERIES_MAX),
            told: Throttle::new(SERIES_MAX, AGAIN_NS),
        }
    }
}

impl Detector for Gauges {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        match seen.kind() {
            Kind::CgroupUsage => {
                // The page cache gives way before a limit is hit: what processes have of their own does not.
                let own = match seen.number("anon_bytes") {
                    NONE | 0 => seen.number("memory_bytes"),
                    anon => anon,
                };
                for (resource, used, limit) in [
                    ("memory", own, "memory_limit_bytes"),
                    ("tasks", seen.number("tasks"), "tasks_limit"),
                    ("open_files", seen.number("open_files"), "open_files_limit"),
                    ("written_bytes", seen.number("written_bytes"), ""),
                ] {
                    let limit = if limit.is_empty() { NONE } else { seen.number(limit) };
                    self.sample(seen, resource, (used, limit), out);
                }
                self.counted(seen, out);
            }
            Kind::NodeUsage => self.node(seen, out),
            Kind::FilesystemUsage if seen.number("read_only") != 1 => {
                let (bytes, inodes) = (seen.number("bytes"), seen.number("inodes"));
                let used = bytes.saturating_sub(seen.number("available_bytes"));
                self.sample(seen, "disk", (used, bytes), out);
                self.sample(seen, "inodes", (inodes.saturating_sub(seen.number("free_inodes")), inodes), out);
            }
            _ => {}
        }
    }

    fn evicted(&self) -> u64 {
        self.series.evicted() + self.counters.evicted() + self.told.evicted()
    }
}

impl Gauges {
    fn sample(
        &mut self,
        seen: &Seen<'_>,
        resource: &'static str,
        (used, limit): (u64, u64),
        out: &mut Vec<Fact>,
    ) {
        // Counts of things without a limit lead nowhere; bytes are used up for others.
        let is_bytes = matches!(resource, "memory" | "written_bytes");
        if used == NONE || limit == 0 || limit == NONE && !is_bytes {
            return;
        }
        let mount = seen.field(fields::MOUNT);
        let key = (seen.owner.key, format!("{resource}{mount}"));
        let series = self.series.entry(key.clone(), Series::default);
        series.add(seen.time_ns(), used, limit);
        if !series.matters() || self.told.pass(key, seen.time_ns()).is_none() {
            return;
        }
        let samples = series.samples.clone();
        let fact = if mount.is_empty() {
            seen.fact(FactKind::ResourceTrend)
        } else {
            let device = seen.number("device");
            let fact = seen.fact_about(FactKind::ResourceTrend, Subject::new("mount", &*mount));
            fact.key(KeyKind::Mount, &*mount).key(KeyKind::Device, number(device))
        };
        let fact = fact.with("resource", resource);
        let fact = if limit == NONE { fact } else { fact.with("limit", limit) };
        out.push(fact.with("series", Value::Series(samples)));
    }

    fn node(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let (memory, available) = (seen.number("memory_bytes"), seen.number("available_bytes"));
        if available != NONE {
            self.sample(seen, "memory", (memory.saturating_sub(available), memory), out);
        }
        for (resource, used, limit) in [
            ("tasks", "tasks", "tasks_limit"),
            ("open_files", "open_files", "open_files_limit"),
            ("conntrack", "conntrack", "conntrack_limit"),
        ] {
            self.sample(seen, resource, (seen.number(used), seen.number(limit)), out);
        }
        let (used, limit) = (seen.number("conntrack"), seen.number("conntrack_limit"));
        let is_full = used != NONE && limit != NONE && limit > 0 && used >= limit;
        let counters = self.counters.entry(seen.owner.key, Counters::default);
        if is_full && !counters.conntrack_full {
            out.push(seen.fact_about(FactKind::ConntrackFull, seen.node()).with("limit", limit));
        }
        counters.conntrack_full = is_full;
    }

    /// What the kernel counts of refusals and waiting.
    fn counted(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let (periods, throttled) = (seen.number("cpu_periods"), seen.number("cpu_throttled_periods"));
        let refused = seen.number("forks_refused");
        let now = Counters { periods, throttled, refused, conntrack_full: false };
        let before = self.counters.get(&seen.owner.key).copied();
        self.counters.insert(seen.owner.key, now);
        // What happened before the first sample happened at an unknown time.
        let Some(before) = before else { return };
        if refused != NONE && refused > before.refused {
            let count = refused - before.refused;
            let fact = seen.fact(FactKind::PidsLimitHit).with("count", count);
            out.push(fact.with("limit", seen.number("tasks_limit")));
        }
        if periods == NONE || throttled == NONE {
            return;
        }
        let (periods, throttled) =
            (periods.saturating_sub(before.periods), throttled.saturating_sub(before.throttled));
        if periods < PERIODS_MIN || throttled.saturating_mul(100) < periods.saturating_mul(THROTTLED) {
            return;
        }
        if self.told.pass((seen.owner.key, "throttled".to_owned()), seen.time_ns()).is_some() {
            let ratio = throttled.saturating_mul(100) / periods.max(1);
            out.push(seen.fact(FactKind::CpuThrottled).with("ratio_percent", ratio).with("count", throttled));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::EventId;
    use super::*;
    use crate::event::{Event, EventBuilder, Source};

    /// Scenario: a thousand samples, a changed limit, a sample from the past.
    /// Guarantees: the series is bounded and keeps its beginning, a new limit starts it anew, the past is passed over.
    #[test]
    fn series_reach_back() {
        let mut series = Series::default();
        for step in 0..1000 {
            series.add(step * 1_000_000_000, step, 2000);
            assert!(series.samples.len() < SAMPLES_MAX);
        }
        assert_eq!(series.samples.first(), Some(&(0, 0)));
        assert!(series.samples.is_sorted());
        assert!(series.samples.last().is_some_and(|(_, value)| *value > 950));
        assert!(series.matters());
        series.add(5, 1, 2000);
        assert!(series.samples.is_sorted());
        series.add(2_000_000_000_000, 3, 10);
        assert_eq!(series.samples, [(2_000_000_000_000, 3)]);
        assert!(!series.matters());
    }

    /// The trends of memory that samples of a cgroup bring, one each ten seconds, at a limit of 1000.
    fn memory_trends(samples: impl Iterator<Item = (u64, u64)>) -> Vec<Fact> {
        let owner = crate::entity::Entity { key: 7, ..crate::entity::Entity::default() };
        let mut builder = EventBuilder::default();
        let (mut gauges, mut out) = (Gauges::default(), Vec::new());
        for (step, (all, own)) in (1_u64..).zip(samples) {
            builder.start(Source::Sampler, Kind::CgroupUsage, step * 10_000_000_000);
            for slot in Kind::CgroupUsage.info().slots {
                builder.slot(match slot.name {
                    "memory_bytes" => all,
                    "memory_limit_bytes" => 1000,
                    "anon_bytes" => own,
                    _ => NONE,
                });
            }
            let event = Event::parse(builder.finish()).expect("an event");
            let id = EventId { source: Source::Sampler, producer: 0, sequence: step };
            gauges
                .event(&Seen { event, owner: &owner, id, host: "n1", above: &Default::default() }, &mut out);
        }
        out.retain(|fact| fact.detail.get("resource") == Some(&Value::from("memory")));
        out
    }

    /// Scenario: the page cache of a cgroup grows up to its limit; then what its processes have does; a kernel that does
    /// not tell them apart.
    /// Guarantees: the cache foretells nothing, the processes do, and where nobody knows better all of it does.
    #[test]
    fn the_page_cache_is_no_leak() {
        use crate::explain::predict::forecast;
        let foretold = |facts: &[Fact]| facts.iter().any(|fact| forecast(fact).is_some());
        assert!(!foretold(&memory_trends((1..30).map(|step| (step * 33, 200)))));
        assert!(foretold(&memory_trends((1..30).map(|step| (step * 33, step * 33)))));
        assert!(foretold(&memory_trends((1..30).map(|step| (step * 33, NONE)))));
    }
}
