//! The bytes of a segment: a segment header, then frames of a header and a body each.
//!
//! A frame's header says how much of the segment was on the disk when the frame was written. A damaged
//! spot before that offset was on the disk once: the medium damaged it. Behind every such offset it is the
//! tail of a write that a crash cut short.
//!
//! Invariants:
//! - Frames start at multiples of 8 and their checksums start from the segment's own number, so that bytes
//!   an agent sent cannot pass for a frame.
//! - The layout is little-endian and changes only with [`VERSION`].

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::server::book::{BatchMark, Id, Sender};

/// The layout below.
pub(super) const VERSION: u32 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"TAPIOSEG";
const FRAME_MAGIC: u32 = 0x5052_4654;

/// Largest body: a request, or a book with all its tallies.
pub(super) const BODY_BYTES_MAX: usize = 32 << 20;

/// Bytes of a segment's header.
pub(super) const SEGMENT_HEADER_BYTES: usize = size_of::<SegmentHeader>();

/// Bytes of a frame's header.
pub(super) const FRAME_HEADER_BYTES: usize = size_of::<FrameHeader>();

/// What a segment starts with.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub(super) struct SegmentHeader {
    magic: [u8; 8],
    version: U32,
    salt: U32,
    id: U64,
    checksum: U32,
    reserved: U32,
}

impl SegmentHeader {
    pub(super) fn new(id: u64, salt: u32) -> Self {
        let mut header = Self {
            magic: SEGMENT_MAGIC,
            version: VERSION.into(),
            salt: salt.into(),
            id: id.into(),
            checksum: 0.into(),
            reserved: 0.into(),
        };
        header.checksum = header.sum().into();
        header
    }

    fn sum(&self) -> u32 {
        crc32c::crc32c(&self.as_bytes()[..24])
    }

    /// The salt of a good header.
    pub(super) fn salt_of(bytes: &[u8]) -> Option<u32> {
        let (header, _) = Self::ref_from_prefix(bytes).ok()?;
        let good = header.magic == SEGMENT_MAGIC
            && header.version.get() == VERSION
            && header.checksum.get() == header.sum();
        good.then_some(header.salt.get())
    }
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum FrameKind {
    /// An `EventBatch`, as received.
    Batch = 1,
    /// The book as it was before the frames behind it; the first frame of a segment.
    Book = 2,
    /// The names of the agent in the header.
    Sender = 3,
}

/// What a frame starts with.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub(super) struct FrameHeader {
    magic: U32,
    kind: U32,
    body_len: U32,
    body_sum: U32,
    /// The agent; zero in the book's frame, like all that follows.
    pub(super) agent: [u8; 16],
    pub(super) boot: [u8; 16],
    pub(super) epoch: U64,
    pub(super) sequence: U64,
    pub(super) unix_first: U64,
    pub(super) unix_last: U64,
    pub(super) kind_set: [u8; 16],
    pub(super) events: U32,
    /// Offset in the segment before which all was on the disk when this frame was written.
    pub(super) synced: U32,
    header_sum: U32,
    reserved: U32,
}

const HEADER_SUMMED: usize = FRAME_HEADER_BYTES - 8;

/// A body's length with its padding.
pub(super) fn padded(len: usize) -> usize {
    len.next_multiple_of(8)
}

impl FrameHeader {
    fn new(kind: FrameKind, synced: u32) -> Self {
        let mut header = Self::new_zeroed();
        header.magic = FRAME_MAGIC.into();
        header.kind = (kind as u32).into();
        header.synced = synced.into();
        header
    }

    /// The header of a batch.
    pub(super) fn of_batch(mark: &BatchMark, synced: u32) -> Self {
        let mut header = Self::new(FrameKind::Batch, synced);
        header.agent = mark.agent.0;
        header.boot = mark.boot.0;
        header.epoch = mark.epoch.into();
        header.sequence = mark.sequence.into();
        header.unix_first = mark.unix_range.0.into();
        header.unix_last = mark.unix_range.1.into();
        header.kind_set = mark.kind_set.to_le_bytes();
        header.events = mark.events.into();
        header
    }

    /// The header of an agent's names.
    pub(super) fn of_sender(sender: &Sender, synced: u32) -> Self {
        let mut header = Self::new(FrameKind::Sender, synced);
        header.agent = sender.agent.0;
        header.boot = sender.boot.0;
        header.epoch = sender.epoch.into();
        header
    }

    /// The header of a book.
    pub(super) fn of_book() -> Self {
        Self::new(FrameKind::Book, 0)
    }

    /// Appends the frame.
    pub(super) fn write(mut self, salt: u32, body: &[u8], out: &mut Vec<u8>) {
        // Bodies are bounded far below 4 GiB before they get here.
        self.body_len = u32::try_from(body.len()).unwrap_or(u32::MAX).into();
        self.body_sum = crc32c::crc32c_append(salt, body).into();
        self.header_sum = self.sum(salt).into();
        out.extend_from_slice(self.as_bytes());
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(8), 0);
    }

    fn sum(&self, salt: u32) -> u32 {
        crc32c::crc32c_append(salt, &self.as_bytes()[..HEADER_SUMMED])
    }

    /// The header at the start of `bytes`, if there is a good one.
    pub(super) fn read(bytes: &[u8], salt: u32) -> Option<Self> {
        let (header, _) = Self::ref_from_prefix(bytes).ok()?;
        let good = header.magic.get() == FRAME_MAGIC
            && header.header_sum.get() == header.sum(salt)
            && header.body_len() <= BODY_BYTES_MAX;
        good.then_some(*header)
    }

    pub(super) fn kind(&self) -> Option<FrameKind> {
        [FrameKind::Batch, FrameKind::Book, FrameKind::Sender]
            .into_iter()
            .find(|&kind| kind as u32 == self.kind.get())
    }

    pub(super) fn body_len(&self) -> usize {
        self.body_len.get() as usize
    }

    pub(super) fn body_is_good(&self, body: &[u8], salt: u32) -> bool {
        crc32c::crc32c_append(salt, body) == self.body_sum.get()
    }

    pub(super) fn kind_set(&self) -> u128 {
        u128::from_le_bytes(self.kind_set)
    }

    /// The mark of a batch, but for what only its columns say.
    pub(super) fn mark(&self) -> BatchMark {
        BatchMark {
            agent: Id(self.agent),
            boot: Id(self.boot),
            epoch: self.epoch.get(),
            sequence: self.sequence.get(),
            events: self.events.get(),
            bytes: self.body_len.get(),
            unix_range: (self.unix_first.get(), self.unix_last.get()),
            kind_set: self.kind_set(),
            spans: Vec::new(),
        }
    }

    /// Who sent it, under these names.
    pub(super) fn sender(&self, host: &str, version: &str) -> Sender {
        Sender {
            agent: Id(self.agent),
            boot: Id(self.boot),
            epoch: self.epoch.get(),
            host: host.into(),
            version: version.into(),
        }
    }
}
