//! tapio-server: takes batches in, stores them, acks them, answers queries.
//!
//! `codec` keeps requests as bytes, `message` reads them, `decode` checks the columns, `ingest` serves a stream,
//! `agents` knows what each agent may send next, `store` keeps batches, `book` what is in the store,
//! `query` finds it again, `http` is how people ask.
//!
//! Invariants:
//! - An ack means that the batch is stored: with the segment store, on the disk.
//! - Whatever arrives, memory is bounded: requests, streams, agents and queues have limits.

pub mod agents;
pub mod book;
mod codec;
mod connections;
pub mod counters;
pub mod decode;
mod http;
pub mod ingest;
pub mod message;
pub mod options;
mod query;
pub mod serve;
pub mod store;
pub mod tls;

pub use codec::CollectorService;
