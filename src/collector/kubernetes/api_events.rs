//! Events of the API: whom they are about, and how often they happened.
//!
//! Invariants:
//! - A repetition, which is a new version of the same Event, is an event of its own with its count.

use super::draft::{Draft, number, unix_s};
use super::object::{ApiEvent, Reference, text};
use crate::event::{Kind, fields};

/// The draft of an Event; `container_id` finds the present run of a container of a pod.
pub(super) fn draft(event: &ApiEvent, container_id: impl Fn(&str, &str) -> String) -> Draft {
    let object = &event.involved_object;
    let uid = text(event.metadata.uid.as_ref());
    let number = number(uid, text(event.metadata.resource_version.as_ref()), "event");
    let series = event.series.as_ref();
    let count = series.and_then(|series| series.count).or(event.count).unwrap_or(1).max(1);
    let draft = owned(object, number)
        .at(last_unix_s(event))
        .slot(count)
        .slot(first_unix_s(event))
        .slot(last_unix_s(event))
        .field(fields::REASON, text(event.reason.as_ref()))
        .field(fields::TYPE, text(event.kind.as_ref()))
        .field(fields::COMPONENT, component(event))
        .field(fields::OBJECT, &path_of(object))
        .field(fields::OBJECT_UID, text(object.uid.as_ref()))
        .field(fields::NAMESPACE, text(object.namespace.as_ref()));
    let draft = match text(object.kind.as_ref()) {
        "Pod" => {
            let container = container(object);
            let pod_uid = text(object.uid.as_ref());
            draft
                .field(fields::POD, text(object.name.as_ref()))
                .field(fields::CONTAINER, container)
                .field(fields::CONTAINER_ID, &container_id(pod_uid, container))
        }
        _ => draft,
    };
    let draft = draft.field(fields::NODE, host(event));
    draft.field(fields::MESSAGE, text(event.message.as_ref()))
}

fn owned(object: &Reference, number: u64) -> Draft {
    let kind = Kind::ObjectEvent;
    match (text(object.kind.as_ref()), text(object.uid.as_ref())) {
        ("Pod", uid) if !uid.is_empty() => Draft::new(kind, fields::POD_UID, uid, number),
        ("Node", _) => Draft::new(kind, fields::NODE, text(object.name.as_ref()), number),
        _ => Draft::new(kind, fields::OBJECT, path_of(object), number),
    }
}

/// `Kind/namespace/name`, or `Kind/name`.
fn path_of(object: &Reference) -> String {
    path(text(object.kind.as_ref()), text(object.namespace.as_ref()), text(object.name.as_ref()))
}

/// `Kind/namespace/name`, or `Kind/name` where there is no namespace.
pub(super) fn path(kind: &str, namespace: &str, name: &str) -> String {
    if namespace.is_empty() || kind == "Node" {
        format!("{kind}/{name}")
    } else {
        format!("{kind}/{namespace}/{name}")
    }
}

/// The container of `spec.containers{web}`.
fn container(object: &Reference) -> &str {
    let path = text(object.field_path.as_ref());
    path.split_once('{').and_then(|(_, rest)| rest.strip_suffix('}')).unwrap_or_default()
}

fn component(event: &ApiEvent) -> &str {
    let source = event.source.as_ref();
    let old = text(source.and_then(|source| source.component.as_ref()));
    if old.is_empty() { text(event.reporting_component.as_ref()) } else { old }
}

/// The node that reports.
fn host(event: &ApiEvent) -> &str {
    let old = text(event.source.as_ref().and_then(|source| source.host.as_ref()));
    let is_kubelet = component(event).ends_with("kubelet");
    if old.is_empty() && is_kubelet { text(event.reporting_instance.as_ref()) } else { old }
}

/// Whether the Event is about this node or comes from it.
pub(super) fn is_own(event: &ApiEvent, node: &str, is_own_pod: impl Fn(&str) -> bool) -> bool {
    let object = &event.involved_object;
    if host(event) == node {
        return true;
    }
    match text(object.kind.as_ref()) {
        "Node" => text(object.name.as_ref()) == node,
        "Pod" => is_own_pod(text(object.uid.as_ref())),
        _ => false,
    }
}

fn first_unix_s(event: &ApiEvent) -> u64 {
    let old = unix_s(text(event.first_timestamp.as_ref()));
    if old > 0 { old } else { unix_s(text(event.event_time.as_ref())) }
}

/// When it happened last.
pub(super) fn last_unix_s(event: &ApiEvent) -> u64 {
    let series = text(event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()));
    let times = [series, text(event.last_timestamp.as_ref()), text(event.event_time.as_ref())];
    let created = text(event.metadata.creation_timestamp.as_ref());
    times.into_iter().map(unix_s).find(|&time| time > 0).unwrap_or_else(|| unix_s(created))
}
