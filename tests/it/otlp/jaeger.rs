//! A real Jaeger, and its traces beside those of the Collector's file.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::sent::{Record, essential};
use super::{Running, free_address, receiver, start};

/// A running Jaeger that keeps traces in memory.
pub(crate) struct Jaeger {
    _running: Running,
    _folder: tempfile::TempDir,
    /// Where it takes traces.
    pub(crate) otlp: String,
    http: String,
}

impl Jaeger {
    /// Starts one, or says why there is none.
    pub(crate) fn start() -> Result<Self, String> {
        let program = receiver("jaeger")?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
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
        let running = start(&program, folder.path(), &config, &[&otlp, &http]);
        Ok(Self { _running: running, _folder: folder, otlp, http })
    }

    /// The spans of a trace, and the names of its services; nothing where it is not known.
    pub(crate) fn trace(&self, id: &str) -> (Vec<Node>, Vec<String>) {
        let answer = get(&self.http, &format!("/api/traces/{id}?raw=true"));
        let trace = &answer["data"][0];
        let spans = trace["spans"].as_array().into_iter().flatten().map(node_stored).collect();
        let processes = trace["processes"].as_object().into_iter().flat_map(serde_json::Map::values);
        (spans, processes.map(|process| text(&process["serviceName"])).collect())
    }
}

/// The records of a file of the Collector, in the form of [`Record`].
pub(crate) fn written(path: &Path, [resources, scopes, records]: [&str; 3]) -> Vec<Record> {
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
pub(crate) struct Node {
    span: String,
    name: String,
    start_us: u64,
    lasts_us: u64,
    pub(crate) below: Vec<String>,
    pub(crate) linked: Vec<String>,
    tags: BTreeSet<String>,
}

pub(super) fn text(of: &Value) -> String {
    of.as_str().unwrap_or_default().to_owned()
}

fn tag(key: &Value, value: &Value) -> String {
    let number =
        || value.as_i64().map(|whole| whole.to_string()).or_else(|| Some(value.as_f64()?.to_string()));
    let value = value.as_str().map(str::to_owned).or_else(number).unwrap_or_else(|| value.to_string());
    format!("{}={value}", key.as_str().unwrap())
}

pub(crate) fn node_sent(record: &Record) -> Node {
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
