//! Where an entry stands, in libsystemd's text form: `s=..;i=..;b=..;m=..;t=..;x=..`.
//!
//! Invariants:
//! - What [`Cursor`] prints, `journalctl --after-cursor` understands, and the other way round.

use std::fmt;
use std::str::FromStr;

/// Names one entry, in every file that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Whose sequence numbers these are.
    pub seqnum_id: [u8; 16],
    /// The number of the entry among those of its journal.
    pub seqnum: u64,
    /// The boot it was written in.
    pub boot_id: [u8; 16],
    /// Microseconds of that boot's monotonic clock.
    pub monotonic_us: u64,
    /// Microseconds since 1970.
    pub realtime_us: u64,
    /// A hash over all its fields.
    pub xor_hash: u64,
}

/// The text is no cursor. Skip it: start from a time instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a journal cursor, which reads s=ID;i=N;b=ID;m=N;t=N;x=N in hexadecimal: {0:?}")]
pub struct NotACursor(pub String);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seqnum, monotonic_us, realtime_us, xor_hash, .. } = self;
        let (source, boot) = (u128::from_be_bytes(self.seqnum_id), u128::from_be_bytes(self.boot_id));
        write!(
            f,
            "s={source:032x};i={seqnum:x};b={boot:032x};m={monotonic_us:x};t={realtime_us:x};x={xor_hash:x}"
        )
    }
}

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        let refused = || NotACursor(text.chars().take(256).collect());
        let (mut ids, mut numbers) = ([None; 2], [None; 4]);
        for part in text.trim().split(';') {
            let (key, value) = part.split_once('=').ok_or_else(refused)?;
            match key {
                "s" => ids[0] = id(value),
                "b" => ids[1] = id(value),
                "i" => numbers[0] = number(value),
                "m" => numbers[1] = number(value),
                "t" => numbers[2] = number(value),
                "x" => numbers[3] = number(value),
                // Later versions may say more.
                _ => {}
            }
        }
        let (
            [Some(seqnum_id), Some(boot_id)],
            [Some(seqnum), Some(monotonic_us), Some(realtime_us), Some(xor_hash)],
        ) = (ids, numbers)
        else {
            return Err(refused());
        };
        Ok(Self { seqnum_id, seqnum, boot_id, monotonic_us, realtime_us, xor_hash })
    }
}

fn number(text: &str) -> Option<u64> {
    let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    hexadecimal.then(|| u64::from_str_radix(text, 16).ok())?
}

/// An id as 32 digits or in the groups of a UUID.
fn id(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|&c| c != '-').collect();
    let valid = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    valid.then(|| u128::from_str_radix(&digits, 16).ok())?.map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "s=0f3d5f0d7b6e4c44a7c1c4b8f6a0d1e2;i=2a;b=00000000000000000000000000000001;\
        m=5f5e100;t=6444e3a9c1b00;x=8badf00d";

    /// Scenario: a cursor as journalctl prints it, read and printed.
    /// Guarantees: the same text, and the numbers are read as hexadecimal.
    #[test]
    fn text_survives() {
        let cursor: Cursor = TEXT.parse().expect("valid");
        assert_eq!(cursor.to_string(), TEXT);
        assert_eq!((cursor.seqnum, cursor.monotonic_us, cursor.boot_id[15]), (42, 100_000_000, 1));
    }

    /// Scenario: texts that lack a part, have a bad digit, a sign, or an id of another length.
    /// Guarantees: none is taken for a cursor.
    #[test]
    fn what_is_no_cursor_is_refused() {
        let bad = ["", "s", TEXT.trim_end_matches(";x=8badf00d"), &TEXT.replace("i=2a", "i=+2a")];
        for text in bad.into_iter().chain([&*TEXT.replace("i=2a", "i=2g"), &*TEXT.replace("b=0", "b=")]) {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
