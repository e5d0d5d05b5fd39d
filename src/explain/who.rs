//! Who did it: who sent the kill, whose limit it was, and who used up what ran out.
//!
//! Invariants:
//! - The one that died is not to blame for a shared limit: the one that grew most is, if a series shows it.
//! - Where the facts do not say, the answer is nothing, not the nearest name.

use super::component::Component;
use super::incident::Killer;
use super::rules::RuleSet;
use super::trends::Trends;
use crate::detect::{Fact, FactKind, Subject, Value};

fn detail(fact: &Fact, name: &str) -> Option<String> {
    fact.detail.get(name).map(super::rules::value_text).filter(|text| !text.is_empty())
}

/// Who ended a process of the tree. `name` names a fact within the incident.
#[must_use]
pub fn killer(
    component: &Component<'_>,
    members: &[usize],
    name: &dyn Fn(usize) -> Option<String>,
) -> Option<Killer> {
    const ORDER: [FactKind; 9] = [
        FactKind::MemoryLimitHit,
        FactKind::NodeMemoryExhausted,
        FactKind::OomVictim,
        FactKind::PressureKill,
        FactKind::ExternalKill,
        FactKind::RuntimeKill,
        FactKind::ManagerKill,
        FactKind::Crash,
        FactKind::Abort,
    ];
    let (place, fact) = ORDER.iter().find_map(|kind| {
        let place = *members.iter().find(|&&place| component.facts[place].kind == *kind)?;
        Some((place, component.facts[place]))
    })?;
    let reason = component.parents[place].map(|edge| component.facts[component.edges[edge].cause]);
    let sender = detail(fact, "sender").unwrap_or_else(|| "an unknown sender".into());
    let signal = detail(fact, "signal").map_or_else(String::new, |signal| format!(" with signal {signal}"));
    let (who, text) = match fact.kind {
        FactKind::MemoryLimitHit => {
            ("kernel_oom", format!("the kernel, because {} was at its own memory limit", fact.subject))
        }
        FactKind::NodeMemoryExhausted => {
            ("kernel_oom", "the kernel, because the whole host had no memory left".into())
        }
        FactKind::OomVictim => {
            ("kernel_oom", "the kernel, for want of memory; whose limit it was is not known".into())
        }
        FactKind::PressureKill => {
            ("systemd_oomd", format!("systemd-oomd, because {} stalled on memory", fact.subject))
        }
        FactKind::ExternalKill => {
            let uid = detail(fact, "sender_uid").map_or_else(String::new, |uid| format!(" of uid {uid}"));
            let unit = detail(fact, "sender_unit").map_or_else(String::new, |unit| format!(" in {unit}"));
            ("person", format!("{sender}{uid}{unit}{signal}"))
        }
        FactKind::RuntimeKill => {
            let why = match reason {
                Some(cause) if cause.kind == FactKind::ProbeFailed => {
                    let probe = detail(cause, "probe").unwrap_or_else(|| "unknown".into());
                    format!("for the kubelet, whose {probe} probe failed")
                }
                Some(cause) => format!("because of {} of {}", cause.kind.name(), cause.subject),
                None => "for a reason that was not seen".into(),
            };
            ("container_runtime", format!("the container runtime ({sender}){signal}, {why}"))
        }
        FactKind::ManagerKill => {
            let why = reason.map_or_else(
                || "for a reason that was not seen".into(),
                |cause| format!("because of {} of {}", cause.kind.name(), cause.subject),
            );
            ("service_manager", format!("the service manager{signal}, {why}"))
        }
        _ => ("itself", format!("itself: {}{signal}", fact.kind.name())),
    };
    let limit_of = (fact.kind == FactKind::MemoryLimitHit)
        .then(|| detail(fact, "limit_of").unwrap_or_else(|| fact.subject.to_string()));
    Some(Killer { who: who.into(), text, limit_of, fact: name(place)? })
}

/// Who used up what ran out, if it is known, and how it is known.
#[must_use]
pub fn culprit(root: &Fact, rules: &RuleSet, trends: &Trends) -> Option<(Subject, String)> {
    if let Some(Value::Text(text)) = root.detail.get("culprit")
        && let Some((kind, name)) = text.split_once(' ')
    {
        return Some((Subject::new(kind, name), "as the fact itself says".into()));
    }
    for rule in rules.culprits.iter().filter(|rule| rule.kinds.contains(&root.kind)) {
        if !rule.when.iter().all(|condition| condition.holds(root, root)) {
            continue;
        }
        if let Some(subject) = trends.largest_grower(&rule.resource, &rule.keys, root) {
            let how = format!("its {} grew more than that of any other", rule.resource.replace('_', " "));
            return Some((subject, how));
        }
    }
    None
}
