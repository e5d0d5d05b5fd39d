//! Baseline (b): the same events as rows - one OTLP log record of eight attributes each, built and encoded through
//! prost, sent by tonic in requests of a thousand to a sink in another process that decodes and counts them.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};
use zerocopy::{FromBytes, IntoBytes};

use super::Consumed;
use super::ring::{Baseline, POLL, RECORD_WORDS};
use crate::event::{HEADER_WORDS, Header, mix};
use crate::load::LoadError;

/// Records a request: beyond a thousand a batch buys nothing.
const RECORDS: usize = 1000;

fn otlp(error: impl std::fmt::Display) -> LoadError {
    LoadError::Otlp(error.to_string())
}

fn runtime() -> Result<tokio::runtime::Runtime, LoadError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LoadError::io("starting a runtime"))
}

/// `tapio-load baseline otlp`: exports until standard input ends.
///
/// # Errors
/// [`Baseline::attach`]'s, and when the sink does not answer.
pub fn run(endpoint: &str) -> Result<Consumed, LoadError> {
    let runtime = runtime()?;
    let mut client =
        runtime.block_on(LogsServiceClient::connect(format!("http://{endpoint}"))).map_err(otlp)?;
    let baseline = Baseline::attach()?;
    let rows = RefCell::new(Vec::with_capacity(RECORDS));
    let ring = baseline.ring(|record| {
        let mut rows = rows.borrow_mut();
        rows.push(row(record));
        // A negative result ends the pass, so that a request is never longer than it should be.
        if rows.len() < RECORDS { 0 } else { -1 }
    })?;
    super::ready()?;
    let cpu = super::cpu_s();
    let ended = super::until_stdin_ends();
    let mut delivered = 0;
    loop {
        ring.poll_raw(POLL);
        let full = rows.borrow().len() >= RECORDS;
        let last = ended.load(Ordering::Relaxed);
        let batch = rows.replace(Vec::with_capacity(RECORDS));
        if !batch.is_empty() {
            delivered += runtime.block_on(export(&mut client, batch))?;
        }
        if last && !full {
            break;
        }
    }
    let [produced, lost] = baseline.counters()?;
    Ok(Consumed { produced, lost, delivered, cpu_s: super::cpu_s() - cpu })
}

async fn export(client: &mut LogsServiceClient<Channel>, rows: Vec<LogRecord>) -> Result<u64, LoadError> {
    let count = u64::try_from(rows.len()).unwrap_or(0);
    let scope = ScopeLogs { log_records: rows, ..ScopeLogs::default() };
    let resource = ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() };
    client.export(ExportLogsServiceRequest { resource_logs: vec![resource] }).await.map_err(otlp)?;
    Ok(count)
}

fn row(words: &[u64; RECORD_WORDS]) -> LogRecord {
    let header = Header::read_from_prefix(words.as_bytes()).map(|(header, _)| header).unwrap_or_default();
    let trace = [mix(header.cgroup), mix(header.start_ns)];
    LogRecord {
        time_unix_nano: header.time_ns,
        observed_time_unix_nano: header.time_ns,
        severity_number: 9,
        trace_id: trace.as_bytes().to_vec(),
        span_id: mix(u64::from(header.sequence)).to_ne_bytes().to_vec(),
        event_name: "load".into(),
        attributes: vec![
            attribute("event.kind", Value::StringValue("load".into())),
            attribute("process.pid", int(u64::from(header.tgid))),
            attribute("process.start_ns", int(header.start_ns)),
            attribute("cgroup.id", int(header.cgroup)),
            attribute("event.producer", int(u64::from(header.producer))),
            attribute("event.sequence", int(u64::from(header.sequence))),
            attribute("syscall.number", int(words[HEADER_WORDS])),
            attribute("syscall.value", int(words[HEADER_WORDS + 1])),
        ],
        ..LogRecord::default()
    }
}

fn int(value: u64) -> Value {
    Value::IntValue(value.cast_signed())
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

struct Sink {
    records: Arc<AtomicU64>,
}

#[tonic::async_trait]
impl LogsService for Sink {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let request = request.into_inner();
        let scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
        let records: usize = scopes.map(|scope| scope.log_records.len()).sum();
        self.records.fetch_add(u64::try_from(records).unwrap_or(0), Ordering::Relaxed);
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

/// `tapio-load baseline otlp-sink`: receives until standard input ends.
///
/// # Errors
/// When the address cannot be bound.
pub fn sink(listen: SocketAddr) -> Result<Consumed, LoadError> {
    let records = Arc::new(AtomicU64::new(0));
    let service = LogsServiceServer::new(Sink { records: Arc::clone(&records) });
    let ended = super::until_stdin_ends();
    runtime()?.block_on(async {
        let stop = async {
            while !ended.load(Ordering::Relaxed) {
                tokio::time::sleep(POLL).await;
            }
        };
        let serve = Server::builder()
            // What the agent's own server advertises: the frame size decides the cost of sending.
            .max_frame_size(1 << 20)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .add_service(service.max_decoding_message_size(16 << 20))
            .serve(listen);
        tokio::select! {
            served = serve => served.map_err(otlp),
            () = stop => Ok(()),
        }
    })?;
    let delivered = records.load(Ordering::Relaxed);
    Ok(Consumed { produced: delivered, lost: 0, delivered, cpu_s: super::cpu_s() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    /// Scenario: one record of the ring as a row.
    /// Guarantees: the row has eight attributes and the ids, and is about as long as rows of other agents (269 bytes).
    #[test]
    fn rows_are_full_rows() {
        let header =
            Header { time_ns: 1 << 50, cgroup: 7777, start_ns: 1 << 45, tgid: 4242, ..Header::default() };
        let mut words = [121; RECORD_WORDS];
        words[..HEADER_WORDS]
            .copy_from_slice(<[u64; HEADER_WORDS]>::ref_from_bytes(header.as_bytes()).expect("five"));
        let row = row(&words);
        assert_eq!((row.attributes.len(), row.trace_id.len(), row.span_id.len()), (8, 16, 8));
        assert!((200..300).contains(&row.encoded_len()), "{}", row.encoded_len());
    }
}
