//! The only unsafe code: memory shared with the kernel, and system calls that no safe crate wraps.
//!
//! Invariants:
//! - Each file exposes a safe interface whose callers cannot break memory safety.
//! - Each unsafe block holds one operation and says why it is sound.
#![allow(unsafe_code, reason = "this room exists to hold it; every block has its reason")]

mod bus_error;
pub mod cgroup;
pub mod map;
pub mod ring;
mod ring_memory;
pub mod tracepoint;
pub mod words;

pub use map::Map;
pub use ring::Ring;
pub use words::SharedWords;
