//! Owners that an event names instead of pointing at a cgroup: the first field of its text says who.
//!
//! Invariants:
//! - The same unit, container, pod or object has the same key and, as long as it is the same run, the same trace id.

use super::trace::{self, Identity};
use super::{Entity, EntityKind, Manager};
use crate::event::{Event, fields};

/// The entity that the event names.
pub(super) fn entity(boot_id: &[u8; 16], key: u64, event: &Event<'_>) -> Entity {
    let mut entity = Entity { key, ..Entity::default() };
    let all = event.fields();
    if let Some((field, name)) = all.clone().next() {
        entity.name = name.into_owned();
        entity.kind = match field {
            fields::UNIT => EntityKind::Unit,
            fields::CONTAINER_ID => EntityKind::Container,
            fields::POD_UID => EntityKind::Pod,
            fields::NODE => EntityKind::Node,
            _ => EntityKind::Object,
        };
    }
    entity.unit = all.get(fields::UNIT).into_owned();
    entity.container_id = all.get(fields::CONTAINER_ID).into_owned();
    entity.pod_uid = all.get(fields::POD_UID).into_owned();
    if let Ok(uid) = all.get(fields::USER).parse() {
        entity.manager = Manager::User(uid);
    }
    entity.trace_id = invocation(event).filter(|_| entity.kind == EntityKind::Unit).unwrap_or_else(|| {
        let name = entity.name.as_str();
        let hashed = |identity| trace::hashed(boot_id, identity);
        match entity.kind {
            EntityKind::Unit => hashed(Identity::Unit(name)),
            EntityKind::Container => {
                trace::of_container(name).unwrap_or_else(|| hashed(Identity::Container(name)))
            }
            EntityKind::Pod => hashed(Identity::Pod(name)),
            EntityKind::Node => hashed(Identity::Node),
            EntityKind::Process | EntityKind::Cgroup | EntityKind::Object => hashed(Identity::Object(name)),
        }
    });
    entity
}

/// The invocation that the event belongs to, from its slot or its field.
pub(super) fn invocation(event: &Event<'_>) -> Option<[u8; 16]> {
    if let Some(&[high, low]) = event.slot("invocation_id")
        && (high, low) != (0, 0)
    {
        return Some((u128::from(high) << 64 | u128::from(low)).to_be_bytes());
    }
    trace::parse_hex(&event.fields().get(fields::INVOCATION_ID))
}
