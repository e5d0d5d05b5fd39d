//! Forecasts against what came: the stories of the corpus, and runs of real processes that were recorded.
//!
//! `tests/backtest/NAME.jsonl` is one run: a process in a unit's cgroup with a limit, sampled every five seconds.

use std::collections::BTreeMap;
use std::path::Path;

use super::verdicts::{story, verdicts};
use super::{TICK_NS, facts_of};
use crate::detect::{Fact, FactKind};
use crate::explain::predict::{Forecast, forecast};
use crate::explain::tests::show;
use crate::recording::{Recording, load};

/// The runs, and what is foretold in each: nothing of what comes down again, slows down, gives way, or stops where a limit
/// would be set above it.
const RUNS: &[(&str, Option<FactKind>)] = &[
    ("leak", Some(FactKind::MemoryLimitHit)),
    ("tasks", Some(FactKind::PidsLimitHit)),
    ("open-files", Some(FactKind::FdExhausted)),
    ("rise-that-stops", None),
    ("sawtooth", None),
    ("warm-up", None),
    ("page-cache", None),
];

/// A forecast, and when it came true.
struct Foretold {
    run: String,
    forecast: Forecast,
    came_ns: Option<u64>,
}

/// Whether a fact is what was foretold: of memory the kernel's log says whose limit it was, its probe only who was killed.
fn is_it(fact: &Fact, forecast: &Forecast) -> bool {
    let kind = fact.kind == forecast.kind
        || forecast.kind == FactKind::MemoryLimitHit && fact.kind == FactKind::OomVictim;
    kind && fact.subject == forecast.subject && fact.from_ns >= forecast.at_ns
}

/// The first forecast of each subject and resource.
fn foretold(run: &str, recording: &Recording) -> Vec<Foretold> {
    let facts = facts_of(recording);
    let mut told: BTreeMap<(String, String), Foretold> = BTreeMap::new();
    for trend in facts.iter().filter(|fact| fact.kind == FactKind::ResourceTrend) {
        let Some(forecast) = forecast(trend) else { continue };
        let place = (forecast.subject.to_string(), forecast.resource.clone());
        let came_ns = facts.iter().filter(|fact| is_it(fact, &forecast)).map(|fact| fact.from_ns).min();
        told.entry(place).or_insert(Foretold { run: run.into(), forecast, came_ns });
    }
    told.into_values().collect()
}

fn row(told: &Foretold) -> String {
    let Foretold { run, forecast, came_ns } = told;
    let [soon, late] = forecast.eta_s;
    let lead_s = came_ns.map(|came_ns| (came_ns - forecast.at_ns) / TICK_NS);
    let result = lead_s.map_or_else(|| "did not come".into(), |lead| format!("came after {lead} s"));
    format!("{run:<24} {} of {} in {soon} to {late} s: {result}\n", forecast.kind.name(), forecast.subject)
}

/// Scenario: the trends of every story and of recorded runs, each told as it came.
/// Guarantees: each run that reaches its limit was foretold, and what is foretold comes; the others foretell nothing; lead
/// times and precision are printed.
#[test]
fn forecasts_come_true() {
    let mut all: Vec<Foretold> = verdicts().flat_map(|(name, ..)| foretold(name, &story(name))).collect();
    let mut wrong = Vec::new();
    for (name, expected) in RUNS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/backtest/{name}.jsonl"));
        let told = foretold(name, &load(&[path]).unwrap_or_else(|error| panic!("{error}")));
        let kinds: Vec<FactKind> = told.iter().map(|told| told.forecast.kind).collect();
        if kinds != expected.iter().copied().collect::<Vec<_>>() {
            wrong.push(format!("{name} foretells {kinds:?}, not {expected:?}"));
        }
        all.extend(told);
    }
    wrong.extend(all.iter().filter(|told| told.came_ns.is_none()).map(row));
    let came = all.iter().filter(|told| told.came_ns.is_some()).count();
    let mut table: String = all.iter().map(row).collect();
    table.push_str(&format!("precision {came} of {}\n", all.len()));
    show(&format!("\nforecasts of the corpus and of recorded runs\n{table}"));
    assert!(wrong.is_empty(), "{wrong:?}");
}
