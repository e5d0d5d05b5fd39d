//! Events as lines of JSON: the form of the server's answers, and one that people can write by hand.
//!
//! ```json
//! {"time":"2026-11-24T18:00:00.5Z","source":"ebpf","kind":"process_exit","pid":812,
//!  "entity":"/system.slice/db.service","slots":{"exit_code":1,"comm":"postgres"}}
//! ```
//!
//! `entity` is an object as in the server's answers, or a path of a cgroup, or absent: then the first field of the text
//! says whose the event is, and else it is the node's. `text` is a string, or an object of fields. Slots that are left out
//! are 0. `id` names the event; without it the place in its file does.
//!
//! A line with a `host` and no `kind` says where the events below it are from, and with `boot` when that host was booted.
//! An array of objects, as the server sends it, is read like its lines.
//!
//! Invariants:
//! - Every mistake has its line and says what would be right.

use std::io::BufRead;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};
use zerocopy::IntoBytes;

use super::load::{LoadError, Recording, manager_of, words};
use crate::detect::EventId;
use crate::entity::{Entity, EntityKind, cgroup};
use crate::event::{Form, Header, Kind, KindInfo, Source, fields, named_key, process_key};

/// How long before its first event a host is booted, if nobody says when.
const BOOTED_BEFORE_NS: u64 = 100_000_000_000;

/// Longest line.
const LINE_BYTES_MAX: usize = 64 << 10;

/// What is wrong with a line. Stop: it has to be corrected.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Not JSON.
    #[error("this is neither a recording nor JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Something is missing, or not what it has to be.
    #[error("{field}: {wrong}")]
    Field {
        /// Which.
        field: String,
        /// What is wrong, and what would be right.
        wrong: String,
    },
    /// Too long.
    #[error("the line has more than {LINE_BYTES_MAX} bytes")]
    Long,
}

fn wrong(field: &str, wrong: impl Into<String>) -> LineError {
    LineError::Field { field: field.into(), wrong: wrong.into() }
}

/// An event whose time is still that of the wall clock.
struct Line {
    unix_ns: u64,
    id: EventId,
    header: Header,
    slots: Vec<u64>,
    text: Vec<u8>,
    owner: Arc<Entity>,
}

/// Reads the events of texts into a recording.
pub(super) fn read(texts: Vec<(&PathBuf, impl BufRead)>, recording: &mut Recording) -> Result<(), LoadError> {
    let mut lines: Vec<Line> = Vec::new();
    for (file, (path, input)) in (0_u64..).zip(texts) {
        for (index, text) in input.lines().enumerate() {
            let text = text.map_err(|error| LoadError::File { path: path.clone(), error })?;
            let place = (file << 32) + index as u64 + 1;
            let line = line(&text, place, recording);
            let line =
                line.map_err(|error| LoadError::Line { path: path.clone(), line: index + 1, error })?;
            lines.extend(line);
        }
    }
    if recording.boot_unix_ns == 0 {
        let first = lines.iter().map(|line| line.unix_ns).min().unwrap_or(0);
        recording.boot_unix_ns = first.saturating_sub(BOOTED_BEFORE_NS);
    }
    for line in lines {
        let time_ns = line.unix_ns.wrapping_sub(recording.boot_unix_ns);
        let header = Header { time_ns, ..line.header };
        recording.push(line.id, words(header, &line.slots, &line.text), &line.owner)?;
    }
    Ok(())
}

fn line(text: &str, place: u64, recording: &mut Recording) -> Result<Option<Line>, LineError> {
    let text = text.trim().trim_end_matches(',');
    if matches!(text, "" | "[" | "]" | "[]") || text.starts_with("//") {
        return Ok(None);
    }
    if text.len() > LINE_BYTES_MAX {
        return Err(LineError::Long);
    }
    let object: Map<String, Value> = serde_json::from_str(text)?;
    let string = |name: &str| object.get(name).and_then(Value::as_str);
    if let Some(host) = string("host") {
        host.clone_into(&mut recording.host);
    }
    let Some(kind) = string("kind") else {
        if let Some(boot) = string("boot") {
            recording.boot_unix_ns = unix_ns(boot).ok_or_else(|| wrong("boot", NO_TIME))?;
        }
        return if object.contains_key("host") { Ok(None) } else { Err(wrong("kind", "is missing")) };
    };
    let info = Kind::from_name(kind)
        .map(Kind::info)
        .ok_or_else(|| wrong("kind", format!("there is no {kind:?}")))?;
    let time = string("time").ok_or_else(|| wrong("time", NO_TIME))?;
    let id = id(&object, info, place)?;
    let pid = match object.get("pid") {
        None => 0,
        Some(pid) => {
            pid.as_u64().and_then(|pid| u32::try_from(pid).ok()).ok_or_else(|| wrong("pid", "is a number"))?
        }
    };
    let slots = slots(info, object.get("slots"))?;
    let text = text_of(info, object.get("text"))?;
    let owner = Arc::new(entity(object.get("entity"), &String::from_utf8_lossy(&text), pid)?);
    #[expect(clippy::cast_possible_truncation, reason = "the low half, which is what an event has")]
    let header = Header {
        tgid: pid,
        sequence: id.sequence as u32,
        kind: info.kind as u16,
        producer: id.producer,
        source: id.source as u8,
        ..Header::default()
    };
    let unix_ns = unix_ns(time).ok_or_else(|| wrong("time", NO_TIME))?;
    Ok(Some(Line { unix_ns, id, header, slots, text, owner }))
}

/// The fields that can name the owner of an event, the most telling first.
const OWNERS: [&str; 5] = [fields::CONTAINER_ID, fields::POD_UID, fields::UNIT, fields::OBJECT, fields::NODE];

const NO_TIME: &str = "is a time as 2026-11-24T18:00:00.5Z";

fn unix_ns(text: &str) -> Option<u64> {
    let time = humantime::parse_rfc3339_weak(text).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_nanos()).ok()
}

/// The name of the event: `boot:source:producer:sequence`, or its place.
fn id(object: &Map<String, Value>, info: &KindInfo, place: u64) -> Result<EventId, LineError> {
    let source = match object.get("source").and_then(Value::as_str) {
        None => source_of(info),
        Some(name) => Source::ALL
            .into_iter()
            .find(|source| source.name() == name)
            .ok_or_else(|| wrong("source", format!("there is no {name:?}")))?,
    };
    let Some(id) = object.get("id").and_then(Value::as_str) else {
        return Ok(EventId { source, producer: 0, sequence: place });
    };
    let mut parts = id.rsplit(':');
    let sequence = parts.next().and_then(|part| part.parse().ok());
    let producer = parts.next().and_then(|part| part.parse().ok());
    match sequence.zip(producer) {
        Some((sequence, producer)) => Ok(EventId { source, producer, sequence }),
        None => Err(wrong("id", "is BOOT:SOURCE:PRODUCER:SEQUENCE")),
    }
}

/// The source that makes events of a kind.
fn source_of(info: &KindInfo) -> Source {
    Source::ALL.into_iter().find(|source| source.name() == info.probe).unwrap_or(Source::Ebpf)
}

fn slots(info: &KindInfo, value: Option<&Value>) -> Result<Vec<u64>, LineError> {
    let empty = Map::new();
    let given = match value {
        None => &empty,
        Some(value) => value.as_object().ok_or_else(|| wrong("slots", "is an object"))?,
    };
    if let Some(name) = given.keys().find(|name| info.slots.iter().all(|slot| slot.name != name.as_str())) {
        return Err(wrong(&format!("slots.{name}"), format!("{} has no such slot", info.name)));
    }
    let mut words = Vec::with_capacity(info.slot_words());
    for slot in info.slots {
        match given.get(slot.name) {
            None => words.resize(words.len() + slot.form.words(), 0),
            Some(value) => {
                let field = || format!("slots.{}", slot.name);
                words.extend(slot_words(slot.form, value).map_err(|what| wrong(&field(), what))?);
            }
        }
    }
    Ok(words)
}

fn slot_words(form: Form, value: &Value) -> Result<Vec<u64>, &'static str> {
    let bytes = |text: &str| -> [u64; 2] {
        let mut words = [0_u64; 2];
        let end = text.len().min(16);
        words.as_mut_bytes()[..end].copy_from_slice(&text.as_bytes()[..end]);
        words
    };
    match form {
        Form::Unsigned | Form::Nanoseconds => Ok(vec![value.as_u64().ok_or("is a whole number")?]),
        Form::Signed => Ok(vec![value.as_i64().ok_or("is a whole number")?.cast_unsigned()]),
        Form::Chars => Ok(bytes(value.as_str().ok_or("is a text")?).to_vec()),
        Form::Address => {
            let address: Option<IpAddr> = value.as_str().and_then(|text| text.parse().ok());
            let octets = match address.ok_or("is an IP address")? {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            let mut words = [0_u64; 2];
            words.as_mut_bytes().copy_from_slice(&octets);
            Ok(words.to_vec())
        }
        Form::Id => {
            let text = value.as_str().ok_or("is 32 hexadecimal digits")?;
            let id = u128::from_str_radix(text, 16).map_err(|_| "is 32 hexadecimal digits")?;
            #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
            Ok(vec![(id >> 64) as u64, id as u64])
        }
    }
}

fn text_of(info: &KindInfo, value: Option<&Value>) -> Result<Vec<u8>, LineError> {
    let text = match value {
        None => Vec::new(),
        Some(Value::String(text)) => text.clone().into_bytes(),
        Some(Value::Object(named)) => {
            let mut text = Vec::new();
            // Who owns the event comes first, as collectors write it.
            let owner = OWNERS.into_iter().find(|name| named.contains_key(*name));
            let first = owner.and_then(|name| named.get_key_value(name));
            let others = named.iter().filter(|(name, _)| owner != Some(name.as_str()));
            for (name, value) in first.into_iter().chain(others) {
                let known = fields::NAMES.contains(&name.as_str());
                if !known {
                    return Err(wrong(&format!("text.{name}"), "there is no such field"));
                }
                let value = value.as_str().ok_or_else(|| wrong(&format!("text.{name}"), "is a text"))?;
                fields::push(&mut text, name, value.as_bytes());
            }
            text
        }
        Some(_) => return Err(wrong("text", "is a text, or an object of fields")),
    };
    if text.is_empty() || info.text.is_some() {
        Ok(text)
    } else {
        Err(wrong("text", format!("{} has none", info.name)))
    }
}

fn entity(value: Option<&Value>, text: &str, pid: u32) -> Result<Entity, LineError> {
    match value {
        None => Ok(named(text)),
        Some(Value::String(path)) if path.starts_with('/') => Ok(of_path(path)),
        Some(Value::Object(object)) => Ok(of_object(object, text, pid)),
        Some(_) => Err(wrong("entity", "is an object, or the path of a cgroup that starts with /")),
    }
}

/// The owner that the first field of a text names; the node if there is none.
fn named(text: &str) -> Entity {
    let first = fields::Fields::new(text.as_bytes()).next();
    let Some((field, name)) = first else { return Entity { kind: EntityKind::Node, ..Entity::default() } };
    let mut entity = Entity { key: named_key(field, &name), ..Entity::default() };
    entity.kind = match field {
        fields::UNIT => EntityKind::Unit,
        fields::CONTAINER_ID => EntityKind::Container,
        fields::POD_UID => EntityKind::Pod,
        fields::NODE => EntityKind::Node,
        fields::OBJECT => EntityKind::Object,
        _ => return Entity { kind: EntityKind::Node, ..Entity::default() },
    };
    let all = fields::Fields::new(text.as_bytes());
    entity.unit = all.get(fields::UNIT).into_owned();
    entity.container_id = all.get(fields::CONTAINER_ID).into_owned();
    entity.pod_uid = all.get(fields::POD_UID).into_owned();
    entity.manager = manager_of("", text);
    entity.name = name.into_owned();
    entity
}

fn of_path(path: &str) -> Entity {
    let read = cgroup::parse(path);
    let name = match read.kind {
        EntityKind::Unit => read.unit.to_owned(),
        EntityKind::Container => read.container_id.to_owned(),
        EntityKind::Pod => read.pod_uid.clone(),
        _ => path.to_owned(),
    };
    Entity {
        key: named_key("CGROUP", path),
        kind: read.kind,
        name,
        container_id: read.container_id.to_owned(),
        pod_uid: read.pod_uid.clone(),
        cgroup_path: path.to_owned(),
        unit: read.unit.to_owned(),
        manager: read.manager,
        ..Entity::default()
    }
}

fn of_object(object: &Map<String, Value>, text: &str, pid: u32) -> Entity {
    let string = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let path = string("cgroup_path");
    let name = string("name");
    let kind = match string("type").as_str() {
        "process" => EntityKind::Process,
        "unit" => EntityKind::Unit,
        "container" => EntityKind::Container,
        "pod" => EntityKind::Pod,
        "node" => EntityKind::Node,
        "object" => EntityKind::Object,
        _ => EntityKind::Cgroup,
    };
    let own = |of: EntityKind, field: &str| {
        let value = string(field);
        if value.is_empty() && kind == of { name.clone() } else { value }
    };
    let start_ns = object.get("start_time_ns").and_then(Value::as_u64).unwrap_or(0);
    let pid =
        object.get("pid").and_then(Value::as_u64).and_then(|pid| u32::try_from(pid).ok()).unwrap_or(pid);
    let key = u64::from_str_radix(&string("key"), 16).ok();
    let trace_id = u128::from_str_radix(&string("trace_id"), 16).unwrap_or(0);
    let of_process = kind == EntityKind::Process;
    Entity {
        key: key.unwrap_or_else(|| {
            if of_process { process_key(pid, start_ns) } else { named_key(&string("type"), &name) }
        }),
        kind,
        trace_id: trace_id.to_be_bytes(),
        container_id: own(EntityKind::Container, "container_id"),
        pod_uid: own(EntityKind::Pod, "pod_uid"),
        unit: own(EntityKind::Unit, "unit"),
        manager: manager_of(&path, text),
        cgroup_path: path,
        pid: if of_process { pid } else { 0 },
        start_ns: if of_process { start_ns } else { 0 },
        name,
    }
}

#[cfg(test)]
mod tests;
