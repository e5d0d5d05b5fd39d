//! What the sources missed.
//!
//! Invariants:
//! - At most [`GAPS_MAX`] stretches; what goes beyond widens the nearest one of its source, so that nothing
//!   missed is forgotten before its time.

use std::collections::BTreeSet;

use crate::detect::{Fact, FactKind};
use crate::event::Source;

/// Stretches kept.
pub const GAPS_MAX: usize = 256;

/// One stretch in which a source missed something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// From here.
    pub from_ns: u64,
    /// To here.
    pub until_ns: u64,
    /// Who missed.
    pub source: Source,
    /// What is known of it.
    pub text: String,
}

/// The stretches.
#[derive(Debug, Default)]
pub struct Gaps {
    gaps: BTreeSet<Gap>,
}

fn gap(fact: &Fact) -> Gap {
    let detail = |name: &str| fact.detail.get(name).map(super::rules::value_text);
    let lost = detail("lost").filter(|lost| lost != "0");
    let text = match (lost, detail("reason")) {
        (Some(lost), Some(reason)) => format!("{lost} missed: {reason}"),
        (Some(lost), None) => format!("{lost} missed"),
        (None, Some(reason)) => reason,
        (None, None) => "an unknown number missed".into(),
    };
    Gap { from_ns: fact.from_ns, until_ns: fact.until_ns, source: fact.source, text }
}

impl Gaps {
    /// Takes in a gap. Says whether it is news.
    pub fn insert(&mut self, fact: &Fact) -> bool {
        if fact.kind != FactKind::EvidenceGap {
            return false;
        }
        let gap = gap(fact);
        if !self.gaps.insert(gap.clone()) {
            return false;
        }
        if self.gaps.len() > GAPS_MAX
            && let Some(first) = self.gaps.pop_first()
            && let Some(next) = self.gaps.iter().find(|next| next.source == first.source).cloned()
        {
            self.gaps.remove(&next);
            self.gaps.insert(Gap { from_ns: first.from_ns, ..next });
        }
        true
    }

    /// Takes a gap back. Says whether it was known.
    pub fn remove(&mut self, fact: &Fact) -> bool {
        self.gaps.remove(&gap(fact))
    }

    /// Whether the source missed something between the two.
    #[must_use]
    pub fn covers(&self, source: Source, from_ns: u64, until_ns: u64) -> bool {
        self.between(from_ns, until_ns).any(|gap| gap.source == source)
    }

    /// What was missed between the two.
    pub fn between(&self, from_ns: u64, until_ns: u64) -> impl Iterator<Item = &Gap> {
        self.gaps.iter().filter(move |gap| gap.from_ns <= until_ns && gap.until_ns >= from_ns)
    }

    /// Forgets what is older.
    pub fn expire(&mut self, until_ns: u64) {
        self.gaps.retain(|gap| gap.until_ns >= until_ns);
    }
}
