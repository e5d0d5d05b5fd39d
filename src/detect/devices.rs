//! Which disk a device, a partition, a name and a mount point are.
//!
//! The kernel counts requests by the numbers of whole disks, its log calls them by name, and programs see mount points.
//! The usage of file systems says which belong together.
//!
//! Invariants:
//! - Two devices are one disk only where the numbering scheme of their driver says so.
//! - At most [`MOUNTS_MAX`] mounts are remembered.

use super::bounded::Bounded;
use super::fact::{Fact, KeyKind};
use super::seen::Seen;
use crate::event::{Kind, fields};

/// Mounts remembered, at most.
const MOUNTS_MAX: usize = 1024;

/// Keys that other places on the same disk add to a fact, at most.
const RELATED_MAX: usize = 6;

/// What a mount point is on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    number: String,
    name: String,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Devices {
    mounts: Bounded<String, Place>,
}

impl Default for Devices {
    fn default() -> Self {
        Self { mounts: Bounded::new(MOUNTS_MAX) }
    }
}

impl Devices {
    /// What had to make room.
    pub(super) const fn evicted(&self) -> u64 {
        self.mounts.evicted()
    }

    /// Learns where a file system is.
    pub(super) fn learn(&mut self, seen: &Seen<'_>) {
        if seen.kind() != Kind::FilesystemUsage {
            return;
        }
        let mount = seen.field(fields::MOUNT);
        if !mount.is_empty() {
            let name = seen.field(fields::DEVICE).rsplit('/').next().unwrap_or_default().to_owned();
            self.mounts.insert(mount.into_owned(), Place { number: number(seen.number("device")), name });
        }
    }

    /// Adds what is on the same disk to a fact that is about one.
    pub(super) fn complete(&self, fact: &mut Fact) {
        let devices: Vec<String> = self.disks(fact);
        if devices.is_empty() {
            return;
        }
        let mut more = std::mem::replace(fact, Fact::new(fact.kind, fact.subject.clone(), fact.source, 0));
        for disk in &devices {
            more = more.key(KeyKind::Device, &**disk);
        }
        let is_device = more.subject.kind == "device";
        if is_device && let Some(name) = self.name_of(&more.subject.name) {
            more.subject.name = name;
        }
        let related = self.mounts.iter().filter(|(_, place)| {
            [&place.number, &place.name].iter().any(|device| devices.contains(&disk_of(device)))
        });
        for (mount, place) in related.take(RELATED_MAX) {
            more =
                more.key(KeyKind::Device, disk_of(&place.number)).key(KeyKind::Device, disk_of(&place.name));
            // A disk that fails hurts all that is on it; one full file system does not hurt its neighbours.
            if is_device {
                more = more.key(KeyKind::Mount, &**mount).key(KeyKind::Device, &*place.number);
            }
        }
        *fact = more;
    }

    /// The kernel's name of a disk that is known by number, so that it is called the same whoever speaks of it.
    fn name_of(&self, device: &str) -> Option<String> {
        let disk = disk_of(device);
        let on_disk = self.mounts.iter().find(|(_, place)| {
            !place.name.is_empty()
                && [&place.number, &place.name].iter().any(|device| disk_of(device) == disk)
        });
        on_disk.map(|(_, place)| disk_of(&place.name))
    }

    /// The disks of the devices and mounts that a fact has as keys.
    fn disks(&self, fact: &Fact) -> Vec<String> {
        let of_key = |kind: KeyKind, value: &str| match kind {
            KeyKind::Device => vec![disk_of(value)],
            KeyKind::Mount => {
                let place = self.mounts.get(&value.to_owned());
                place.map_or_else(Vec::new, |place| vec![disk_of(&place.number), disk_of(&place.name)])
            }
            _ => Vec::new(),
        };
        let mut disks: Vec<String> = fact
            .keys
            .iter()
            .flat_map(|key| of_key(key.kind, &key.value))
            .filter(|disk| !disk.is_empty())
            .collect();
        disks.sort();
        disks.dedup();
        disks
    }
}

/// A device's number as people write it.
pub(super) fn number(device: u64) -> String {
    format!("{}:{}", device >> 20, device & 0xf_ffff)
}

/// The disk of a partition, by name or number: `sda` of `sda1`, `nvme0n1` of `nvme0n1p2`, `8:16` of `8:17`.
pub(super) fn disk_of(device: &str) -> String {
    if let Some((major, minor)) = device.split_once(':') {
        // SCSI disks have 16 numbers each; no other driver's numbers say what is a partition of what.
        return match (major, minor.parse::<u64>()) {
            ("8", Ok(minor)) => format!("8:{}", minor & !15),
            _ => device.to_owned(),
        };
    }
    let stem = device.trim_end_matches(|letter: char| letter.is_ascii_digit());
    if stem.len() == device.len() || stem.is_empty() {
        return device.to_owned();
    }
    let numbered = |stem: &str| stem.ends_with(|letter: char| letter.is_ascii_digit());
    match stem.strip_suffix('p') {
        Some(disk) if numbered(disk) => disk.to_owned(),
        _ if ["sd", "vd", "hd", "xvd"].iter().any(|kind| device.starts_with(kind)) => stem.to_owned(),
        _ => device.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: partitions and disks of every naming scheme, and numbers.
    /// Guarantees: the disk of each; what has no partitions is its own.
    #[test]
    fn partitions_have_disks() {
        for (device, disk) in [
            ("sda1", "sda"),
            ("sda", "sda"),
            ("nvme0n1p2", "nvme0n1"),
            ("nvme0n1", "nvme0n1"),
            ("dm-0", "dm-0"),
            ("vdb12", "vdb"),
            ("mmcblk0p1", "mmcblk0"),
            ("8:17", "8:16"),
            ("8:16", "8:16"),
            ("253:3", "253:3"),
            ("", ""),
        ] {
            assert_eq!(disk_of(device), disk);
        }
    }
}
