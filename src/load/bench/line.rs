//! One figure as one JSON line: the form that scripts rely on.

use std::collections::BTreeMap;

use serde::Serialize;

use super::report::{Measure, Report};
use crate::load::control::Control;
use crate::load::stats::{median, round, spread};

/// One figure. The names are fixed; more may be added under `detail`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Line {
    /// Its name.
    pub(super) figure: &'static str,
    /// The median of the runs.
    pub(super) value: f64,
    /// Of the value.
    pub(super) unit: &'static str,
    /// Runs behind the median.
    pub(super) runs: usize,
    /// The lowest and the highest run.
    pub(super) spread: [f64; 2],
    /// What it should be at most.
    pub(super) goal: Option<f64>,
    /// What it is compared with, measured in turns with it.
    pub(super) baseline: Option<&'static str>,
    /// The median of the baseline's runs.
    pub(super) baseline_value: Option<f64>,
    /// How many times more the baseline needs: the median of the pairs.
    pub(super) ratio: Option<f64>,
    /// Events lost and counted, all runs together.
    pub(super) lost: u64,
    /// Every event of every run is accounted for.
    pub(super) ledger_closed: bool,
    /// The worst control of the runs.
    pub(super) control: Control,
    /// The machine, or the ledger, was not good enough for the value to mean anything.
    pub(super) void: bool,
    /// Medians of what else was seen.
    pub(super) detail: BTreeMap<String, f64>,
}

/// What a figure is called and should be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) goal: Option<f64>,
}

impl Line {
    /// The line of some runs, whose values are those of `measure`.
    pub(super) fn new(head: Head, values: &[f64], reports: &[&Report], clean: bool) -> Self {
        let ledger_closed = reports.iter().all(|report| report.ledger.is_none());
        let mut control =
            reports.iter().fold(Control::default(), |worst, report| worst.worst(report.control));
        control.steal_pct = round(control.steal_pct);
        control.max_gap_ms = round(control.max_gap_ms);
        control.foreign_pct = round(control.foreign_pct);
        Self {
            figure: head.name,
            value: median(values).map_or(0.0, round),
            unit: head.unit,
            runs: values.len(),
            spread: spread(values).map(round),
            goal: head.goal,
            baseline: None,
            baseline_value: None,
            ratio: None,
            lost: reports.iter().map(|report| report.lost).sum(),
            ledger_closed,
            control,
            void: !clean || !ledger_closed || values.is_empty(),
            detail: BTreeMap::new(),
        }
    }

    /// Adds the medians of everything that the runs measured.
    pub(super) fn with_details(mut self, reports: &[&Report], prefix: &str) -> Self {
        for measure in Measure::ALL {
            let values: Vec<f64> = reports.iter().filter_map(|report| report.get(measure)).collect();
            if let Some(value) = median(&values) {
                self.detail.insert(format!("{prefix}{}", measure.name()), round(value));
            }
        }
        self
    }

    /// Adds what it is compared with.
    pub(super) fn against(mut self, name: &'static str, values: &[f64], ratios: &[f64]) -> Self {
        self.baseline = Some(name);
        self.baseline_value = median(values).map(round);
        self.ratio = median(ratios).map(round);
        self
    }
}
