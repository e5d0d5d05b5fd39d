//! What a query for incidents asks for, and one answer.
//!
//! Invariants:
//! - As for events: every parameter is understood or refused by name.

use serde_json::Value;

use super::filter::{ParameterError, each_once};
use super::time;
use crate::proto::SemanticGroup;
use crate::server::book::Id;

/// Incidents in an answer, unless the query says so, and at most.
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 10_000;

/// What an incident can be.
const STATES: [&str; 4] = ["open", "closed", "merged", "withdrawn"];

/// Which incidents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server) struct GroupFilter {
    /// Unix nanoseconds of a revision; included.
    pub(in crate::server) from: u64,
    /// Unix nanoseconds of a revision; not included.
    pub(in crate::server) to: u64,
    state: Option<String>,
    id: Option<String>,
    /// Every revision, not only the newest.
    pub(in crate::server) revisions: bool,
    pub(in crate::server) limit: usize,
}

impl GroupFilter {
    /// Reads the parameters of a query.
    pub(in crate::server) fn parse(parameters: &[(String, String)]) -> Result<Self, ParameterError> {
        let mut filter =
            Self { from: 0, to: u64::MAX, state: None, id: None, revisions: false, limit: LIMIT_DEFAULT };
        each_once(parameters, |name, value| filter.set(name, value))?;
        Ok(filter)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let time = |value| {
            time::parse(value).ok_or_else(|| format!("{value:?} is neither RFC 3339 nor Unix nanoseconds"))
        };
        match name {
            "from" => self.from = time(value)?,
            "to" => self.to = time(value)?,
            "state" => {
                if !STATES.contains(&value) {
                    return Err(format!("{value:?} is none of {}", STATES.join(", ")));
                }
                self.state = Some(value.into());
            }
            "id" => {
                if value.is_empty() || !value.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return Err(format!("{value:?} is not of hexadecimal digits"));
                }
                self.id = Some(value.to_lowercase());
            }
            "revisions" => {
                self.revisions = match value {
                    "all" => true,
                    "newest" => false,
                    _ => return Err(format!("{value:?} is neither all nor newest")),
                };
            }
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                self.limit =
                    limit.ok_or_else(|| format!("{value:?} is not a number from 1 to {LIMIT_MAX}"))?;
            }
            _ => return Err("is not a parameter; there are from, to, state, id, revisions and limit".into()),
        }
        Ok(())
    }

    /// Whether some revision of this incident may be wanted.
    pub(super) fn is_about(&self, group: &SemanticGroup) -> bool {
        self.id.as_ref().is_none_or(|id| *id == group.id)
    }

    /// Whether this revision is wanted; asked of the newest, so that a closed incident is not found open.
    pub(super) fn lets_through(&self, group: &SemanticGroup) -> bool {
        self.state.as_ref().is_none_or(|state| *state == group.state)
    }
}

/// A revision of an incident, and the agent that made it.
#[derive(Debug, Clone)]
pub(in crate::server) struct Group {
    pub(in crate::server) agent: Id,
    pub(in crate::server) group: SemanticGroup,
}

impl Group {
    /// What the agent wrote, with the agent and the name of its host.
    pub(in crate::server) fn to_json(&self, host: &str) -> Value {
        let mut json = serde_json::from_str(&self.group.json).unwrap_or(Value::Null);
        if !json.is_object() {
            // A sender of another version, or no sender of ours: what the message itself says.
            let group = &self.group;
            json = serde_json::json!({ "id": group.id, "revision": group.revision, "state": group.state,
                "severity": group.severity, "title": group.title, "started_at": group.started_at });
        }
        json["agent"] = self.agent.to_string().into();
        json["host"] = host.into();
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(parameters: &[(&str, &str)]) -> Result<GroupFilter, String> {
        let owned: Vec<_> =
            parameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        GroupFilter::parse(&owned).map_err(|error| error.to_string())
    }

    /// Scenario: good parameters, and one bad value for each.
    /// Guarantees: the good ones filter, each bad one is named.
    #[test]
    fn parameters_are_understood_or_refused() {
        let filter = parse(&[("state", "open"), ("limit", "3"), ("revisions", "all")]).expect("good");
        assert_eq!((filter.limit, filter.revisions), (3, true));
        let group = |state: &str| SemanticGroup { state: state.into(), ..SemanticGroup::default() };
        assert!(filter.lets_through(&group("open")) && !filter.lets_through(&group("closed")));
        for (name, value) in [
            ("state", "ajar"),
            ("limit", "0"),
            ("revisions", "3"),
            ("id", "x"),
            ("from", "then"),
            ("kind", "x"),
        ] {
            assert!(parse(&[(name, value)]).expect_err("refused").starts_with(name));
        }
    }
}
