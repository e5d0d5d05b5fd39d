//! The harness: a load generator made of real system calls, what the agent is compared with, and the
//! orchestration that turns runs into figures. Everything that `tapio-load` does, and nothing of the agent.
//!
//! Invariants:
//! - The agent and the server are only ever met as processes, through their command lines; single rooms of them
//!   (the journal reader, the causal engine) run in processes of their own.
//! - A figure is made of runs whose control was good, or it says `void`.
//! - An event that was lost without being counted fails the harness; a missed goal does not.

pub mod baseline;
pub mod bench;
mod child;
pub mod cli;
pub mod control;
mod disk;
pub mod error;
mod facts;
pub mod generate;
mod pin;
mod procfs;
mod stats;
pub mod storm;

pub use error::LoadError;
