//! Incidents to a receiver that is there, refuses, and is missing.

use std::net::SocketAddr;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Response;

use super::*;
use crate::proto::{CausalEdge, Detail, IncidentEntity, IncidentFact, RootCause, detail};

fn entity(kind: &str, name: &str) -> Option<IncidentEntity> {
    Some(IncidentEntity { r#type: kind.into(), name: name.into() })
}

fn fact(id: &str, kind: &str, name: &str, second: u32) -> IncidentFact {
    IncidentFact {
        id: id.into(),
        kind: kind.into(),
        entity: entity("unit", name),
        at: format!("2026-11-24T10:00:{second:02}.5Z"),
        source: "journald".into(),
        events: vec![format!("journald:7:{second}")],
        detail: [("code".to_owned(), Detail { value: Some(detail::Value::Number(3)) })].into(),
        trace_id: "0123456789abcdef0123456789abcdef".into(),
    }
}

fn edge(from: &str, to: &str, confidence: f64) -> CausalEdge {
    CausalEdge { from: from.into(), to: to.into(), rule: "r".into(), confidence, ..CausalEdge::default() }
}

/// f1 causes f2; f1 and, more surely, f2 cause f3.
fn incident() -> SemanticGroup {
    SemanticGroup {
        id: "00000000000000000000000000000abc".into(),
        trace_id: "00000000000000000000000000000abc".into(),
        revision: 1,
        state: "open".into(),
        severity: "high".into(),
        title: "a.service is down".into(),
        updated_at: "2026-11-24T10:00:03.5Z".into(),
        root_cause: Some(RootCause {
            kind: "crash".into(),
            entity: entity("unit", "a.service"),
            ..RootCause::default()
        }),
        facts: vec![
            fact("f1", "crash", "a.service", 1),
            fact("f2", "unit_failed", "a.service", 2),
            fact("f3", "dependency_failed", "b.service", 3),
        ],
        chain: vec![edge("f1", "f2", 0.9), edge("f1", "f3", 0.4), edge("f2", "f3", 0.8)],
        ..SemanticGroup::default()
    }
}

fn origin() -> Origin {
    Origin { boot_id: [7; 16], attributes: vec![attributes::text("host.name", "h")] }
}

fn spans_of(group: &SemanticGroup, exported: &mut Exported) -> Vec<Span> {
    let resources = trace::spans(group, &origin(), exported).into_iter();
    resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
}

/// Scenario: an incident with a fact that has two causes, exported, exported again, and with a late fact.
/// Guarantees: every fact is below its surest cause, the other cause and the entity's trace are links, times
/// contain the effects; the second export has nothing, the third only what is new.
#[test]
fn an_incident_is_one_trace() {
    let mut exported = Exported::default();
    let spans = spans_of(&incident(), &mut exported);
    let find = |name: &str| spans.iter().find(|span| span.name == name).expect("a span");
    let (root, crash) = (find("a.service is down"), find("crash"));
    let (failed, dependent) = (find("unit_failed"), find("dependency_failed"));
    assert_eq!(spans.len(), 4);
    assert!(root.parent_span_id.is_empty());
    assert_eq!(crash.parent_span_id, root.span_id);
    assert_eq!(failed.parent_span_id, crash.span_id);
    assert_eq!(dependent.parent_span_id, failed.span_id);
    assert_eq!(dependent.links[0].span_id, crash.span_id);
    assert_eq!(dependent.links[1].trace_id, trace::trace_id("0123456789abcdef0123456789abcdef"));
    let event_span = crate::event::span_id([7; 16], crate::event::Source::Journald, 7, 3);
    assert_eq!(dependent.links[1].span_id, event_span.to_be_bytes());
    assert_eq!(crash.end_time_unix_nano - crash.start_time_unix_nano, 2_000_000_000);
    assert_eq!(root.end_time_unix_nano, dependent.end_time_unix_nano);
    assert!(spans.iter().all(|span| span.trace_id == root.trace_id && span.span_id != [0; 8]));

    assert!(spans_of(&incident(), &mut exported).is_empty());
    let mut later = incident();
    later.facts.insert(0, fact("f1", "bad_config", "a.service", 0));
    let added = spans_of(&later, &mut exported);
    assert_eq!(added.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), ["bad_config"]);
    assert_eq!(spans_of(&incident(), &mut Exported::default()), spans);
}

/// Scenario: the records of two revisions.
/// Guarantees: each fact is a record once, with its span; each revision is one.
#[test]
fn facts_and_revisions_are_records() {
    let mut exported = Exported::default();
    let mut names = || {
        let resources = log::logs(&incident(), &origin(), &mut exported).into_iter();
        let records = resources.flat_map(|resource| resource.scope_logs).flat_map(|scope| scope.log_records);
        records.map(|record| record.event_name).collect::<Vec<_>>()
    };
    let mut first = names();
    first.sort();
    assert_eq!(
        first,
        ["tapio.fact.crash", "tapio.fact.dependency_failed", "tapio.fact.unit_failed", "tapio.incident"]
    );
    assert_eq!(names(), ["tapio.incident"]);
}

#[derive(Clone)]
struct Receiver {
    seen: mpsc::Sender<&'static str>,
    refuse: bool,
}

impl Receiver {
    fn answer(&self, what: &'static str, header: bool) -> Result<(), Status> {
        assert!(header, "the header is missing");
        // A test that has seen enough does not listen any more.
        let _enough = self.seen.try_send(what);
        if self.refuse { Err(Status::permission_denied("no")) } else { Ok(()) }
    }
}

#[tonic::async_trait]
impl LogsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.answer("logs", request.metadata().contains_key("x-key"))?;
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.answer("trace", request.metadata().contains_key("x-key"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Sends one incident and ends; what the receiver saw and what was counted.
async fn export(endpoint: SocketAddr) -> Report {
    let settings = Settings {
        otel_endpoint: endpoint.to_string(),
        otel_timeout: Duration::from_millis(500),
        otel_headers: vec![("X-Key".into(), "secret".into())],
        ..Settings::default()
    };
    let report = Arc::new(Mutex::new(Report::default()));
    let exporter = IncidentExporter::new(&settings, origin(), Arc::clone(&report)).expect("settings");
    let (sender, revisions) = mpsc::channel(QUEUE_MAX);
    sender.send(incident()).await.expect("space");
    drop(sender);
    exporter.expect("on").run(revisions).await;
    let report = report.lock().expect("no panic");
    report.clone()
}

async fn serve(refuse: bool) -> (SocketAddr, mpsc::Receiver<&'static str>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (seen, sees) = mpsc::channel(16);
    let receiver = Receiver { seen, refuse };
    let server = tonic::transport::Server::builder()
        .add_service(LogsServiceServer::new(receiver.clone()))
        .add_service(TraceServiceServer::new(receiver))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    (address, sees)
}

/// Scenario: a receiver that takes everything, one that refuses everything, and none.
/// Guarantees: logs and trace arrive; a refusal is not repeated; what cannot be sent is counted at the end.
#[tokio::test]
async fn every_request_is_accounted_for() {
    let (address, mut sees) = serve(false).await;
    let report = export(address).await;
    assert_eq!([sees.recv().await, sees.recv().await], [Some("logs"), Some("trace")]);
    assert_eq!(report, Report { exported: 2, ..Report::default() });

    let (address, mut sees) = serve(true).await;
    let report = export(address).await;
    assert_eq!([sees.recv().await, sees.recv().await], [Some("logs"), Some("trace")]);
    assert_eq!((report.failed, report.refused, report.dropped, report.exported), (2, 2, 0, 0));

    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr();
    let report = export(nobody.expect("bound")).await;
    assert_eq!((report.failed, report.dropped, report.exported), (1, 2, 0));
    assert!(!report.last_error.is_empty());
}
