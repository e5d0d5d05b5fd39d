//! From what there is to say to events in the port.
//!
//! Invariants:
//! - States, jobs, removals and the manager's own states travel in one lane, so that their order is kept.
//! - The time of a change is the manager's; of what was merely found it is the time of the finding.
//! - A full queue is waited for, until somebody asks for the end: what is left then is counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::output::{Job, Output, UnitState};
use super::unit::RELATIONS;
use crate::clock;
use crate::collector::Stop;
use crate::engine::Lane;
use crate::engine::port::Port;
use crate::event::{EventBuilder, Kind, Source, TEXT_BYTES_MAX, fields};
use crate::ledger::{Ledger, Shed};

/// Bytes of unit names in one part of a relation at most: the rest of the text is short.
const PART_BYTES_MAX: usize = TEXT_BYTES_MAX - 512;

/// How long to wait for a shard that has no room.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// The way out.
#[derive(Debug)]
pub(super) struct Emitter {
    port: Port,
    builder: EventBuilder,
    ledger: Arc<Ledger>,
    stop: Stop,
}

impl Emitter {
    pub(super) fn new(port: Port, ledger: Arc<Ledger>, stop: Stop) -> Self {
        Self { port, builder: EventBuilder::default(), ledger, stop }
    }

    /// Sends everything. A panic in here leaves in `outputs` what was not sent.
    pub(super) async fn send(&mut self, outputs: &mut std::collections::VecDeque<Output>) {
        while let Some(output) = outputs.pop_front() {
            match output {
                Output::Relation { unit, relation, units } => {
                    let chunks = chunks(&units);
                    for (part, chunk) in chunks.iter().enumerate() {
                        let name = RELATIONS.get(relation).copied().unwrap_or_default();
                        let header =
                            self.builder.start(Source::Systemd, Kind::UnitRelations, clock::boot_ns());
                        header.tgid = 0;
                        self.builder.slot(part as u64).slot(chunks.len() as u64);
                        self.builder.owner(fields::UNIT, &unit).field(fields::RELATION, name);
                        self.builder.field(fields::UNITS, &chunk.join(" "));
                        self.put(Lane::Bulk).await;
                    }
                }
                other => {
                    let lane = build(&mut self.builder, &other);
                    self.put(lane).await;
                }
            }
        }
        self.port.publish();
    }

    async fn put(&mut self, lane: Lane) {
        while self.port.send(&mut self.builder, lane).is_err() {
            if self.stop.is_set() {
                self.port.shed(1);
                return;
            }
            self.port.publish();
            tokio::time::sleep(FULL_PAUSE).await;
        }
    }

    /// Counts signals that were lost before they could be read.
    pub(super) fn lost(&mut self, signals: u64) {
        self.port.lost(signals);
    }

    /// Counts events that a panic took.
    pub(super) fn shed(&mut self, events: u64) {
        self.count(Shed::WorkerPanic, events);
        self.port.publish();
    }

    /// Counts messages that could not be read.
    pub(super) fn malformed(&mut self, messages: u64) {
        self.count(Shed::Malformed, messages);
    }

    fn count(&self, reason: Shed, count: u64) {
        let row = self.ledger.source(Source::Systemd);
        row.produced.fetch_add(count, Ordering::Relaxed);
        row.drained.fetch_add(count, Ordering::Relaxed);
        row.shed(reason, count);
    }
}

/// The names in groups that fit a text each, at least one group.
fn chunks(units: &[Box<str>]) -> Vec<&[Box<str>]> {
    let mut chunks = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (index, unit) in units.iter().enumerate() {
        if bytes + unit.len() + 1 > PART_BYTES_MAX && index > first {
            chunks.push(&units[first..index]);
            (first, bytes) = (index, 0);
        }
        bytes += unit.len() + 1;
    }
    chunks.push(&units[first..]);
    chunks
}

/// Builds the event of anything but a relation.
fn build(builder: &mut EventBuilder, output: &Output) -> Lane {
    match output {
        Output::State(state) => build_state(builder, state),
        Output::Job(job) => build_job(builder, job),
        Output::Removed { unit, invocation } => {
            builder.start(Source::Systemd, Kind::UnitRemoved, clock::boot_ns());
            builder.id(*invocation).owner(fields::UNIT, unit);
        }
        Output::Limits { unit, limits } => {
            builder.start(Source::Systemd, Kind::UnitLimits, clock::boot_ns());
            for number in limits.numbers {
                builder.slot(number);
            }
            builder.owner(fields::UNIT, unit);
            builder.field(fields::RESTART, &limits.restart).field(fields::OOM_POLICY, &limits.oom_policy);
            builder.field(fields::FRAGMENT_PATH, &limits.fragment_path);
            builder.field(fields::CGROUP, &limits.cgroup);
            return Lane::Bulk;
        }
        Output::Relation { .. } => return Lane::Bulk,
        Output::Manager(manager) => {
            builder.start(Source::Systemd, Kind::ManagerState, clock::boot_ns());
            builder.slot(manager.units).slot(manager.failed);
            builder.field(fields::STATE, manager.state).field(fields::CAUSE, manager.cause);
        }
    }
    Lane::Urgent
}

fn build_state(builder: &mut EventBuilder, state: &UnitState) {
    let is_change = !state.active_before.is_empty() || !state.found;
    // A unit that was only loaded never changed.
    let time_ns = if is_change && state.changed_us > 0 {
        clock::boot_ns_of(state.changed_us)
    } else {
        clock::boot_ns()
    };
    builder.start(Source::Systemd, Kind::UnitState, time_ns);
    builder.slot(state.changed_us).id(state.invocation).slot(u64::from(state.main_pid));
    builder.slot(u64::try_from(state.exec_code).unwrap_or(0));
    builder.slot(i64::from(state.exec_status).cast_unsigned());
    builder.slot(u64::from(state.restarts)).slot(u64::from(state.found));
    builder.owner(fields::UNIT, &state.unit);
    builder.field(fields::LOAD_STATE, &state.load);
    builder.field(fields::ACTIVE_STATE_BEFORE, &state.active_before);
    builder.field(fields::ACTIVE_STATE, &state.active).field(fields::SUB_STATE, &state.sub);
    builder.field(fields::RESULT, &state.result).field(fields::RESULT_BEFORE, &state.result_before);
    builder.field(fields::STATUS_TEXT, &state.status_text);
}

fn build_job(builder: &mut EventBuilder, job: &Job) {
    builder.start(Source::Systemd, Kind::UnitJob, job.at_ns);
    builder.slot(u64::from(job.id)).slot(u64::from(job.result.is_some()));
    builder.owner(fields::UNIT, &job.unit);
    if job.invocation != [0; 16] {
        builder.field(fields::INVOCATION_ID, &format!("{:032x}", u128::from_be_bytes(job.invocation)));
    }
    builder.field(fields::JOB_TYPE, &job.kind);
    builder.field(fields::JOB_RESULT, job.result.as_deref().unwrap_or_default());
}
