//! Requests as they arrive: which message it is, and whether decoding it is worth its memory.
//!
//! A message of empty entities is two bytes an entity on the wire and hundreds in memory. So the
//! fields are counted before anything is decoded.
//!
//! Invariants:
//! - A batch's columns share the received bytes, and those bytes are kept as they came for the store.
//! - Decoding takes at most a small multiple of the message's own size in memory.

use bytes::Bytes;
use prost::Message as _;

use crate::proto::{EventBatch, Hello, LedgerReport};

/// Largest request.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;

/// Most strings, entities and runs in a batch, each.
const ENTRIES_MAX: usize = 65_536;

/// Most revisions of incidents in a batch.
const GROUPS_MAX: usize = 256;

/// Largest Hello and largest ledger report.
const SMALL_BYTES_MAX: usize = 64 << 10;

/// A request.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every request is a batch")]
pub enum Request {
    /// Who is sending.
    Hello(Hello),
    /// Events.
    Batch(RawBatch),
    /// The agent's counters.
    Ledger(LedgerReport),
}

/// A batch, its columns not checked yet.
#[derive(Debug, Clone)]
pub struct RawBatch {
    /// As received, for the store.
    pub raw: Bytes,
    /// Decoded; its columns borrow from `raw`.
    pub batch: EventBatch,
}

/// Why a request cannot be read. Stop: sending the same bytes again has the same end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not protobuf, or not of these messages.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// Protobuf, but not of these types.
    #[error("malformed request: {0}")]
    Decode(#[from] prost::DecodeError),
    /// Larger than any message of its kind is.
    #[error("{what}: {have}, at most {max}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        have: usize,
        /// How much there may be.
        max: usize,
    },
}

/// Splits the next field off: its number and, where it is length-delimited, its bytes.
fn next_field(bytes: &mut Bytes) -> Result<(usize, Option<Bytes>), RequestError> {
    let cut = RequestError::Malformed("it ends within a field");
    let key = prost::decode_length_delimiter(&mut *bytes)?;
    let skip = match key & 7 {
        0 => {
            let varint = bytes.iter().take(10).position(|byte| byte & 0x80 == 0);
            varint.ok_or_else(|| cut.clone())? + 1
        }
        1 => 8,
        2 => {
            let len = prost::decode_length_delimiter(&mut *bytes)?;
            if len > bytes.len() {
                return Err(cut);
            }
            return Ok((key >> 3, Some(bytes.split_to(len))));
        }
        5 => 4,
        _ => return Err(RequestError::Malformed("it has a field of unknown wire type")),
    };
    if skip > bytes.len() {
        return Err(cut);
    }
    drop(bytes.split_to(skip));
    Ok((key >> 3, None))
}

fn bounded(what: &'static str, have: usize, max: usize) -> Result<(), RequestError> {
    if have > max { Err(RequestError::TooLarge { what, have, max }) } else { Ok(()) }
}

impl Request {
    /// Reads the one message of a request.
    ///
    /// # Errors
    /// [`RequestError`] for anything else.
    pub fn decode(mut bytes: Bytes) -> Result<Self, RequestError> {
        bounded("bytes in a request", bytes.len(), REQUEST_BYTES_MAX)?;
        let mut message = None;
        while !bytes.is_empty() {
            let (number, body) = next_field(&mut bytes)?;
            if !(1..=3).contains(&number) {
                continue;
            }
            let body = body.ok_or(RequestError::Malformed("its message is a number"))?;
            if message.replace((number, body)).is_some() {
                return Err(RequestError::Malformed("it has more than one message"));
            }
        }
        let (number, body) = message.ok_or(RequestError::Malformed(
            "it has no message that this server knows; if the agent is newer, update tapio-server first",
        ))?;
        if number == 2 {
            return Ok(Self::Batch(RawBatch::decode(body)?));
        }
        bounded("bytes in a message that is not a batch", body.len(), SMALL_BYTES_MAX)?;
        if number == 1 {
            Ok(Self::Hello(Hello::decode(body)?))
        } else {
            Ok(Self::Ledger(LedgerReport::decode(body)?))
        }
    }
}

impl RawBatch {
    /// Reads an encoded `EventBatch`.
    ///
    /// # Errors
    /// [`RequestError`] when it is not one or has too many entries.
    pub fn decode(raw: Bytes) -> Result<Self, RequestError> {
        let mut rest = raw.clone();
        let (mut strings, mut entities, mut runs, mut groups) = (0, 0, 0, 0);
        while !rest.is_empty() {
            match next_field(&mut rest)?.0 {
                4 => strings += 1,
                5 => entities += 1,
                6 => runs += 1,
                15 => groups += 1,
                _ => {}
            }
        }
        bounded("strings in a batch", strings, ENTRIES_MAX)?;
        bounded("entities in a batch", entities, ENTRIES_MAX)?;
        bounded("runs in a batch", runs, ENTRIES_MAX)?;
        bounded("incidents in a batch", groups, GROUPS_MAX)?;
        let batch = EventBatch::decode(raw.clone())?;
        Ok(Self { raw, batch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::stream_events_request::Message;
    use crate::proto::{Entity, StreamEventsRequest};

    fn encoded(message: Message) -> Bytes {
        StreamEventsRequest { message: Some(message) }.encode_to_vec().into()
    }

    /// Scenario: each of the three messages, encoded by the generated code.
    /// Guarantees: each is read back; a batch keeps its own bytes and its columns lie within them.
    #[test]
    fn messages_are_read() {
        let hello = Hello { epoch: 7, ..Hello::default() };
        assert!(
            matches!(Request::decode(encoded(Message::Hello(hello.clone()))), Ok(Request::Hello(h)) if h == hello)
        );
        let report = LedgerReport { time_ns: 3, rows: Vec::new() };
        assert!(
            matches!(Request::decode(encoded(Message::Ledger(report))), Ok(Request::Ledger(r)) if r.time_ns == 3)
        );
        let batch = EventBatch { sequence: 9, kind: vec![19; 300].into(), ..EventBatch::default() };
        let Ok(Request::Batch(read)) = Request::decode(encoded(Message::Batch(batch.clone()))) else {
            panic!("a batch")
        };
        assert_eq!(read.batch, batch);
        assert_eq!(read.raw, batch.encode_to_vec());
        assert!(read.raw.as_ptr_range().contains(&read.batch.kind.as_ptr()));
    }

    /// Scenario: a request cut at every byte, an empty one, two messages in one, a batch of a million empty entities.
    /// Guarantees: none is read, none is a panic; the million entities are counted, not made.
    #[test]
    fn other_bytes_are_errors() {
        let whole =
            encoded(Message::Batch(EventBatch { sequence: 9, base_time_ns: 1, ..EventBatch::default() }));
        for end in 0..whole.len() {
            assert!(Request::decode(whole.slice(..end)).is_err(), "cut at {end}");
        }
        let twice = Bytes::from([whole.clone(), whole].concat());
        assert_eq!(
            Request::decode(twice).unwrap_err(),
            RequestError::Malformed("it has more than one message")
        );
        let batch = EventBatch { entities: vec![Entity::default(); 1_000_000], ..EventBatch::default() };
        let error = RawBatch::decode(batch.encode_to_vec().into()).unwrap_err();
        assert_eq!(error.to_string(), "entities in a batch: 1000000, at most 65536");
    }
}
