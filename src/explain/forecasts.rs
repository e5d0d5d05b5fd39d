//! What will fail, though nothing did yet: trends as incidents of their own.
//!
//! Invariants:
//! - A forecast is told anew only when its time moved a lot, and taken back when its trend does not say so
//!   any more.
//! - Once what was foretold happens, the forecast says into which incident it went.
//! - At most [`FORECASTS_MAX`] at a time; further ones are counted.

use std::collections::BTreeMap;

use super::impact::share;
use super::incident::{Impact, Incident, Level, RootCause, State};
use super::predict::{self, Forecast};
use super::verdict::{self, Scene};
use crate::detect::{Fact, Subject};
use crate::event::mix;

/// Forecasts at a time.
pub const FORECASTS_MAX: usize = 64;

/// A forecast is told anew when its middle moved by this part of what is left, per cent.
const MOVED: u64 = 30;

/// A forecast is told anew when this much is left: 7 days, 1 day.
const STAGES_S: [u64; 2] = [7 * 86_400, 86_400];

#[derive(Debug)]
struct Told {
    incident: Incident,
    forecast: Forecast,
}

/// The forecasts.
#[derive(Debug, Default)]
pub struct Forecasts {
    told: BTreeMap<(Subject, String), Told>,
    changed: BTreeMap<(Subject, String), Fact>,
    /// Forecasts that did not fit.
    pub refused: u64,
}

impl Forecasts {
    /// A series is newer than what was known.
    pub fn note(&mut self, trend: &Fact) {
        if let Some(resource) = super::trends::resource(trend) {
            let place = (trend.subject.clone(), resource.to_owned());
            // Only those that say something, or said something, are worth a place.
            if self.told.contains_key(&place) || predict::forecast(trend).is_some() {
                self.changed.insert(place, trend.clone());
            }
        }
    }

    /// A series is taken back.
    pub fn forget(&mut self, trend: &Fact) {
        let Some(resource) = super::trends::resource(trend) else { return };
        let place = (trend.subject.clone(), resource.to_owned());
        if self.told.contains_key(&place) {
            // Without its points it says nothing any more.
            let nothing = Fact::new(trend.kind, trend.subject.clone(), trend.source, trend.from_ns);
            self.changed.insert(place, nothing);
        } else {
            self.changed.remove(&place);
        }
    }

    /// Whether a series changed since the last settlement.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The forecasts that hold.
    pub fn incidents(&self) -> impl Iterator<Item = &Incident> {
        self.told.values().map(|told| &told.incident)
    }

    /// Tells what changed. `incidents`: what happened already.
    pub fn settle<'all>(
        &mut self,
        scene: Scene<'_>,
        incidents: impl Iterator<Item = &'all Incident> + Clone,
        out: &mut Vec<Incident>,
    ) {
        for (place, trend) in std::mem::take(&mut self.changed) {
            match predict::forecast(&trend) {
                Some(forecast) => self.tell(scene, place, forecast, &trend, out),
                None => self.end(&place, State::Withdrawn, None, out),
            }
        }
        let came_true: Vec<((Subject, String), String)> = self
            .told
            .iter()
            .filter_map(|(place, told)| {
                let kind = told.forecast.kind.name();
                let is = |incident: &&Incident| {
                    incident.state == State::Open
                        && incident.facts.iter().any(|fact| fact.kind == kind && fact.entity == place.0)
                };
                incidents.clone().find(is).map(|incident| (place.clone(), incident.id.clone()))
            })
            .collect();
        for (place, id) in came_true {
            self.end(&place, State::Merged, Some(id), out);
        }
    }

    fn tell(
        &mut self,
        scene: Scene<'_>,
        place: (Subject, String),
        forecast: Forecast,
        trend: &Fact,
        out: &mut Vec<Incident>,
    ) {
        let revision = match self.told.get(&place) {
            Some(told) if !has_moved(&told.forecast, &forecast) => return,
            Some(told) => told.incident.revision + 1,
            None if self.told.len() >= FORECASTS_MAX => {
                self.refused += 1;
                return;
            }
            None => 1,
        };
        let mut incident = incident(scene, &forecast, trend);
        incident.revision = revision;
        out.push(incident.clone());
        self.told.insert(place, Told { incident, forecast });
    }

    fn end(
        &mut self,
        place: &(Subject, String),
        state: State,
        into: Option<String>,
        out: &mut Vec<Incident>,
    ) {
        let Some(mut told) = self.told.remove(place) else { return };
        told.incident.state = state;
        told.incident.merged_into = into;
        told.incident.revision += 1;
        out.push(told.incident);
    }
}

fn middle_s(forecast: &Forecast) -> u64 {
    forecast.at_ns / 1_000_000_000 + u64::midpoint(forecast.eta_s[0], forecast.eta_s[1])
}

fn has_moved(old: &Forecast, new: &Forecast) -> bool {
    // A far end is told again when it is near.
    let is_nearer = STAGES_S.iter().any(|stage| new.eta_s[1] <= *stage && *stage < old.eta_s[1]);
    let left = middle_s(new).saturating_sub(new.at_ns / 1_000_000_000).max(10);
    is_nearer || middle_s(old).abs_diff(middle_s(new)) * 100 > left * MOVED
}

fn incident(scene: Scene<'_>, forecast: &Forecast, trend: &Fact) -> Incident {
    let name = forecast.resource.bytes().fold(mix(trend.kind as u64), |id, byte| mix(id ^ u64::from(byte)));
    let place = Fact::new(trend.kind, trend.subject.clone(), trend.source, name);
    let id = verdict::incident_id(scene.boot_id, place.id());
    let [soon, late] = forecast.eta_s;
    let resource = forecast.resource.replace('_', " ");
    let summary = if forecast.resource == "certificate" {
        format!("{} ends in {} ({})", forecast.subject, predict::span(soon), forecast.basis)
    } else {
        format!(
            "the {resource} of {} will be used up in {} to {} ({})",
            forecast.subject,
            predict::span(soon),
            predict::span(late),
            forecast.basis,
        )
    };
    let urgency = match (forecast.resource.as_str(), late) {
        ("certificate", 604_801..) => 0.2,
        ("certificate", ..=86_400) | (_, ..=600) => 0.6,
        _ => 0.3,
    };
    let prediction = predict::told(scene, forecast, Some(trend));
    Incident {
        id: format!("{id:016x}"),
        revision: 0,
        state: State::Forecast,
        severity: Level::of(urgency),
        title: format!("{} ahead for {}", forecast.kind.name().replace('_', " "), forecast.subject),
        trace_id: format!("{id:016x}{:016x}", mix(id).max(1)),
        started_at: scene.wall(forecast.at_ns),
        updated_at: scene.wall(forecast.at_ns),
        root_cause: RootCause {
            kind: trend.kind.name().into(),
            entity: forecast.subject.clone(),
            summary,
            confidence: forecast.probability,
            fact: "f1".into(),
            known: true,
            decided_by: Vec::new(),
        },
        killed_by: None,
        chain: Vec::new(),
        facts: vec![verdict::view(scene, trend, "f1".into())],
        facts_more: 0,
        contributing: Vec::new(),
        hypotheses: Vec::new(),
        evidence_gaps: Vec::new(),
        impact: Impact {
            level: Level::of(urgency),
            score: share(urgency),
            terms: vec!["nothing failed yet".into()],
            affected: Vec::new(),
            affected_more: 0,
            cascade_probability: 0.0,
            cascade_targets: Vec::new(),
        },
        actions: prediction.actions.clone(),
        predictions: vec![prediction],
        merged_into: None,
        recording: None,
    }
}
