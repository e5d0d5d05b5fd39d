//! The harness: a load generator made of real system calls, what the agent is compared with, and the
//! orchestration that turns runs into figures. Everything that `tapio-load` does, and nothing of the agent.
//!
//! Invariants:
//! - The agent and the server are only ever met as processes, through their command lines.
//! - A figure is made of runs whose control was good, or it says `void`.
//! - An event that was lost without being counted fails the harness; a missed goal does not.

pub mod baseline;
pub mod bench;
mod child;
pub mod cli;
pub mod control;
mod disk;
pub mod error;
pub mod generate;
mod pin;
mod procfs;
mod stats;
pub mod storm;

pub use error::LoadError;
