//! What one run left: its measures, its losses and its control.

use crate::load::control::Control;

macro_rules! measures {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $name:literal ),+ $(,)?) => {
        /// Something a run measures.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Measure { $( $(#[doc = $doc])+ $variant ),+ }

        impl Measure {
            /// All of them.
            pub(super) const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// The name in `detail`.
            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

measures! {
    /// CPU time of the agent, or of the baseline in its place, for one delivered event.
    AgentUs = "agent_us_per_event",
    /// Cores that it used while the load lasted.
    AgentCore = "agent_core",
    /// CPU time of the server for one delivered event.
    ServerUs = "server_us_per_event",
    /// Calls a second that the generator reached.
    Rate = "rate_per_s",
    /// CPU time of the generator a call, the probe's work included.
    GeneratorUs = "generator_us_per_call",
    /// The longest pause that the generator saw.
    GeneratorGapMs = "generator_gap_ms",
    /// Events delivered that the generator did not make: the rest of the machine.
    OtherEvents = "other_events",
    /// Lost, of those made.
    LostPct = "lost_pct",
    /// Ring to batch, median.
    LatencyP50 = "latency_p50_us",
    /// Ring to batch; what the host does decides it.
    LatencyP99 = "latency_p99_us",
    /// The agent's peak resident memory.
    PeakMib = "peak_rss_mib",
    /// Its resident memory at the end, pages that are mapped twice counted once.
    PssMib = "pss_mib",
    /// CPU used while nothing was asked of it, percent of a core.
    IdlePct = "idle_cpu_pct",
    /// CPU of the journal's and systemd's threads with nothing to do, percent of a core.
    CollectorsPct = "collectors_cpu_pct",
    /// CPU of the sampler's thread, percent of a core.
    SamplerPct = "sampler_cpu_pct",
    /// Samples that it sent, a second.
    SamplerEvents = "sampler_events_per_s",
    /// Bytes on the server's disk an event.
    DiskBytes = "disk_bytes_per_event",
    /// Bytes that the server wrote between two syncs, on average.
    DiskSync = "disk_bytes_per_sync",
    /// What the disk alone reaches with writes of the same size, synced.
    DiskEvents = "disk_limit_events_per_s",
    /// CPU time of those writes alone, for the bytes of one event.
    DiskUs = "disk_us_per_event",
    /// CPU time for one entry of a journal.
    EntryUs = "us_per_entry",
    /// Entries of a journal for a second of CPU time.
    EntriesPerS = "entries_per_cpu_s",
    /// Bytes of the fields of a journal.
    FieldBytes = "field_bytes",
    /// From sending a message to reading it, median.
    TailMs = "tail_p50_ms",
    /// CPU of the causal engine, percent of a core.
    ExplainPct = "explain_cpu_pct",
    /// The most CPU time of one judgement.
    ExplainSlowest = "explain_slowest_ms",
    /// Facts that the causal engine kept.
    ExplainKept = "explain_facts_kept",
    /// Memory of the causal engine: the peak of the first half of the run.
    ExplainHalfMib = "explain_half_mib",
    /// Memory of the causal engine: the peak of the whole run.
    ExplainMib = "explain_mib",
    /// From the end of a process to the incident that tells of it, median.
    VerdictP50 = "verdict_p50_ms",
    /// From the end of a process to the incident that tells of it.
    VerdictP99 = "verdict_p99_ms",
    /// Ends of processes that were told.
    Verdicts = "verdicts",
    /// Operations a second of an observed program.
    Operations = "operations_per_s",
    /// CPU time of an observed program for one operation.
    OperationUs = "cpu_us_per_operation",
}

/// What one run left.
#[derive(Debug, Clone, Default)]
pub(super) struct Report {
    /// Beside it.
    pub(super) control: Control,
    /// Events that the load made, as far as its number is known.
    pub(super) calls: u64,
    /// Events lost and counted.
    pub(super) lost: u64,
    /// Why the ledger did not close, if it did not.
    pub(super) ledger: Option<String>,
    /// Why the run does not count although the machine was good, if so.
    pub(super) shortfall: Option<String>,
    measures: Vec<(Measure, f64)>,
}

impl Report {
    pub(super) fn new(control: Control) -> Self {
        Self { control, ..Self::default() }
    }

    pub(super) fn put(&mut self, measure: Measure, value: f64) {
        self.measures.push((measure, value));
    }

    pub(super) fn get(&self, measure: Measure) -> Option<f64> {
        self.measures.iter().find(|(name, _)| *name == measure).map(|&(_, value)| value)
    }

    /// Whether it counts.
    pub(super) fn clean(&self) -> bool {
        !self.control.void() && self.shortfall.is_none()
    }
}
