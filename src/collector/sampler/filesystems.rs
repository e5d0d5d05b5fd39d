//! How full the file systems of this host are.
//!
//! Invariants:
//! - File systems whose answer may come from another host, or from a program, are not asked: they could hang.
//! - At most [`FILESYSTEMS_MAX`] file systems; each once, however often it is mounted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::change::moved;
use super::layout::Mount;

/// File systems that are looked at.
pub(super) const FILESYSTEMS_MAX: usize = 64;

/// Those that have space of their own and answer by themselves.
const KINDS: [&str; 14] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "reiserfs", "vfat", "exfat",
    "ntfs3", "tmpfs",
];

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filesystem {
    /// `major << 20 | minor`, as in the events of block devices.
    pub(super) device: u64,
    pub(super) point: PathBuf,
    pub(super) kind: String,
    /// What the kernel's log calls the device: `sda1`; empty for what is on none.
    pub(super) name: String,
}

/// How full it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) bytes: u64,
    pub(super) available_bytes: u64,
    pub(super) inodes: u64,
    pub(super) free_inodes: u64,
    pub(super) read_only: bool,
}

/// The file systems in a mountinfo, by device: where their root is mounted, at the shortest path.
pub(super) fn filesystems(mountinfo: &str) -> Vec<Filesystem> {
    let mut found: BTreeMap<(u32, u32), (bool, Filesystem)> = BTreeMap::new();
    for mount in mountinfo.lines().filter_map(Mount::parse).filter(|mount| KINDS.contains(&mount.kind)) {
        let (major, minor) = mount.device;
        let filesystem = Filesystem {
            device: u64::from(major) << 20 | u64::from(minor),
            point: mount.point,
            kind: mount.kind.to_owned(),
            name: mount
                .what
                .strip_prefix("/dev/")
                .and_then(|path| path.rsplit('/').next())
                .unwrap_or_default()
                .to_owned(),
        };
        let whole = mount.root == "/";
        let rank = |whole: bool, point: &Path| (!whole, point.as_os_str().len());
        let better = found.get(&mount.device).is_none_or(|(known_whole, known)| {
            rank(whole, &filesystem.point) < rank(*known_whole, &known.point)
        });
        if better && (found.len() < FILESYSTEMS_MAX || found.contains_key(&mount.device)) {
            found.insert(mount.device, (whole, filesystem));
        }
    }
    found.into_values().map(|(_, filesystem)| filesystem).collect()
}

/// Asks a file system; none when it cannot be asked, or counts no space at all.
pub(super) fn space(point: &Path) -> Option<Space> {
    let stat = rustix::fs::statvfs(point).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    (stat.f_blocks > 0).then(|| Space {
        bytes: bytes(stat.f_blocks),
        available_bytes: bytes(stat.f_bavail),
        inodes: stat.f_files,
        free_inodes: stat.f_favail,
        read_only: stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
    })
}

/// Whether a sample says something that the last one sent did not.
pub(super) fn is_news(sent: &Space, now: &Space) -> bool {
    let used = |space: &Space| space.bytes.saturating_sub(space.available_bytes);
    sent.read_only != now.read_only
        || moved(sent.bytes, now.bytes)
        || moved(used(sent), used(now))
        || moved(sent.available_bytes, now.available_bytes)
        || moved(sent.free_inodes, now.free_inodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a mountinfo with a disk mounted three times, a volume without device, pseudo and remote file systems.
    /// Guarantees: each real one is there once, at the shortest path of its root; the others are not asked.
    #[test]
    fn real_file_systems_are_found_once() {
        let mountinfo = "1 0 254:0 /var /srv/bind rw - ext4 /dev/vda rw\n\
            2 0 254:0 / /mnt/again rw - ext4 /dev/vda rw\n\
            3 0 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            4 0 0:40 / /data rw - btrfs /dev/vdb rw\n\
            5 0 0:20 / /proc rw - proc proc rw\n\
            6 0 0:50 / /remote rw - nfs4 host:/x rw\n\
            7 0 0:51 / /fuse rw - fuse.sshfs x rw\n\
            8 0 0:52 / /run rw - tmpfs tmpfs rw\n\
            9 0 0:53 / /var/lib/x/merged rw - overlay overlay rw\n";
        let found = filesystems(mountinfo);
        let points: Vec<_> = found.iter().filter_map(|one| one.point.to_str()).collect();
        assert_eq!(points, ["/data", "/run", "/"]);
        assert_eq!(found[2].device, 254 << 20);
        let names: Vec<_> = found.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["vdb", "", "vda"]);
        let many: String =
            (0..200).map(|minor| format!("1 0 8:{minor} / /m{minor} rw - xfs /dev/x rw\n")).collect();
        assert_eq!(filesystems(&many).len(), FILESYSTEMS_MAX);
    }

    /// Scenario: this host's root, and a path that is not there.
    /// Guarantees: the numbers are possible; nothing is made up.
    #[test]
    fn space_is_asked_for() {
        let root = space(Path::new("/tmp")).expect("there is one");
        assert!(root.available_bytes <= root.bytes && root.free_inodes <= root.inodes, "{root:?}");
        assert_eq!(space(Path::new("/no/such/path")), None);
        let fuller = Space { available_bytes: root.available_bytes / 2, ..root };
        assert!(is_news(&root, &fuller) && !is_news(&root, &root));
        assert!(is_news(&root, &Space { read_only: !root.read_only, ..root }));
    }
}
