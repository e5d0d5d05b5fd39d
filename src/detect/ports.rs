//! Who has which port: what a conflict names, told by the last listener on it.
//!
//! Invariants:
//! - Who listened before the observation began is not known, and nobody is named then.
//! - At most [`PORTS_MAX`] ports are remembered, each at [`ADDRESSES_MAX`] addresses.

use std::collections::BTreeMap;

use super::bounded::Bounded;
use super::fact::{Fact, FactKind, Value};
use super::seen::Seen;
use super::text::{canonical, slot_address};
use crate::event::Kind;

/// Ports remembered, at most.
const PORTS_MAX: usize = 8192;

/// Addresses of one port, at most: who listens at more is not named.
const ADDRESSES_MAX: usize = 64;

/// Listeners of one port, by address: how many sockets, and whose.
type Listeners = BTreeMap<String, (u32, String)>;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Ports {
    ports: Bounded<u16, Listeners>,
}

impl Default for Ports {
    fn default() -> Self {
        Self { ports: Bounded::new(PORTS_MAX) }
    }
}

/// Whether who listens at one address has the port at the other, too.
fn overlap(one: &str, other: &str) -> bool {
    one == other || one == "*" || other == "*"
}

impl Ports {
    /// What had to make room.
    pub(super) const fn evicted(&self) -> u64 {
        self.ports.evicted()
    }

    /// Learns who begins and ends to listen.
    pub(super) fn learn(&mut self, seen: &Seen<'_>) {
        if seen.kind() != Kind::TcpListen {
            return;
        }
        let Some(ip) = seen.event.slot("address").and_then(slot_address) else { return };
        let Ok(port @ 1..) = u16::try_from(seen.number("port")) else { return };
        let listeners = self.ports.entry(port, Listeners::new);
        let address = canonical(ip);
        if seen.number("listening") == 1 {
            if listeners.len() >= ADDRESSES_MAX && !listeners.contains_key(&address) {
                return;
            }
            let (count, owner) = listeners.entry(address).or_default();
            *count += 1;
            *owner = seen.subject().to_string();
        } else if let Some((count, _)) = listeners.get_mut(&address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                listeners.remove(&address);
            }
        }
    }

    /// Names who has the port that a fact is about.
    pub(super) fn complete(&self, fact: &mut Fact) {
        let Some(Value::Number(port)) =
            fact.detail.get("port").filter(|_| fact.kind == FactKind::PortConflict)
        else {
            return;
        };
        let listeners = u16::try_from(*port).ok().and_then(|port| self.ports.get(&port));
        let wanted = match fact.detail.get("address") {
            Some(Value::Text(address)) => address.as_str(),
            _ => "*",
        };
        let own = fact.subject.to_string();
        let holder = listeners.and_then(|listeners| {
            let all =
                listeners.iter().filter(|(address, (_, owner))| overlap(address, wanted) && *owner != own);
            all.map(|(_, (_, owner))| owner.clone()).next()
        });
        if let Some(holder) = holder {
            fact.detail.insert("holder", Value::Text(holder));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: addresses of listeners, and of those who want the same port.
    /// Guarantees: all addresses are everybody's; two of them are not each other's.
    #[test]
    fn addresses_overlap() {
        for (one, other, expected) in [
            ("*", "10.0.0.1", true),
            ("10.0.0.1", "*", true),
            ("::1", "::1", true),
            ("10.0.0.1", "10.0.0.2", false),
        ] {
            assert_eq!(overlap(one, other), expected, "{one} {other}");
        }
    }
}
