//! The wire types of `tapio.v1`, generated from `proto/` by `bpf/build.rs`.
#![allow(
    missing_docs,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    reason = "generated; documented in the proto files"
)]

tonic::include_proto!("tapio.v1");

/// The descriptor set as written, for reflection.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
