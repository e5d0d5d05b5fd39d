//! A source with a position on the path: an endless log of numbered entries.

use std::sync::Arc;

use super::super::Lane;
use super::super::drain::ShardPort;
use super::super::port::Port;
use crate::collector::stretches::{Advice, Stretches};
use crate::event::{EventBuilder, Kind, Source};
use crate::ledger::Ledger;
use crate::proto::EventBatch;

/// A source with a position: the number of the next entry.
pub(super) struct Journal {
    port: Port,
    pub(super) stretches: Stretches<u64>,
    pub(super) length: u64,
    pub(super) next: u64,
    /// What a restart would start from.
    pub(super) kept: u64,
    holds_back: bool,
    event: EventBuilder,
}

impl Journal {
    pub(super) fn new(ports: Vec<ShardPort>, ledger: &Arc<Ledger>) -> Self {
        Self {
            port: Port::new(Source::Journald, ports, Arc::clone(ledger)),
            stretches: Stretches::new(Source::Journald, Arc::clone(ledger), 0),
            length: 0,
            next: 0,
            kept: 0,
            holds_back: false,
            event: EventBuilder::default(),
        }
    }

    pub(super) fn read(&mut self, entries: u64, now_ns: u64) {
        let until = self.length.min(self.next + entries);
        while self.next < until && !self.holds_back {
            let number = self.next;
            let header = self.event.start(Source::Journald, Kind::LogRecord, now_ns);
            (header.cgroup, header.flags) = (2 + number % 5, self.stretches.flag());
            self.event.slot(number);
            let lane = if number.is_multiple_of(3) { Lane::Urgent } else { Lane::Bulk };
            if self.port.send(&mut self.event, lane).is_err() {
                break;
            }
            self.next += 1;
            self.stretches.moved(1);
        }
        self.port.publish();
        self.holds_back = false;
        match self.stretches.advise(now_ns, || self.next) {
            Advice::ReadOn => {}
            Advice::Keep(position) => self.kept = position,
            Advice::HoldBack => self.holds_back = true,
            Advice::GoBack(position) => self.next = position,
        }
    }
}

/// The numbers of the journal's entries in a batch.
pub(super) fn entries(batch: &EventBatch) -> Vec<u64> {
    let mut deltas = batch
        .sequence_delta
        .chunks(4)
        .map(|delta| u64::from(u32::from_le_bytes(delta.try_into().expect("4"))));
    let mut numbers = Vec::new();
    for run in &batch.runs {
        for index in 0..u64::from(run.count) {
            let number = run.first_sequence + deltas.next().unwrap_or(index);
            if run.source == Source::Journald as i32 {
                numbers.push(number);
            }
        }
    }
    numbers
}
