//! Where revisions of incidents go: memory for the socket, a file, the server, an OTLP receiver.
//!
//! Invariants:
//! - Nothing here waits for anybody but the disk of the file: what does not fit is counted.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use tokio::sync::mpsc;

use super::incidents::Stats;
use crate::clock;
use crate::egress::batch::Sealed;
use crate::engine::Lane;
use crate::engine::shard::Output;
use crate::explain::{Incident, RuleSet, State};
use crate::proto::{EventBatch, SemanticGroup};
use crate::recording::Cutter;

/// Incidents that are remembered for the socket: closed ones make room first.
const KEPT_MAX: usize = 1000;

/// The incidents that the socket answers with.
#[derive(Debug, Default)]
pub struct Incidents(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    newest: BTreeMap<String, Incident>,
    stats: Stats,
    counts: Counts,
    /// Rules that are to be in force from the thread's next look on.
    rules: Option<Arc<RuleSet>>,
}

/// What became of revisions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Revisions made.
    pub revisions: u64,
    /// Given up on the way to the server, since its queue was full.
    pub server_dropped: u64,
    /// Given up on the way to the OTLP receiver, since its queue was full.
    pub otlp_dropped: u64,
    /// Not written to the file.
    pub file_failed: u64,
}

impl Incidents {
    /// The newest revision of every incident that is kept, the newest incident first.
    #[must_use]
    pub fn all(&self) -> Vec<Incident> {
        let mut all: Vec<Incident> = self.locked().newest.values().cloned().collect();
        all.sort_by(|a, b| (&b.started_at, &b.id).cmp(&(&a.started_at, &a.id)));
        all
    }

    /// The incidents whose id starts with these digits.
    #[must_use]
    pub fn find(&self, id: &str) -> Vec<Incident> {
        let kept = self.locked();
        let from = kept.newest.range(id.to_owned()..);
        from.take_while(|(found, _)| found.starts_with(id)).map(|(_, incident)| incident.clone()).collect()
    }

    /// Incidents that are open.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.locked().newest.values().filter(|incident| incident.state == State::Open).count() as u64
    }

    /// Puts other rules in force, within a second.
    pub fn set_rules(&self, rules: Arc<RuleSet>) {
        self.locked().rules = Some(rules);
    }

    /// What the thread counts.
    #[must_use]
    pub fn stats(&self) -> (Stats, Counts) {
        let kept = self.locked();
        (kept.stats, kept.counts)
    }

    fn locked(&self) -> MutexGuard<'_, Kept> {
        // Each critical section puts whole values in.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, incident: Incident) {
        let mut kept = self.locked();
        kept.newest.insert(incident.id.clone(), incident);
        if kept.newest.len() > KEPT_MAX {
            let oldest = |closed: bool| {
                let candidates = kept.newest.values().filter(|one| !closed || one.state != State::Open);
                candidates.min_by(|a, b| a.updated_at.cmp(&b.updated_at)).map(|one| one.id.clone())
            };
            if let Some(id) = oldest(true).or_else(|| oldest(false)) {
                kept.newest.remove(&id);
            }
        }
    }
}

/// Why `--output` cannot be used. Stop the start: it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("cannot write incidents to {path}: {source}; choose an --output where this user may write")]
pub struct OutputError {
    path: String,
    source: std::io::Error,
}

/// The ways out.
pub(super) struct Outputs {
    incidents: Arc<Incidents>,
    file: Option<Box<dyn Write + Send>>,
    server: Output,
    otlp: Option<mpsc::Sender<SemanticGroup>>,
    cutter: Option<Cutter>,
    counts: Counts,
}

impl std::fmt::Debug for Outputs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Outputs").finish_non_exhaustive()
    }
}

/// Opens the file of `--output`, to append; `-` is the standard output.
///
/// # Errors
/// [`OutputError`].
pub(super) fn open(path: &Path) -> Result<Box<dyn Write + Send>, OutputError> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdout()));
    }
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file = file.map_err(|source| OutputError { path: path.display().to_string(), source })?;
    Ok(Box::new(file))
}

impl Outputs {
    /// The ways out: memory and the server always, a file and an OTLP receiver where they are given. What `cutter` cuts
    /// out is named in the incident.
    #[must_use]
    pub(super) fn new(
        incidents: Arc<Incidents>,
        server: Output,
        file: Option<Box<dyn Write + Send>>,
        otlp: Option<mpsc::Sender<SemanticGroup>>,
        cutter: Option<Cutter>,
    ) -> Self {
        Self { incidents, file, server, otlp, cutter, counts: Counts::default() }
    }

    /// Sends a revision everywhere. It is about what was from `since_ns` on, since boot.
    pub(super) fn publish(&mut self, mut incident: Incident, since_ns: u64) {
        self.counts.revisions += 1;
        if let Some(cutter) = self.cutter.as_ref().filter(|_| incident.state != State::Forecast) {
            incident.recording = Some(cutter.path(&incident.id).display().to_string());
            if incident.state == State::Open {
                cutter.cut(&incident.id, since_ns);
            }
        }
        let group = SemanticGroup::from(&incident);
        self.write(&group.json);
        if let Some(otlp) = &self.otlp
            && otlp.try_send(group.clone()).is_err()
        {
            self.counts.otlp_dropped += 1;
        }
        self.send(group);
        self.incidents.keep(incident);
        self.incidents.locked().counts = self.counts;
    }

    /// The rules that are to be in force from now on, if others were.
    pub(super) fn new_rules(&mut self) -> Option<Arc<RuleSet>> {
        self.incidents.locked().rules.take()
    }

    /// Keeps what is counted, for `status`.
    pub(super) fn note(&mut self, stats: Stats) {
        self.incidents.locked().stats = stats;
    }

    fn write(&mut self, json: &str) {
        let Some(file) = &mut self.file else { return };
        // One write, so that lines of two agents do not mix.
        let line = format!("{json}\n");
        if let Err(error) = file.write_all(line.as_bytes()).and_then(|()| file.flush()) {
            if self.counts.file_failed == 0 {
                tracing::error!(
                    "an incident could not be written to --output: {error}; further ones are counted"
                );
            }
            self.counts.file_failed += 1;
        }
    }

    fn send(&mut self, group: SemanticGroup) {
        let batch = EventBatch {
            base_time_ns: clock::boot_ns(),
            boot_unix_ns: clock::boot_unix_ns(),
            groups: vec![group],
            ..EventBatch::default()
        };
        let bytes = batch.encoded_len();
        let none = [0; crate::event::Source::ALL.len()];
        let sealed = Sealed { batch, counts: none, odd: none, bytes, urgent: true };
        if self.server.lanes[Lane::Urgent as usize].push(sealed).is_err() {
            self.counts.server_dropped += 1;
        }
        self.server.wake.notify_one();
    }
}
