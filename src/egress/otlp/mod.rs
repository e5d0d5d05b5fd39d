//! Incidents over OTLP: each one a trace, its facts and revisions log records.
//!
//! Logs go out with every revision. The trace goes out once the incident has been quiet for a moment, since a span
//! cannot be changed any more; facts that come later follow as spans of their own.
//!
//! Invariants:
//! - A receiver that is absent, slow or refuses costs one message and counters, and holds up nothing.
//! - What waits is bounded: the oldest revisions are given up first, counted.

mod attributes;
mod log;
mod trace;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::config::Settings;
use crate::metrics::otlp::{OtlpError, channel, headers};
use crate::proto::SemanticGroup;

/// Revisions between the causal engine and this task.
pub const QUEUE_MAX: usize = 256;

/// Requests that wait for the receiver.
const WAITING_MAX: usize = 256;

/// Incidents that are remembered, so that nothing of them is exported twice.
const INCIDENTS_MAX: usize = 1024;

/// An incident's trace is exported when nothing came for this long.
const QUIET: Duration = Duration::from_secs(5);

/// Between two attempts at most; it doubles from [`RETRY_MIN`].
const RETRY_MAX: Duration = Duration::from_secs(30);
const RETRY_MIN: Duration = Duration::from_millis(500);

/// Longest wait for the last export at the end.
const LAST_EXPORT_MAX: Duration = Duration::from_secs(2);

/// Largest answer of a receiver.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What became of incidents on this way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Requests that the receiver took.
    pub exported: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Requests given up because too many waited.
    pub dropped: u64,
    /// Requests, or parts of them, that the receiver refused for good.
    pub refused: u64,
    /// Why the last attempt failed; empty when it did not.
    pub last_error: String,
}

/// What every request says of this host.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Names this boot.
    pub boot_id: [u8; 16],
    /// Attributes of every resource.
    pub attributes: Vec<KeyValue>,
}

impl Origin {
    /// The origin of a host, with the attributes of the settings.
    #[must_use]
    pub fn new(settings: &Settings, boot_id: [u8; 16], host_name: &str) -> Self {
        let host = [attributes::text("host.name", host_name)];
        let wanted = settings.otel_resource_attributes.iter();
        let wanted = wanted.map(|(key, value)| attributes::text(key, value));
        Self { boot_id, attributes: host.into_iter().chain(wanted).collect() }
    }
}

/// What of an incident is out.
#[derive(Debug, Default)]
struct Exported {
    spans: HashSet<[u8; 8]>,
    logs: HashSet<[u8; 8]>,
}

/// An incident that is remembered.
#[derive(Debug)]
struct Known {
    newest: SemanticGroup,
    exported: Exported,
    /// When its trace goes out, if nothing more comes.
    due: Option<Instant>,
}

#[derive(Debug, Clone)]
enum Export {
    Logs(ExportLogsServiceRequest),
    Trace(ExportTraceServiceRequest),
}

/// The exporter.
#[derive(Debug)]
pub struct IncidentExporter {
    origin: Origin,
    endpoint: String,
    channel: Channel,
    headers: MetadataMap,
    known: HashMap<String, Known>,
    order: VecDeque<String>,
    waiting: VecDeque<Export>,
    retry: Duration,
    report: Arc<Mutex<Report>>,
}

impl IncidentExporter {
    /// An exporter to `otel_endpoint`; none when the settings switch it off. Call it within a runtime.
    ///
    /// # Errors
    /// [`OtlpError`].
    pub fn new(
        settings: &Settings,
        origin: Origin,
        report: Arc<Mutex<Report>>,
    ) -> Result<Option<Self>, OtlpError> {
        if settings.otel_disabled {
            return Ok(None);
        }
        let endpoint = settings.otel_endpoint.clone();
        let channel = channel(settings)
            .map_err(|error| OtlpError::Endpoint { endpoint: endpoint.clone(), reason: error.to_string() })?;
        Ok(Some(Self {
            origin,
            endpoint,
            channel,
            headers: headers(&settings.otel_headers)?,
            known: HashMap::new(),
            order: VecDeque::new(),
            waiting: VecDeque::new(),
            retry: RETRY_MIN,
            report,
        }))
    }

    /// Exports until the sender of `revisions` is gone, then what is left, if the receiver answers.
    pub async fn run(mut self, mut revisions: mpsc::Receiver<SemanticGroup>) {
        let mut next_attempt: Option<Instant> = None;
        loop {
            let due = self.known.values().filter_map(|known| known.due).min();
            let attempt =
                if self.waiting.is_empty() { None } else { next_attempt.or_else(|| Some(Instant::now())) };
            tokio::select! {
                revision = revisions.recv() => match revision {
                    Some(revision) => self.take(revision),
                    None => break,
                },
                () = until(due) => self.export_traces(Instant::now()),
                () = until(attempt) => {
                    next_attempt = if self.send_next().await {
                        self.retry = RETRY_MIN;
                        None
                    } else {
                        let wait = self.retry;
                        self.retry = (wait * 2).min(RETRY_MAX);
                        Some(Instant::now() + wait)
                    };
                }
            }
        }
        self.export_traces(Instant::now() + QUIET);
        let rest = async { while !self.waiting.is_empty() && self.send_next().await {} };
        let _late = tokio::time::timeout(LAST_EXPORT_MAX, rest).await;
        let left = self.waiting.len() as u64;
        self.count(|report| report.dropped += left);
    }

    fn take(&mut self, revision: SemanticGroup) {
        let id = revision.id.clone();
        if !self.known.contains_key(&id) {
            self.order.push_back(id.clone());
            if self.order.len() > INCIDENTS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
        let due = Some(Instant::now() + QUIET);
        let known = self.known.entry(id).or_insert_with(|| Known {
            newest: SemanticGroup::default(),
            exported: Exported::default(),
            due,
        });
        let resource_logs = log::logs(&revision, &self.origin, &mut known.exported);
        known.newest = revision;
        known.due = due;
        self.enqueue(Export::Logs(ExportLogsServiceRequest { resource_logs }));
    }

    fn export_traces(&mut self, now: Instant) {
        let mut requests = Vec::new();
        for known in self.known.values_mut().filter(|known| known.due.is_some_and(|due| due <= now)) {
            known.due = None;
            let resource_spans = trace::spans(&known.newest, &self.origin, &mut known.exported);
            if !resource_spans.is_empty() {
                requests.push(Export::Trace(ExportTraceServiceRequest { resource_spans }));
            }
        }
        for request in requests {
            self.enqueue(request);
        }
    }

    fn enqueue(&mut self, export: Export) {
        self.waiting.push_back(export);
        if self.waiting.len() > WAITING_MAX {
            self.waiting.pop_front();
            self.count(|report| report.dropped += 1);
        }
    }

    /// Sends the oldest request; false when it has to be sent again.
    async fn send_next(&mut self) -> bool {
        let Some(export) = self.waiting.front().cloned() else { return true };
        match self.send(export).await {
            Ok(refused) => {
                self.waiting.pop_front();
                let endpoint = self.endpoint.clone();
                self.count(|report| {
                    if !report.last_error.is_empty() {
                        tracing::info!("incidents arrive at {endpoint} again");
                    }
                    report.exported += 1;
                    report.refused += u64::from(refused);
                    report.last_error.clear();
                });
                true
            }
            Err(status) => {
                let again = is_retryable(status.code());
                let endpoint = self.endpoint.clone();
                self.count(|report| {
                    if report.last_error.is_empty() {
                        tracing::warn!(
                            "incidents do not arrive at {endpoint}: {}; further failures are counted",
                            status.message()
                        );
                    }
                    report.failed += 1;
                    report.refused += u64::from(!again);
                    status.message().clone_into(&mut report.last_error);
                });
                if !again {
                    self.waiting.pop_front();
                }
                !again
            }
        }
    }

    /// Sends a request once; true when the receiver took only a part of it.
    async fn send(&self, export: Export) -> Result<bool, Status> {
        match export {
            Export::Logs(request) => {
                let mut client =
                    LogsServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
                let answer = client.export(self.with_headers(request)).await?.into_inner();
                Ok(answer.partial_success.is_some_and(|partial| partial.rejected_log_records > 0))
            }
            Export::Trace(request) => {
                let mut client =
                    TraceServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
                let answer = client.export(self.with_headers(request)).await?.into_inner();
                Ok(answer.partial_success.is_some_and(|partial| partial.rejected_spans > 0))
            }
        }
    }

    fn with_headers<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.headers.clone();
        request
    }

    fn count(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Waits until a moment, or for ever.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// The codes that the OTLP specification calls retryable, and what a missing receiver looks like.
fn is_retryable(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::ResourceExhausted
            | Code::Unknown
    )
}

#[cfg(test)]
mod tests;
