//! Makes events of entries: a `log_record` of each, a `log_gap` of those that say that others are missing.
//!
//! Invariants:
//! - An entry makes the same event, under the same id, whenever it is read.
//! - What a message says leaves this file only as the settings want it.

use super::journal::Cursor;
use super::meaning::{self, Meaning};
use super::own::Own;
use super::said::{Name, Said};
use super::subject::{self, Owner, Subject};
use super::times::{self, Clocks, Stamp};
use super::{pattern, secrets};
use crate::config::{JournalText, Settings};
use crate::engine::Lane;
use crate::event::{COARSE_TIME, EventBuilder, Kind, Source, TEXT_BYTES_MAX, fields, mix};

/// The producer of what is no entry: gaps that the reader met.
pub(super) const PRODUCER_GAPS: u16 = 0;

/// The priority of entries that have none: informational.
const PRIORITY_DEFAULT: u64 = 6;

/// Entries of this priority and more severe ones are urgent: errors.
const PRIORITY_URGENT: u64 = 3;

/// A message is looked at up to here; a value of another field is cut to this.
const MESSAGE_BYTES_MAX: usize = TEXT_BYTES_MAX + 1024;
const VALUE_BYTES_MAX: usize = 256;

/// A user that is not known.
const UID_UNKNOWN: u64 = u64::MAX;

/// Fields that go on as they are.
const KEPT: &[(Name, &str)] = &[
    (Name::UnitResult, fields::UNIT_RESULT),
    (Name::ExitCode, fields::EXIT_CODE),
    (Name::ExitStatus, fields::EXIT_STATUS),
    (Name::Command, fields::COMMAND),
    (Name::JobId, fields::JOB_ID),
    (Name::JobType, fields::JOB_TYPE),
    (Name::JobResult, fields::JOB_RESULT),
    (Name::NRestarts, fields::N_RESTARTS),
    (Name::CpuUsageNsec, fields::CPU_USAGE_NSEC),
    (Name::Executable, fields::EXECUTABLE),
    (Name::Errno, fields::ERRNO),
    (Name::CoredumpPid, fields::COREDUMP_PID),
    (Name::CoredumpSignal, fields::COREDUMP_SIGNAL),
    (Name::CoredumpSignalLabel, fields::COREDUMP_SIGNAL_NAME),
    (Name::CoredumpExe, fields::COREDUMP_EXE),
    (Name::CoredumpComm, fields::COREDUMP_COMM),
    (Name::CoredumpFilename, fields::COREDUMP_FILENAME),
    (Name::Container, fields::CONTAINER),
    (Name::Image, fields::IMAGE),
];

/// An event that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Made {
    /// Where it goes.
    pub(super) lane: Lane,
    /// Entries that it says are missing; 0 where it does not know how many.
    pub(super) lost: Option<u64>,
    /// It was not read as it happened.
    pub(super) is_old: bool,
}

/// How much of a message is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wishes {
    pub(super) text: JournalText,
    pub(super) mask_secrets: bool,
}

impl From<&Settings> for Wishes {
    fn from(settings: &Settings) -> Self {
        Self { text: settings.journal_text, mask_secrets: settings.journal_mask_secrets }
    }
}

/// What events are made with.
#[derive(Debug)]
pub(super) struct Maker {
    /// The event in the making.
    pub(super) event: EventBuilder,
    /// How the clocks stand.
    pub(super) clocks: Clocks,
    own: Own,
    last_gap: u64,
}

impl Maker {
    /// A maker of this boot's agent.
    pub(super) fn new(boot_id: [u8; 16]) -> Self {
        let (event, own) = (EventBuilder::default(), Own::this(boot_id));
        Self { event, clocks: Clocks::now(boot_id), own, last_gap: 0 }
    }

    /// Makes the event of an entry; none of the agent's own.
    pub(super) fn entry(&mut self, at: &Cursor, said: &Said<'_>, wishes: Wishes) -> Option<Made> {
        if self.own.wrote(said, &at.boot_id) {
            return None;
        }
        let subject = subject::of(said);
        let lost = subject.meaning.and_then(|meaning| missing(meaning, said));
        let stamp = Stamp { boot_id: at.boot_id, monotonic_us: at.monotonic_us, realtime_us: at.realtime_us };
        let time_ns = self.clocks.boot_ns(&stamp, times::lag_us(said, &stamp));
        let is_old = self.clocks.is_old(time_ns);
        let kind = if lost.is_some() { Kind::LogGap } else { Kind::LogRecord };
        let header = self.event.start(Source::Journald, kind, time_ns);
        header.producer = producer(at.seqnum_id);
        if is_old {
            header.flags = COARSE_TIME;
        }
        self.owner(&subject);
        let priority = priority(said);
        self.slots(at, said, &subject, lost);
        self.fields(said, &subject);
        self.message(said, wishes, subject.line.is_some() || is_managers(&subject));
        let failure = subject.line.is_some() || subject.meaning.is_some_and(|meaning| meaning.failure);
        let urgent = lost.is_some() || failure || priority <= PRIORITY_URGENT;
        Some(Made { lane: if urgent { Lane::Urgent } else { Lane::Bulk }, lost, is_old })
    }

    /// Makes the event of a gap that the reader met.
    pub(super) fn gap(&mut self, cause: &str, lost: Option<u64>, file: &str) -> Made {
        // Unique: later than the last one, and than those of an earlier start.
        let now_us = crate::clock::unix_ns() / 1000;
        self.last_gap = now_us.max(self.last_gap + 1);
        let header = self.event.start(Source::Journald, Kind::LogGap, crate::clock::boot_ns());
        header.producer = PRODUCER_GAPS;
        self.event.slot(self.last_gap).slot(lost.unwrap_or(0));
        self.event.field(fields::CAUSE, cause).field(fields::MESSAGE, file);
        Made { lane: Lane::Urgent, lost: Some(lost.unwrap_or(0)), is_old: false }
    }

    fn owner(&mut self, subject: &Subject<'_>) {
        let event = &mut self.event;
        match &subject.owner {
            // The header of an event of the node names nobody else.
            Owner::Node => return,
            Owner::Unit(name, None) => event.owner(fields::UNIT, name),
            Owner::Unit(name, Some(uid)) => event.user_unit(name, *uid),
            Owner::Container(id) => event.owner(fields::CONTAINER_ID, id),
            Owner::Pod(uid) => event.owner(fields::POD_UID, uid),
        };
        event.header().tgid = subject.pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    }

    fn slots(&mut self, at: &Cursor, said: &Said<'_>, subject: &Subject<'_>, lost: Option<u64>) {
        let event = &mut self.event;
        event.slot(at.seqnum);
        if let Some(lost) = lost {
            event.slot(lost);
            return;
        }
        let uid = subject.line.as_ref().and_then(|line| {
            let uid = line.fields.iter().find(|(name, _)| *name == fields::UID)?;
            uid.1.parse().ok()
        });
        let uid = uid.or_else(|| said.number(Name::Uid)).unwrap_or(UID_UNKNOWN);
        event.slot(priority(said));
        event.id(said.id(Name::MessageId).unwrap_or(0).to_be_bytes());
        event.id(subject.invocation.to_be_bytes()).slot(at.realtime_us).slot(uid);
    }

    fn fields(&mut self, said: &Said<'_>, subject: &Subject<'_>) {
        let event = &mut self.event;
        let meaning = subject.meaning.map(|meaning| meaning.name);
        let line = subject.line.as_ref();
        if let Some(meaning) = meaning.or(line.map(|line| line.meaning)) {
            event.field(fields::MEANING, meaning);
        }
        if let Some(cause) = subject.meaning.and_then(cause) {
            event.field(fields::CAUSE, cause);
        }
        if subject.owner == Owner::Node
            && let Some(pid) = subject.pid
        {
            event.field(fields::PID, &pid.to_string());
        }
        for (name, value) in line.map_or(&[][..], |line| &line.fields) {
            if *name != fields::PID {
                event.field(name, cut(value.as_bytes()));
            }
        }
        for (name, field) in
            [(Name::SyslogIdentifier, fields::IDENTIFIER), (Name::Transport, fields::TRANSPORT)]
        {
            event.field(field, cut(said.get(name)));
        }
        if line.is_none() && !is_managers(subject) {
            event.field(fields::COMM, cut(said.get(Name::Comm)));
            event.field(fields::EXE, cut(said.get(Name::Exe)));
        }
        for (name, field) in KEPT {
            event.field(field, cut(said.get(*name)));
        }
        let (trace, span) = trace(said);
        event.field(fields::TRACE_ID, trace).field(fields::SPAN_ID, span);
    }

    /// The message comes last, so that it alone is cut.
    fn message(&mut self, said: &Said<'_>, wishes: Wishes, is_systems: bool) {
        let message = String::from_utf8_lossy(head(said.get(Name::Message), MESSAGE_BYTES_MAX));
        // What the kernel and the manager say has no words of programs in it, and diagnosis needs their own.
        if wishes.text == JournalText::Pattern && !is_systems {
            self.event.field(fields::PATTERN, &pattern::of(&message));
        } else if wishes.mask_secrets {
            self.event.field(fields::MESSAGE, &secrets::mask(&message));
        } else {
            self.event.field(fields::MESSAGE, &message);
        }
    }
}

fn priority(said: &Said<'_>) -> u64 {
    said.number(Name::Priority).filter(|&priority| priority < 8).unwrap_or(PRIORITY_DEFAULT)
}

/// Entries that this one says are missing.
fn missing(meaning: &Meaning, said: &Said<'_>) -> Option<u64> {
    match meaning.id {
        meaning::RATE_LIMITED => Some(said.number(Name::NDropped).unwrap_or_else(|| first_number(said))),
        meaning::KERNEL_MISSED => Some(first_number(said)),
        _ => None,
    }
}

/// `Missed 12 kernel messages`, `Suppressed 12 messages from a.service`.
fn first_number(said: &Said<'_>) -> u64 {
    said.text(Name::Message).split(' ').find_map(|word| word.parse().ok()).unwrap_or(0)
}

fn cause(meaning: &Meaning) -> Option<&'static str> {
    match meaning.id {
        meaning::RATE_LIMITED => Some("rate_limit"),
        meaning::KERNEL_MISSED => Some("kernel_missed"),
        _ => None,
    }
}

fn is_managers(subject: &Subject<'_>) -> bool {
    subject.meaning.is_some_and(|meaning| meaning.by == meaning::By::Manager)
}

/// Stands for the lineage of sequence numbers that an entry has its own from.
fn producer(seqnum_id: [u8; 16]) -> u16 {
    let id = u128::from_be_bytes(seqnum_id);
    #[expect(clippy::cast_possible_truncation, reason = "a hash of the two halves")]
    let hash = mix(mix(id as u64) ^ (id >> 64) as u64) as u16;
    hash.max(PRODUCER_GAPS + 1)
}

/// Trace and span as 32 and 16 hexadecimal digits, from any of the fields that carry them.
fn trace<'entry>(said: &Said<'entry>) -> (&'entry str, &'entry str) {
    let valid = |text: &'entry str, digits| {
        let hex = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        (hex && text.bytes().any(|byte| byte != b'0')).then_some(text)
    };
    let mut parts = said.text(Name::TraceParent).split('-').skip(1);
    let (parent_trace, parent_span) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let traces = [said.text(Name::TraceId), said.text(Name::OtelTraceId), parent_trace];
    let spans = [said.text(Name::SpanId), said.text(Name::OtelSpanId), parent_span];
    let trace = traces.into_iter().find_map(|text| valid(text, 32));
    let span = spans.into_iter().find_map(|text| valid(text, 16)).filter(|_| trace.is_some());
    (trace.unwrap_or_default(), span.unwrap_or_default())
}

/// The start of a value, as text; what is not UTF-8 is no value of the fields here.
fn cut(value: &[u8]) -> &str {
    str::from_utf8(head(value, VALUE_BYTES_MAX)).unwrap_or_default()
}

/// The start of a text, cut between two characters.
fn head(value: &[u8], bytes_max: usize) -> &[u8] {
    let mut end = value.len().min(bytes_max);
    while end > 0 && value.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
        end -= 1;
    }
    value.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests;
