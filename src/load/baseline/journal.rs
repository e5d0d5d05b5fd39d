//! All of a journal, read by our own reader and by libsystemd's: each touches every byte of every field, and says
//! what it saw, so that one can be held against the other.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::collector::journald::journal::{Reader, Source};
use crate::load::LoadError;

/// The same through libsystemd, compiled where its headers are.
pub const LIBSYSTEMD: &str = include_str!("libsystemd.c");

/// What a reader saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Read {
    /// Entries.
    pub entries: u64,
    /// Their fields.
    pub fields: u64,
    /// Bytes of the fields, `NAME=value`.
    pub bytes: u64,
    /// The sum of all those bytes.
    pub sum: u64,
    /// CPU time for it.
    pub cpu_s: f64,
    /// Entries and fields that could not be read.
    #[serde(default)]
    pub gaps: u64,
}

impl Read {
    /// Whether two saw the same.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> bool {
        let seen = |read: &Self| (read.entries, read.fields, read.bytes, read.sum);
        seen(self) == seen(other)
    }
}

/// `tapio-load baseline journal`: reads a directory once.
///
/// # Errors
/// When there is no such directory.
pub fn run(directory: &Path) -> Result<Read, LoadError> {
    let cpu = super::cpu_s();
    let mut read = Read::default();
    let mut reader = Reader::open(Source::Directory(directory.to_owned()))
        .map_err(|error| LoadError::process("journal", error.to_string()))?;
    while let Some(entry) = reader.next() {
        read.entries += 1;
        for (name, value) in entry.fields() {
            read.fields += 1;
            read.bytes += (name.len() + 1 + value.len()) as u64;
            read.sum += sum(name) + u64::from(b'=') + sum(value);
        }
    }
    read.gaps = reader.take_gaps().iter().map(|gap| gap.lost.unwrap_or(1)).sum();
    read.cpu_s = super::cpu_s() - cpu;
    Ok(read)
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|&byte| u64::from(byte)).sum()
}
