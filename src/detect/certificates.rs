//! Certificates that end soon, or did.
//!
//! Invariants:
//! - What ends later than [`SOON_S`] from now is not told.

use super::Detector;
use super::bounded::Throttle;
use super::fact::{Fact, FactKind, KeyKind, Subject, Value};
use super::seen::Seen;
use crate::event::fields;

/// What ends within this time is told: 30 days.
pub const SOON_S: u64 = 30 * 86_400;

/// An end is told again after this time.
const AGAIN_NS: u64 = 600_000_000_000;

/// Files remembered, at most; each with a unit that uses it.
const FILES_MAX: usize = 256;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Certificates {
    told: Throttle<(String, String)>,
}

impl Default for Certificates {
    fn default() -> Self {
        Self { told: Throttle::new(FILES_MAX, AGAIN_NS) }
    }
}

impl Detector for Certificates {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let (expires, now) = (seen.number("expires_unix_s"), seen.number("now_unix_s"));
        let file = seen.field(fields::FILE).into_owned();
        let unit = seen.field(fields::UNIT).into_owned();
        let who = (file.clone(), unit.clone());
        if expires > now.saturating_add(SOON_S) || self.told.pass(who, seen.time_ns()).is_none() {
            return;
        }
        if expires > now {
            let subject = Subject::new("certificate", &*file);
            let fact = seen.fact_about(FactKind::ResourceTrend, subject).key(KeyKind::Unit, &*unit);
            let fact = fact.with("resource", "certificate").with("limit", expires);
            out.push(fact.with("series", Value::Series(vec![(seen.time_ns(), now)])));
            return;
        }
        let subject = match &*unit {
            "" => Subject::new("certificate", &*file),
            unit => Subject::new("unit", unit),
        };
        let fact = seen.fact_about(FactKind::CertificateExpired, subject).key(KeyKind::Unit, &*unit);
        out.push(fact.with("not_after_unix_s", expires).with("file", file));
    }

    fn evicted(&self) -> u64 {
        self.told.evicted()
    }
}
