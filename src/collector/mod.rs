//! The collectors: one room per source of events.

pub mod ebpf;
