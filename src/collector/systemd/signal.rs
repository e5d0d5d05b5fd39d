//! What the manager announces: from D-Bus messages to typed signals.
//!
//! Invariants:
//! - A message that cannot be read is an error, never a guess and never a panic.
//! - Only the manager and the bus itself are listened to: anybody may send a message to anybody on a bus.

use std::collections::HashMap;

use zbus::message::{Header, Type};
use zbus::{Message, ObjectPath, Variant};

use super::name;
use super::property::{Properties, WrongType};
use super::unit::{RunChange, StateChange};
use crate::clock;

/// The manager's name on a bus, and the prefix of its interfaces.
pub(super) const MANAGER: &str = "org.freedesktop.systemd1";

/// The interface of the manager.
pub(super) const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";

/// The interface of all units.
pub(super) const UNIT_INTERFACE: &str = "org.freedesktop.systemd1.Unit";

/// The bus itself.
pub(super) const BUS: &str = "org.freedesktop.DBus";

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Why a message could not be read. Skip it and count it.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignalError {
    /// The body does not have the types that this signal has.
    #[error("a {0} signal that cannot be read: {1}")]
    Body(&'static str, zbus::Error),
    /// One property has another type.
    #[error(transparent)]
    Property(#[from] WrongType),
}

/// One announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Signal {
    UnitNew {
        unit: Box<str>,
    },
    UnitRemoved {
        unit: Box<str>,
    },
    JobNew {
        id: u32,
        unit: Box<str>,
        at_ns: u64,
    },
    JobRemoved {
        id: u32,
        unit: Box<str>,
        result: Box<str>,
        at_ns: u64,
    },
    Reloading(bool),
    Started,
    /// The manager left the bus, or came back under another name.
    OwnerChanged,
    State {
        unit: Box<str>,
        change: Box<StateChange>,
    },
    Run {
        unit: Box<str>,
        change: Box<RunChange>,
    },
}

/// Who may be listened to on a connection.
#[derive(Debug, Clone)]
pub(super) enum Speaker {
    /// Whoever is at the other end.
    Peer,
    /// The peer with this unique name, and the bus.
    Named(Box<str>),
}

impl Speaker {
    fn allows(&self, header: &Header<'_>) -> bool {
        match (self, header.sender()) {
            (Self::Peer, _) => true,
            (Self::Named(name), Some(sender)) => sender.as_str() == &**name || sender.as_str() == BUS,
            (Self::Named(_), None) => false,
        }
    }
}

/// The signal in a message; `None` for messages of no interest.
pub(super) fn read(message: &Message, speaker: &Speaker) -> Result<Option<Signal>, SignalError> {
    if message.message_type() != Type::Signal {
        return Ok(None);
    }
    let header = message.header();
    let (Some(interface), Some(member)) = (header.interface(), header.member()) else { return Ok(None) };
    if !speaker.allows(&header) {
        return Ok(None);
    }
    match (interface.as_str(), member.as_str()) {
        (PROPERTIES, "PropertiesChanged") => {
            let unit = header.path().and_then(|path| name::of_path(path.as_str()));
            unit.map_or(Ok(None), |unit| read_properties(message, unit.into_boxed_str()))
        }
        (MANAGER_INTERFACE, member) => read_manager(message, member),
        (BUS, "NameOwnerChanged") => {
            let body = message.body();
            let (name, _, _): (&str, &str, &str) =
                body.deserialize().map_err(|error| SignalError::Body("NameOwnerChanged", error))?;
            Ok((name == MANAGER).then_some(Signal::OwnerChanged))
        }
        _ => Ok(None),
    }
}

fn read_properties(message: &Message, unit: Box<str>) -> Result<Option<Signal>, SignalError> {
    let body = message.body();
    let failed = |error| SignalError::Body("PropertiesChanged", error);
    let (interface, values, _): (&str, HashMap<&str, Variant<'_>>, Vec<&str>) =
        body.deserialize().map_err(failed)?;
    let properties = Properties::new(values);
    if interface == UNIT_INTERFACE {
        let change = Box::new(StateChange::read(&properties)?);
        return Ok(Some(Signal::State { unit, change }));
    }
    if name::is_type_interface(interface) {
        let change = Box::new(RunChange::read(&properties)?);
        return Ok(Some(Signal::Run { unit, change }));
    }
    Ok(None)
}

fn read_manager(message: &Message, member: &str) -> Result<Option<Signal>, SignalError> {
    let body = message.body();
    Ok(Some(match member {
        "UnitNew" | "UnitRemoved" => {
            let (unit, _): (&str, ObjectPath<'_>) =
                body.deserialize().map_err(|error| SignalError::Body("UnitNew", error))?;
            let unit = unit.into();
            if member == "UnitNew" { Signal::UnitNew { unit } } else { Signal::UnitRemoved { unit } }
        }
        "JobNew" => {
            let (id, _, unit): (u32, ObjectPath<'_>, &str) =
                body.deserialize().map_err(|error| SignalError::Body("JobNew", error))?;
            Signal::JobNew { id, unit: unit.into(), at_ns: clock::boot_ns() }
        }
        "JobRemoved" => {
            let (id, _, unit, result): (u32, ObjectPath<'_>, &str, &str) =
                body.deserialize().map_err(|error| SignalError::Body("JobRemoved", error))?;
            Signal::JobRemoved { id, unit: unit.into(), result: result.into(), at_ns: clock::boot_ns() }
        }
        "Reloading" => {
            Signal::Reloading(body.deserialize().map_err(|error| SignalError::Body("Reloading", error))?)
        }
        "StartupFinished" => Signal::Started,
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UNIT: &str = "/org/freedesktop/systemd1/unit/a_2eservice";

    fn value() -> impl Strategy<Value = Variant<'static>> {
        prop_oneof![
            any::<u8>().prop_map(Variant::from),
            any::<bool>().prop_map(Variant::from),
            any::<i32>().prop_map(Variant::from),
            any::<u32>().prop_map(Variant::from),
            any::<u64>().prop_map(Variant::from),
            any::<f64>().prop_map(Variant::from),
            // A text on a bus has no NUL.
            "[a-z=\n\\\\ -]{0,40}".prop_map(Variant::from),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(Variant::from),
            prop::collection::vec("[a-z]{0,9}", 0..9).prop_map(Variant::from),
        ]
    }

    proptest! {
        /// Scenario: announcements in which each property that is read has a value of any type.
        /// Guarantees: no panic; whatever is read as a signal had the right types throughout.
        #[test]
        fn any_value_is_answered(values in prop::collection::vec(prop::option::of(value()), 14), of_unit in any::<bool>()) {
            let names = [
                "LoadState", "ActiveState", "SubState", "InvocationID", "StateChangeTimestampMonotonic",
                "InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic", "InactiveEnterTimestampMonotonic",
                "Result", "NRestarts", "MainPID", "ExecMainCode", "ExecMainStatus", "StatusText",
            ];
            let values: HashMap<&str, Variant<'static>> =
                names.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?))).collect();
            let interface = if of_unit { UNIT_INTERFACE } else { "org.freedesktop.systemd1.Service" };
            let body = (interface, &values, Vec::<&str>::new());
            let message = Message::signal(UNIT, PROPERTIES, "PropertiesChanged").build(&body);
            let read = read(&message.expect("a message"), &Speaker::Peer);
            let is_right = |name: &str, signature: &str| {
                values.get(name).is_none_or(|value| value.value_signature().to_string() == signature)
            };
            match read {
                Ok(Some(Signal::State { unit, .. })) => {
                    prop_assert!(of_unit && &*unit == "a.service");
                    prop_assert!(is_right("ActiveState", "s") && is_right("StateChangeTimestampMonotonic", "t"));
                }
                Ok(Some(Signal::Run { .. })) => {
                    prop_assert!(!of_unit && is_right("Result", "s") && is_right("NRestarts", "u"));
                    prop_assert!(is_right("ExecMainCode", "i"));
                }
                Ok(other) => prop_assert!(false, "{:?}", other),
                Err(error) => prop_assert!(matches!(error, SignalError::Property(_))),
            }
        }
    }

    /// Scenario: somebody else on the bus sends what the manager would send.
    /// Guarantees: it is not listened to; the manager and the bus are.
    #[test]
    fn only_the_manager_is_listened_to() {
        let speaker = Speaker::Named(":1.5".into());
        for (sender, is_heard) in [(":1.5", true), (":1.6", false)] {
            let message = Message::signal("/org/freedesktop/systemd1", MANAGER_INTERFACE, "Reloading")
                .sender(sender)
                .build(&(true,))
                .expect("a message");
            assert_eq!(read(&message, &speaker).expect("it can be read").is_some(), is_heard, "{sender}");
        }
    }
}
