//! The collectors: one room per source of events, and the table of those that bring their own thread.
//!
//! The ebpf collector is not in the table: its programs fill rings, which the engine's drain threads empty.
//!
//! Invariants:
//! - A collector reads, makes events and puts them into its [`Port`]; what they mean is not its business.
//! - It never blocks the others: it has its own thread, and a full queue is its own to wait for or to count.

pub mod ebpf;
pub mod journald;
pub mod kubernetes;
pub mod sampler;
pub mod stretches;
pub mod systemd;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use crate::engine::Live;
use crate::engine::port::Port;
use crate::engine::worker::Worker;
use crate::event::Source;
use crate::health::Health;
use crate::ledger::Ledger;

/// What a collector gets when it starts.
#[derive(Debug)]
pub struct Context {
    /// Where its events go.
    pub port: Port,
    /// The settings in force.
    pub live: Arc<Live>,
    /// Where it says how it is.
    pub health: Arc<Health>,
    /// What became of its events.
    pub ledger: Arc<Ledger>,
    /// When to end.
    pub stop: Stop,
    /// Names this boot.
    pub boot_id: [u8; 16],
    /// Where positions are kept, in files named after the collector.
    pub state_dir: PathBuf,
}

/// Says when a collector is to end. Its thread is unparked then, too.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// The two ends: send `true` once.
    #[must_use]
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Whether to end.
    #[must_use]
    pub fn is_set(&self) -> bool {
        // A sender that is gone cannot ask any more.
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits until it is time to end.
    pub async fn wait(&mut self) {
        let _gone = self.0.wait_for(|stop| *stop).await;
    }
}

/// Why a collector cannot run on this host: what is missing, and how to get it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// One collector with a thread of its own.
#[derive(Debug, Clone, Copy)]
pub struct CollectorInfo {
    /// Its source.
    pub source: Source,
    /// The name of its thread, at most 15 bytes.
    pub thread: &'static str,
    /// Makes it ready, quickly: what takes long belongs into the worker. The worker says in the health how it
    /// is, and ends soon after [`Stop`] is set; its `run` is called again after a panic.
    pub open: fn(Context) -> Result<Box<dyn Worker>, Unavailable>,
}

/// Every collector with a thread of its own.
pub const COLLECTORS: &[CollectorInfo] = &[journald::INFO, kubernetes::INFO, systemd::INFO, sampler::INFO];
