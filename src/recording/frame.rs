//! The layout of a recording: a file header, then frames of a header and a body each.
//!
//! Invariants:
//! - Little-endian; changes only with [`VERSION`].
//! - Any bytes are read without a panic and in bounded memory. A damaged body is passed over and counted; behind a
//!   damaged header nothing can be found, so reading ends there.

use std::io::{self, Read};

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The layout below.
pub const VERSION: u32 = 1;

const FILE_MAGIC: [u8; 8] = *b"TAPIOREC";
const FRAME_MAGIC: u32 = 0x4643_5254;

/// Largest body: a batch stays below 2 MiB.
pub const BODY_BYTES_MAX: usize = 8 << 20;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum FrameKind {
    /// A `Hello`: who recorded.
    Hello = 1,
    /// An `EventBatch`.
    Batch = 2,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
struct FileHeader {
    magic: [u8; 8],
    version: U32,
    reserved: U32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
struct FrameHeader {
    magic: U32,
    kind: U32,
    body_len: U32,
    body_sum: U32,
    header_sum: U32,
}

const HEADER_SUMMED: usize = size_of::<FrameHeader>() - 4;

/// Appends the header of a file.
pub fn write_file_header(out: &mut Vec<u8>) {
    let header = FileHeader { magic: FILE_MAGIC, version: VERSION.into(), reserved: 0.into() };
    out.extend_from_slice(header.as_bytes());
}

/// Appends a frame whose body is written by `body`.
pub fn write_frame(kind: FrameKind, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    let mut header = FrameHeader::new_zeroed();
    out.extend_from_slice(header.as_bytes());
    let body_start = out.len();
    body(out);
    let written = out.get(body_start..).unwrap_or_default();
    header.magic = FRAME_MAGIC.into();
    header.kind = (kind as u32).into();
    // Bodies are bounded far below 4 GiB before they get here.
    header.body_len = u32::try_from(written.len()).unwrap_or(u32::MAX).into();
    header.body_sum = crc32c::crc32c(written).into();
    header.header_sum = crc32c::crc32c(&header.as_bytes()[..HEADER_SUMMED]).into();
    out[start..body_start].copy_from_slice(header.as_bytes());
}

/// Whether a file that starts with these bytes is a recording.
#[must_use]
pub fn is_recording(start: &[u8]) -> bool {
    start.starts_with(&FILE_MAGIC)
}

/// What is wrong with a recording.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Damage {
    /// Frames whose body is not what was written.
    pub frames: u64,
    /// Reading ended before the end: the last frame was cut off, or is no frame.
    pub cut: bool,
}

/// Why a file cannot be read at all. Stop: another attempt has the same end.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The disk failed.
    #[error("cannot read: {0}")]
    Read(#[from] io::Error),
    /// Another program's file.
    #[error("this is no recording")]
    NotOne,
    /// Written by a newer version.
    #[error(
        "the recording has layout {0}, this build reads layout {VERSION}: use the tapio-collector that wrote it"
    )]
    Version(u32),
}

/// Reads the frames of a recording.
#[derive(Debug)]
pub struct Frames<R> {
    input: R,
    body: Vec<u8>,
    damage: Damage,
}

impl<R: Read> Frames<R> {
    /// Checks the header of a file.
    ///
    /// # Errors
    /// [`FrameError`] when it is no recording that this build can read.
    pub fn open(mut input: R) -> Result<Self, FrameError> {
        let mut bytes = [0; size_of::<FileHeader>()];
        if fill(&mut input, &mut bytes)? < bytes.len() {
            return Err(FrameError::NotOne);
        }
        let header = FileHeader::read_from_bytes(&bytes).map_err(|_| FrameError::NotOne)?;
        if header.magic != FILE_MAGIC {
            return Err(FrameError::NotOne);
        }
        if header.version.get() != VERSION {
            return Err(FrameError::Version(header.version.get()));
        }
        Ok(Self { input, body: Vec::new(), damage: Damage::default() })
    }

    /// The next good frame.
    ///
    /// # Errors
    /// Of the disk.
    pub fn next_frame(&mut self) -> io::Result<Option<(FrameKind, &[u8])>> {
        loop {
            let mut bytes = [0; size_of::<FrameHeader>()];
            let got = fill(&mut self.input, &mut bytes)?;
            if got == 0 {
                return Ok(None);
            }
            let Some(header) = good_header(&bytes).filter(|_| got == bytes.len()) else {
                self.damage.cut = true;
                return Ok(None);
            };
            let len = header.body_len.get() as usize;
            self.body.clear();
            // Grows with what is there, not with what a header claims.
            let got = self.input.by_ref().take(len as u64).read_to_end(&mut self.body)?;
            if got < len {
                self.damage.cut = true;
                return Ok(None);
            }
            let kind = [FrameKind::Hello, FrameKind::Batch]
                .into_iter()
                .find(|&kind| kind as u32 == header.kind.get());
            match kind {
                Some(kind) if crc32c::crc32c(&self.body) == header.body_sum.get() => {
                    return Ok(Some((kind, &self.body)));
                }
                _ => self.damage.frames += 1,
            }
        }
    }

    /// What was wrong so far.
    #[must_use]
    pub fn damage(&self) -> Damage {
        self.damage
    }
}

fn good_header(bytes: &[u8]) -> Option<FrameHeader> {
    let header = FrameHeader::read_from_bytes(bytes).ok()?;
    let good = header.magic.get() == FRAME_MAGIC
        && header.header_sum.get() == crc32c::crc32c(&header.as_bytes()[..HEADER_SUMMED])
        && header.body_len.get() as usize <= BODY_BYTES_MAX;
    good.then_some(header)
}

/// Reads until the buffer is full or the input ends.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while let Some(rest) = buffer.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(read) => got += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut file = Vec::new();
        write_file_header(&mut file);
        write_frame(FrameKind::Hello, &mut file, |body| body.extend_from_slice(b"who"));
        for size in [0, 1, 1000] {
            write_frame(FrameKind::Batch, &mut file, |body| body.resize(body.len() + size, 7));
        }
        file
    }

    fn read(file: &[u8]) -> (Vec<usize>, Damage) {
        let mut frames = Frames::open(file).expect("a recording");
        let mut sizes = Vec::new();
        while let Some((_, body)) = frames.next_frame().expect("memory does not fail") {
            sizes.push(body.len());
        }
        (sizes, frames.damage())
    }

    /// Scenario: a recording that is whole, cut at every byte, and with every byte changed.
    /// Guarantees: whole frames come back, a cut is said, a changed byte is never taken for what was written.
    #[test]
    fn frames_come_back_or_say_why_not() {
        let file = sample();
        assert_eq!(read(&file), (vec![3, 0, 1, 1000], Damage::default()));
        for end in 16..file.len() {
            let (sizes, damage) = read(&file[..end]);
            assert!(sizes.len() < 4);
            let between = [16, 39, 59, 80].contains(&end);
            assert_eq!(damage.cut, !between, "{end}");
        }
        for at in 16..file.len() {
            let mut file = file.clone();
            file[at] ^= 0x20;
            let (sizes, damage) = read(&file);
            assert!(sizes.len() < 4 && damage != Damage::default(), "{at}");
        }
    }

    /// Scenario: files of other programs, empty ones, and of a later layout.
    /// Guarantees: each is refused with what is wrong.
    #[test]
    fn other_files_are_refused() {
        for bytes in [&b""[..], b"TAPIO", b"{\"time\":\"2026-11-24T18:00:00Z\"}"] {
            assert!(matches!(Frames::open(bytes), Err(FrameError::NotOne)));
            assert!(!is_recording(bytes));
        }
        let mut file = sample();
        file[8] = 9;
        assert!(matches!(Frames::open(&file[..]), Err(FrameError::Version(9))));
    }
}
