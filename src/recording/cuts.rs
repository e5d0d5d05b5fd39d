//! What led to an incident, cut out of the flight recorder into a file of its own before the ring goes over it.
//!
//! Invariants:
//! - A file for each incident, at most [`FILES_MAX`] and within their bytes: the ones that were written first go first.
//! - An incident is cut out [`AFTER_NS`] after it was asked for, so that what followed is in the file, and again after
//!   each later revision, as long as its beginning still fits.
//! - A file is there whole or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::ring::{Ring, Sink};
use crate::proto::Hello;

/// Files at most.
pub(super) const FILES_MAX: usize = 64;

/// Files that share the bytes: one takes this part of them at most.
const SHARE: u64 = 4;

/// How much before its beginning belongs to an incident.
const BEFORE_NS: u64 = 60_000_000_000;

/// How much after a revision.
const AFTER_NS: u64 = 10_000_000_000;

const PREFIX: &str = "incident-";

/// The incidents that are to be cut out.
pub(super) struct Cuts {
    dir: PathBuf,
    hello: Hello,
    bytes_max: u64,
    /// By id: the beginning, and when.
    waiting: BTreeMap<String, (u64, u64)>,
}

/// The file of an incident.
pub(super) fn path(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{PREFIX}{id}.rec"))
}

impl Cuts {
    pub(super) fn new(dir: PathBuf, hello: Hello, bytes_max: u64) -> Self {
        Self { dir, hello, bytes_max, waiting: BTreeMap::new() }
    }

    /// Has an incident cut out in a while; false if too many wait.
    pub(super) fn ask(&mut self, id: String, from_ns: u64, now_ns: u64) -> bool {
        if self.waiting.contains_key(&id) {
            return true;
        }
        let has_room = self.waiting.len() < FILES_MAX;
        if has_room {
            self.waiting.insert(id, (from_ns, now_ns.saturating_add(AFTER_NS)));
        }
        has_room
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes one incident whose time has come, and says whether it was cut out: an earlier file may be the better one.
    pub(super) fn cut_due(&mut self, now_ns: u64, ring: &Ring) -> io::Result<Option<bool>> {
        let due = self.waiting.iter().find(|(_, (_, due_ns))| *due_ns <= now_ns);
        let Some((id, from_ns)) = due.map(|(id, (from_ns, _))| (id.clone(), *from_ns)) else {
            return Ok(None);
        };
        self.waiting.remove(&id);
        self.cut(&id, from_ns, ring).map(Some)
    }

    fn cut(&self, id: &str, from_ns: u64, ring: &Ring) -> io::Result<bool> {
        let path = path(&self.dir, id);
        let (parts, whole) = ring.since(from_ns.saturating_sub(BEFORE_NS), self.bytes_max / SHARE);
        // What was cut out earlier has the beginning.
        if parts.is_empty() || !whole && path.exists() {
            return Ok(false);
        }
        let unfinished = path.with_extension("part");
        let mut sink = Sink::create(&unfinished, &self.hello)?;
        for part in parts {
            let mut segment = File::open(&part.path)?;
            segment.seek(SeekFrom::Start(part.offset))?;
            io::copy(&mut segment.take(part.bytes), &mut sink.file)?;
        }
        fs::rename(unfinished, path)?;
        self.prune()?;
        Ok(true)
    }

    /// Lets the files go that were written first.
    fn prune(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
                let metadata = entry.metadata()?;
                files.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        let mut count = files.len();
        for (_, size, path) in files {
            if count <= FILES_MAX && bytes <= self.bytes_max {
                break;
            }
            fs::remove_file(path)?;
            (count, bytes) = (count - 1, bytes - size);
        }
        Ok(())
    }
}
