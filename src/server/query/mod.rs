//! Finds stored events by time, kind, entity, trace and agent, and stored incidents.
//!
//! `filter` and `groups` read what is asked for, `scan` finds it, `hit` is one event and its JSON, `time` reads and writes
//! points in time.
//!
//! Invariants:
//! - Memory is bounded by the limit of the query, not by the store.
//! - The answer is the oldest matching events, in order, each once.

pub(super) mod filter;
pub(super) mod groups;
pub(super) mod hit;
pub(super) mod scan;
pub(super) mod time;
