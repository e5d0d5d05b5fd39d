//! The control beside every run: was the machine good enough for its figure to mean anything?
//!
//! Three things spoil a run, and each is measured while it lasts: time stolen by the host (/proc/stat),
//! the longest pause of a CPU (a real-time thread on each CPU that sleeps a millisecond at a time and sees how late
//! it wakes), and processes that are no part of the run.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::child::{Child, Start};
use super::generate::{monotonic_ns, sleep_until};
use super::stats::float;
use super::{LoadError, pin, procfs};

/// A longer pause voids a run. Sides last ten seconds, so this one moves a mean by half a percent; and at two million
/// events of 64 bytes a second it fills 6.4 MB of rings of 32 MiB, so it excuses no loss.
pub const GAP_MS_MAX: f64 = 50.0;
/// More stolen time voids a run, percent of the CPU that lost the most.
pub const STEAL_PCT_MAX: f64 = 5.0;
/// More use of CPUs by others voids a run, percent of one CPU.
pub const FOREIGN_PCT_MAX: f64 = 10.0;

/// What the control saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Control {
    /// Stolen by the host, percent of the CPU that lost the most.
    pub steal_pct: f64,
    /// The longest pause of a CPU.
    pub max_gap_ms: f64,
    /// CPU used by processes that are no part of the run, percent of one CPU.
    pub foreign_pct: f64,
}

impl Control {
    /// Whether the run counts for nothing.
    #[must_use]
    pub fn void(&self) -> bool {
        self.steal_pct > STEAL_PCT_MAX || self.max_gap_ms > GAP_MS_MAX || self.foreign_pct > FOREIGN_PCT_MAX
    }

    /// The worse of each.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        Self {
            steal_pct: self.steal_pct.max(other.steal_pct),
            max_gap_ms: self.max_gap_ms.max(other.max_gap_ms),
            foreign_pct: self.foreign_pct.max(other.foreign_pct),
        }
    }
}

/// What `tapio-load watch` prints.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Watched {
    /// The latest wake-up.
    pub max_gap_ms: f64,
}

/// Watches while a run lasts.
pub(super) struct Watch {
    watcher: Child,
    started: Instant,
    cpus: Vec<procfs::CpuTicks>,
    foreign: u64,
}

impl Watch {
    /// Starts to watch every CPU.
    pub(super) fn start() -> Result<Self, LoadError> {
        let own = std::env::current_exe().map_err(LoadError::io("finding tapio-load"))?;
        // Real time, so that the load of the run itself does not look like a pause of the machine.
        let mut start = Start::new("chrt").args(["--fifo", "1"]).arg(own.display());
        start = start.arg("watch").arg("--cpu").arg(join(&pin::allowed()));
        let watcher = start.stdin_piped().stdout_piped().spawn()?;
        Ok(Self {
            watcher,
            started: Instant::now(),
            cpus: procfs::cpu_ticks(),
            foreign: procfs::foreign_ticks(std::process::id()),
        })
    }

    /// Stops watching.
    pub(super) fn finish(self) -> Result<Control, LoadError> {
        let elapsed = self.started.elapsed();
        let foreign = procfs::foreign_ticks(std::process::id()).saturating_sub(self.foreign);
        let steal_pct = self
            .cpus
            .iter()
            .zip(procfs::cpu_ticks())
            .map(|(before, after)| {
                let total = after.total.saturating_sub(before.total).max(1);
                float(after.steal.saturating_sub(before.steal)) * 100.0 / float(total)
            })
            .fold(0.0, f64::max);
        let watched: Watched = self.watcher.finish_json(Duration::from_secs(5))?;
        let ticks = elapsed.as_secs_f64() * float(procfs::ticks_per_second());
        Ok(Control {
            steal_pct,
            max_gap_ms: watched.max_gap_ms,
            foreign_pct: float(foreign) * 100.0 / ticks.max(1.0),
        })
    }
}

/// CPU numbers as `--cpu` takes them.
pub(super) fn join(cpus: &[usize]) -> String {
    cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// `tapio-load watch`: samples until standard input ends.
///
/// # Errors
/// When a thread cannot be pinned.
pub fn watch(cpus: &[usize]) -> Result<Watched, LoadError> {
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        let samplers: Vec<_> = cpus.iter().map(|&cpu| scope.spawn(move || sample(cpu, stop))).collect();
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let mut watched = Watched::default();
        for sampler in samplers {
            let gap_ms = sampler.join().map_err(|_| LoadError::process("watch", "a thread panicked"))??;
            watched.max_gap_ms = watched.max_gap_ms.max(gap_ms);
        }
        Ok(watched)
    })
}

const PERIOD_NS: u64 = 1_000_000;

fn sample(cpu: usize, stop: &std::sync::atomic::AtomicBool) -> Result<f64, LoadError> {
    pin::pin_current(&[cpu])?;
    let mut gap = 0;
    let mut next = monotonic_ns() + PERIOD_NS;
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        sleep_until(next);
        let now = monotonic_ns();
        gap = gap.max(now.saturating_sub(next));
        next = now + PERIOD_NS;
    }
    Ok(float(gap) / 1e6)
}

/// Prints one JSON line on standard output.
///
/// # Errors
/// When standard output is gone.
pub fn print_json(value: &impl Serialize) -> Result<(), LoadError> {
    let line = serde_json::to_string(value)
        .map_err(|error| LoadError::io("writing JSON")(std::io::Error::other(error)))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(LoadError::io("writing to standard output"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: controls at and beyond each bound.
    /// Guarantees: any one of them voids a run, none does at its bound, and the worst of two has the worse of each.
    #[test]
    fn void_and_worst() {
        let good = Control { steal_pct: STEAL_PCT_MAX, max_gap_ms: GAP_MS_MAX, foreign_pct: FOREIGN_PCT_MAX };
        assert!(!good.void());
        assert!(Control { steal_pct: 5.1, ..good }.void());
        assert!(Control { max_gap_ms: 50.1, ..good }.void());
        assert!(Control { foreign_pct: 10.1, ..good }.void());
        let worst = Control { steal_pct: 1.0, max_gap_ms: 80.0, foreign_pct: 0.0 }.worst(good);
        assert_eq!(worst, Control { max_gap_ms: 80.0, ..good });
    }
}
