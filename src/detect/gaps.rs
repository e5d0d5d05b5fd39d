//! What sources missed: where something may have happened that nobody saw.
//!
//! Invariants:
//! - A gap is about a source, not about an entity: absence of its events proves nothing then.

use super::Detector;
use super::fact::{Fact, FactKind, KeyKind, Subject};
use super::seen::{Seen, with_text};
use crate::event::{Kind, Source, fields};

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Gaps {
    /// Since when the manager is lost, or reloads.
    lost_ns: Option<u64>,
}

impl Detector for Gaps {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        match seen.kind() {
            Kind::LogGap | Kind::WatchGap => {
                let fact = seen.bare(FactKind::EvidenceGap, source(seen)).key(KeyKind::Node, seen.host);
                let fact =
                    with_text(fact.with("lost", seen.number("lost")), "reason", &seen.field(fields::CAUSE));
                out.push(with_text(fact, "resource", &seen.field(fields::RESOURCE)));
            }
            Kind::ManagerState => match &*seen.field(fields::STATE) {
                "lost" => {
                    self.lost_ns = Some(seen.time_ns());
                    out.push(seen.bare(FactKind::EvidenceGap, source(seen)).with("reason", "lost"));
                }
                "resynced" => {
                    if let Some(since) = self.lost_ns.take() {
                        let mut fact =
                            seen.bare(FactKind::EvidenceGap, source(seen)).with("reason", "resynced");
                        fact.from_ns = since;
                        out.push(fact);
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }
}

fn source(seen: &Seen<'_>) -> Subject {
    let source = Source::from_number(seen.event.header().source);
    Subject::new("source", source.map_or("unknown", Source::name))
}

/// What the ledger counted as lost of a source between two moments.
#[must_use]
pub fn ledger_gap(
    source: Source,
    host: &str,
    (from_ns, until_ns): (u64, u64),
    lost: u64,
    reason: &str,
) -> Fact {
    let mut fact = Fact::new(FactKind::EvidenceGap, Subject::new("source", source.name()), source, from_ns);
    fact.until_ns = until_ns;
    fact.key(KeyKind::Node, host).with("lost", lost).with("reason", reason)
}
