//! The HTTP side: status, metrics, queries, on a thread of its own.
//!
//! Invariants:
//! - A slow or broken peer holds a connection and nothing else, and not for long; connections are bounded.
//! - It ends within twice [`STOP_MAX`] of the stop, whatever its peers do.

mod events;
mod status;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;

use super::connections::{Connection, Connections};
use super::ingest::Ingest;
use super::tls::{Identity, Protocol};

/// Open connections.
const CONNECTIONS_MAX: usize = 256;

/// How long a request may take to arrive, and a connection to ask again.
const HEADER_MAX: Duration = Duration::from_secs(10);

/// The longest request.
const HEADER_BYTES_MAX: usize = 16 << 10;

/// How long open answers may go on after the stop.
const STOP_MAX: Duration = Duration::from_secs(2);

/// The thread.
#[derive(Debug)]
pub(super) struct HttpThread(JoinHandle<()>);

impl HttpThread {
    /// Waits for its end, which follows the stop.
    pub(super) fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the HTTP thread panicked");
        }
    }
}

/// Serves HTTP until `stopping` is true.
pub(super) fn start(
    listener: TcpListener,
    tls: Option<Arc<Identity>>,
    ingest: &Arc<Ingest>,
    stopping: watch::Receiver<bool>,
) -> std::io::Result<HttpThread> {
    let listener = listener.into_std()?;
    let router = router(Arc::clone(ingest));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().thread_name("query").build()?;
    let thread = std::thread::Builder::new().name("http".into()).spawn(move || {
        runtime.block_on(async {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    let connections = Connections::new(listener, tls, Protocol::Http, CONNECTIONS_MAX);
                    serve(connections, router, stopping).await;
                }
                Err(error) => tracing::error!("HTTP is not served: {error}"),
            }
        });
        runtime.shutdown_timeout(STOP_MAX);
    })?;
    Ok(HttpThread(thread))
}

async fn serve(mut connections: Connections, router: Router, mut stopping: watch::Receiver<bool>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            connection = connections.next() => {
                open.spawn(talk(connection, router.clone(), stopping.clone()));
            }
            Some(_ended) = open.join_next() => {}
            () = stopped(&mut stopping) => break,
        }
    }
    // Nobody connects any more; those who wait for an answer get a moment.
    drop(connections);
    let over = tokio::time::timeout(STOP_MAX, async { while open.join_next().await.is_some() {} });
    if over.await.is_err() {
        tracing::debug!("{} HTTP connections are cut", open.len());
    }
}

/// Ends when the server stops.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _sender_gone = stopping.wait_for(|&stopping| stopping).await;
}

/// Answers one connection until it ends; once the server stops, only what is being asked already.
async fn talk(connection: Connection, router: Router, mut stopping: watch::Receiver<bool>) {
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(router));
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = stopped(&mut stopping) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("an HTTP connection ended: {error}");
    }
}

/// What the handlers share.
#[derive(Debug)]
struct Http {
    ingest: Arc<Ingest>,
    started: Instant,
    queries: events::Queries,
}

fn router(ingest: Arc<Ingest>) -> Router {
    let shared = Arc::new(Http { ingest, started: Instant::now(), queries: events::Queries::default() });
    Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/ledger", get(ledger))
        .route("/api/v1/events", get(events::events))
        .route("/api/v1/incidents", get(events::incidents))
        .fallback(async || {
            error(
                StatusCode::NOT_FOUND,
                "no such path; there are /api/v1/{status,ledger,events,incidents}, /metrics and /healthz",
                None,
            )
        })
        .with_state(shared)
}

type Shared = State<Arc<Http>>;

/// An answer that says what is wrong, and with which parameter.
fn error(status: StatusCode, message: &str, parameter: Option<&str>) -> Response {
    let mut body = serde_json::json!({ "error": message });
    if let Some(parameter) = parameter {
        body["parameter"] = parameter.into();
    }
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn json(value: &serde_json::Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

async fn healthz(http: Shared) -> (StatusCode, String) {
    let reason = http.ingest.store().stalled().borrow().clone();
    if reason.is_empty() {
        (StatusCode::OK, "ok\n".into())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("the store is stalled: {reason}\n"))
    }
}

async fn metrics(http: Shared) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], status::metrics(&http.ingest)).into_response()
}

async fn status(http: Shared) -> Response {
    json(&status::status(&http.ingest, http.started.elapsed().as_secs_f64()))
}

async fn ledger(http: Shared) -> Response {
    json(&status::ledgers(&http.ingest))
}
