//! What the engine says: one revision of an incident, as it is written in JSON.
//!
//! Invariants:
//! - [`Incident::verdict`] is a function of the set of facts, the time asked for, and the clock's offset: the
//!   same facts in any order make the same bytes.
//! - Names are a contract: fields are added, never renamed.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::detect::Subject;

/// Where an incident is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Something may still happen.
    Open,
    /// It was quiet for long enough, and what failed runs again or was given up.
    Closed,
    /// Later facts showed that it is part of another.
    Merged,
    /// Later facts showed that it was asked for, or no failure; or a forecast does not hold any more.
    Withdrawn,
    /// Nothing failed yet: a trend says that it will.
    Forecast,
}

impl State {
    /// As in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Merged => "merged",
            Self::Withdrawn => "withdrawn",
            Self::Forecast => "forecast",
        }
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Look at it some time.
    Low,
    /// Look at it today.
    Medium,
    /// Look at it now.
    High,
    /// Everybody look at it now.
    Critical,
}

impl Level {
    /// As in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The level of a score from 0 to 1.
    #[must_use]
    pub fn of(score: f64) -> Self {
        match score {
            score if score < 0.25 => Self::Low,
            score if score < 0.5 => Self::Medium,
            score if score < 0.8 => Self::High,
            _ => Self::Critical,
        }
    }
}

/// Something that decided between hypotheses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// What was there, or was not although it would have been seen.
    pub evidence: String,
    /// What it added to the confidence.
    pub weight: f64,
    /// The fact, where it is one of the incident's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fact: Option<String>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootCause {
    /// The kind.
    pub kind: String,
    /// Who or what is at fault.
    pub entity: Subject,
    /// In a sentence.
    pub summary: String,
    /// From 0 to 1.
    pub confidence: f64,
    /// The fact.
    pub fact: String,
    /// Whether the cause was found; else this is the earliest thing that happened.
    pub known: bool,
    /// What decided.
    pub decided_by: Vec<Decision>,
}

/// Who ended a process, and by whose limit or order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Killer {
    /// `kernel_oom`, `systemd_oomd`, `service_manager`, `container_runtime`, `person`, `itself`.
    pub who: String,
    /// In a sentence.
    pub text: String,
    /// Whose limit it was, if it was one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_of: Option<String>,
    /// The fact that says so.
    pub fact: String,
}

/// One causal edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The cause.
    pub from: String,
    /// The effect.
    pub to: String,
    /// The rule that licenses it.
    pub rule: String,
    /// What they have in common.
    pub keys: Vec<String>,
    /// How long after.
    pub dt_ms: f64,
    /// From 0 to 1.
    pub confidence: f64,
    /// In a sentence.
    pub text: String,
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FactView {
    /// Its name within the incident.
    pub id: String,
    /// The kind.
    pub kind: String,
    /// What it is about.
    pub entity: Subject,
    /// When.
    pub at: String,
    /// How much later it may have been.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uncertain_ms: u64,
    /// Who says so.
    pub source: String,
    /// The events that say so.
    pub events: Vec<String>,
    /// More of what they say.
    pub detail: Map<String, Json>,
    /// What it has in common with others, by kind of key.
    pub keys: Map<String, Json>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What made it likelier or worse.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contribution {
    /// The kind.
    pub kind: String,
    /// Who or what.
    pub entity: Subject,
    /// In a sentence.
    pub summary: String,
    /// The fact, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fact: Option<String>,
}

/// What else it could have been.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hypothesis {
    /// The kind.
    pub kind: String,
    /// Who or what.
    pub entity: Subject,
    /// From 0 to 1.
    pub confidence: f64,
    /// Of what it would be the cause.
    pub effect: String,
    /// What speaks against it, or what is missing.
    pub against: Vec<String>,
}

/// What a source missed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GapView {
    /// Who.
    pub source: String,
    /// From when.
    pub from: String,
    /// Until when.
    pub until: String,
    /// What is known of it.
    pub text: String,
}

/// One that suffers or may.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Affected {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name.
    pub name: String,
    /// How: what failed in it, or through what it depends on what did.
    pub how: String,
    /// Whether it suffers already.
    pub failed: bool,
}

/// Whom it hits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Impact {
    /// How bad.
    pub level: Level,
    /// From 0 to 1.
    pub score: f64,
    /// What the score is made of.
    pub terms: Vec<String>,
    /// Who suffers, and who depends on them.
    pub affected: Vec<Affected>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub affected_more: u64,
    /// That it takes down one more.
    pub cascade_probability: f64,
    /// Which.
    pub cascade_targets: Vec<String>,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// What.
    pub scenario: String,
    /// Who or what.
    pub entity: Subject,
    /// From 0 to 1.
    pub probability: f64,
    /// When, in seconds from `at`: not before the first, likely not after the second.
    pub eta_s: [u64; 2],
    /// From when on.
    pub at: String,
    /// What it is based on.
    pub basis: String,
    /// What to do against it.
    pub actions: Vec<String>,
}

/// One revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Names it: a hash of the boot and the root fact.
    pub id: String,
    /// Counts changes of the content.
    pub revision: u64,
    /// Where it is in its life.
    pub state: State,
    /// How bad it is.
    pub severity: Level,
    /// In a line.
    pub title: String,
    /// Of the trace that shows it.
    pub trace_id: String,
    /// When the root was.
    pub started_at: String,
    /// When the last fact was.
    pub updated_at: String,
    /// The answer.
    pub root_cause: RootCause,
    /// Who killed, if somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub killed_by: Option<Killer>,
    /// The causal edges, from the root on.
    pub chain: Vec<Link>,
    /// The facts, by time.
    pub facts: Vec<FactView>,
    /// Facts that are not shown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub facts_more: u64,
    /// What made it likelier or worse.
    pub contributing: Vec<Contribution>,
    /// What else it could have been.
    pub hypotheses: Vec<Hypothesis>,
    /// What was missed meanwhile.
    pub evidence_gaps: Vec<GapView>,
    /// Whom it hits.
    pub impact: Impact,
    /// What comes next.
    pub predictions: Vec<Prediction>,
    /// What to do.
    pub actions: Vec<String>,
    /// The incident that this one is part of, as it turned out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged_into: Option<String>,
    /// The file of the agent's host that has the events behind it, for `replay`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<String>,
}

impl Incident {
    /// The verdict alone: what a replay of the same events says, byte for byte. How often it was said, which depends on when
    /// its events arrived, and where they are kept are no part of it.
    #[must_use]
    pub fn verdict(&self) -> Self {
        Self { revision: 0, recording: None, ..self.clone() }
    }
}
