//! Tests of the check: what it accepts, what it says of the rest, and that nothing makes it panic.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn fixed32(numbers: impl IntoIterator<Item = u32>) -> Bytes {
    numbers.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<_>>().into()
}

/// Three events of two kinds from two producers, one with a text.
fn batch() -> EventBatch {
    let slots = 2 + 3 + 2;
    EventBatch {
        sequence: 1,
        base_time_ns: 1000,
        boot_unix_ns: 1_000_000,
        strings: vec!["/bin/true".into()],
        entities: vec![
            Entity { key: 7, name: "a".into(), ..Entity::default() },
            Entity { key: 8, trace_id: vec![5; 16].into(), ..Entity::default() },
        ],
        runs: vec![
            Run { source: 0, producer: 3, first_sequence: 100, count: 2 },
            Run { source: 0, producer: 5, first_sequence: 7, count: 1 },
        ],
        time_delta: fixed32([30, 10, 20]),
        kind: vec![Kind::Load as u8, Kind::ProcessExec as u8, Kind::Load as u8].into(),
        entity: fixed32([0, 1, 0]),
        pid: fixed32([41, 42, 43]),
        sequence_delta: Bytes::new(),
        slot: (0..slots).flat_map(u64::to_le_bytes).collect::<Vec<_>>().into(),
        text: vec![0],
        shard: 0,
        groups: Vec::new(),
        time_unit_ns: 0,
    }
}

/// Scenario: a batch of mixed kinds, with and without sequence deltas.
/// Guarantees: every event has its own slots, text, entity and number; the spans are those of the runs.
#[test]
fn events_are_read_from_columns() {
    let mut batch = batch();
    let columns = Columns::check(&batch).expect("consistent");
    assert_eq!(columns.unix_range(), (1_001_010, 1_001_030));
    assert_eq!(columns.kind_set(), 1 << Kind::Load as u16 | 1 << Kind::ProcessExec as u16);
    let rows: Vec<Row<'_>> = columns.events().collect();
    assert_eq!(rows.iter().map(|row| row.sequence).collect::<Vec<_>>(), [100, 101, 7]);
    assert_eq!(rows.iter().map(|row| row.slots[0].get()).collect::<Vec<_>>(), [0, 2, 5]);
    assert_eq!(rows.iter().map(|row| row.text).collect::<Vec<_>>(), [None, Some("/bin/true"), None]);
    assert_eq!(rows.iter().map(|row| row.entity.key).collect::<Vec<_>>(), [7, 8, 7]);
    assert_eq!((rows[1].unix_ns, rows[1].pid, rows[2].producer), (1_001_010, 42, 5));

    batch.sequence_delta = fixed32([9, 2, 4]);
    let columns = Columns::check(&batch).expect("consistent");
    assert_eq!(columns.events().map(|row| row.sequence).collect::<Vec<_>>(), [109, 102, 11]);
    let spans: Vec<_> =
        columns.spans().map(|span| (span.producer, span.first, span.last, span.events)).collect();
    assert_eq!(spans, [(3, 102, 109, 2), (5, 11, 11, 1)]);
}

/// Scenario: an empty batch.
/// Guarantees: it is one, with no events.
#[test]
fn an_empty_batch_is_a_batch() {
    let batch = EventBatch::default();
    let columns = Columns::check(&batch).expect("consistent");
    assert!(columns.is_empty());
    assert_eq!(columns.events().count(), 0);
}

/// Scenario: one thing wrong at a time.
/// Guarantees: each is refused with a message that names it.
#[test]
fn inconsistent_batches_are_refused() {
    type Break = fn(&mut EventBatch);
    let cases: [(Break, &str); 17] = [
        (|b| b.time_delta.truncate(11), "column time_delta has 11 bytes, 12 are needed for 3 events"),
        (|b| b.entity = fixed32([0; 4]), "column entity has 16 bytes, 12 are needed"),
        (|b| b.pid.truncate(0), "column pid has 0 bytes"),
        (|b| b.sequence_delta = fixed32([0]), "column sequence_delta has 4 bytes"),
        (|b| b.slot.truncate(48), "column slot has 48 bytes, 56 are needed"),
        (|b| b.kind = vec![19, 2, 0].into(), "event kind 0 is not known"),
        (|b| b.kind = vec![19, 2, 120].into(), "event kind 120 is not known to this server"),
        (|b| b.kind = vec![19, 2, 255].into(), "event kind 255 is not known"),
        (|b| b.text.clear(), "0 text indexes for 1 events with a text"),
        (|b| b.text[0] = 1, "text index 1 is outside its table of 1"),
        (|b| b.entity = fixed32([0, 2, 0]), "entity index 2 is outside its table of 2"),
        (|b| b.runs[0].count = 3, "the runs count 4 events, the batch has 3"),
        (|b| b.runs[1].count = 0, "run 1 has a count that is out of range"),
        (|b| b.runs[1].source = 9, "run 1 has a source that is out of range"),
        (|b| b.runs[0].producer = 1 << 16, "run 0 has a producer that is out of range"),
        (|b| b.runs[0].first_sequence = u64::MAX, "run 0 has a first_sequence that is out of range"),
        (|b| b.entities[1].trace_id.truncate(3), "entity 1 has a trace id of 3 bytes"),
    ];
    for (number, (break_it, message)) in cases.iter().enumerate() {
        let mut batch = batch();
        break_it(&mut batch);
        let error = Columns::check(&batch).map(|_| ()).expect_err(message).to_string();
        assert!(error.starts_with(message), "case {number}: {error}");
    }
    for base in [i64::MAX, -1_000_001] {
        let out_of_range =
            EventBatch { base_time_ns: base.cast_unsigned(), boot_unix_ns: 1_000_000, ..batch() };
        let late = EventBatch { boot_unix_ns: u64::MAX - 5, ..out_of_range.clone() };
        let wrong = if base < 0 { out_of_range } else { late };
        assert_eq!(Columns::check(&wrong).map(|_| ()), Err(BatchError::Time));
    }
}

/// Scenario: a batch of events from before the boot, told in microseconds.
/// Guarantees: each has its wall-clock time.
#[test]
fn times_before_the_boot_are_read() {
    let old = EventBatch { base_time_ns: (-900_000_i64).cast_unsigned(), time_unit_ns: 1000, ..batch() };
    let columns = Columns::check(&old).expect("consistent");
    assert_eq!(columns.unix_range(), (110_000, 130_000));
    assert_eq!(columns.events().map(|row| row.unix_ns).collect::<Vec<_>>(), [130_000, 110_000, 120_000]);
}

proptest! {
    /// Scenario: the encoding of a valid batch with bytes changed, cut out and put in, decoded as the server does.
    /// Guarantees: no panic; whatever passes the check yields exactly its events.
    #[test]
    fn mutated_batches_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..12)
    ) {
        let mut bytes = prost::Message::encode_to_vec(&batch());
        for (at, value, how) in changes {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = value,
                1 => bytes.insert(at, value),
                _ => drop(bytes.remove(at)),
            }
        }
        if let Ok(read) = crate::server::message::RawBatch::decode(bytes.into())
            && let Ok(columns) = Columns::check(&read.batch)
        {
            prop_assert_eq!(columns.events().count(), columns.len());
            let spanned: u64 = columns.spans().map(|span| u64::from(span.events)).sum();
            prop_assert_eq!(spanned, columns.len() as u64);
        }
    }

    /// Scenario: columns of any lengths and values, chosen apart from each other.
    /// Guarantees: no panic; whatever passes the check yields exactly its events.
    #[test]
    fn unrelated_columns_never_panic(
        kinds in prop::collection::vec(0..=21_u8, 0..6),
        numbers in prop::collection::vec(0..4_u32, 0..6),
        slots in 0..20_usize,
        runs in prop::collection::vec((0..5_i32, 0..3_u32, any::<u64>(), 0..4_u32), 0..3),
        texts in prop::collection::vec(0..3_u32, 0..3),
        times in any::<(u64, u64)>(),
    ) {
        let mut batch = EventBatch {
            base_time_ns: times.0,
            boot_unix_ns: times.1,
            time_unit_ns: numbers.first().copied().unwrap_or(0) * 500,
            kind: kinds.into(),
            time_delta: fixed32(numbers.iter().copied()),
            entity: fixed32(numbers.iter().copied()),
            pid: fixed32(numbers.iter().copied()),
            slot: vec![1; slots * 8].into(),
            text: texts,
            ..batch()
        };
        let run = |(source, producer, first_sequence, count)| Run { source, producer, first_sequence, count };
        batch.runs = runs.into_iter().map(run).collect();
        if let Ok(columns) = Columns::check(&batch) {
            prop_assert_eq!(columns.events().count(), columns.len());
        }
    }
}
