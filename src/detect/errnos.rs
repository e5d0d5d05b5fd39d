//! System calls that fail for want of a resource, other than space.
//!
//! Invariants:
//! - Programs may write to what is read-only by design: `EROFS` means something only after a file system became so.
//! - `EIO` of a terminal that is gone is no fault of a disk: it means something only after a disk failed.

use super::Detector;
use super::bounded::Throttle;
use super::devices::number;
use super::fact::{Fact, FactKind, KeyKind};
use super::seen::Seen;
use crate::event::{Kind, fields};

/// Owners and errnos whose bursts are told apart, at most.
const BURSTS_MAX: usize = 4096;

/// A burst is told again after this time.
const AGAIN_NS: u64 = 10_000_000_000;

/// For so long a disk's failure explains errors of programs.
const DISK_NS: u64 = 600_000_000_000;

const EIO: u64 = 5;
const EAGAIN: u64 = 11;
const ENFILE: u64 = 23;
const EMFILE: u64 = 24;
const EROFS: u64 = 30;
const EADDRINUSE: u64 = 98;

/// System calls that make a process or thread.
#[cfg(target_arch = "x86_64")]
const FORKS: [u64; 4] = [56, 57, 58, 435];
#[cfg(not(target_arch = "x86_64"))]
const FORKS: [u64; 2] = [220, 435];

/// What is known of the disks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Disks {
    /// When one failed a request.
    pub(super) failed_ns: Option<u64>,
    /// When a file system became read-only.
    pub(super) read_only_ns: Option<u64>,
}

/// What an errno means.
pub(super) fn classify(syscall: u64, errno: u64, now_ns: u64, disks: Disks) -> Option<FactKind> {
    let recent = |at: Option<u64>| at.is_some_and(|at| now_ns < at.saturating_add(DISK_NS));
    match errno {
        EMFILE | ENFILE => Some(FactKind::FdExhausted),
        EAGAIN if FORKS.contains(&syscall) => Some(FactKind::PidsLimitHit),
        EADDRINUSE => Some(FactKind::PortConflict),
        EROFS if recent(disks.read_only_ns) => Some(FactKind::ReadOnlyFilesystem),
        EIO if recent(disks.failed_ns) => Some(FactKind::IoError),
        _ => None,
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Errnos {
    bursts: Throttle<(u64, u64)>,
    disks: Disks,
    /// The device that failed last.
    device: String,
}

impl Default for Errnos {
    fn default() -> Self {
        Self { bursts: Throttle::new(BURSTS_MAX, AGAIN_NS), disks: Disks::default(), device: String::new() }
    }
}

impl Detector for Errnos {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let now = seen.time_ns();
        match seen.kind() {
            Kind::BlockError => {
                self.disks.failed_ns = Some(now);
                self.device = number(seen.number("device"));
            }
            Kind::LogRecord => {
                match &*seen.field(fields::MEANING) {
                    "io_error" | "filesystem_error" => self.disks.failed_ns = Some(now),
                    "read_only" | "filesystem_shutdown" => self.disks.read_only_ns = Some(now),
                    _ => return,
                }
                self.device = seen.field(fields::DEVICE).into_owned();
            }
            Kind::SyscallError => {
                let errno = seen.number("errno");
                let kind = classify(seen.number("syscall"), errno, now, self.disks);
                let Some(kind) = kind else { return };
                let Some(count) = self.bursts.pass((seen.owner.key, errno), now) else { return };
                let count = count + seen.number("suppressed");
                let fact = seen.fact(kind).with("errno", errno).with("count", count);
                let is_disk = matches!(kind, FactKind::IoError | FactKind::ReadOnlyFilesystem);
                let fact = if is_disk { fact.key(KeyKind::Device, &*self.device) } else { fact };
                let fact = if errno == ENFILE { fact.with("limit", "node") } else { fact };
                out.push(fact.with("comm", seen.chars("comm")).with("pid", u64::from(seen.pid())));
            }
            _ => {}
        }
    }

    fn evicted(&self) -> u64 {
        self.bursts.evicted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the errnos that the probe reports, before and after a disk failed.
    /// Guarantees: EAGAIN counts for forks only, EROFS and EIO only after a disk gave reason.
    #[test]
    fn errnos_mean_something_in_their_place() {
        let sick = Disks { failed_ns: Some(5), read_only_ns: Some(5) };
        for (syscall, errno, disks, expected) in [
            (FORKS[0], EAGAIN, Disks::default(), Some(FactKind::PidsLimitHit)),
            (1, EAGAIN, Disks::default(), None),
            (288, EMFILE, Disks::default(), Some(FactKind::FdExhausted)),
            (49, EADDRINUSE, Disks::default(), Some(FactKind::PortConflict)),
            (1, EROFS, Disks::default(), None),
            (1, EROFS, sick, Some(FactKind::ReadOnlyFilesystem)),
            (1, EIO, Disks::default(), None),
            (1, EIO, sick, Some(FactKind::IoError)),
            (1, 2, sick, None),
        ] {
            assert_eq!(classify(syscall, errno, 6, disks), expected, "{syscall} {errno}");
        }
        assert_eq!(classify(1, EIO, 5 + DISK_NS, sick), None);
    }
}
