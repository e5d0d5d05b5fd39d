//! What is in a segment, so that a query can pass it over: kept in memory, and in a file beside it once it is full.
//!
//! Invariants:
//! - The file can be lost or damaged at any time: it is made again from the segment.
//! - Memory per full segment is a few numbers; the filter stays in the file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::bloom::{BLOOM_BYTES, Bloom};
use crate::proto::Entity;
use crate::server::book::BatchMark;

const MAGIC: [u8; 8] = *b"TAPIOIDX";
const VERSION: u32 = 1;

/// The numbers of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) struct Summary {
    /// Unix nanoseconds of the first and the last event.
    pub(in crate::server) unix_first: u64,
    pub(in crate::server) unix_last: u64,
    /// Bit N for the kind with number N.
    pub(in crate::server) kind_set: u128,
    pub(in crate::server) batches: u64,
    pub(in crate::server) events: u64,
    /// Damaged spots.
    pub(in crate::server) corrupt: u64,
}

impl Default for Summary {
    fn default() -> Self {
        Self { unix_first: u64::MAX, unix_last: 0, kind_set: 0, batches: 0, events: 0, corrupt: 0 }
    }
}

/// The index of a segment in the making.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) summary: Summary,
    pub(super) bloom: Bloom,
}

impl Index {
    pub(super) fn add(&mut self, mark: &BatchMark, entities: &[Entity]) {
        let summary = &mut self.summary;
        summary.unix_first = summary.unix_first.min(mark.unix_range.0);
        summary.unix_last = summary.unix_last.max(mark.unix_range.1);
        summary.kind_set |= mark.kind_set;
        summary.batches += 1;
        summary.events += u64::from(mark.events);
        for entity in entities {
            self.bloom.add_entity(entity);
        }
    }

    /// Writes the file of a segment of this length.
    pub(super) fn save(&self, segment: &Path, segment_bytes: u64) -> io::Result<()> {
        let bloom = self.bloom.to_bytes();
        let mut bytes = Header::new(&self.summary, segment_bytes, &bloom).as_bytes().to_vec();
        bytes.extend_from_slice(&bloom);
        let made = path_of(segment).with_extension("tmp");
        fs::write(&made, &bytes)?;
        fs::rename(&made, path_of(segment))
    }
}

/// Bytes of an index file.
pub(super) const INDEX_BYTES: u64 = (size_of::<Header>() + BLOOM_BYTES) as u64;

/// Where the index of a segment is.
pub(super) fn path_of(segment: &Path) -> PathBuf {
    segment.with_extension("idx")
}

#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
struct Header {
    magic: [u8; 8],
    version: U32,
    bloom_sum: U32,
    segment_bytes: U64,
    unix_first: U64,
    unix_last: U64,
    kind_set: [u8; 16],
    batches: U64,
    events: U64,
    corrupt: U64,
    header_sum: U32,
    reserved: U32,
}

const SUMMED: usize = size_of::<Header>() - 8;

impl Header {
    fn new(summary: &Summary, segment_bytes: u64, bloom: &[u8]) -> Self {
        let mut header = Self {
            magic: MAGIC,
            version: VERSION.into(),
            bloom_sum: crc32c::crc32c(bloom).into(),
            segment_bytes: segment_bytes.into(),
            unix_first: summary.unix_first.into(),
            unix_last: summary.unix_last.into(),
            kind_set: summary.kind_set.to_le_bytes(),
            batches: summary.batches.into(),
            events: summary.events.into(),
            corrupt: summary.corrupt.into(),
            header_sum: 0.into(),
            reserved: 0.into(),
        };
        header.header_sum = header.sum().into();
        header
    }

    fn sum(&self) -> u32 {
        crc32c::crc32c(&self.as_bytes()[..SUMMED])
    }

    fn is_good(&self) -> bool {
        self.magic == MAGIC && self.version.get() == VERSION && self.header_sum.get() == self.sum()
    }
}

/// Reads the numbers of a segment of this length; `None` when they are to be made again.
pub(super) fn load_summary(segment: &Path, segment_bytes: u64) -> Option<Summary> {
    use std::os::unix::fs::FileExt;
    let mut bytes = [0; size_of::<Header>()];
    let file = fs::File::open(path_of(segment)).ok()?;
    let whole = file.metadata().ok()?.len() == INDEX_BYTES;
    file.read_exact_at(&mut bytes, 0).ok()?;
    let header = Header::ref_from_bytes(&bytes).ok()?;
    (whole && header.is_good() && header.segment_bytes.get() == segment_bytes).then(|| Summary {
        unix_first: header.unix_first.get(),
        unix_last: header.unix_last.get(),
        kind_set: u128::from_le_bytes(header.kind_set),
        batches: header.batches.get(),
        events: header.events.get(),
        corrupt: header.corrupt.get(),
    })
}

/// Reads the filter of a segment; `None` when there is none that can be trusted.
pub(super) fn load_bloom(segment: &Path) -> Option<Bloom> {
    let bytes = fs::read(path_of(segment)).ok()?;
    let (header, bloom) = Header::ref_from_prefix(&bytes).ok()?;
    let good = header.is_good() && header.bloom_sum.get() == crc32c::crc32c(bloom);
    if good { Bloom::from_bytes(bloom) } else { None }
}
