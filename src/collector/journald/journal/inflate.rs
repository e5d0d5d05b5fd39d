//! Compressed payloads: XZ, LZ4 and ZSTD as journald writes them.
//!
//! Invariants:
//! - How long a payload becomes is known or bounded before memory for it is taken.

use std::io::Read;

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// Bits of an object's flags.
const XZ: u8 = 1;
const LZ4: u8 = 1 << 1;
const ZSTD: u8 = 1 << 2;

/// The longest payload that is expanded.
pub(super) const FIELD_BYTES_MAX: usize = 8 << 20;

/// Why a payload stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is not what its flags say.
    Damaged,
    /// It would become longer than allowed.
    Oversized,
}

/// Expands payloads, with memory that it keeps.
#[derive(Default)]
pub(super) struct Inflater {
    /// Made when it is first needed.
    zstd: Option<Box<FrameDecoder>>,
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflater").field("zstd", &self.zstd.is_some()).finish()
    }
}

impl Inflater {
    /// Appends the payload behind `input` to `out`, at most `bytes_max` of it; appends nothing when it is refused.
    pub(super) fn append(
        &mut self,
        compression: u8,
        input: &[u8],
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<(), Refused> {
        let before = out.len();
        let done = match compression {
            XZ => xz(input, out, bytes_max),
            LZ4 => lz4(input, out, bytes_max),
            ZSTD => self.zstd(input, out, bytes_max),
            _ => Err(Refused::Damaged),
        };
        done.inspect_err(|_| out.truncate(before))
    }

    fn zstd(&mut self, input: &[u8], out: &mut Vec<u8>, bytes_max: usize) -> Result<(), Refused> {
        let decoder = self.zstd.get_or_insert_with(|| {
            let mut decoder = FrameDecoder::new();
            decoder.set_max_window_size(FIELD_BYTES_MAX as u64);
            Box::new(decoder)
        });
        let before = out.len();
        // One that is not complete may leave the decoder in the middle of it: it starts anew with each frame.
        let stream = StreamingDecoder::new_with_decoder(input, &mut **decoder).map_err(zstd_refusal)?;
        // One more than is allowed tells whether there is more.
        stream.take(bytes_max as u64 + 1).read_to_end(out).map_err(|_| Refused::Damaged)?;
        if out.len() - before > bytes_max { Err(Refused::Oversized) } else { Ok(()) }
    }
}

fn zstd_refusal(error: ruzstd::decoding::errors::FrameDecoderError) -> Refused {
    match error {
        ruzstd::decoding::errors::FrameDecoderError::WindowSizeTooBig { .. } => Refused::Oversized,
        _ => Refused::Damaged,
    }
}

/// A length in eight bytes, then one block.
fn lz4(input: &[u8], out: &mut Vec<u8>, bytes_max: usize) -> Result<(), Refused> {
    let (length, block) = input.split_first_chunk::<8>().ok_or(Refused::Damaged)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| Refused::Oversized)?;
    if length > bytes_max {
        return Err(Refused::Oversized);
    }
    let before = out.len();
    out.resize(before + length, 0);
    let room = out.get_mut(before..).unwrap_or_default();
    match lz4_flex::block::decompress_into(block, room) {
        Ok(written) if written == length => Ok(()),
        _ => Err(Refused::Damaged),
    }
}

/// An XZ stream of one block with one filter, which is what journald writes. Only the block is handed on: the decoder
/// trusts the numbers around it too far.
fn xz(input: &[u8], out: &mut Vec<u8>, bytes_max: usize) -> Result<(), Refused> {
    let (block, length) = xz_block(input).ok_or(Refused::Damaged)?;
    if length > bytes_max {
        return Err(Refused::Oversized);
    }
    let before = out.len();
    out.reserve(length);
    lzma_rs::lzma2_decompress(&mut &*block, out).map_err(|_| Refused::Damaged)?;
    if out.len() - before == length { Ok(()) } else { Err(Refused::Damaged) }
}

/// The chunks of the block, and how long they become: the sum of what they declare.
fn xz_block(input: &[u8]) -> Option<(&[u8], usize)> {
    const STREAM_HEADER: usize = 12;
    input.strip_prefix(b"\xfd7zXZ\0")?;
    let &header = input.get(STREAM_HEADER)?;
    let &flags = input.get(STREAM_HEADER + 1)?;
    // The two low bits count the filters behind the first.
    if header == 0 || flags & 3 != 0 {
        return None;
    }
    let start = STREAM_HEADER + (usize::from(header) + 1) * 4;
    let mut at = start;
    let mut length = 0_usize;
    let number = |at: usize| Some(usize::from(u16::from_be_bytes(*input.get(at..)?.first_chunk()?)));
    loop {
        let control = *input.get(at)?;
        match control {
            0 => return Some((input.get(start..=at)?, length)),
            // Stored.
            1 | 2 => {
                let bytes = number(at + 1)? + 1;
                length = length.checked_add(bytes)?;
                at += 3 + bytes;
            }
            3..0x80 => return None,
            _ => {
                let high = usize::from(control & 0x1f) << 16;
                length = length.checked_add(high + number(at + 1)? + 1)?;
                let properties = usize::from(control >= 0xc0);
                at += 5 + properties + number(at + 3)? + 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] =
        b"MESSAGE=tapio tapio tapio tapio tapio tapio tapio tapio tapio tapio tapio tapio tapio!";

    fn lz4_of(text: &[u8]) -> Vec<u8> {
        // One run of literals: a token, the rest of its length, the bytes.
        let mut block = (text.len() as u64).to_le_bytes().to_vec();
        block.push(0xf0);
        block.push(u8::try_from(text.len() - 15).expect("short"));
        block.extend_from_slice(text);
        block
    }

    fn samples() -> [(u8, Vec<u8>); 3] {
        let mut xz = Vec::new();
        lzma_rs::xz_compress(&mut &*TEXT, &mut xz).expect("compressed");
        let zstd = ruzstd::encoding::compress_to_vec(TEXT, ruzstd::encoding::CompressionLevel::Fastest);
        [(XZ, xz), (LZ4, lz4_of(TEXT)), (ZSTD, zstd)]
    }

    /// Scenario: a text in each compression, appended to what is there; with a bound one byte too low; cut anywhere.
    /// Guarantees: the text, or a refusal that appends nothing.
    #[test]
    #[cfg_attr(miri, ignore = "slow, and all of it is in safe libraries")]
    fn payloads_are_expanded_within_bounds() {
        let mut inflater = Inflater::default();
        for (compression, packed) in samples() {
            let mut out = b"before".to_vec();
            inflater.append(compression, &packed, &mut out, TEXT.len()).expect("expanded");
            assert_eq!(out, [b"before", TEXT].concat());
            let refused = inflater.append(compression, &packed, &mut out, TEXT.len() - 1);
            assert_eq!((refused, out.len()), (Err(Refused::Oversized), 6 + TEXT.len()));
            // Behind its block an XZ stream has an index and a footer, which are not needed.
            let needed = if compression == XZ { packed.len() - 28 } else { packed.len() };
            for cut in 0..needed - 8 {
                let mut out = Vec::new();
                let cut = inflater.append(compression, &packed[..cut], &mut out, 1 << 20);
                assert!(cut.is_err() && out.is_empty());
            }
        }
        assert_eq!(inflater.append(3, TEXT, &mut Vec::new(), 100), Err(Refused::Damaged));
    }
}
