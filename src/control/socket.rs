//! The agent's half of the Unix socket: requests and answers, one JSON object a line.
//!
//! Invariants:
//! - Only the owner can connect: the socket is made with mode 0600, never changed to it.
//! - A socket that somebody answers is never taken away; one that nobody answers is replaced.
//! - Of agents that start at the same time exactly one gets the socket: a lock is held on a file beside it, which stays,
//!   since removing it would let two agents hold two locks.
//! - At most [`CLIENTS_MAX`] clients, each with one bounded line in memory and a limit on every wait.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{REQUEST_BYTES_MAX, Refusal, Request, Vitals};

/// Clients at a time. A person or a script needs one.
pub const CLIENTS_MAX: usize = 16;

/// A client that asks nothing, or reads nothing, for this long is left.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Connections that the kernel keeps for us.
const BACKLOG: i32 = 32;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent runs. Stop: two agents would send every event twice.
    #[error(
        "another tapio-collector has the socket {}; stop it first, or give this one its own --socket and --state-dir",
        .0.display()
    )]
    InUse(PathBuf),
    /// The path is taken by something else. Skip the socket: the agent works without it.
    #[error("{} exists and is not a socket; remove it or choose another --socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refused. Skip the socket: the agent works without it.
    #[error("cannot make the socket {}: {source}; `status` will not work; choose a --socket where this user may write",
        .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A socket that listens. Dropping it removes its file.
#[derive(Debug)]
pub struct Socket {
    listener: std::os::unix::net::UnixListener,
    path: PathBuf,
    /// Device and inode, so that only our own file is removed.
    identity: Option<(u64, u64)>,
    /// Held for as long as the socket is ours.
    _lock: fs::File,
}

impl Socket {
    /// Makes the socket, and the directory that it is in.
    ///
    /// # Errors
    /// [`SocketError`], which says whether the agent can go on.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source: io::Error| SocketError::Io { path: path.to_owned(), source };
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed)?;
        }
        let lock = lock(path)?;
        clear(path)?;
        let listener = listen(path).map_err(|error| failed(error.into()))?;
        let identity = fs::symlink_metadata(path).ok().map(|data| (data.dev(), data.ino()));
        Ok(Self { listener, path: path.to_owned(), identity, _lock: lock })
    }

    /// Answers clients for as long as the future is polled.
    ///
    /// # Errors
    /// When the runtime does not take the socket.
    pub async fn serve(&self, vitals: Arc<dyn Vitals>) -> io::Result<()> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        let places = Arc::new(Semaphore::new(CLIENTS_MAX));
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Most likely out of file descriptors: others need time to give theirs back.
                    tracing::warn!("cannot accept a client of {}: {error}", self.path.display());
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    let vitals = Arc::clone(&vitals);
                    tokio::spawn(async move {
                        talk(stream, &*vitals).await;
                        drop(place);
                    });
                }
                // One attempt: this client must not hold up the next one.
                Err(_) => drop(
                    stream.try_write(&refusal(format!("{CLIENTS_MAX} clients are connected; ask again"))),
                ),
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let now = fs::symlink_metadata(&self.path).ok().map(|data| (data.dev(), data.ino()));
        if self.identity.is_some() && now == self.identity {
            // What stays behind is replaced by the next agent.
            let _gone = fs::remove_file(&self.path);
        }
    }
}

/// Locks the file beside the socket, so that nobody else looks at it and takes it meanwhile.
fn lock(path: &Path) -> Result<fs::File, SocketError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let failed =
        |error: rustix::io::Errno| SocketError::Io { path: name.clone().into(), source: error.into() };
    let file = rustix::fs::open(&name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.into()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(SocketError::InUse(path.to_owned())),
        Err(error) => Err(failed(error)),
    }
}

/// Makes room for the socket, if what is there may go.
fn clear(path: &Path) -> Result<(), SocketError> {
    let failed = |source: io::Error| SocketError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(data) if !data.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match BlockingStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

fn listen(path: &Path) -> rustix::io::Result<std::os::unix::net::UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux gives the file the mode of the socket, less the umask: nobody else can connect at any time.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Answers one client until it leaves, stalls or says something that is no line.
async fn talk(mut stream: UnixStream, vitals: &dyn Vitals) {
    let (reading, mut writing) = stream.split();
    let mut reading = BufReader::with_capacity(REQUEST_BYTES_MAX, reading);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut reading).take(REQUEST_BYTES_MAX as u64);
        let read = match timeout(IDLE_MAX, limited.read_until(b'\n', &mut line)).await {
            Ok(Ok(read)) if read > 0 => read,
            _ => return,
        };
        let whole = line.ends_with(b"\n");
        let answer = if !whole && read >= REQUEST_BYTES_MAX {
            refusal(format!("the request is longer than {REQUEST_BYTES_MAX} bytes"))
        } else {
            answer(&line, vitals)
        };
        let written = timeout(IDLE_MAX, writing.write_all(&answer)).await;
        if !whole || !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}

fn answer(line: &[u8], vitals: &dyn Vitals) -> Vec<u8> {
    match serde_json::from_slice(line) {
        Ok(Request::Status) => json_line(&vitals.snapshot()),
        Ok(Request::Incidents) => json_line(&vitals.incidents(None)),
        Ok(Request::Explain { id }) => json_line(&vitals.incidents(Some(&id))),
        Err(error) => refusal(format!("{error}; a request is one line such as {{\"command\":\"status\"}}")),
    }
}

fn refusal(error: String) -> Vec<u8> {
    json_line(&Refusal { error })
}

fn json_line(value: &impl serde::Serialize) -> Vec<u8> {
    // Maps with text keys and numbers only: nothing here can fail, and an empty line would be no answer.
    let mut line =
        serde_json::to_vec(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}").into_bytes());
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests;
