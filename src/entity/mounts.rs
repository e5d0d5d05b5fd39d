//! Reads `/proc/PID/mountinfo`: where the cgroup hierarchies are.
//!
//! Invariants:
//! - Pure: the text decides. Lines that are not understood are skipped.

use std::path::PathBuf;

/// The mount points that identity needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Mounts {
    /// The v2 hierarchy, wherever it is (`/sys/fs/cgroup`, hybrid: `/sys/fs/cgroup/unified`).
    pub(super) unified: Option<PathBuf>,
    /// The v1 hierarchy with the memory controller.
    pub(super) memory: Option<PathBuf>,
    /// The v1 hierarchy named systemd.
    pub(super) systemd: Option<PathBuf>,
}

/// Finds the best mount of each hierarchy. A hierarchy may be mounted twice, for example a container's view and
/// the host's below it: the one whose root is farthest up shows the most.
pub(super) fn parse(mountinfo: &str) -> Mounts {
    let mut mounts = Mounts::default();
    let mut best = [0_usize; 3];
    for line in mountinfo.lines() {
        let Some((root, point, kind, options)) = fields(line) else { continue };
        let option = |wanted| options.split(',').any(|one| one == wanted);
        let (place, rank) = match kind {
            "cgroup2" => (&mut mounts.unified, 0),
            "cgroup" if option("memory") => (&mut mounts.memory, 1),
            "cgroup" if option("name=systemd") => (&mut mounts.systemd, 2),
            _ => continue,
        };
        let score = score(root);
        if score > best[rank] {
            best[rank] = score;
            *place = Some(PathBuf::from(unescape(point)));
        }
    }
    mounts
}

/// Root, mount point, file system type and its options.
fn fields(line: &str) -> Option<(&str, &str, &str, &str)> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let mut after = after.split(' ');
    Some((before.next()?, before.next()?, after.next()?, after.nth(1)?))
}

/// How much of the hierarchy a mount with this root shows: above the own root, all of it, a part.
fn score(root: &str) -> usize {
    let mut parts = root.split('/').filter(|part| !part.is_empty());
    let ups = parts.clone().filter(|&part| part == "..").count();
    if parts.all(|part| part == "..") { 2 + ups } else { 1 }
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) if code.is_ascii() => {
                plain.push(char::from(code));
                plain.push_str(&part[3..]);
            }
            _ => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(mountinfo: &str) -> [Option<String>; 3] {
        let Mounts { unified, memory, systemd } = parse(mountinfo);
        [unified, memory, systemd].map(|path| path.map(|path| path.to_string_lossy().into_owned()))
    }

    /// Scenario: the mounts of a v2 host, a hybrid one, and one of v1 with joined controllers.
    /// Guarantees: each hierarchy is found where it is, and no other is taken for it.
    #[test]
    fn hierarchies_are_found_wherever_they_are() {
        let v2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(found(v2), [Some("/sys/fs/cgroup".into()), None, None]);
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw shared:1 master:2 - cgroup cgroup rw,memory\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let expected = ["unified", "memory", "systemd"].map(|name| Some(format!("/sys/fs/cgroup/{name}")));
        assert_eq!(found(hybrid), expected);
        let joined = "1 2 0:3 / /cg/mem\\040ory rw - cgroup none rw,cpuset,memory,pids\n";
        assert_eq!(found(joined), [None, Some("/cg/mem ory".into()), None]);
    }

    /// Scenario: an agent in a container with its own view first and the host's mounted below /host, and the
    /// other way round; a mount of a part of the hierarchy.
    /// Guarantees: the host's view wins; a part is better than nothing.
    #[test]
    fn the_widest_view_wins() {
        let own = "1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        let host = "4 2 0:3 /../../.. /host/cgroup rw - cgroup2 cgroup rw\n";
        let part = "5 2 0:3 /kubepods/x /part rw - cgroup2 cgroup rw\n";
        let expected = Some("/host/cgroup".to_owned());
        for mounts in [[own, host, part].concat(), [part, host, own].concat()] {
            assert_eq!(found(&mounts)[0], expected);
        }
        assert_eq!(found(part)[0].as_deref(), Some("/part"));
    }

    /// Scenario: lines cut short, empty, with wrong escapes.
    /// Guarantees: skipped or read as they are.
    #[test]
    fn nonsense_is_skipped() {
        assert_eq!(parse("\n-\n - \n1 2 3 - cgroup2\n1 2 3 4 5 - cgroup2 x\n"), Mounts::default());
        assert_eq!(unescape("\\9\\04\\134x\\"), "\\9\\04\\x\\");
    }
}
