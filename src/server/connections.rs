//! Connections of one port, with or without TLS, at most so many at a time.
//!
//! Invariants:
//! - A handshake that takes long delays no other connection, and has a deadline.
//! - A peer that says nothing at first, or takes nothing of what is written to it, is left after a while.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::tls::{Identity, Protocol};

/// How long a handshake may take, and then the first byte of the peer.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// How long a peer may take nothing of what is there for it.
const STALLED_MAX: Duration = Duration::from_secs(30);

/// The pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Accepts the connections of one port.
pub(super) struct Connections {
    listener: TcpListener,
    tls: Option<Arc<Identity>>,
    protocol: Protocol,
    places: Arc<Semaphore>,
    handshakes: JoinSet<Option<Connection>>,
}

/// A connection that is ready for its protocol.
pub(super) struct Connection {
    stream: Transport,
    /// Runs until the peer has said something.
    silent: Option<Pin<Box<Sleep>>>,
    /// Runs while the peer takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connections {
    /// The connections of this listener, at most `most` at a time.
    pub(super) fn new(
        listener: TcpListener,
        tls: Option<Arc<Identity>>,
        protocol: Protocol,
        most: usize,
    ) -> Self {
        let places = Arc::new(Semaphore::new(most));
        Self { listener, tls, protocol, places, handshakes: JoinSet::new() }
    }

    /// The next connection that is ready.
    pub(super) async fn next(&mut self) -> Connection {
        loop {
            let accepted = tokio::select! {
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Some(ready)) => return ready,
                    _ => continue,
                },
                accepted = accept(&self.listener, &self.places) => accepted,
            };
            match (accepted, &self.tls) {
                (Ok((stream, _, place)), None) => return Connection::new(Transport::Plain(stream), place),
                (Ok((stream, peer, place)), Some(identity)) => {
                    let acceptor = TlsAcceptor::from(identity.config(self.protocol));
                    self.handshakes.spawn(handshake(acceptor, stream, peer, place));
                }
                (Err(error), _) => {
                    tracing::debug!("accept failed: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The connections as a stream, for tonic.
    pub(super) fn stream(self) -> impl tokio_stream::Stream<Item = io::Result<Connection>> {
        futures_util::stream::unfold(self, async |mut connections| {
            let connection = connections.next().await;
            Some((Ok(connection), connections))
        })
    }
}

/// Accepts one connection once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer, place))
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
) -> Option<Connection> {
    match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(Connection::new(Transport::Tls(Box::new(stream)), place)),
        Ok(Err(error)) => {
            tracing::debug!("TLS handshake with {peer} failed: {error}");
            None
        }
        Err(_) => None,
    }
}

impl Connection {
    fn new(stream: Transport, place: OwnedSemaphorePermit) -> Self {
        let silent = Some(Box::pin(tokio::time::sleep(HANDSHAKE_MAX)));
        Self { stream, silent, stalled: None, _place: place }
    }

    /// Passes the result of a write on; of one that waits, only for so long.
    fn progress<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALLED_MAX)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = match &mut self.stream {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if read.is_ready() {
            self.silent = None;
        } else if let Some(silent) = &mut self.silent {
            ready!(silent.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        self.progress(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.stream {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        self.progress(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = match &mut self.stream {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        };
        self.progress(cx, closed)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        };
        self.progress(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
