//! Nodes: conditions and taints that changed.
//!
//! Invariants:
//! - A heartbeat is no change.

use super::draft::{Draft, hash, number, unix_s};
use super::known::{Detail, Memory, Word};
use super::object::{Node, text};
use crate::event::{Kind, fields};

/// What taints are called where conditions are.
const TAINT: &str = "Taint";

/// One condition or taint as it is now.
struct Item<'node> {
    /// What names it on its node.
    name: String,
    condition: &'node str,
    status: &'node str,
    reason: String,
    message: &'node str,
    since: &'node str,
}

/// Compares a node with what is known of it.
pub(super) fn compare(
    node: &Node,
    [uid, version]: [&str; 2],
    before: Option<&Detail>,
    memory: &mut Memory,
) -> (Detail, Vec<Draft>) {
    let known: &[(Word, u32)] = match before {
        Some(Detail::Node(known)) => known,
        _ => &[],
    };
    let name = text(node.metadata.name.as_ref());
    let draft = |item: &Item<'_>| {
        let changed_unix_s = unix_s(item.since);
        let number = number(uid, version, &item.name);
        Draft::new(Kind::NodeCondition, fields::NODE, name, number)
            .at(changed_unix_s)
            .slot(changed_unix_s)
            .field(fields::CONDITION, item.condition)
            .field(fields::STATUS, item.status)
            .field(fields::REASON, &item.reason)
            .field(fields::MESSAGE, item.message)
    };
    let mut drafts = Vec::new();
    let mut now = Vec::new();
    for item in conditions(node).chain(taints(node)) {
        let state = u32::try_from(hash(&[item.status, &item.reason, item.since]) >> 32).unwrap_or(0);
        let before = known.iter().find(|(name, _)| name.text() == item.name);
        if before.is_none_or(|(_, before)| *before != state) {
            drafts.push(draft(&item));
        }
        now.push((memory.word(&item.name), state));
    }
    for (name, _) in known {
        let Some(taint) = name.text().strip_prefix("taint ") else { continue };
        if now.iter().all(|(now, _)| now != name) {
            let (name, reason) = (name.text().to_owned(), taint.to_owned());
            drafts.push(draft(&Item {
                name,
                condition: TAINT,
                status: "False",
                reason,
                message: "",
                since: "",
            }));
        }
    }
    (Detail::Node(now.into_boxed_slice()), drafts)
}

fn conditions(node: &Node) -> impl Iterator<Item = Item<'_>> {
    node.status.conditions.iter().flatten().map(|condition| {
        let kind = text(condition.kind.as_ref());
        Item {
            name: kind.to_owned(),
            condition: kind,
            status: text(condition.status.as_ref()),
            reason: text(condition.reason.as_ref()).to_owned(),
            message: text(condition.message.as_ref()),
            since: text(condition.last_transition_time.as_ref()),
        }
    })
}

fn taints(node: &Node) -> impl Iterator<Item = Item<'_>> {
    node.spec.taints.iter().flatten().map(|taint| {
        let (key, value) = (text(taint.key.as_ref()), text(taint.value.as_ref()));
        let effect = text(taint.effect.as_ref());
        let reason =
            if value.is_empty() { format!("{key}:{effect}") } else { format!("{key}={value}:{effect}") };
        let name = format!("taint {reason}");
        Item {
            name,
            condition: TAINT,
            status: "True",
            reason,
            message: "",
            since: text(taint.time_added.as_ref()),
        }
    })
}
