//! The caller's half of the Unix socket.
//!
//! Invariants:
//! - Every wait has a limit and every answer a greatest length: the other end may be anything.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Refusal, Request};

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Longest answer: every incident that an agent keeps, with all its facts.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Why there is no answer. Each needs a person.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no tapio-collector answers on {}; start it with `tapio-collector`, \
         or name its socket with --socket",
        .0.display()
    )]
    NoAgent(PathBuf),
    /// The socket is another user's.
    #[error("this user may not ask on {}; ask as the user that runs tapio-collector, or as root", .0.display())]
    Denied(PathBuf),
    /// It broke off.
    #[error("{} did not answer: {source}", .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It did not say what was asked for.
    #[error("{} answered: {answer}", .path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What it said.
        answer: String,
    },
}

/// Asks the agent that listens on `socket`. Gives the line that it answered, without its end.
///
/// # Errors
/// [`ClientError`].
pub fn ask(socket: &Path, request: &Request) -> Result<String, ClientError> {
    let path = || socket.to_owned();
    let stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoAgent(path()),
        io::ErrorKind::PermissionDenied => ClientError::Denied(path()),
        _ => ClientError::Io { path: path(), source },
    })?;
    let line = exchange(&stream, request).map_err(|source| ClientError::Io { path: path(), source })?;
    match serde_json::from_str::<Refusal>(&line) {
        Ok(refusal) => Err(ClientError::Answer { path: path(), answer: refusal.error }),
        Err(_) => Ok(line),
    }
}

fn exchange(mut stream: &UnixStream, request: &Request) -> io::Result<String> {
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    let mut asked = serde_json::to_vec(request)?;
    asked.push(b'\n');
    stream.write_all(&asked)?;
    let mut line = String::new();
    BufReader::new(stream).take(ANSWER_BYTES_MAX).read_line(&mut line).map_err(|error| {
        match error.kind() {
            io::ErrorKind::WouldBlock => {
                io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {ANSWER_MAX:?}"))
            }
            _ => error,
        }
    })?;
    match line.strip_suffix('\n') {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up before the end of its answer")),
    }
}
