//! What a real OpenTelemetry Collector has of the incidents of a running agent, and Jaeger behind it.
//!
//! Invariants:
//! - The Collector's own file is what counts, not what the agent says that it sent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use tapio::explain::Incident;

use crate::otlp::jaeger::{Jaeger, Node, node_sent, written};
use crate::otlp::{Running, attributes, receiver, records, start_collector};

/// Longest wait for the Collector to have written.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where spans are in its file.
const SPANS: [&str; 3] = ["resourceSpans", "scopeSpans", "spans"];

/// A Collector, with a folder for its files.
pub(super) struct Collector {
    folder: tempfile::TempDir,
    pub(super) endpoint: String,
    _running: Running,
    /// It hands traces on to this, where it could be built.
    jaeger: Result<Jaeger, String>,
}

impl Collector {
    /// Starts one, or says why there is none.
    pub(super) fn start() -> Result<Self, String> {
        let program = receiver("otelcol")?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let jaeger = Jaeger::start();
        let next = jaeger.as_ref().ok().map(|jaeger| &*jaeger.otlp);
        let (running, endpoint) = start_collector(&program, folder.path(), next);
        Ok(Self { folder, endpoint, _running: running, jaeger })
    }

    /// Why there is no Jaeger behind it; nothing where there is.
    pub(super) fn without_jaeger(&self) -> Option<&str> {
        self.jaeger.as_ref().err().map(String::as_str)
    }

    /// How much Jaeger has of what the Collector wrote, to be printed.
    pub(super) fn summary(&self) -> String {
        let Ok(jaeger) = &self.jaeger else { return String::new() };
        let written = written(&self.folder.path().join("traces.json"), SPANS);
        let traces: BTreeSet<&str> = written.iter().map(|record| text(&record["own"]["traceId"])).collect();
        let spans: Vec<Node> = traces.iter().flat_map(|trace| jaeger.trace(trace).0).collect();
        let links = |of: fn(&Node) -> &Vec<String>| spans.iter().map(|node| of(node).len()).sum::<usize>();
        format!(
            "{} traces at Jaeger: {} spans, {} below another, {} links",
            traces.len(),
            spans.len(),
            links(|node| &node.below),
            links(|node| &node.linked)
        )
    }

    /// What Jaeger has otherwise of an incident than the Collector: its spans, below which they are, what they are linked
    /// to, their times and attributes.
    fn differs(&self, incident: &Incident) -> Option<String> {
        let jaeger = self.jaeger.as_ref().ok()?;
        let written = written(&self.folder.path().join("traces.json"), SPANS);
        let of_it = written.iter().filter(|record| record["own"]["traceId"] == *incident.trace_id);
        // Each revision is sent: some spans of it are as they were.
        let sent: BTreeSet<Node> = of_it.map(node_sent).collect();
        let stored: BTreeSet<Node> = jaeger.trace(&incident.trace_id).0.into_iter().collect();
        let other = sent.symmetric_difference(&stored).next()?;
        let who = if stored.contains(other) { "only Jaeger" } else { "only the Collector" };
        Some(format!("of {} {who} has {other:?}", incident.id))
    }

    /// What it does not have of these incidents, as they were in the end.
    pub(super) fn lacks(&self, told: &[Incident]) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let traces = records(&self.folder.path().join("traces.json"), SPANS);
            let logs =
                records(&self.folder.path().join("logs.json"), ["resourceLogs", "scopeLogs", "logRecords"]);
            let lacks: Vec<String> = told
                .iter()
                .flat_map(|incident| {
                    [lacks_trace(incident, &traces), lacks_log(incident, &logs), self.differs(incident)]
                })
                .flatten()
                .collect();
            if lacks.is_empty() || begun.elapsed() >= PATIENCE {
                return lacks;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

type Records = [(BTreeMap<String, Value>, Value)];

fn text(of: &Value) -> &str {
    of.as_str().unwrap_or_default()
}

/// What the trace of an incident lacks: a span of its own, one for each fact, each below that of its cause.
fn lacks_trace(incident: &Incident, traces: &Records) -> Option<String> {
    let spans: BTreeMap<&str, &Value> = traces
        .iter()
        .filter(|(_, span)| span["traceId"] == *incident.trace_id)
        .map(|(_, span)| (text(&span["spanId"]), span))
        .collect();
    let roots = spans.values().filter(|span| text(&span["parentSpanId"]).is_empty());
    let roots: Vec<_> =
        roots.map(|span| (attributes(span)["tapio.incident.id"].clone(), text(&span["name"]))).collect();
    let [(id, title)] = &roots[..] else {
        return Some(format!("the Collector has {roots:?} for {}", incident.id));
    };
    if *id != *incident.id {
        return Some(format!("the Collector has {id} as the root of {}", incident.id));
    }
    let kind = |id: &str| incident.facts.iter().find(|fact| fact.id == id).map(|fact| fact.kind.as_str());
    let mut steps: Vec<(&str, &str)> = Vec::new();
    for span in spans.values() {
        let Some(parent) = spans.get(text(&span["parentSpanId"])) else { continue };
        steps.push((text(&parent["name"]), text(&span["name"])));
    }
    for fact in &incident.facts {
        let cause = incident.chain.iter().find(|link| link.to == fact.id).and_then(|link| kind(&link.from));
        let cause = cause.unwrap_or(title);
        let is_it = |(above, below): &(&str, &str)| *below == fact.kind && *above == cause;
        let Some(at) = steps.iter().position(is_it) else {
            return Some(format!("the Collector has no {} below {cause}: {steps:?}", fact.kind));
        };
        steps.swap_remove(at);
    }
    None
}

/// What the log lacks: a record of the last revision.
fn lacks_log(incident: &Incident, logs: &Records) -> Option<String> {
    let revision = incident.revision.to_string();
    let is_it = |log: &Value| {
        log["traceId"] == *incident.trace_id
            && log["eventName"] == "tapio.incident"
            && attributes(log)["tapio.incident.revision"] == *revision
    };
    let has_it = logs.iter().any(|(_, log)| is_it(log));
    (!has_it).then(|| format!("the Collector has no record of revision {revision} of {}", incident.id))
}
