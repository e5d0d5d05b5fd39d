//! Where accepted batches go: segments on the disk, or nowhere.
//!
//! `writer` is the thread that writes, `frame` the bytes, `reader` reads them around damage, `recover` opens
//! what the last run left, `index` and `bloom` let queries pass segments over, `catalogue` lists the segments,
//! `record` is the book as bytes.
//!
//! Invariants:
//! - [`Agent::mark_stored`] is called for a batch only when it is stored.
//! - The book changes with the store, under its lock, in the store's order.
//! - Batches that wait for the disk are bounded in number and bytes.

pub(in crate::server) mod bloom;
pub(in crate::server) mod catalogue;
mod frame;
pub(in crate::server) mod index;
pub(in crate::server) mod reader;
mod record;
mod recover;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::agents::Agent;
use super::book::{BatchMark, Book, Sender};
use super::message::RawBatch;
use catalogue::Catalogue;
use recover::Recovered;
use writer::{Disk, Shared, SystemDisk, Writer};

/// Batches that wait for the disk.
const QUEUE_BATCHES: usize = 1024;

/// Their bytes, in units of [`UNIT_BYTES`].
const QUEUE_UNITS: usize = 65_536;
const UNIT_BYTES: usize = 1024;

/// Largest segment.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// A batch on its way to the store.
#[derive(Debug)]
pub struct Accepted {
    /// To tell when it is stored.
    pub agent: Arc<Agent>,
    /// Who sent it.
    pub sender: Sender,
    /// What it is.
    pub mark: BatchMark,
    /// As received, and decoded.
    pub batch: RawBatch,
}

/// The book, shared by the store that writes it and those who read it.
type SharedBook = Arc<Mutex<Book>>;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Beyond this the oldest segment is deleted.
    pub store_bytes: u64,
    /// Beyond this a new segment is begun.
    pub segment_bytes: u64,
}

impl Limits {
    /// The limits of a store of at most so many bytes.
    #[must_use]
    pub fn new(store_bytes: u64) -> Self {
        Self { store_bytes, segment_bytes: SEGMENT_BYTES_MAX.min(store_bytes / 4) }
    }
}

/// Why a store cannot be opened. Stop.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory cannot be made, read or locked.
    #[error("cannot keep events in {} (--data-dir): {error}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A second server.
    #[error("another tapio-server keeps its events in {} (--data-dir): stop it or give another directory", .0.display())]
    InUse(PathBuf),
    /// No thread.
    #[error("cannot start the store's thread: {0}")]
    Thread(std::io::Error),
}

/// Where batches go.
#[derive(Debug)]
pub enum Store {
    /// Nowhere: a batch counts as stored as soon as it is accepted.
    Null(NullStore),
    /// On the disk.
    Segments(SegmentStore),
}

/// Keeps nothing but the book.
#[derive(Debug)]
pub struct NullStore {
    book: SharedBook,
    stalled: watch::Sender<String>,
}

/// Keeps batches in segments.
#[derive(Debug)]
pub struct SegmentStore {
    queue: mpsc::Sender<Queued>,
    units: Arc<Semaphore>,
    shared: Shared,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What goes to the writer.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "all but the last are batches")]
pub enum Queued {
    /// A batch and its share of the queue's bytes.
    Batch(Accepted, OwnedSemaphorePermit),
    /// Nothing more will come.
    Close,
}

/// A place in the store.
#[derive(Debug)]
pub enum Place<'store> {
    /// In the null store.
    Null(&'store NullStore),
    /// In the queue to the disk.
    Queue(mpsc::Permit<'store, Queued>, OwnedSemaphorePermit),
}

impl Store {
    /// A store that keeps nothing.
    #[must_use]
    pub fn null() -> Self {
        Self::Null(NullStore { book: SharedBook::default(), stalled: watch::Sender::new(String::new()) })
    }

    /// Opens the store in a directory, as whatever run before left it.
    ///
    /// # Errors
    /// [`StoreError`] when the directory cannot be used at all. Damage inside is no error.
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, StoreError> {
        Self::start(dir, limits, SystemDisk, recover::open(dir)?)
    }

    fn start(
        dir: &Path,
        limits: Limits,
        disk: impl Disk,
        mut recovered: Recovered,
    ) -> Result<Self, StoreError> {
        let shared = Shared {
            dir: dir.to_owned(),
            limits,
            book: Arc::new(Mutex::new(std::mem::take(&mut recovered.book))),
            catalogue: Arc::clone(&recovered.catalogue),
            stalled: watch::Sender::new(String::new()),
            stopping: Arc::new(AtomicBool::new(false)),
        };
        let (queue, batches) = mpsc::channel(QUEUE_BATCHES);
        let writer = Writer::new(shared.clone(), disk, recovered);
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run(batches))
            .map_err(StoreError::Thread)?;
        let units = Arc::new(Semaphore::new(QUEUE_UNITS));
        Ok(Self::Segments(SegmentStore { queue, units, shared, thread: Mutex::new(Some(thread)) }))
    }

    /// What is stored.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        match self {
            Self::Null(store) => locked(&store.book),
            Self::Segments(store) => locked(&store.shared.book),
        }
    }

    /// The segments; none where nothing is kept.
    pub(in crate::server) fn catalogue(&self) -> Option<&Arc<Catalogue>> {
        match self {
            Self::Null(_) => None,
            Self::Segments(store) => Some(&store.shared.catalogue),
        }
    }

    /// Bytes of batches that wait for the disk.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        match self {
            Self::Null(_) => 0,
            Self::Segments(store) => (QUEUE_UNITS - store.units.available_permits()) * UNIT_BYTES,
        }
    }

    /// Waits for a place for a batch of so many bytes; `None` when the store has stopped.
    pub async fn reserve(&self, bytes: usize) -> Option<Place<'_>> {
        match self {
            Self::Null(store) => Some(Place::Null(store)),
            Self::Segments(store) => {
                // A request is far smaller than the queue.
                let units = u32::try_from(bytes.div_ceil(UNIT_BYTES).min(QUEUE_UNITS)).ok()?;
                let share = Arc::clone(&store.units).acquire_many_owned(units).await.ok()?;
                Some(Place::Queue(store.queue.reserve().await.ok()?, share))
            }
        }
    }

    /// Why the store cannot store now; empty while it can.
    #[must_use]
    pub fn stalled(&self) -> watch::Receiver<String> {
        match self {
            Self::Null(store) => store.stalled.subscribe(),
            Self::Segments(store) => store.shared.stalled.subscribe(),
        }
    }

    /// Ends when the store cannot go on at all, which is a bug.
    pub async fn failed(&self) {
        match self {
            Self::Null(_) => std::future::pending().await,
            Self::Segments(store) => store.queue.closed().await,
        }
    }

    /// Writes what is queued, unless the disk refuses it, and ends the store's thread.
    pub async fn close(&self) {
        let Self::Segments(store) = self else { return };
        store.shared.stopping.store(true, Ordering::Relaxed);
        let thread = store.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        thread.thread().unpark();
        // A writer that has given up needs no word.
        let _gave_up = store.queue.send(Queued::Close).await;
        if matches!(tokio::task::spawn_blocking(|| thread.join()).await, Ok(Err(_)) | Err(_)) {
            tracing::error!("the store's thread panicked; what it had acked is on the disk");
        }
    }
}

impl Place<'_> {
    /// Puts the batch there.
    pub fn put(self, accepted: Accepted) {
        match self {
            Self::Null(store) => {
                {
                    let mut book = locked(&store.book);
                    book.note_sender(&accepted.sender);
                    book.note_batch(&accepted.mark);
                }
                accepted.agent.mark_stored(accepted.mark.epoch, accepted.mark.sequence);
            }
            Self::Queue(slot, share) => slot.send(Queued::Batch(accepted, share)),
        }
    }
}

fn locked(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    // A panic cannot leave the book half written in a way that the next batch does not repair.
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
