//! The wire types of `tapio.v1`, generated from `proto/` by `bpf/build.rs`, and the JSON of incidents.
//!
//! Invariants:
//! - An incident has one JSON form, that of [`SemanticGroup`], wherever it is printed.
#![allow(
    missing_docs,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    reason = "mostly generated; documented in the proto files"
)]

use serde::{Serialize, Serializer};

tonic::include_proto!("tapio.v1");

/// The descriptor set as written, for reflection.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

impl Serialize for Detail {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.value {
            Some(detail::Value::Flag(flag)) => serializer.serialize_bool(*flag),
            Some(detail::Value::Number(number)) => serializer.serialize_i64(*number),
            Some(detail::Value::Text(text)) => serializer.serialize_str(text),
            None => serializer.serialize_unit(),
        }
    }
}
