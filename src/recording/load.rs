//! Events of files, in order.
//!
//! Invariants:
//! - Events that no detector looks at are passed over; [`MOMENTS_MAX`] bounds the others.
//! - Sorted by time, then by name; an event that is there twice is there once.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use zerocopy::IntoBytes;

use super::frame::{Damage, FrameError, FrameKind, Frames, is_recording};
use super::lines::{self, LineError};
use crate::detect::{EventId, is_watched};
use crate::entity::{self, Entity, EntityKind, Manager};
use crate::event::{Event, HEADER_WORDS, Header, fields};
use crate::proto::{self, EventBatch, Hello};
use crate::server::decode::{BatchError, Columns, Row};

/// Events kept at most: about a gigabyte.
pub const MOMENTS_MAX: usize = 4 << 20;

/// Why files cannot be replayed. Stop: another attempt has the same end.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be opened or read.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// It is not a recording.
    #[error("{path}: {error}")]
    Frame {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: FrameError,
    },
    /// A batch in it is not one.
    #[error("{path}: batch {number} is damaged in a way that its checksum does not show: {error}")]
    Batch {
        /// Which file.
        path: PathBuf,
        /// Which batch, from 1.
        number: u64,
        /// What is wrong.
        error: BatchError,
    },
    /// A line in it is not an event.
    #[error("{path}:{line}: {error}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        error: LineError,
    },
    /// Too much at once.
    #[error("more than {MOMENTS_MAX} events that matter: replay fewer files at a time")]
    TooMany,
}

/// One event with its owner.
#[derive(Debug, Clone)]
pub struct Moment {
    /// Its name.
    pub id: EventId,
    /// The words of the event.
    pub words: Box<[u64]>,
    /// Whose it is.
    pub owner: Arc<Entity>,
}

impl Moment {
    /// When, `CLOCK_BOOTTIME` nanoseconds.
    #[must_use]
    pub fn time_ns(&self) -> u64 {
        Event::parse(&self.words).map_or(0, |event| event.header().time_ns)
    }
}

/// The events of some files.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    /// The host that recorded.
    pub host: String,
    /// Its boot.
    pub boot_id: [u8; 16],
    /// Wall clock at `CLOCK_BOOTTIME` zero, Unix nanoseconds.
    pub boot_unix_ns: u64,
    /// In order.
    pub moments: Vec<Moment>,
    /// Events that no detector looks at.
    pub passed_over: u64,
    /// What was wrong with the files.
    pub damage: Damage,
}

impl Recording {
    /// Takes in an event.
    ///
    /// # Errors
    /// [`LoadError::TooMany`].
    pub(super) fn push(
        &mut self,
        id: EventId,
        words: Vec<u64>,
        owner: &Arc<Entity>,
    ) -> Result<(), LoadError> {
        let watched = Event::parse(&words).is_ok_and(|event| is_watched(&event));
        if !watched {
            self.passed_over += 1;
            return Ok(());
        }
        if self.moments.len() >= MOMENTS_MAX {
            return Err(LoadError::TooMany);
        }
        self.moments.push(Moment { id, words: words.into(), owner: Arc::clone(owner) });
        Ok(())
    }

    /// Puts the events into order.
    fn sort(&mut self) {
        self.moments.sort_by_cached_key(|moment| (moment.time_ns(), moment.id));
        self.moments.dedup_by_key(|moment| moment.id);
    }
}

/// Reads files, recordings and lines of JSON alike.
///
/// # Errors
/// [`LoadError`] says which file and what is wrong.
pub fn load(paths: &[PathBuf]) -> Result<Recording, LoadError> {
    let mut recording = Recording::default();
    let mut texts = Vec::new();
    for path in paths {
        let failed = |error| LoadError::File { path: path.clone(), error };
        let mut input = BufReader::with_capacity(1 << 20, File::open(path).map_err(failed)?);
        if is_recording(input.fill_buf().map_err(failed)?) {
            frames(path, input, &mut recording)?;
        } else {
            texts.push((path, input));
        }
    }
    // Lines have wall clocks only: they take the boot of a recording if there is one.
    lines::read(texts, &mut recording)?;
    recording.sort();
    Ok(recording)
}

/// Reads one file that is in memory.
///
/// # Errors
/// As [`load`].
pub fn from_bytes(bytes: &[u8]) -> Result<Recording, LoadError> {
    let mut recording = Recording::default();
    let path = PathBuf::from("memory");
    if is_recording(bytes) {
        frames(&path, bytes, &mut recording)?;
    } else {
        lines::read(vec![(&path, bytes)], &mut recording)?;
    }
    recording.sort();
    Ok(recording)
}

fn frames(path: &Path, input: impl BufRead, recording: &mut Recording) -> Result<(), LoadError> {
    let mut frames =
        Frames::open(input).map_err(|error| LoadError::Frame { path: path.to_owned(), error })?;
    let mut number = 0;
    loop {
        let frame = frames.next_frame().map_err(|error| LoadError::File { path: path.to_owned(), error })?;
        let Some((kind, body)) = frame else { break };
        match kind {
            FrameKind::Hello => {
                if let Ok(hello) = Hello::decode(body) {
                    recording.host = hello.host_name;
                    recording.boot_id = (&*hello.boot_id).try_into().unwrap_or_default();
                }
            }
            FrameKind::Batch => {
                number += 1;
                let decoded = EventBatch::decode(body);
                let Ok(batch) = decoded else {
                    recording.damage.frames += 1;
                    continue;
                };
                let columns = Columns::check(&batch).map_err(|error| LoadError::Batch {
                    path: path.to_owned(),
                    number,
                    error,
                })?;
                take(&batch, &columns, recording)?;
            }
        }
    }
    let damage = frames.damage();
    recording.damage.frames += damage.frames;
    recording.damage.cut |= damage.cut;
    Ok(())
}

fn take(batch: &EventBatch, columns: &Columns<'_>, recording: &mut Recording) -> Result<(), LoadError> {
    if recording.boot_unix_ns == 0 {
        recording.boot_unix_ns = batch.boot_unix_ns;
    }
    let mut owners: Vec<Option<Arc<Entity>>> = vec![None; columns.entities().len()];
    for row in columns.events() {
        let Some(owner) = owners.get_mut(row.entity_index as usize) else { continue };
        let owner =
            owner.get_or_insert_with(|| Arc::new(entity_of(row.entity, row.text.unwrap_or_default())));
        let id = EventId { source: row.source, producer: row.producer, sequence: row.sequence };
        recording.push(id, words_of(&row, row.unix_ns.wrapping_sub(batch.boot_unix_ns)), owner)?;
    }
    Ok(())
}

/// The event that a row was made of.
fn words_of(row: &Row<'_>, time_ns: u64) -> Vec<u64> {
    let slots: Vec<u64> = row.slots.iter().map(|slot| slot.get()).collect();
    #[expect(clippy::cast_possible_truncation, reason = "the low half, which is what an event has")]
    let header = Header {
        time_ns,
        tgid: row.pid,
        sequence: row.sequence as u32,
        kind: row.info.kind as u16,
        producer: row.producer,
        source: row.source as u8,
        ..Header::default()
    };
    words(header, &slots, row.text.unwrap_or_default().as_bytes())
}

/// The words of an event.
pub(super) fn words(mut header: Header, slots: &[u64], text: &[u8]) -> Vec<u64> {
    let count = HEADER_WORDS + slots.len() + text.len().div_ceil(8);
    header.words = u16::try_from(count).unwrap_or(0);
    let mut words = vec![0; count];
    let (head, rest) = words.split_at_mut(HEADER_WORDS);
    head.as_mut_bytes().copy_from_slice(header.as_bytes());
    let (own, padded) = rest.split_at_mut(slots.len());
    own.copy_from_slice(slots);
    padded.as_mut_bytes()[..text.len()].copy_from_slice(text);
    words
}

/// The entity that went over the wire. Whose unit it is, the wire says by the path or the fields of its events.
fn entity_of(entity: &proto::Entity, text: &str) -> Entity {
    let kind = match entity.r#type() {
        proto::EntityType::Process => EntityKind::Process,
        proto::EntityType::Unit => EntityKind::Unit,
        proto::EntityType::Container => EntityKind::Container,
        proto::EntityType::Pod => EntityKind::Pod,
        proto::EntityType::Node => EntityKind::Node,
        proto::EntityType::Object => EntityKind::Object,
        proto::EntityType::Cgroup | proto::EntityType::Unspecified => EntityKind::Cgroup,
    };
    Entity {
        key: entity.key,
        kind,
        name: entity.name.clone(),
        trace_id: (&*entity.trace_id).try_into().unwrap_or_default(),
        container_id: entity.container_id.clone(),
        pod_uid: entity.pod_uid.clone(),
        cgroup_path: entity.cgroup_path.clone(),
        unit: entity.unit.clone(),
        manager: manager_of(&entity.cgroup_path, text),
        pid: entity.pid,
        start_ns: entity.start_time_ns,
    }
}

/// Whose unit an entity is.
pub(super) fn manager_of(path: &str, text: &str) -> Manager {
    if !path.is_empty() {
        return entity::cgroup::parse(path).manager;
    }
    let user = fields::Fields::new(text.as_bytes()).get(fields::USER);
    user.parse().map_or(Manager::System, Manager::User)
}
