//! The directories of one hierarchy, looked at again without reading those that have not changed.
//!
//! The kernel counts the directories in a cgroup in its link count: while that stays, as many were added as removed.
//! What was removed, or replaced by another of its name, shows when it is looked at: then its parent is read again.
//!
//! Invariants:
//! - At most [`DIRECTORIES_MAX`] directories are remembered; those beyond are counted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Directories of a hierarchy that are looked at.
pub(super) const DIRECTORIES_MAX: usize = 16_384;

/// Directories inside each other.
const DEPTH_MAX: usize = 32;

/// What is known of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    inode: u64,
    links: u64,
}

/// The directories below a mount point, by their path from there.
#[derive(Debug)]
pub(super) struct Tree {
    point: PathBuf,
    known: BTreeMap<String, Known>,
    /// Directories in the last look for which there was no room.
    pub(super) beyond: usize,
}

impl Tree {
    pub(super) fn new(point: &Path) -> Self {
        Self { point: point.to_owned(), known: BTreeMap::new(), beyond: 0 }
    }

    /// Every directory but the root itself, with its inode.
    pub(super) fn directories(&self) -> impl Iterator<Item = (&str, u64)> {
        self.known
            .iter()
            .filter(|(path, _)| !path.is_empty())
            .map(|(path, known)| (path.as_str(), known.inode))
    }

    /// Looks again.
    pub(super) fn look(&mut self) {
        self.beyond = 0;
        let before = std::mem::take(&mut self.known);
        let mut open = vec![String::new()];
        let mut reread = BTreeSet::new();
        let mut children: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for path in before.keys().filter(|path| !path.is_empty()) {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            children.entry(parent).or_default().push(path);
        }
        while let Some(path) = open.pop() {
            if self.known.contains_key(&path) {
                continue;
            }
            let data = fs::symlink_metadata(self.at(&path)).ok().filter(fs::Metadata::is_dir);
            let known = before.get(&path);
            if let Some((parent, _)) = path.rsplit_once('/')
                && known.is_some_and(|known| data.as_ref().map(MetadataExt::ino) != Some(known.inode))
                && reread.insert(parent.to_owned())
            {
                self.read(parent, &mut open);
            }
            let Some(data) = data else { continue };
            if self.known.len() >= DIRECTORIES_MAX {
                self.beyond += 1 + open.len();
                return;
            }
            let now = Known { inode: data.ino(), links: data.nlink() };
            // A file system that does not count links says 1.
            let unchanged = now.links > 1 && known == Some(&now);
            if unchanged {
                open.extend(children.get(path.as_str()).into_iter().flatten().map(|&child| child.to_owned()));
            } else if path.matches('/').count() < DEPTH_MAX {
                self.read(&path, &mut open);
            }
            self.known.insert(path, now);
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.point.join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str, found: &mut Vec<String>) {
        // One that is gone by now has nothing in it.
        let entries = fs::read_dir(self.at(path)).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            // A path that is no UTF-8 is no unit, pod or container.
            if let Ok(name) = entry.file_name().into_string() {
                found.push(format!("{path}/{name}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(tree: &mut Tree) -> Vec<String> {
        tree.look();
        tree.directories().map(|(path, _)| path.to_owned()).collect()
    }

    /// Scenario: directories are made, removed with what is in them, and replaced by others of the same name.
    /// Guarantees: each look finds what is there; files and links are not directories.
    #[test]
    fn each_look_finds_what_is_there() {
        let root = tempfile::tempdir().expect("a folder");
        let make = |path: &str| fs::create_dir_all(root.path().join(path)).expect("made");
        make("system.slice/a.service/inner");
        fs::write(root.path().join("system.slice/cgroup.procs"), "").expect("written");
        std::os::unix::fs::symlink("/", root.path().join("link")).expect("linked");
        let mut tree = Tree::new(root.path());
        let first = ["/system.slice", "/system.slice/a.service", "/system.slice/a.service/inner"];
        assert_eq!(paths(&mut tree), first);
        assert_eq!(paths(&mut tree), first);
        make("system.slice/b.service");
        fs::remove_dir_all(root.path().join("system.slice/a.service")).expect("removed");
        assert_eq!(paths(&mut tree), ["/system.slice", "/system.slice/b.service"]);
        // Kept, so that the inode of the one that follows is another.
        fs::rename(root.path().join("system.slice/b.service"), root.path().join("old")).expect("renamed");
        make("system.slice/b.service/new");
        assert_eq!(
            paths(&mut tree),
            ["/old", "/system.slice", "/system.slice/b.service", "/system.slice/b.service/new"]
        );
        fs::remove_dir_all(root.path()).expect("removed");
        assert!(paths(&mut tree).is_empty());
    }
}
