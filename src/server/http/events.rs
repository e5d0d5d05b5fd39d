//! `GET /api/v1/events` and `GET /api/v1/incidents`: found on a blocking thread, sent a piece at a time.
//!
//! Invariants:
//! - At most [`QUERIES_MAX`] queries run; the others wait.
//! - A query that nobody waits for any more ends soon.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::{Http, error};
use crate::server::counters::Counter;
use crate::server::query::filter::{Filter, ParameterError};
use crate::server::query::groups::{Group, GroupFilter};
use crate::server::query::hit::{Answer, Hit, Place};
use crate::server::query::scan::{self, Found, ScanError};
use crate::server::store::catalogue::Catalogue;

/// Queries that run at a time.
const QUERIES_MAX: usize = 4;

/// Bytes of an answer that are sent together, about.
const PIECE_BYTES: usize = 64 << 10;

/// The places of running queries.
#[derive(Debug)]
pub(super) struct Queries(Arc<Semaphore>);

impl Default for Queries {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(QUERIES_MAX)))
    }
}

/// Tells the scan that nobody waits, unless it was disarmed by its end.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(super) async fn events(
    State(http): State<Arc<Http>>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let filter = match Filter::parse(&parameters) {
        Ok(filter) => filter,
        Err(bad) => return refused(&http, &bad),
    };
    let found = query(&http, move |catalogue, cancelled| scan::run(catalogue, &filter, cancelled)).await;
    found.map_or_else(|failure| *failure, |found| answer(&http, found))
}

/// `GET /api/v1/incidents`.
pub(super) async fn incidents(
    State(http): State<Arc<Http>>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let filter = match GroupFilter::parse(&parameters) {
        Ok(filter) => filter,
        Err(bad) => return refused(&http, &bad),
    };
    let found = query(&http, move |catalogue, cancelled| scan::groups(catalogue, &filter, cancelled)).await;
    match found {
        Ok(groups) => {
            let hosts = http.ingest.agents().reports();
            let host = |found: &Group| hosts.get(&found.agent).map_or("", |report| &*report.sender.host);
            let answers: Vec<_> = groups.iter().map(|found| found.to_json(host(found))).collect();
            let body = serde_json::to_string_pretty(&answers).unwrap_or_default();
            ([(CONTENT_TYPE, "application/json")], body + "\n").into_response()
        }
        Err(failure) => *failure,
    }
}

fn refused(http: &Http, bad: &ParameterError) -> Response {
    http.ingest.counters().add(Counter::QueriesFailed, 1);
    error(StatusCode::BAD_REQUEST, &bad.to_string(), Some(&bad.parameter))
}

/// Runs a scan on a blocking thread, when there is a place for it. The error is the answer that says why not.
async fn query<T: Send + 'static>(
    http: &Http,
    scan: impl FnOnce(&Catalogue, &AtomicBool) -> Result<T, ScanError> + Send + 'static,
) -> Result<T, Box<Response>> {
    let failed = |status, message: &str| {
        http.ingest.counters().add(Counter::QueriesFailed, 1);
        Box::new(error(status, message, None))
    };
    let Some(catalogue) = http.ingest.store().catalogue().cloned() else {
        return Err(failed(StatusCode::CONFLICT, "this server runs with --store null and keeps nothing"));
    };
    let Ok(place) = Arc::clone(&http.queries.0).acquire_owned().await else {
        return Err(Box::new(error(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping", None)));
    };
    let cancelled = Arc::new(AtomicBool::new(false));
    let guard = CancelOnDrop(Arc::clone(&cancelled));
    let scan = tokio::task::spawn_blocking(move || {
        let found = scan(&catalogue, &cancelled);
        drop(place);
        found
    });
    let found = scan.await;
    drop(guard);
    match found {
        Ok(Ok(found)) => {
            http.ingest.counters().add(Counter::Queries, 1);
            Ok(found)
        }
        Ok(Err(error)) => {
            if matches!(error, ScanError::Read(_)) {
                tracing::warn!("query failed: {error}");
            }
            Err(failed(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))
        }
        Err(panicked) => {
            tracing::error!("query panicked: {panicked}");
            Err(failed(StatusCode::INTERNAL_SERVER_ERROR, "the query failed; the server's log says more"))
        }
    }
}

/// The pieces of an answer.
struct Pieces<Hits> {
    http: Arc<Http>,
    hits: Hits,
    begun: bool,
    ended: bool,
}

fn answer(http: &Arc<Http>, found: Found) -> Response {
    let pieces = Pieces { http: Arc::clone(http), hits: found.into_iter(), begun: false, ended: false };
    let body = Body::from_stream(tokio_stream::iter(pieces.map(Ok::<_, Infallible>)));
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

impl<Hits: Iterator<Item = (Place, Hit)>> Iterator for Pieces<Hits> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let hosts = self.http.ingest.agents().reports();
        let mut piece = Vec::with_capacity(PIECE_BYTES + 1024);
        while piece.len() < PIECE_BYTES {
            let Some((place, hit)) = self.hits.next() else {
                piece.extend_from_slice(if self.begun { b"\n]\n" } else { b"[]\n" });
                self.ended = true;
                break;
            };
            piece.extend_from_slice(if self.begun { b",\n" } else { b"[\n" });
            self.begun = true;
            let host = hosts.get(&place.agent).map_or("", |report| &*report.sender.host);
            // Writing numbers and text to memory does not fail.
            let _ok = serde_json::to_writer(&mut piece, &Answer { place, host, hit: &hit });
        }
        Some(piece.into())
    }
}
