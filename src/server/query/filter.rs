//! What a query asks for.
//!
//! Invariants:
//! - Every parameter is understood or refused by name: a typo never widens an answer.

use crate::event::{KINDS, Kind};
use crate::server::book::Id;
use crate::server::decode::GROUPS_BIT;
use crate::server::store::bloom;

use super::time;

/// Events in an answer, unless the query says so.
const LIMIT_DEFAULT: usize = 1000;

/// Most events in an answer.
const LIMIT_MAX: usize = 100_000;

/// Which events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server) struct Filter {
    /// Unix nanoseconds; included.
    pub(in crate::server) from: u64,
    /// Unix nanoseconds; not included.
    pub(in crate::server) to: u64,
    /// Bit N for the kind with number N.
    pub(in crate::server) kind_set: u128,
    pub(in crate::server) entity: Option<EntityFilter>,
    pub(in crate::server) trace_id: Option<[u8; 16]>,
    pub(in crate::server) agent: Option<Id>,
    pub(in crate::server) limit: usize,
}

/// Which entity: by name, unit, container id or pod uid, or by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server) struct EntityFilter {
    pub(in crate::server) name: String,
    /// For 16 hexadecimal digits.
    pub(in crate::server) key: Option<u64>,
}

/// A parameter that is no good. Change it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{parameter}: {message}")]
pub(in crate::server) struct ParameterError {
    pub(in crate::server) parameter: String,
    pub(in crate::server) message: String,
}

/// Hands over each parameter of a query, none twice; an error is that of the parameter.
pub(super) fn each_once(
    parameters: &[(String, String)],
    mut set: impl FnMut(&str, &str) -> Result<(), String>,
) -> Result<(), ParameterError> {
    for (number, (name, value)) in parameters.iter().enumerate() {
        let bad = |message: String| ParameterError { parameter: name.clone(), message };
        if parameters.iter().take(number).any(|(earlier, _)| earlier == name) {
            return Err(bad("is given twice".into()));
        }
        set(name, value).map_err(bad)?;
    }
    Ok(())
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            from: 0,
            to: u64::MAX,
            kind_set: !GROUPS_BIT,
            entity: None,
            trace_id: None,
            agent: None,
            limit: LIMIT_DEFAULT,
        }
    }
}

impl Filter {
    /// Reads the parameters of a query.
    pub(in crate::server) fn parse(parameters: &[(String, String)]) -> Result<Self, ParameterError> {
        let mut filter = Self::default();
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
            "kind" => self.kind_set = kinds(value)?,
            "entity" => self.entity = Some(EntityFilter::new(value)?),
            "trace_id" => {
                let id =
                    Id::from_hex(value).ok_or_else(|| format!("{value:?} is not 32 hexadecimal digits"))?;
                self.trace_id = Some(id.0);
            }
            "agent" => {
                let id =
                    Id::from_hex(value).ok_or_else(|| format!("{value:?} is not 32 hexadecimal digits"))?;
                self.agent = Some(id);
            }
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                self.limit =
                    limit.ok_or_else(|| format!("{value:?} is not a number from 1 to {LIMIT_MAX}"))?;
            }
            _ => {
                return Err(
                    "is not a parameter; there are from, to, kind, entity, trace_id, agent and limit".into(),
                );
            }
        }
        Ok(())
    }

    /// Hashes of what the entities are asked for by, if they are.
    pub(in crate::server) fn hashes(&self) -> Vec<Vec<u64>> {
        let mut all = Vec::new();
        if let Some(entity) = &self.entity {
            let key = entity.key.map(bloom::key_hash);
            all.push(std::iter::once(bloom::name_hash(&entity.name)).chain(key).collect());
        }
        if let Some(trace_id) = self.trace_id {
            all.push(vec![bloom::trace_hash(trace_id)]);
        }
        all
    }
}

impl EntityFilter {
    fn new(value: &str) -> Result<Self, String> {
        if value.is_empty() {
            return Err("is empty; give a name or the 16 digits of a key".into());
        }
        let digits = value.len() == 16 && value.bytes().all(|digit| digit.is_ascii_hexdigit());
        let key = if digits { u64::from_str_radix(value, 16).ok() } else { None };
        Ok(Self { name: value.into(), key })
    }
}

/// The kinds with these names, separated by commas.
fn kinds(value: &str) -> Result<u128, String> {
    value.split(',').try_fold(0, |set, name| {
        let kind = Kind::from_name(name).ok_or_else(|| {
            let known: Vec<&str> = KINDS.iter().map(|info| info.name).collect();
            format!("{name:?} is not a kind; there are {}", known.join(", "))
        })?;
        Ok(set | 1 << kind as u16)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(parameters: &[(&str, &str)]) -> Result<Filter, String> {
        let owned: Vec<_> =
            parameters.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Filter::parse(&owned).map_err(|error| error.to_string())
    }

    /// Scenario: every parameter, well formed; then each badly formed.
    /// Guarantees: all are understood; what is not is refused under its name.
    #[test]
    fn parameters_are_understood_or_refused() {
        let trace = "000102030405060708090a0b0c0d0e0f";
        let filter = parse(&[
            ("from", "5"),
            ("to", "9"),
            ("kind", "load,signal"),
            ("trace_id", trace),
            ("limit", "7"),
        ]);
        let filter = filter.expect("well formed");
        assert_eq!((filter.from, filter.to, filter.limit), (5, 9, 7));
        assert_eq!(filter.kind_set, 1 << Kind::Load as u16 | 1 << Kind::Signal as u16);
        assert_eq!(filter.trace_id.map(|id| id[15]), Some(15));
        let entity = parse(&[("entity", "00000000000000ff")]).expect("well formed").entity.expect("given");
        assert_eq!(entity.key, Some(255));
        for (name, value) in [
            ("from", "yesterday"),
            ("to", ""),
            ("kind", "lod"),
            ("entity", ""),
            ("trace_id", "12"),
            ("agent", "x"),
            ("limit", "0"),
            ("limit", "100001"),
            ("limit", "-1"),
            ("kinds", "load"),
        ] {
            let error = parse(&[(name, value)]).expect_err(name);
            assert!(error.starts_with(&format!("{name}: ")), "{error}");
        }
        assert_eq!(parse(&[("to", "1"), ("to", "2")]), Err("to: is given twice".into()));
    }
}
