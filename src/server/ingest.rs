//! A stream of batches: greeted, checked, put into the store, acked.
//!
//! Invariants:
//! - A batch is acked only when the store says that it is stored.
//! - While the store cannot store, a stream stops reading; the sender's window then bounds the memory.
//! - A stream that ends with an error has acked all that was stored of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::agents::{Agents, RefusedError, Session, Verdict};
use super::book::{BatchMark, Sender};
use super::counters::{Counter, Counters};
use super::decode::Columns;
use super::message::{RawBatch, Request};
use super::store::{Accepted, Store};
use crate::proto::{FlowControl, StreamEventsResponse};

/// What an agent may have unacked: enough for a disk's slow moment at full rate.
const UNACKED_BYTES_MAX: u64 = 16 << 20;

/// Open streams.
const STREAMS_MAX: usize = 1024;

/// How long a new stream may take to say who it is.
const HELLO_MAX: Duration = Duration::from_secs(10);

/// Answers on their way to the connection; acks are cumulative, so more would only be older.
const RESPONSES: usize = 2;

/// Everything that the streams share.
#[derive(Debug)]
pub struct Ingest {
    agents: Agents,
    store: Store,
    counters: Counters,
    streams: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
}

type Responses = mpsc::Sender<Result<StreamEventsResponse, Status>>;

impl Ingest {
    /// An ingest into this store that ends its streams once `stopping` is true.
    #[must_use]
    pub fn new(store: Store, stopping: watch::Receiver<bool>) -> Self {
        let agents = Agents::new(&store.book());
        Self {
            agents,
            store,
            counters: Counters::default(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            stopping,
        }
    }

    /// The agents.
    #[must_use]
    pub fn agents(&self) -> &Agents {
        &self.agents
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Streams that are open.
    #[must_use]
    pub fn streams_open(&self) -> usize {
        STREAMS_MAX - self.streams.available_permits()
    }

    /// Serves a stream in a task of its own.
    ///
    /// # Errors
    /// A status when there are too many streams.
    pub(super) fn start(
        ingest: &Arc<Self>,
        inbound: Streaming<Bytes>,
    ) -> Result<ReceiverStream<Result<StreamEventsResponse, Status>>, Status> {
        let Ok(permit) = Arc::clone(&ingest.streams).try_acquire_owned() else {
            ingest.counters.add(Counter::StreamsRefused, 1);
            return Err(Status::resource_exhausted(format!(
                "{STREAMS_MAX} streams are open: try again later"
            )));
        };
        let (responses, outbound) = mpsc::channel(RESPONSES);
        let ingest = Arc::clone(ingest);
        tokio::spawn(async move { ingest.run(inbound, responses, permit).await });
        Ok(ReceiverStream::new(outbound))
    }

    async fn run(&self, mut inbound: Streaming<Bytes>, responses: Responses, _permit: OwnedSemaphorePermit) {
        let ended = match self.greet(&mut inbound).await {
            Ok(session) => {
                self.counters.add(Counter::Streams, 1);
                let who = session.sender().clone();
                tracing::info!("agent {} on {} connected, epoch {}", who.agent, who.host, who.epoch);
                let ended = self.serve(&session, &mut inbound, &responses).await;
                let reason = ended.as_ref().err().map_or("in order", Status::message);
                tracing::info!("agent {} on {}: stream ended: {reason}", who.agent, who.host);
                ended
            }
            Err(status) => {
                self.counters.add(Counter::StreamsRefused, 1);
                tracing::warn!("stream refused: {}", status.message());
                Err(status)
            }
        };
        if let Err(status) = ended {
            // A peer that is gone needs no status.
            let _gone = responses.send(Err(status)).await;
        }
    }

    /// Waits for the greeting and opens the agent's session.
    async fn greet(&self, inbound: &mut Streaming<Bytes>) -> Result<Session, Status> {
        let Ok(first) = tokio::time::timeout(HELLO_MAX, inbound.message()).await else {
            return Err(Status::deadline_exceeded(format!("no Hello within {HELLO_MAX:?}")));
        };
        let first = first?.ok_or_else(|| Status::invalid_argument("the stream ended before a Hello"))?;
        let request = Request::decode(first).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let Request::Hello(hello) = request else {
            return Err(Status::failed_precondition("the first request of a stream must be a Hello"));
        };
        let sender =
            Sender::from_hello(&hello).map_err(|what| Status::invalid_argument(format!("Hello: {what}")))?;
        self.agents.greet(sender).map_err(refused)
    }

    /// Reads and acks until one of them ends.
    async fn serve(
        &self,
        session: &Session,
        inbound: &mut Streaming<Bytes>,
        responses: &Responses,
    ) -> Result<(), Status> {
        let ended = tokio::select! {
            ended = self.read(session, inbound) => ended,
            ended = self.acknowledge(session, responses) => return ended,
        };
        // What was stored since the last answer, before the stream ends.
        if responses.send(Ok(self.response(session))).await.is_err() {
            return Ok(());
        }
        ended
    }

    /// Takes batches in until the agent ends the stream or the server stops, then waits until they are stored.
    async fn read(&self, session: &Session, inbound: &mut Streaming<Bytes>) -> Result<(), Status> {
        let mut stopping = self.stopping.clone();
        loop {
            let request = tokio::select! {
                request = inbound.message() => request?,
                _ = stopping.wait_for(|&stopping| stopping) => None,
            };
            let Some(request) = request else { break };
            match Request::decode(request) {
                Ok(Request::Batch(batch)) => self.take(session, batch).await?,
                Ok(Request::Ledger(report)) => session.note_ledger(report),
                Ok(Request::Hello(_)) => {
                    return Err(Status::failed_precondition(
                        "a second Hello in one stream: open a new stream",
                    ));
                }
                Err(error) => return Err(self.malformed(session, &error)),
            }
        }
        let accepted = session.agent().accepted();
        let epoch = session.sender().epoch;
        let mut stored = session.agent().stored();
        let done = stored.wait_for(|stored| stored.epoch != epoch || stored.sequence >= accepted).await;
        done.map(|_| ()).map_err(|_| Status::internal("the agent's state is gone"))
    }

    /// Checks a batch and hands it to the store.
    async fn take(&self, session: &Session, batch: RawBatch) -> Result<(), Status> {
        let mark = match Columns::check(&batch.batch) {
            Ok(columns) => BatchMark::new(session.sender(), batch.batch.sequence, batch.raw.len(), &columns),
            Err(error) => return Err(self.malformed(session, &error)),
        };
        let place = self
            .store
            .reserve(batch.raw.len())
            .await
            .ok_or_else(|| Status::unavailable("the store has stopped"))?;
        let (sequence, events, bytes) = (mark.sequence, u64::from(mark.events), u64::from(mark.bytes));
        let agent = Arc::clone(session.agent());
        let sender = session.sender().clone();
        let verdict = session.accept(sequence, || place.put(Accepted { agent, sender, mark, batch }));
        match verdict {
            Ok(Verdict::Duplicate) => {
                self.counters.add(Counter::Duplicates, 1);
                return Ok(());
            }
            Ok(Verdict::Forgotten(batches)) => {
                self.counters.add(Counter::Forgotten, batches);
                let who = session.sender();
                tracing::warn!(
                    "agent {} on {} goes on with batch {sequence}: the {batches} before it were acked once and are not \
                     in this store; is it another data directory, or was the store null?",
                    who.agent,
                    who.host
                );
            }
            Ok(Verdict::Accept) => {}
            Err(error) => {
                if matches!(error, RefusedError::Gap { .. }) {
                    self.counters.add(Counter::Gaps, 1);
                }
                return Err(refused(error));
            }
        }
        self.counters.add(Counter::Batches, 1);
        self.counters.add(Counter::Events, events);
        self.counters.add(Counter::Bytes, bytes);
        Ok(())
    }

    fn malformed(&self, session: &Session, error: &dyn std::error::Error) -> Status {
        self.counters.add(Counter::Malformed, 1);
        let who = session.sender();
        tracing::warn!("agent {} on {} sent a batch that is refused: {error}", who.agent, who.host);
        Status::invalid_argument(error.to_string())
    }

    /// Answers at once, then whenever more is stored or the store stalls; ends when the peer is gone.
    async fn acknowledge(&self, session: &Session, responses: &Responses) -> Result<(), Status> {
        let mut stored = session.agent().stored();
        let mut stalled = self.store.stalled();
        loop {
            stored.mark_unchanged();
            stalled.mark_unchanged();
            if responses.send(Ok(self.response(session))).await.is_err() {
                return Ok(());
            }
            tokio::select! {
                Ok(()) = stored.changed() => {}
                Ok(()) = stalled.changed() => {}
                () = responses.closed() => return Ok(()),
            }
            if stored.borrow().epoch != session.sender().epoch {
                return Err(refused(RefusedError::Superseded));
            }
        }
    }

    fn response(&self, session: &Session) -> StreamEventsResponse {
        let stored = *session.agent().stored().borrow();
        let acked_sequence = if stored.epoch == session.sender().epoch { stored.sequence } else { 0 };
        let stalled_reason = self.store.stalled().borrow().clone();
        let flow_control = Some(FlowControl { unacked_bytes_max: UNACKED_BYTES_MAX, stalled_reason });
        StreamEventsResponse { acked_sequence, flow_control }
    }
}

fn refused(error: RefusedError) -> Status {
    let message = error.to_string();
    match error {
        RefusedError::Gap { .. } | RefusedError::OldEpoch { .. } => Status::failed_precondition(message),
        RefusedError::Zero => Status::invalid_argument(message),
        RefusedError::Superseded => Status::aborted(message),
        RefusedError::TooMany => Status::resource_exhausted(message),
    }
}
