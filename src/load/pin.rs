//! Which CPUs a thread, and whatever it starts, may run on.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::LoadError;

/// Restricts the calling thread, and every process that it starts from now on, to `cpus`.
pub(super) fn pin_current(cpus: &[usize]) -> Result<(), LoadError> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    sched_setaffinity(None, &set)
        .map_err(|error| LoadError::io(format!("pinning to CPUs {cpus:?}"))(error.into()))
}

/// Runs `start` on `cpus`, so that the child it starts is born there, and goes back to where it was.
pub(super) fn started_on<T>(
    cpus: &[usize],
    start: impl FnOnce() -> Result<T, LoadError>,
) -> Result<T, LoadError> {
    let before =
        sched_getaffinity(None).map_err(|error| LoadError::io("reading the affinity")(error.into()))?;
    pin_current(cpus)?;
    let started = start();
    sched_setaffinity(None, &before)
        .map_err(|error| LoadError::io("restoring the affinity")(error.into()))?;
    started
}

/// CPUs that this thread may use.
pub(super) fn allowed() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return vec![0] };
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}
