//! The stream to tapio-server: one connection at a time, batches up, acks down.
//!
//! Invariants:
//! - Batches are taken out of the queues in every state of the connection, so that shards never wait.
//! - An event leaves the ledger's `held` exactly once: acked, or dropped with a reason.
//! - Each reason of an outage is logged once, and so is its end: the first failure of a connection may be the
//!   broken pipe of a server that refuses the agent's certificate, and only the next one says so.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::batch::Sealed;
use super::tls;
use super::window::{Settled, Window};
use crate::clock;
use crate::engine::queue::BatchReceiver;
use crate::engine::worker::{End, PANICS_MAX, RECOVERED, panic_message};
use crate::health::Health;
use crate::ledger::{Dropped, Ledger};
use crate::proto::collector_service_client::CollectorServiceClient;
use crate::proto::stream_events_request::Message;
use crate::proto::{Hello, LedgerReport, StreamEventsRequest, StreamEventsResponse};
use crate::recording::Recorder;

/// Requests between the window and the connection; more would only move batches from one queue to another.
const REQUESTS: usize = 4;

/// A server that has not answered by then is treated as absent.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The first and the longest pause between two attempts; it doubles in between, with jitter.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Different reasons of one outage that are logged; those after them stand in `status` only.
const REASONS_MAX: usize = 4;

/// The ledger is reported to the server this often.
const LEDGER_EVERY: Duration = Duration::from_secs(2);

/// How long the server may take to end the stream after the agent did.
const CLOSE_MAX: Duration = Duration::from_millis(500);

/// How long shards may take to seal their last batches after the deadline.
const LAST_BATCHES_MAX: Duration = Duration::from_secs(2);

/// Largest message from the server that is accepted: acks are tiny, the server is not trusted.
const RESPONSE_BYTES_MAX: usize = 64 << 10;

/// What is known of the stream, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamReport {
    /// A stream is open and the server has said what it holds.
    pub connected: bool,
    /// Why the last attempt failed; empty while connected.
    pub last_error: String,
    /// Why the server does not ack now; empty when it does.
    pub stalled_reason: String,
    /// Batches in the window and their bytes.
    pub unacked_batches: u64,
    /// Bytes in the window.
    pub unacked_bytes: u64,
    /// Connections made.
    pub connections: u64,
}

/// Everything the egress thread is made of.
pub struct Parts {
    /// Where tapio-server is: a URL, or `host:port`.
    pub server: String,
    /// Plain text; else TLS.
    pub insecure: bool,
    /// The files of TLS.
    pub tls: tls::Files,
    /// Who is sending.
    pub hello: Hello,
    /// From each shard, by lane.
    pub inputs: Vec<[BatchReceiver<Sealed>; 2]>,
    /// Notified when there is something in the queues.
    pub wake: Arc<Notify>,
    /// Bytes kept until acked.
    pub window_bytes: usize,
    /// The counters.
    pub ledger: Arc<Ledger>,
    /// Read by status and metrics.
    pub report: Arc<Mutex<StreamReport>>,
    /// Makes the report that the server shows.
    pub ledger_report: Box<dyn Fn() -> LedgerReport + Send>,
    /// Gets a copy of every batch.
    pub recorder: Option<Recorder>,
    /// By when a shutdown must be over; `None` while the agent runs.
    pub deadline: watch::Receiver<Option<Instant>>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// Why a connection ended. All of them: wait and connect again; nothing is lost.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("{0} is not a valid endpoint: give host:port or a URL")]
    Endpoint(String),
    #[error("cannot reach tapio-server: {}", chain(.0))]
    Connect(tonic::transport::Error),
    #[error("cannot use tapio-server at {0}: {1}")]
    Refused(String, String),
    #[error("cannot use TLS to tapio-server: {0}")]
    Tls(#[from] tls::FilesError),
    #[error("no answer from tapio-server within {CONNECT_MAX:?}")]
    Slow,
    #[error("tapio-server ended the stream: {} ({:?})", message(.0), .0.code())]
    Stream(tonic::Status),
    #[error("tapio-server closed the stream")]
    Closed,
    #[error(transparent)]
    Ack(#[from] super::window::AckError),
}

/// An error with its causes, since tonic's own text is only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// What a status says, with its causes where this side made it.
fn message(status: &tonic::Status) -> String {
    std::error::Error::source(status).map_or_else(|| status.message().to_owned(), chain)
}

/// What became of a stream: TLS to blame, if it is.
fn ended(server: &str, status: tonic::Status) -> LinkError {
    match tls::refusal(&status) {
        Some(why) => LinkError::Refused(server.to_owned(), why),
        None => LinkError::Stream(status),
    }
}

/// An open stream.
struct Link {
    requests: mpsc::Sender<StreamEventsRequest>,
    responses: Streaming<StreamEventsResponse>,
}

/// How serving a connection ended without an error.
enum Outcome {
    /// All that there will ever be was acked.
    Done,
    /// The deadline of the shutdown passed.
    Deadline,
}

/// The egress thread's state.
pub struct Stream {
    parts: Parts,
    window: Window,
    unacked_max: u64,
    /// The reasons that were logged since the connection was last good.
    outage: Vec<String>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl Stream {
    /// A stream that has sent nothing.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let window = Window::new(parts.window_bytes);
        Self { parts, window, unacked_max: 0, outage: Vec::new() }
    }

    /// Delivers batches until the shards are gone and all is acked, or the deadline has passed.
    pub async fn run(&mut self) {
        let mut pause = RETRY_FIRST;
        loop {
            match self.connection().await {
                Ok(Outcome::Done | Outcome::Deadline) => break,
                Err(error) => {
                    if self.note_outage(&error) {
                        pause = RETRY_FIRST;
                    }
                }
            }
            if !self.absorb_until(Instant::now() + jittered(pause)).await {
                break;
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
        // The shards may still be sealing their last batches: those count as dropped too.
        let until = Instant::now() + LAST_BATCHES_MAX;
        loop {
            self.absorb();
            let dropped = self.window.abandon();
            dropped.count_dropped(&self.parts.ledger, Dropped::ShutdownDeadline);
            self.update_report();
            if self.over().is_some() || Instant::now() >= until {
                return;
            }
            let woken = tokio::time::timeout(Duration::from_millis(10), self.parts.wake.notified());
            if woken.await.is_err() {
                tracing::trace!("a shard is not gone yet");
            }
        }
    }

    /// Says that the connection is gone; true when it had been good.
    fn note_outage(&mut self, error: &LinkError) -> bool {
        let reason = error.to_string();
        let was_good = {
            let mut report = lock(&self.parts.report);
            report.last_error.clone_from(&reason);
            std::mem::take(&mut report.connected)
        };
        if self.outage.len() < REASONS_MAX && !self.outage.contains(&reason) {
            tracing::warn!("{reason}; batches are kept (up to --window-bytes) and sent when it is back");
            self.outage.push(reason);
        }
        was_good
    }

    /// Opens a connection and serves it.
    async fn connection(&mut self) -> Result<Outcome, LinkError> {
        let opening = open(endpoint(&self.parts)?, self.parts.server.clone(), self.parts.hello.clone());
        tokio::pin!(opening);
        let mut link = loop {
            tokio::select! {
                link = &mut opening => break link?,
                () = self.parts.wake.notified() => self.absorb(),
                () = deadline(&mut self.parts.deadline) => return Ok(self.over().unwrap_or(Outcome::Deadline)),
            }
            if let Some(outcome) = self.over() {
                return Ok(outcome);
            }
        };
        self.serve(&mut link).await
    }

    async fn serve(&mut self, link: &mut Link) -> Result<Outcome, LinkError> {
        let mut greeted = false;
        let mut report_due = Instant::now();
        loop {
            self.absorb();
            self.update_report();
            if let Some(outcome) = self.over() {
                self.close(link).await;
                return Ok(outcome);
            }
            let may_send = greeted && self.window.has_next(self.unacked_max);
            tokio::select! {
                response = link.responses.message() => {
                    let response = response.map_err(|status| ended(&self.parts.server, status))?;
                    let response = response.ok_or(LinkError::Closed)?;
                    self.respond(&response, !std::mem::replace(&mut greeted, true))?;
                }
                permit = link.requests.reserve(), if may_send => {
                    let permit = permit.map_err(|_| LinkError::Closed)?;
                    if let Some(batch) = self.window.next(self.unacked_max) {
                        permit.send(StreamEventsRequest { message: Some(Message::Batch(batch)) });
                    }
                }
                () = self.parts.wake.notified() => {}
                () = sleep_until(report_due), if greeted => {
                    report_due = Instant::now() + LEDGER_EVERY;
                    self.send_ledger(link);
                }
                () = deadline(&mut self.parts.deadline) => return Ok(Outcome::Deadline),
            }
        }
    }

    /// Takes an answer in. The first one on a connection says where to go on.
    fn respond(&mut self, response: &StreamEventsResponse, first: bool) -> Result<(), LinkError> {
        let acked = response.acked_sequence;
        let settled = if first { self.window.restart(acked)? } else { self.window.ack(acked)? };
        settled.count_acked(&self.parts.ledger);
        let mut report = lock(&self.parts.report);
        if first {
            report.connections += 1;
            report.connected = true;
            report.last_error.clear();
            tracing::info!("connected to tapio-server at {}", self.parts.server);
            self.outage.clear();
        }
        if let Some(control) = &response.flow_control {
            self.unacked_max = control.unacked_bytes_max;
            if report.stalled_reason != control.stalled_reason {
                if control.stalled_reason.is_empty() {
                    tracing::info!("tapio-server stores again");
                } else {
                    tracing::warn!("tapio-server does not store now: {}", control.stalled_reason);
                }
                report.stalled_reason.clone_from(&control.stalled_reason);
            }
        }
        Ok(())
    }

    /// Empties the queues into the window.
    fn absorb(&mut self) {
        let mut dropped = Settled::default();
        for lane in [1, 0] {
            for input in &mut self.parts.inputs {
                while let Some(sealed) = input[lane].pop() {
                    if let Some(recorder) = &mut self.parts.recorder {
                        recorder.offer(&sealed, clock::boot_ns());
                    }
                    dropped += self.window.offer(sealed);
                }
            }
        }
        dropped.count_dropped(&self.parts.ledger, Dropped::WindowFull);
    }

    /// Goes on emptying the queues without a connection; false when there is nothing left to wait for.
    async fn absorb_until(&mut self, until: Instant) -> bool {
        loop {
            self.absorb();
            self.update_report();
            if self.over().is_some() {
                return false;
            }
            tokio::select! {
                () = self.parts.wake.notified() => {}
                () = sleep_until(until) => return true,
                () = deadline(&mut self.parts.deadline) => return false,
            }
        }
    }

    /// Whether the shards are gone and everything was acked.
    fn over(&self) -> Option<Outcome> {
        let gone = self.parts.inputs.iter().flatten().all(BatchReceiver::is_over);
        (gone && self.window.batches() == 0).then_some(Outcome::Done)
    }

    /// Sends the last ledger and ends the stream in order.
    async fn close(&self, link: &mut Link) {
        self.send_ledger(link);
        let (closed, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut link.requests, closed));
        let ended = async { while let Ok(Some(_)) = link.responses.message().await {} };
        if tokio::time::timeout(CLOSE_MAX, ended).await.is_err() {
            tracing::debug!("tapio-server did not end the stream within {CLOSE_MAX:?}");
        }
    }

    /// Sends the ledger if there is room; the next one carries the same sums and more.
    fn send_ledger(&self, link: &Link) {
        let report = (self.parts.ledger_report)();
        if let Err(error) =
            link.requests.try_send(StreamEventsRequest { message: Some(Message::Ledger(report)) })
        {
            tracing::debug!("ledger report skipped: {error}");
        }
    }

    fn update_report(&self) {
        let mut report = lock(&self.parts.report);
        report.unacked_batches = self.window.batches() as u64;
        report.unacked_bytes = self.window.bytes() as u64;
    }
}

/// Runs the stream to its end. When it panics, the window is kept, the panic counted, and the stream starts again;
/// after [`PANICS_MAX`] panics in a row it is broken, and what it holds is lost with the agent.
pub fn supervise(runtime: &tokio::runtime::Runtime, mut stream: Stream, health: &Health) -> End {
    let mut panics = 0;
    while panics < PANICS_MAX {
        let started = Instant::now();
        let run = AssertUnwindSafe(|| runtime.block_on(stream.run()));
        let Err(payload) = catch_unwind(run) else { return End::Finished };
        panics = if started.elapsed() > RECOVERED { 1 } else { panics + 1 };
        let message = panic_message(&*payload);
        health.worker_replaced("egress", &message);
        tracing::error!("egress panicked and was replaced; its batches are kept: {message}");
    }
    tracing::error!("egress panicked {panics} times and is given up: please report the message above");
    End::Broken
}

fn lock(report: &Mutex<StreamReport>) -> std::sync::MutexGuard<'_, StreamReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends when the deadline has passed; never while there is none.
async fn deadline(watched: &mut watch::Receiver<Option<Instant>>) {
    loop {
        let at = *watched.borrow_and_update();
        let changed = watched.changed();
        match at {
            Some(at) => {
                tokio::select! {
                    () = sleep_until(at) => return,
                    // A sender that is gone cannot move the deadline any more.
                    Ok(()) = changed => {}
                }
            }
            None => {
                if changed.await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// A pause of 50 to 100 % of `pause`, so that many agents do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let random = crate::event::mix(clock::boot_ns() ^ u64::from(std::process::id())) % 512;
    pause / 2 + pause.mul_f64(f64::from(u32::try_from(random).unwrap_or(0)) / 1024.0)
}

/// The endpoint of a URL or of `host:port`.
fn endpoint(parts: &Parts) -> Result<Endpoint, LinkError> {
    let server = &parts.server;
    let bad = || LinkError::Endpoint(server.clone());
    let scheme = if parts.insecure { "http" } else { "https" };
    let url = if server.contains("://") { server.clone() } else { format!("{scheme}://{server}") };
    let endpoint = Endpoint::from_shared(url.clone()).map_err(|_| bad())?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_MAX)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(20))
        .http2_max_header_list_size(16 << 10);
    if url.starts_with("https") {
        endpoint.tls_config(parts.tls.config()?).map_err(LinkError::Connect)
    } else {
        Ok(endpoint)
    }
}

async fn open(endpoint: Endpoint, server: String, hello: Hello) -> Result<Link, LinkError> {
    let refused = |error| match tls::refusal(&error) {
        Some(why) => LinkError::Refused(server.clone(), why),
        None => LinkError::Connect(error),
    };
    let opening = async {
        let channel = endpoint.connect().await.map_err(refused)?;
        let mut client = CollectorServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
        let (requests, outbound) = mpsc::channel(REQUESTS);
        // There is room: the channel is new.
        let hello = StreamEventsRequest { message: Some(Message::Hello(hello)) };
        requests.try_send(hello).map_err(|_| LinkError::Closed)?;
        let responses = client.stream_events(ReceiverStream::new(outbound)).await;
        // Who wants a certificate says so only once it is asked something.
        let responses = responses.map_err(|status| ended(&server, status))?;
        Ok(Link { requests, responses: responses.into_inner() })
    };
    tokio::time::timeout(CONNECT_MAX, opening).await.map_err(|_| LinkError::Slow)?
}
