//! An event as an answer, and its JSON.
//!
//! Invariants:
//! - Values read by the form of their slot: addresses as addresses, text as text, the rest as numbers.

use std::net::Ipv6Addr;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, Serializer};
use zerocopy::IntoBytes;

use crate::event::{Form, KindInfo, Slot, Source, chars, span_id};
use crate::proto::{Entity, EntityType};
use crate::server::book::Id;
use crate::server::decode::Row;

use super::time;

/// Where an event is in the order of an answer; no two events have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::server) struct Place {
    pub(in crate::server) unix_ns: u64,
    pub(in crate::server) agent: Id,
    pub(in crate::server) epoch: u64,
    pub(in crate::server) batch: u64,
    pub(in crate::server) index: u32,
}

/// A found event, apart from its [`Place`].
#[derive(Debug, Clone)]
pub(in crate::server) struct Hit {
    info: &'static KindInfo,
    source: Source,
    producer: u16,
    sequence: u64,
    pid: u32,
    slots: Box<[u64]>,
    text: Option<Box<str>>,
    pub(in crate::server) boot: Id,
    pub(in crate::server) entity: Arc<Entity>,
}

impl Hit {
    pub(in crate::server) fn new(row: &Row<'_>, boot: Id, entity: Arc<Entity>) -> Self {
        Self {
            info: row.info,
            source: row.source,
            producer: row.producer,
            sequence: row.sequence,
            pid: row.pid,
            slots: row.slots.iter().map(|slot| slot.get()).collect(),
            text: row.text.map(Into::into),
            boot,
            entity,
        }
    }
}

impl Hit {
    /// The id of an event that its source may read and send again, after it lost its place.
    pub(in crate::server) fn repeatable_id(&self) -> Option<(Id, Source, u16, u64)> {
        self.info.is_numbered().then_some((self.boot, self.source, self.producer, self.sequence))
    }
}

/// A found event with its place and its host, as JSON.
#[derive(Debug)]
pub(in crate::server) struct Answer<'hit> {
    pub(in crate::server) place: Place,
    pub(in crate::server) host: &'hit str,
    pub(in crate::server) hit: &'hit Hit,
}

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { place, host, hit } = self;
        let mut map = serializer.serialize_map(None)?;
        let source = hit.source.name();
        map.serialize_entry("id", &format!("{}:{source}:{}:{}", hit.boot, hit.producer, hit.sequence))?;
        map.serialize_entry("time", &time::format(place.unix_ns))?;
        map.serialize_entry("kind", hit.info.name)?;
        let span = span_id(hit.boot.0, hit.source, hit.producer, hit.sequence);
        map.serialize_entry("span_id", &format!("{span:016x}"))?;
        map.serialize_entry("agent", &place.agent.to_string())?;
        map.serialize_entry("host", host)?;
        map.serialize_entry("source", source)?;
        map.serialize_entry("pid", &hit.pid)?;
        map.serialize_entry("entity", &EntityJson(&hit.entity))?;
        map.serialize_entry("slots", &Slots { slots: hit.info.slots, words: &hit.slots })?;
        if let Some(text) = &hit.text {
            map.serialize_entry("text", text)?;
        }
        map.end()
    }
}

struct EntityJson<'hit>(&'hit Entity);

impl Serialize for EntityJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entity = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("key", &format!("{:016x}", entity.key))?;
        map.serialize_entry("type", type_name(entity.r#type))?;
        map.serialize_entry("name", &entity.name)?;
        let trace_id = Id::from_bytes(&entity.trace_id).map(|id| id.to_string());
        map.serialize_entry("trace_id", &trace_id.unwrap_or_default())?;
        let more = [
            ("container_id", &entity.container_id),
            ("pod_uid", &entity.pod_uid),
            ("cgroup_path", &entity.cgroup_path),
            ("unit", &entity.unit),
        ];
        for (name, value) in more.into_iter().filter(|(_, value)| !value.is_empty()) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

fn type_name(number: i32) -> &'static str {
    match EntityType::try_from(number).unwrap_or_default() {
        EntityType::Unspecified => "unknown",
        EntityType::Process => "process",
        EntityType::Unit => "unit",
        EntityType::Container => "container",
        EntityType::Pod => "pod",
        EntityType::Cgroup => "cgroup",
        EntityType::Node => "node",
        EntityType::Object => "object",
    }
}

struct Slots<'hit> {
    slots: &'static [Slot],
    words: &'hit [u64],
}

impl Serialize for Slots<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.slots.len()))?;
        let mut rest = self.words;
        for slot in self.slots {
            let Some((words, behind)) = rest.split_at_checked(slot.form.words()) else { break };
            rest = behind;
            let first = words.first().copied().unwrap_or(0);
            match slot.form {
                Form::Unsigned | Form::Nanoseconds => map.serialize_entry(slot.name, &first)?,
                Form::Signed => map.serialize_entry(slot.name, &first.cast_signed())?,
                Form::Address => map.serialize_entry(slot.name, &address(words))?,
                Form::Chars => map.serialize_entry(slot.name, &chars(words))?,
                Form::Id => map.serialize_entry(slot.name, &id(words))?,
            }
        }
        map.end()
    }
}

fn id(words: &[u64]) -> String {
    words.iter().fold(String::new(), |digits, word| digits + &format!("{word:016x}"))
}

fn address(words: &[u64]) -> String {
    let Ok(octets) = <[u8; 16]>::try_from(words.as_bytes()) else { return String::new() };
    let address = Ipv6Addr::from(octets);
    address.to_ipv4_mapped().map_or_else(|| address.to_string(), |v4| v4.to_string())
}
