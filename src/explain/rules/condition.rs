//! Conditions on facts, as rules write them: `cause.sender = systemd-oomd`, `effect.exit_code != 0`,
//! `fact.key.unit starts session-`, `cause.text contains no such host`, `same.revision`, `cause.culprit
//! known`.
//!
//! Invariants:
//! - A condition reads the fact and nothing else. What the fact does not say fulfils only `!=` and `unknown`.

use crate::detect::{Fact, FactKind, KeyKind, Value, is_detail};

/// Which fact a condition reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The cause.
    Cause,
    /// The effect.
    Effect,
    /// Both, which must say the same.
    Same,
    /// Both, which must say something, and not the same.
    Differs,
    /// The only fact that there is: in a mute, a piece of evidence, a root.
    Fact,
}

/// What is read of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The type of the subject.
    Type,
    /// The name of the subject.
    Name,
    /// The source.
    Source,
    /// A key.
    Key(KeyKind),
    /// A detail.
    Detail(String),
}

/// How it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// It is one of the values.
    Is,
    /// It is none of the values.
    IsNot,
    /// It is a number below the value.
    Below,
    /// It is a number above the value.
    Above,
    /// It contains one of the values, letter case aside.
    Contains,
    /// It starts with one of the values.
    Starts,
    /// The fact says it.
    Known,
    /// The fact does not say it.
    Unknown,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Whose.
    pub side: Side,
    /// What.
    pub read: Read,
    /// How.
    pub test: Test,
    /// Against what.
    pub values: Vec<String>,
    /// As written.
    pub text: String,
}

/// The key kinds by name.
pub const KEY_NAMES: &[(&str, KeyKind)] = &[
    ("invocation", KeyKind::Invocation),
    ("process", KeyKind::Process),
    ("container", KeyKind::Container),
    ("cgroup", KeyKind::Cgroup),
    ("pod_uid", KeyKind::PodUid),
    ("unit", KeyKind::Unit),
    ("pod", KeyKind::Pod),
    ("socket", KeyKind::Socket),
    ("device", KeyKind::Device),
    ("mount", KeyKind::Mount),
    ("owner", KeyKind::Owner),
    ("object", KeyKind::Object),
    ("claimant", KeyKind::Claimant),
    ("pid", KeyKind::Pid),
    ("trace", KeyKind::Trace),
    ("node", KeyKind::Node),
];

/// The key kind with this name.
#[must_use]
pub fn key_kind(name: &str) -> Option<KeyKind> {
    KEY_NAMES.iter().find(|(known, _)| *known == name).map(|&(_, kind)| kind)
}

/// The name of a key kind.
#[must_use]
pub fn key_name(kind: KeyKind) -> &'static str {
    KEY_NAMES.iter().find(|(_, known)| *known == kind).map_or("", |&(name, _)| name)
}

/// A value of a fact as text.
#[must_use]
pub fn value_text(value: &Value) -> String {
    match value {
        Value::Flag(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Text(text) => text.clone(),
        Value::Series(series) => format!("{} values", series.len()),
    }
}

impl Condition {
    /// Reads a condition.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let (subject, rest) = trimmed.split_once(' ').unwrap_or((trimmed, ""));
        let (side, name) = subject.split_once('.').ok_or_else(|| {
            format!("`{text}` names no fact; write for example `cause.signal = 9` or `same.revision`")
        })?;
        let side = match side {
            "cause" => Side::Cause,
            "effect" => Side::Effect,
            "same" => Side::Same,
            "differs" => Side::Differs,
            "fact" => Side::Fact,
            _ => return Err(format!("`{side}` in `{text}` is none of cause, effect, same, differs, fact")),
        };
        let read = match name {
            "type" => Read::Type,
            "name" => Read::Name,
            "source" => Read::Source,
            _ => match name.strip_prefix("key.") {
                Some(key) => {
                    Read::Key(key_kind(key).ok_or_else(|| format!("unknown key `{key}` in `{text}`"))?)
                }
                None => Read::Detail(name.into()),
            },
        };
        let (word, values) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
        let test = match word {
            "=" => Test::Is,
            "!=" => Test::IsNot,
            "<" => Test::Below,
            ">" => Test::Above,
            "contains" => Test::Contains,
            "starts" => Test::Starts,
            "known" | "" => Test::Known,
            "unknown" => Test::Unknown,
            _ => {
                return Err(format!(
                    "`{word}` in `{text}` is none of =, !=, <, >, contains, starts, known, unknown"
                ));
            }
        };
        let values: Vec<String> = values
            .split('|')
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
            .collect();
        let unary = matches!(test, Test::Known | Test::Unknown);
        if unary != values.is_empty() {
            return Err(format!("`{text}` needs {}", if unary { "no value" } else { "a value" }));
        }
        if matches!(side, Side::Same | Side::Differs) && (!unary || !rest.trim().is_empty()) {
            return Err(format!("`{text}`: `{subject}` stands alone"));
        }
        if matches!(test, Test::Below | Test::Above)
            && values.iter().any(|value| value.parse::<i64>().is_err())
        {
            return Err(format!("`{text}` needs a whole number"));
        }
        Ok(Self { side, read, test, values, text: trimmed.to_owned() })
    }

    /// A detail that facts of this kind never have, if the condition reads one.
    #[must_use]
    pub fn unknown_detail(&self, kinds: &[FactKind]) -> Option<&str> {
        match &self.read {
            Read::Detail(name) if !kinds.iter().any(|&kind| is_detail(kind, name)) => Some(name),
            _ => None,
        }
    }

    /// Whether it holds for a cause and an effect; for one fact alone, give it twice.
    #[must_use]
    pub fn holds(&self, cause: &Fact, effect: &Fact) -> bool {
        match self.side {
            Side::Cause => self.fits(self.value(cause)),
            Side::Effect | Side::Fact => self.fits(self.value(effect)),
            Side::Same => {
                let (one, other) = (self.value(cause), self.value(effect));
                one.is_some() && one == other
            }
            Side::Differs => {
                let (one, other) = (self.value(cause), self.value(effect));
                one.is_some() && other.is_some() && one != other
            }
        }
    }

    fn value(&self, fact: &Fact) -> Option<String> {
        match &self.read {
            Read::Type => Some(fact.subject.kind.clone()),
            Read::Name => Some(fact.subject.name.clone()),
            Read::Source => Some(fact.source.name().into()),
            Read::Key(kind) => fact.keys.iter().find(|key| key.kind == *kind).map(|key| key.value.clone()),
            Read::Detail(name) => fact.detail.get(name.as_str()).map(value_text),
        }
    }

    fn fits(&self, value: Option<String>) -> bool {
        let Some(value) = value else { return matches!(self.test, Test::IsNot | Test::Unknown) };
        let any = |check: &dyn Fn(&str) -> bool| self.values.iter().any(|wanted| check(wanted));
        let number = value.parse::<i64>().ok();
        let compared = |wanted: &str, below: bool| {
            let (Some(number), Ok(wanted)) = (number, wanted.parse::<i64>()) else { return false };
            if below { number < wanted } else { number > wanted }
        };
        match self.test {
            Test::Is => any(&|wanted| wanted == value),
            Test::IsNot => !any(&|wanted| wanted == value),
            Test::Below => any(&|wanted| compared(wanted, true)),
            Test::Above => any(&|wanted| compared(wanted, false)),
            Test::Contains => {
                let lower = value.to_lowercase();
                any(&|wanted| lower.contains(&wanted.to_lowercase()))
            }
            Test::Starts => any(&|wanted| value.starts_with(wanted)),
            Test::Known => true,
            Test::Unknown => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::Subject;
    use crate::event::Source;

    /// Scenario: conditions of every form on a fact with and without what they read.
    /// Guarantees: each holds exactly where it should; what is unknown fulfils only `!=` and `unknown`.
    #[test]
    fn conditions_hold_where_they_should() {
        let fact = Fact::new(FactKind::ExternalKill, Subject::new("unit", "a.service"), Source::Ebpf, 1)
            .key(KeyKind::Unit, "a.service")
            .with("sender", "systemd-oomd")
            .with("signal", 9_i64);
        for (text, holds) in [
            ("fact.sender = bash | systemd-oomd", true),
            ("fact.sender != bash", true),
            ("fact.sender contains OOM", true),
            ("fact.sender starts oom", false),
            ("fact.signal > 8", true),
            ("fact.signal < 9", false),
            ("fact.key.unit = a.service", true),
            ("fact.key.pod unknown", true),
            ("fact.exit_code = 0", false),
            ("fact.exit_code != 0", true),
            ("fact.type = unit", true),
            ("same.signal", true),
            ("same.exit_code", false),
        ] {
            assert_eq!(Condition::parse(text).expect(text).holds(&fact, &fact), holds, "{text}");
        }
    }

    /// Scenario: what is no condition.
    /// Guarantees: a message that names what is wrong.
    #[test]
    fn nonsense_is_refused() {
        for (text, part) in [
            ("signal = 9", "names no fact"),
            ("them.signal = 9", "`them`"),
            ("cause.signal is 9", "`is`"),
            ("cause.signal =", "needs a value"),
            ("cause.signal > nine", "whole number"),
            ("cause.key.colour = 9", "`colour`"),
            ("same.signal = 9", "alone"),
        ] {
            let error = Condition::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
