//! Why a claim is bound to no volume: the one field in which an otherwise fitting volume differs.
//!
//! Invariants:
//! - Where volumes differ in more than one way, or each in another, nothing is said.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::fact::FactKind;
use super::specs::{Spec, Specs, is_within, pairs};

/// Who makes no volumes.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// What keeps a claim of a namespace without a volume, and in words.
pub(super) fn fault(specs: &Specs, namespace: &str, name: &str) -> Option<(FactKind, String)> {
    let object = format!("PersistentVolumeClaim/{namespace}/{name}");
    let claim = specs.get(&object)?;
    if claim.get("status.phase") == "Bound" {
        return None;
    }
    let class = claim.get("spec.storageClassName").as_str().unwrap_or_default();
    let known_class = specs.get(&format!("StorageClass/{class}"));
    let makes = |class: &Spec| class.get("provisioner").as_str().is_some_and(|by| by != NO_PROVISIONER);
    // A volume will be made for it: what others are like does not matter.
    if known_class.is_some_and(makes) {
        return None;
    }
    let volumes: Vec<(&str, &Spec)> = specs.of("PersistentVolume", "").collect();
    let mut single = BTreeSet::new();
    for (volume, spec) in &volumes {
        let faults = differences((namespace, name), claim, spec);
        if let [(kind, what)] = faults.as_slice() {
            single.insert((*kind, format!("claim {namespace}/{name}: {what} ({volume})")));
        }
    }
    let kinds: BTreeSet<FactKind> = single.iter().map(|(kind, _)| *kind).collect();
    if kinds.len() == 1 {
        return single.into_iter().next();
    }
    let is_of_class = |(_, spec): &(&str, &Spec)| spec.get("spec.storageClassName") == class;
    let nobodys = !class.is_empty() && known_class.is_none() && !volumes.iter().any(is_of_class);
    (kinds.is_empty() && nobodys).then(|| {
        (FactKind::PvcStorageClassMismatch, format!("claim {namespace}/{name}: no storage class {class}"))
    })
}

/// In what a volume does not fit a claim.
fn differences((namespace, name): (&str, &str), claim: &Spec, volume: &Spec) -> Vec<(FactKind, String)> {
    let mut list = Vec::new();
    let text = |spec: &Spec| spec.get("spec.storageClassName").as_str().unwrap_or_default().to_owned();
    let (wanted, offered) = (text(claim), text(volume));
    if wanted != offered {
        list.push((FactKind::PvcStorageClassMismatch, format!("storage class {wanted}, not {offered}")));
    }
    let modes = |spec: &Spec| spec.get("spec.accessModes").as_array().cloned().unwrap_or_default();
    let (wanted, offered) = (modes(claim), modes(volume));
    if let Some(mode) = wanted.iter().find(|mode| !offered.contains(mode)) {
        list.push((FactKind::PvcAccessModeMismatch, format!("access mode {mode} is not offered")));
    }
    let wanted =
        claim.get("spec.resources.requests").get("storage").and_then(Json::as_str).unwrap_or_default();
    let offered = volume.get("spec.capacity").get("storage").and_then(Json::as_str).unwrap_or_default();
    if quantity(wanted) > quantity(offered) {
        list.push((FactKind::PvcCapacityMismatch, format!("{wanted} requested, {offered} there")));
    }
    let labels = pairs(volume.get("metadata.labels"));
    let selected = pairs(claim.get("spec.selector").get("matchLabels").unwrap_or(&Json::Null));
    if !is_within(&selected, &labels) {
        list.push((FactKind::PvcSelectorMismatch, format!("selects {selected:?}, labels are {labels:?}")));
    }
    let holder = pairs(volume.get("spec.claimRef"));
    let (of, who) = (holder.get("namespace").copied(), holder.get("name").copied());
    if who.is_some() && (of, who) != (Some(namespace), Some(name)) {
        let (of, who) = (of.unwrap_or_default(), who.unwrap_or_default());
        list.push((FactKind::PvBindingOccupied, format!("the volume is bound to {of}/{who}")));
    }
    list
}

/// Bytes of a quantity as Kubernetes writes it; nothing for what is none.
fn quantity(text: &str) -> Option<u64> {
    let digits = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text.get(..digits)?.parse().ok()?;
    let factor = match text.get(digits..)? {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: quantities as people write them.
    /// Guarantees: bytes; nothing for what is none.
    #[test]
    fn quantities_are_bytes() {
        for (text, bytes) in
            [("5Gi", Some(5 << 30)), ("1G", Some(1_000_000_000)), ("7", Some(7)), ("", None), ("1x", None)]
        {
            assert_eq!(quantity(text), bytes, "{text}");
        }
    }
}
