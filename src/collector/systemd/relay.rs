//! The way to the manager's own socket.
//!
//! There the manager signs its messages with its well-known name, where the protocol has room for unique names only,
//! and the library refuses them. A relay in between turns the first letter of that name into the colon that a unique
//! name starts with, and passes on everything else as it is.
//!
//! Invariants:
//! - A byte changes only where the header field of the sender holds a name that is as long as the manager's.
//! - The relay ends with either end.

use std::os::unix::net::UnixStream;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes that are passed on at once.
const PIECE: usize = 64 << 10;

/// The header field 7, a text of 24 bytes, and its first letter.
const SENDER: [u8; 9] = [7, 1, b's', 0, 24, 0, 0, 0, b'o'];

/// A stream that leads to `manager`, from within a runtime.
///
/// # Errors
/// When there are no descriptors left.
pub(super) fn relay(manager: UnixStream) -> std::io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    manager.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    let manager = tokio::net::UnixStream::from_std(manager)?;
    let theirs = tokio::net::UnixStream::from_std(theirs)?;
    tokio::spawn(async move {
        let (from_manager, mut to_manager) = manager.into_split();
        let (mut from_us, to_us) = theirs.into_split();
        tokio::select! {
            _ended = pass_on(from_manager, to_us) => {}
            _ended = tokio::io::copy(&mut from_us, &mut to_manager) => {}
        }
    });
    Ok(ours)
}

async fn pass_on(
    mut from: tokio::net::unix::OwnedReadHalf,
    mut to: tokio::net::unix::OwnedWriteHalf,
) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut sender = Sender::default();
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return Ok(());
        }
        sender.mend(&mut piece[..length]);
        to.write_all(&piece[..length]).await?;
    }
}

/// How much of [`SENDER`] the last bytes were.
#[derive(Debug, Default)]
struct Sender {
    matched: usize,
}

impl Sender {
    fn mend(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if *byte != SENDER[self.matched] {
                // No part of it but the first byte is like its beginning.
                self.matched = usize::from(*byte == SENDER[0]);
                continue;
            }
            self.matched += 1;
            if self.matched == SENDER.len() {
                *byte = b':';
                self.matched = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a header with the manager's name, one with a unique name, and a body with the same text, in pieces of
    /// any length.
    /// Guarantees: the name becomes a unique one, nothing else changes.
    #[test]
    fn only_the_sender_is_mended() {
        let mut whole = b"l\x04\x07\x07\x07\x01s\0\x18\0\0\0org.freedesktop.systemd1\0".to_vec();
        whole.extend_from_slice(b"\x07\x01s\0\x04\0\0\0:1.5\0 org.freedesktop.systemd1\0");
        let mut expected = whole.clone();
        expected[12] = b':';
        for length in 1..=whole.len() {
            let (mut mended, mut sender) = (whole.clone(), Sender::default());
            mended.chunks_mut(length).for_each(|piece| sender.mend(piece));
            assert_eq!(mended, expected, "in pieces of {length}");
        }
        assert!(zbus::names::UniqueName::try_from(":rg.freedesktop.systemd1").is_ok());
    }
}
