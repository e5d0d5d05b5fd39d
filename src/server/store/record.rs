//! The book and an agent's names as bytes.
//!
//! Invariants:
//! - A book that is written and read back is the same book.

use prost::Message;

use crate::event::Source;
use crate::server::book::{Book, Entry, Id, Sender, Tally};

#[derive(Clone, PartialEq, Message)]
struct BookRecord {
    #[prost(message, repeated, tag = "1")]
    agents: Vec<AgentRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct AgentRecord {
    #[prost(bytes = "vec", tag = "1")]
    agent: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    boot: Vec<u8>,
    #[prost(string, tag = "3")]
    host: String,
    #[prost(string, tag = "4")]
    version: String,
    #[prost(uint64, tag = "5")]
    epoch: u64,
    #[prost(uint64, tag = "6")]
    sequence: u64,
    #[prost(uint64, tag = "7")]
    batches: u64,
    #[prost(uint64, tag = "8")]
    events: u64,
    #[prost(uint64, tag = "9")]
    bytes: u64,
    #[prost(uint64, tag = "10")]
    newest_unix_ns: u64,
    #[prost(message, repeated, tag = "11")]
    tallies: Vec<TallyRecord>,
    #[prost(uint64, repeated, tag = "12")]
    lost_before: Vec<u64>,
    #[prost(uint64, tag = "13")]
    untracked: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct TallyRecord {
    #[prost(uint32, tag = "1")]
    source: u32,
    #[prost(uint32, tag = "2")]
    producer: u32,
    #[prost(uint64, tag = "3")]
    first: u64,
    #[prost(uint64, tag = "4")]
    last: u64,
    #[prost(uint64, tag = "5")]
    events: u64,
}

#[derive(Clone, PartialEq, Message)]
struct SenderRecord {
    #[prost(string, tag = "1")]
    host: String,
    #[prost(string, tag = "2")]
    version: String,
}

pub(super) fn encode_book(book: &Book) -> Vec<u8> {
    BookRecord { agents: book.agents().iter().map(|(id, entry)| agent_record(*id, entry)).collect() }
        .encode_to_vec()
}

fn agent_record(id: Id, entry: &Entry) -> AgentRecord {
    let tally = |(&(source, producer), tally): (&(u8, u16), &Tally)| TallyRecord {
        source: source.into(),
        producer: producer.into(),
        first: tally.first,
        last: tally.last,
        events: tally.events,
    };
    AgentRecord {
        agent: id.0.to_vec(),
        boot: entry.boot.0.to_vec(),
        host: entry.host.to_string(),
        version: entry.version.to_string(),
        epoch: entry.epoch,
        sequence: entry.sequence,
        batches: entry.batches,
        events: entry.events,
        bytes: entry.bytes,
        newest_unix_ns: entry.newest_unix_ns,
        tallies: entry.tallies.iter().map(tally).collect(),
        lost_before: entry.lost_before.to_vec(),
        untracked: entry.untracked,
    }
}

/// Reads a book; `None` for bytes that are none.
pub(super) fn decode_book(bytes: &[u8]) -> Option<Book> {
    let record = BookRecord::decode(bytes).ok()?;
    let mut book = Book::default();
    for agent in record.agents {
        book.insert(Id::from_bytes(&agent.agent)?, entry(&agent)?);
    }
    Some(book)
}

fn entry(record: &AgentRecord) -> Option<Entry> {
    let mut entry = Entry {
        host: record.host.as_str().into(),
        version: record.version.as_str().into(),
        boot: Id::from_bytes(&record.boot)?,
        epoch: record.epoch,
        sequence: record.sequence,
        batches: record.batches,
        events: record.events,
        bytes: record.bytes,
        newest_unix_ns: record.newest_unix_ns,
        untracked: record.untracked,
        ..Entry::default()
    };
    for tally in &record.tallies {
        let source =
            u8::try_from(tally.source).ok().filter(|&source| Source::from_number(source).is_some())?;
        let numbers = Tally { first: tally.first, last: tally.last, events: tally.events };
        entry.tallies.insert((source, u16::try_from(tally.producer).ok()?), numbers);
    }
    for (sum, &lost) in entry.lost_before.iter_mut().zip(&record.lost_before) {
        *sum = lost;
    }
    Some(entry)
}

pub(super) fn encode_sender(sender: &Sender) -> Vec<u8> {
    SenderRecord { host: sender.host.to_string(), version: sender.version.to_string() }.encode_to_vec()
}

/// Reads the host's name and the agent's version.
pub(super) fn decode_sender(bytes: &[u8]) -> Option<(String, String)> {
    SenderRecord::decode(bytes).ok().map(|record| (record.host, record.version))
}
