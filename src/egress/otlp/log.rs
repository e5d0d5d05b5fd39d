//! Facts and revisions of incidents as log records that belong to the incident's trace.
//!
//! Invariants:
//! - Each fact and each revision is one record, told apart by its event name.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};

use super::attributes::{detail, double, int, resource, text};
use super::trace::{SAMPLED, fact_span, root_span, trace_id, unix_ns};
use super::{Exported, Origin};
use crate::detect::{FactKind, Role};
use crate::proto::{IncidentEntity, IncidentFact, SemanticGroup};

fn body(text: String) -> Option<AnyValue> {
    Some(AnyValue { value: Some(any_value::Value::StringValue(text)) })
}

/// The revision, and those of its facts that `exported` does not have yet, one resource for each entity.
pub(super) fn logs(group: &SemanticGroup, origin: &Origin, exported: &mut Exported) -> Vec<ResourceLogs> {
    let trace = trace_id(&group.trace_id);
    let mut by_entity: BTreeMap<(String, String), (IncidentEntity, Vec<LogRecord>)> = BTreeMap::new();
    let mut put = |entity: Option<&IncidentEntity>, record: LogRecord| {
        let entity = entity.cloned().unwrap_or_default();
        let place = (entity.r#type.clone(), entity.name.clone());
        by_entity.entry(place).or_insert_with(|| (entity, Vec::new())).1.push(record);
    };
    for fact in &group.facts {
        if exported.logs.insert(fact_span(&trace, fact)) {
            put(fact.entity.as_ref(), of_fact(fact, trace));
        }
    }
    let root = group.root_cause.as_ref().and_then(|root| root.entity.as_ref());
    put(root, of_revision(group, trace));
    let scope = InstrumentationScope {
        name: "tapio-collector".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    };
    let resources = by_entity.into_values().map(|(entity, log_records)| ResourceLogs {
        resource: Some(resource(&entity, &origin.attributes)),
        scope_logs: vec![ScopeLogs { scope: Some(scope.clone()), log_records, schema_url: String::new() }],
        schema_url: String::new(),
    });
    resources.collect()
}

fn of_fact(fact: &IncidentFact, trace: [u8; 16]) -> LogRecord {
    let role = FactKind::from_name(&fact.kind).map(|kind| kind.info().role);
    let (severity, name) = match role {
        Some(Role::Symptom) => (SeverityNumber::Error, "ERROR"),
        Some(Role::Cause | Role::Verdict) => (SeverityNumber::Warn, "WARN"),
        Some(Role::Context) | None => (SeverityNumber::Info, "INFO"),
    };
    let about = fact.entity.as_ref().map(|entity| format!(" of {} {}", entity.r#type, entity.name));
    let doc = FactKind::from_name(&fact.kind).map_or("", |kind| kind.info().doc);
    let mut attributes = vec![text("tapio.fact.source", &fact.source)];
    attributes.extend(fact.detail.iter().filter_map(|(name, value)| detail(name, value)));
    LogRecord {
        time_unix_nano: unix_ns(&fact.at),
        observed_time_unix_nano: unix_ns(&fact.at),
        severity_number: severity.into(),
        severity_text: name.into(),
        body: body(format!("{}{}: {doc}", fact.kind, about.unwrap_or_default())),
        attributes,
        trace_id: trace.to_vec(),
        span_id: fact_span(&trace, fact).to_vec(),
        flags: SAMPLED,
        event_name: format!("tapio.fact.{}", fact.kind),
        ..LogRecord::default()
    }
}

fn of_revision(group: &SemanticGroup, trace: [u8; 16]) -> LogRecord {
    let (severity, name) = match group.severity.as_str() {
        "critical" => (SeverityNumber::Fatal, "FATAL"),
        "high" => (SeverityNumber::Error, "ERROR"),
        "medium" => (SeverityNumber::Warn, "WARN"),
        _ => (SeverityNumber::Info, "INFO"),
    };
    let mut attributes = vec![
        text("tapio.incident.id", &group.id),
        int("tapio.incident.revision", group.revision.cast_signed()),
        text("tapio.incident.state", &group.state),
    ];
    if let Some(root) = &group.root_cause {
        attributes.push(text("tapio.root.kind", &root.kind));
        attributes.push(double("tapio.root.confidence", root.confidence));
    }
    attributes.extend(group.actions.first().map(|action| text("tapio.action", action)));
    LogRecord {
        time_unix_nano: unix_ns(&group.updated_at),
        observed_time_unix_nano: unix_ns(&group.updated_at),
        severity_number: severity.into(),
        severity_text: name.into(),
        body: body(group.title.clone()),
        attributes,
        trace_id: trace.to_vec(),
        span_id: root_span(&trace).to_vec(),
        flags: SAMPLED,
        event_name: "tapio.incident".into(),
        ..LogRecord::default()
    }
}
