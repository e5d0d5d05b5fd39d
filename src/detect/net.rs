//! Connections: who listens, who is refused, who gets no answer, and what has to be sent again.
//!
//! Invariants:
//! - Attempts to one end point by one owner are one statement in ten seconds, with a count.
//! - `*:port` is a key only of what is known to be this host's.

use std::net::IpAddr;

use super::Detector;
use super::bounded::{Bounded, Throttle};
use super::fact::{Fact, FactKind, KeyKind, Subject};
use super::seen::Seen;
use super::text::{canonical, slot_address};
use crate::event::Kind;

/// End points remembered, at most.
const PORTS_MAX: usize = 8192;

/// Addresses of this host remembered, at most.
const ADDRESSES_MAX: usize = 1024;

/// Attempts by one owner to one end point are told again after this time.
const AGAIN_NS: u64 = 10_000_000_000;

const ETIMEDOUT: u64 = 110;
const ECONNREFUSED: u64 = 111;
const ENETUNREACH: u64 = 101;
const EHOSTUNREACH: u64 = 113;
/// What the probe says of a caller that gave up before an answer.
const GAVE_UP: u64 = 125;

/// A caller that gives up earlier than this did not wait for an answer.
const PATIENCE_NS: u64 = 900_000_000;

/// `TCP_SYN_SENT`.
const SYN_SENT: u64 = 2;

/// Segments sent again to one peer within the window that are a storm.
const STORM: u64 = 30;
const STORM_WINDOW_NS: u64 = 10_000_000_000;

/// Peers in a storm at once that make it the node's.
const STORMS_OF_NODE: usize = 4;

/// What became of an attempt to connect, by its errno.
pub(super) fn classify(errno: u64, duration_ns: u64) -> Option<FactKind> {
    match errno {
        ECONNREFUSED => Some(FactKind::ConnectionRefused),
        // No route is what an attempt finds; why there is none, only the link can say.
        ETIMEDOUT | EHOSTUNREACH | ENETUNREACH => Some(FactKind::ConnectionTimeout),
        GAVE_UP if duration_ns >= PATIENCE_NS => Some(FactKind::ConnectionTimeout),
        _ => None,
    }
}

/// How many listen on an end point, and whether that was seen from the beginning.
#[derive(Debug, Clone, Default)]
struct Listeners {
    count: u32,
    owner: String,
}

/// Segments sent again to a peer in the running window.
#[derive(Debug, Clone, Copy)]
struct Again {
    since_ns: u64,
    count: u64,
    told: bool,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Net {
    listeners: Bounded<(String, u16), Listeners>,
    local: Bounded<String, ()>,
    attempts: Throttle<(u64, String, u16, u64)>,
    peers: Bounded<String, Again>,
}

impl Default for Net {
    fn default() -> Self {
        Self {
            listeners: Bounded::new(PORTS_MAX),
            local: Bounded::new(ADDRESSES_MAX),
            attempts: Throttle::new(PORTS_MAX, AGAIN_NS),
            peers: Bounded::new(ADDRESSES_MAX),
        }
    }
}

impl Detector for Net {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        match seen.kind() {
            Kind::TcpListen => self.listen(seen, out),
            Kind::TcpConnect => self.connect(seen, out),
            Kind::TcpResetSent => self.reset(seen, out),
            Kind::TcpRetransmit => self.again(seen, out),
            _ => {}
        }
    }

    fn evicted(&self) -> u64 {
        self.listeners.evicted() + self.local.evicted() + self.attempts.evicted() + self.peers.evicted()
    }
}

impl Net {
    fn listen(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let (Some(ip), Some(port)) = (address(seen, "address"), port(seen, "port")) else { return };
        if port == 0 {
            return;
        }
        let address = canonical(ip);
        let started = seen.number("listening") == 1;
        let owner = seen.subject().to_string();
        let known = self.listeners.entry((address.clone(), port), Listeners::default);
        let kind = if started {
            known.count += 1;
            known.owner = owner;
            FactKind::Listener
        } else {
            known.count = known.count.saturating_sub(1);
            if known.count > 0 {
                return;
            }
            FactKind::ListenerGone
        };
        if address != "*" {
            self.local.insert(address.clone(), ());
        }
        let fact = seen.fact(kind).with("address", &*address).with("port", u64::from(port));
        let fact = fact.key(KeyKind::Socket, format!("{address}:{port}"));
        out.push(fact.key(KeyKind::Socket, format!("*:{port}")));
    }

    fn connect(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let errno = seen.number("result_errno");
        let Some(kind) = classify(errno, seen.number("duration_ns")) else { return };
        let (Some(ip), Some(port)) = (address(seen, "destination_address"), port(seen, "destination_port"))
        else {
            return;
        };
        let source = address(seen, "source_address");
        let to = canonical(ip);
        let key = (seen.owner.key, to.clone(), port, errno);
        let Some(count) = self.attempts.pass(key, seen.time_ns()) else { return };
        let is_local = ip.is_loopback() || source == Some(ip) || self.local.get(&to).is_some();
        let fact = seen.fact(kind).with("address", &*to).with("port", u64::from(port)).with("errno", errno);
        let fact = fact.with("count", count);
        let fact = if port == 53 { fact.with("role", "dns") } else { fact };
        out.push(self.with_end_point(fact, &to, port, is_local));
    }

    /// Adds the keys of an end point, and what is known of who listened there.
    fn with_end_point(&self, fact: Fact, address: &str, port: u16, is_local: bool) -> Fact {
        let fact = fact.key(KeyKind::Socket, format!("{address}:{port}"));
        // A peer as a whole can be out of reach; this host cannot.
        let whole = if is_local { format!("*:{port}") } else { format!("{address}:*") };
        let fact = fact.key(KeyKind::Socket, whole);
        let exact = self.listeners.get(&(address.to_owned(), port));
        let any = || self.listeners.get(&("*".to_owned(), port)).filter(|_| is_local);
        match exact.or_else(any) {
            Some(listeners) => fact.with("listened", true).with("holder", &*listeners.owner),
            None => fact,
        }
    }

    /// This host refused somebody: nobody listens on the port of its end.
    fn reset(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        if seen.number("state") != 0 {
            return;
        }
        let (Some(ip), Some(port)) = (address(seen, "source_address"), port(seen, "source_port")) else {
            return;
        };
        let here = canonical(ip);
        self.local.insert(here.clone(), ());
        let known = [&here, "*"].iter().any(|at| self.listeners.get(&((*at).to_owned(), port)).is_some());
        let key = (0, here.clone(), port, ECONNREFUSED);
        // A port that nobody ever listened on is refused by whoever scans it, all the time.
        if !known || self.attempts.pass(key, seen.time_ns()).is_none() {
            return;
        }
        let fact = seen.bare(FactKind::ConnectionRefused, Subject::new("port", format!("{here}:{port}")));
        let fact = fact.with("address", &*here).with("port", u64::from(port)).with("errno", ECONNREFUSED);
        out.push(self.with_end_point(fact, &here, port, true));
    }

    fn again(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let (Some(ip), Some(port)) = (address(seen, "destination_address"), port(seen, "destination_port"))
        else {
            return;
        };
        // A peer that does not answer at all is told by the end of the attempt.
        if seen.number("state") == SYN_SENT {
            return;
        }
        let (peer, now) = (canonical(ip), seen.time_ns());
        let fresh = Again { since_ns: now, count: 0, told: false };
        let again = self.peers.entry(peer.clone(), || fresh);
        if now >= again.since_ns.saturating_add(STORM_WINDOW_NS) {
            *again = fresh;
        }
        again.count += 1;
        if again.count < STORM || again.told {
            return;
        }
        again.told = true;
        let count = again.count;
        let in_storm = |again: &Again| again.told && now < again.since_ns.saturating_add(STORM_WINDOW_NS);
        let peers = self.peers.iter().filter(|(_, again)| in_storm(again)).count();
        // Peers that have nothing in common but this host: it is the one that loses.
        if peers == STORMS_OF_NODE {
            let fact = seen.bare(FactKind::NodeNetworkPacketLoss, seen.node());
            out.push(fact.with("peers", u64::try_from(peers).unwrap_or(0)));
        }
        let fact = seen.bare(FactKind::RetransmitStorm, Subject::new("address", peer.clone()));
        let fact = seen.with_owner(fact).with("address", &*peer).with("count", count);
        let fact = fact.with("peers", u64::try_from(peers).unwrap_or(0)).with("port", u64::from(port));
        out.push(
            fact.key(KeyKind::Socket, format!("{peer}:{port}")).key(KeyKind::Socket, format!("{peer}:*")),
        );
    }
}

fn address(seen: &Seen<'_>, slot: &str) -> Option<IpAddr> {
    slot_address(seen.event.slot(slot)?)
}

fn port(seen: &Seen<'_>, slot: &str) -> Option<u16> {
    u16::try_from(seen.number(slot)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: every errno that an attempt can end with.
    /// Guarantees: refused and no answer are told apart; success, impatience and want of ports are nothing.
    #[test]
    fn ends_of_attempts() {
        for (errno, duration_ns, expected) in [
            (0, 1, None),
            (ECONNREFUSED, 50_000, Some(FactKind::ConnectionRefused)),
            (ETIMEDOUT, 130_000_000_000, Some(FactKind::ConnectionTimeout)),
            (EHOSTUNREACH, 3_000_000_000, Some(FactKind::ConnectionTimeout)),
            (ENETUNREACH, 0, Some(FactKind::ConnectionTimeout)),
            (GAVE_UP, 1_000_000, None),
            (GAVE_UP, 1_000_000_000, Some(FactKind::ConnectionTimeout)),
            (99, 0, None),
        ] {
            assert_eq!(classify(errno, duration_ns), expected, "{errno}");
        }
    }
}
