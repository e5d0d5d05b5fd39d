//! The columns of a batch: checked once, then read without any further check.
//!
//! Invariants:
//! - [`Columns::check`] never panics, whatever the bytes are, and copies no column.
//! - Behind a successful check every event has all its values: iterating yields exactly `len` events.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::event::{KINDS, Kind, KindInfo, Source};
use crate::proto::{Entity, EventBatch, Run, SemanticGroup};

/// Why a batch is not one. Stop: sending the same bytes again has the same end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// A column is shorter or longer than the events need.
    #[error("column {column} has {have} bytes, {need} are needed for {events} events")]
    Column {
        /// Its name in the proto file.
        column: &'static str,
        /// Bytes it has.
        have: usize,
        /// Bytes it must have.
        need: usize,
        /// Events in the batch.
        events: usize,
    },
    /// A kind that this build does not know: how many slots it has is not known either.
    #[error("event kind {0} is not known to this server; if the agent is newer, update tapio-server first")]
    UnknownKind(u8),
    /// The number of texts is not that of the events that have one.
    #[error("{have} text indexes for {need} events with a text")]
    Texts {
        /// Indexes there are.
        have: usize,
        /// Indexes that the kinds need.
        need: usize,
    },
    /// An index points behind its table.
    #[error("{table} index {index} is outside its table of {len}")]
    Index {
        /// `entity` or `text`.
        table: &'static str,
        /// The largest index.
        index: u32,
        /// Entries in the table.
        len: usize,
    },
    /// The runs do not cover the events exactly.
    #[error("the runs count {have} events, the batch has {need}")]
    Runs {
        /// Events that the runs count.
        have: u64,
        /// Events in the batch.
        need: usize,
    },
    /// A run without events, of an unknown source, or with numbers out of range.
    #[error("run {index} has a {what} that is out of range")]
    Run {
        /// Which run.
        index: usize,
        /// The field.
        what: &'static str,
    },
    /// An entity's trace id is neither absent nor 16 bytes.
    #[error("entity {index} has a trace id of {len} bytes, not 16")]
    TraceId {
        /// Which entity.
        index: usize,
        /// Bytes it has.
        len: usize,
    },
    /// An event's time does not fit the 64 bits of a wall clock.
    #[error("base_time_ns plus boot_unix_ns is before the year 1970 or beyond 2554")]
    Time,
}

/// Set in [`Columns::kind_set`] when there are revisions of incidents: no kind has the number 0.
pub const GROUPS_BIT: u128 = 1;

/// The columns of a checked batch.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'batch> {
    batch: &'batch EventBatch,
    kinds: &'batch [u8],
    time_delta: &'batch [U32],
    entity: &'batch [U32],
    pid: &'batch [U32],
    sequence_delta: &'batch [U32],
    slots: &'batch [U64],
    kind_set: u128,
    base_unix_ns: u64,
    unit_ns: u64,
    unix_range: (u64, u64),
}

/// What the kinds of a batch ask of its other columns.
struct Census {
    kind_set: u128,
    slot_words: usize,
    texts: usize,
}

impl Census {
    fn of(kinds: &[u8]) -> Result<Self, BatchError> {
        // Equal kinds mostly follow each other: four tables, so that an addition need not wait for the one before.
        let mut tables = [[0_u32; 256]; 4];
        let [a, b, c, d] = &mut tables;
        let (fours, rest) = kinds.as_chunks::<4>();
        for &[first, second, third, fourth] in fours {
            a[usize::from(first)] += 1;
            b[usize::from(second)] += 1;
            c[usize::from(third)] += 1;
            d[usize::from(fourth)] += 1;
        }
        for &kind in rest {
            a[usize::from(kind)] += 1;
        }
        let mut census = Self { kind_set: 0, slot_words: 0, texts: 0 };
        for kind in 0..=u8::MAX {
            let events = tables.iter().map(|table| table[usize::from(kind)] as usize).sum::<usize>();
            if events == 0 {
                continue;
            }
            let info = Kind::info_of(u16::from(kind)).ok_or(BatchError::UnknownKind(kind))?;
            census.kind_set |= 1 << kind;
            census.slot_words += events * info.slot_words();
            census.texts += if info.text.is_some() { events } else { 0 };
        }
        Ok(census)
    }
}

/// A column as numbers, if it has exactly `need`.
fn column<'bytes, T>(
    name: &'static str,
    bytes: &'bytes [u8],
    need: usize,
    events: usize,
) -> Result<&'bytes [T], BatchError>
where
    T: FromBytes + Immutable + KnownLayout + Unaligned,
{
    let bad = || BatchError::Column { column: name, have: bytes.len(), need: need * size_of::<T>(), events };
    let numbers = <[T]>::ref_from_bytes(bytes).map_err(|_| bad())?;
    if numbers.len() == need { Ok(numbers) } else { Err(bad()) }
}

fn largest(numbers: &[U32]) -> Option<u32> {
    numbers.iter().map(|number| number.get()).max()
}

fn check_index(table: &'static str, largest: Option<u32>, len: usize) -> Result<(), BatchError> {
    match largest {
        Some(index) if index as usize >= len => Err(BatchError::Index { table, index, len }),
        _ => Ok(()),
    }
}

fn check_runs(runs: &[Run], events: usize) -> Result<(), BatchError> {
    let mut have = 0;
    for (index, run) in runs.iter().enumerate() {
        let bad = |what| BatchError::Run { index, what };
        if run.count == 0 {
            return Err(bad("count"));
        }
        if source_of(run).is_none() {
            return Err(bad("source"));
        }
        if u16::try_from(run.producer).is_err() {
            return Err(bad("producer"));
        }
        if run.first_sequence > u64::MAX - u64::from(u32::MAX) {
            return Err(bad("first_sequence"));
        }
        have += u64::from(run.count);
    }
    if have == events as u64 { Ok(()) } else { Err(BatchError::Runs { have, need: events }) }
}

fn source_of(run: &Run) -> Option<Source> {
    Source::from_number(u8::try_from(run.source).ok()?)
}

impl<'batch> Columns<'batch> {
    /// Checks that all columns describe the same events.
    ///
    /// # Errors
    /// [`BatchError`] says which do not.
    pub fn check(batch: &'batch EventBatch) -> Result<Self, BatchError> {
        let kinds: &[u8] = &batch.kind;
        let events = kinds.len();
        let census = Census::of(kinds)?;
        let time_delta: &[U32] = column("time_delta", &batch.time_delta, events, events)?;
        let entity: &[U32] = column("entity", &batch.entity, events, events)?;
        let pid = column("pid", &batch.pid, events, events)?;
        let consecutive = batch.sequence_delta.is_empty();
        let deltas = if consecutive { 0 } else { events };
        let sequence_delta = column("sequence_delta", &batch.sequence_delta, deltas, events)?;
        let slots = column("slot", &batch.slot, census.slot_words, events)?;
        if batch.text.len() != census.texts {
            return Err(BatchError::Texts { have: batch.text.len(), need: census.texts });
        }
        check_index("entity", largest(entity), batch.entities.len())?;
        check_index("text", batch.text.iter().copied().max(), batch.strings.len())?;
        check_runs(&batch.runs, events)?;
        for (index, entity) in batch.entities.iter().enumerate() {
            if ![0, 16].contains(&entity.trace_id.len()) {
                return Err(BatchError::TraceId { index, len: entity.trace_id.len() });
            }
        }
        // A base before the boot is negative; one beyond year 292 of the uptime is not from a clock.
        let base = batch.boot_unix_ns.checked_add_signed(batch.base_time_ns.cast_signed());
        let base_unix_ns = base.ok_or(BatchError::Time)?;
        let unit_ns = u64::from(batch.time_unit_ns.max(1));
        let at = |delta: u32| base_unix_ns.checked_add(unit_ns * u64::from(delta)).ok_or(BatchError::Time);
        let last = at(largest(time_delta).unwrap_or(0))?;
        let first = at(time_delta.iter().map(|delta| delta.get()).min().unwrap_or(0))?;
        Ok(Self {
            batch,
            kinds,
            time_delta,
            entity,
            pid,
            sequence_delta,
            slots,
            kind_set: census.kind_set | if batch.groups.is_empty() { 0 } else { GROUPS_BIT },
            base_unix_ns,
            unit_ns,
            unix_range: (first, last),
        })
    }

    /// Events in the batch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The kinds in it: bit N for the kind with number N, and [`GROUPS_BIT`].
    #[must_use]
    pub fn kind_set(&self) -> u128 {
        self.kind_set
    }

    /// Unix nanoseconds of its first and last event.
    #[must_use]
    pub fn unix_range(&self) -> (u64, u64) {
        self.unix_range
    }

    /// What its events are about.
    #[must_use]
    pub fn entities(&self) -> &'batch [Entity] {
        &self.batch.entities
    }

    /// The revisions of incidents in it.
    #[must_use]
    pub fn groups(&self) -> &'batch [SemanticGroup] {
        &self.batch.groups
    }

    /// Which numbers of which producers are in it, a run at a time.
    pub fn spans(&self) -> impl Iterator<Item = Span> + use<'batch> {
        let mut deltas = self.sequence_delta;
        self.batch.runs.iter().filter_map(move |run| {
            let of_run = deltas.split_off(..(run.count as usize).min(deltas.len())).unwrap_or_default();
            let (low, high) = if of_run.is_empty() {
                (0, run.count - 1)
            } else {
                let low = of_run.iter().map(|delta| delta.get()).min().unwrap_or(0);
                (low, largest(of_run).unwrap_or(0))
            };
            Some(Span {
                source: source_of(run)?,
                producer: u16::try_from(run.producer).ok()?,
                first: run.first_sequence + u64::from(low),
                last: run.first_sequence + u64::from(high),
                events: run.count,
            })
        })
    }

    /// The events, in the order of the batch.
    #[must_use]
    pub fn events(&self) -> Events<'batch> {
        Events { columns: *self, index: 0, slot: 0, text: 0, run: 0, in_run: 0 }
    }
}

/// A stretch of one producer's sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The collector.
    pub source: Source,
    /// The ring or reader.
    pub producer: u16,
    /// The smallest number.
    pub first: u64,
    /// The largest number.
    pub last: u64,
    /// Events with numbers in between, at most `last - first + 1` unless the sender counts wrongly.
    pub events: u32,
}

/// One event of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Row<'batch> {
    /// Unix nanoseconds.
    pub unix_ns: u64,
    /// Its kind.
    pub info: &'static KindInfo,
    /// What it is about.
    pub entity: &'batch Entity,
    /// Where that is among the batch's entities.
    pub entity_index: u32,
    /// Thread group id.
    pub pid: u32,
    /// The collector.
    pub source: Source,
    /// The ring or reader.
    pub producer: u16,
    /// The producer's number of the event.
    pub sequence: u64,
    /// As many as the kind's slots have words.
    pub slots: &'batch [U64],
    /// For kinds with a text.
    pub text: Option<&'batch str>,
}

/// Iterates over a checked batch.
#[derive(Debug, Clone)]
pub struct Events<'batch> {
    columns: Columns<'batch>,
    index: usize,
    slot: usize,
    text: usize,
    run: usize,
    in_run: u32,
}

impl<'batch> Iterator for Events<'batch> {
    type Item = Row<'batch>;

    fn next(&mut self) -> Option<Row<'batch>> {
        let columns = &self.columns;
        let batch = columns.batch;
        let index = self.index;
        let info = KINDS.get(usize::from(*columns.kinds.get(index)?).checked_sub(1)?)?;
        let run = batch.runs.get(self.run)?;
        let delta = columns.sequence_delta.get(index).map_or(self.in_run, |delta| delta.get());
        let slot_end = self.slot + info.slot_words();
        let slots = columns.slots.get(self.slot..slot_end)?;
        let text = match info.text {
            None => None,
            Some(_) => Some(batch.strings.get(*batch.text.get(self.text)? as usize)?.as_str()),
        };
        let entity_index = columns.entity.get(index)?.get();
        let row = Row {
            unix_ns: columns.base_unix_ns + columns.unit_ns * u64::from(columns.time_delta.get(index)?.get()),
            info,
            entity: batch.entities.get(entity_index as usize)?,
            entity_index,
            pid: columns.pid.get(index)?.get(),
            source: source_of(run)?,
            producer: u16::try_from(run.producer).ok()?,
            sequence: run.first_sequence + u64::from(delta),
            slots,
            text,
        };
        self.index += 1;
        self.slot = slot_end;
        self.text += usize::from(text.is_some());
        self.in_run += 1;
        if self.in_run == run.count {
            self.run += 1;
            self.in_run = 0;
        }
        Some(row)
    }
}

#[cfg(test)]
mod tests;
