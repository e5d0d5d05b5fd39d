//! Block devices: failed requests, slow requests, and what the kernel's log says of file systems.
//!
//! Invariants:
//! - What a device does not support is no fault of it.
//! - One slow request is life; [`SLOW`] in the window are a state.

use super::Detector;
use super::bounded::{Bounded, Throttle};
use super::devices::number;
use super::fact::{Fact, FactKind, KeyKind, Subject};
use super::seen::{Seen, with_text};
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
#[derive(Debug, Clone)]
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
            Kind::LogRecord => {
                if let Some(kind) = classify(&seen.field(fields::MEANING)) {
                    out.extend(self.logged(kind, &seen.field(fields::DEVICE), seen));
                }
            }
            _ => {}
        }
    }

    fn evicted(&self) -> u64 {
        self.slow.evicted() + self.errors.evicted() + self.read_only.evicted()
    }
}

/// What a line of the kernel's log with this meaning says of its device.
fn classify(meaning: &str) -> Option<FactKind> {
    match meaning {
        "io_error" | "filesystem_error" => Some(FactKind::IoError),
        "read_only" | "filesystem_shutdown" => Some(FactKind::ReadOnlyFilesystem),
        _ => None,
    }
}

impl Disks {
    fn error(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let (device, errno) = (seen.number("device"), seen.number("errno"));
        if errno == EOPNOTSUPP || NO_MEDIUM.contains(&(device >> 20)) {
            return;
        }
        let name = number(device);
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
        let name = number(device);
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
        let fact = fact.key(KeyKind::Mount, name).key(KeyKind::Device, number(seen.number("device")));
        out.push(with_text(fact, "filesystem", &seen.field(fields::FILESYSTEM)));
    }

    fn logged(&mut self, kind: FactKind, device: &str, seen: &Seen<'_>) -> Option<Fact> {
        let count = self.errors.pass((device.to_owned(), kind as u64), seen.time_ns())?;
        let fact = seen.bare(kind, Subject::new("device", device)).key(KeyKind::Device, device);
        let fact = fact.with("count", count);
        Some(with_text(
            seen.with_message(fact),
            "operation",
            &seen.field(fields::OPERATION).to_ascii_lowercase(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the meanings of lines about disks, and others.
    /// Guarantees: failures of the device are told from what was done about them.
    #[test]
    fn lines_about_disks() {
        for (meaning, expected) in [
            ("io_error", Some(FactKind::IoError)),
            ("filesystem_error", Some(FactKind::IoError)),
            ("read_only", Some(FactKind::ReadOnlyFilesystem)),
            ("filesystem_shutdown", Some(FactKind::ReadOnlyFilesystem)),
            ("segfault", None),
            ("", None),
        ] {
            assert_eq!(classify(meaning), expected, "{meaning}");
        }
    }
}
