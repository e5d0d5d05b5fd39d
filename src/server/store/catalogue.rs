//! Which segments there are, for the writer that makes them and the queries that read them.
//!
//! Invariants:
//! - A segment's length counts only what is on the disk: readers never see what may still be undone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bloom::Bloom;
use super::index::{self, INDEX_BYTES, Summary};
use super::reader::Reader;

/// What changes in a segment.
#[derive(Debug, Clone, Copy)]
struct State {
    bytes: u64,
    summary: Summary,
    sealed: bool,
}

/// One segment.
#[derive(Debug)]
pub(in crate::server) struct Segment {
    id: u64,
    path: PathBuf,
    state: Mutex<State>,
}

/// Where the segment with this number is.
pub(super) fn path_of(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:020}.seg"))
}

impl Segment {
    pub(super) fn new(dir: &Path, id: u64, bytes: u64, summary: Summary) -> Self {
        Self { id, path: path_of(dir, id), state: Mutex::new(State { bytes, summary, sealed: false }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each critical section stores whole values.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of it that are on the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.state().bytes
    }

    /// What is in it.
    pub(in crate::server) fn summary(&self) -> Summary {
        self.state().summary
    }

    /// Whether it is full.
    pub(in crate::server) fn is_sealed(&self) -> bool {
        self.state().sealed
    }

    pub(super) fn grow(&self, bytes: u64, summary: Summary) {
        let mut state = self.state();
        state.bytes = bytes;
        state.summary = summary;
    }

    pub(super) fn seal(&self) {
        self.state().sealed = true;
    }

    /// Keeps the number of damaged spots that a reader found.
    pub(in crate::server) fn note_corrupt(&self, spots: u64) {
        let mut state = self.state();
        state.summary.corrupt = state.summary.corrupt.max(spots);
    }

    /// Reads it; `None` when it is gone by now, or its header is damaged.
    pub(in crate::server) fn reader(&self) -> io::Result<Option<Reader>> {
        match File::open(&self.path) {
            Ok(file) => Reader::new(file, self.bytes()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The filter of a full segment, if there is one.
    pub(in crate::server) fn bloom(&self) -> Option<Bloom> {
        if self.is_sealed() { index::load_bloom(&self.path) } else { None }
    }

    pub(super) fn delete(&self) -> io::Result<()> {
        let gone = |result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        gone(fs::remove_file(index::path_of(&self.path)))?;
        gone(fs::remove_file(&self.path))
    }
}

/// What `status` shows of the store.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::server) struct CatalogueReport {
    pub(in crate::server) segments: u64,
    pub(in crate::server) bytes: u64,
    pub(in crate::server) events: u64,
    pub(in crate::server) batches: u64,
    /// Unix nanoseconds; 0 for an empty store.
    pub(in crate::server) oldest_unix_ns: u64,
    pub(in crate::server) corrupt: u64,
    pub(in crate::server) deleted_segments: u64,
    pub(in crate::server) deleted_events: u64,
    pub(in crate::server) truncated_bytes: u64,
    pub(in crate::server) syncs: u64,
    pub(in crate::server) stalls: u64,
}

/// All segments, by number.
#[derive(Debug, Default)]
pub(in crate::server) struct Catalogue {
    segments: Mutex<BTreeMap<u64, Arc<Segment>>>,
    pub(super) deleted_segments: AtomicU64,
    pub(super) deleted_events: AtomicU64,
    pub(super) truncated_bytes: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) stalls: AtomicU64,
}

impl Catalogue {
    fn map(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Segment>>> {
        // Each critical section is one operation on the map.
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The segments, oldest first.
    pub(in crate::server) fn segments(&self) -> Vec<Arc<Segment>> {
        self.map().values().cloned().collect()
    }

    pub(super) fn add(&self, segment: Arc<Segment>) {
        self.map().insert(segment.id(), segment);
    }

    /// Deletes the oldest full segments until `bytes` more fit under the bound; returns whether any was.
    pub(super) fn make_room(&self, bytes: u64, bound: u64) -> io::Result<bool> {
        let mut any = false;
        loop {
            let oldest = {
                let map = self.map();
                let held: u64 = map.values().map(|segment| segment.bytes() + INDEX_BYTES).sum();
                let oldest = map.values().next().filter(|segment| segment.is_sealed());
                match oldest {
                    Some(oldest) if held + bytes > bound => Arc::clone(oldest),
                    _ => return Ok(any),
                }
            };
            oldest.delete()?;
            self.map().remove(&oldest.id());
            self.deleted_segments.fetch_add(1, Ordering::Relaxed);
            self.deleted_events.fetch_add(oldest.summary().events, Ordering::Relaxed);
            any = true;
        }
    }

    /// Sums for `status`.
    pub(in crate::server) fn report(&self) -> CatalogueReport {
        let mut report = CatalogueReport {
            oldest_unix_ns: u64::MAX,
            deleted_segments: self.deleted_segments.load(Ordering::Relaxed),
            deleted_events: self.deleted_events.load(Ordering::Relaxed),
            truncated_bytes: self.truncated_bytes.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
            stalls: self.stalls.load(Ordering::Relaxed),
            ..CatalogueReport::default()
        };
        for segment in self.segments() {
            let summary = segment.summary();
            report.segments += 1;
            report.bytes += segment.bytes();
            report.events += summary.events;
            report.batches += summary.batches;
            report.corrupt += summary.corrupt;
            report.oldest_unix_ns = report.oldest_unix_ns.min(summary.unix_first);
        }
        if report.batches == 0 {
            report.oldest_unix_ns = 0;
        }
        report
    }
}
