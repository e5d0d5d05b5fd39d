//! A fork/exec storm: the real program of the three that the process probe touches most.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::stats::float;
use super::{LoadError, pin, procfs};

/// What the storm did.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Stormed {
    /// Processes started and waited for.
    pub processes: u64,
    /// A second.
    pub rate: f64,
    /// CPU time of each, with that of its start.
    pub us_per_process: f64,
}

/// Starts /bin/true and waits for it, one after the other on one CPU, for a time.
///
/// # Errors
/// When /bin/true cannot be started.
pub fn run(cpu: usize, duration: Duration) -> Result<Stormed, LoadError> {
    pin::pin_current(&[cpu])?;
    let mut command = Command::new("/bin/true");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).env_clear();
    let (start, before) = (Instant::now(), procfs::spent_s());
    let mut processes = 0;
    while start.elapsed() < duration {
        command.status().map_err(LoadError::io("starting /bin/true"))?;
        processes += 1;
    }
    let us_per_process = (procfs::spent_s() - before) * 1e6 / float(processes.max(1));
    Ok(Stormed { processes, rate: float(processes) / start.elapsed().as_secs_f64(), us_per_process })
}
