//! An incident as the message that goes to the server.
//!
//! Invariants:
//! - The message and its `json` say the same.

use serde_json::Value;

use crate::detect::Subject;
use crate::explain::incident::{FactView, Impact, Incident, Link, Prediction, RootCause};
use crate::proto::{self, Detail, IncidentEntity, IncidentFact, SemanticGroup, detail};

impl From<&Incident> for SemanticGroup {
    fn from(incident: &Incident) -> Self {
        Self {
            id: incident.id.clone(),
            revision: incident.revision,
            state: incident.state.name().into(),
            severity: incident.severity.name().into(),
            title: incident.title.clone(),
            trace_id: incident.trace_id.clone(),
            started_at: incident.started_at.clone(),
            updated_at: incident.updated_at.clone(),
            root_cause: Some(root_cause(&incident.root_cause)),
            chain: incident.chain.iter().map(edge).collect(),
            facts: incident.facts.iter().map(fact).collect(),
            impact: Some(impact(&incident.impact)),
            predictions: incident.predictions.iter().map(prediction).collect(),
            actions: incident.actions.clone(),
            // Maps with text keys and finite numbers only: nothing here can fail.
            json: serde_json::to_string(incident).unwrap_or_default(),
        }
    }
}

fn entity(subject: &Subject) -> IncidentEntity {
    IncidentEntity { r#type: subject.kind.clone(), name: subject.name.clone() }
}

fn root_cause(root: &RootCause) -> proto::RootCause {
    proto::RootCause {
        kind: root.kind.clone(),
        entity: Some(entity(&root.entity)),
        summary: root.summary.clone(),
        confidence: root.confidence,
        fact: root.fact.clone(),
    }
}

fn edge(link: &Link) -> proto::CausalEdge {
    proto::CausalEdge {
        from: link.from.clone(),
        to: link.to.clone(),
        rule: link.rule.clone(),
        keys: link.keys.clone(),
        dt_ms: link.dt_ms,
        confidence: link.confidence,
    }
}

fn fact(fact: &FactView) -> IncidentFact {
    IncidentFact {
        id: fact.id.clone(),
        kind: fact.kind.clone(),
        entity: Some(entity(&fact.entity)),
        at: fact.at.clone(),
        source: fact.source.clone(),
        events: fact.events.clone(),
        detail: fact.detail.iter().map(|(name, value)| (name.clone(), detail(value))).collect(),
        trace_id: trace_id(fact).unwrap_or_default(),
    }
}

fn detail(value: &Value) -> Detail {
    let value = match value {
        Value::Bool(flag) => detail::Value::Flag(*flag),
        Value::Number(number) => {
            number.as_i64().map_or_else(|| detail::Value::Text(number.to_string()), detail::Value::Number)
        }
        Value::String(text) => detail::Value::Text(text.clone()),
        other => detail::Value::Text(other.to_string()),
    };
    Detail { value: Some(value) }
}

/// The trace of what the fact is about: the invocation, or the first half of the container's id.
fn trace_id(fact: &FactView) -> Option<String> {
    let of = |key: &str| match fact.keys.get(key)? {
        Value::String(text) => Some(text.as_str()),
        Value::Array(all) => all.first()?.as_str(),
        _ => None,
    };
    let digits = of("invocation").or_else(|| of("container"))?.get(..32)?;
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| digits.to_lowercase())
}

fn impact(impact: &Impact) -> proto::Impact {
    let affected = impact.affected.iter();
    proto::Impact {
        level: impact.level.name().into(),
        score: impact.score,
        affected: affected
            .map(|one| IncidentEntity { r#type: one.kind.clone(), name: one.name.clone() })
            .collect(),
        cascade_probability: impact.cascade_probability,
        cascade_targets: impact.cascade_targets.clone(),
    }
}

fn prediction(prediction: &Prediction) -> proto::Prediction {
    proto::Prediction {
        scenario: prediction.scenario.clone(),
        probability: prediction.probability,
        eta_s: prediction.eta_s.to_vec(),
        actions: prediction.actions.clone(),
    }
}
