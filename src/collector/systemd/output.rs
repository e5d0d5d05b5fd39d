//! What the collector has to say.

use super::unit::Limits;

/// A state of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UnitState {
    pub(super) unit: Box<str>,
    /// `CLOCK_MONOTONIC`.
    pub(super) changed_us: u64,
    pub(super) invocation: [u8; 16],
    pub(super) main_pid: u32,
    pub(super) exec_code: i32,
    pub(super) exec_status: i32,
    pub(super) restarts: u32,
    /// Found, not announced.
    pub(super) found: bool,
    pub(super) load: Box<str>,
    /// Empty where nothing was known before: then it is no change.
    pub(super) active_before: Box<str>,
    pub(super) active: Box<str>,
    /// Empty where the manager did not say.
    pub(super) sub: Box<str>,
    pub(super) result: Box<str>,
    pub(super) result_before: Box<str>,
    pub(super) status_text: Box<str>,
}

/// One thing to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Output {
    /// A unit is in a state.
    State(Box<UnitState>),
    /// A job was queued or, with a result, ended.
    Job(Job),
    /// A unit is not loaded any more.
    Removed { unit: Box<str>, invocation: [u8; 16] },
    /// What a unit may use.
    Limits { unit: Box<str>, limits: Box<Limits> },
    /// The units in one relation to a unit; none of them means that there are none any more.
    Relation { unit: Box<str>, relation: usize, units: Vec<Box<str>> },
    /// The manager itself.
    Manager(ManagerState),
}

/// A job that was queued or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) id: u32,
    pub(super) unit: Box<str>,
    /// Empty where it ended before it could be asked for its type.
    pub(super) kind: Box<str>,
    /// How it ended; `None` for one that was queued.
    pub(super) result: Option<Box<str>>,
    /// `CLOCK_BOOTTIME`, nanoseconds.
    pub(super) at_ns: u64,
    /// Of the unit; zeros where it is not known.
    pub(super) invocation: [u8; 16],
}

/// What the manager does, or what became of the connection to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ManagerState {
    pub(super) state: &'static str,
    /// Why something may be missing; else empty.
    pub(super) cause: &'static str,
    pub(super) units: u64,
    pub(super) failed: u64,
}
