//! Leases of the control plane: whether their holders still renew them.
//!
//! Invariants:
//! - A renewal is no event. A new holder is, and so is the first moment that a lease is overdue.
//! - How old a renewal is is measured on this host, from when it was seen: a holder's clock may be wrong.

use super::draft::{Draft, number};
use super::known::{Detail, Entry, Key, Memory};
use super::object::{Lease, text};
use crate::event::{Kind, fields};

/// A lease counts as overdue after this many of its durations: one is what others wait to take over.
const OVERDUE_DURATIONS: u64 = 2;

/// The shortest duration that is believed, seconds.
const DURATION_MIN_S: u64 = 5;

/// Compares a lease with what is known of it.
pub(super) fn compare(
    lease: &Lease,
    [uid, version]: [&str; 2],
    before: Option<&Detail>,
    (now_unix_s, memory): (u64, &mut Memory),
) -> (Detail, Vec<Draft>) {
    let holder = text(lease.spec.holder_identity.as_ref());
    let duration_s = lease.spec.lease_duration_seconds.unwrap_or(15).max(DURATION_MIN_S);
    let (known, overdue) = match before {
        Some(Detail::Lease(known, _, _, overdue)) => (Some(known.text()), *overdue),
        _ => (None, false),
    };
    let mut drafts = Vec::new();
    let name = text(lease.metadata.name.as_ref());
    let namespace = text(lease.metadata.namespace.as_ref());
    let draft = |reason: &str| {
        let number = number(uid, version, reason);
        let path = super::api_events::path("Lease", namespace, name);
        let draft =
            Draft::new(Kind::ObjectChange, fields::OBJECT, path, number).slot(0).slot(1).slot(1).slot(0);
        draft.field(fields::OBJECT_UID, uid).field(fields::NAMESPACE, namespace).field(fields::REASON, reason)
    };
    if known != Some(holder) {
        drafts.push(draft("holder").field(fields::CHANGED, "holderIdentity").field(fields::MESSAGE, holder));
    } else if overdue {
        drafts.push(draft("renewed").field(fields::CHANGED, "renewTime").field(fields::MESSAGE, holder));
    }
    (Detail::Lease(memory.word(holder), now_unix_s, duration_s, false), drafts)
}

/// The event about a lease that is overdue, once.
pub(super) fn overdue(key: Key, entry: &mut Entry, now_unix_s: u64) -> Option<Draft> {
    let (uid, version) = (entry.uid(key), entry.version.to_string());
    let Detail::Lease(holder, seen_unix_s, duration_s, said) = &mut entry.detail else { return None };
    let age_s = now_unix_s.saturating_sub(*seen_unix_s);
    // A lease without a holder was given back.
    if *said || holder.text().is_empty() || age_s < OVERDUE_DURATIONS * *duration_s {
        return None;
    }
    *said = true;
    let path = super::api_events::path("Lease", entry.namespace.text(), &entry.name);
    let draft = Draft::new(Kind::ObjectChange, fields::OBJECT, path, number(&uid, &version, "overdue"));
    let message = format!("{} has not renewed it for {age_s} s", holder.text());
    let draft = draft.slot(0).slot(1).slot(0).slot(0);
    Some(
        draft
            .field(fields::OBJECT_UID, &uid)
            .field(fields::NAMESPACE, entry.namespace.text())
            .field(fields::REASON, "overdue")
            .field(fields::CHANGED, "renewTime")
            .field(fields::MESSAGE, &message),
    )
}
