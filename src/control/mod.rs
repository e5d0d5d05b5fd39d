//! What a person touches while the agent runs: the socket and its commands, the status line, signals, reload.
//!
//! `snapshot` is everything that `status` shows and `vitals` takes it from the agent, `socket` answers and `client` asks,
//! `status` and `doctor` print, `run` ties them to the life of the agent.
//!
//! Invariants:
//! - Looking changes nothing: no lock of the hot path, no wait longer than a writer's pass.
//! - A client that stalls, floods or vanishes costs a bounded task and a bounded buffer, nothing else.

pub mod client;
pub mod doctor;
pub mod incidents;
pub mod run;
pub mod snapshot;
pub mod socket;
pub mod status;
mod table;
pub mod vitals;

pub use snapshot::{Snapshot, Vitals};

/// Longest request of a client, in bytes.
pub const REQUEST_BYTES_MAX: usize = 4 << 10;

/// What a client asks: one JSON object on one line.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// A [`Snapshot`].
    Status,
    /// The newest revision of each incident that is kept, newest first.
    Incidents,
    /// Those of them whose id starts with these digits.
    Explain {
        /// The digits.
        id: String,
    },
}

/// What a client gets instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Refusal {
    /// Why, and what would be right.
    pub error: String,
}

/// Writes data for the caller of a command to the standard output. A reader that has left wants no more of it.
///
/// # Errors
/// Of writing, other than that nobody reads.
pub fn print(text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
