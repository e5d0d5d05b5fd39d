//! Writes that fail for want of space, and the file systems that are full.
//!
//! A failed system call does not say which file system it was about. The last usage of every file system does: one that
//! is out of bytes, or out of inodes while bytes are left. Until a file system that fits is seen, the failure waits.
//!
//! Invariants:
//! - A file system that is read-only, or that nobody else uses, makes nobody suffer: it is `small` or no fact.
//! - A failure that waited [`WAIT_NS`] is told without its file system; where nobody samples them, at once.

use super::Detector;
use super::bounded::{Bounded, Throttle};
use super::devices::number;
use super::fact::{Fact, FactKind, KeyKind, Subject};
use super::seen::{Seen, with_text};
use super::text;
use crate::event::{Kind, fields};

/// File systems remembered, at most.
const MOUNTS_MAX: usize = 1024;

/// Failures that wait, at most.
const WAITING_MAX: usize = 256;

/// How long a failure waits for a file system that fits.
const WAIT_NS: u64 = 12_000_000_000;

/// Failures of one owner are told again after this time.
const AGAIN_NS: u64 = 10_000_000_000;

/// A usage older than this says nothing about now.
const FRESH_NS: u64 = 120_000_000_000;

/// A file system smaller than this, unless it is the root, is one program's own.
const SMALL_BYTES: u64 = 256 << 20;

const ENOSPC: u64 = 28;
const EDQUOT: u64 = 122;

/// System calls for which `ENOSPC` is about something else than a file system: inotify watches and shared memory.
#[cfg(target_arch = "x86_64")]
const NOT_FILES: [u64; 3] = [254, 29, 64];
#[cfg(not(target_arch = "x86_64"))]
const NOT_FILES: [u64; 3] = [27, 194, 190];

/// What a file system is out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// Nothing.
    No,
    /// Bytes.
    Bytes,
    /// Inodes, while bytes are left.
    Inodes,
}

/// What its numbers say.
pub(super) fn fullness(bytes: u64, available: u64, inodes: u64, free_inodes: u64) -> Full {
    // What is left within a thousandth is no room for a write of any size.
    if bytes > 0 && available < (bytes / 1000).clamp(4096, 16 << 20) {
        Full::Bytes
    } else if inodes > 0 && free_inodes < (inodes / 10_000).max(1) {
        Full::Inodes
    } else {
        Full::No
    }
}

#[derive(Debug, Clone)]
struct Mount {
    full: Full,
    device: u64,
    filesystem: String,
    free_bytes: u64,
    free_inodes: u64,
    small: bool,
    at_ns: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Space {
    mounts: Bounded<String, Mount>,
    waiting: Bounded<u64, (u64, Fact)>,
    told: Throttle<(u64, u64)>,
}

impl Default for Space {
    fn default() -> Self {
        Self {
            mounts: Bounded::new(MOUNTS_MAX),
            waiting: Bounded::new(WAITING_MAX),
            told: Throttle::new(MOUNTS_MAX * 4, AGAIN_NS),
        }
    }
}

impl Detector for Space {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        // Before anything else, so that what waited too long is told the same whenever somebody asked last.
        self.tick(seen.time_ns(), out);
        match seen.kind() {
            Kind::FilesystemUsage => self.usage(seen, out),
            Kind::SyscallError => {
                let (errno, syscall) = (seen.number("errno"), seen.number("syscall"));
                if errno == EDQUOT || errno == ENOSPC && !NOT_FILES.contains(&syscall) {
                    let fact = seen.fact(FactKind::DiskFull).with("comm", seen.chars("comm"));
                    let fact = fact.with("pid", u64::from(seen.pid()));
                    self.failed(fact.with("errno", errno), "", seen, out);
                }
            }
            Kind::LogRecord => {
                let message = seen.field(fields::MESSAGE);
                let lower = message.to_ascii_lowercase();
                let errno = match () {
                    () if lower.contains("no space left on device") => ENOSPC,
                    () if lower.contains("disk quota exceeded") => EDQUOT,
                    () => return,
                };
                let fact = with_text(seen.fact(FactKind::DiskFull), "text", &message);
                self.failed(fact.with("errno", errno), text::path(&message).unwrap_or_default(), seen, out);
            }
            _ => {}
        }
    }

    fn tick(&mut self, now_ns: u64, out: &mut Vec<Fact>) {
        self.waiting.retain(|_, (since_ns, fact)| {
            let waits = now_ns < since_ns.saturating_add(WAIT_NS);
            if !waits {
                out.push(fact.clone());
            }
            waits
        });
    }

    fn evicted(&self) -> u64 {
        self.mounts.evicted() + self.waiting.evicted() + self.told.evicted()
    }
}

impl Space {
    fn failed(&mut self, fact: Fact, path: &str, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let now = seen.time_ns();
        let is_quota = fact.detail.get("errno") == Some(&EDQUOT.into());
        let Some(count) = self.told.pass((seen.owner.key, u64::from(is_quota)), now) else { return };
        let mut fact = fact.with("count", count);
        if is_quota {
            fact.kind = FactKind::QuotaExceeded;
            out.push(fact);
        } else if let Some((name, mount)) = self.full_mount(path, now) {
            out.push(complete(fact, name, mount));
        } else if self.mounts.iter().next().is_none() {
            // Nobody samples file systems here: there is nothing to wait for.
            out.push(fact);
        } else {
            self.waiting.insert(seen.owner.key, (now, fact));
        }
    }

    /// The file system that a failure is about: the one of its path if it has one, else the only one that is full.
    fn full_mount(&self, path: &str, now_ns: u64) -> Option<(&String, &Mount)> {
        let fresh = |mount: &&Mount| now_ns < mount.at_ns.saturating_add(FRESH_NS);
        let below = |name: &str| {
            path == name || name == "/" || path.strip_prefix(name).is_some_and(|p| p.starts_with('/'))
        };
        if !path.is_empty() {
            let of_path =
                self.mounts.iter().filter(|(name, _)| below(name)).max_by_key(|(name, _)| name.len());
            return of_path.filter(|(_, mount)| fresh(mount) && mount.full != Full::No);
        }
        let mut full = self.mounts.iter().filter(|(_, mount)| fresh(mount) && mount.full != Full::No);
        let first = full.next()?;
        let same_device = |(_, mount): (&String, &Mount)| mount.device == first.1.device;
        full.all(same_device).then_some(first)
    }

    fn usage(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let name = seen.field(fields::MOUNT).into_owned();
        let bytes = seen.number("bytes");
        let full = fullness(
            bytes,
            seen.number("available_bytes"),
            seen.number("inodes"),
            seen.number("free_inodes"),
        );
        let full = if seen.number("read_only") == 1 { Full::No } else { full };
        let mount = Mount {
            full,
            device: seen.number("device"),
            filesystem: seen.field(fields::FILESYSTEM).into_owned(),
            free_bytes: seen.number("available_bytes"),
            free_inodes: seen.number("free_inodes"),
            small: bytes < SMALL_BYTES && name != "/",
            at_ns: seen.time_ns(),
        };
        let before = self.mounts.get(&name).map(|mount| mount.full);
        self.mounts.insert(name.clone(), mount.clone());
        if full == Full::No {
            return;
        }
        if before != Some(full) {
            let fact = seen.fact_about(FactKind::DiskFull, Subject::new("mount", name.clone()));
            let fact = complete(fact, &name, &mount);
            out.push(if before.is_none() { fact.with("snapshot", true) } else { fact });
        }
        let now = seen.time_ns();
        let waiting: Vec<u64> = self.waiting.iter().map(|(owner, _)| *owner).collect();
        for owner in waiting {
            let path = self.waiting.get(&owner).and_then(|(_, fact)| match fact.detail.get("text") {
                Some(super::Value::Text(line)) => text::path(line).map(str::to_owned),
                _ => None,
            });
            if self.full_mount(&path.unwrap_or_default(), now).is_some_and(|(found, _)| *found == name)
                && let Some((_, fact)) = self.waiting.remove(&owner)
            {
                out.push(complete(fact, &name, &mount).event(seen.id));
            }
        }
    }
}

/// Says which file system it was.
fn complete(mut fact: Fact, name: &str, mount: &Mount) -> Fact {
    if mount.full == Full::Inodes {
        fact.kind = FactKind::InodesExhausted;
        fact = fact.with("free_inodes", mount.free_inodes);
    }
    fact = fact.key(KeyKind::Mount, name).key(KeyKind::Device, number(mount.device));
    fact =
        fact.with("mount", name).with("filesystem", &*mount.filesystem).with("free_bytes", mount.free_bytes);
    if mount.small { fact.with("small", true) } else { fact }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: file systems that are full, nearly full, without inodes, and of kinds that have no inodes.
    /// Guarantees: bytes before inodes; the last percent is room.
    #[test]
    fn full_is_told_from_nearly_full() {
        const GIB: u64 = 1 << 30;
        for (numbers, expected) in [
            ((100 * GIB, 0, 1000, 500), Full::Bytes),
            ((100 * GIB, 4 << 20, 1000, 0), Full::Bytes),
            ((100 * GIB, GIB, 1000, 500), Full::No),
            ((100 * GIB, GIB, 6_000_000, 10), Full::Inodes),
            ((100 * GIB, GIB, 0, 0), Full::No),
            ((1 << 20, 0, 100, 90), Full::Bytes),
            ((0, 0, 0, 0), Full::No),
        ] {
            let (bytes, available, inodes, free) = numbers;
            assert_eq!(fullness(bytes, available, inodes, free), expected, "{numbers:?}");
        }
    }
}
