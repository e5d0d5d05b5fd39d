//! Which files make up a journal.
//!
//! Invariants:
//! - Directories are only listed, never followed further than into those named after a machine.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::reader::Source;

/// Where journald writes: until `/var` is there, and then.
const ROOTS: [&str; 2] = ["/run/log/journal", "/var/log/journal"];

/// Names this machine.
const MACHINE_ID: &str = "/etc/machine-id";

/// Where the files of `source` are looked for, whether it exists or not.
pub(super) fn places(source: &Source) -> Vec<PathBuf> {
    match source {
        Source::Directory(path) => vec![path.clone()],
        Source::Host | Source::Namespace(_) => ROOTS.map(PathBuf::from).into(),
    }
}

/// How long before a listing a directory must have been changed last, so that a later change has another time: more than
/// the clock of any file system takes for a step.
const SETTLED: Duration = Duration::from_secs(1);

/// What tells a changed directory: which it is, and the time of its last change, which nobody but the kernel writes.
type Stamp = (u64, u64, i64, i64);

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

/// The files of a source, and what shows whether they are still all.
#[derive(Debug)]
pub(super) struct Listing {
    /// The paths of all files, in the order of their names.
    pub(super) files: Vec<PathBuf>,
    /// What was read for it, as it was before.
    read: Vec<(PathBuf, Option<Stamp>)>,
    is_settled: bool,
}

impl Listing {
    /// Lists the files of `source`.
    pub(super) fn of(source: &Source) -> Self {
        Self::at(source, SystemTime::now())
    }

    fn at(source: &Source, now: SystemTime) -> Self {
        let mut listing = Self { files: Vec::new(), read: Vec::new(), is_settled: false };
        match source {
            Source::Directory(path) => {
                listing.list(path);
                listing.machines(path, None).iter().for_each(|machine| listing.list(machine));
            }
            Source::Host => listing.host(None),
            Source::Namespace(name) => listing.host(Some(name)),
        }
        listing.files.sort();
        let settled = now.checked_sub(SETTLED).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let settled = settled.and_then(|time| i64::try_from(time.as_secs()).ok()).unwrap_or(0);
        listing.is_settled = listing.read.iter().all(|(_, stamp)| stamp.is_none_or(|(.., s, _)| s < settled));
        listing
    }

    /// Whether a new listing would be the same, for certain.
    pub(super) fn holds(&self) -> bool {
        self.is_settled && self.read.iter().all(|(path, known)| stamp(path) == *known)
    }

    /// Remembers what a path is before it is read.
    fn note(&mut self, path: &Path) {
        if !self.read.iter().any(|(known, _)| known == path) {
            self.read.push((path.to_owned(), stamp(path)));
        }
    }

    /// This machine's directories, or those of every machine where it has none: a journal that is mounted into a
    /// container is the host's.
    fn host(&mut self, namespace: Option<&str>) {
        self.note(Path::new(MACHINE_ID));
        let own = fs::read_to_string(MACHINE_ID).unwrap_or_default();
        let machines: Vec<PathBuf> =
            ROOTS.iter().flat_map(|root| self.machines(Path::new(root), namespace)).collect();
        let is_own = |path: &&PathBuf| {
            path.file_name().is_some_and(|name| machine_of(name).0 == own.trim().as_bytes())
        };
        let own: Vec<&PathBuf> = machines.iter().filter(is_own).collect();
        let chosen = if own.is_empty() { machines.iter().collect() } else { own };
        chosen.into_iter().for_each(|machine| self.list(machine));
    }

    /// The directories in `root` that are named after a machine and belong to a namespace.
    fn machines(&mut self, root: &Path, namespace: Option<&str>) -> Vec<PathBuf> {
        self.note(root);
        machines(root, namespace)
    }

    fn list(&mut self, directory: &Path) {
        self.note(directory);
        let Ok(entries) = fs::read_dir(directory) else { return };
        let is_journal = |entry: &fs::DirEntry| {
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            entry.ino() != 0 && (name.ends_with(b".journal") || name.ends_with(b".journal~"))
        };
        self.files.extend(entries.filter_map(Result::ok).filter(is_journal).map(|entry| entry.path()));
    }
}

fn machines(root: &Path, namespace: Option<&str>) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let wanted = |path: &PathBuf| {
        path.file_name().is_some_and(|name| {
            let (machine, found) = machine_of(name);
            is_id(machine) && found == namespace.map(str::as_bytes) && path.is_dir()
        })
    };
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(wanted).collect()
}

/// `MACHINE` or `MACHINE.NAMESPACE`.
fn machine_of(name: &OsStr) -> (&[u8], Option<&[u8]>) {
    let name = name.as_encoded_bytes();
    match name.iter().position(|&byte| byte == b'.') {
        Some(dot) => (name.get(..dot).unwrap_or_default(), name.get(dot + 1..)),
        None => (name, None),
    }
}

/// 32 digits, or the groups of a UUID.
fn is_id(name: &[u8]) -> bool {
    let digits = name.iter().filter(|byte| byte.is_ascii_hexdigit()).count();
    let dashes = name.iter().filter(|&&byte| byte == b'-').count();
    digits == 32 && digits + dashes == name.len() && matches!(dashes, 0 | 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a directory with journals, other files, machines, a namespace and a directory of another name.
    /// Guarantees: journals of the directory and of its machines are found, and nothing else.
    #[test]
    #[cfg_attr(miri, ignore = "Miri is kept away from files")]
    fn journals_are_found() {
        let root = tempfile::tempdir().expect("a directory");
        let machine = "0123456789abcdef0123456789abcdef";
        for directory in [machine, &format!("{machine}.spare"), "remote"] {
            fs::create_dir(root.path().join(directory)).expect("made");
            fs::write(root.path().join(directory).join("system.journal"), "").expect("made");
        }
        for file in ["a.journal", "b.journal~", "c.journal.txt"] {
            fs::write(root.path().join(file), "").expect("made");
        }
        let found = Listing::of(&Source::Directory(root.path().into())).files;
        let names: Vec<_> = found.iter().map(|path| path.strip_prefix(root.path()).expect("in it")).collect();
        let own = format!("{machine}/system.journal");
        assert_eq!(names, [Path::new(&own), Path::new("a.journal"), Path::new("b.journal~")]);
        let spare = machines(root.path(), Some("spare"));
        assert_eq!(spare, [root.path().join(format!("{machine}.spare"))]);
    }

    /// Scenario: nothing happens to a listed directory; then files come, are renamed and go, there and in a machine's
    /// directory, and a machine comes. One listing is made right after a change.
    /// Guarantees: a listing holds only until the next change; one that might not see it does not hold at all.
    #[test]
    #[cfg_attr(miri, ignore = "Miri is kept away from files")]
    fn a_listing_holds_until_something_changes() {
        let root = tempfile::tempdir().expect("a directory");
        let path = |name: &str| root.path().join(name);
        let machine = "0123456789abcdef0123456789abcdef";
        fs::create_dir(path(machine)).expect("made");
        fs::write(path("old.journal"), "").expect("made");
        let source = Source::Directory(root.path().into());
        assert!(!Listing::of(&source).holds(), "it was changed just now");
        let inner = format!("{machine}/system.journal");
        let changes: [&dyn Fn() -> std::io::Result<()>; 5] = [
            &|| fs::write(path("new.journal"), ""),
            &|| fs::rename(path("old.journal"), path("old.journal~")),
            &|| fs::remove_file(path("new.journal")),
            &|| fs::write(path(&inner), ""),
            &|| fs::create_dir(path("fedcba9876543210fedcba9876543210")),
        ];
        for change in changes {
            let listing = Listing::at(&source, SystemTime::now() + Duration::from_secs(60));
            assert!(listing.holds());
            // Longer than a step of the file system's clock.
            std::thread::sleep(Duration::from_millis(50));
            change().expect("changed");
            assert!(!listing.holds());
        }
    }
}
