//! The server as a whole: what it is made of, and how it starts and stops.
//!
//! Stopping has an order: no new connections, streams stop reading, what was read is stored and acked,
//! streams end, then the store closes.
//!
//! Invariants:
//! - A stop takes a bounded time, whatever peers and disk do: a few seconds each for streams, HTTP and the store.
//! - Both ports are bound and the store is open before anything is served.
//! - Queries run on a thread of their own: they slow no stream down.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;

use super::codec::CollectorService;
use super::connections::Connections;
use super::http;
use super::ingest::Ingest;
use super::options::{Options, OptionsError, StoreKind};
use super::store::{Limits, Store, StoreError};
use super::tls::{Identity, Protocol};

/// The largest frame that a peer may send: fewer, larger frames halve the sender's cost.
const FRAME_BYTES: u32 = 1 << 20;

/// What a stream and a connection may send ahead.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Streams that one connection may open; an agent needs one.
const STREAMS_PER_CONNECTION: u32 = 16;

/// Connections of agents.
const CONNECTIONS_MAX: usize = 4096;

/// How long a peer that says nothing is kept.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEPALIVE_MAX: Duration = Duration::from_secs(20);

/// How long streams may take to end after the stop, and then the store to write what it has.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Why the server does not run. Stop; the exit code says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The options do not fit together.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store ended while the server was running.
    #[error("the store ended; what was acked is on the disk: start the server again, and report this")]
    StoreEnded,
    /// A port cannot be bound.
    #[error("cannot listen on {address} (--{flag}): {error}{hint}")]
    Listen {
        /// Which flag.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the kernel says.
        error: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// A certificate, key or CA file is no good.
    #[error("{}: {what}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The operating system refuses a thread, a signal handler or a runtime.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
    /// gRPC failed as a whole.
    #[error("the gRPC server failed: {0}")]
    Grpc(#[from] tonic::transport::Error),
}

impl ServeError {
    /// The exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let denied = |error: &std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
        match self {
            Self::Options(_) | Self::Tls { .. } => 78,
            Self::Listen { error, .. } if denied(error) => 77,
            Self::Store(StoreError::Directory { error, .. }) if denied(error) => 77,
            Self::Store(_) | Self::StoreEnded | Self::Listen { .. } | Self::Start(_) | Self::Grpc(_) => 1,
        }
    }
}

async fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "; is another tapio-server running? Stop it or give another port"
            }
            std::io::ErrorKind::PermissionDenied => "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
            _ => "",
        };
        ServeError::Listen { flag, address, error, hint }
    })
}

/// A server that listens, not yet serving.
#[derive(Debug)]
pub struct Bound {
    grpc: TcpListener,
    http: TcpListener,
    tls: Option<Arc<Identity>>,
    ingest: Arc<Ingest>,
    stop: watch::Sender<bool>,
}

impl Bound {
    /// Checks the options, binds the ports and opens the store.
    ///
    /// # Errors
    /// [`ServeError`] says what is in the way.
    pub async fn new(options: &Options) -> Result<Self, ServeError> {
        options.check()?;
        let tls = Identity::load(options)?.map(Arc::new);
        let grpc = bind("grpc-listen", options.grpc_listen).await?;
        let http = bind("http-listen", options.http_listen).await?;
        let store = match options.store {
            StoreKind::Null => Store::null(),
            StoreKind::Segments => Store::open(&options.data_dir, Limits::new(options.store_bytes))?,
        };
        let (stop, stopping) = watch::channel(false);
        let ingest = Arc::new(Ingest::new(store, stopping));
        Ok(Self { grpc, http, tls, ingest, stop })
    }

    /// Where agents connect.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn grpc_address(&self) -> std::io::Result<SocketAddr> {
        self.grpc.local_addr()
    }

    /// Where queries go.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn http_address(&self) -> std::io::Result<SocketAddr> {
        self.http.local_addr()
    }

    /// What it serves.
    #[must_use]
    pub fn ingest(&self) -> &Arc<Ingest> {
        &self.ingest
    }

    /// Serves until `stop` ends, then stops in order.
    ///
    /// # Errors
    /// [`ServeError`] when serving fails as a whole.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let Self { grpc, http, tls, ingest, stop: stopping } = self;
        let http_thread = http::start(http, tls.clone(), &ingest, stopping.subscribe())?;
        let connections = Connections::new(grpc, tls, Protocol::Grpc, CONNECTIONS_MAX);
        let mut router = builder();
        let (health, reflection) = (health(&ingest), reflection());
        let mut ended = stopping.subscribe();
        let serving = router
            .add_service(CollectorService::new(Arc::clone(&ingest)))
            .add_service(health.await)
            .add_optional_service(reflection)
            .serve_with_incoming_shutdown(connections.stream(), async move {
                let _sender_gone = ended.wait_for(|&stopping| stopping).await;
            });
        tokio::pin!(serving);
        let served = tokio::select! {
            served = &mut serving => served.map_err(ServeError::Grpc),
            () = ingest.store().failed() => Err(ServeError::StoreEnded),
            () = stop => {
                stopping.send_replace(true);
                match tokio::time::timeout(STOP_MAX, &mut serving).await {
                    Ok(served) => served.map_err(ServeError::Grpc),
                    Err(_) => {
                        tracing::warn!("streams were still open {STOP_MAX:?} after the stop; they are cut, what was acked is stored");
                        Ok(())
                    }
                }
            }
        };
        stopping.send_replace(true);
        http_thread.join();
        if tokio::time::timeout(STOP_MAX, ingest.store().close()).await.is_err() {
            tracing::warn!(
                "the disk did not take everything within {STOP_MAX:?}: what is not on it was not acked, and is sent again"
            );
        }
        served
    }
}

fn builder() -> Server {
    Server::builder()
        .max_frame_size(FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(16 << 10)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_MAX))
}

/// The standard health service: serving while the store can store.
async fn health(
    ingest: &Ingest,
) -> tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health> {
    let (reporter, service) = tonic_health::server::health_reporter();
    let mut stalled = ingest.store().stalled();
    reporter.set_serving::<CollectorService>().await;
    tokio::spawn(async move {
        while stalled.changed().await.is_ok() {
            let serving = stalled.borrow_and_update().is_empty();
            if serving {
                reporter.set_serving::<CollectorService>().await;
            } else {
                reporter.set_not_serving::<CollectorService>().await;
            }
        }
    });
    service
}

/// The reflection service, from the descriptors as written.
fn reflection() -> Option<
    tonic_reflection::server::v1::ServerReflectionServer<impl tonic_reflection::server::v1::ServerReflection>,
> {
    let service = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(crate::proto::DESCRIPTOR)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1();
    service.inspect_err(|error| tracing::warn!("no gRPC reflection: {error}")).ok()
}
