//! How the agent is: the state of each collector, its probes and the workers, as `status` shows it.
//!
//! Written at a low rate by whoever knows; read by the socket, the metrics and the status line.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::event::Source;

/// The state of a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Everything asked for works.
    Running,
    /// It works in part; the reason says which.
    Degraded,
    /// Off, or not possible here.
    Disabled,
    /// It worked and stopped, or was asked for by name and cannot.
    Failed,
}

/// The state of one BPF probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeState {
    /// All its programs are attached.
    Attached,
    /// The kernel lacks what it needs, or it is switched off.
    Missing,
    /// The verifier or the attach call refused it.
    Refused,
}

/// One row of a collector's probes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeHealth {
    /// Its state.
    pub state: ProbeState,
    /// Why, where it is not attached or only in part; else empty.
    pub reason: String,
}

/// One collector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectorHealth {
    /// Its state.
    pub state: State,
    /// Why, where it is not running; else empty.
    pub reason: String,
    /// By probe name; only the ebpf collector has probes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub probes: BTreeMap<String, ProbeHealth>,
}

impl CollectorHealth {
    /// A collector without probes.
    #[must_use]
    pub fn new(state: State, reason: impl Into<String>) -> Self {
        Self { state, reason: reason.into(), probes: BTreeMap::new() }
    }
}

/// The health of the agent.
#[derive(Debug, Default)]
pub struct Health {
    collectors: Mutex<BTreeMap<&'static str, CollectorHealth>>,
    /// Workers that panicked and were replaced.
    pub workers_replaced: AtomicU64,
    last_panic: Mutex<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Each critical section stores one value: a panic in another thread cannot leave half of it.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Health {
    /// Replaces what is known of a collector.
    pub fn set(&self, source: Source, health: CollectorHealth) {
        locked(&self.collectors).insert(source.name(), health);
    }

    /// What is known of every collector, by name.
    #[must_use]
    pub fn collectors(&self) -> BTreeMap<&'static str, CollectorHealth> {
        locked(&self.collectors).clone()
    }

    /// Counts a replaced worker.
    pub fn worker_replaced(&self, thread: &str, message: &str) {
        self.workers_replaced.fetch_add(1, Ordering::Relaxed);
        *locked(&self.last_panic) = format!("{thread}: {message}");
    }

    /// The last worker that panicked and what it said; empty if none did.
    #[must_use]
    pub fn last_panic(&self) -> String {
        locked(&self.last_panic).clone()
    }
}
