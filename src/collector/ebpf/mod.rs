//! The kernel as a source: loads the BPF programs of `bpf/`, attaches them, and hands out their rings and
//! counters.
//!
//! A probe is a group of programs for one kind of signal. [`PROBES`] lists them; `bpf/probes/` has the
//! programs and `bpf/lib/` what they share. [`load()`] decides what this kernel can run, loads that, and says
//! of each probe whether it is attached, missing or refused. Reading the rings is the engine's work.
//!
//! Invariants:
//! - One probe that this kernel lacks, or that its verifier refuses, never takes another with it.
//! - Nothing here runs per event.
//! - Needs no tracefs: all programs attach by BTF.

mod attach;
mod cpus;
pub mod errno;
mod kernel;
mod load;
mod log;
mod options;
mod probes;
#[cfg(test)]
mod records;
mod rings;
mod settings;
mod states;

pub use attach::Attached;
pub use cpus::{COUNTERS, Counter, CpuWords, Lane};

pub use load::{LoadError, Loaded, lacking, load, probe_report};
pub use options::Options;
pub use probes::{PROBES, Probe, Program, Use};
pub use rings::{RingPlan, RingPlanError};
