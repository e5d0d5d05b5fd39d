//! What the host has left: memory, tasks, open files, connections that it tracks.
//!
//! Invariants:
//! - What a kernel does not say is [`ABSENT`]; nothing here fails.

use std::fs;
use std::path::{Path, PathBuf};

use super::change::moved;
use super::files::{ABSENT, some_total};

/// The slots of [`crate::event::Kind::NodeUsage`], in their order.
pub(super) const SLOTS: usize = 13;

/// The slots that go up and down, or are limits: those before the stall times.
const GAUGES: usize = 10;

/// Reads below a root, which is `/proc` outside tests.
#[derive(Debug)]
pub(super) struct Host {
    root: PathBuf,
}

impl Host {
    pub(super) fn new(proc: &Path) -> Self {
        Self { root: proc.to_owned() }
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.root.join(name)).unwrap_or_default()
    }

    fn number(&self, name: &str) -> u64 {
        self.text(name).trim().parse().unwrap_or(ABSENT)
    }

    /// What there is now.
    pub(super) fn sample(&self) -> [u64; SLOTS] {
        let memory = self.text("meminfo");
        let load = self.text("loadavg");
        // Running and all tasks, as `2/345`.
        let tasks = load.split(' ').nth(3).and_then(|tasks| tasks.split_once('/')?.1.parse().ok());
        let [tasks_max, pids_max] =
            ["threads-max", "pid_max"].map(|name| self.number(&format!("sys/kernel/{name}")));
        let files = self.text("sys/fs/file-nr");
        let file =
            |index| files.split_whitespace().nth(index).and_then(|word| word.parse().ok()).unwrap_or(ABSENT);
        let [tracked, tracked_max] =
            ["count", "max"].map(|name| self.number(&format!("sys/net/netfilter/nf_conntrack_{name}")));
        let [memory_stalled, cpu_stalled, io_stalled] = ["memory", "cpu", "io"]
            .map(|name| some_total(&self.text(&format!("pressure/{name}"))).unwrap_or(ABSENT));
        [
            kibibytes(&memory, "MemTotal"),
            kibibytes(&memory, "MemAvailable"),
            kibibytes(&memory, "SwapTotal"),
            kibibytes(&memory, "SwapFree"),
            tasks.unwrap_or(ABSENT),
            tasks_max.min(pids_max),
            file(0),
            file(2),
            tracked,
            tracked_max,
            memory_stalled,
            cpu_stalled,
            io_stalled,
        ]
    }
}

/// One line of meminfo, in bytes.
fn kibibytes(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    number.and_then(|count| count.checked_mul(1024)).unwrap_or(ABSENT)
}

/// Whether a sample says something that the last one sent did not.
pub(super) fn is_news(sent: &[u64; SLOTS], now: &[u64; SLOTS]) -> bool {
    sent.iter().zip(now).take(GAUGES).any(|(&before, &now)| moved(before, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Kind;

    /// Scenario: a made-up proc with everything, one with nothing, and this host.
    /// Guarantees: each number is in its slot and unit; what is not there is absent.
    #[test]
    fn numbers_are_in_their_slots() {
        assert_eq!(Kind::NodeUsage.info().slot_words(), SLOTS);
        let slot =
            |name| Kind::NodeUsage.info().slots.iter().position(|slot| slot.name == name).expect("a slot");
        assert_eq!(slot("memory_stalled_us"), GAUGES);
        let root = tempfile::tempdir().expect("a folder");
        assert_eq!(Host::new(root.path()).sample(), [ABSENT; SLOTS]);
        for (name, text) in [
            (
                "meminfo",
                "MemTotal:       10 kB\nMemFree: 1 kB\nMemAvailable:    4 kB\nSwapTotal: 2 kB\nSwapFree: 1 kB\n",
            ),
            ("loadavg", "0.00 0.01 0.05 1/234 5678\n"),
            ("sys/kernel/threads-max", "9000\n"),
            ("sys/kernel/pid_max", "4096\n"),
            ("sys/fs/file-nr", "64\t0\t1000\n"),
            ("sys/net/netfilter/nf_conntrack_count", "7\n"),
            ("sys/net/netfilter/nf_conntrack_max", "8\n"),
            ("pressure/memory", "some avg10=0.00 total=11\nfull avg10=0.00 total=1\n"),
            ("pressure/cpu", "some avg10=0.00 total=12\n"),
            ("pressure/io", "some avg10=0.00 total=13\n"),
        ] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        let sample = Host::new(root.path()).sample();
        assert_eq!(sample, [10_240, 4096, 2048, 1024, 234, 4096, 64, 1000, 7, 8, 11, 12, 13]);
        let real = Host::new(Path::new("/proc")).sample();
        assert!(real[slot("available_bytes")] <= real[slot("memory_bytes")]);
        assert!(real[slot("tasks")] <= real[slot("tasks_limit")], "{real:?}");
    }

    /// Scenario: stall times grow; a gauge moves by half and by two hundredths.
    /// Guarantees: only the second gauge is news.
    #[test]
    fn stalls_are_no_news() {
        let sent = [1000; SLOTS];
        let mut now = sent;
        now[GAUGES] = 5000;
        now[1] = 1005;
        assert!(!is_news(&sent, &now));
        now[1] = 980;
        assert!(is_news(&sent, &now));
    }
}
