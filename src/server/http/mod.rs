//! The HTTP side: status, metrics, queries, on a thread of its own.
//!
//! Invariants:
//! - A slow or broken peer holds a connection and nothing else; connections are bounded.

mod events;
mod listener;
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

use super::ingest::Ingest;
use super::tls::Identity;
use listener::Connections;

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
    tls: Option<&Identity>,
    ingest: &Arc<Ingest>,
    stopping: watch::Receiver<bool>,
) -> std::io::Result<HttpThread> {
    let listener = listener.into_std()?;
    let tls = tls.map(Identity::http);
    let router = router(Arc::clone(ingest));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().thread_name("query").build()?;
    let thread = std::thread::Builder::new().name("http".into()).spawn(move || {
        runtime.block_on(async {
            let ended = serve(listener, tls, router, stopping).await;
            if let Err(error) = ended {
                tracing::error!("HTTP stopped: {error}");
            }
        });
        runtime.shutdown_timeout(STOP_MAX);
    })?;
    Ok(HttpThread(thread))
}

async fn serve(
    listener: std::net::TcpListener,
    tls: Option<Arc<tokio_rustls::rustls::ServerConfig>>,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut cut = stopping.clone();
    let connections = Connections::new(TcpListener::from_std(listener)?, tls);
    let stopped = async move {
        let _sender_gone = stopping.wait_for(|&stopping| stopping).await;
    };
    let serving = axum::serve(connections, router).with_graceful_shutdown(stopped);
    let cut = async {
        let _sender_gone = cut.wait_for(|&stopping| stopping).await;
        tokio::time::sleep(STOP_MAX).await;
    };
    tokio::select! {
        served = serving.into_future() => served,
        () = cut => Ok(()),
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
