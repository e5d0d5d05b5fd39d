//! Every incident of the corpus, as receivers have it afterwards.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tapio::explain::RuleSet;
use tapio::proto::SemanticGroup;
use tapio::recording::{load, replay};

use super::jaeger::{Jaeger, Node, node_sent, text, written};
use super::sent::{Record, Sent, taken_down};
use super::{export, receiver, start_collector};
use crate::skipped;

/// The incidents of every story.
fn incidents() -> Vec<SemanticGroup> {
    let rules = Arc::new(RuleSet::shipped().unwrap());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    paths.sort();
    let mut all: BTreeMap<String, SemanticGroup> = BTreeMap::new();
    for path in paths {
        let found = replay::incidents(&load(&[path]).unwrap(), Arc::clone(&rules));
        all.extend(found.iter().map(|incident| (incident.id.clone(), SemanticGroup::from(incident))));
    }
    all.into_values().collect()
}

/// What the exporter sends of them.
async fn sent(incidents: &[SemanticGroup]) -> Sent {
    let to_send = incidents.to_vec();
    let sent = taken_down(|address| async move {
        let report = export(to_send, &address).await;
        assert_eq!((report.failed, report.dropped, report.refused), (0, 0, 0), "{report:?}");
    })
    .await;
    assert!(incidents.len() > 40 && sent.spans.len() > 2 * incidents.len(), "{} spans", sent.spans.len());
    sent
}

/// By their text, since receivers may change the order of records.
fn sorted(records: &[Record]) -> Vec<String> {
    let mut texts: Vec<String> = records.iter().map(ToString::to_string).collect();
    texts.sort();
    texts
}

/// Scenario: every incident of the corpus goes to a real Collector.
/// Guarantees: what its file exporter wrote is what was sent, span by span and record by record, every field of them.
#[tokio::test]
async fn a_real_collector_writes_what_was_sent() {
    let program = match receiver("otelcol") {
        Ok(program) => program,
        Err(reason) => return skipped("otlp::a_real_collector_writes_what_was_sent", &reason),
    };
    let incidents = incidents();
    let sent = sent(&incidents).await;
    let folder = tempfile::tempdir().unwrap();
    let (_running, endpoint) = start_collector(&program, folder.path(), None);
    let report = export(incidents.clone(), &endpoint).await;
    assert_eq!((report.failed, report.dropped, report.refused), (0, 0, 0), "{report:?}");
    let [traces, logs] = ["traces.json", "logs.json"].map(|name| folder.path().join(name));
    let begin = Instant::now();
    let (spans, logs) = loop {
        let spans = written(&traces, ["resourceSpans", "scopeSpans", "spans"]);
        let logs = written(&logs, ["resourceLogs", "scopeLogs", "logRecords"]);
        if (spans.len(), logs.len()) >= (sent.spans.len(), sent.logs.len()) {
            break (spans, logs);
        }
        let counts = (spans.len(), logs.len());
        assert!(begin.elapsed() < Duration::from_secs(60), "{counts:?} of {:?}", sent.spans.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(sorted(&spans), sorted(&sent.spans));
    assert_eq!(sorted(&logs), sorted(&sent.logs));
    println!("{} incidents: {} spans, {} log records", incidents.len(), spans.len(), logs.len());
}

/// Scenario: every incident of the corpus goes to Jaeger, which is then asked for the trace of each by its id.
/// Guarantees: the trace has every span that was sent, below the span of its cause, with its links, times, attributes
/// and the name of its service.
#[tokio::test]
async fn jaeger_shows_every_incident_as_a_trace() {
    let jaeger = match Jaeger::start() {
        Ok(jaeger) => jaeger,
        Err(reason) => return skipped("otlp::jaeger_shows_every_incident_as_a_trace", &reason),
    };
    let incidents = incidents();
    let sent = sent(&incidents).await;
    // Jaeger takes traces only: every request of logs is refused, and counted.
    let report = export(incidents.clone(), &jaeger.otlp).await;
    assert_eq!((report.dropped, report.refused), (0, incidents.len() as u64), "{report:?}");
    let mut wanted: BTreeMap<String, Vec<Node>> = BTreeMap::new();
    for record in &sent.spans {
        wanted.entry(text(&record["own"]["traceId"])).or_default().push(node_sent(record));
    }
    assert_eq!(wanted.len(), incidents.len());
    let mut links = 0;
    for (trace, mut nodes) in wanted {
        let (mut stored, services) = jaeger.trace(&trace);
        nodes.sort();
        stored.sort();
        assert_eq!(stored, nodes, "{trace}");
        links += stored.iter().map(|node| node.linked.len()).sum::<usize>();
        let roots = stored.iter().filter(|node| node.below.is_empty()).count();
        assert_eq!(roots, 1, "{trace}: one span is the incident");
        assert!(!services.is_empty() && services.iter().all(|name| !name.is_empty()), "{services:?}");
    }
    assert!(links > 0, "no incident of the corpus has a link");
    println!("{} incidents, {} spans, {links} links", incidents.len(), sent.spans.len());
}
