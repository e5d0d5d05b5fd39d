//! Named, pinned threads that survive their own panics.
//!
//! A worker is state plus a loop over it. When the loop panics the thread stays, the state tidies up
//! what it held ([`Worker::recover`] counts it), and the loop starts again at once: nobody else waits,
//! and the queues keep their ends.
//!
//! Invariants:
//! - Every panic is counted, named in the health and followed by `recover` or by the thread's end.
//! - A worker that panics [`PANICS_MAX`] times without ten good seconds between them gives up, which fails the agent.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::health::Health;

/// Panics in a row after which a worker is broken, not unlucky.
pub const PANICS_MAX: u32 = 100;

/// A worker that ran this long has recovered.
pub const RECOVERED: Duration = Duration::from_secs(10);

/// State with a loop over it.
pub trait Worker: Send + 'static {
    /// Runs until the work is over. May panic.
    fn run(&mut self);

    /// Makes the state whole again after a panic in `run`, and counts what is lost.
    fn recover(&mut self);
}

impl Worker for Box<dyn Worker> {
    fn run(&mut self) {
        (**self).run();
    }

    fn recover(&mut self) {
        (**self).recover();
    }
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its work is over.
    Finished,
    /// It panicked too often.
    Broken,
}

/// Starts a worker on a thread called `name` (at most 15 bytes), pinned to `core`.
///
/// # Errors
/// When the thread cannot be made.
pub fn spawn(
    name: &str,
    core: usize,
    health: Arc<Health>,
    mut worker: impl Worker,
) -> std::io::Result<JoinHandle<End>> {
    let thread = name.to_owned();
    std::thread::Builder::new().name(thread.clone()).spawn(move || {
        // Before anything is allocated here, so that memory is local to the core.
        if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
            tracing::warn!("{thread} could not be pinned to core {core} and runs on any");
        }
        supervise(&thread, &health, &mut worker)
    })
}

fn supervise(thread: &str, health: &Health, worker: &mut impl Worker) -> End {
    let mut panics = 0;
    loop {
        let started = Instant::now();
        // The state is made whole by `recover`, so observing it after a panic is sound.
        let Err(payload) = catch_unwind(AssertUnwindSafe(|| worker.run())) else { return End::Finished };
        panics = if started.elapsed() > RECOVERED { 1 } else { panics + 1 };
        let message = panic_message(&*payload);
        health.worker_replaced(thread, &message);
        tracing::error!(
            "{thread} panicked and was replaced; the events it held are counted as shed: {message}"
        );
        if panics >= PANICS_MAX || catch_unwind(AssertUnwindSafe(|| worker.recover())).is_err() {
            tracing::error!(
                "{thread} panicked {panics} times and is given up: please report the message above"
            );
            return End::Broken;
        }
    }
}

/// What a panic said.
#[must_use]
pub fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    struct Faulty {
        runs: u32,
        recovered: u32,
        panics: u32,
    }

    impl Worker for Faulty {
        fn run(&mut self) {
            self.runs += 1;
            assert!(self.runs > self.panics, "injected {}", self.runs);
        }

        fn recover(&mut self) {
            self.recovered += 1;
        }
    }

    /// Scenario: a worker panics twice, then finishes.
    /// Guarantees: it recovers each time, both panics are counted, the last message is kept.
    #[test]
    fn a_panicking_worker_goes_on() {
        let health = Health::default();
        let mut worker = Faulty { runs: 0, recovered: 0, panics: 2 };
        assert_eq!(supervise("shard-00", &health, &mut worker), End::Finished);
        assert_eq!((worker.runs, worker.recovered), (3, 2));
        assert_eq!(health.workers_replaced.load(Ordering::Relaxed), 2);
        assert_eq!(health.last_panic(), "shard-00: injected 2");
    }

    /// Scenario: a worker that always panics.
    /// Guarantees: it is given up after the bound, not retried for ever.
    #[test]
    fn a_broken_worker_is_given_up() {
        let mut worker = Faulty { runs: 0, recovered: 0, panics: u32::MAX };
        assert_eq!(supervise("shard-00", &Health::default(), &mut worker), End::Broken);
        assert_eq!(worker.runs, PANICS_MAX);
    }
}
