//! The errno probe in time: attached for as long as its budget lasts, then away until it has earned the next look.
//!
//! `budget` decides, `blind` remembers when nobody looked; here is the thread between them and the kernel.
//!
//! Invariants:
//! - What nobody looked at is accounted for: the absence of a failure is no evidence then.
//! - The thread ends soon after [`ErrnoWatch::stop`], or when the program is gone.

mod blind;
mod budget;

pub use blind::Blind;
pub use budget::WHOLE;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use budget::{Budget, LOOK_MAX, Step};

use crate::clock;

/// The program that every system call of the host pays for while it is attached.
pub const ERRNO_PROGRAM: &str = "errno_sys_exit";

/// The program, as the thread needs it: a seam.
pub trait Switch: Send + 'static {
    /// Attaches or detaches it; false when it is gone for good.
    ///
    /// # Errors
    /// Of the kernel: it stays detached.
    fn set_attached(&mut self, attached: bool) -> io::Result<bool>;

    /// System calls that it has seen since it was loaded.
    fn calls(&self) -> u64;
}

/// The running thread.
#[derive(Debug)]
pub struct ErrnoWatch {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

impl ErrnoWatch {
    /// Starts watching a program that is attached. `share` is what it may cost in units of [`WHOLE`] of the time of
    /// all `cpus`.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(share: u32, cpus: usize, switch: impl Switch, blind: Arc<Blind>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut watch = Watch { switch, blind, stop: Arc::clone(&stop), budget: Budget::new(share, cpus) };
        let thread = std::thread::Builder::new().name("errno-budget".into()).spawn(move || watch.run())?;
        Ok(Self { thread, stop })
    }

    /// Ends the thread.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::warn!("the thread of the errno budget panicked");
        }
    }
}

struct Watch<S> {
    switch: S,
    blind: Arc<Blind>,
    stop: Arc<AtomicBool>,
    budget: Budget,
}

impl<S: Switch> Watch<S> {
    fn run(&mut self) {
        loop {
            let Some(away) = self.attached() else { return };
            self.blind.close(clock::boot_ns());
            if !self.switch(false) || self.rest(away).is_none() || !self.switch(true) {
                return;
            }
            self.blind.open(clock::boot_ns());
        }
    }

    /// Watches the counter until the budget is spent; then for how long to leave. None: the agent stops.
    fn attached(&mut self) -> Option<Duration> {
        let mut seen = self.switch.calls();
        // The first look is early: nobody knows the rate after an absence.
        let mut time = LOOK_MAX / 10;
        loop {
            let elapsed = self.sleep(time)?;
            let calls = self.switch.calls();
            match self.budget.look(elapsed, calls.wrapping_sub(seen)) {
                Step::Stay(next) => time = next,
                Step::Leave(away) => return Some(away),
            }
            seen = calls;
        }
    }

    fn rest(&mut self, away: Duration) -> Option<()> {
        let rested = self.sleep(away)?;
        self.budget.rested(rested);
        Some(())
    }

    /// False when there is nothing to watch any more.
    fn switch(&mut self, attached: bool) -> bool {
        let start = Instant::now();
        match self.switch.set_attached(attached) {
            Ok(there) => {
                self.budget.switched(attached, start.elapsed());
                there
            }
            Err(error) => {
                tracing::warn!("the errno probe is off from now on: it cannot be attached again: {error}");
                false
            }
        }
    }

    /// Waits for this long, and says how long it really was; none when the agent stops.
    fn sleep(&self, time: Duration) -> Option<Duration> {
        let start = Instant::now();
        loop {
            // Acquire: pairs with the Release in `ErrnoWatch::stop`.
            if self.stop.load(Ordering::Acquire) {
                return None;
            }
            let elapsed = start.elapsed();
            if elapsed >= time {
                return Some(elapsed);
            }
            // A stop unparks.
            std::thread::park_timeout(time - elapsed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// A program that sees ten million calls a second, until it breaks.
    struct Flood {
        switched: SyncSender<bool>,
        start: Instant,
        breaks_at: u32,
    }

    impl Switch for Flood {
        fn set_attached(&mut self, attached: bool) -> io::Result<bool> {
            self.switched.send(attached).expect("somebody listens");
            self.breaks_at -= 1;
            if self.breaks_at == 0 { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(true) }
        }

        fn calls(&self) -> u64 {
            u64::try_from(self.start.elapsed().as_nanos() / 100).expect("short")
        }
    }

    fn flood(breaks_at: u32) -> (ErrnoWatch, Receiver<bool>, Arc<Blind>) {
        let (switched, turns) = sync_channel(16);
        let blind = Arc::new(Blind::default());
        let switch = Flood { switched, start: Instant::now(), breaks_at };
        let watch = ErrnoWatch::start(WHOLE / 5, 1, switch, Arc::clone(&blind)).expect("a thread");
        (watch, turns, blind)
    }

    /// Scenario: more calls than the budget pays, then a stop while the probe is away.
    /// Guarantees: it is detached and attached in turns, the absence is counted, and the stop waits for nothing.
    #[test]
    fn it_comes_and_goes() {
        let (watch, turns, blind) = flood(u32::MAX);
        let wait = Duration::from_secs(30);
        let seen: Vec<bool> = (0..3).map(|_| turns.recv_timeout(wait).expect("a turn")).collect();
        assert_eq!(seen, [false, true, false]);
        assert!(blind.total(clock::boot_ns()) >= budget::AWAY_MIN);
        watch.stop();
    }

    /// Scenario: the kernel refuses to attach the program again.
    /// Guarantees: the thread ends, and nobody looks from then on.
    #[test]
    fn a_refusal_leaves_it_blind() {
        let (watch, turns, blind) = flood(2);
        let wait = Duration::from_secs(30);
        assert_eq!(turns.recv_timeout(wait), Ok(false));
        assert_eq!(turns.recv_timeout(wait), Ok(true));
        watch.thread.join().expect("it ends");
        let now = clock::boot_ns();
        assert!(blind.total(now + 1_000_000_000) >= blind.total(now) + Duration::from_secs(1));
    }
}
