//! Rules: licences for causal edges and what else a verdict needs to know, as data.
//!
//! The rules that are shipped are TOML files in this folder, read by the same code as files of users.
//!
//! Invariants:
//! - A rule set is checked as a whole before it is used; one that is refused leaves the old one in force.
//! - A user's entry of the same name, or for the same root kind, replaces the shipped one.
//! - [`Rule`]s have a fixed order, by name: nothing depends on files or hash maps.

mod check;
mod condition;
mod parse;

pub use condition::{Condition, KEY_NAMES, Read, Side, Test, key_kind, key_name, value_text};
pub use parse::RuleError;

use crate::detect::{FACT_KINDS, FactKind, KeyKind};
use crate::event::Source;

/// Longest window of a rule that licenses a causal edge.
pub const CAUSE_WINDOW_NS_MAX: u64 = 3_600_000_000_000;

/// Longest window of the other rules.
pub const CONTEXT_WINDOW_NS_MAX: u64 = 6 * CAUSE_WINDOW_NS_MAX;

/// Rules at most, shipped ones included.
pub const RULES_MAX: usize = 1_000;

/// What a rule licenses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The cause brought the effect about.
    Causes,
    /// The effect is the cause once more.
    Repeats,
    /// The effect was asked for and is no failure.
    Silences,
    /// The cause made the effect likelier or worse, without being what brought it about.
    Contributes,
    /// The cause is what somebody said about the effect.
    Supports,
}

/// Whether a piece of evidence can stop an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It only weighs.
    Weighs,
    /// Without it there is no edge.
    Required,
    /// With it there is no edge.
    Excluded,
}

/// A fact beside cause and effect whose presence or absence decides between hypotheses.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// Which kinds count.
    pub kinds: Vec<FactKind>,
    /// To which of the two it must be near.
    pub near: Side,
    /// What it must have in common with it.
    pub keys: Vec<KeyKind>,
    /// How far apart at most, either way.
    pub window_ns: u64,
    /// Added to the confidence when there is one.
    pub present: f64,
    /// Added when there is none and its source missed nothing.
    pub absent: f64,
    /// Whether it can stop the edge.
    pub need: Need,
    /// Who would have seen it.
    pub source: Source,
    /// What must hold for it.
    pub when: Vec<Condition>,
}

/// One licence.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Names it in edges and for users.
    pub name: String,
    /// What it licenses.
    pub part: Part,
    /// Kinds of the cause.
    pub causes: Vec<FactKind>,
    /// Kinds of the effect.
    pub effects: Vec<FactKind>,
    /// Any of these must match.
    pub keys: Vec<KeyKind>,
    /// The two must have the same subject; then `keys` is empty.
    pub same_subject: bool,
    /// Or the effect's unit or object must need the cause's through these relations.
    pub via: Vec<String>,
    /// The two must not belong to different runs of a unit or pod.
    pub same_run: bool,
    /// How long the effect may follow the cause.
    pub window_ns: u64,
    /// How long it may seem to come before it.
    pub slack_ns: u64,
    /// From 0 to 1.
    pub confidence: f64,
    /// What must hold.
    pub when: Vec<Condition>,
    /// What decides beside it.
    pub evidence: Vec<Evidence>,
    /// What the edge says, with `{cause}`, `{effect}` and `{cause.DETAIL}`.
    pub text: String,
}

/// Facts that are no symptom although their kind is one.
#[derive(Debug, Clone, PartialEq)]
pub struct Mute {
    /// Names it.
    pub name: String,
    /// Of these kinds.
    pub kinds: Vec<FactKind>,
    /// For which this holds.
    pub when: Vec<Condition>,
}

/// What to do about a root.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// When it applies.
    pub when: Vec<Condition>,
    /// What to do; it is left out where a `{name}` in it is not known.
    pub text: String,
}

/// What to say and do about a root of some kind.
#[derive(Debug, Clone, PartialEq)]
pub struct RootWords {
    /// The kinds.
    pub kinds: Vec<FactKind>,
    /// Whether such a root leaves the question open: it is what happened, not why.
    pub open: bool,
    /// Under which kind it is reported, if not its own.
    pub named: Option<FactKind>,
    /// What happened.
    pub text: String,
    /// What to do.
    pub actions: Vec<Action>,
}

/// Where to look for who used up what ran out.
#[derive(Debug, Clone, PartialEq)]
pub struct Culprit {
    /// Names it.
    pub name: String,
    /// For roots of these kinds.
    pub kinds: Vec<FactKind>,
    /// Whoever used most more of this resource.
    pub resource: String,
    /// And has one of these in common with the root.
    pub keys: Vec<KeyKind>,
    /// It is the culprit only if the root is not its own.
    pub when: Vec<Condition>,
}

/// What facts of some kinds say that tells them from their look-alikes: shown where one is on the way that is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Shows {
    /// Names it.
    pub name: String,
    /// Of these kinds.
    pub kinds: Vec<FactKind>,
    /// The names of details, in the order in which they are shown.
    pub details: Vec<String>,
}

/// Everything that the engine knows beforehand.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleSet {
    /// The licences, by name.
    pub rules: Vec<Rule>,
    /// What is no symptom.
    pub mutes: Vec<Mute>,
    /// What to say and do.
    pub roots: Vec<RootWords>,
    /// Whom to look for.
    pub culprits: Vec<Culprit>,
    /// What tells facts from their look-alikes.
    pub shows: Vec<Shows>,
    by_cause: Vec<Vec<u16>>,
    by_effect: Vec<Vec<u16>>,
    by_evidence: Vec<Vec<(u16, u16)>>,
}

/// The files that are shipped, by name.
const SHIPPED: &[(&str, &str)] = &[
    ("process.toml", include_str!("process.toml")),
    ("resource.toml", include_str!("resource.toml")),
    ("network.toml", include_str!("network.toml")),
    ("kubernetes.toml", include_str!("kubernetes.toml")),
    ("context.toml", include_str!("context.toml")),
    ("roots.toml", include_str!("roots.toml")),
];

impl RuleSet {
    /// The rules that are shipped.
    ///
    /// # Errors
    /// [`RuleError`]: never in a build whose tests pass.
    pub fn shipped() -> Result<Self, RuleError> {
        Self::with_files(&[])
    }

    /// The rules that are shipped, with those of these files (name and text) added or in their place.
    ///
    /// # Errors
    /// [`RuleError`] with file, line and column.
    pub fn with_files(files: &[(String, String)]) -> Result<Self, RuleError> {
        let mut parts = parse::Parts::default();
        for (name, text) in SHIPPED {
            parts.add(name, text)?;
        }
        for (name, text) in files {
            parts.add(name, text)?;
        }
        check::check(&parts)?;
        Ok(parts.into_set())
    }

    /// The rules whose cause may be of this kind, as places in `rules`.
    #[must_use]
    pub fn from_cause(&self, kind: FactKind) -> &[u16] {
        self.by_cause.get(kind as usize).map_or(&[], Vec::as_slice)
    }

    /// The rules whose effect may be of this kind.
    #[must_use]
    pub fn to_effect(&self, kind: FactKind) -> &[u16] {
        self.by_effect.get(kind as usize).map_or(&[], Vec::as_slice)
    }

    /// The rules, and which of their pieces of evidence, that this kind decides.
    #[must_use]
    pub fn decided_by(&self, kind: FactKind) -> &[(u16, u16)] {
        self.by_evidence.get(kind as usize).map_or(&[], Vec::as_slice)
    }

    /// The rule at this place.
    #[must_use]
    pub fn rule(&self, place: u16) -> Option<&Rule> {
        self.rules.get(usize::from(place))
    }

    /// Whether the rule at this place licenses causal edges, repetitions among them.
    #[must_use]
    pub fn is_causal(&self, place: u16) -> bool {
        self.rule(place).is_some_and(|rule| matches!(rule.part, Part::Causes | Part::Repeats))
    }

    /// What to say about a root of this kind.
    #[must_use]
    pub fn root(&self, kind: FactKind) -> Option<&RootWords> {
        self.roots.iter().find(|root| root.kinds.contains(&kind))
    }

    fn index(&mut self) {
        self.rules.sort_by(|a, b| a.name.cmp(&b.name));
        self.mutes.sort_by(|a, b| a.name.cmp(&b.name));
        self.culprits.sort_by(|a, b| a.name.cmp(&b.name));
        self.shows.sort_by(|a, b| a.name.cmp(&b.name));
        let empty = || vec![Vec::new(); FACT_KINDS.len()];
        let mut by_evidence = vec![Vec::new(); FACT_KINDS.len()];
        (self.by_cause, self.by_effect) = (empty(), empty());
        for (place, rule) in (0_u16..).zip(&self.rules) {
            for &kind in &rule.causes {
                self.by_cause[kind as usize].push(place);
            }
            for &kind in &rule.effects {
                self.by_effect[kind as usize].push(place);
            }
            for (number, evidence) in (0_u16..).zip(&rule.evidence) {
                for &kind in &evidence.kinds {
                    by_evidence[kind as usize].push((place, number));
                }
            }
        }
        self.by_evidence = by_evidence;
    }
}
