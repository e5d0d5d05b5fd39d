//! The book: what is stored of each agent, and the proof that nothing between is missing.
//!
//! Sequence numbers of a producer that counts its events have no gaps where nothing was lost, so
//! `last - first + 1 - events` is the number of lost events.
//!
//! Invariants:
//! - The book changes only when a batch is stored, in the order of the store: written to a segment
//!   and read back with the batches behind it, it is the same book again.
//! - Tallies are bounded: what does not fit is counted as untracked.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::decode::{Columns, Span};
use crate::event::Source;
use crate::proto::Hello;

/// Agents that the book keeps; beyond that the one heard of least lately is forgotten.
pub const AGENTS_MAX: usize = 4096;

/// Producers of one agent that are tallied: two rings a CPU.
const TALLIES_MAX: usize = 4096;

/// Producers of all agents that are tallied.
const ALL_TALLIES_MAX: usize = 1 << 18;

/// 16 bytes that name an agent or a boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id(pub [u8; 16]);

impl Id {
    /// The id with these bytes, if they are 16.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// The id with these 32 hexadecimal digits; dashes are passed over.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|&c| c != '-').collect();
        let plain = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        plain.then(|| u128::from_str_radix(&digits, 16).ok())?.map(|number| Self(number.to_be_bytes()))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which batch of whom, and what is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchMark {
    /// The agent.
    pub agent: Id,
    /// The host's boot.
    pub boot: Id,
    /// The agent's numbering.
    pub epoch: u64,
    /// The batch's number in it.
    pub sequence: u64,
    /// Events in it.
    pub events: u32,
    /// Its bytes on the wire.
    pub bytes: u32,
    /// Unix nanoseconds of its first and last event.
    pub unix_range: (u64, u64),
    /// Bit N for the kind with number N.
    pub kind_set: u128,
    /// Which numbers of which producers.
    pub spans: Vec<Span>,
}

impl BatchMark {
    /// The mark of a checked batch that an agent sent under this identity.
    #[must_use]
    pub fn new(sender: &Sender, sequence: u64, bytes: usize, columns: &Columns<'_>) -> Self {
        Self {
            agent: sender.agent,
            boot: sender.boot,
            epoch: sender.epoch,
            sequence,
            events: u32::try_from(columns.len()).unwrap_or(u32::MAX),
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            unix_range: columns.unix_range(),
            kind_set: columns.kind_set(),
            spans: columns.spans().collect(),
        }
    }
}

/// Who is sending, from its [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// Stable over restarts of the agent.
    pub agent: Id,
    /// The host's boot.
    pub boot: Id,
    /// The agent's numbering of batches.
    pub epoch: u64,
    /// The host's name.
    pub host: Arc<str>,
    /// The agent's version.
    pub version: Arc<str>,
}

/// Longest host name and version kept.
const NAME_CHARS_MAX: usize = 256;

impl Sender {
    /// Reads a greeting; the error says which field is wrong.
    pub(super) fn from_hello(hello: &Hello) -> Result<Self, &'static str> {
        let id = |bytes, what| Id::from_bytes(bytes).ok_or(what);
        let name = |text: &str| text.chars().take(NAME_CHARS_MAX).collect::<String>().into();
        Ok(Self {
            agent: id(&hello.agent_id, "agent_id is not 16 bytes")?,
            boot: id(&hello.boot_id, "boot_id is not 16 bytes")?,
            epoch: hello.epoch,
            host: name(&hello.host_name),
            version: name(&hello.version),
        })
    }
}

/// The sequence numbers of one producer in one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// The smallest number.
    pub first: u64,
    /// The largest number.
    pub last: u64,
    /// Events stored.
    pub events: u64,
}

impl Tally {
    /// Events whose numbers lie between and that were not received.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(1).saturating_sub(self.events)
    }
}

/// What is stored of one agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// The host's name.
    pub host: Arc<str>,
    /// The agent's version.
    pub version: Arc<str>,
    /// The boot of its newest batch.
    pub boot: Id,
    /// The epoch of its newest batch.
    pub epoch: u64,
    /// Every batch of the epoch up to this one is stored.
    pub sequence: u64,
    /// Batches of all epochs.
    pub batches: u64,
    /// Events of all epochs.
    pub events: u64,
    /// Bytes of all epochs.
    pub bytes: u64,
    /// Unix nanoseconds of its newest event.
    pub newest_unix_ns: u64,
    /// By source and producer, this epoch's.
    pub tallies: BTreeMap<(u8, u16), Tally>,
    /// Lost events by source number, of the epochs before.
    pub lost_before: [u64; Source::ALL.len()],
    /// Events whose producer has no tally.
    pub untracked: u64,
}

impl Entry {
    /// Lost events of all epochs, by source number.
    #[must_use]
    pub fn lost(&self) -> [u64; Source::ALL.len()] {
        let mut lost = self.lost_before;
        for (&(source, _), tally) in &self.tallies {
            let counted = Source::from_number(source).is_some_and(Source::is_counted);
            if let Some(sum) = lost.get_mut(usize::from(source)).filter(|_| counted) {
                *sum = sum.saturating_add(tally.lost());
            }
        }
        lost
    }

    fn begin_epoch(&mut self, boot: Id, epoch: u64) {
        // A producer counts from the start again: numbers of two epochs prove nothing about each other.
        self.lost_before = self.lost();
        self.tallies.clear();
        (self.boot, self.epoch, self.sequence) = (boot, epoch, 0);
    }

    /// Counts a span; returns whether it needed a new tally.
    fn tally(&mut self, span: &Span, room: bool) -> bool {
        let events = u64::from(span.events);
        let key = (span.source as u8, span.producer);
        if let Some(tally) = self.tallies.get_mut(&key) {
            tally.first = tally.first.min(span.first);
            tally.last = tally.last.max(span.last);
            tally.events += events;
            return false;
        }
        let fits = room && self.tallies.len() < TALLIES_MAX;
        if fits {
            self.tallies.insert(key, Tally { first: span.first, last: span.last, events });
        } else {
            self.untracked += events;
        }
        fits
    }
}

/// What is stored, by agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    agents: BTreeMap<Id, Entry>,
    /// Tallies of all agents.
    tallies: usize,
}

impl Book {
    /// What is stored of each agent.
    #[must_use]
    pub fn agents(&self) -> &BTreeMap<Id, Entry> {
        &self.agents
    }

    /// Puts an agent in as it was before.
    pub fn insert(&mut self, agent: Id, entry: Entry) {
        self.tallies += entry.tallies.len();
        if let Some(before) = self.agents.insert(agent, entry) {
            self.tallies -= before.tallies.len();
        }
    }

    /// Notes an agent's names and, if it is new, its numbering.
    pub fn note_sender(&mut self, sender: &Sender) {
        let entry = self.entry(sender.agent, sender.boot, sender.epoch);
        entry.host = Arc::clone(&sender.host);
        entry.version = Arc::clone(&sender.version);
    }

    /// Notes a stored batch.
    pub fn note_batch(&mut self, mark: &BatchMark) {
        let mut room = ALL_TALLIES_MAX.saturating_sub(self.tallies);
        let before = room;
        let entry = self.entry(mark.agent, mark.boot, mark.epoch);
        entry.sequence = entry.sequence.max(mark.sequence);
        entry.batches += 1;
        entry.events += u64::from(mark.events);
        entry.bytes += u64::from(mark.bytes);
        entry.newest_unix_ns = entry.newest_unix_ns.max(mark.unix_range.1);
        for span in &mark.spans {
            room -= usize::from(entry.tally(span, room > 0));
        }
        self.tallies += before - room;
    }

    fn entry(&mut self, agent: Id, boot: Id, epoch: u64) -> &mut Entry {
        if self.agents.len() >= AGENTS_MAX && !self.agents.contains_key(&agent) {
            self.forget_one();
        }
        let entry = self.agents.entry(agent).or_insert_with(|| Entry { boot, epoch, ..Entry::default() });
        if entry.epoch < epoch {
            self.tallies -= entry.tallies.len();
            entry.begin_epoch(boot, epoch);
        }
        entry
    }

    fn forget_one(&mut self) {
        let oldest = self.agents.iter().min_by_key(|(_, entry)| entry.newest_unix_ns).map(|(&id, _)| id);
        if let Some(entry) = oldest.and_then(|id| self.agents.remove(&id)) {
            self.tallies -= entry.tallies.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(epoch: u64, sequence: u64, spans: &[(u64, u64, u32)]) -> BatchMark {
        let span = |&(first, last, events)| Span { source: Source::Ebpf, producer: 2, first, last, events };
        BatchMark {
            agent: Id([1; 16]),
            boot: Id([2; 16]),
            epoch,
            sequence,
            events: spans.iter().map(|span| span.2).sum(),
            bytes: 10,
            unix_range: (5, 9),
            kind_set: 2,
            spans: spans.iter().map(span).collect(),
        }
    }

    /// Scenario: batches whose numbers leave gaps, then one that fills a gap, then a new epoch.
    /// Guarantees: the lost events are what the numbers prove, an old epoch's losses stay.
    #[test]
    fn gaps_are_losses() {
        let mut book = Book::default();
        let lost = |book: &Book| book.agents[&Id([1; 16])].lost()[0];
        book.note_batch(&mark(1, 1, &[(10, 19, 10)]));
        assert_eq!(lost(&book), 0);
        book.note_batch(&mark(1, 2, &[(25, 29, 5), (30, 39, 8)]));
        assert_eq!(lost(&book), 7);
        book.note_batch(&mark(1, 3, &[(20, 24, 5)]));
        assert_eq!(lost(&book), 2);
        book.note_batch(&mark(2, 1, &[(0, 0, 1), (4, 4, 1)]));
        assert_eq!(lost(&book), 5);
        let entry = &book.agents[&Id([1; 16])];
        assert_eq!((entry.epoch, entry.sequence, entry.batches, entry.events), (2, 1, 4, 30));
    }

    /// Scenario: more agents than the book keeps.
    /// Guarantees: it stays bounded, and the one heard of least lately is gone.
    #[test]
    fn the_book_is_bounded() {
        let mut book = Book::default();
        let id = |agent: u64| Id(u128::from(agent).to_be_bytes());
        for agent in 0..=AGENTS_MAX as u64 {
            book.note_batch(&BatchMark {
                agent: id(agent),
                unix_range: (0, 1000 - agent % 1000),
                ..mark(1, 1, &[])
            });
        }
        assert_eq!(book.agents.len(), AGENTS_MAX);
        assert!(!book.agents.contains_key(&id(999)));
    }

    /// Scenario: ids as text.
    /// Guarantees: 32 digits, with or without the dashes of a UUID, and nothing else.
    #[test]
    fn ids_are_read_and_written() {
        let id = Id::from_hex("00112233-4455-6677-8899-aabbccddeeff").expect("an id");
        assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
        for bad in ["", "0", "+0112233445566778899aabbccddeeff", "g0112233445566778899aabbccddeeff"] {
            assert_eq!(Id::from_hex(bad), None, "{bad}");
        }
    }
}
