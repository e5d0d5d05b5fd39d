//! Which files make up a journal.
//!
//! Invariants:
//! - Directories are only listed, never followed further than into those named after a machine.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use super::reader::Source;

/// Where journald writes: until `/var` is there, and then.
const ROOTS: [&str; 2] = ["/run/log/journal", "/var/log/journal"];

/// Where the files of `source` are looked for, whether it exists or not.
pub(super) fn places(source: &Source) -> Vec<PathBuf> {
    match source {
        Source::Directory(path) => vec![path.clone()],
        Source::Host | Source::Namespace(_) => ROOTS.map(PathBuf::from).into(),
    }
}

/// The paths of all files of `source`, in the order of their names.
pub(super) fn files(source: &Source) -> Vec<PathBuf> {
    let mut found = Vec::new();
    match source {
        Source::Directory(path) => {
            list(path, &mut found);
            machines(path, None).iter().for_each(|machine| list(machine, &mut found));
        }
        Source::Host => host(None, &mut found),
        Source::Namespace(name) => host(Some(name), &mut found),
    }
    found.sort();
    found
}

/// This machine's directories, or those of every machine where it has none: a journal that is mounted into a
/// container is the host's.
fn host(namespace: Option<&str>, found: &mut Vec<PathBuf>) {
    let own = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let machines: Vec<PathBuf> = ROOTS.iter().flat_map(|root| machines(Path::new(root), namespace)).collect();
    let is_own =
        |path: &&PathBuf| path.file_name().is_some_and(|name| machine_of(name).0 == own.trim().as_bytes());
    let own: Vec<&PathBuf> = machines.iter().filter(is_own).collect();
    let chosen = if own.is_empty() { machines.iter().collect() } else { own };
    chosen.into_iter().for_each(|machine| list(machine, found));
}

/// The directories in `root` that are named after a machine and belong to a namespace.
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

fn list(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let is_journal = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        entry.ino() != 0 && (name.ends_with(b".journal") || name.ends_with(b".journal~"))
    };
    found.extend(entries.filter_map(Result::ok).filter(is_journal).map(|entry| entry.path()));
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
        let found = files(&Source::Directory(root.path().into()));
        let names: Vec<_> = found.iter().map(|path| path.strip_prefix(root.path()).expect("in it")).collect();
        let own = format!("{machine}/system.journal");
        assert_eq!(names, [Path::new(&own), Path::new("a.journal"), Path::new("b.journal~")]);
        let spare = machines(root.path(), Some("spare"));
        assert_eq!(spare, [root.path().join(format!("{machine}.spare"))]);
    }
}
