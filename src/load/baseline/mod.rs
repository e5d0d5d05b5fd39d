//! What the agent is compared with in the same run: the usual ways to do the same, each at its best.

pub mod bpftrace;
pub mod journal;
pub mod otlp;
pub mod ring;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::LoadError;

/// Says on standard output that the baseline is attached.
fn ready() -> Result<(), LoadError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready").and_then(|()| out.flush()).map_err(LoadError::io("writing to standard output"))
}

/// CPU time of this process.
fn cpu_s() -> f64 {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default().as_secs_f64()
}

/// True once standard input has ended: how the harness ends a baseline, and what happens when it dies.
fn until_stdin_ends() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ended);
    std::thread::spawn(move || {
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        seen.store(true, Ordering::Relaxed);
    });
    ended
}

/// What a baseline process leaves when it ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Consumed {
    /// Events made, lost ones included.
    pub produced: u64,
    /// Events that did not fit the ring.
    pub lost: u64,
    /// Events that went all the way.
    pub delivered: u64,
    /// CPU time from the moment it was attached until the last event was delivered.
    pub cpu_s: f64,
}
