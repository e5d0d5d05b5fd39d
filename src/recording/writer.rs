//! Writes recordings while the agent runs: all batches to the file of `--record`, and the last ones to a ring of files,
//! the flight recorder, out of which incidents are cut.
//!
//! Invariants:
//! - [`Recorder::offer`] and [`Cutter::cut`] never wait: what does not fit the queue is left out and counted.
//! - The ring takes no more a second than [`RING_BYTES_PER_S`] of what is not urgent. What is passed over costs nothing.
//! - A disk that fails ends that recording with one message; the agent goes on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{self, Receiver, Sender};
use prost::Message;

use super::cuts::{self, Cuts};
use super::frame::{FrameKind, write_frame};
use super::ring::{RING_DIR, Ring, Sink};
use crate::clock;
use crate::egress::batch::Sealed;
use crate::proto::Hello;

/// Batches between the path and the disk.
const QUEUE: usize = 64;

/// What the ring takes a second, besides urgent batches.
pub const RING_BYTES_PER_S: u64 = 2 << 20;

/// Of the flight recorder's bytes, one in so many is for what was cut out.
const CUT_SHARE: u64 = 4;

/// How often the thread looks whether an incident is to be cut out, and how long it sleeps if none is.
const LOOK: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(3600);

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
    /// Incidents that were cut out.
    pub cuts: AtomicU64,
    /// Incidents that were not, because too many were to be at once.
    pub cuts_refused: AtomicU64,
}

/// What is to be written.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The file of `--record`.
    pub file: Option<PathBuf>,
    /// The state directory, and the bytes of the flight recorder in it; 0 for none.
    pub ring: (PathBuf, u64),
    /// Who records.
    pub hello: Hello,
}

/// What the thread is told.
enum Order {
    /// A batch, when it came, and whether the ring gets it.
    Batch { frame: Vec<u8>, at_ns: u64, to_ring: bool },
    /// An incident that is to be cut out, and its beginning.
    Cut { id: String, from_ns: u64 },
    /// Nothing more comes.
    End,
}

/// The path's end of the recorder.
#[derive(Debug)]
pub struct Recorder {
    orders: Sender<Order>,
    spare: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<()>>,
    report: Arc<RecorderReport>,
    has_file: bool,
    /// Where the ring is, if there is one.
    ring_dir: Option<PathBuf>,
    second: u64,
    budget: u64,
}

/// Has incidents cut out of the flight recorder.
#[derive(Debug, Clone)]
pub struct Cutter {
    orders: Sender<Order>,
    dir: PathBuf,
    report: Arc<RecorderReport>,
}

impl Cutter {
    /// The file that an incident is in once it was cut out, until later ones need the room.
    #[must_use]
    pub fn path(&self, id: &str) -> PathBuf {
        cuts::path(&self.dir, id)
    }

    /// Has an incident cut out that began at this time.
    pub fn cut(&self, id: &str, from_ns: u64) {
        if self.orders.try_send(Order::Cut { id: id.to_owned(), from_ns }).is_err() {
            self.report.cuts_refused.fetch_add(1, Ordering::Relaxed);
        }
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
        let ring_dir = (plan.ring.1 > 0).then(|| plan.ring.0.join(RING_DIR));
        let ring = ring_dir.clone().map(|dir| {
            let cut_bytes = plan.ring.1 / CUT_SHARE;
            let ring = Ring::open(dir.clone(), plan.ring.1 - cut_bytes, plan.hello.clone());
            let ring = ring.map_err(|error| named(&dir, error))?;
            io::Result::Ok((ring, Cuts::new(dir, plan.hello.clone(), cut_bytes)))
        });
        let ring = ring.transpose()?;
        if file.is_none() && ring.is_none() {
            return Ok(None);
        }
        let (orders, taken) = channel::bounded(QUEUE);
        let (used, spare) = channel::bounded(QUEUE);
        let report = Arc::new(RecorderReport::default());
        let has_file = file.is_some();
        let mut writer = Writer { orders: taken, used, file, ring, report: Arc::clone(&report) };
        let thread = std::thread::Builder::new().name("recorder".into()).spawn(move || writer.run())?;
        let (thread, second, budget) = (Some(thread), u64::MAX, 0);
        Ok(Some(Self { orders, spare, thread, report, has_file, ring_dir, second, budget }))
    }

    /// What has incidents cut out, if there is a flight recorder.
    #[must_use]
    pub fn cutter(&self) -> Option<Cutter> {
        let dir = self.ring_dir.clone()?;
        Some(Cutter { orders: self.orders.clone(), dir, report: Arc::clone(&self.report) })
    }

    /// What became of the batches.
    #[must_use]
    pub fn report(&self) -> &Arc<RecorderReport> {
        &self.report
    }

    /// Takes a copy of a batch, in the bytes that the server gets.
    pub fn offer(&mut self, sealed: &Sealed, now_ns: u64) {
        let has_ring = self.ring_dir.is_some();
        let to_ring = has_ring && (sealed.urgent || self.has_budget(sealed.bytes as u64, now_ns));
        if has_ring && !to_ring {
            self.report.passed_over.fetch_add(1, Ordering::Relaxed);
        }
        if !self.has_file && !to_ring {
            return;
        }
        let mut frame = self.spare.try_recv().unwrap_or_default();
        frame.clear();
        write_frame(FrameKind::Batch, &mut frame, |body| {
            // Memory has room: a vector grows.
            let _encoded = sealed.batch.encode(body);
        });
        if self.orders.try_send(Order::Batch { frame, at_ns: now_ns, to_ring }).is_err() {
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
        // A thread that is gone has nothing to wait for.
        let _gone = self.orders.send(Order::End);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the recorder panicked: the end of the recording is missing");
        }
    }
}

struct Writer {
    orders: Receiver<Order>,
    used: Sender<Vec<u8>>,
    file: Option<Sink>,
    ring: Option<(Ring, Cuts)>,
    report: Arc<RecorderReport>,
}

impl Writer {
    fn run(&mut self) {
        loop {
            let is_waiting = self.ring.as_ref().is_some_and(|(_, cuts)| cuts.is_waiting());
            match self.orders.recv_timeout(if is_waiting { LOOK } else { IDLE }) {
                Ok(Order::Batch { frame, at_ns, to_ring }) => self.write(frame, at_ns, to_ring),
                Ok(Order::Cut { id, from_ns }) => self.ask(id, from_ns),
                Ok(Order::End) | Err(channel::RecvTimeoutError::Disconnected) => break,
                Err(channel::RecvTimeoutError::Timeout) => {}
            }
            // One at a time: batches wait meanwhile.
            if is_waiting {
                self.cut(clock::boot_ns());
            }
        }
        while self.cut(u64::MAX) {}
        if let Some(file) = &mut self.file
            && let Err(error) = file.file.sync_data()
        {
            self.fail("--record", &error);
        }
    }

    fn write(&mut self, frame: Vec<u8>, at_ns: u64, to_ring: bool) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.write(&frame)
        {
            self.fail("--record", &error);
            self.file = None;
        }
        if let Some((ring, _)) = self.ring.as_mut().filter(|_| to_ring)
            && let Err(error) = ring.write(&frame, at_ns)
        {
            self.fail("the flight recorder", &error);
            self.ring = None;
        }
        self.report.written.fetch_add(1, Ordering::Relaxed);
        // Nobody waits for a buffer: a new one costs an allocation.
        let _full = self.used.try_send(frame);
    }

    fn ask(&mut self, id: String, from_ns: u64) {
        let asked = self.ring.as_mut().is_some_and(|(_, cuts)| cuts.ask(id, from_ns, clock::boot_ns()));
        self.report.cuts_refused.fetch_add(u64::from(!asked), Ordering::Relaxed);
    }

    /// Cuts out one incident whose time has come; true if one was waiting.
    fn cut(&mut self, now_ns: u64) -> bool {
        let Some((ring, cuts)) = &mut self.ring else { return false };
        match cuts.cut_due(now_ns, ring) {
            Ok(Some(written)) => {
                self.report.cuts.fetch_add(u64::from(written), Ordering::Relaxed);
                true
            }
            Ok(None) => false,
            Err(error) => {
                self.fail("the flight recorder", &error);
                self.ring = None;
                false
            }
        }
    }

    fn fail(&self, what: &str, error: &io::Error) {
        self.report.failed.fetch_add(1, Ordering::Relaxed);
        tracing::error!("{what} ends: {error}; make room and start the agent again to record on");
    }
}

#[cfg(test)]
mod tests;
