//! Block devices: failed requests, slow requests, and what the kernel's log says of file systems.
//!
//! Invariants:
//! - What a device does not support is no fault of it.
//! - One slow request is life; [`SLOW`] in the window are a state.

use super::Detector;
use super::bounded::{Bounded, Throttle};
use super::fact::{Fact, FactKind, KeyKind, Subject};
use super::seen::{Seen, with_text};
use super::text::until;
use crate::event::{Kind, fields};

/// Devices remembered, at most.
const DEVICES_MAX: usize = 1024;

/// Failures of one device are told again after this time.
const AGAIN_NS: u64 = 10_000_000_000;

/// Slow requests in the window that are a state.
const SLOW: u64 = 5;
const SLOW_WINDOW_NS: u64 = 10_000_000_000;

/// A state that goes on is told again after this time.
const SLOW_AGAIN_NS: u64 = 30_000_000_000;

const EOPNOTSUPP: u64 = 95;
/// Major numbers of what has no medium of its own or may be empty: floppies, CD-ROMs.
const NO_MEDIUM: [u64; 2] = [2, 11];

#[derive(Debug, Clone, Copy)]
struct Slow {
    since_ns: u64,
    count: u64,
    worst_ns: u64,
    told_ns: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Disks {
    slow: Bounded<u64, Slow>,
    errors: Throttle<(String, u64)>,
    read_only: Bounded<String, bool>,
}

impl Default for Disks {
    fn default() -> Self {
        Self {
            slow: Bounded::new(DEVICES_MAX),
            errors: Throttle::new(DEVICES_MAX, AGAIN_NS),
            read_only: Bounded::new(DEVICES_MAX),
        }
    }
}

impl Detector for Disks {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        match seen.kind() {
            Kind::BlockError => self.error(seen, out),
            Kind::BlockLatency => self.latency(seen, out),
            Kind::FilesystemUsage => self.mount(seen, out),
            Kind::LogRecord if seen.field(fields::TRANSPORT) == "kernel" => {
                let line = seen.field(fields::MESSAGE);
                if let Some((kind, device)) = disk_line(&line) {
                    out.extend(self.logged(kind, device, seen));
                }
            }
            _ => {}
        }
    }

    fn evicted(&self) -> u64 {
        self.slow.evicted() + self.errors.evicted() + self.read_only.evicted()
    }
}

/// The device as people write it.
fn device_name(device: u64) -> String {
    format!("{}:{}", device >> 20, device & 0xf_ffff)
}

/// Which device the kernel complains about, and of what.
fn disk_line(line: &str) -> Option<(FactKind, &str)> {
    let word = |mark, ends: &[char]| until(line, mark, ends).filter(|word| !word.is_empty());
    if line.contains("Remounting filesystem read-only") {
        // "EXT4-fs (sdb1): Remounting filesystem read-only"
        return Some((FactKind::ReadOnlyFilesystem, word("(", &[')', ' '])?));
    }
    if line.starts_with("XFS (")
        && (line.contains("hutting down filesystem") || line.contains("has been shut down"))
    {
        return Some((FactKind::ReadOnlyFilesystem, word("XFS (", &[')'])?));
    }
    if line.contains("I/O error, dev ") {
        return Some((FactKind::IoError, word("I/O error, dev ", &[',', ' '])?));
    }
    if line.contains("-fs error (device ") {
        return Some((FactKind::IoError, word("-fs error (device ", &[')', ' '])?));
    }
    if line.contains("Buffer I/O error on dev ") {
        return Some((FactKind::IoError, word("Buffer I/O error on dev ", &[',', ' '])?));
    }
    None
}

impl Disks {
    fn error(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let (device, errno) = (seen.number("device"), seen.number("errno"));
        if errno == EOPNOTSUPP || NO_MEDIUM.contains(&(device >> 20)) {
            return;
        }
        let name = device_name(device);
        let Some(count) = self.errors.pass((name.clone(), 0), seen.time_ns()) else { return };
        let fact = seen.fact_about(FactKind::IoError, Subject::new("device", name.clone()));
        let operation = match seen.number("operation") {
            0 => "read",
            1 => "write",
            2 => "flush",
            3 => "discard",
            _ => "other",
        };
        let fact = fact.key(KeyKind::Device, name).with("errno", errno).with("operation", operation);
        out.push(fact.with("count", count).with("sector", seen.number("sector")));
    }

    fn latency(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let (device, now, latency_ns) = (seen.number("device"), seen.time_ns(), seen.number("latency_ns"));
        let fresh = Slow { since_ns: now, count: 0, worst_ns: 0, told_ns: None };
        let slow = self.slow.entry(device, || fresh);
        if now >= slow.since_ns.saturating_add(SLOW_WINDOW_NS) {
            *slow = Slow { told_ns: slow.told_ns, ..fresh };
        }
        slow.count += 1;
        slow.worst_ns = slow.worst_ns.max(latency_ns);
        let again = slow.told_ns.is_none_or(|told| now >= told.saturating_add(SLOW_AGAIN_NS));
        if slow.count < SLOW || !again {
            return;
        }
        slow.told_ns = Some(now);
        let (count, worst_ns) = (slow.count, slow.worst_ns);
        let name = device_name(device);
        let fact = seen.bare(FactKind::IoLatency, Subject::new("device", name.clone()));
        let fact = seen.with_owner(fact).key(KeyKind::Device, name).with("count", count);
        out.push(fact.with("latency_us", worst_ns / 1000));
    }

    /// A file system that could be written and cannot any more.
    fn mount(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let name = seen.field(fields::MOUNT).into_owned();
        let read_only = seen.number("read_only") == 1;
        let before = self.read_only.get(&name).copied();
        self.read_only.insert(name.clone(), read_only);
        if before != Some(false) || !read_only {
            return;
        }
        let fact = seen.fact_about(FactKind::ReadOnlyFilesystem, Subject::new("mount", name.clone()));
        let fact = fact.key(KeyKind::Mount, name).key(KeyKind::Device, device_name(seen.number("device")));
        out.push(with_text(fact, "filesystem", &seen.field(fields::FILESYSTEM)));
    }

    fn logged(&mut self, kind: FactKind, device: &str, seen: &Seen<'_>) -> Option<Fact> {
        let count = self.errors.pass((device.to_owned(), kind as u64), seen.time_ns())?;
        let fact = seen.bare(kind, Subject::new("device", device)).key(KeyKind::Device, device);
        // A partition fails because its disk does.
        let fact = fact.key(KeyKind::Device, disk_of(device)).with("count", count);
        Some(seen.with_message(fact))
    }
}

/// The disk of a partition: `sda` of `sda1`, `nvme0n1` of `nvme0n1p2`.
fn disk_of(device: &str) -> &str {
    let stem = device.trim_end_matches(|letter: char| letter.is_ascii_digit());
    if stem.len() == device.len() || stem.is_empty() {
        return device;
    }
    let numbered = |stem: &str| stem.ends_with(|letter: char| letter.is_ascii_digit());
    match stem.strip_suffix('p') {
        Some(disk) if numbered(disk) => disk,
        _ if ["nvme", "mmcblk", "loop", "dm-", "md", "sr"].iter().any(|kind| device.starts_with(kind)) => {
            device
        }
        _ => stem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: lines of the kernel about devices, and one that is about none.
    /// Guarantees: what, and of which device; the disk of each partition.
    #[test]
    fn lines_about_disks() {
        for (line, expected) in [
            ("I/O error, dev sdb, sector 2048 op 0x1:(WRITE) flags 0x800", Some((FactKind::IoError, "sdb"))),
            ("blk_update_request: I/O error, dev nvme0n1, sector 9", Some((FactKind::IoError, "nvme0n1"))),
            ("EXT4-fs error (device dm-0): ext4_journal_check_start:83", Some((FactKind::IoError, "dm-0"))),
            ("EXT4-fs (sdb1): Remounting filesystem read-only", Some((FactKind::ReadOnlyFilesystem, "sdb1"))),
            (
                "XFS (vdb): Metadata I/O Error (0x1) detected. Shutting down filesystem.",
                Some((FactKind::ReadOnlyFilesystem, "vdb")),
            ),
            ("EXT4-fs (sda1): mounted filesystem with ordered data mode", None),
        ] {
            assert_eq!(disk_line(line), expected, "{line}");
        }
        for (device, disk) in [
            ("sda1", "sda"),
            ("sda", "sda"),
            ("nvme0n1p2", "nvme0n1"),
            ("nvme0n1", "nvme0n1"),
            ("dm-0", "dm-0"),
            ("vdb12", "vdb"),
            ("mmcblk0p1", "mmcblk0"),
        ] {
            assert_eq!(disk_of(device), disk);
        }
    }
}
