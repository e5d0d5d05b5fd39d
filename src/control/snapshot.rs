//! Everything that `status` shows, at one moment.
//!
//! Invariants:
//! - The names of the fields are those of `status --json`: they may grow, never change.
//! - An older or newer agent can be asked: what one side does not know is left out or has its default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::explain::Incident;
use crate::health::CollectorHealth;
use crate::ledger::LedgerRow;

/// Where snapshots come from.
pub trait Vitals: Send + Sync {
    /// What is the case now. May wait some milliseconds.
    fn snapshot(&self) -> Snapshot;

    /// The newest revision of each incident that is kept, newest first; with an id, those whose own starts with it.
    fn incidents(&self, id: Option<&str>) -> Vec<Incident> {
        let _ = id;
        Vec::new()
    }
}

/// The agent at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// Of the agent.
    pub version: String,
    /// Seconds since its start.
    pub uptime_s: f64,
    /// Events read from all sources.
    pub events_total: u64,
    /// Events that will never arrive, whatever the reason.
    pub events_lost: u64,
    /// Incidents that are open.
    pub incidents_open: u64,
    /// All sums of the ledger agree.
    pub ledger_closed: bool,
    /// By name.
    pub collectors: BTreeMap<String, Collector>,
    /// One row a source.
    pub ledger: Vec<LedgerRow>,
    /// The agent's threads.
    pub workers: Workers,
    /// What the kernel counts instead of sending it, by name.
    pub kernel: BTreeMap<String, u64>,
    /// When nobody looked for failed system calls: what was not seen then proves nothing.
    pub errno_blind: ErrnoBlind,
    /// Who events are about.
    pub entities: Entities,
    /// The way to the server.
    pub egress: Egress,
    /// The rings between kernel and agent.
    pub rings: Rings,
    /// From an event to its place in a batch.
    pub latency: Latency,
    /// Bytes of memory that the agent has.
    pub memory_bytes: u64,
    /// From events to incidents, and where those went.
    pub explain: Explain,
    /// The recordings on this host's disk.
    pub recorder: Recorder,
    /// The agent's own metrics on their way to the OTLP receiver.
    pub otlp: Otlp,
}

/// One collector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collector {
    /// State, reason and probes.
    #[serde(flatten)]
    pub health: CollectorHealth,
    /// Events read.
    #[serde(default)]
    pub events: u64,
}

/// The agent's threads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Workers {
    /// Workers that panicked and were replaced.
    pub replaced: u64,
    /// The last of them and what it said; empty if none did.
    pub last_panic: String,
}

/// When nobody looked for failed system calls, since that would have cost more than it may.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrnoBlind {
    /// Milliseconds since the start.
    pub total_ms: u64,
    /// The share of the last minute, 0 to 1.
    pub last_minute: f64,
}

/// From events to incidents, and where those went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Explain {
    /// Facts that detectors made.
    pub facts: u64,
    /// Facts that the causal engine has now.
    pub facts_kept: u64,
    /// What detectors and causal engine forgot for want of room.
    pub facts_evicted: u64,
    /// Events that detectors did not see, since they came faster than those looked.
    pub events_missed: u64,
    /// Events that came later than detectors look back, and were seen out of their order.
    pub events_too_late: u64,
    /// Revisions of incidents.
    pub revisions: u64,
    /// Revisions that did not fit the queue to the server.
    pub server_dropped: u64,
    /// Revisions that could not be written to `--output`.
    pub file_failed: u64,
    /// Requests that the OTLP receiver took.
    pub otlp_exported: u64,
    /// Attempts that failed.
    pub otlp_failed: u64,
    /// Requests given up because too many waited.
    pub otlp_dropped: u64,
    /// Requests that the receiver refused for good.
    pub otlp_refused: u64,
    /// Why the last attempt failed; empty when it did not.
    pub otlp_last_error: String,
}

/// The recordings on this host's disk: those of `--record` and of the flight recorder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recorder {
    /// Batches written.
    pub written: u64,
    /// Batches that the flight recorder left out since there were too many in a second.
    pub passed_over: u64,
    /// Batches left out since the disk was too slow.
    pub dropped: u64,
    /// Recordings that ended because their disk failed.
    pub failed: u64,
    /// Incidents cut out into files of their own; again and again as they grew.
    pub cuts: u64,
    /// Incidents that were not, since too many were to be at once.
    pub cuts_refused: u64,
}

/// The entity tables of all shards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entities {
    /// In the table and not known to be gone.
    pub live: u64,
    /// In the table and gone.
    pub gone: u64,
    /// Forced out by capacity.
    pub evicted: u64,
    /// Forgotten, gone or silent for long.
    pub expired: u64,
    /// Questions to the live system.
    pub lookups: u64,
    /// Questions that it could not answer.
    pub lookup_failures: u64,
    /// Identities completed after their first event.
    pub late_joins: u64,
}

/// The way to the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Egress {
    /// The server of the settings.
    pub server: String,
    /// A stream is open.
    pub connected: bool,
    /// Why the last attempt failed; empty while connected.
    pub last_error: String,
    /// Why the server does not store now; empty when it does.
    pub stalled_reason: String,
    /// Batches that are not acked.
    pub unacked_batches: u64,
    /// Their bytes.
    pub unacked_bytes: u64,
    /// Connections made.
    pub connections: u64,
}

/// The rings between kernel and agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rings {
    /// Highest fill of a bulk ring since the last look, per mille.
    pub fill_permille: u64,
    /// Highest fill of a bulk ring since the start, per mille.
    pub fill_permille_max: u64,
}

/// From an event to its place in a batch, of a sample of all events.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// Events in the sample.
    pub samples: u64,
    /// Half of them took no longer, microseconds.
    pub p50_us: f64,
    /// 99 of 100 took no longer, microseconds.
    pub p99_us: f64,
}

/// The agent's own metrics on their way to the OTLP receiver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Otlp {
    /// Exports that arrived.
    pub exported: u64,
    /// Exports that did not.
    pub failed: u64,
    /// Why the last one did not; empty if it did.
    pub last_error: String,
}

impl Snapshot {
    /// Collectors that deliver.
    #[must_use]
    pub fn collectors_active(&self) -> usize {
        use crate::health::State;
        let active =
            |collector: &&Collector| matches!(collector.health.state, State::Running | State::Degraded);
        self.collectors.values().filter(active).count()
    }

    /// The line that the log gets every ten seconds. Scripts read its first three numbers.
    #[must_use]
    pub fn status_line(&self) -> String {
        format!(
            "Status: Events={}, Active Collectors={}, Correlation Groups={}, lost={}, ledger={}",
            self.events_total,
            self.collectors_active(),
            self.incidents_open,
            self.events_lost,
            if self.ledger_closed { "closed" } else { "OPEN" },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::State;

    /// Scenario: a snapshot with one running, one degraded and one disabled collector.
    /// Guarantees: the status line has its fixed form; the JSON has its fixed names and reads back as the same.
    #[test]
    fn forms_are_fixed() {
        let collector = |state| Collector { health: CollectorHealth::new(state, ""), events: 5 };
        let collectors =
            [("ebpf", State::Running), ("journald", State::Degraded), ("systemd", State::Disabled)];
        let snapshot = Snapshot {
            events_total: 15_234,
            events_lost: 2,
            ledger_closed: true,
            collectors: collectors.map(|(name, state)| (name.to_owned(), collector(state))).into(),
            ledger: vec![LedgerRow { source: "ebpf".into(), ..LedgerRow::default() }],
            ..Snapshot::default()
        };
        let expected =
            "Status: Events=15234, Active Collectors=2, Correlation Groups=0, lost=2, ledger=closed";
        assert_eq!(snapshot.status_line(), expected);

        let json = serde_json::to_value(&snapshot).expect("serialises");
        for name in ["version", "uptime_s", "events_total", "incidents_open", "ledger_closed"] {
            assert!(json.get(name).is_some(), "{name}");
        }
        assert_eq!(
            json["collectors"]["ebpf"],
            serde_json::json!({"state": "running", "reason": "", "events": 5})
        );
        let row = json["ledger"][0].as_object().expect("a row");
        for name in [
            "source",
            "produced",
            "ring_lost",
            "drained",
            "shed",
            "enriched",
            "acked",
            "spooled",
            "in_flight",
            "dropped",
        ] {
            assert!(row.contains_key(name), "{name}");
        }
        let again: Snapshot = serde_json::from_value(json).expect("reads");
        assert_eq!(again, snapshot);
        let other: Snapshot = serde_json::from_str(r#"{"version":"9","new":1}"#).expect("another version");
        assert_eq!(other, Snapshot { version: "9".into(), ..Snapshot::default() });
    }
}
