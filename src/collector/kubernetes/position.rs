//! The file that keeps this agent's place in time: the version each watch has reached, and what is known there.
//!
//! Invariants:
//! - A position is never in the file without what is known at it: together they make the same events again.
//! - The file is replaced as a whole; one that is torn, of another cluster or of another node counts as none.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::known::{Entry, Key};

/// The file, in the state directory.
const NAME: &str = "kubernetes.json";

/// The first thing in the file.
const FORMAT: u32 = 1;

/// A file larger than this is none of ours.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What the file says of one watch.
#[derive(Debug, Default, PartialEq, Deserialize)]
pub(super) struct Saved {
    /// The version it has reached.
    pub(super) position: String,
    /// What is known there.
    pub(super) known: Vec<(Key, Entry)>,
}

/// The same, borrowed.
#[derive(Debug, Serialize)]
pub(super) struct Saving<'known> {
    /// The version it has reached.
    pub(super) position: &'known str,
    /// What is known there.
    pub(super) known: Vec<(Key, &'known Entry)>,
}

#[derive(Deserialize)]
struct Whole {
    format: u32,
    cluster: String,
    watches: BTreeMap<String, Saved>,
}

#[derive(Serialize)]
struct WholeRef<'known> {
    format: u32,
    cluster: &'known str,
    watches: &'known BTreeMap<&'known str, Saving<'known>>,
}

/// Where the file is, and of which cluster and node.
#[derive(Debug, Clone)]
pub(super) struct Place {
    path: PathBuf,
    cluster: String,
}

impl Place {
    /// The file in this directory, for this API server and this node.
    #[must_use]
    pub(super) fn new(state_dir: &Path, server: &str, node: &str) -> Self {
        Self { path: state_dir.join(NAME), cluster: format!("{server} {node}") }
    }

    fn candidate(&self, number: u64) -> PathBuf {
        // Two at most are under way.
        self.path.with_extension(format!("json.{}", number % 2))
    }

    /// What was kept; nothing when there is no file of this cluster. The reason why one cannot be used is a message.
    ///
    /// # Errors
    /// What is wrong with the file: the caller starts without.
    pub(super) fn load(&self) -> Result<BTreeMap<String, Saved>, String> {
        let unusable = |why: &dyn std::fmt::Display| {
            let path = self.path.display();
            format!("the positions in {path} cannot be used: {why}; everything is listed again")
        };
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(unusable(&error)),
            Ok(file) => file,
        };
        if file.metadata().map_err(|error| unusable(&error))?.len() > FILE_BYTES_MAX {
            return Err(unusable(&"it is too large"));
        }
        let whole: Whole = serde_json::from_reader(BufReader::new(file)).map_err(|error| unusable(&error))?;
        if whole.format != FORMAT {
            return Err(unusable(&"it is of another version"));
        }
        if whole.cluster != self.cluster {
            return Err(unusable(&format!("they are of {}", whole.cluster)));
        }
        Ok(whole.watches)
    }

    /// Writes a candidate, which counts once [`Self::keep`] is called with its number.
    ///
    /// # Errors
    /// When the disk does not take it: the file before stays.
    pub(super) fn write(&self, number: u64, watches: &BTreeMap<&str, Saving<'_>>) -> io::Result<()> {
        let file = File::create(self.candidate(number))?;
        let mut writer = BufWriter::new(file);
        serde_json::to_writer(&mut writer, &WholeRef { format: FORMAT, cluster: &self.cluster, watches })?;
        writer.flush()?;
        writer.get_ref().sync_data()
    }

    /// The candidate replaces the file.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(super) fn keep(&self, number: u64) -> io::Result<()> {
        fs::rename(self.candidate(number), &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saving(entry: &Entry) -> BTreeMap<&'static str, Saving<'_>> {
        BTreeMap::from([("pods", Saving { position: "41", known: vec![(Key::of("u"), entry)] })])
    }

    /// Scenario: positions are written and kept; then a candidate is written and not kept.
    /// Guarantees: what was kept is read, the candidate is not.
    #[test]
    fn only_what_is_kept_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place::new(folder.path(), "https://server", "node");
        assert_eq!(place.load().expect("no file is no error"), BTreeMap::new());
        let entry = Entry { version: 7, name: "web".into(), hashes: Box::new([1]), ..Entry::default() };
        place.write(3, &saving(&entry)).expect("written");
        assert_eq!(place.load().expect("still none"), BTreeMap::new());
        place.keep(3).expect("kept");
        let other = Entry { version: 8, ..entry.clone() };
        place.write(3, &saving(&other)).expect("written");
        let known = vec![(Key::of("u"), entry)];
        let expected = BTreeMap::from([("pods".to_owned(), Saved { position: "41".into(), known })]);
        assert_eq!(place.load().expect("the kept one"), expected);
    }

    /// Scenario: a file cut at every length, and one of another cluster or node.
    /// Guarantees: it is refused with a reason, never half read.
    #[test]
    fn a_torn_file_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place::new(folder.path(), "https://server", "node");
        place.write(3, &saving(&Entry::default())).expect("written");
        place.keep(3).expect("kept");
        let path = folder.path().join(NAME);
        let whole = fs::read(&path).expect("read");
        for other in [("https://other", "node"), ("https://server", "other")] {
            let reason = Place::new(folder.path(), other.0, other.1).load().expect_err("refused");
            assert!(reason.contains("https://server node"), "{reason}");
        }
        for end in 0..whole.len() {
            fs::write(&path, &whole[..end]).expect("written");
            assert!(place.load().expect_err("refused").contains("listed again"));
        }
    }
}
