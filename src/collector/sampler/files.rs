//! The files of a cgroup, v1 and v2, and what each says.
//!
//! Invariants:
//! - [`Usage`] is the slots of [`crate::event::Kind::CgroupUsage`], in their order: a test compares.
//! - A file that is not there, or that says something else than expected, leaves [`ABSENT`].

use super::layout::Controller;

/// What no file said, and a limit that is not set.
pub(super) const ABSENT: u64 = u64::MAX;

macro_rules! fields {
    ($($field:ident),+) => {
        /// A slot of the event.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Field { $($field),+ }

        /// How many there are.
        pub(super) const FIELDS: usize = [$(Field::$field),+].len();

        #[cfg(test)]
        const NAMES: [&str; FIELDS] = [$(stringify!($field)),+];
    };
}

fields! {
    MemoryBytes, MemoryLimitBytes, SwapBytes, AnonBytes, Tasks, TasksLimit, OpenFiles, OpenFilesLimit, CpuUs, CpuPeriods,
    CpuThrottledPeriods, CpuThrottledUs, MemoryStalledUs, CpuStalledUs, IoStalledUs, WrittenBytes, OomKills, ForksRefused
}

/// What a cgroup uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage(pub(super) [u64; FIELDS]);

impl Default for Usage {
    fn default() -> Self {
        Self([ABSENT; FIELDS])
    }
}

impl Usage {
    pub(super) fn get(&self, field: Field) -> u64 {
        self.0[field as usize]
    }

    pub(super) fn set(&mut self, field: Field, value: u64) {
        self.0[field as usize] = value;
    }
}

/// One file.
pub(super) struct FileInfo {
    /// In which hierarchy.
    pub(super) on: Controller,
    pub(super) name: &'static str,
    /// Whether it is read for every sample, and kept open; else for those that are sent.
    pub(super) each: bool,
    pub(super) read: fn(&str, &mut Usage),
}

const fn each(on: Controller, name: &'static str, read: fn(&str, &mut Usage)) -> FileInfo {
    FileInfo { on, name, each: true, read }
}

const fn seldom(on: Controller, name: &'static str, read: fn(&str, &mut Usage)) -> FileInfo {
    FileInfo { on, name, each: false, read }
}

/// Every file. Where a hybrid host has something twice, the later row counts: v1 has the controllers there.
pub(super) const FILES: &[FileInfo] = &[
    each(Controller::Unified, "memory.current", |text, usage| number(text, usage, Field::MemoryBytes)),
    seldom(Controller::Unified, "memory.max", |text, usage| number(text, usage, Field::MemoryLimitBytes)),
    seldom(Controller::Unified, "memory.swap.current", |text, usage| number(text, usage, Field::SwapBytes)),
    // The dear one: the kernel first adds up what every CPU counted.
    seldom(Controller::Unified, "memory.stat", |text, usage| own(text, usage, ["anon", "shmem"])),
    each(Controller::Unified, "memory.events", |text, usage| {
        keyed(text, usage, &[("oom_kill", Field::OomKills, 1)])
    }),
    each(Controller::Unified, "pids.current", |text, usage| number(text, usage, Field::Tasks)),
    seldom(Controller::Unified, "pids.max", |text, usage| number(text, usage, Field::TasksLimit)),
    each(Controller::Unified, "pids.events", |text, usage| {
        keyed(text, usage, &[("max", Field::ForksRefused, 1)])
    }),
    each(Controller::Unified, "cpu.stat", |text, usage| {
        let fields = [
            ("usage_usec", Field::CpuUs, 1),
            ("nr_periods", Field::CpuPeriods, 1),
            ("nr_throttled", Field::CpuThrottledPeriods, 1),
            ("throttled_usec", Field::CpuThrottledUs, 1),
        ];
        keyed(text, usage, &fields);
    }),
    each(Controller::Unified, "memory.pressure", |text, usage| stalled(text, usage, Field::MemoryStalledUs)),
    seldom(Controller::Unified, "cpu.pressure", |text, usage| stalled(text, usage, Field::CpuStalledUs)),
    seldom(Controller::Unified, "io.pressure", |text, usage| stalled(text, usage, Field::IoStalledUs)),
    seldom(Controller::Unified, "io.stat", |text, usage| written(text, usage, "wbytes=")),
    each(Controller::Memory, "memory.usage_in_bytes", |text, usage| number(text, usage, Field::MemoryBytes)),
    seldom(Controller::Memory, "memory.limit_in_bytes", v1_limit),
    seldom(Controller::Memory, "memory.stat", |text, usage| {
        own(text, usage, ["total_rss", "total_shmem"]);
        keyed(text, usage, &[("total_swap", Field::SwapBytes, 1)]);
    }),
    each(Controller::Memory, "memory.oom_control", |text, usage| {
        keyed(text, usage, &[("oom_kill", Field::OomKills, 1)]);
    }),
    each(Controller::Pids, "pids.current", |text, usage| number(text, usage, Field::Tasks)),
    seldom(Controller::Pids, "pids.max", |text, usage| number(text, usage, Field::TasksLimit)),
    each(Controller::Pids, "pids.events", |text, usage| {
        keyed(text, usage, &[("max", Field::ForksRefused, 1)])
    }),
    each(Controller::Cpuacct, "cpuacct.usage", |text, usage| {
        if let Ok(nanos) = text.trim().parse::<u64>() {
            usage.set(Field::CpuUs, nanos / 1000);
        }
    }),
    each(Controller::Cpu, "cpu.stat", |text, usage| {
        let fields = [
            ("nr_periods", Field::CpuPeriods, 1),
            ("nr_throttled", Field::CpuThrottledPeriods, 1),
            ("throttled_time", Field::CpuThrottledUs, 1000),
        ];
        keyed(text, usage, &fields);
    }),
    seldom(Controller::Blkio, "blkio.throttle.io_service_bytes", |text, usage| {
        written(text, usage, " Write ")
    }),
];

/// One number; `max` is no limit.
fn number(text: &str, usage: &mut Usage, field: Field) {
    usage.set(field, text.trim().parse().unwrap_or(ABSENT));
}

/// v1 writes no limit as the largest number of whole pages.
fn v1_limit(text: &str, usage: &mut Usage) {
    let limit = text.trim().parse().unwrap_or(ABSENT);
    usage.set(Field::MemoryLimitBytes, if limit >= 1 << 62 { ABSENT } else { limit });
}

/// Lines of `key number`, each number divided.
fn keyed(text: &str, usage: &mut Usage, fields: &[(&str, Field, u64)]) {
    for line in text.lines() {
        let Some((key, value)) = line.split_once(' ') else { continue };
        for &(name, field, divisor) in fields {
            if key == name
                && let Ok(value) = value.trim().parse::<u64>()
            {
                usage.set(field, value / divisor);
            }
        }
    }
}

/// What processes have of their own, which does not give way as the page cache does: the sum of these lines.
fn own(text: &str, usage: &mut Usage, names: [&str; 2]) {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    let numbers =
        pairs.filter(|(name, _)| names.contains(name)).map(|(_, number)| number.trim().parse::<u64>());
    let numbers: Vec<u64> = numbers.filter_map(Result::ok).collect();
    if !numbers.is_empty() {
        usage.set(Field::AnonBytes, numbers.iter().sum());
    }
}

/// The total of the first line of a pressure file: when some task was stalled.
pub(super) fn some_total(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    line.rsplit_once("total=")?.1.trim().parse().ok()
}

fn stalled(text: &str, usage: &mut Usage, field: Field) {
    usage.set(field, some_total(text).unwrap_or(ABSENT));
}

/// The sum over all devices of the numbers behind a mark.
fn written(text: &str, usage: &mut Usage, mark: &str) {
    let behind = |line: &str| {
        let digits = line.split_once(mark)?.1;
        digits.split(' ').next()?.trim().parse::<u64>().ok()
    };
    // A cgroup that has written nothing has no line.
    usage.set(Field::WrittenBytes, text.lines().filter_map(behind).sum());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Kind;

    fn read(on: Controller, name: &str, text: &str) -> Usage {
        let mut usage = Usage::default();
        let file = FILES.iter().find(|file| file.on == on && file.name == name).expect("in the table");
        (file.read)(text, &mut usage);
        usage
    }

    /// Scenario: the fields beside the slots of the kind.
    /// Guarantees: same names in the same order.
    #[test]
    fn fields_are_the_slots() {
        let slots: Vec<String> =
            Kind::CgroupUsage.info().slots.iter().map(|slot| slot.name.replace('_', "")).collect();
        assert_eq!(slots, NAMES.map(str::to_lowercase));
    }

    /// Scenario: files as kernels write them, of v2 and v1, with and without limits, and nonsense.
    /// Guarantees: each number arrives in its unit; no limit and nonsense are absent.
    #[test]
    fn files_are_read() {
        use Controller::{Blkio, Cpu, Cpuacct, Memory, Unified};
        let get = |on, name, text, field| read(on, name, text).get(field);
        assert_eq!(get(Unified, "memory.current", "4096\n", Field::MemoryBytes), 4096);
        assert_eq!(get(Unified, "memory.max", "max\n", Field::MemoryLimitBytes), ABSENT);
        assert_eq!(get(Unified, "memory.max", "x", Field::MemoryLimitBytes), ABSENT);
        assert_eq!(
            get(Unified, "memory.stat", "anon 70\nfile 9\nshmem 7\nanon_thp 9\n", Field::AnonBytes),
            77
        );
        assert_eq!(
            get(Unified, "memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 1\n", Field::OomKills),
            2
        );
        let cpu = read(
            Unified,
            "cpu.stat",
            "usage_usec 9\nuser_usec 5\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\n",
        );
        assert_eq!((cpu.get(Field::CpuUs), cpu.get(Field::CpuPeriods)), (9, 4));
        assert_eq!((cpu.get(Field::CpuThrottledPeriods), cpu.get(Field::CpuThrottledUs)), (3, 2));
        let pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";
        assert_eq!(get(Unified, "memory.pressure", pressure, Field::MemoryStalledUs), 1234);
        let io =
            "8:0 rbytes=1 wbytes=10 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=2 wbytes=5 rios=1 wios=1\n";
        assert_eq!(get(Unified, "io.stat", io, Field::WrittenBytes), 15);
        assert_eq!(get(Unified, "io.stat", "", Field::WrittenBytes), 0);
        assert_eq!(
            get(Memory, "memory.limit_in_bytes", "9223372036854771712\n", Field::MemoryLimitBytes),
            ABSENT
        );
        assert_eq!(get(Memory, "memory.limit_in_bytes", "1048576\n", Field::MemoryLimitBytes), 1 << 20);
        assert_eq!(
            get(
                Memory,
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
                Field::OomKills
            ),
            4
        );
        assert_eq!(get(Cpuacct, "cpuacct.usage", "5000\n", Field::CpuUs), 5);
        assert_eq!(get(Cpu, "cpu.stat", "nr_periods 0\nthrottled_time 7000\n", Field::CpuThrottledUs), 7);
        let blkio = "8:0 Read 1\n8:0 Write 20\n8:0 Total 21\nTotal 21\n";
        assert_eq!(get(Blkio, "blkio.throttle.io_service_bytes", blkio, Field::WrittenBytes), 20);
    }
}
