//! Names and values of OTLP: who a span or log record is about, in the semantic conventions where they have a name.
//!
//! Invariants:
//! - What the conventions do not name is called `tapio.*`.

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::proto::{Detail, IncidentEntity, detail};

/// An attribute.
pub(super) fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// An attribute that is a text.
pub(super) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value.into()))
}

/// An attribute that is a number.
pub(super) fn double(key: &str, value: f64) -> KeyValue {
    attribute(key, any_value::Value::DoubleValue(value))
}

/// An attribute that is a whole number.
pub(super) fn int(key: &str, value: i64) -> KeyValue {
    attribute(key, any_value::Value::IntValue(value))
}

/// A detail of a fact; none when it has no value.
pub(super) fn detail(name: &str, detail: &Detail) -> Option<KeyValue> {
    let value = match detail.value.as_ref()? {
        detail::Value::Flag(flag) => any_value::Value::BoolValue(*flag),
        detail::Value::Number(number) => any_value::Value::IntValue(*number),
        detail::Value::Text(text) => any_value::Value::StringValue(text.clone()),
    };
    Some(attribute(&format!("tapio.detail.{name}"), value))
}

/// What describes an entity. Its service is the workload, else the unit, else the program: the name by which a
/// person looks for it.
pub(super) fn entity(entity: &IncidentEntity) -> Vec<KeyValue> {
    let name = entity.name.as_str();
    let mut found = match entity.r#type.as_str() {
        "unit" => vec![text("service.name", name), text("systemd.unit.name", name)],
        "container" => container(name),
        "pod" => pod(name),
        "process" => process(name),
        "node" => vec![text("service.name", "node"), text("k8s.node.name", name)],
        other => vec![text("service.name", &format!("{other} {name}"))],
    };
    found.push(text("tapio.entity.type", &entity.r#type));
    found.push(text("tapio.entity.name", name));
    found
}

/// `namespace/pod/container`, or an id.
fn container(name: &str) -> Vec<KeyValue> {
    let mut parts = name.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(namespace), Some(pod), Some(container)) => vec![
            text("service.name", container),
            text("k8s.namespace.name", namespace),
            text("k8s.pod.name", pod),
            text("k8s.container.name", container),
        ],
        _ => vec![text("service.name", name.get(..12).unwrap_or(name)), text("container.id", name)],
    }
}

/// `namespace/pod`.
fn pod(name: &str) -> Vec<KeyValue> {
    match name.split_once('/') {
        Some((namespace, pod)) => {
            vec![text("service.name", pod), text("k8s.namespace.name", namespace), text("k8s.pod.name", pod)]
        }
        None => vec![text("service.name", name), text("k8s.pod.uid", name)],
    }
}

/// `comm[pid]`.
fn process(name: &str) -> Vec<KeyValue> {
    let Some((comm, pid)) = name.strip_suffix(']').and_then(|name| name.rsplit_once('[')) else {
        return vec![text("service.name", name), text("process.executable.name", name)];
    };
    let mut found = vec![text("service.name", comm), text("process.executable.name", comm)];
    found.extend(pid.parse().ok().map(|pid| int("process.pid", pid)));
    found
}

/// The resource of an entity: itself, the host, and what the user wants to have added, which wins.
pub(super) fn resource(who: &IncidentEntity, host: &[KeyValue]) -> Resource {
    let mut attributes = entity(who);
    for more in host {
        attributes.retain(|known| known.key != more.key);
        attributes.push(more.clone());
    }
    Resource { attributes, ..Resource::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: an entity of every type, well formed and not.
    /// Guarantees: each has a service name and the names that the conventions give it.
    #[test]
    fn entities_have_conventional_names() {
        let cases = [
            ("unit", "a.service", "a.service", "systemd.unit.name"),
            ("container", "shop/cart-1/app", "app", "k8s.container.name"),
            ("container", "0123456789abcdef", "0123456789ab", "container.id"),
            ("pod", "shop/cart-1", "cart-1", "k8s.pod.name"),
            ("pod", "uid", "uid", "k8s.pod.uid"),
            ("process", "sh[7]", "sh", "process.pid"),
            ("process", "sh", "sh", "process.executable.name"),
            ("node", "n1", "node", "k8s.node.name"),
            ("device", "8:0", "device 8:0", "tapio.entity.name"),
        ];
        for (kind, name, service, key) in cases {
            let found = entity(&IncidentEntity { r#type: kind.into(), name: name.into() });
            assert!(found.contains(&text("service.name", service)), "{kind} {name}: {found:?}");
            assert!(found.iter().any(|attribute| attribute.key == key), "{kind} {name}: {found:?}");
        }
    }

    /// Scenario: the user names the service.
    /// Guarantees: the user's name is the only one.
    #[test]
    fn what_the_user_says_wins() {
        let who = IncidentEntity { r#type: "unit".into(), name: "a.service".into() };
        let resource = resource(&who, &[text("service.name", "mine")]);
        let names: Vec<_> = resource.attributes.iter().filter(|found| found.key == "service.name").collect();
        assert_eq!(names, [&text("service.name", "mine")]);
    }
}
