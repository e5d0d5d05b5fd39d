//! tapio-collector: a host agent that says what failed, why, and what it will take down next.

pub mod agent;
pub mod cli;
pub mod clock;
pub mod collector;
pub mod config;
pub mod control;
pub mod detect;
pub mod egress;
pub mod engine;
pub mod entity;
pub mod event;
pub mod explain;
pub mod health;
pub mod ledger;
pub mod load;
pub mod logging;
pub mod metrics;
pub mod server;
pub mod sys;

/// The wire types of `tapio.v1`.
pub mod proto {
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
}
