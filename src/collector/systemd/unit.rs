//! What the manager says of a unit: its state, how its last run ended, its limits and its relations.
//!
//! Invariants:
//! - What a message did not say is `None` and leaves what is known as it is.

use super::property::{Properties, WrongType};

/// A limit that is not set.
pub(super) const UNLIMITED: u64 = u64::MAX;

/// The states and times that the interface of all units announces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StateChange {
    pub(super) load: Option<Box<str>>,
    pub(super) active: Option<Box<str>>,
    pub(super) sub: Option<Box<str>>,
    pub(super) invocation: Option<[u8; 16]>,
    /// When the state changed last, `CLOCK_MONOTONIC` microseconds, as all times here.
    pub(super) changed_us: Option<u64>,
    pub(super) inactive_exit_us: Option<u64>,
    pub(super) active_enter_us: Option<u64>,
    pub(super) inactive_enter_us: Option<u64>,
}

impl StateChange {
    pub(super) fn read(properties: &Properties<'_>) -> Result<Self, WrongType> {
        let change = Self {
            load: properties.text("LoadState"),
            active: properties.text("ActiveState"),
            sub: properties.text("SubState"),
            invocation: properties.id("InvocationID"),
            changed_us: properties.u64("StateChangeTimestampMonotonic"),
            inactive_exit_us: properties.u64("InactiveExitTimestampMonotonic"),
            active_enter_us: properties.u64("ActiveEnterTimestampMonotonic"),
            inactive_enter_us: properties.u64("InactiveEnterTimestampMonotonic"),
        };
        properties.check().map(|()| change)
    }

    /// Whether this says nothing that an earlier message did not say.
    pub(super) fn repeats(&self, earlier: &Self) -> bool {
        (&self.active, &self.sub, self.changed_us, self.invocation)
            == (&earlier.active, &earlier.sub, earlier.changed_us, earlier.invocation)
    }
}

/// What the interface of the unit's type announces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RunChange {
    pub(super) result: Option<Box<str>>,
    pub(super) restarts: Option<u32>,
    pub(super) main_pid: Option<u32>,
    pub(super) exec_code: Option<i32>,
    pub(super) exec_status: Option<i32>,
    pub(super) status_text: Option<Box<str>>,
}

impl RunChange {
    pub(super) fn read(properties: &Properties<'_>) -> Result<Self, WrongType> {
        let change = Self {
            result: properties.text("Result"),
            restarts: properties.u32("NRestarts"),
            main_pid: properties.u32("MainPID"),
            exec_code: properties.i32("ExecMainCode"),
            exec_status: properties.i32("ExecMainStatus"),
            status_text: properties.text("StatusText"),
        };
        properties.check().map(|()| change)
    }

    /// Whether this says nothing that matters and an earlier message did not say.
    pub(super) fn repeats(&self, earlier: &Self) -> bool {
        (&self.result, self.restarts, self.exec_code, self.exec_status)
            == (&earlier.result, earlier.restarts, earlier.exec_code, earlier.exec_status)
    }
}

/// What a unit may use, and how it is restarted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Limits {
    /// In the order of the slots of `unit_limits`.
    pub(super) numbers: [u64; 9],
    pub(super) restart: Box<str>,
    pub(super) oom_policy: Box<str>,
    pub(super) fragment_path: Box<str>,
    pub(super) cgroup: Box<str>,
}

impl Limits {
    /// Reads the properties of all units and those of the unit's type.
    fn read(unit: &Properties<'_>, kind: &Properties<'_>) -> Self {
        let limit = |name| kind.u64(name).unwrap_or(UNLIMITED);
        Self {
            numbers: [
                limit("MemoryMax"),
                limit("MemoryHigh"),
                limit("TasksMax"),
                limit("LimitNOFILESoft"),
                unit.u32("StartLimitBurst").map_or(UNLIMITED, u64::from),
                unit.u64("StartLimitIntervalUSec").unwrap_or(UNLIMITED),
                limit("RestartUSec"),
                // The manager says 0 for a watchdog that is off.
                kind.u64("WatchdogUSec").filter(|time| *time > 0).unwrap_or(UNLIMITED),
                limit("TimeoutStartUSec"),
            ],
            restart: kind.text("Restart").unwrap_or_default(),
            oom_policy: kind.text("OOMPolicy").unwrap_or_default(),
            fragment_path: unit.text("FragmentPath").unwrap_or_default(),
            cgroup: kind.text("ControlGroup").unwrap_or_default(),
        }
    }
}

/// The relations that are read, by the names of their properties. `Before` is left out: it says what the `After` of
/// the other units says, and is the longest of all.
pub(super) const RELATIONS: [&str; 24] = [
    "Requires",
    "Requisite",
    "Wants",
    "BindsTo",
    "PartOf",
    "Upholds",
    "Conflicts",
    "After",
    "OnFailure",
    "OnSuccess",
    "Triggers",
    "TriggeredBy",
    "PropagatesStopTo",
    "StopPropagatedFrom",
    "JoinsNamespaceOf",
    "RequiredBy",
    "RequisiteOf",
    "WantedBy",
    "BoundBy",
    "ConsistsOf",
    "UpheldBy",
    "ConflictedBy",
    "OnFailureOf",
    "Slice",
];

/// One relation: an index into [`RELATIONS`], and the units.
pub(super) type Related = (usize, Vec<Box<str>>);

/// Everything that is read of a unit at once.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) state: StateChange,
    pub(super) run: RunChange,
    pub(super) limits: Limits,
    /// Those that are not empty.
    pub(super) relations: Vec<Related>,
}

impl Found {
    /// Reads the properties of all units and those of the unit's type; the latter are empty for types without.
    pub(super) fn read(unit: &Properties<'_>, kind: &Properties<'_>) -> Result<Self, WrongType> {
        let mut relations = Vec::new();
        for (index, name) in RELATIONS.iter().enumerate() {
            let related = match *name {
                "Slice" => kind.text(name).map(|slice| vec![slice]),
                _ => unit.texts(name),
            };
            let named: Vec<_> =
                related.unwrap_or_default().into_iter().filter(|unit| !unit.is_empty()).collect();
            if !named.is_empty() {
                relations.push((index, named));
            }
        }
        let found = Self {
            state: StateChange::read(unit)?,
            run: RunChange::read(kind)?,
            limits: Limits::read(unit, kind),
            relations,
        };
        unit.check().and_then(|()| kind.check()).map(|()| found)
    }
}
