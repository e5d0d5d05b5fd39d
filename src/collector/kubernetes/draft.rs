//! An event before it has a place in time and a queue: what the comparison of two states of an object says.
//!
//! Invariants:
//! - A draft holds only what the API said, so that it is the same whenever and wherever it is made.
//! - [`number`] depends on the object and its version, never on the agent: an object that is read again after a
//!   restart gives the same numbers.

use std::time::UNIX_EPOCH;

use crate::event::{COARSE_TIME, EventBuilder, Kind, Source, mix};

/// One event to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// What happened.
    pub kind: Kind,
    /// When, in Unix seconds, as far as the API says so.
    pub at_unix_s: Option<u64>,
    /// The field that names the owner, and its value.
    pub owner: (&'static str, String),
    /// The slots, in the order of the kind.
    pub slots: Vec<u64>,
    /// The further fields.
    pub fields: Vec<(&'static str, String)>,
}

impl Draft {
    /// An event of this kind about this owner, with its number.
    #[must_use]
    pub fn new(kind: Kind, field: &'static str, owner: impl Into<String>, number: u64) -> Self {
        let slots = vec![number];
        Self { kind, at_unix_s: None, owner: (field, owner.into()), slots, fields: Vec::new() }
    }

    /// With its time; 0 where the API says none.
    #[must_use]
    pub fn at(mut self, unix_s: u64) -> Self {
        self.at_unix_s = (unix_s > 0).then_some(unix_s);
        self
    }

    /// With one more slot.
    #[must_use]
    pub fn slot(mut self, value: u64) -> Self {
        self.slots.push(value);
        self
    }

    /// With one more field. What is empty, or already said as the owner, is left out.
    #[must_use]
    pub fn field(mut self, name: &'static str, value: &str) -> Self {
        if !value.is_empty() && self.owner.0 != name {
            self.fields.push((name, value.to_owned()));
        }
        self
    }

    /// The value of a field; empty when there is none.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        if self.owner.0 == name {
            return &self.owner.1;
        }
        self.fields.iter().find(|(found, _)| *found == name).map_or("", |(_, value)| value)
    }

    /// Writes it into the builder. `boot_unix_ns` is the wall clock at boot. An event of the future, which only a clock
    /// that differs from ours can make, and one without a time happen now; what is older than the boot has a negative
    /// time.
    pub fn write(&self, builder: &mut EventBuilder, now_ns: u64, boot_unix_ns: u64) {
        let said = |unix_s: u64| {
            let unix_ns = unix_s.saturating_mul(1_000_000_000);
            let time_ns = unix_ns.wrapping_sub(boot_unix_ns);
            if time_ns.cast_signed() > now_ns.cast_signed() { now_ns } else { time_ns }
        };
        let time_ns = self.at_unix_s.map_or(now_ns, said);
        let header = builder.start(Source::Kubernetes, self.kind, time_ns);
        if now_ns.wrapping_sub(time_ns) > LIVE_NS {
            header.flags |= COARSE_TIME;
        }
        builder.owner(self.owner.0, &self.owner.1);
        for &slot in &self.slots {
            builder.slot(slot);
        }
        for (name, value) in &self.fields {
            builder.field(name, value);
        }
    }
}

/// What is older when it is read was not read as it happened.
const LIVE_NS: u64 = 3_000_000_000;

/// 64 bits of some texts, told apart from each other.
#[must_use]
pub(super) fn hash(parts: &[&str]) -> u64 {
    let mut state = 0;
    for part in parts {
        state = mix(state ^ part.len() as u64);
        for chunk in part.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            state = mix(state.wrapping_add(u64::from_le_bytes(word)));
        }
    }
    state
}

/// Names an event: the object, its version, and which part of it the event is about. Never 0.
#[must_use]
pub(super) fn number(uid: &str, version: &str, part: &str) -> u64 {
    hash(&[uid, version, part]).max(1)
}

/// Unix seconds of a time as Kubernetes writes it; 0 when there is none or it is none.
#[must_use]
pub(super) fn unix_s(text: &str) -> u64 {
    let time = humantime::parse_rfc3339_weak(text).ok();
    time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, fields};

    /// Scenario: drafts with a time of the past, the future, before the boot, and none.
    /// Guarantees: nothing happens after now, what is old is flagged, and the owner comes first and once.
    #[test]
    fn nothing_happens_in_the_future() {
        let mut builder = EventBuilder::default();
        let boot_unix_ns = 1_000_000_000_000;
        let now_ns = 50_000_000_000;
        let cases: [(u64, i64, u8); 4] = [
            (1_010, 10_000_000_000, COARSE_TIME),
            (9_999, 50_000_000_000, 0),
            (5, -995_000_000_000, COARSE_TIME),
            (0, 50_000_000_000, 0),
        ];
        for (unix_s, expected_ns, flags) in cases {
            let draft = Draft::new(Kind::PodState, fields::POD_UID, "u", 7).at(unix_s);
            let draft = draft.field(fields::POD_UID, "u").field(fields::POD, "p").field(fields::NODE, "");
            draft.write(&mut builder, now_ns, boot_unix_ns);
            let event = Event::parse(builder.finish()).expect("an event");
            assert_eq!((event.header().time_ns.cast_signed(), event.header().flags), (expected_ns, flags));
            assert_eq!(event.text(), b"POD_UID=u\nPOD=p");
            assert_eq!(event.slot("number"), Some(&[7][..]));
        }
    }

    /// Scenario: numbers of neighbouring objects, versions and parts.
    /// Guarantees: all differ, and do not change between builds.
    #[test]
    fn numbers_are_distinct_and_stable() {
        let mut seen = std::collections::BTreeSet::new();
        for uid in ["a", "ab", ""] {
            for version in ["1", "12", "b1"] {
                for part in ["", "1", "state web"] {
                    assert!(seen.insert(number(uid, version, part)));
                }
            }
        }
        assert_eq!(number("uid", "41", "pod"), number("uid", "41", "pod"));
        assert!(!seen.contains(&0));
    }

    /// Scenario: times as the API writes them, and what is none.
    /// Guarantees: seconds are read, fractions dropped, anything else is 0.
    #[test]
    fn times_are_read() {
        assert_eq!(unix_s("2026-11-24T18:25:33Z"), 1_795_544_733);
        assert_eq!(unix_s("2026-11-24T18:25:33.123456Z"), 1_795_544_733);
        assert_eq!(unix_s("1970-01-01T00:00:00Z"), 0);
        assert_eq!(unix_s("yesterday"), 0);
    }
}
