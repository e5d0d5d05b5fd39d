//! Finds the oldest events that a filter lets through.
//!
//! An entity that had no name yet in an early batch counts as what a later batch within the time range says of
//! the same key and boot. So a query by name or trace first finds out which keys are meant.
//!
//! Invariants:
//! - At most `limit` events are held, and at most [`KEYS_MAX`] keys.
//! - Damage in a segment is passed over and counted there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::filter::Filter;
use super::groups::{Group, GroupFilter};
use super::hit::{Hit, Place};
use crate::proto::{Entity, SemanticGroup};
use crate::server::book::{BatchMark, Id};
use crate::server::decode::{Columns, GROUPS_BIT, Row};
use crate::server::message::RawBatch;
use crate::server::store::bloom::{Bloom, key_hash, names};
use crate::server::store::catalogue::{Catalogue, Segment};
use crate::server::store::reader::Step;

/// Keys that a name or trace id can stand for.
const KEYS_MAX: usize = 65_536;

/// Keys that are looked up in filters; more, and every segment is read.
const KEYS_LOOKED_UP_MAX: usize = 256;

/// Incidents, or revisions of them, that one query holds.
const GROUPS_MAX: usize = 10_000;

/// The events that were found, in order.
pub(in crate::server) type Found = BTreeMap<Place, Hit>;

/// Why a query has no answer. Ask again.
#[derive(Debug, thiserror::Error)]
pub(in crate::server) enum ScanError {
    /// The disk.
    #[error("cannot read the store: {0}")]
    Read(#[from] io::Error),
    /// Nobody waits for the answer.
    #[error("given up")]
    Cancelled,
}

/// An entity within a boot.
type Key = (Id, u64);

/// A scan in progress.
struct Scan<'query> {
    filter: &'query Filter,
    segments: Vec<Arc<Segment>>,
    cancelled: &'query AtomicBool,
    /// Entities that have the wanted name or trace id in some batch of the range.
    keys: HashSet<Key>,
    found: Found,
}

/// Finds events. Blocks on the disk; ends early when `cancelled` becomes true.
pub(in crate::server) fn run(
    catalogue: &Catalogue,
    filter: &Filter,
    cancelled: &AtomicBool,
) -> Result<Found, ScanError> {
    let mut segments = catalogue.segments();
    segments.sort_by_key(|segment| segment.summary().unix_first);
    let mut scan = Scan { filter, segments, cancelled, keys: HashSet::new(), found: Found::new() };
    let hashes = filter.hashes();
    if !hashes.is_empty() {
        scan.find_keys(&hashes)?;
    }
    scan.find_events(&hashes)?;
    let mut seen = HashSet::new();
    scan.found.retain(|_, hit| hit.repeatable_id().is_none_or(|id| seen.insert(id)));
    scan.name_the_unnamed()?;
    Ok(scan.found)
}

/// Finds incidents, newest first. Blocks as [`run`] does.
pub(in crate::server) fn groups(
    catalogue: &Catalogue,
    wanted: &GroupFilter,
    cancelled: &AtomicBool,
) -> Result<Vec<Group>, ScanError> {
    let filter = Filter { from: wanted.from, to: wanted.to, ..Filter::default() };
    let segments = catalogue.segments();
    let scan = Scan { filter: &filter, segments, cancelled, keys: HashSet::new(), found: Found::new() };
    scan.find_groups(wanted)
}

/// Newest first by start, then by revision; RFC 3339 sorts as text.
fn order(group: &SemanticGroup) -> (&str, &str, u64) {
    (&group.started_at, &group.id, group.revision)
}

/// Whether an entity is not known yet in this batch.
fn is_unnamed(entity: &Entity) -> bool {
    entity.name.is_empty()
}

impl Scan<'_> {
    /// Reads the batches of the time range, in segments and of marks that are wanted.
    fn visit(
        &self,
        wanted: impl Fn(Option<&Bloom>) -> bool,
        mut skip: impl FnMut(&BatchMark) -> bool,
        mut visit: impl FnMut(&BatchMark, &Columns<'_>),
    ) -> Result<(), ScanError> {
        let needs_bloom = !wanted(Some(&Bloom::default()));
        for segment in &self.segments {
            let summary = segment.summary();
            let bounds = BatchMark {
                unix_range: (summary.unix_first, summary.unix_last),
                kind_set: summary.kind_set,
                ..BatchMark::default()
            };
            if summary.batches == 0 || !self.in_range(&bounds) || skip(&bounds) {
                continue;
            }
            let bloom = if needs_bloom { segment.bloom() } else { None };
            if wanted(bloom.as_ref()) {
                let mut corrupt = 0;
                let visited = self.visit_segment(segment, &mut corrupt, &mut skip, &mut visit);
                if let Err(ScanError::Read(error)) = &visited {
                    // A part of the disk that cannot be read is damage like any other.
                    tracing::warn!("a segment is not read to its end: {error}");
                    corrupt += 1;
                } else {
                    visited?;
                }
                segment.note_corrupt(corrupt);
            }
        }
        Ok(())
    }

    fn visit_segment(
        &self,
        segment: &Segment,
        corrupt: &mut u64,
        skip: &mut impl FnMut(&BatchMark) -> bool,
        visit: &mut impl FnMut(&BatchMark, &Columns<'_>),
    ) -> Result<(), ScanError> {
        let Some(mut reader) = segment.reader()? else { return Ok(()) };
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(ScanError::Cancelled);
            }
            let frame = match reader.next()? {
                Step::End => return Ok(()),
                Step::Hole(_) => {
                    *corrupt += 1;
                    continue;
                }
                Step::Frame(frame) => frame,
            };
            let wanted = |mark: &BatchMark| self.is_from_agent(mark) && self.in_range(mark) && !skip(mark);
            let Some(mark) = frame.batch_mark().filter(wanted) else { continue };
            let Some(body) = reader.body(&frame)? else {
                *corrupt += 1;
                continue;
            };
            // A batch of a newer version cannot be read here.
            if let Ok(read) = RawBatch::decode(body.into())
                && let Ok(columns) = Columns::check(&read.batch)
            {
                visit(&mark, &columns);
            }
        }
    }

    /// The newest revision of each incident that `wanted` lets through, or all its revisions.
    fn find_groups(&self, wanted: &GroupFilter) -> Result<Vec<Group>, ScanError> {
        let mut found: BTreeMap<(String, u64), Group> = BTreeMap::new();
        let skip = |mark: &BatchMark| mark.kind_set & GROUPS_BIT == 0;
        self.visit(
            |_| true,
            skip,
            |mark, columns| {
                for group in columns.groups().iter().filter(|group| wanted.is_about(group)) {
                    let revision = if wanted.revisions { group.revision } else { 0 };
                    let place = (group.id.clone(), revision);
                    let known = found.get(&place).map_or(0, |known| known.group.revision);
                    // An agent that starts again may send a revision again.
                    if group.revision >= known && (found.len() < GROUPS_MAX || known > 0) {
                        found.insert(place, Group { agent: mark.agent, group: group.clone() });
                    }
                }
            },
        )?;
        let mut groups: Vec<Group> =
            found.into_values().filter(|found| wanted.lets_through(&found.group)).collect();
        groups.sort_by(|a, b| order(&b.group).cmp(&order(&a.group)));
        groups.truncate(wanted.limit);
        Ok(groups)
    }

    fn is_from_agent(&self, mark: &BatchMark) -> bool {
        self.filter.agent.is_none_or(|agent| agent == mark.agent)
    }

    fn in_range(&self, mark: &BatchMark) -> bool {
        mark.unix_range.1 >= self.filter.from && mark.unix_range.0 < self.filter.to
    }

    fn find_keys(&mut self, hashes: &[Vec<u64>]) -> Result<(), ScanError> {
        let mut keys = HashSet::new();
        let may_have = |bloom: Option<&Bloom>| bloom.is_none_or(|bloom| any_of_each(bloom, hashes));
        self.visit(
            may_have,
            |_| false,
            |mark, columns| {
                for entity in columns.entities() {
                    if keys.len() < KEYS_MAX && !is_unnamed(entity) && self.is_asked_for(entity) {
                        keys.insert((mark.boot, entity.key));
                    }
                }
            },
        )?;
        self.keys = keys;
        Ok(())
    }

    /// Whether the entity itself has the wanted name and trace id.
    fn is_asked_for(&self, entity: &Entity) -> bool {
        let by_name = self.filter.entity.as_ref().is_none_or(|wanted| {
            wanted.key == Some(entity.key) || names(entity).any(|name| name == wanted.name)
        });
        by_name && self.filter.trace_id.is_none_or(|wanted| *entity.trace_id == wanted)
    }

    fn find_events(&mut self, hashes: &[Vec<u64>]) -> Result<(), ScanError> {
        let mut found = std::mem::take(&mut self.found);
        let keys: Vec<u64> = self.keys.iter().map(|&(_, key)| key_hash(key)).collect();
        let may_have = |bloom: Option<&Bloom>| {
            let Some(bloom) = bloom else { return true };
            keys.len() > KEYS_LOOKED_UP_MAX
                || any_of_each(bloom, hashes)
                || keys.iter().any(|&hash| bloom.may_have(hash))
        };
        let found = std::cell::RefCell::new(&mut found);
        let skip = |mark: &BatchMark| {
            let found = found.borrow();
            let full = found.len() >= self.filter.limit;
            mark.kind_set & self.filter.kind_set == 0
                || full && found.last_key_value().is_some_and(|(last, _)| mark.unix_range.0 > last.unix_ns)
        };
        self.visit(may_have, skip, |mark, columns| self.collect(mark, columns, &mut found.borrow_mut()))?;
        self.found = std::mem::take(found.into_inner());
        Ok(())
    }

    fn collect(&self, mark: &BatchMark, columns: &Columns<'_>, found: &mut Found) {
        let wanted = |entity: &Entity| {
            let any = self.filter.entity.is_none() && self.filter.trace_id.is_none();
            any || self.is_asked_for(entity)
                || is_unnamed(entity) && self.keys.contains(&(mark.boot, entity.key))
        };
        let entities = columns.entities();
        let verdicts: Vec<bool> = entities.iter().map(wanted).collect();
        if !verdicts.contains(&true) {
            return;
        }
        let mut shared: HashMap<u32, Arc<Entity>> = HashMap::new();
        for (index, row) in (0..).zip(columns.events()) {
            let entity = row.entity_index as usize;
            if !verdicts.get(entity).is_some_and(|&wanted| wanted) || !self.lets_through(&row) {
                continue;
            }
            let place = Place {
                unix_ns: row.unix_ns,
                agent: mark.agent,
                epoch: mark.epoch,
                batch: mark.sequence,
                index,
            };
            let full = found.len() >= self.filter.limit;
            if full && found.last_key_value().is_some_and(|(last, _)| place > *last) {
                continue;
            }
            let entity = shared.entry(row.entity_index).or_insert_with(|| Arc::new(row.entity.clone()));
            found.insert(place, Hit::new(&row, mark.boot, Arc::clone(entity)));
            if found.len() > self.filter.limit {
                found.pop_last();
            }
        }
    }

    fn lets_through(&self, row: &Row<'_>) -> bool {
        (self.filter.from..self.filter.to).contains(&row.unix_ns)
            && self.filter.kind_set & (1 << row.info.kind as u16) != 0
    }

    /// Gives found entities without a name the first name that a batch of the range has for them.
    fn name_the_unnamed(&mut self) -> Result<(), ScanError> {
        let unnamed = self.found.values().filter(|hit| is_unnamed(&hit.entity));
        let mut named: HashMap<Key, (u64, Option<Arc<Entity>>)> =
            unnamed.map(|hit| ((hit.boot, hit.entity.key), (u64::MAX, None))).collect();
        if named.is_empty() {
            return Ok(());
        }
        let hashes: Vec<u64> = named.keys().map(|&(_, key)| key_hash(key)).collect();
        let may_have = |bloom: Option<&Bloom>| {
            let Some(bloom) = bloom else { return true };
            hashes.len() > KEYS_LOOKED_UP_MAX || hashes.iter().any(|&hash| bloom.may_have(hash))
        };
        self.visit(
            may_have,
            |_| false,
            |mark, columns| {
                for entity in columns.entities().iter().filter(|entity| !is_unnamed(entity)) {
                    if let Some((at, name)) = named.get_mut(&(mark.boot, entity.key))
                        && mark.unix_range.0 < *at
                    {
                        *at = mark.unix_range.0;
                        *name = Some(Arc::new(entity.clone()));
                    }
                }
            },
        )?;
        for hit in self.found.values_mut().filter(|hit| is_unnamed(&hit.entity)) {
            if let Some((_, Some(entity))) = named.get(&(hit.boot, hit.entity.key)) {
                hit.entity = Arc::clone(entity);
            }
        }
        Ok(())
    }
}

fn any_of_each(bloom: &Bloom, hashes: &[Vec<u64>]) -> bool {
    hashes.iter().all(|any| any.iter().any(|&hash| bloom.may_have(hash)))
}
