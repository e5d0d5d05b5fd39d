//! The HTTP side: status, metrics, queries, on a thread of its own.
//!
//! Invariants:
//! - A slow or broken peer holds a connection and nothing else; connections are bounded.

mod listener;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
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

fn router(ingest: Arc<Ingest>) -> Router {
    Router::new().route("/healthz", get(healthz)).with_state(ingest)
}

type Shared = axum::extract::State<Arc<Ingest>>;

async fn healthz(ingest: Shared) -> (StatusCode, String) {
    let reason = ingest.store().stalled().borrow().clone();
    if reason.is_empty() {
        (StatusCode::OK, "ok\n".into())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("the store is stalled: {reason}\n"))
    }
}
