//! Rounds: the sides of a comparison in turns, each round in the reverse order of the one before (ABBA), so that a
//! machine that drifts favours nobody. Rounds with a bad control are repeated, up to a bound.

use super::progress;
use super::report::Report;
use crate::load::LoadError;

/// The rounds that count.
#[derive(Debug)]
pub(super) struct Rounds {
    /// By round, then by side.
    pub(super) reports: Vec<Vec<Report>>,
    /// False when there were too few rounds with a good control, so that bad ones are among them.
    pub(super) clean: bool,
}

impl Rounds {
    /// The reports of one side.
    pub(super) fn side(&self, side: usize) -> Vec<&Report> {
        self.reports.iter().filter_map(|round| round.get(side)).collect()
    }
}

/// Runs `wanted` rounds of `sides` sides, and repeats up to as many whose control was bad.
pub(super) fn run(
    sides: usize,
    wanted: usize,
    mut leg: impl FnMut(usize) -> Result<Report, LoadError>,
) -> Result<Rounds, LoadError> {
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for round in 0..wanted * 2 {
        if good.len() == wanted {
            break;
        }
        let mut reports: Vec<Option<Report>> = vec![None; sides];
        for turn in 0..sides {
            let side = if round % 2 == 0 { turn } else { sides - 1 - turn };
            if let Some(place) = reports.get_mut(side) {
                *place = Some(leg(side)?);
            }
        }
        let reports: Vec<Report> = reports.into_iter().flatten().collect();
        for problem in reports.iter().filter_map(|report| report.ledger.as_ref()) {
            progress(format_args!("  round {}: the ledger is open: {problem}", round + 1));
        }
        match reports.iter().find(|report| !report.clean()) {
            None => good.push(reports),
            Some(report) => {
                let why = report.shortfall.clone().unwrap_or_else(|| format!("{:?}", report.control));
                progress(format_args!("  round {} does not count: {why}", round + 1));
                bad.push(reports);
            }
        }
    }
    Ok(choose(good, bad, wanted))
}

/// Good rounds alone where there are enough for a median, else all of them, marked.
fn choose(good: Vec<Vec<Report>>, bad: Vec<Vec<Report>>, wanted: usize) -> Rounds {
    let clean = good.len() * 2 >= wanted && !good.is_empty();
    let mut reports = good;
    if !clean {
        reports.extend(bad);
    }
    Rounds { reports, clean }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::control::Control;

    fn bad() -> Report {
        Report::new(Control { max_gap_ms: 99.0, ..Control::default() })
    }

    /// Scenario: three rounds of two sides on a good machine.
    /// Guarantees: the order is ABBAAB.
    #[test]
    fn order_is_reversed_each_round() {
        let mut order = Vec::new();
        let rounds = run(2, 3, |side| {
            order.push(side);
            let mut report = Report::default();
            report.lost = u64::try_from(side).expect("small");
            Ok(report)
        })
        .expect("no leg fails");
        assert_eq!(order, [0, 1, 1, 0, 0, 1]);
        assert!(rounds.clean);
        assert!(rounds.side(1).iter().all(|report| report.lost == 1) && rounds.side(1).len() == 3);
    }

    /// Scenario: the first round has a bad control, then all have.
    /// Guarantees: it is repeated and left out; when nothing is good the bound holds and the result says so.
    #[test]
    fn bad_rounds_are_repeated_up_to_a_bound() {
        let mut calls = 0;
        let rounds = run(1, 2, |_| {
            calls += 1;
            Ok(if calls == 1 { bad() } else { Report::default() })
        })
        .expect("no leg fails");
        assert_eq!((calls, rounds.reports.len(), rounds.clean), (3, 2, true));
        let rounds = run(1, 2, |_| Ok(bad())).expect("no leg fails");
        assert_eq!((rounds.reports.len(), rounds.clean), (4, false));
    }
}
