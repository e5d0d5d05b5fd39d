//! The newest series of what entities use of limited resources.
//!
//! Invariants:
//! - One series an entity and resource: the one that ends last. At most [`SERIES_MAX`]; the oldest give way
//!   and are counted.

use std::collections::BTreeMap;

use crate::detect::{Fact, FactKind, KeyKind, Subject, Value};

/// Series kept.
pub const SERIES_MAX: usize = 8_192;

/// Points of a series that are read.
pub const POINTS_MAX: usize = 720;

/// The series.
#[derive(Debug, Default)]
pub struct Trends {
    series: BTreeMap<(Subject, String), Fact>,
    /// Series that gave way.
    pub evicted: u64,
}

/// The points of a series.
#[must_use]
pub fn points(fact: &Fact) -> &[(u64, u64)] {
    match fact.detail.get("series") {
        Some(Value::Series(points)) => &points[points.len().saturating_sub(POINTS_MAX)..],
        _ => &[],
    }
}

/// What the series is of.
#[must_use]
pub fn resource(fact: &Fact) -> Option<&str> {
    match fact.detail.get("resource") {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    }
}

impl Trends {
    /// Takes in a series. Says whether it is newer than what was known.
    pub fn insert(&mut self, fact: Fact) -> bool {
        let Some(resource) = resource(&fact).filter(|_| fact.kind == FactKind::ResourceTrend) else {
            return false;
        };
        let place = (fact.subject.clone(), resource.to_owned());
        let order = |fact: &Fact| (fact.until_ns, points(fact).len(), fact.id());
        if self.series.get(&place).is_some_and(|known| order(known) >= order(&fact)) {
            return false;
        }
        if self.series.len() >= SERIES_MAX && !self.series.contains_key(&place) {
            let oldest =
                self.series.iter().min_by_key(|(_, fact)| fact.until_ns).map(|(place, _)| place.clone());
            if let Some(oldest) = oldest {
                self.series.remove(&oldest);
                self.evicted += 1;
            }
        }
        self.series.insert(place, fact);
        true
    }

    /// Takes a series back. Says whether it was the one that is known.
    pub fn remove(&mut self, fact: &Fact) -> bool {
        let Some(resource) = resource(fact) else { return false };
        let place = (fact.subject.clone(), resource.to_owned());
        let is_known = self.series.get(&place).is_some_and(|known| known.id() == fact.id());
        is_known && self.series.remove(&place).is_some()
    }

    /// Forgets what ended before.
    pub fn expire(&mut self, until_ns: u64) {
        self.series.retain(|_, fact| fact.until_ns >= until_ns);
    }

    /// Every series, by entity and resource.
    pub fn iter(&self) -> impl Iterator<Item = &Fact> {
        self.series.values()
    }

    /// The series of an entity.
    pub fn of(&self, subject: &Subject) -> impl Iterator<Item = &Fact> {
        self.series.iter().filter(move |((of, _), _)| of == subject).map(|(_, fact)| fact)
    }

    /// Who used most more of a resource among those that share a key with this fact.
    #[must_use]
    pub fn largest_grower(&self, resource: &str, keys: &[KeyKind], near: &Fact) -> Option<Subject> {
        let shares =
            |fact: &Fact| fact.keys.iter().any(|key| keys.contains(&key.kind) && near.keys.contains(key));
        let growth = |fact: &Fact| {
            let points = points(fact);
            let mut before = points.iter().filter(|(at, _)| *at <= near.until_ns);
            let (first, last) = (before.clone().next()?, before.next_back()?);
            last.1.checked_sub(first.1).filter(|grown| *grown > 0)
        };
        // What a place as a whole uses is the sum of those that are sought.
        let is_place = matches!(near.subject.kind.as_str(), "pod" | "node" | "mount" | "device" | "cgroup");
        let of = self.series.iter().filter(|((subject, name), fact)| {
            name == resource && !(is_place && *subject == near.subject) && shares(fact)
        });
        let grown = of.filter_map(|((subject, _), fact)| Some((growth(fact)?, subject)));
        let most = grown.max_by(|one, other| one.0.cmp(&other.0).then_with(|| other.1.cmp(one.1)))?;
        Some(most.1.clone())
    }
}
