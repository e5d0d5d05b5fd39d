//! The journald collector: what journald stores, as events.

pub mod journal;
