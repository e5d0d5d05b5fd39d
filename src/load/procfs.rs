//! What /proc says of processes and CPUs. Parsing is apart from reading, so that it can be tested.

use std::collections::{HashMap, HashSet};
use std::fs;

use super::stats::float;

/// CPU time of a process, all threads that live, nanoseconds: the scheduler's own sums, not ticks.
///
/// 0 when the process is gone.
pub(super) fn cpu_ns(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// CPU time by thread name, nanoseconds.
pub(super) fn cpu_ns_by_thread(pid: u32) -> Vec<(String, u64)> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut threads: Vec<_> = tasks
        .flatten()
        .filter_map(|task| {
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            let stat = fs::read_to_string(task.path().join("schedstat")).ok()?;
            Some((name.trim().to_owned(), stat.split_whitespace().next()?.parse().ok()?))
        })
        .collect();
    threads.sort();
    threads
}

/// Memory of a process, KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// Resident now; a page that is mapped twice counts twice.
    pub(super) rss: u64,
    /// The most that was resident.
    pub(super) peak: u64,
    /// Resident now, each page counted once: `Pss`, which shares a page among its mappings.
    pub(super) once: u64,
}

/// Memory of a process; zeros when it is gone.
pub(super) fn memory(pid: u32) -> Memory {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    Memory {
        rss: kib_field(&status, "VmRSS:"),
        peak: kib_field(&status, "VmHWM:"),
        once: kib_field(&rollup, "Pss:"),
    }
}

fn kib_field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Ticks of one CPU since boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CpuTicks {
    pub(super) total: u64,
    pub(super) steal: u64,
}

/// Ticks of every CPU, in order.
pub(super) fn cpu_ticks() -> Vec<CpuTicks> {
    parse_cpu_ticks(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

fn parse_cpu_ticks(text: &str) -> Vec<CpuTicks> {
    text.lines()
        .filter_map(|line| line.strip_prefix("cpu"))
        .filter(|line| line.starts_with(|first: char| first.is_ascii_digit()))
        .map(|line| {
            // user nice system idle iowait irq softirq steal; guest times are within user and nice.
            let ticks: Vec<u64> =
                line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
            CpuTicks { total: ticks.iter().sum(), steal: ticks.get(7).copied().unwrap_or(0) }
        })
        .collect()
}

/// One process, as /proc/PID/stat tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// Its own and that of the children that it has waited for, ticks.
    ticks: u64,
    /// That of those children alone.
    waited: u64,
}

/// CPU time of the children that this process has waited for, seconds.
pub(super) fn waited_s() -> f64 {
    own_s(|stat| stat.waited)
}

/// The same with its own.
pub(super) fn spent_s() -> f64 {
    own_s(|stat| stat.ticks)
}

fn own_s(which: impl FnOnce(Stat) -> u64) -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    float(parse_stat(&text).map_or(0, which)) / float(ticks_per_second())
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name may hold spaces and brackets: fields are counted behind the last bracket.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(field(1)?).ok()?,
        ticks: field(11)? + field(12)? + field(13)? + field(14)?,
        waited: field(13)? + field(14)?,
    })
}

/// CPU time of all processes that are not `root` or below it, children that were waited for included, ticks.
///
/// Only the sum means something: a process that ends moves its time to the parent that waits for it.
pub(super) fn foreign_ticks(root: u32) -> u64 {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let stats: HashMap<u32, Stat> = entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, parse_stat(&fs::read_to_string(entry.path().join("stat")).ok()?)?))
        })
        .collect();
    let mut own = HashSet::from([root]);
    loop {
        let before = own.len();
        own.extend(
            stats
                .iter()
                .filter(|(_, stat)| own.contains(&stat.parent))
                .map(|(&pid, _)| pid)
                .collect::<Vec<_>>(),
        );
        if own.len() == before {
            break;
        }
    }
    stats.iter().filter(|(pid, _)| !own.contains(pid)).map(|(_, stat)| stat.ticks).sum()
}

/// Ticks a second, as /proc counts them.
pub(super) fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a process whose name holds a bracket and spaces.
    /// Guarantees: parent and times are those behind the name.
    #[test]
    fn stat_survives_hostile_names() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 100 1 1";
        assert_eq!(parse_stat(text), Some(Stat { parent: 7, ticks: 100, waited: 70 }));
        assert_eq!(parse_stat("42 (a"), None);
    }

    /// Scenario: /proc/stat of two CPUs.
    /// Guarantees: the line of the sum is left out, guest time is not counted twice.
    #[test]
    fn cpu_lines() {
        let text = "cpu  2 0 0 0 0 0 0 0 0 0\ncpu0 1 2 3 4 5 6 7 8 9 9\ncpu1 1 1 1 1 1 1 1 1\nintr 5\n";
        let ticks = parse_cpu_ticks(text);
        assert_eq!(ticks, [CpuTicks { total: 36, steal: 8 }, CpuTicks { total: 8, steal: 1 }]);
    }

    /// Scenario: this process looks at itself.
    /// Guarantees: it has memory, used CPU, and is not foreign to itself.
    #[test]
    fn reads_the_own_process() {
        let own = std::process::id();
        let memory = memory(own);
        assert!(memory.rss > 0 && memory.peak >= memory.rss && memory.once > 0);
        assert!(foreign_ticks(own) > 0, "something started this");
        assert!(cpu_ns(own) > 0);
        assert!(!cpu_ns_by_thread(own).is_empty());
    }
}
