//! The agent's own metrics: one table, rendered for Prometheus and sent over OTLP.
//!
//! Invariants:
//! - Every number is read from a [`Snapshot`]: `status`, `/metrics` and OTLP cannot disagree.
//! - Nothing here exists unless it is asked for.

pub mod http;
pub mod otlp;

use std::fmt::Write;

use crate::control::Snapshot;
use crate::health::{ProbeState, State};
use crate::ledger::{Dropped, LedgerRow, Shed};

/// What a number does over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It grows, from 0 at the start of the agent.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Parts of a whole, 0 to 1.
    Ratio,
}

impl Unit {
    /// The end of the name in Prometheus.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Count => "",
            Self::Bytes => "_bytes",
            Self::Seconds => "_seconds",
            Self::Ratio => "_ratio",
        }
    }

    /// The name in UCUM, as OpenTelemetry wants it.
    const fn ucum(self) -> &'static str {
        match self {
            Self::Count | Self::Ratio => "1",
            Self::Bytes => "By",
            Self::Seconds => "s",
        }
    }
}

/// One number with what tells it from others of its metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Names and values.
    pub labels: Vec<(&'static str, String)>,
    /// The number.
    pub value: f64,
}

type Take = fn(&Snapshot) -> Vec<Sample>;

/// A row of [`METRICS`].
#[derive(Debug, Clone, Copy)]
pub struct Info {
    /// The metric.
    pub metric: Metric,
    name: &'static str,
    /// What it does over time.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// One sentence without its full stop.
    pub help: &'static str,
    /// Reads it.
    pub samples: Take,
}

impl Info {
    /// The name in Prometheus.
    #[must_use]
    pub fn prometheus_name(&self) -> String {
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("tapio_{}{}{total}", self.name, self.unit.suffix())
    }

    /// The name in OpenTelemetry, where unit and kind have fields of their own.
    #[must_use]
    pub fn otlp_name(&self) -> String {
        format!("tapio.{}", self.name)
    }
}

macro_rules! metrics {
    ($( $variant:ident = $name:literal, $kind:ident, $unit:ident, $help:literal, $samples:expr; )+) => {
        /// Every metric of the agent.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Metric { $( #[doc = $help] $variant ),+ }

        /// What is known of every metric, in the order of the variants.
        pub const METRICS: &[Info] = &[$( Info {
            metric: Metric::$variant, name: $name, kind: Kind::$kind, unit: Unit::$unit, help: $help, samples: $samples,
        } ),+];
    };
}

metrics! {
    Build = "build_info", Gauge, Count, "Always 1; the version is in the label",
        |s| vec![labelled(vec![("version", s.version.clone())], 1.0)];
    Uptime = "uptime", Gauge, Seconds, "Time since the agent started", |s| one(s.uptime_s);
    Memory = "memory_resident", Gauge, Bytes, "Memory of the agent", |s| one(float(s.memory_bytes));
    Produced = "events_produced", Counter, Count, "Events that the source made, lost ones included",
        |s| by_source(s, |row| float(row.produced));
    RingLost = "events_ring_lost", Counter, Count, "Events that did not fit a ring",
        |s| by_source(s, |row| float(row.ring_lost));
    Drained = "events_drained", Counter, Count, "Events read", |s| by_source(s, |row| float(row.drained));
    Shed = "events_shed", Counter, Count, "Events read and given up before they got their identity",
        |s| by_reason(s, Shed::ALL.iter().map(|reason| reason.name()), |row| &row.shed);
    Enriched = "events_enriched", Counter, Count, "Events put into a batch", |s| by_source(s, |row| float(row.enriched));
    Acked = "events_acked", Counter, Count, "Events that the server has stored durably",
        |s| by_source(s, |row| float(row.acked));
    Dropped = "events_dropped", Counter, Count, "Events given up after they got their identity",
        |s| by_reason(s, Dropped::ALL.iter().map(|reason| reason.name()), |row| &row.dropped);
    Queued = "events_queued", Gauge, Count, "Events in the rings", |s| by_source(s, |row| signed(row.queued));
    Batching = "events_batching", Gauge, Count, "Events between a ring and a batch",
        |s| by_source(s, |row| signed(row.batching));
    InFlight = "events_in_flight", Gauge, Count, "Events sent or to be sent and not acked",
        |s| by_source(s, |row| signed(row.in_flight));
    Spooled = "events_spooled", Gauge, Count, "Events on this host's disk that wait for the server",
        |s| by_source(s, |row| signed(row.spooled));
    Closed = "ledger_closed", Gauge, Count, "1 while every sum of the ledger agrees",
        |s| one(truth(s.ledger_closed));
    Incidents = "incidents_open", Gauge, Count, "Incidents that are open", |s| one(float(s.incidents_open));
    CollectorUp = "collector_up", Gauge, Count, "1 while the collector delivers, in full or in part", collectors;
    ProbeAttached = "probe_attached", Gauge, Count, "1 while the probe is attached", probes;
    Workers = "workers_replaced", Counter, Count, "Workers that panicked and were replaced",
        |s| one(float(s.workers.replaced));
    Kernel = "kernel_aggregated", Counter, Count, "What the kernel counts instead of sending it", kernel;
    ErrnoBlind = "errno_blind", Counter, Seconds, "Time in which nobody looked for failed system calls",
        |s| one(float(s.errno_blind.total_ms) / 1000.0);
    ErrnoBlindNow = "errno_blind_last_minute", Gauge, Ratio,
        "Share of the last minute in which nobody looked for failed system calls",
        |s| one(s.errno_blind.last_minute);
    Entities = "entities", Gauge, Count, "Entities in the tables", |s| vec![
        labelled(vec![("state", "live".into())], float(s.entities.live)),
        labelled(vec![("state", "gone".into())], float(s.entities.gone))];
    EntitiesEvicted = "entities_evicted", Counter, Count, "Entities forced out by capacity",
        |s| one(float(s.entities.evicted));
    EntityLookups = "entity_lookups", Counter, Count, "Questions about identities to the live system",
        |s| one(float(s.entities.lookups));
    EntityFailures = "entity_lookup_failures", Counter, Count, "Questions that the live system could not answer",
        |s| one(float(s.entities.lookup_failures));
    LateJoins = "entity_late_joins", Counter, Count, "Identities completed after their first event",
        |s| one(float(s.entities.late_joins));
    Connected = "server_connected", Gauge, Count, "1 while the stream to the server is open",
        |s| one(truth(s.egress.connected));
    Connections = "server_connections", Counter, Count, "Connections made to the server",
        |s| one(float(s.egress.connections));
    UnackedBatches = "unacked_batches", Gauge, Count, "Batches kept until the server has stored them",
        |s| one(float(s.egress.unacked_batches));
    Unacked = "unacked", Gauge, Bytes, "Size of the batches kept until the server has stored them",
        |s| one(float(s.egress.unacked_bytes));
    RingFill = "ring_fill_max", Gauge, Ratio, "Highest fill of a bulk ring since the start",
        |s| one(float(s.rings.fill_permille_max) / 1000.0);
    Latency = "batch_latency", Gauge, Seconds, "From an event to its place in a batch, since the start", |s| vec![
        labelled(vec![("quantile", "0.5".into())], s.latency.p50_us / 1e6),
        labelled(vec![("quantile", "0.99".into())], s.latency.p99_us / 1e6)];
    OtlpExported = "otlp_exports", Counter, Count, "Exports of metrics that arrived",
        |s| one(float(s.otlp.exported));
    OtlpFailed = "otlp_export_failures", Counter, Count, "Exports of metrics that did not arrive",
        |s| one(float(s.otlp.failed));
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53, which a million events a second reach in 285 years"
)]
const fn float(count: u64) -> f64 {
    count as f64
}

fn signed(count: i64) -> f64 {
    if count < 0 { -float(count.unsigned_abs()) } else { float(count.unsigned_abs()) }
}

fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn labelled(labels: Vec<(&'static str, String)>, value: f64) -> Sample {
    Sample { labels, value }
}

fn one(value: f64) -> Vec<Sample> {
    vec![labelled(Vec::new(), value)]
}

fn by_source(snapshot: &Snapshot, value: fn(&LedgerRow) -> f64) -> Vec<Sample> {
    let row = |row: &LedgerRow| labelled(vec![("source", row.source.clone())], value(row));
    snapshot.ledger.iter().map(row).collect()
}

/// Every reason, those that never happened included: a rate needs the 0 before the 1.
fn by_reason(
    snapshot: &Snapshot,
    reasons: impl Iterator<Item = &'static str> + Clone,
    of: fn(&LedgerRow) -> &std::collections::BTreeMap<String, u64>,
) -> Vec<Sample> {
    let row = |row: &LedgerRow| {
        let sample = |reason: &str| {
            let labels = vec![("source", row.source.clone()), ("reason", reason.to_owned())];
            labelled(labels, float(of(row).get(reason).copied().unwrap_or(0)))
        };
        reasons.clone().map(sample).collect::<Vec<_>>()
    };
    snapshot.ledger.iter().flat_map(row).collect()
}

fn collectors(snapshot: &Snapshot) -> Vec<Sample> {
    let rows = snapshot.collectors.iter();
    rows.map(|(name, collector)| {
        let up = matches!(collector.health.state, State::Running | State::Degraded);
        labelled(vec![("collector", name.clone())], truth(up))
    })
    .collect()
}

fn probes(snapshot: &Snapshot) -> Vec<Sample> {
    let probes = snapshot.collectors.values().flat_map(|collector| &collector.health.probes);
    let sample = |(name, probe): (&String, &crate::health::ProbeHealth)| {
        labelled(vec![("probe", name.clone())], truth(probe.state == ProbeState::Attached))
    };
    probes.map(sample).collect()
}

fn kernel(snapshot: &Snapshot) -> Vec<Sample> {
    let sample = |(name, count): (&String, &u64)| labelled(vec![("what", name.clone())], float(*count));
    snapshot.kernel.iter().map(sample).collect()
}

/// A snapshot in the text format of Prometheus, version 0.0.4.
#[must_use]
pub fn prometheus(snapshot: &Snapshot) -> String {
    let mut text = String::with_capacity(8 << 10);
    for info in METRICS {
        let name = info.prometheus_name();
        let kind = match info.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", info.help);
        for sample in (info.samples)(snapshot) {
            text.push_str(&name);
            push_labels(&mut text, &sample.labels);
            let _infallible = writeln!(text, " {}", sample.value);
        }
    }
    text
}

fn push_labels(text: &mut String, labels: &[(&'static str, String)]) {
    for (index, (name, value)) in labels.iter().enumerate() {
        text.push_str(if index == 0 { "{" } else { "," });
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _infallible = write!(text, "{name}=\"{escaped}\"");
    }
    if !labels.is_empty() {
        text.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Scenario: the table of metrics.
    /// Guarantees: names are unique, made of the allowed letters, and end as Prometheus wants; help is one sentence.
    #[test]
    fn names_follow_the_conventions() {
        let mut names = BTreeSet::new();
        for info in METRICS {
            let name = info.prometheus_name();
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), info.kind == Kind::Counter, "{name}");
            assert!(!info.help.ends_with('.') && !info.help.contains('\n'), "{name}");
            assert!(names.insert(name), "{} twice", info.name);
        }
    }

    /// Scenario: a snapshot with one loss and a label that needs escaping.
    /// Guarantees: the text has every metric, reasons that never happened as 0, and the label escaped.
    #[test]
    fn text_is_what_prometheus_reads() {
        let mut snapshot = Snapshot { version: "1\"\\\n".into(), ..Snapshot::default() };
        let shed = [("queue_full".to_owned(), 3)].into();
        snapshot.ledger.push(LedgerRow { source: "ebpf".into(), shed, queued: -2, ..LedgerRow::default() });
        let text = prometheus(&snapshot);
        for line in [
            "# TYPE tapio_events_shed_total counter",
            "tapio_events_shed_total{source=\"ebpf\",reason=\"queue_full\"} 3",
            "tapio_events_shed_total{source=\"ebpf\",reason=\"malformed\"} 0",
            "tapio_events_queued{source=\"ebpf\"} -2",
            "tapio_build_info{version=\"1\\\"\\\\\\n\"} 1",
            "tapio_ring_fill_max_ratio 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with('\n'));
    }
}
