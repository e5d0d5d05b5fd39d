//! Every incident of the corpus, as receivers have it afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tapio::explain::RuleSet;
use tapio::proto::SemanticGroup;
use tapio::recording::{load, replay};

use super::sent::{Record, Sent, essential, taken_down};
use super::{export, free_address, receiver, start, start_collector};
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

/// The records of a file of the Collector, in the form of [`Record`].
fn written(path: &Path, [resources, scopes, records]: [&str; 3]) -> Vec<Record> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut found = Vec::new();
    for line in text.lines() {
        // A line that is not whole yet is read the next time.
        let Ok(line) = serde_json::from_str::<Value>(line) else { break };
        for of_resource in line[resources].as_array().unwrap() {
            for of_scope in of_resource[scopes].as_array().unwrap() {
                for own in of_scope[records].as_array().unwrap() {
                    let resource = &of_resource["resource"];
                    let record = json!({"resource": resource, "scope": of_scope["scope"], "own": own});
                    found.push(essential(record));
                }
            }
        }
    }
    found
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
    let (_running, endpoint) = start_collector(&program, folder.path());
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

/// One answer of a server of HTTP.
fn get(address: &str, path: &str) -> Value {
    let mut connection = std::net::TcpStream::connect(address).unwrap();
    write!(connection, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{path}: {error}: {answer}"))
}

/// What of a span both sides can say: its ids, name, times in microseconds, what it hangs below, what it is linked to,
/// and its attributes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Node {
    span: String,
    name: String,
    start_us: u64,
    lasts_us: u64,
    below: Vec<String>,
    linked: Vec<String>,
    tags: BTreeSet<String>,
}

fn text(of: &Value) -> String {
    of.as_str().unwrap_or_default().to_owned()
}

fn tag(key: &Value, value: &Value) -> String {
    let number =
        || value.as_i64().map(|whole| whole.to_string()).or_else(|| Some(value.as_f64()?.to_string()));
    let value = value.as_str().map(str::to_owned).or_else(number).unwrap_or_else(|| value.to_string());
    format!("{}={value}", key.as_str().unwrap())
}

fn node_sent(record: &Record) -> Node {
    let span = &record["own"];
    let ns = |name: &str| span[name].as_str().unwrap_or("0").parse::<u64>().unwrap();
    let list = |name: &str| span[name].as_array().cloned().unwrap_or_default();
    let name_of = |link: &Value| format!("{}/{}", text(&link["traceId"]), text(&link["spanId"]));
    let below = Some(text(&span["parentSpanId"])).filter(|parent| !parent.is_empty());
    let tag_of = |entry: &Value| {
        let of = entry["value"].as_object().and_then(|value| value.values().next().cloned());
        // What is empty, zero or false was left out on the way to the record, so nothing can be compared there.
        of.map(|value| tag(&entry["key"], &value))
    };
    Node {
        span: text(&span["spanId"]),
        name: text(&span["name"]),
        start_us: ns("startTimeUnixNano") / 1000,
        lasts_us: (ns("endTimeUnixNano") - ns("startTimeUnixNano")) / 1000,
        below: below.map(|parent| format!("{}/{parent}", text(&span["traceId"]))).into_iter().collect(),
        linked: list("links").iter().map(name_of).collect(),
        tags: list("attributes").iter().filter_map(tag_of).collect(),
    }
}

fn node_stored(span: &Value) -> Node {
    let references = |kind: &str| {
        let of_kind =
            span["references"].as_array().into_iter().flatten().filter(|one| one["refType"] == kind);
        of_kind.map(|one| format!("{}/{}", text(&one["traceID"]), text(&one["spanID"]))).collect::<Vec<_>>()
    };
    let tags = span["tags"].as_array().into_iter().flatten();
    // Of our attributes: the rest is what Jaeger makes of kind, status and scope.
    let own = tags.filter(|tag| tag["key"].as_str().unwrap().starts_with("tapio."));
    let said = |one: &&Value| !matches!(&one["value"], Value::String(text) if text.is_empty() || text == "0");
    let said = own.filter(said).filter(|one| one["value"] != false && one["value"].as_f64() != Some(0.0));
    Node {
        span: text(&span["spanID"]),
        name: text(&span["operationName"]),
        start_us: span["startTime"].as_u64().unwrap(),
        lasts_us: span["duration"].as_u64().unwrap(),
        below: references("CHILD_OF"),
        linked: references("FOLLOWS_FROM"),
        tags: said.map(|one| tag(&one["key"], &one["value"])).collect(),
    }
}

/// Scenario: every incident of the corpus goes to Jaeger, which is then asked for the trace of each by its id.
/// Guarantees: the trace has every span that was sent, below the span of its cause, with its links, times, attributes
/// and the name of its service.
#[tokio::test]
async fn jaeger_shows_every_incident_as_a_trace() {
    let program = match receiver("jaeger") {
        Ok(program) => program,
        Err(reason) => return skipped("otlp::jaeger_shows_every_incident_as_a_trace", &reason),
    };
    let incidents = incidents();
    let sent = sent(&incidents).await;
    let folder = tempfile::tempdir().unwrap();
    let [otlp, http, grpc] = [free_address(), free_address(), free_address()];
    let config = format!(
        "service:
  extensions: [jaeger_storage, jaeger_query]
  telemetry: {{metrics: {{level: none}}, logs: {{level: error}}}}
  pipelines: {{traces: {{receivers: [otlp], exporters: [jaeger_storage_exporter]}}}}
extensions:
  jaeger_storage: {{backends: {{memory: {{memory: {{max_traces: 10000}}}}}}}}
  jaeger_query: {{storage: {{traces: memory}}, http: {{endpoint: {http}}}, grpc: {{endpoint: {grpc}}}}}
receivers: {{otlp: {{protocols: {{grpc: {{endpoint: {otlp}}}}}}}}}
exporters: {{jaeger_storage_exporter: {{trace_storage: memory}}}}
"
    );
    let _running = start(&program, folder.path(), &config, &[&otlp, &http]);
    // Jaeger takes traces only: every request of logs is refused, and counted.
    let report = export(incidents.clone(), &otlp).await;
    assert_eq!((report.dropped, report.refused), (0, incidents.len() as u64), "{report:?}");
    let mut wanted: BTreeMap<String, Vec<Node>> = BTreeMap::new();
    for record in &sent.spans {
        wanted.entry(text(&record["own"]["traceId"])).or_default().push(node_sent(record));
    }
    assert_eq!(wanted.len(), incidents.len());
    let mut links = 0;
    for (trace, mut nodes) in wanted {
        let answer = get(&http, &format!("/api/traces/{trace}?raw=true"));
        let spans = answer["data"][0]["spans"].as_array().unwrap_or_else(|| panic!("{trace}: {answer}"));
        let mut stored: Vec<Node> = spans.iter().map(node_stored).collect();
        nodes.sort();
        stored.sort();
        assert_eq!(stored, nodes, "{trace}");
        links += stored.iter().map(|node| node.linked.len()).sum::<usize>();
        let roots = stored.iter().filter(|node| node.below.is_empty()).count();
        assert_eq!(roots, 1, "{trace}: one span is the incident");
        for process in answer["data"][0]["processes"].as_object().unwrap().values() {
            assert!(process["serviceName"].as_str().is_some_and(|name| !name.is_empty()), "{process}");
        }
    }
    assert!(links > 0, "no incident of the corpus has a link");
    println!("{} incidents, {} spans, {links} links", incidents.len(), sent.spans.len());
}
