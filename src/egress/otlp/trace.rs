//! An incident as one trace: the root span is the incident, a span for each fact below what caused it.
//!
//! Invariants:
//! - Ids are derived from the incident and the fact: exporting twice changes nothing.
//! - A span starts when its fact happened and ends when the last of its effects did.
//! - Every other cause of a fact, and the trace of what it is about, is a link.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, status};

use super::attributes::{detail, double, int, resource, text};
use super::{Exported, Origin};
use crate::event::{Source, mix, span_id};
use crate::proto::{CausalEdge, IncidentEntity, IncidentFact, SemanticGroup};

/// The id of the incident's own span.
pub(super) fn root_span(trace_id: &[u8; 16]) -> [u8; 8] {
    span_of(trace_id, "incident")
}

/// The id of a fact's span.
pub(super) fn fact_span(trace_id: &[u8; 16], fact: &IncidentFact) -> [u8; 8] {
    // The events, not the label: a label may go to another fact when an earlier one arrives late.
    let mut identity = fact.kind.clone();
    if let Some(entity) = &fact.entity {
        identity = identity + "\n" + &entity.r#type + "\n" + &entity.name;
    }
    match fact.events.first() {
        Some(event) => identity = identity + "\n" + event,
        None => identity = identity + "\n" + &fact.at,
    }
    span_of(trace_id, &identity)
}

fn span_of(trace_id: &[u8; 16], identity: &str) -> [u8; 8] {
    let trace = u128::from_be_bytes(*trace_id);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    let mut id = mix(trace as u64) ^ mix((trace >> 64) as u64 ^ 1);
    for chunk in identity.as_bytes().chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        id = mix(id ^ u64::from_le_bytes(word));
    }
    id.max(1).to_be_bytes()
}

/// A trace id from its digits; all zero when they are none.
pub(super) fn trace_id(digits: &str) -> [u8; 16] {
    u128::from_str_radix(digits, 16).unwrap_or(0).to_be_bytes()
}

/// Nanoseconds since 1970 of an RFC 3339 text; 0 when it is none.
pub(super) fn unix_ns(text: &str) -> u64 {
    let since =
        humantime::parse_rfc3339_weak(text).ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

/// The spans of an incident that `exported` does not have yet, one resource for each entity.
pub(super) fn spans(group: &SemanticGroup, origin: &Origin, exported: &mut Exported) -> Vec<ResourceSpans> {
    let trace = trace_id(&group.trace_id);
    let mut by_entity: BTreeMap<(String, String), (IncidentEntity, Vec<Span>)> = BTreeMap::new();
    let mut put = |entity: Option<&IncidentEntity>, span: Span| {
        let entity = entity.cloned().unwrap_or_default();
        let place = (entity.r#type.clone(), entity.name.clone());
        by_entity.entry(place).or_insert_with(|| (entity, Vec::new())).1.push(span);
    };
    if exported.spans.insert(root_span(&trace)) {
        let entity = group.root_cause.as_ref().and_then(|root| root.entity.as_ref());
        put(entity, incident_span(group, trace));
    }
    for fact in &group.facts {
        if exported.spans.insert(fact_span(&trace, fact)) {
            put(fact.entity.as_ref(), span(group, fact, trace, origin));
        }
    }
    let scope = InstrumentationScope {
        name: "tapio-collector".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    };
    let resources = by_entity.into_values().map(|(entity, spans)| ResourceSpans {
        resource: Some(resource(&entity, &origin.attributes)),
        scope_spans: vec![ScopeSpans { scope: Some(scope.clone()), spans, schema_url: String::new() }],
        schema_url: String::new(),
    });
    resources.collect()
}

fn incident_span(group: &SemanticGroup, trace: [u8; 16]) -> Span {
    let times = group.facts.iter().map(|fact| unix_ns(&fact.at));
    let (first, last) = times.fold((u64::MAX, 0), |(first, last), at| (first.min(at), last.max(at)));
    let mut attributes = vec![
        text("tapio.incident.id", &group.id),
        int("tapio.incident.revision", group.revision.cast_signed()),
        text("tapio.incident.severity", &group.severity),
    ];
    if let Some(root) = &group.root_cause {
        attributes.push(text("tapio.root.kind", &root.kind));
        attributes.push(text("tapio.root.summary", &root.summary));
        attributes.push(double("tapio.root.confidence", root.confidence));
    }
    if let Some(impact) = &group.impact {
        attributes.push(text("tapio.impact.level", &impact.level));
        attributes.push(double("tapio.impact.score", impact.score));
    }
    Span {
        trace_id: trace.to_vec(),
        span_id: root_span(&trace).to_vec(),
        name: group.title.clone(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: first.min(last),
        end_time_unix_nano: last,
        attributes,
        status: Some(Status { message: group.title.clone(), code: status::StatusCode::Error.into() }),
        flags: SAMPLED,
        ..Span::default()
    }
}

/// The trace flag "sampled".
pub(super) const SAMPLED: u32 = 1;

fn span(group: &SemanticGroup, fact: &IncidentFact, trace: [u8; 16], origin: &Origin) -> Span {
    let at = unix_ns(&fact.at);
    let span_of = |id: &str| {
        let fact = group.facts.iter().find(|fact| fact.id == id);
        fact.map(|fact| (fact_span(&trace, fact), unix_ns(&fact.at)))
    };
    let effects = group.chain.iter().filter(|edge| edge.from == fact.id);
    let end = effects.filter_map(|edge| span_of(&edge.to)).map(|(_, at)| at).max();
    let mut causes: Vec<&CausalEdge> = group.chain.iter().filter(|edge| edge.to == fact.id).collect();
    causes.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    let parent = causes.first().and_then(|edge| span_of(&edge.from)).map(|(id, _)| id);
    let others = causes.iter().skip(1).filter_map(|edge| {
        let (id, _) = span_of(&edge.from)?;
        Some(Link {
            trace_id: trace.to_vec(),
            span_id: id.to_vec(),
            attributes: vec![text("tapio.rule", &edge.rule), double("tapio.confidence", edge.confidence)],
            flags: SAMPLED,
            ..Link::default()
        })
    });
    let links = others.chain(entity_link(fact, origin)).collect();
    let mut attributes = vec![text("tapio.fact.kind", &fact.kind), text("tapio.fact.source", &fact.source)];
    if let Some(edge) = causes.first() {
        attributes.push(text("tapio.rule", &edge.rule));
        attributes.push(double("tapio.confidence", edge.confidence));
    }
    attributes.extend(fact.detail.iter().filter_map(|(name, value)| detail(name, value)));
    Span {
        trace_id: trace.to_vec(),
        span_id: fact_span(&trace, fact).to_vec(),
        parent_span_id: parent.unwrap_or_else(|| root_span(&trace)).to_vec(),
        name: fact.kind.clone(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: at,
        end_time_unix_nano: end.map_or(at, |end| end.max(at)),
        attributes,
        links,
        flags: SAMPLED,
        ..Span::default()
    }
}

/// The link to the trace of what the fact is about, at its first event.
fn entity_link(fact: &IncidentFact, origin: &Origin) -> Option<Link> {
    let trace = Some(trace_id(&fact.trace_id)).filter(|id| *id != [0; 16])?;
    let event = fact.events.first()?;
    let mut parts = event.split(':');
    let name = parts.next()?;
    let source = Source::ALL.into_iter().find(|source| source.name() == name)?;
    let (producer, sequence) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let span = span_id(origin.boot_id, source, producer, sequence);
    Some(Link {
        trace_id: trace.to_vec(),
        span_id: span.to_be_bytes().to_vec(),
        attributes: vec![text("tapio.link", "entity")],
        ..Link::default()
    })
}
