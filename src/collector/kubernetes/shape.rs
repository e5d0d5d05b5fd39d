//! Keeps of an object the fields of the table and nothing else, in one pass over its text.
//!
//! Invariants:
//! - What is not kept is never allocated.
//! - The value of an environment variable is kept only where it is an address, without user and password: the others
//!   may be secrets.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::draft::hash;
use super::resource::Keep;

/// The fields of a [`Keep`] table as a tree.
#[derive(Debug, Default)]
pub(super) struct Shape {
    children: Vec<(&'static str, Self)>,
    /// The row that this place is kept for.
    row: Option<usize>,
}

impl Shape {
    /// The tree of these rows.
    #[must_use]
    pub(super) fn new(rows: &[Keep]) -> Self {
        let mut root = Self::default();
        for (number, row) in rows.iter().enumerate() {
            let mut place = &mut root;
            for name in row.path.split(' ') {
                let at = place.children.iter().position(|(found, _)| *found == name).unwrap_or_else(|| {
                    place.children.push((name, Self::default()));
                    place.children.len() - 1
                });
                place = &mut place.children[at].1;
            }
            place.row = Some(number);
        }
        root
    }

    fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|(found, _)| *found == name).map(|(_, child)| child)
    }
}

/// What was kept of one object: a value for each row, null where the object has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept(Vec<Value>);

impl Kept {
    /// Reads an object.
    ///
    /// # Errors
    /// When it is not JSON.
    pub(super) fn read(shape: &Shape, rows: &[Keep], object: &[u8]) -> serde_json::Result<Self> {
        let mut values = vec![Value::Null; rows.len()];
        let mut deserializer = serde_json::Deserializer::from_slice(object);
        Walk { shape, values: &mut values }.deserialize(&mut deserializer)?;
        for (value, row) in values.iter_mut().zip(rows) {
            if !row.only.is_empty() {
                trim(value, row.only);
            }
        }
        Ok(Self(values))
    }

    /// A short hash of each row's value; 0 where there is none.
    #[must_use]
    pub(super) fn hashes(&self) -> Box<[u32]> {
        let short = |value: &Value| -> u32 {
            if value.is_null() {
                return 0;
            }
            // 32 bits are enough to notice a change of one field.
            u32::try_from(hash(&[&value.to_string()]) >> 32).unwrap_or(0).max(1)
        };
        self.0.iter().map(short).collect()
    }

    /// The numbers of two rows; 0 where there is none.
    ///
    /// # Errors
    /// When the object is not JSON.
    pub(super) fn numbers(rows: &[Keep; 2], object: &[u8]) -> serde_json::Result<[u64; 2]> {
        let kept = Self::read(&Shape::new(rows), rows, object)?;
        let number = |row: usize| kept.0.get(row).and_then(Value::as_u64).unwrap_or(0);
        Ok([number(0), number(1)])
    }

    /// The images of the containers that were kept, separated by spaces.
    #[must_use]
    pub(super) fn images(&self, rows: &[Keep]) -> String {
        let lists = self.0.iter().zip(rows).filter(|(_, row)| row.path.ends_with("containers"));
        let containers = lists.filter_map(|(value, _)| value.as_array()).flatten();
        let images = containers.filter_map(|container| container.get("image")?.as_str());
        images.collect::<Vec<_>>().join(" ")
    }

    /// The chosen rows as compact JSON, by their paths with dots; nothing when there are none.
    #[must_use]
    pub(super) fn json(&self, rows: &[Keep], chosen: impl Fn(usize) -> bool) -> String {
        let mut fields = Map::new();
        for (number, (value, row)) in self.0.iter().zip(rows).enumerate() {
            if chosen(number) && !value.is_null() {
                fields.insert(row.path.replace(' ', "."), value.clone());
            }
        }
        if fields.is_empty() { String::new() } else { Value::Object(fields).to_string() }
    }
}

fn trim(value: &mut Value, only: &[&str]) {
    match value {
        Value::Array(elements) => elements.iter_mut().for_each(|element| trim(element, only)),
        Value::Object(fields) => {
            fields.retain(|name, _| only.contains(&name.as_str()));
            if let Some(Value::Array(variables)) = fields.get_mut("env") {
                variables.iter_mut().for_each(keep_address);
            }
        }
        _ => {}
    }
}

fn keep_address(variable: &mut Value) {
    let Value::Object(fields) = variable else { return };
    let Some(value) = fields.remove("value") else { return };
    if let Some(address) = value.as_str().and_then(address) {
        fields.insert("value".into(), Value::String(address));
    }
}

/// The host and port of a text that is an address; nothing of anything else.
fn address(text: &str) -> Option<String> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if scheme.is_empty() && authority != rest {
        return None;
    }
    let host = authority.rsplit('@').next().unwrap_or_default();
    let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
    let named = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte));
    let numbered = !port.is_empty() && port.parse::<u16>().is_ok();
    let is_address = named && (numbered || name.contains(".svc") || !scheme.is_empty() && port.is_empty());
    is_address.then(|| format!("{scheme}{host}"))
}

/// One step into an object.
struct Walk<'walk> {
    shape: &'walk Shape,
    values: &'walk mut Vec<Value>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.shape.row {
            Some(row) => {
                let value = serde::Deserialize::deserialize(deserializer)?;
                if let Some(place) = self.values.get_mut(row) {
                    *place = value;
                }
                Ok(())
            }
            None => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(name)) = map.next_key()? {
            match self.shape.child(&name) {
                Some(shape) => map.next_value_seed(Walk { shape, values: self.values })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// The name of a field, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Key<'text>(#[serde(borrow)] Cow<'text, str>);

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &[Keep] = &[
        Keep { path: "spec selector", only: &[] },
        Keep { path: "spec containers", only: &["name", "env"] },
        Keep { path: "status phase", only: &[] },
        Keep { path: "odd deep path", only: &[] },
    ];

    fn kept(text: &str) -> Kept {
        Kept::read(&Shape::new(ROWS), ROWS, text.as_bytes()).expect("JSON")
    }

    /// Scenario: an object with more than the table asks for, and values where the table expects objects.
    /// Guarantees: exactly the rows come out, whatever else is there.
    #[test]
    fn only_rows_are_kept() {
        let text = r#"{"metadata":{"name":"a"},"spec":{"selector":{"a\u0020b":"c"},"more":[1,{"x":2}],
            "containers":[{"name":"w","image":"i","command":["secret"],
            "env":[{"name":"PASSWORD","value":"hunter2"},{"name":"DB","value":"postgres://u:p@db.ns.svc:5432/x"}]}]},
            "odd":[{"deep":1}],"status":{"phase":"Bound"}}"#;
        let json = kept(text).json(ROWS, |_| true);
        assert_eq!(
            json,
            r#"{"spec.containers":[{"env":[{"name":"PASSWORD"},{"name":"DB","value":"postgres://db.ns.svc:5432"}],"name":"w"}],"spec.selector":{"a b":"c"},"status.phase":"Bound"}"#
        );
        for odd in [r#"{"spec":null}"#, r#"{"spec":7,"odd":{"deep":"x"}}"#, "{}"] {
            assert_eq!(kept(odd).json(ROWS, |_| true), "");
        }
        assert!(Kept::read(&Shape::new(ROWS), ROWS, b"{\"spec\":{").is_err());
    }

    /// Scenario: the same object again, and with one field changed.
    /// Guarantees: the hashes name exactly the row that changed.
    #[test]
    fn hashes_name_the_change() {
        let before = kept(r#"{"spec":{"selector":{"a":"1"}},"status":{"phase":"Bound"}}"#).hashes();
        let after = kept(r#"{"status":{"phase":"Lost"},"spec":{"selector":{"a":"1"}}}"#).hashes();
        assert_eq!(before[0], after[0]);
        assert_ne!(before[2], after[2]);
        assert_eq!((before[1], before[3]), (0, 0));
    }

    /// Scenario: texts that are addresses, and texts that are not.
    /// Guarantees: a host and its port stay, nothing that could be a secret does.
    #[test]
    fn addresses_are_kept_without_secrets() {
        let cases = [
            ("db:5432", Some("db:5432")),
            ("http://api.shop.svc.cluster.local/v1?key=s3cret", Some("http://api.shop.svc.cluster.local")),
            ("https://user:s3cret@host:8443/x", Some("https://host:8443")),
            ("redis.cache.svc", Some("redis.cache.svc")),
            ("10.96.0.1:443", Some("10.96.0.1:443")),
            ("hunter2", None),
            ("a/b:80", None),
            ("s3cret:word", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(address(text).as_deref(), expected, "{text}");
        }
    }
}
