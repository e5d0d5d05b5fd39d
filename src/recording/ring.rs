//! The flight recorder's files: the last batches, in segments that are replaced as a whole.
//!
//! Invariants:
//! - The segments never take more than the ring's bytes and one batch.
//! - A mark is the beginning of a frame. Marks are at least [`MARK_BYTES`] and [`MARK_NS`] apart within a segment, so
//!   that there are few of them.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use super::frame::{FrameKind, write_file_header, write_frame};
use crate::proto::Hello;

/// Files of the ring: the oldest goes as a whole.
pub(super) const SEGMENTS: u64 = 8;

/// The directory of the ring below the state directory.
pub(super) const RING_DIR: &str = "flight";

/// Between two marks at least.
const MARK_BYTES: u64 = 4 << 10;
const MARK_NS: u64 = 1_000_000_000;

/// A file of frames.
pub(super) struct Sink {
    pub(super) file: File,
    pub(super) bytes: u64,
}

impl Sink {
    pub(super) fn create(path: &Path, hello: &Hello) -> io::Result<Self> {
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
    pub(super) fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        self.file.write_all(frame)?;
        self.bytes += frame.len() as u64;
        Ok(())
    }
}

/// Where the frames from a moment on begin.
struct Mark {
    at_ns: u64,
    number: u64,
    offset: u64,
}

/// Frames of one segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// The last batches.
pub(super) struct Ring {
    dir: PathBuf,
    bytes_max: u64,
    segment_bytes: u64,
    hello: Hello,
    number: u64,
    sink: Sink,
    /// Bytes of a segment before its first frame.
    head: u64,
    /// Of segments that this agent has filled: number and bytes.
    full: VecDeque<(u64, u64)>,
    marks: VecDeque<Mark>,
}

impl Ring {
    pub(super) fn open(dir: PathBuf, bytes: u64, hello: Hello) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let number = numbers(&dir)?.last().map_or(1, |last| last + 1);
        let sink = Sink::create(&segment(&dir, number), &hello)?;
        let segment_bytes = (bytes / SEGMENTS).max(64 << 10);
        let (head, full, marks) = (sink.bytes, VecDeque::new(), VecDeque::new());
        let mut ring = Self { dir, bytes_max: bytes, segment_bytes, hello, number, sink, head, full, marks };
        ring.prune()?;
        Ok(ring)
    }

    /// Takes in a frame that came at this time.
    pub(super) fn write(&mut self, frame: &[u8], at_ns: u64) -> io::Result<()> {
        if self.sink.bytes + frame.len() as u64 > self.segment_bytes {
            self.full.push_back((self.number, self.sink.bytes));
            self.number += 1;
            self.sink = Sink::create(&segment(&self.dir, self.number), &self.hello)?;
            self.prune()?;
        }
        let offset = self.sink.bytes;
        let is_far = |mark: &Mark| {
            mark.number != self.number
                || offset >= mark.offset + MARK_BYTES && at_ns >= mark.at_ns.saturating_add(MARK_NS)
        };
        if self.marks.back().is_none_or(is_far) {
            self.marks.push_back(Mark { at_ns, number: self.number, offset });
        }
        self.sink.write(frame)
    }

    /// The frames since a moment, or the newest of them if they are more than so many bytes; and whether they all are.
    pub(super) fn since(&self, from_ns: u64, bytes_max: u64) -> (Vec<Part>, bool) {
        let wanted = self.marks.partition_point(|mark| mark.at_ns <= from_ns).saturating_sub(1);
        let bytes = |mark: &Mark| self.parts(mark).map(|part| part.bytes).sum::<u64>();
        let fits = self.marks.partition_point(|mark| bytes(mark) > bytes_max);
        let parts = self.marks.get(wanted.max(fits)).map_or_else(Vec::new, |mark| self.parts(mark).collect());
        (parts, fits <= wanted)
    }

    /// The frames from a mark on.
    fn parts(&self, mark: &Mark) -> impl Iterator<Item = Part> {
        let segments = self.full.iter().copied().chain([(self.number, self.sink.bytes)]);
        let (first, offset) = (mark.number, mark.offset);
        segments.filter(move |(number, _)| *number >= first).map(move |(number, bytes)| {
            let offset = if number == first { offset } else { self.head };
            Part { path: segment(&self.dir, number), offset, bytes: bytes - offset }
        })
    }

    /// Makes room for the segment that was begun.
    fn prune(&mut self) -> io::Result<()> {
        let mut room = self.bytes_max.saturating_sub(self.segment_bytes);
        for number in numbers(&self.dir)?.into_iter().rev().filter(|number| *number != self.number) {
            let path = segment(&self.dir, number);
            match room.checked_sub(fs::metadata(&path)?.len()) {
                Some(rest) => room = rest,
                None => {
                    // What is older goes too: a ring has no holes.
                    room = 0;
                    fs::remove_file(path)?;
                    self.full.retain(|(full, _)| *full != number);
                    self.marks.retain(|mark| mark.number != number);
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
