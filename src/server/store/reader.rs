//! Reads a segment frame by frame, around damaged spots.
//!
//! Invariants:
//! - Memory is one window and one body, whatever the segment's size.
//! - Nothing is returned whose checksum does not hold.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind, SEGMENT_HEADER_BYTES, SegmentHeader, padded};
use crate::server::book::BatchMark;

/// Bytes read at a time.
const WINDOW_BYTES: usize = 256 << 10;

/// What comes next in a segment.
#[derive(Debug)]
pub(in crate::server) enum Step {
    /// A frame with a good header.
    Frame(Frame),
    /// Bytes that are no frame, from here on.
    Hole(u64),
    /// The end.
    End,
}

/// A frame with a good header; its body may still be damaged.
#[derive(Debug, Clone, Copy)]
pub(in crate::server) struct Frame {
    pub(super) header: FrameHeader,
    /// Where it starts.
    pub(super) at: u64,
}

impl Frame {
    /// The mark of a batch, but for what only its columns say; `None` for other frames.
    pub(in crate::server) fn batch_mark(&self) -> Option<BatchMark> {
        (self.header.kind() == Some(FrameKind::Batch)).then(|| self.header.mark())
    }

    /// Where the next one starts.
    pub(super) fn end(&self) -> u64 {
        self.at + (FRAME_HEADER_BYTES + padded(self.header.body_len())) as u64
    }
}

/// Reads one segment from its start to a given end.
#[derive(Debug)]
pub(in crate::server) struct Reader {
    file: File,
    salt: u32,
    at: u64,
    end: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl Reader {
    /// A reader of the first `end` bytes; `None` when the segment's header is damaged or of another version.
    pub(in crate::server) fn new(file: File, end: u64) -> io::Result<Option<Self>> {
        let mut header = [0; SEGMENT_HEADER_BYTES];
        if end < SEGMENT_HEADER_BYTES as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut header, 0)?;
        let Some(salt) = SegmentHeader::salt_of(&header) else { return Ok(None) };
        let at = SEGMENT_HEADER_BYTES as u64;
        Ok(Some(Self { file, salt, at, end, window: Vec::new(), window_at: 0 }))
    }

    pub(super) fn salt(&self) -> u32 {
        self.salt
    }

    /// The next frame, or what is there instead.
    pub(in crate::server) fn next(&mut self) -> io::Result<Step> {
        if self.at >= self.end {
            return Ok(Step::End);
        }
        if let Some(frame) = self.frame_at(self.at)? {
            self.at = frame.end();
            return Ok(Step::Frame(frame));
        }
        let hole = self.at;
        self.at += 8;
        while self.at < self.end && self.frame_at(self.at)?.is_none() {
            self.at += 8;
        }
        Ok(Step::Hole(hole))
    }

    /// The body of a frame; `None` when it is damaged.
    pub(in crate::server) fn body(&self, frame: &Frame) -> io::Result<Option<Vec<u8>>> {
        let mut body = vec![0; frame.header.body_len()];
        self.file.read_exact_at(&mut body, frame.at + FRAME_HEADER_BYTES as u64)?;
        Ok(frame.header.body_is_good(&body, self.salt).then_some(body))
    }

    fn frame_at(&mut self, at: u64) -> io::Result<Option<Frame>> {
        if at + FRAME_HEADER_BYTES as u64 > self.end {
            return Ok(None);
        }
        self.fill(at)?;
        let offset = usize::try_from(at - self.window_at).unwrap_or(usize::MAX);
        let bytes = self.window.get(offset..).unwrap_or_default();
        let frame = FrameHeader::read(bytes, self.salt).map(|header| Frame { header, at });
        Ok(frame.filter(|frame| frame.end() <= self.end))
    }

    /// Moves the window so that it holds a frame's header at `at`.
    fn fill(&mut self, at: u64) -> io::Result<()> {
        let held = self.window_at..self.window_at + self.window.len() as u64;
        if held.contains(&at) && at + FRAME_HEADER_BYTES as u64 <= held.end {
            return Ok(());
        }
        let want = usize::try_from(self.end - at).unwrap_or(usize::MAX).min(WINDOW_BYTES);
        self.window.resize(want, 0);
        self.window_at = at;
        self.file.read_exact_at(&mut self.window, at).inspect_err(|_| self.window.clear())
    }
}
