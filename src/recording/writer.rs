//! Writes recordings while the agent runs: all batches to the file of `--record`, and the last ones to a ring of files,
//! the flight recorder.
//!
//! Invariants:
//! - [`Recorder::offer`] never waits: what does not fit the queue is left out and counted.
//! - The ring never takes more than its bytes and one batch, and no more a second than [`RING_BYTES_PER_S`] of what is not urgent.
//! - A disk that fails ends that recording with one message; the agent goes on.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam::channel::{self, Receiver, Sender, TrySendError};
use prost::Message;

use super::frame::{FrameKind, write_file_header, write_frame};
use crate::proto::{EventBatch, Hello};

/// Batches between the path and the disk.
const QUEUE: usize = 64;

/// What the ring takes a second, besides urgent batches.
pub const RING_BYTES_PER_S: u64 = 4 << 20;

/// Files of the ring: the oldest goes as a whole.
const SEGMENTS: u64 = 8;

/// The directory of the ring below the state directory.
const RING_DIR: &str = "flight";

const SECOND_NS: u64 = 1_000_000_000;

/// What became of the batches that were offered.
#[derive(Debug, Default)]
pub struct RecorderReport {
    /// Batches written.
    pub written: AtomicU64,
    /// Batches that did not fit the queue: the disk was too slow.
    pub dropped: AtomicU64,
    /// Batches that the ring left out because there were too many in a second.
    pub passed_over: AtomicU64,
    /// Recordings that ended because their disk failed.
    pub failed: AtomicU64,
}

/// What is to be written.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The file of `--record`.
    pub file: Option<PathBuf>,
    /// The state directory, and the bytes of the ring in it; 0 for none.
    pub ring: (PathBuf, u64),
    /// Who records.
    pub hello: Hello,
}

struct Piece {
    frame: Vec<u8>,
    to_ring: bool,
}

/// The path's end of the recorder.
#[derive(Debug)]
pub struct Recorder {
    /// Gone once the recorder is to end.
    sender: Option<Sender<Piece>>,
    spare: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<()>>,
    report: Arc<RecorderReport>,
    has_file: bool,
    has_ring: bool,
    second: u64,
    budget: u64,
}

impl std::fmt::Debug for Piece {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Piece").field("bytes", &self.frame.len()).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Opens the files and starts the thread that writes; nothing if there is nothing to write.
    ///
    /// # Errors
    /// When a file that was asked for cannot be made: the message says which.
    pub fn start(plan: &Plan) -> io::Result<Option<Self>> {
        let named = |path: &Path, error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        };
        let file = match &plan.file {
            None => None,
            Some(path) => Some(Sink::create(path, &plan.hello).map_err(|error| named(path, error))?),
        };
        let ring = match plan.ring.1 {
            0 => None,
            bytes => {
                let dir = plan.ring.0.join(RING_DIR);
                Some(Ring::open(dir.clone(), bytes, plan.hello.clone()).map_err(|error| named(&dir, error))?)
            }
        };
        if file.is_none() && ring.is_none() {
            return Ok(None);
        }
        let (sender, pieces) = channel::bounded(QUEUE);
        let (used, spare) = channel::bounded(QUEUE);
        let report = Arc::new(RecorderReport::default());
        let (has_file, has_ring) = (file.is_some(), ring.is_some());
        let mut writer = Writer { pieces, used, file, ring, report: Arc::clone(&report) };
        let thread = std::thread::Builder::new().name("recorder".into()).spawn(move || writer.run())?;
        let (second, budget) = (u64::MAX, 0);
        Ok(Some(Self {
            sender: Some(sender),
            spare,
            thread: Some(thread),
            report,
            has_file,
            has_ring,
            second,
            budget,
        }))
    }

    /// What became of the batches.
    #[must_use]
    pub fn report(&self) -> &Arc<RecorderReport> {
        &self.report
    }

    /// Takes a copy of a batch, in the bytes that the server gets.
    pub fn offer(&mut self, batch: &EventBatch, urgent: bool, now_ns: u64) {
        let bytes = batch.encoded_len() as u64;
        let to_ring = self.has_ring && (urgent || self.has_budget(bytes, now_ns));
        if self.has_ring && !to_ring {
            self.report.passed_over.fetch_add(1, Ordering::Relaxed);
        }
        if !self.has_file && !to_ring {
            return;
        }
        let Some(sender) = &self.sender else { return };
        let mut frame = self.spare.try_recv().unwrap_or_default();
        frame.clear();
        write_frame(FrameKind::Batch, &mut frame, |body| {
            // Memory has room: a vector grows.
            let _encoded = batch.encode(body);
        });
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            sender.try_send(Piece { frame, to_ring })
        {
            self.report.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn has_budget(&mut self, bytes: u64, now_ns: u64) -> bool {
        let second = now_ns / SECOND_NS;
        if second != self.second {
            (self.second, self.budget) = (second, RING_BYTES_PER_S);
        }
        let enough = bytes <= self.budget;
        if enough {
            self.budget -= bytes;
        }
        enough
    }
}

impl Drop for Recorder {
    /// Waits until all that was taken is on the disk.
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the recorder panicked: the end of the recording is missing");
        }
    }
}

struct Writer {
    pieces: Receiver<Piece>,
    used: Sender<Vec<u8>>,
    file: Option<Sink>,
    ring: Option<Ring>,
    report: Arc<RecorderReport>,
}

impl Writer {
    fn run(&mut self) {
        while let Ok(piece) = self.pieces.recv() {
            if let Some(file) = &mut self.file
                && let Err(error) = file.write(&piece.frame)
            {
                self.fail("--record", &error);
                self.file = None;
            }
            if let Some(ring) = self.ring.as_mut().filter(|_| piece.to_ring)
                && let Err(error) = ring.write(&piece.frame)
            {
                self.fail("the flight recorder", &error);
                self.ring = None;
            }
            self.report.written.fetch_add(1, Ordering::Relaxed);
            // Nobody waits for a buffer: a new one costs an allocation.
            let _full = self.used.try_send(piece.frame);
        }
        if let Some(file) = &mut self.file
            && let Err(error) = file.file.sync_data()
        {
            self.fail("--record", &error);
        }
    }

    fn fail(&self, what: &str, error: &io::Error) {
        self.report.failed.fetch_add(1, Ordering::Relaxed);
        tracing::error!("{what} ends: {error}; make room and start the agent again to record on");
    }
}

/// A file of frames.
struct Sink {
    file: File,
    bytes: u64,
}

impl Sink {
    fn create(path: &Path, hello: &Hello) -> io::Result<Self> {
        let mut sink = Self { file: File::create(path)?, bytes: 0 };
        let mut start = Vec::new();
        write_file_header(&mut start);
        write_frame(FrameKind::Hello, &mut start, |body| {
            let _encoded = hello.encode(body);
        });
        sink.write(&start)?;
        Ok(sink)
    }

    /// Unbuffered: a batch is one write, and is there for a reader at once.
    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        self.file.write_all(frame)?;
        self.bytes += frame.len() as u64;
        Ok(())
    }
}

/// The last batches, in files that are replaced as a whole.
struct Ring {
    dir: PathBuf,
    bytes_max: u64,
    segment_bytes: u64,
    hello: Hello,
    number: u64,
    sink: Sink,
}

impl Ring {
    fn open(dir: PathBuf, bytes: u64, hello: Hello) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let number = numbers(&dir)?.last().map_or(1, |last| last + 1);
        let sink = Sink::create(&segment(&dir, number), &hello)?;
        let segment_bytes = (bytes / SEGMENTS).max(64 << 10);
        let ring = Self { dir, bytes_max: bytes, segment_bytes, hello, number, sink };
        ring.prune()?;
        Ok(ring)
    }

    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        if self.sink.bytes + frame.len() as u64 > self.segment_bytes {
            self.number += 1;
            self.sink = Sink::create(&segment(&self.dir, self.number), &self.hello)?;
            self.prune()?;
        }
        self.sink.write(frame)
    }

    /// Makes room for the segment that was begun.
    fn prune(&self) -> io::Result<()> {
        let mut room = self.bytes_max.saturating_sub(self.segment_bytes);
        for number in numbers(&self.dir)?.into_iter().rev().filter(|number| *number != self.number) {
            let path = segment(&self.dir, number);
            match room.checked_sub(fs::metadata(&path)?.len()) {
                Some(rest) => room = rest,
                None => {
                    // What is older goes too: a ring has no holes.
                    room = 0;
                    fs::remove_file(path)?;
                }
            }
        }
        Ok(())
    }
}

fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:012}.rec"))
}

/// The numbers of the segments, in order.
fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.strip_suffix(".rec")?.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The files of the flight recorder, oldest first.
///
/// # Errors
/// Of the disk, also when there is none.
pub fn flight_files(state_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let dir = state_dir.join(RING_DIR);
    Ok(numbers(&dir)?.into_iter().map(|number| segment(&dir, number)).collect())
}

#[cfg(test)]
mod tests;
