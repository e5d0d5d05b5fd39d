//! Takes snapshots of a running agent from what its rooms share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::agent::{Agent, Counters, Incidents};
use crate::clock;
use crate::config::Settings;
use crate::egress::batch::BATCH_EVENTS_MAX;
use crate::egress::otlp;
use crate::engine::shard::latency_histogram;
use crate::engine::{self, Reports, Shared};
use crate::explain::{Incident, RuleSet};
use crate::health::Health;
use crate::ledger::{self, Bounds, LedgerRow};
use crate::recording::RecorderReport;

use super::snapshot::{
    Collector, Egress, Entities, ErrnoBlind, Explain, Latency, Otlp, Recorder, Rings, Snapshot, Vitals,
    Workers,
};

/// The vitals of an agent. They can be taken after it has stopped, too.
#[derive(Debug)]
pub struct AgentVitals {
    shared: Shared,
    reports: Arc<Reports>,
    counters: Counters,
    started: Instant,
    fill_permille_max: AtomicU64,
    otlp: Arc<Mutex<Otlp>>,
    incidents: Arc<Incidents>,
    export: Arc<Mutex<otlp::Report>>,
    recorder: Option<Arc<RecorderReport>>,
}

impl AgentVitals {
    /// Those of a running agent; `otlp` is written by the exporter of metrics, `export` by that of incidents.
    #[must_use]
    pub fn new(agent: &Agent, otlp: Arc<Mutex<Otlp>>, export: Arc<Mutex<otlp::Report>>) -> Self {
        let (shared, reports, counters) = agent.shared();
        Self {
            shared: shared.clone(),
            reports: Arc::clone(reports),
            counters: counters.clone(),
            started: Instant::now(),
            fill_permille_max: AtomicU64::new(0),
            otlp,
            incidents: Arc::clone(agent.incidents()),
            export,
            recorder: agent.recorder().cloned(),
        }
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        self.shared.live.load_full()
    }

    /// Puts other settings in force.
    pub fn set_settings(&self, settings: Settings) {
        self.shared.live.store(Arc::new(settings));
    }

    /// Puts other rules in force.
    pub fn set_rules(&self, rules: RuleSet) {
        self.incidents.set_rules(Arc::new(rules));
    }

    /// A snapshot of an agent that has stopped: nothing may be under way.
    #[must_use]
    pub fn last_snapshot(&self) -> Snapshot {
        self.take(&Bounds::STOPPED)
    }

    fn take(&self, bounds: &Bounds) -> Snapshot {
        let rows = self.shared.ledger.snapshot(|ledger| self.counters.refresh(ledger));
        let fill = self.reports.fill_permille.swap(0, Ordering::Relaxed);
        let highest = self.fill_permille_max.fetch_max(fill, Ordering::Relaxed).max(fill);
        let (entities, latency) = shards(&self.reports);
        Snapshot {
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: self.started.elapsed().as_secs_f64(),
            events_total: rows.iter().map(|row| row.drained).sum(),
            events_lost: rows.iter().map(LedgerRow::lost).sum(),
            incidents_open: self.incidents.open(),
            ledger_closed: ledger::closed(&rows, bounds),
            collectors: collectors(&self.shared.health, &rows),
            ledger: rows,
            workers: Workers {
                replaced: self.shared.health.workers_replaced.load(Ordering::Relaxed),
                last_panic: self.shared.health.last_panic(),
            },
            kernel: self
                .counters
                .aggregates()
                .into_iter()
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
            errno_blind: errno_blind(&self.counters),
            entities,
            egress: egress(&self.reports, &self.shared.live.load().server),
            rings: Rings { fill_permille: fill, fill_permille_max: highest },
            latency,
            memory_bytes: resident_bytes(),
            explain: self.explain(),
            recorder: self.recorder.as_deref().map_or_else(Recorder::default, recorder),
            otlp: self.otlp.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

impl AgentVitals {
    fn explain(&self) -> Explain {
        let (thread, counts) = self.incidents.stats();
        let export = self.export.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Explain {
            facts: thread.explain.window.inserted,
            facts_kept: thread.explain.facts as u64,
            facts_evicted: thread.explain.window.evicted + thread.detectors_evicted,
            events_missed: thread.missed,
            events_too_late: thread.too_late,
            revisions: counts.revisions,
            server_dropped: counts.server_dropped,
            file_failed: counts.file_failed,
            otlp_exported: export.exported,
            otlp_failed: export.failed,
            otlp_dropped: export.dropped + counts.otlp_dropped,
            otlp_refused: export.refused,
            otlp_last_error: export.last_error,
        }
    }
}

impl Vitals for AgentVitals {
    fn incidents(&self, id: Option<&str>) -> Vec<Incident> {
        id.map_or_else(|| self.incidents.all(), |id| self.incidents.find(id))
    }

    fn snapshot(&self) -> Snapshot {
        self.take(&bounds(&self.shared.live.load(), &self.reports))
    }
}

fn recorder(report: &RecorderReport) -> Recorder {
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    Recorder {
        written: read(&report.written),
        passed_over: read(&report.passed_over),
        dropped: read(&report.dropped),
        failed: read(&report.failed),
        cuts: read(&report.cuts),
        cuts_refused: read(&report.cuts_refused),
    }
}

fn errno_blind(counters: &Counters) -> ErrnoBlind {
    let (blind, now) = (counters.errno_blind(), clock::boot_ns());
    ErrnoBlind {
        total_ms: u64::try_from(blind.total(now).as_millis()).unwrap_or(u64::MAX),
        last_minute: blind.share_of_minute(now),
    }
}

/// What may be under way in an agent with these settings and this many queues.
fn bounds(settings: &Settings, reports: &Reports) -> Bounds {
    // Bulk and urgent queues come in pairs.
    let words =
        reports.queues.iter().map(|(source, lane, _)| engine::queue_words(*source, *lane)).sum::<usize>();
    let open = reports.shards.len() * 2 * BATCH_EVENTS_MAX;
    Bounds::new(settings.ring_bytes, words as u64, open as u64)
}

fn collectors(health: &Health, rows: &[LedgerRow]) -> std::collections::BTreeMap<String, Collector> {
    let events = |name: &str| rows.iter().find(|row| row.source == name).map_or(0, |row| row.drained);
    let row =
        |(name, health): (&'static str, _)| (name.to_owned(), Collector { health, events: events(name) });
    health.collectors().into_iter().map(row).collect()
}

fn shards(reports: &Reports) -> (Entities, Latency) {
    let mut entities = Entities::default();
    let mut histogram = latency_histogram();
    for report in &reports.shards {
        let report = report.lock().unwrap_or_else(PoisonError::into_inner);
        let stats = report.entities;
        entities.live += stats.live;
        entities.gone += stats.gone;
        entities.evicted += stats.evicted;
        entities.expired += stats.expired;
        entities.lookups += stats.lookups;
        entities.lookup_failures += stats.lookup_failures;
        entities.late_joins += stats.late_joins;
        // Same bounds everywhere, so that this cannot fail; a shard left out would show in `samples`.
        let _same_bounds = histogram.add(&report.latency_ns);
    }
    let micros = |quantile: f64| {
        std::time::Duration::from_nanos(histogram.value_at_quantile(quantile)).as_secs_f64() * 1e6
    };
    let samples = histogram.len();
    let latency = if samples == 0 {
        Latency::default()
    } else {
        Latency { samples, p50_us: micros(0.5), p99_us: micros(0.99) }
    };
    (entities, latency)
}

fn egress(reports: &Reports, server: &str) -> Egress {
    let stream = reports.stream.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Egress {
        server: server.to_owned(),
        connected: stream.connected,
        last_error: stream.last_error,
        stalled_reason: stream.stalled_reason,
        unacked_batches: stream.unacked_batches,
        unacked_bytes: stream.unacked_bytes,
        connections: stream.connections,
    }
}

/// Memory that this process has now; 0 where `/proc` does not say.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
