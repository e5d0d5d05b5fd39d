//! Where the manager can be reached.
//!
//! Invariants:
//! - Whoever names an address gets that one only.

use std::path::{Path, PathBuf};

/// The usual socket of the system bus.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// Where the manager itself listens, for root.
const PRIVATE: &str = "/run/systemd/private";

/// Exists where systemd is the init process.
const BOOTED: &str = "/run/systemd/system";

/// One way to the manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A bus on which the manager has its name.
    Bus(String),
    /// The manager's own socket.
    Private(PathBuf),
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bus(address) => write!(formatter, "the bus at {address}"),
            Self::Private(path) => write!(formatter, "the manager's socket {}", path.display()),
        }
    }
}

/// The ways to try, in this order. `wish` is an address, or empty.
pub(super) fn places(wish: &str) -> Vec<Place> {
    if !wish.is_empty() {
        let path = wish.strip_prefix("unix:path=").unwrap_or(wish);
        let is_private = Path::new(path).ends_with("systemd/private");
        return vec![if is_private { Place::Private(path.into()) } else { Place::Bus(wish.into()) }];
    }
    let bus = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok().filter(|address| !address.is_empty());
    vec![Place::Bus(bus.unwrap_or_else(|| format!("unix:path={SYSTEM_BUS}"))), Place::Private(PRIVATE.into())]
}

/// Whether a manager can ever appear here, without an address that says so.
pub(super) fn is_possible() -> bool {
    [BOOTED, PRIVATE, SYSTEM_BUS].iter().any(|path| Path::new(path).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: no address, that of a bus, that of a manager's socket with and without its prefix.
    /// Guarantees: an address is the only place; the sockets of managers are told apart from buses.
    #[test]
    fn an_address_is_the_only_place() {
        assert_eq!(places("").last(), Some(&Place::Private(PRIVATE.into())));
        assert_eq!(places("").len(), 2);
        let bus = "unix:path=/a/run/dbus/system_bus_socket";
        assert_eq!(places(bus), [Place::Bus(bus.into())]);
        for private in ["unix:path=/a/run/systemd/private", "/a/run/systemd/private"] {
            assert_eq!(places(private), [Place::Private("/a/run/systemd/private".into())]);
        }
    }
}
