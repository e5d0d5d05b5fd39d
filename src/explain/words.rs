//! Fills the templates of rules with what facts say.
//!
//! `{name}` stands for a detail, a key or one of the derived names; `{name: of %}` for ` of ` and the value
//! if it is known, and for nothing if not.
//!
//! Invariants:
//! - A name that is not known is never filled with a guess: texts say `unknown`, actions are left out.

use crate::detect::{Fact, KeyKind, Subject, Value};
use crate::explain::rules::{KEY_NAMES, value_text};

/// Longest value put into a text.
const VALUE_CHARS_MAX: usize = 160;

/// What a template can name.
#[derive(Debug, Clone, Copy)]
pub struct Words<'fact> {
    /// The fact.
    pub fact: &'fact Fact,
    /// Who used up what ran out, if that is known and not the fact's subject.
    pub culprit: Option<&'fact Subject>,
}

impl Words<'_> {
    /// The value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        let fact = self.fact;
        let value = match name {
            "subject" => Some(fact.subject.to_string()),
            "name" => Some(fact.subject.name.clone()),
            "type" => Some(fact.subject.kind.clone()),
            "kind" => Some(fact.kind.name().into()),
            "culprit" => self.culprit.map(ToString::to_string).or_else(|| detail(fact, "culprit")),
            "culprit_name" => {
                self.culprit.map(|culprit| culprit.name.clone()).or_else(|| last_word(fact, "culprit"))
            }
            "holder_name" => last_word(fact, "holder"),
            "namespace" => pod(fact).and_then(|pod| Some(pod.split_once('/')?.0.to_owned())),
            "pod_name" => pod(fact).and_then(|pod| Some(pod.split_once('/')?.1.to_owned())),
            "container_name" => container_name(fact),
            "owner_ref" => owner_ref(fact),
            "unit" => key(fact, KeyKind::Unit).or_else(|| of_type(fact, "unit")),
            _ => detail(fact, name).or_else(|| {
                let kind = KEY_NAMES.iter().find(|(known, _)| *known == name)?.1;
                key(fact, kind)
            }),
        };
        value.filter(|value| !value.is_empty()).map(|value| shortened(&value))
    }

    /// Fills a text.
    #[must_use]
    pub fn text(&self, template: &str) -> String {
        self.fill(template).0
    }

    /// Fills an action, if everything that it names is known.
    #[must_use]
    pub fn action(&self, template: &str) -> Option<String> {
        let (text, whole) = self.fill(template);
        whole.then_some(text)
    }

    fn fill(&self, template: &str) -> (String, bool) {
        fill(template, |name| self.get(name))
    }
}

/// Fills a template; says whether every plain name was known.
pub fn fill(template: &str, get: impl Fn(&str) -> Option<String>) -> (String, bool) {
    let mut text = String::new();
    let mut whole = true;
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once('{') {
        text.push_str(before);
        let Some((name, behind)) = behind.split_once('}') else {
            text.push('{');
            rest = behind;
            continue;
        };
        match name.split_once(':') {
            Some((name, form)) => {
                if let Some(value) = get(name) {
                    text.push_str(&form.replacen('%', &value, 1));
                }
            }
            None => match get(name) {
                Some(value) => text.push_str(&value),
                None => {
                    whole = false;
                    text.push_str("unknown");
                }
            },
        }
        rest = behind;
    }
    text.push_str(rest);
    (text, whole)
}

/// What an edge says.
#[must_use]
pub fn edge_text(template: &str, cause: &Fact, effect: &Fact) -> String {
    let of = |fact: &Fact, name: &str| Words { fact, culprit: None }.get(name);
    fill(template, |name| match name.split_once('.') {
        Some(("cause", name)) => of(cause, name),
        Some(("effect", name)) => of(effect, name),
        _ if name == "cause" => Some(cause.subject.to_string()),
        _ if name == "effect" => Some(effect.subject.to_string()),
        _ => None,
    })
    .0
}

fn detail(fact: &Fact, name: &str) -> Option<String> {
    let value = fact.detail.get(name)?;
    Some(match value {
        Value::Number(number) if name.ends_with("_bytes") => bytes(*number),
        _ => value_text(value),
    })
}

fn key(fact: &Fact, kind: KeyKind) -> Option<String> {
    fact.keys.iter().find(|key| key.kind == kind).map(|key| key.value.clone())
}

fn of_type(fact: &Fact, kind: &str) -> Option<String> {
    (fact.subject.kind == kind).then(|| fact.subject.name.clone())
}

fn last_word(fact: &Fact, name: &str) -> Option<String> {
    detail(fact, name)?.split_whitespace().next_back().map(ToOwned::to_owned)
}

/// `namespace/name` of the fact's pod.
fn pod(fact: &Fact) -> Option<String> {
    let of_container = || {
        let name = of_type(fact, "container")?;
        let (pod, _) = name.rsplit_once('/')?;
        pod.contains('/').then(|| pod.to_owned())
    };
    let of_owner = || key(fact, KeyKind::Owner)?.split_once('/').map(|(_, name)| name.to_owned());
    key(fact, KeyKind::Pod).or_else(|| of_type(fact, "pod")).or_else(of_container).or_else(of_owner)
}

fn container_name(fact: &Fact) -> Option<String> {
    let name = of_type(fact, "container")?;
    let (pod, container) = name.rsplit_once('/')?;
    pod.contains('/').then(|| container.to_owned())
}

/// `deployment/name`, as kubectl takes it.
fn owner_ref(fact: &Fact) -> Option<String> {
    let owner = key(fact, KeyKind::Owner)?;
    let mut parts = owner.split('/');
    let (kind, _, name) = (parts.next()?, parts.next()?, parts.next()?);
    Some(format!("{}/{name}", kind.to_lowercase()))
}

/// An amount as people read it.
#[must_use]
pub fn bytes(amount: i64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut shown = amount.unsigned_abs();
    let mut unit = 0;
    while shown >= 10 * 1024 || (shown >= 1024 && shown.is_multiple_of(1024)) {
        if unit + 1 == UNITS.len() {
            break;
        }
        shown /= 1024;
        unit += 1;
    }
    format!("{}{shown} {}", if amount < 0 { "-" } else { "" }, UNITS[unit])
}

fn shortened(value: &str) -> String {
    let one_line = value.replace(['\n', '\r'], " ");
    match one_line.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &one_line[..end]),
        None => one_line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::FactKind;
    use crate::event::Source;

    /// Scenario: templates with names that are known, that are not, and with optional parts.
    /// Guarantees: what is known is filled in, optional parts vanish, an action with an unknown name is left
    /// out.
    #[test]
    fn templates_are_filled() {
        let fact =
            Fact::new(FactKind::MemoryLimitHit, Subject::new("container", "shop/web-1/app"), Source::Ebpf, 1)
                .key(KeyKind::Owner, "Deployment/shop/web")
                .with("limit_bytes", 268_435_456_i64);
        let words = Words { fact: &fact, culprit: None };
        assert_eq!(
            words.text("{subject} hit its limit{limit_bytes: of %}{culprit:; most is %}: {nothing}"),
            "container shop/web-1/app hit its limit of 256 MiB: unknown"
        );
        assert_eq!(
            words
                .action("kubectl -n {namespace} rollout undo {owner_ref} {container_name} {pod_name}")
                .as_deref(),
            Some("kubectl -n shop rollout undo deployment/web app web-1")
        );
        assert_eq!(words.action("systemctl restart {unit}"), None);
        assert_eq!(
            edge_text("{effect} after {cause.limit_bytes}", &fact, &fact),
            "container shop/web-1/app after 256 MiB"
        );
    }
}
