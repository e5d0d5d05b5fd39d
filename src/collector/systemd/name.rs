//! Unit names: their object paths, and the interface of their type.
//!
//! Invariants:
//! - [`to_path`] and [`of_path`] are each other's inverse for every name.

/// Where the manager has its units.
pub(super) const UNITS: &str = "/org/freedesktop/systemd1/unit";

/// The interface that each type of unit has besides that of all units.
const INTERFACES: &[(&str, &str)] = &[
    ("service", "org.freedesktop.systemd1.Service"),
    ("scope", "org.freedesktop.systemd1.Scope"),
    ("slice", "org.freedesktop.systemd1.Slice"),
    ("socket", "org.freedesktop.systemd1.Socket"),
    ("mount", "org.freedesktop.systemd1.Mount"),
    ("swap", "org.freedesktop.systemd1.Swap"),
    ("automount", "org.freedesktop.systemd1.Automount"),
    ("timer", "org.freedesktop.systemd1.Timer"),
    ("path", "org.freedesktop.systemd1.Path"),
];

/// The interface of the unit's type, where that has something to say about results or limits.
pub(super) fn interface(unit: &str) -> Option<&'static str> {
    let (_, suffix) = unit.rsplit_once('.')?;
    INTERFACES.iter().find(|(kind, _)| *kind == suffix).map(|(_, interface)| *interface)
}

/// Whether an interface is that of a type of unit.
pub(super) fn is_type_interface(name: &str) -> bool {
    INTERFACES.iter().any(|(_, interface)| *interface == name)
}

/// The object path of a unit.
pub(super) fn to_path(unit: &str) -> String {
    let mut path = format!("{UNITS}/");
    if unit.is_empty() {
        path.push('_');
    }
    for (index, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

/// The unit at an object path; `None` for paths of other things.
pub(super) fn of_path(path: &str) -> Option<String> {
    let label = path.strip_prefix(UNITS)?.strip_prefix('/')?;
    if label == "_" {
        return Some(String::new());
    }
    let mut name = Vec::with_capacity(label.len());
    let mut bytes = label.bytes();
    while let Some(byte) = bytes.next() {
        name.push(match byte {
            b'_' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            b'/' => return None,
            other => other,
        });
    }
    String::from_utf8(name).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Scenario: paths as systemd 252 writes them, and some that are of other things or damaged.
    /// Guarantees: the first are read as their names, the others as nothing.
    #[test]
    fn paths_are_those_of_systemd() {
        for (name, label) in [
            ("dbus.service", "dbus_2eservice"),
            ("-.mount", "_2d_2emount"),
            ("run-user-0.mount", "run_2duser_2d0_2emount"),
            ("0pointer.service", "_30pointer_2eservice"),
            ("a\\x2db@1.service", "a_5cx2db_401_2eservice"),
            ("", "_"),
        ] {
            let path = format!("{UNITS}/{label}");
            assert_eq!(to_path(name), path);
            assert_eq!(of_path(&path).as_deref(), Some(name));
        }
        for path in ["", "/", "/org/freedesktop/systemd1/job/7", "/org/freedesktop/systemd1/unit"] {
            assert_eq!(of_path(path), None, "{path}");
        }
        for label in ["a_2", "a_2g", "a_", "a/b", "_ff"] {
            assert_eq!(of_path(&format!("{UNITS}/{label}")), None, "{label}");
        }
    }

    proptest! {
        /// Scenario: any text as a name.
        /// Guarantees: its path leads back to it and has no byte that a path must not have.
        #[test]
        fn paths_lead_back(name in any::<String>()) {
            let path = to_path(&name);
            prop_assert!(path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_/".contains(&byte)));
            prop_assert_eq!(of_path(&path), Some(name));
        }
    }
}
