//! A receiver of OTLP that takes down what it gets, in the JSON of the OTLP specification.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A record with its resource and scope.
pub(super) type Record = Value;

/// What came.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent {
    pub(super) spans: Vec<Record>,
    pub(super) logs: Vec<Record>,
}

#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Sent>>);

#[tonic::async_trait]
impl TraceService for Notes {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut sent = self.0.lock().unwrap();
        for of_resource in request.into_inner().resource_spans {
            for of_scope in of_resource.scope_spans {
                let around = (of_resource.resource.as_ref(), of_scope.scope.as_ref());
                sent.spans.extend(of_scope.spans.iter().map(|one| record(around, span(one))));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Notes {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let mut sent = self.0.lock().unwrap();
        for of_resource in request.into_inner().resource_logs {
            for of_scope in of_resource.scope_logs {
                let around = (of_resource.resource.as_ref(), of_scope.scope.as_ref());
                sent.logs.extend(of_scope.log_records.iter().map(|one| record(around, log(one))));
            }
        }
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

/// What `send` sends to the address that it gets.
pub(super) async fn taken_down<F: Future<Output = ()>>(send: impl FnOnce(String) -> F) -> Sent {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let notes = Notes::default();
    let serving = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(notes.clone()))
        .add_service(LogsServiceServer::new(notes.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let serving = tokio::spawn(serving);
    send(address).await;
    serving.abort();
    let sent = notes.0.lock().unwrap();
    sent.clone()
}

fn record((resource, scope): (Option<&Resource>, Option<&InstrumentationScope>), own: Value) -> Record {
    let resource = resource.map(|resource| json!({"attributes": attributes(&resource.attributes)}));
    let scope = scope.map(|scope| json!({"name": scope.name, "version": scope.version}));
    essential(json!({"resource": resource, "scope": scope, "own": own}))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(list: &[KeyValue]) -> Value {
    let one = |entry: &KeyValue| json!({"key": entry.key, "value": entry.value.as_ref().map(value)});
    Value::Array(list.iter().map(one).collect())
}

fn value(of: &AnyValue) -> Value {
    match of.value.as_ref().expect("a value") {
        any_value::Value::StringValue(text) => json!({"stringValue": text}),
        any_value::Value::BoolValue(flag) => json!({"boolValue": flag}),
        any_value::Value::IntValue(number) => json!({"intValue": number.to_string()}),
        any_value::Value::DoubleValue(number) => json!({"doubleValue": number}),
        other => panic!("never sent: {other:?}"),
    }
}

fn span(span: &Span) -> Value {
    let link = |link: &opentelemetry_proto::tonic::trace::v1::span::Link| {
        json!({
            "traceId": hex(&link.trace_id), "spanId": hex(&link.span_id), "flags": link.flags,
            "traceState": link.trace_state, "attributes": attributes(&link.attributes),
        })
    };
    let status = span.status.as_ref();
    json!({
        "traceId": hex(&span.trace_id),
        "spanId": hex(&span.span_id),
        "parentSpanId": hex(&span.parent_span_id),
        "traceState": span.trace_state,
        "flags": span.flags,
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": span.start_time_unix_nano.to_string(),
        "endTimeUnixNano": span.end_time_unix_nano.to_string(),
        "attributes": attributes(&span.attributes),
        "links": span.links.iter().map(link).collect::<Vec<_>>(),
        "status": status.map(|status| json!({"message": status.message, "code": status.code})),
    })
}

fn log(log: &LogRecord) -> Value {
    json!({
        "timeUnixNano": log.time_unix_nano.to_string(),
        "observedTimeUnixNano": log.observed_time_unix_nano.to_string(),
        "severityNumber": log.severity_number,
        "severityText": log.severity_text,
        "body": log.body.as_ref().map(value),
        "attributes": attributes(&log.attributes),
        "flags": log.flags,
        "traceId": hex(&log.trace_id),
        "spanId": hex(&log.span_id),
        "eventName": log.event_name,
    })
}

/// Without the values that the JSON of OTLP may leave out: what is empty, zero or false.
pub(super) fn essential(value: Value) -> Value {
    let is_left_out = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || text == "0",
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    };
    match value {
        Value::Array(list) => list.into_iter().map(essential).collect(),
        Value::Object(map) => {
            let kept = map.into_iter().map(|(name, value)| (name, essential(value)));
            Value::Object(kept.filter(|(_, value)| !is_left_out(value)).collect())
        }
        other => other,
    }
}
