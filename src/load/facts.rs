//! The causal engine alone, under facts: what it costs, and how much memory it takes.
//!
//! The times of the facts are made up, so a minute of them takes as long as the engine needs: CPU time over the time
//! that was made up is its share of a core.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::stats::float;
use super::{LoadError, procfs};
use crate::detect::{EventId, Fact, FactKind, KeyKind, Subject};
use crate::event::Source;
use crate::explain::{Bounds, Explain, RuleSet};

const SECOND_NS: u64 = 1_000_000_000;

/// How often the agent judges while facts come.
const SETTLE_NS: u64 = 20_000_000;

/// Units that the facts are about.
const UNITS: u64 = 400;

/// What `tapio-load facts` prints.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Used {
    /// Facts taken in.
    pub(super) facts: u64,
    /// Facts that were kept in the end.
    pub(super) kept: u64,
    /// Revisions made of them.
    pub(super) revisions: u64,
    /// CPU time over the time of the facts, percent of a core.
    pub(super) core_pct: f64,
    /// The most CPU time that one judgement took.
    pub(super) slowest_ms: f64,
    /// Memory that was added to the program's: the peak in the first half, and in all.
    pub(super) half_kib: u64,
    /// See `half_kib`.
    pub(super) whole_kib: u64,
}

/// What this thread has used of a core: the clock on the wall also counts the neighbours.
fn spent_s() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "seconds and nanoseconds of a run")]
    let seconds = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    seconds
}

/// Facts as a busy host has them: mostly circumstances, now and then something that fails.
fn fact(number: u64, at_ns: u64) -> Fact {
    let kind = match number % 100 {
        0 => FactKind::ExitFailure,
        1 => FactKind::UnitFailed,
        2..=20 => FactKind::ConnectionRefused,
        21..=60 => FactKind::LogError,
        61..=80 => FactKind::UnitStarted,
        _ => FactKind::Listener,
    };
    let unit = format!("u{}.service", number % UNITS);
    Fact::new(kind, Subject::new("unit", &*unit), Source::Systemd, at_ns)
        .key(KeyKind::Unit, &*unit)
        .key(KeyKind::Invocation, format!("{:x}-{:x}", number % UNITS, at_ns / SECOND_NS))
        .key(KeyKind::Cgroup, format!("/system.slice/{unit}"))
        .key(KeyKind::Node, "n1")
        .event(EventId { source: Source::Systemd, producer: 0, sequence: number + 1 })
        .with("exit_code", 1_i64)
}

/// Feeds the engine.
pub(super) fn run(rate: u64, seconds: u64) -> Result<Used, LoadError> {
    let rules = RuleSet::shipped().map_err(|error| LoadError::process("the rules", error.to_string()))?;
    let mut engine = Explain::new([1; 16], std::sync::Arc::new(rules), Bounds::default());
    let (mut out, mut settle_due_ns) = (Vec::new(), 0);
    let (mut spent, mut slowest, mut half_kib) = (0.0, 0.0_f64, 0);
    let facts = rate.max(1) * seconds.max(1);
    let empty_kib = procfs::memory(std::process::id()).peak;
    for number in 0..facts {
        let at_ns = 100 * SECOND_NS + number * SECOND_NS / rate.max(1);
        let fact = fact(number, at_ns);
        let started = spent_s();
        engine.insert(fact);
        if at_ns >= settle_due_ns {
            settle_due_ns = at_ns + SETTLE_NS;
            let before = spent_s();
            engine.settle(at_ns, 0, &mut out);
            slowest = slowest.max(spent_s() - before);
            out.clear();
        }
        spent += spent_s() - started;
        if number == facts / 2 {
            half_kib = procfs::memory(std::process::id()).peak.saturating_sub(empty_kib);
        }
    }
    let stats = engine.stats();
    Ok(Used {
        facts: stats.window.inserted,
        kept: stats.facts as u64,
        revisions: stats.revisions,
        core_pct: spent * 100.0 / float(seconds.max(1)),
        slowest_ms: slowest * 1e3,
        half_kib,
        whole_kib: procfs::memory(std::process::id()).peak.saturating_sub(empty_kib),
    })
}
