//! Incidents as independent receivers read them: the OpenTelemetry Collector, and Jaeger.
//!
//! `tests/rigs/otel` builds them once; where it cannot, the tests are skipped.

/// Every incident of the corpus.
mod corpus;
/// A real Jaeger.
pub(crate) mod jaeger;
/// What the exporter sends, taken down by a receiver of our own.
mod sent;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tapio::config::Settings;
use tapio::egress::otlp::{IncidentExporter, Origin, QUEUE_MAX, Report};
use tapio::proto::{CausalEdge, Detail, IncidentEntity, IncidentFact, RootCause, SemanticGroup, detail};

use crate::skipped;

/// Builds a receiver, or says why not.
pub(crate) fn receiver(name: &str) -> Result<PathBuf, String> {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rigs/otel/build");
    let output = Command::new(build).arg(name).stderr(Stdio::piped()).output();
    let output = output.map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// A program that ends with this.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// An address that was free a moment ago.
fn free_address() -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("127.0.0.1:{port}")
}

/// Starts a receiver with this configuration, and waits until it listens.
fn start(program: &Path, folder: &Path, config: &str, addresses: &[&str]) -> Running {
    std::fs::write(folder.join("config.yaml"), config).unwrap();
    let child = Command::new(program)
        .arg("--config")
        .arg(folder.join("config.yaml"))
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("log")).unwrap())
        .spawn()
        .unwrap();
    let running = Running(child);
    let begin = Instant::now();
    while addresses.iter().any(|address| std::net::TcpStream::connect(address).is_err()) {
        let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(begin.elapsed() < Duration::from_secs(60), "{} does not listen\n{log}", program.display());
        std::thread::sleep(Duration::from_millis(50));
    }
    running
}

/// Starts the Collector with its files in `folder`; it hands traces on to another receiver, if there is one.
pub(crate) fn start_collector(program: &Path, folder: &Path, next: Option<&str>) -> (Running, String) {
    let endpoint = free_address();
    let hands_on = next.map_or(String::new(), |next| {
        format!("\n  otlp_grpc: {{endpoint: {next}, tls: {{insecure: true}}}}")
    });
    let also = if next.is_some() { ", otlp_grpc" } else { "" };
    let file = |name: &str| folder.join(name).display().to_string();
    let config = format!(
        "receivers: {{otlp: {{protocols: {{grpc: {{endpoint: {endpoint}}}}}}}}}
exporters:
  file/traces: {{path: {}, flush_interval: 100ms}}
  file/logs: {{path: {}, flush_interval: 100ms}}{hands_on}
service:
  telemetry: {{metrics: {{level: none}}, logs: {{level: error}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [file/traces{also}]}}
    logs: {{receivers: [otlp], exporters: [file/logs]}}
",
        file("traces.json"),
        file("logs.json")
    );
    let running = start(program, folder, &config, &[&endpoint]);
    (running, endpoint)
}

/// Exports these incidents to a receiver, as many at once as there is room for: each is a request for its log records and
/// one for its spans.
async fn export(incidents: Vec<SemanticGroup>, endpoint: &str) -> Report {
    let settings = Settings { otel_endpoint: endpoint.to_owned(), ..Settings::default() };
    let report = Arc::new(Mutex::new(Report::default()));
    for part in incidents.chunks(QUEUE_MAX / 2) {
        let origin = Origin::new(&settings, [7; 16], "host-a");
        let exporter = IncidentExporter::new(&settings, origin, Arc::clone(&report)).unwrap().unwrap();
        let (sender, revisions) = tokio::sync::mpsc::channel(QUEUE_MAX);
        for incident in part {
            sender.try_send(incident.clone()).expect("room for all of them");
        }
        drop(sender);
        exporter.run(revisions).await;
    }
    let report = report.lock().unwrap();
    report.clone()
}

fn fact(id: &str, kind: &str, unit: &str, at: &str) -> IncidentFact {
    let number = |number| Detail { value: Some(detail::Value::Number(number)) };
    let text = Detail { value: Some(detail::Value::Text("exit-code".into())) };
    IncidentFact {
        id: id.into(),
        kind: kind.into(),
        entity: Some(IncidentEntity { r#type: "unit".into(), name: unit.into() }),
        at: at.into(),
        source: "systemd".into(),
        events: vec![format!("systemd:0:{}", &id[1..])],
        detail: [("status".to_owned(), number(3)), ("result".to_owned(), text)].into(),
        trace_id: "00112233445566778899aabbccddeeff".into(),
    }
}

fn incident() -> SemanticGroup {
    let edge = |from: &str, to: &str, confidence| CausalEdge {
        from: from.into(),
        to: to.into(),
        rule: "rule".into(),
        confidence,
        ..CausalEdge::default()
    };
    SemanticGroup {
        id: "0000000000000abc".into(),
        trace_id: "000000000000000000000000deadbeef".into(),
        revision: 2,
        state: "open".into(),
        severity: "high".into(),
        title: "db.service failed".into(),
        updated_at: "2026-11-24T10:00:02.000000003Z".into(),
        root_cause: Some(RootCause {
            kind: "exit_failure".into(),
            entity: Some(IncidentEntity { r#type: "unit".into(), name: "db.service".into() }),
            confidence: 0.9,
            ..RootCause::default()
        }),
        facts: vec![
            fact("f1", "exit_failure", "db.service", "2026-11-24T10:00:00.000000001Z"),
            fact("f2", "unit_failed", "db.service", "2026-11-24T10:00:01.000000002Z"),
            fact("f3", "dependency_failed", "app.service", "2026-11-24T10:00:02.000000003Z"),
        ],
        chain: vec![edge("f1", "f2", 0.9), edge("f2", "f3", 0.8), edge("f1", "f3", 0.3)],
        ..SemanticGroup::default()
    }
}

/// The records of a file of the Collector, each with the attributes of its resource.
pub(crate) fn records(
    path: &Path,
    [resources, scopes, records]: [&str; 3],
) -> Vec<(BTreeMap<String, Value>, Value)> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut found = Vec::new();
    for line in text.lines() {
        // A line that is not whole yet is read the next time.
        let Ok(line) = serde_json::from_str::<Value>(line) else { break };
        for resource in line[resources].as_array().unwrap() {
            let attributes = attributes(&resource["resource"]);
            for scope in resource[scopes].as_array().unwrap() {
                let records = scope[records].as_array().unwrap().iter();
                found.extend(records.map(|record| (attributes.clone(), record.clone())));
            }
        }
    }
    found
}

/// Attributes by name; of the value, what is in it.
pub(crate) fn attributes(of: &Value) -> BTreeMap<String, Value> {
    let list = of["attributes"].as_array().cloned().unwrap_or_default();
    let value = |entry: &Value| entry["value"].as_object().unwrap().values().next().cloned().unwrap();
    list.iter().map(|entry| (entry["key"].as_str().unwrap().to_owned(), value(entry))).collect()
}

/// Scenario: an incident of three facts, one of which has two causes, goes to a real Collector.
/// Guarantees: what the Collector read is what was sent: ids, causal order, times to the nanosecond, links,
/// attributes, entities, event names.
#[tokio::test]
async fn a_real_collector_reads_incidents() {
    let program = match receiver("otelcol") {
        Ok(program) => program,
        Err(reason) => return skipped("otlp::a_real_collector_reads_incidents", &reason),
    };
    let folder = tempfile::tempdir().unwrap();
    let (_running, endpoint) = start_collector(&program, folder.path(), None);
    let report = export(vec![incident()], &endpoint).await;
    assert_eq!(report, Report { exported: 2, ..Report::default() });

    let begin = Instant::now();
    let [traces, logs] = ["traces.json", "logs.json"].map(|name| folder.path().join(name));
    let read = loop {
        let spans = records(&traces, ["resourceSpans", "scopeSpans", "spans"]);
        let logs = records(&logs, ["resourceLogs", "scopeLogs", "logRecords"]);
        if spans.len() >= 4 && logs.len() >= 4 {
            break (spans, logs);
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{} spans, {} logs", spans.len(), logs.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    check_spans(&read.0);
    check_logs(&read.1, &read.0);
}

fn check_spans(spans: &[(BTreeMap<String, Value>, Value)]) {
    let find = |name: &str| spans.iter().find(|(_, span)| span["name"] == name).expect(name);
    let (_, root) = find("db.service failed");
    let (_, exit) = find("exit_failure");
    let (_, failed) = find("unit_failed");
    let (app, dependent) = find("dependency_failed");
    assert_eq!(spans.len(), 4);
    for (_, span) in spans {
        assert_eq!(span["traceId"], "000000000000000000000000deadbeef");
    }
    assert!(root["parentSpanId"].as_str().unwrap_or_default().is_empty());
    assert_eq!(root["status"]["code"], 2);
    assert_eq!(exit["parentSpanId"], root["spanId"]);
    assert_eq!(failed["parentSpanId"], exit["spanId"]);
    assert_eq!(dependent["parentSpanId"], failed["spanId"]);
    assert_eq!(dependent["links"][0]["spanId"], exit["spanId"]);
    assert_eq!(dependent["links"][1]["traceId"], "00112233445566778899aabbccddeeff");
    let unix_ns =
        |second: u64, ns: u64| (1_795_514_400_000_000_000 + second * 1_000_000_000 + ns).to_string();
    assert_eq!(exit["startTimeUnixNano"], unix_ns(0, 1));
    assert_eq!(exit["endTimeUnixNano"], unix_ns(2, 3));
    assert_eq!(root["endTimeUnixNano"], unix_ns(2, 3));
    let found = attributes(dependent);
    assert_eq!(found["tapio.detail.status"], "3");
    assert_eq!(found["tapio.detail.result"], "exit-code");
    assert_eq!(found["tapio.rule"], "rule");
    assert_eq!(found["tapio.confidence"], 0.8);
    assert_eq!(app["systemd.unit.name"], "app.service");
    assert_eq!(app["service.name"], "app.service");
    assert_eq!(app["host.name"], "host-a");
}

fn check_logs(logs: &[(BTreeMap<String, Value>, Value)], spans: &[(BTreeMap<String, Value>, Value)]) {
    let mut names: Vec<&str> = logs.iter().map(|(_, log)| log["eventName"].as_str().unwrap()).collect();
    names.sort_unstable();
    let facts = ["tapio.fact.dependency_failed", "tapio.fact.exit_failure", "tapio.fact.unit_failed"];
    assert_eq!(names, [&facts[..], &["tapio.incident"]].concat());
    for (_, log) in logs {
        let span = spans.iter().find(|(_, span)| span["spanId"] == log["spanId"]).expect("its span");
        assert_eq!(log["traceId"], span.1["traceId"]);
    }
}
