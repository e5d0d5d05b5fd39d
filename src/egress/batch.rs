//! Columns of events: filled an event at a time, sealed into the wire's batch.
//!
//! The columns are byte vectors of little-endian numbers, which is what the wire carries
//! (`bpf/build.rs`), so sealing moves them and encodes nothing.
//!
//! Invariants:
//! - All columns of a builder describe the same events: [`BatchBuilder::push`] adds to all or to none.
//! - A batch is complete: its entities, runs and strings need no other batch.

use bytes::Bytes;

use crate::entity::{EntityRef, EntityTable};
use crate::event::{COARSE_TIME, Event, Header, STRETCH_ODD, Source};
use crate::proto::{EventBatch, Run};

/// Events in a batch at most.
pub const BATCH_EVENTS_MAX: usize = 8192;

/// Slot and text bytes in a batch at most; with the fixed columns a batch stays below 2 MiB.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// How far before the first event's time the base is, in units of time: events of several CPUs are not in order.
const BASE_SLACK: u64 = 1_000_000_000;

/// The unit of time in a batch that starts with an event of [`COARSE_TIME`]: it spans an hour instead of seconds.
const COARSE_UNIT_NS: u32 = 1000;

/// Bytes of the fixed columns an event takes on the wire at most.
const FIXED_BYTES: usize = 17;

/// A finished batch on its way to egress.
#[derive(Debug)]
pub struct Sealed {
    /// The batch; its sequence number is still 0.
    pub batch: EventBatch,
    /// Events, by source number.
    pub counts: [u32; Source::ALL.len()],
    /// Those of them in odd stretches.
    pub odd: [u32; Source::ALL.len()],
    /// Its size on the wire, about.
    pub bytes: usize,
    /// Holds events that must not be displaced by others.
    pub urgent: bool,
}

impl Sealed {
    /// Events in it.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.counts.iter().map(|&count| u64::from(count)).sum()
    }
}

/// Why an event did not go in. Seal the batch and push again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the batch cannot take this event: seal it first")]
pub struct SealFirst;

/// Extends the 32-bit counters of producers to numbers that are unique within a boot.
///
/// Counters start anew with every start of the agent, so they are added to a base that grows with time faster
/// than any counter: an event id never names two events.
#[derive(Debug)]
pub struct Sequences {
    base: u64,
    last: Vec<u64>,
}

impl Sequences {
    /// The base of an agent that starts now: milliseconds since boot, each worth 2^24 events of one producer.
    #[must_use]
    pub fn base_at(boot_ns: u64) -> u64 {
        (boot_ns / 1_000_000) << 24
    }

    /// Nothing seen yet.
    #[must_use]
    pub fn new(base: u64) -> Self {
        Self { base, last: Vec::new() }
    }

    /// The full number of an event, whose counter is within 2^31 of the last one of its producer.
    #[inline]
    pub fn extend(&mut self, source: u8, producer: u16, low: u32) -> u64 {
        let index = usize::from(source) << 16 | usize::from(producer);
        if index >= self.last.len() {
            self.last.resize(index + 1, 0);
        }
        let last = &mut self.last[index];
        #[expect(clippy::cast_possible_truncation, reason = "the low half is what is compared")]
        let ahead = low.wrapping_sub(*last as u32).cast_signed();
        *last = last.saturating_add_signed(i64::from(ahead));
        self.base.saturating_add(*last)
    }
}

#[derive(Debug, Default)]
struct Columns {
    time_delta: Vec<u8>,
    kind: Vec<u8>,
    entity: Vec<u8>,
    pid: Vec<u8>,
    sequence_delta: Vec<u8>,
    slot: Vec<u8>,
}

impl Columns {
    fn with_capacity(events: usize, slot_bytes: usize) -> Self {
        Self {
            time_delta: Vec::with_capacity(events * 4),
            kind: Vec::with_capacity(events),
            entity: Vec::with_capacity(events * 4),
            pid: Vec::with_capacity(events * 4),
            sequence_delta: Vec::with_capacity(events * 4),
            slot: Vec::with_capacity(slot_bytes),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct OpenRun {
    source: u8,
    producer: u16,
    first: u64,
    count: u32,
}

/// Where an entity is in the open batch.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    generation: u32,
    version: u32,
    index: u32,
}

/// An open batch.
#[derive(Debug)]
pub struct BatchBuilder {
    shard: u32,
    urgent: bool,
    columns: Columns,
    base_ns: u64,
    unit_ns: u32,
    run: Option<OpenRun>,
    consecutive: bool,
    counts: [u32; Source::ALL.len()],
    odd: [u32; Source::ALL.len()],
    batch: EventBatch,
    text_bytes: usize,
    places: Vec<Place>,
    generation: u32,
    /// The entity of the event before, which is most often that of the next.
    last_entity: Option<(EntityRef, u32, u32)>,
}

impl BatchBuilder {
    /// An empty batch of one shard.
    #[must_use]
    pub fn new(shard: u32, urgent: bool) -> Self {
        Self {
            shard,
            urgent,
            columns: Columns::default(),
            base_ns: 0,
            unit_ns: 1,
            run: None,
            consecutive: true,
            counts: [0; Source::ALL.len()],
            odd: [0; Source::ALL.len()],
            batch: EventBatch::default(),
            text_bytes: 0,
            places: Vec::new(),
            generation: 1,
            last_entity: None,
        }
    }

    /// The shard that fills it.
    #[must_use]
    pub fn shard(&self) -> u32 {
        self.shard
    }

    /// Whether its events must not be displaced by others.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Events in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.columns.kind.len()
    }

    /// Whether it has no event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.columns.kind.is_empty()
    }

    /// Adds an event of the entity `entity` whose full sequence number is `sequence`.
    ///
    /// # Errors
    /// [`SealFirst`] when the batch is full or the event's time is too far from its base; nothing was added.
    #[inline]
    pub fn push(
        &mut self,
        event: &Event<'_>,
        sequence: u64,
        entity: EntityRef,
        entities: &EntityTable,
    ) -> Result<(), SealFirst> {
        let header = event.header();
        let coarse = header.flags & COARSE_TIME != 0;
        if self.is_empty() {
            self.unit_ns = if coarse { COARSE_UNIT_NS } else { 1 };
            self.base_ns = header.time_ns.wrapping_sub(BASE_SLACK * u64::from(self.unit_ns));
        }
        let full =
            self.len() >= BATCH_EVENTS_MAX || self.columns.slot.len() + self.text_bytes > BATCH_BYTES_MAX;
        let mut time_delta = header.time_ns.wrapping_sub(self.base_ns);
        if self.unit_ns != 1 {
            time_delta /= u64::from(self.unit_ns);
        }
        let time_delta = u32::try_from(time_delta).map_err(|_| SealFirst)?;
        if full || self.unit_ns != 1 && !coarse {
            return Err(SealFirst);
        }
        let place = self.place(entity, entities);
        let sequence_delta = self.advance_run(header, sequence);
        self.columns.time_delta.extend_from_slice(&time_delta.to_le_bytes());
        #[expect(clippy::cast_possible_truncation, reason = "kinds stay below 128: event.rs asserts it")]
        self.columns.kind.push(header.kind as u8);
        self.columns.entity.extend_from_slice(&place.to_le_bytes());
        self.columns.pid.extend_from_slice(&header.tgid.to_le_bytes());
        self.columns.sequence_delta.extend_from_slice(&sequence_delta.to_le_bytes());
        self.columns.slot.extend_from_slice(zerocopy::IntoBytes::as_bytes(event.slots()));
        if event.has_text() {
            self.push_text(event.text());
        }
        self.counts[usize::from(header.source)] += 1;
        self.odd[usize::from(header.source)] += u32::from(header.flags & STRETCH_ODD != 0);
        Ok(())
    }

    /// The index of an entity in this batch.
    #[inline]
    fn place(&mut self, entity: EntityRef, entities: &EntityTable) -> u32 {
        let version = entities.version(entity);
        match self.last_entity {
            Some((last, last_version, index)) if last == entity && last_version == version => index,
            _ => self.place_slow(entity, version, entities),
        }
    }

    fn place_slow(&mut self, entity: EntityRef, version: u32, entities: &EntityTable) -> u32 {
        let slot = entity as usize;
        if slot >= self.places.len() {
            self.places.resize(slot + 1, Place::default());
        }
        let known = self.places[slot];
        let index = if known.generation == self.generation && known.version == version {
            known.index
        } else {
            let index = u32::try_from(self.batch.entities.len()).unwrap_or(u32::MAX);
            self.batch.entities.push(entities.get(entity).to_proto());
            self.places[slot] = Place { generation: self.generation, version, index };
            index
        };
        self.last_entity = Some((entity, version, index));
        index
    }

    /// Continues the open run or starts one; returns the event's number relative to the run's first.
    #[inline]
    fn advance_run(&mut self, header: &Header, sequence: u64) -> u32 {
        if let Some(run) = &mut self.run
            && run.producer == header.producer
            && run.source == header.source
            && let Ok(delta) = u32::try_from(sequence.wrapping_sub(run.first))
        {
            self.consecutive &= delta == run.count;
            run.count += 1;
            return delta;
        }
        self.close_run();
        let run = OpenRun { source: header.source, producer: header.producer, first: sequence, count: 1 };
        self.run = Some(run);
        0
    }

    fn close_run(&mut self) {
        if let Some(run) = self.run.take() {
            self.batch.runs.push(Run {
                source: i32::from(run.source),
                producer: u32::from(run.producer),
                first_sequence: run.first,
                count: run.count,
            });
        }
    }

    fn push_text(&mut self, text: &[u8]) {
        // A text repeats mostly at once (the same program exec'd, one cgroup's life): one look back is enough.
        let text = String::from_utf8_lossy(text);
        if self.batch.strings.last().is_none_or(|last| *last != text) {
            self.text_bytes += text.len();
            self.batch.strings.push(text.into_owned());
        }
        self.batch.text.push(u32::try_from(self.batch.strings.len() - 1).unwrap_or(u32::MAX));
    }

    /// Takes the batch out and starts an empty one; `None` when there is no event.
    pub fn seal(&mut self, boot_unix_ns: u64) -> Option<Sealed> {
        if self.is_empty() {
            return None;
        }
        self.close_run();
        let events = self.len();
        // The next batch is most often like this one: reserve for it at once.
        let next = Columns::with_capacity(
            events + events / 8,
            self.columns.slot.len() + self.columns.slot.len() / 8,
        );
        let columns = std::mem::replace(&mut self.columns, next);
        let mut batch = std::mem::take(&mut self.batch);
        batch.base_time_ns = self.base_ns;
        batch.boot_unix_ns = boot_unix_ns;
        batch.time_unit_ns = self.unit_ns;
        batch.shard = self.shard;
        batch.time_delta = Bytes::from(columns.time_delta);
        batch.kind = Bytes::from(columns.kind);
        batch.entity = Bytes::from(columns.entity);
        batch.pid = Bytes::from(columns.pid);
        if !self.consecutive {
            batch.sequence_delta = Bytes::from(columns.sequence_delta);
        }
        batch.slot = Bytes::from(columns.slot);
        let bytes = events * FIXED_BYTES + batch.slot.len() + self.text_bytes + batch.entities.len() * 128;
        let counts = std::mem::take(&mut self.counts);
        let odd = std::mem::take(&mut self.odd);
        self.text_bytes = 0;
        self.consecutive = true;
        self.last_entity = None;
        self.generation = self.generation.wrapping_add(1).max(1);
        Some(Sealed { batch, counts, odd, bytes, urgent: self.urgent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entity::CgroupLookup;
    use crate::event::{EventBuilder, Kind};

    /// Scenario: counters that wrap, come out of order, and belong to two producers.
    /// Guarantees: numbers go on behind the wrap and back before it, each producer by itself.
    #[test]
    fn counters_become_numbers() {
        let base = Sequences::base_at(5_000_000_000);
        let mut sequences = Sequences::new(base);
        let mut number = |producer, low| sequences.extend(0, producer, low) - base;
        assert_eq!([number(0, 0), number(0, 1), number(3, 0)], [0, 1, 0]);
        for step in 1..=4_u64 {
            let low = u32::try_from(step << 30 & 0xffff_ffff).expect("masked");
            assert_eq!(number(0, low), step << 30);
        }
        assert_eq!(
            [number(0, 2), number(0, u32::MAX), number(0, 3)],
            [1 << 32 | 2, (1 << 32) - 1, 1 << 32 | 3]
        );
        // A restart a millisecond later starts beyond what 16 events a nanosecond would have reached.
        assert!(Sequences::base_at(5_001_000_000) > base + 16_000_000);
    }

    struct NoHost;

    impl CgroupLookup for NoHost {
        fn path(&mut self, _cgroup: u64) -> Option<String> {
            None
        }

        fn invocation_id(&mut self, _path: &str) -> Option<[u8; 16]> {
            None
        }
    }

    /// Scenario: entries of half an hour from before the boot, then one of now; and one of now, then an old one.
    /// Guarantees: the old ones share a batch whose times are right; old and new do not.
    #[test]
    fn old_events_share_a_batch() {
        let entities = EntityTable::new([7; 16], 4, Box::new(NoHost));
        let mut events = EventBuilder::default();
        let mut batch = BatchBuilder::new(0, false);
        let mut push = |batch: &mut BatchBuilder, time_ns: i64, flags| {
            events.start(Source::Journald, Kind::LogRecord, time_ns.cast_unsigned()).flags = flags;
            batch.push(&Event::parse(events.finish()).expect("an event"), 1, 0, &entities)
        };
        let minute = 60_000_000_000;
        for minutes in 0..30 {
            assert_eq!(push(&mut batch, (minutes - 1000) * minute, COARSE_TIME), Ok(()));
        }
        assert_eq!(push(&mut batch, 5, 0), Err(SealFirst));
        let sealed = batch.seal(1 << 60).expect("events").batch;
        let deltas = sealed.time_delta.as_chunks::<4>().0.iter().map(|delta| u32::from_le_bytes(*delta));
        let times = deltas.map(|delta| sealed.base_time_ns.cast_signed() + i64::from(delta) * 1000);
        assert_eq!(times.collect::<Vec<_>>(), (0..30).map(|at| (at - 1000) * minute).collect::<Vec<_>>());
        assert_eq!(push(&mut batch, 5, 0), Ok(()));
        assert_eq!(push(&mut batch, -minute, COARSE_TIME), Err(SealFirst));
        assert_eq!(push(&mut batch, 7, STRETCH_ODD), Ok(()));
        let sealed = batch.seal(1 << 60).expect("events");
        assert_eq!((sealed.batch.time_unit_ns, sealed.counts[1], sealed.odd[1]), (1, 2, 1));
    }
}
