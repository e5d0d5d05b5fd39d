//! Properties as D-Bus carries them, read with the types that they ought to have.
//!
//! Invariants:
//! - A value of another type is never used: it is remembered, and [`Properties::check`] refuses the whole message.

use std::cell::Cell;
use std::collections::HashMap;

use zbus::Variant;

/// A property has another type than this version of the collector knows. Skip the message and count it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the property {0} has an unexpected type")]
pub(super) struct WrongType(pub(super) &'static str);

/// The properties of one message.
#[derive(Debug)]
pub(super) struct Properties<'message> {
    values: HashMap<&'message str, Variant<'message>>,
    wrong: Cell<Option<&'static str>>,
}

impl<'message> Properties<'message> {
    pub(super) fn new(values: HashMap<&'message str, Variant<'message>>) -> Self {
        Self { values, wrong: Cell::new(None) }
    }

    /// Says whether everything that was asked for until now had its type.
    pub(super) fn check(&self) -> Result<(), WrongType> {
        self.wrong.get().map_or(Ok(()), |name| Err(WrongType(name)))
    }

    fn read<T>(&self, name: &'static str, read: impl Fn(&Variant<'_>) -> Option<T>) -> Option<T> {
        let found = self.values.get(name)?;
        let value = read(found);
        if value.is_none() {
            self.wrong.set(Some(name));
        }
        value
    }

    pub(super) fn text(&self, name: &'static str) -> Option<Box<str>> {
        self.read(name, |value| match value {
            Variant::Str(text) => Some(text.as_str().into()),
            _ => None,
        })
    }

    pub(super) fn u64(&self, name: &'static str) -> Option<u64> {
        self.read(name, |value| match value {
            Variant::U64(number) => Some(*number),
            _ => None,
        })
    }

    pub(super) fn u32(&self, name: &'static str) -> Option<u32> {
        self.read(name, |value| match value {
            Variant::U32(number) => Some(*number),
            _ => None,
        })
    }

    pub(super) fn i32(&self, name: &'static str) -> Option<i32> {
        self.read(name, |value| match value {
            Variant::I32(number) => Some(*number),
            _ => None,
        })
    }

    /// A 128-bit id; all zeros for the empty array that means none.
    pub(super) fn id(&self, name: &'static str) -> Option<[u8; 16]> {
        self.read(name, |value| {
            let Variant::Array(array) = value else { return None };
            let mut id = [0; 16];
            if array.is_empty() {
                return Some(id);
            }
            if array.len() != id.len() {
                return None;
            }
            for (place, element) in id.iter_mut().zip(array.inner()) {
                let Variant::U8(byte) = element else { return None };
                *place = *byte;
            }
            Some(id)
        })
    }

    pub(super) fn texts(&self, name: &'static str) -> Option<Vec<Box<str>>> {
        self.read(name, |value| {
            let Variant::Array(array) = value else { return None };
            let text = |element: &Variant<'_>| match element {
                Variant::Str(text) => Some(text.as_str().into()),
                _ => None,
            };
            array.inner().iter().map(text).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: each reader is given each type.
    /// Guarantees: only the right one is read, any other is refused by name, what is absent is not an error.
    #[test]
    fn only_the_right_type_is_read() {
        let values = || {
            HashMap::from([
                ("Text", Variant::from("a")),
                ("U64", Variant::from(5_u64)),
                ("U32", Variant::from(6_u32)),
                ("I32", Variant::from(-7_i32)),
                ("Id", Variant::from(vec![9_u8; 16])),
                ("None", Variant::from(Vec::<u8>::new())),
                ("Texts", Variant::from(vec!["a", "b"])),
            ])
        };
        let right = Properties::new(values());
        assert_eq!(right.text("Text").as_deref(), Some("a"));
        assert_eq!((right.u64("U64"), right.u32("U32"), right.i32("I32")), (Some(5), Some(6), Some(-7)));
        assert_eq!((right.id("Id"), right.id("None")), (Some([9; 16]), Some([0; 16])));
        assert_eq!(right.texts("Texts").map(|texts| texts.len()), Some(2));
        assert_eq!(right.text("Absent"), None);
        assert_eq!(right.check(), Ok(()));

        for name in ["Text", "U64", "U32", "I32", "Id", "Texts"] {
            for reader in ["Text", "U64", "U32", "I32", "Id", "Texts"] {
                let properties = Properties::new(values());
                let is_read = match reader {
                    "Text" => properties.text(name).is_some(),
                    "U64" => properties.u64(name).is_some(),
                    "U32" => properties.u32(name).is_some(),
                    "I32" => properties.i32(name).is_some(),
                    "Id" => properties.id(name).is_some(),
                    _ => properties.texts(name).is_some(),
                };
                assert_eq!(is_read, reader == name, "{name} as {reader}");
                assert_eq!(properties.check().is_ok(), reader == name, "{name} as {reader}");
            }
        }
        let short = Properties::new(HashMap::from([("Id", Variant::from(vec![9_u8; 15]))]));
        assert_eq!((short.id("Id"), short.check()), (None, Err(WrongType("Id"))));
    }
}
