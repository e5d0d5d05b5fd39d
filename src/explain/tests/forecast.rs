//! Predictions against series whose end is known.

use super::{shipped, show};
use crate::detect::{EventId, Fact, FactKind, KeyKind, Subject, Value};
use crate::event::{Source, mix};
use crate::explain::{Bounds, Explain, State, predict};

const SECOND_NS: u64 = 1_000_000_000;
const STEP_S: u64 = 10;

fn trend(resource: &str, limit: u64, points: Vec<(u64, u64)>) -> Fact {
    let last = points.last().map_or(0, |point| point.0);
    let limit = i64::try_from(limit).unwrap();
    Fact::new(FactKind::ResourceTrend, Subject::new("unit", "a.service"), Source::Sampler, last)
        .key(KeyKind::Unit, "a.service")
        .event(EventId { source: Source::Sampler, producer: 0, sequence: last })
        .with("resource", resource)
        .with("limit", limit)
        .with("series", Value::Series(points))
}

/// A series of one value each ten seconds.
fn series(count: u64, value: impl Fn(u64) -> u64) -> Vec<(u64, u64)> {
    (0..count).map(|step| (1_000 * SECOND_NS + step * STEP_S * SECOND_NS, value(step))).collect()
}

fn noise(step: u64, most: u64) -> u64 {
    mix(step + 99) % most
}

/// The series that end at their limit of 1000, and those that never do.
fn bad(step: u64, which: u64) -> u64 {
    match which {
        0 => 300 + step * 4,
        1 => 300 + step * 4 + noise(step, 12),
        2 => 500 + step * step / 40,
        3 if step < 40 => 200 + step * 10,
        3 => 300 + (step - 40) * 6,
        _ => 400 + step * 3 + noise(step, 30),
    }
}

fn good(step: u64, which: u64) -> u64 {
    match which {
        // A warm-up that levels off.
        0 => 800 - 700 * 20 / (20 + step),
        // A plateau with noise, high up.
        1 => 850 + noise(step, 20),
        // A sawtooth far below the limit, and one at three quarters of it.
        2 => 100 + (step % 12) * 20,
        3 => 300 + (step % 30) * 15,
        // A cache that fills half of what it may.
        4 => (step * 8).min(500) + noise(step, 10),
        // A step.
        5 => {
            if step < 60 {
                300
            } else {
                860
            }
        }
        // A staircase that ended.
        6 => 200 + (step.min(90) / 15) * 100,
        // What a start fills, straight, up to four fifths.
        7 => 100 + step.min(28) * 25,
        _ => 500,
    }
}

/// Scenario: series that reach their limit, and series that level off, saw, warm up or step, told point by
/// point. Guarantees: each of the first is foretold in time, none of the second ever; lead time and precision
/// are printed.
#[test]
fn forecasts_against_what_came() {
    let limit = 1_000;
    let (mut hits, mut leads, mut within) = (0, Vec::new(), 0);
    for which in 0..5 {
        let whole: Vec<(u64, u64)> = series(2_000, |step| bad(step, which))
            .into_iter()
            .take_while(|(_, value)| *value < limit)
            .collect();
        let end_ns = whole.last().unwrap().0;
        let first = (3..=whole.len())
            .find_map(|count| predict::forecast(&trend("memory", limit, whole[..count].to_vec())));
        let forecast = first.unwrap_or_else(|| panic!("series {which} is not foretold"));
        let lead = (end_ns - forecast.at_ns) / SECOND_NS;
        assert!(lead >= 60, "series {which} is foretold {lead} s ahead");
        let [soon, late] = forecast.eta_s;
        within += u64::from((soon..=late).contains(&lead));
        leads.push(lead);
        hits += 1;
    }
    let mut alarms = Vec::new();
    for which in 0..9 {
        let whole = series(400, |step| good(step, which));
        for count in 3..=whole.len() {
            if let Some(forecast) = predict::forecast(&trend("memory", limit, whole[..count].to_vec())) {
                alarms.push((which, count, forecast.eta_s));
            }
        }
    }
    show(&format!(
        "\nforecasts: {hits} of 5 leaks foretold, {leads:?} s ahead, {within} within the interval first told; false alarms of 9 controls: {}\n",
        alarms.len()
    ));
    assert!(alarms.is_empty(), "{alarms:?}");
}

/// Scenario: memory of a unit climbs to its limit, then the kernel kills in it.
/// Guarantees: one forecast, told again only when its time moved, which goes into the incident once it
/// happens.
#[test]
fn a_forecast_comes_true() {
    let mut engine = Explain::new([1; 16], shipped(), Bounds::default());
    let mut out = Vec::new();
    let whole = series(200, |step| 300 + step * 4);
    let end = whole.iter().position(|(_, value)| *value >= 1_000).unwrap();
    for count in 3..end {
        engine.insert(trend("memory", 1_000, whole[..count].to_vec()));
        engine.settle(whole[count - 1].0, 0, &mut out);
    }
    assert!(!out.is_empty() && out.len() < 10, "{} revisions", out.len());
    assert!(out.iter().all(|incident| incident.state == State::Forecast && incident.id == out[0].id));
    assert!(out.iter().enumerate().all(|(place, incident)| incident.revision == place as u64 + 1));
    out.clear();
    let killed = Fact::new(
        FactKind::MemoryLimitHit,
        Subject::new("unit", "a.service"),
        Source::Journald,
        whole[end].0,
    )
    .key(KeyKind::Unit, "a.service");
    engine.insert(killed);
    engine.settle(whole[end].0, 0, &mut out);
    let states: Vec<State> = out.iter().map(|incident| incident.state).collect();
    assert_eq!(states, [State::Open, State::Merged]);
    assert_eq!(out[1].merged_into.as_ref(), Some(&out[0].id));
}

/// Scenario: the end of a certificate comes nearer, from 40 days ahead, looked at once a day.
/// Guarantees: silent until 30 days are left, then told with 30, 7 and 1 day left, each time with the exact end.
#[test]
fn the_end_of_a_certificate_is_told_three_times() {
    const DAY_S: u64 = 86_400;
    let mut engine = Explain::new([1; 16], shipped(), Bounds::default());
    let (mut out, mut told) = (Vec::new(), Vec::new());
    for day in 0..41 {
        let (at_ns, left_s) = ((100 + day * DAY_S) * SECOND_NS, (40 - day) * DAY_S + 3_600);
        let now_s = 1_800_000_000 + day * DAY_S;
        let fact = trend("certificate", now_s + left_s, vec![(at_ns, now_s)]).with("file", "/etc/a.pem");
        engine.insert(fact);
        engine.settle(at_ns, 0, &mut out);
        for incident in out.drain(..) {
            assert_eq!((incident.state, incident.revision), (State::Forecast, told.len() as u64 + 1));
            assert_eq!(incident.predictions[0].eta_s[0], left_s);
            assert!(incident.root_cause.summary.contains("ends in"), "{}", incident.root_cause.summary);
            told.push((40 - day, incident.severity.name()));
        }
    }
    assert_eq!(told, [(29, "low"), (6, "medium"), (0, "high")]);
}
