//! Open files of a few processes, against their limits.
//!
//! Invariants:
//! - A process costs one stat where the kernel counts for it (6.2), else a bounded read of a directory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Processes of a cgroup that are looked at: its first ones, among which is the one that everything else came from.
pub(super) const PROCESSES_MAX: usize = 3;

/// Open files that are counted one by one at most.
const COUNTED_MAX: usize = 65_536;

/// A proc file system.
#[derive(Debug)]
pub(super) struct Proc {
    root: PathBuf,
    /// The size of `/proc/PID/fd` is the number of open files.
    counts: bool,
}

/// A process and the limit of its open files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Watched {
    pid: u32,
    limit: u64,
}

impl Proc {
    pub(super) fn new(root: &Path) -> Self {
        let own = fs::metadata(root.join("self/fd")).map_or(0, |data| data.size());
        Self { root: root.to_owned(), counts: own > 0 }
    }

    /// The first processes of a `cgroup.procs`, with their limits.
    pub(super) fn watch(&self, procs: &str) -> Vec<Watched> {
        let pids = procs.lines().filter_map(|line| line.trim().parse().ok()).take(PROCESSES_MAX);
        pids.filter_map(|pid| Some(Watched { pid, limit: self.limit(pid)? })).collect()
    }

    fn limit(&self, pid: u32) -> Option<u64> {
        let text = fs::read_to_string(self.root.join(format!("{pid}/limits"))).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// Open files and their limit, of the process that is nearest to its limit.
    pub(super) fn fullest(&self, watched: &[Watched]) -> Option<(u64, u64)> {
        let counts = watched.iter().filter_map(|one| Some((self.open_files(one.pid)?, one.limit)));
        counts.max_by(|(used, limit), (other, others)| {
            (u128::from(*used) * u128::from(*others)).cmp(&(u128::from(*other) * u128::from(*limit)))
        })
    }

    fn open_files(&self, pid: u32) -> Option<u64> {
        let directory = self.root.join(format!("{pid}/fd"));
        if self.counts {
            return fs::metadata(directory).ok().map(|data| data.size());
        }
        u64::try_from(fs::read_dir(directory).ok()?.take(COUNTED_MAX).count()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: processes of a made-up proc, one without limit, one gone; and this process.
    /// Guarantees: the one that is nearest to its limit counts; the real proc says what is really open.
    #[test]
    fn the_fullest_process_counts() {
        let root = tempfile::tempdir().expect("a folder");
        for (pid, files, limit) in [(7, 3, "1024"), (8, 2, "4"), (9, 9, "unlimited")] {
            fs::create_dir_all(root.path().join(format!("{pid}/fd"))).expect("made");
            for file in 0..files {
                fs::write(root.path().join(format!("{pid}/fd/{file}")), "").expect("written");
            }
            let limits =
                format!("Limit    Soft Limit  Hard Limit  Units\nMax open files   {limit}   4096   files\n");
            fs::write(root.path().join(format!("{pid}/limits")), limits).expect("written");
        }
        let proc = Proc::new(root.path());
        let watched = proc.watch("7\n8\n9\n10\n");
        assert_eq!(watched.len(), 2);
        assert_eq!(proc.fullest(&watched), Some((2, 4)));
        assert_eq!(proc.fullest(&[]), None);

        let real = Proc::new(Path::new("/proc"));
        let own = real.watch(&std::process::id().to_string());
        let (used, limit) = real.fullest(&own).expect("this process");
        assert!(used >= 3 && limit >= used, "{used} of {limit}");
    }
}
