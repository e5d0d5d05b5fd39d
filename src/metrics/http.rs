//! `/metrics`, `/healthz` and `/readyz` over HTTP.
//!
//! Invariants:
//! - At most [`CONNECTIONS_MAX`] connections, each ended after [`CONNECTION_MAX`], whatever it does.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

use crate::control::Vitals;

/// Connections at a time; others wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 16;

/// Longest life of a connection. A scraper connects again.
pub const CONNECTION_MAX: Duration = Duration::from_secs(60);

/// Serves a listening socket until it is dropped.
///
/// # Errors
/// When the runtime does not take the socket.
pub async fn serve(listener: std::net::TcpListener, vitals: Arc<dyn Vitals>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = Listener {
        listener: TcpListener::from_std(listener)?,
        places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
    };
    axum::serve(listener, router(vitals)).await
}

fn router(vitals: Arc<dyn Vitals>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(vitals)
}

async fn metrics(State(vitals): State<Arc<dyn Vitals>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], super::prometheus(&vitals.snapshot()))
}

/// Ready: something is collected and the server takes it.
async fn ready(State(vitals): State<Arc<dyn Vitals>>) -> (StatusCode, String) {
    let snapshot = vitals.snapshot();
    if snapshot.collectors_active() == 0 {
        return (StatusCode::SERVICE_UNAVAILABLE, "no collector delivers\n".into());
    }
    if !snapshot.egress.connected {
        let why = format!("not connected to {}: {}\n", snapshot.egress.server, snapshot.egress.last_error);
        return (StatusCode::SERVICE_UNAVAILABLE, why);
    }
    (StatusCode::OK, "ok\n".into())
}

/// Accepts while there is a place.
struct Listener {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed: without a place there is nothing to wait for but one.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let deadline = Box::pin(sleep(CONNECTION_MAX));
                    return (Connection { stream, deadline, _place: place }, peer);
                }
                Err(error) => {
                    tracing::debug!("cannot accept a connection for metrics: {error}");
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection with its place and its end.
struct Connection {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn ended(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.ended(context)?;
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.ended(context)?;
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
