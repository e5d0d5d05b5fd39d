//! The one thread that writes: what arrived while the last sync ran is written and synced together.
//!
//! Invariants:
//! - A batch is marked stored only after a sync that followed its write.
//! - A group that cannot be written is kept and tried again until it can; the queue behind it is bounded.
//! - After a failed sync nothing is appended to that file any more: the kernel may have dropped what was
//!   to be written, and would not say so again.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::catalogue::{Catalogue, Segment, path_of};
use super::frame::{FRAME_HEADER_BYTES, FrameHeader, SegmentHeader};
use super::index::Index;
use super::recover::{OpenSegment, Recovered};
use super::{Accepted, Limits, Queued, SharedBook, locked, record};
use crate::event::mix;
use crate::server::book::{Id, Sender};
use zerocopy::IntoBytes;

/// Bytes written and synced together at most: bounds the time until the first of them is acked.
const GROUP_BYTES_MAX: usize = 8 << 20;

/// The first and the longest pause between two attempts of a failed write.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// What the writer asks of a disk: a seam, so that tests can have a bad one.
pub(super) trait Disk: Send + 'static {
    /// Writes all bytes at an offset.
    fn write(&mut self, file: &File, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Returns when everything written to the file is on the disk.
    fn sync(&mut self, file: &File) -> io::Result<()>;
}

/// The operating system's.
#[derive(Debug)]
pub(super) struct SystemDisk;

impl Disk for SystemDisk {
    fn write(&mut self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// What the writer shares with the store.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) limits: Limits,
    pub(super) book: SharedBook,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) stalled: watch::Sender<String>,
    /// The server stops: write what can be written, then end.
    pub(super) stopping: Arc<AtomicBool>,
}

/// The writer's state.
pub(super) struct Writer<D> {
    shared: Shared,
    disk: D,
    lock: File,
    open: Option<OpenSegment>,
    next_id: u64,
    buffer: Vec<u8>,
}

impl<D: Disk> Writer<D> {
    /// A writer that goes on where the last run ended.
    pub(super) fn new(shared: Shared, disk: D, recovered: Recovered) -> Self {
        let Recovered { lock, open, next_id, .. } = recovered;
        Self { shared, disk, lock, open, next_id, buffer: Vec::new() }
    }

    /// Writes until the queue is closed, or the server stops and no more can be written.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Queued>) {
        let mut group = Vec::new();
        while let Some(first) = queue.blocking_recv() {
            let mut bytes = 0;
            let mut next = Some(first);
            let mut last = false;
            while let Some(queued) = next {
                match queued {
                    Queued::Batch(accepted, place) => {
                        bytes += accepted.batch.raw.len();
                        group.push((accepted, place));
                    }
                    Queued::Close => last = true,
                }
                next = if bytes < GROUP_BYTES_MAX { queue.try_recv().ok() } else { None };
            }
            if !self.store(&group) {
                return;
            }
            // Frees the places.
            group.clear();
            if last {
                break;
            }
        }
    }

    /// Stores a group, however long it takes; false when the server stopped first.
    fn store<P>(&mut self, group: &[(Accepted, P)]) -> bool {
        let mut pause = RETRY_FIRST;
        if group.is_empty() {
            return true;
        }
        while let Err(error) = self.write(group) {
            let reason = format!("{error} in {}", self.shared.dir.display());
            let news = self.shared.stalled.send_if_modified(|stalled| {
                let news = *stalled != reason;
                stalled.clone_from(&reason);
                news
            });
            if news {
                self.shared.catalogue.stalls.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    "{reason}: nothing is acked until it can be written again; free space or mend the disk"
                );
            }
            if self.shared.stopping.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::park_timeout(pause);
            pause = (pause * 2).min(RETRY_MAX);
        }
        if !self.shared.stalled.borrow().is_empty() {
            self.shared.stalled.send_replace(String::new());
            tracing::info!("storing again in {}", self.shared.dir.display());
        }
        true
    }

    fn write<P>(&mut self, group: &[(Accepted, P)]) -> io::Result<()> {
        let mut open = self.segment_for(group)?;
        let start = open.segment.bytes();
        let senders = self.encode(group, &open);
        let written = self.disk.write(&open.file, &self.buffer, start);
        let sync_failed = written.is_ok();
        match written.and_then(|()| self.sync(&open, start == 0)) {
            Ok(()) => {
                self.settle(group, &mut open, senders);
                self.open = Some(open);
                Ok(())
            }
            Err(error) if start == 0 => {
                // Removed, or found and passed over at the next start.
                let _left_behind = std::fs::remove_file(open.segment.path());
                Err(error)
            }
            Err(error) => {
                // What is behind `start` is no part of the segment: readers stop there, a later write replaces it.
                let _too_long = open.file.set_len(start);
                self.open = Some(open);
                if sync_failed {
                    self.seal();
                }
                Err(error)
            }
        }
    }

    /// The segment that takes the group: the open one, or a new one when that is full.
    fn segment_for<P>(&mut self, group: &[(Accepted, P)]) -> io::Result<OpenSegment> {
        let room = |accepted: &Accepted| accepted.batch.raw.len() + 4 * FRAME_HEADER_BYTES;
        let bytes = group.iter().map(|(accepted, _)| room(accepted) as u64).sum::<u64>();
        let limits = self.shared.limits;
        if self.open.as_ref().is_some_and(|open| open.segment.bytes() + bytes > limits.segment_bytes) {
            self.seal();
        }
        match self.open.take() {
            Some(open) => Ok(open),
            None => self.create(bytes.max(limits.segment_bytes)),
        }
    }

    fn create(&mut self, bytes: u64) -> io::Result<OpenSegment> {
        self.shared.catalogue.make_room(bytes, self.shared.limits.store_bytes)?;
        let dir = &self.shared.dir;
        let id = self.next_id;
        self.next_id += 1;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path_of(dir, id))?;
        let segment = Arc::new(Segment::new(dir, id, 0, Index::default().summary));
        let noise = mix(crate::clock::unix_ns() ^ id.rotate_left(32) ^ u64::from(std::process::id()));
        let salt = u32::try_from(noise >> 32).unwrap_or(0);
        Ok(OpenSegment { file, segment, salt, index: Index::default(), senders: HashMap::new() })
    }

    /// Fills the buffer with the group's frames; returns whose names are among them.
    fn encode<P>(&mut self, group: &[(Accepted, P)], open: &OpenSegment) -> HashMap<Id, Sender> {
        let buffer = &mut self.buffer;
        let start = open.segment.bytes();
        buffer.clear();
        if start == 0 {
            buffer.extend_from_slice(SegmentHeader::new(open.segment.id(), open.salt).as_bytes());
            let book = record::encode_book(&locked(&self.shared.book));
            FrameHeader::of_book().write(open.salt, &book, buffer);
        }
        let synced = u32::try_from(start).unwrap_or(u32::MAX);
        let mut senders = HashMap::new();
        for (Accepted { sender, mark, batch, .. }, _) in group {
            let known = senders.get(&sender.agent).or_else(|| open.senders.get(&sender.agent));
            if known != Some(sender) {
                FrameHeader::of_sender(sender, synced).write(
                    open.salt,
                    &record::encode_sender(sender),
                    buffer,
                );
                senders.insert(sender.agent, sender.clone());
            }
            FrameHeader::of_batch(mark, synced).write(open.salt, &batch.raw, buffer);
        }
        senders
    }

    fn sync(&mut self, open: &OpenSegment, fresh: bool) -> io::Result<()> {
        self.disk.sync(&open.file)?;
        self.shared.catalogue.syncs.fetch_add(1, Ordering::Relaxed);
        // A file that its directory does not know is not there after a crash.
        if fresh { self.disk.sync(&self.lock) } else { Ok(()) }
    }

    /// Notes everywhere that the group is stored.
    fn settle<P>(&self, group: &[(Accepted, P)], open: &mut OpenSegment, senders: HashMap<Id, Sender>) {
        open.senders.extend(senders);
        {
            let mut book = locked(&self.shared.book);
            for (accepted, _) in group {
                book.note_sender(&accepted.sender);
                book.note_batch(&accepted.mark);
            }
        }
        for (accepted, _) in group {
            open.index.add(&accepted.mark, &accepted.batch.batch.entities);
        }
        let start = open.segment.bytes();
        open.segment.grow(start + self.buffer.len() as u64, open.index.summary);
        if start == 0 {
            self.shared.catalogue.add(Arc::clone(&open.segment));
        }
        for (accepted, _) in group {
            accepted.agent.mark_stored(accepted.mark.epoch, accepted.mark.sequence);
        }
    }

    /// Closes the open segment for good.
    fn seal(&mut self) {
        let Some(open) = self.open.take() else { return };
        if let Err(error) = open.index.save(open.segment.path(), open.segment.bytes()) {
            tracing::warn!(
                "{}: index not saved: {error}; queries read the segment",
                open.segment.path().display()
            );
        }
        open.segment.seal();
    }
}
