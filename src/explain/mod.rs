//! From facts to incidents: what failed, why, what comes next, and the proof.
//!
//! `rules` says what may cause what, `window` keeps the facts and finds the licensed edges, `component` and
//! `forest` choose the causes, `verdict` writes down what follows, `registry` remembers what was said before.
//!
//! Invariants:
//! - No input and output, no clock: facts and times come in as arguments, revisions go out.
//! - A verdict is a function of the set of facts; only the number of its revision depends on the order of
//!   arrival.
//! - Time alone never licenses an edge, and what cannot be known is said to be unknown.

pub mod component;
pub mod forecasts;
pub mod forest;
pub mod gaps;
pub mod impact;
pub mod incident;
pub mod licence;
pub mod life;
pub mod page;
pub mod predict;
pub mod registry;
pub mod rules;
pub mod topology;
pub mod trends;
pub mod verdict;
pub mod wall;
pub mod who;
pub mod window;
pub mod words;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashSet;
pub use incident::{Incident, Level, State};
pub use rules::{RuleError, RuleSet};
pub use window::Bounds;

use crate::detect::{FACT_KINDS, Fact, FactKind, KeyKind, News, Role};
use component::Component;
use forecasts::Forecasts;
use gaps::Gaps;
use registry::Registry;
use topology::Topology;
use trends::Trends;
use verdict::{Scene, Verdict};
use wall::Wall;
use window::{Slot, Window, WindowStats};

/// What the engine counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExplainStats {
    /// The facts.
    pub window: WindowStats,
    /// Facts that are kept.
    pub facts: usize,
    /// Incidents that are open.
    pub open: usize,
    /// Incidents that did not fit.
    pub refused: u64,
    /// Revisions made.
    pub revisions: u64,
    /// Components judged.
    pub judged: u64,
    /// Relations that did not fit.
    pub relations_refused: u64,
}

/// The engine.
#[derive(Debug)]
pub struct Explain {
    boot_id: [u8; 16],
    rules: Arc<RuleSet>,
    window: Window,
    topology: Topology,
    trends: Trends,
    gaps: Gaps,
    wall: Wall,
    registry: Registry,
    forecasts: Forecasts,
    dirty: BTreeSet<Slot>,
    /// Facts that were taken back, of which an incident may be left over.
    retracted: BTreeSet<u64>,
    /// A relation came: edges that relations license have to be looked for again.
    relations_changed: bool,
    judged: u64,
    bounds: Bounds,
    touched: Vec<Slot>,
    housekeeping_due_ns: u64,
}

/// How often what is old is forgotten and what is due looked at.
const HOUSEKEEPING_NS: u64 = 1_000_000_000;

impl Explain {
    /// An engine that has seen nothing.
    #[must_use]
    pub fn new(boot_id: [u8; 16], rules: Arc<RuleSet>, bounds: Bounds) -> Self {
        Self {
            boot_id,
            rules,
            window: Window::new(bounds),
            topology: Topology::default(),
            trends: Trends::default(),
            gaps: Gaps::default(),
            wall: Wall::default(),
            registry: Registry::default(),
            forecasts: Forecasts::default(),
            dirty: BTreeSet::new(),
            retracted: BTreeSet::new(),
            relations_changed: false,
            judged: 0,
            bounds,
            touched: Vec::new(),
            housekeeping_due_ns: 0,
        }
    }

    /// Takes back what does not hold any more, and takes in what does.
    pub fn take(&mut self, news: News) {
        news.taken.iter().for_each(|fact| self.retract(fact));
        news.told.into_iter().for_each(|fact| self.insert(fact));
    }

    /// Takes a fact back: in the light of what came late it is another one, or none.
    pub fn retract(&mut self, fact: &Fact) {
        match fact.kind {
            FactKind::Relation => self.relations_changed |= self.topology.remove(fact),
            FactKind::ResourceTrend => {
                if self.trends.remove(fact) {
                    self.forecasts.forget(fact);
                }
            }
            FactKind::EvidenceGap => {
                if self.gaps.remove(fact) {
                    self.touch_open();
                }
            }
            _ => {
                let id = fact.id();
                if self.wall.remove(fact) {
                    self.touch_open();
                }
                self.touched.clear();
                self.window.retract(id, &self.rules, &self.topology, &mut self.touched);
                self.dirty.extend(self.touched.drain(..));
                self.dirty.extend(self.registry.beside(id).iter().filter_map(|&id| self.window.slot(id)));
                self.retracted.insert(id);
                if matches!(fact.kind, FactKind::UnitStarted | FactKind::ContainerStarted) {
                    self.touch_run(fact);
                }
            }
        }
    }

    /// Takes in a fact.
    pub fn insert(&mut self, fact: Fact) {
        match fact.kind {
            FactKind::Relation => self.relations_changed |= self.topology.insert(&fact),
            FactKind::ResourceTrend => self.insert_trend(fact),
            FactKind::EvidenceGap => {
                if self.gaps.insert(&fact) {
                    // What was silent may have been deaf.
                    self.touch_open();
                }
            }
            _ => {
                if matches!(fact.kind, FactKind::UnitStarted | FactKind::ContainerStarted) {
                    self.touch_run(&fact);
                }
                if self.wall.insert(&fact) {
                    self.touch_open();
                }
                let is_context = fact.kind.info().role == Role::Context;
                self.touched.clear();
                let slot = self.window.insert(fact, &self.rules, &self.topology, &mut self.touched);
                // A circumstance alone is nobody's trouble.
                self.dirty.extend(slot.filter(|_| !is_context));
                self.dirty.extend(self.touched.drain(..));
                if let Some(slot) = slot {
                    self.touch_incidents(slot);
                }
            }
        }
    }

    fn insert_trend(&mut self, fact: Fact) {
        if !self.trends.insert(fact.clone()) {
            return;
        }
        self.forecasts.note(&fact);
        let Some(resource) = trends::resource(&fact) else { return };
        // It may show who used up what ran out.
        for culprit in self.rules.culprits.iter().filter(|culprit| culprit.resource == resource) {
            for key in fact.keys.iter().filter(|key| culprit.keys.contains(&key.kind)) {
                let roots = culprit.kinds.iter().flat_map(|&kind| self.window.under(key, kind));
                self.dirty.extend(roots);
            }
        }
    }

    /// Marks what a circumstance is attached to, as far as it was judged: what was not looks for it by itself.
    fn touch_incidents(&mut self, slot: Slot) {
        self.window.touch_attached(slot, &self.rules, &mut self.touched);
        for slot in self.touched.drain(..) {
            if self.window.id(slot).is_some_and(|id| self.registry.has_fact(id)) {
                self.dirty.insert(slot);
            }
        }
    }

    /// Marks what is open.
    fn touch_open(&mut self) {
        self.dirty.extend(self.registry.open_facts().filter_map(|id| self.window.slot(id)));
    }

    /// Marks what failed in something that runs again.
    fn touch_run(&mut self, fact: &Fact) {
        for key in fact.keys.iter().filter(|key| matches!(key.kind, KeyKind::Unit | KeyKind::Pod)) {
            for info in FACT_KINDS.iter().filter(|info| info.role == Role::Symptom) {
                let known = |slot: &Slot| self.window.id(*slot).is_some_and(|id| self.registry.has_fact(id));
                self.dirty.extend(self.window.under(key, info.kind).filter(known));
            }
        }
    }

    /// Whether something came that may change a verdict.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
            || !self.retracted.is_empty()
            || self.relations_changed
            || self.forecasts.is_dirty()
    }

    /// Puts other rules in force, and judges everything again.
    pub fn set_rules(&mut self, rules: Arc<RuleSet>) {
        let facts: Vec<Fact> = self.window.facts().cloned().collect();
        let stats = self.window.stats;
        self.rules = rules;
        self.window = Window::new(self.bounds);
        facts.into_iter().for_each(|fact| self.insert(fact));
        self.window.stats = stats;
        self.dirty = self.window.slots().collect();
    }

    /// Judges what changed, and puts the revisions that follow into `out`. `boot_unix_ns`: Unix nanoseconds
    /// at boot, as they were when the engine began: steps of the clock since then are facts.
    pub fn settle(&mut self, now_ns: u64, boot_unix_ns: u64, out: &mut Vec<Incident>) {
        if now_ns >= self.housekeeping_due_ns {
            self.housekeeping_due_ns = now_ns.saturating_add(HOUSEKEEPING_NS);
            self.forget(now_ns);
            let due: Vec<(String, Option<Slot>)> = self
                .registry
                .due(now_ns)
                .map(|(id, fact)| (id, fact.and_then(|fact| self.window.slot(fact))))
                .collect();
            for (id, slot) in due {
                match slot {
                    Some(slot) => drop(self.dirty.insert(slot)),
                    // Its facts had to give way: nothing is left to judge.
                    None => self.registry.close(&id, out),
                }
            }
        }
        if std::mem::take(&mut self.relations_changed) {
            self.bind_relations();
            // Who depends on whom is part of the impact.
            self.touch_open();
        }
        let dirty = std::mem::take(&mut self.dirty);
        let mut seen: HashSet<Slot> = HashSet::new();
        for slot in dirty {
            if seen.contains(&slot) || self.window.fact(slot).is_none() {
                continue;
            }
            let slots = component::reach(&self.window, &self.rules, slot);
            seen.extend(slots.iter().copied());
            // Where nobody can suffer, there is nothing to judge.
            let can_suffer = |slot: &Slot| {
                self.window.fact(*slot).is_some_and(|fact| fact.kind.info().role == Role::Symptom)
            };
            if !slots.iter().any(can_suffer) {
                continue;
            }
            let (verdicts, facts) = self.judge(&slots, now_ns, boot_unix_ns);
            self.judged += 1;
            self.registry.settle(&facts, verdicts, out);
        }
        // What nothing is left of was judged with no other.
        for id in std::mem::take(&mut self.retracted) {
            if self.window.slot(id).is_none() {
                self.registry.settle(&[id], Vec::new(), out);
            }
        }
        if self.forecasts.is_dirty() || !out.is_empty() {
            let scene = Scene {
                window: &self.window,
                rules: &self.rules,
                topology: &self.topology,
                trends: &self.trends,
                gaps: &self.gaps,
                wall: &self.wall,
                boot_id: self.boot_id,
                now_ns,
                boot_unix_ns,
            };
            let known: Vec<&Incident> = self.registry.incidents().collect();
            self.forecasts.settle(scene, known.iter().copied(), out);
        }
    }

    /// The incidents that are kept, the newest last, and then what will fail.
    pub fn incidents(&self) -> impl Iterator<Item = &Incident> {
        self.registry.incidents().chain(self.forecasts.incidents())
    }

    /// What the wall clock showed.
    #[must_use]
    pub fn wall(&self) -> &Wall {
        &self.wall
    }

    /// What is counted.
    #[must_use]
    pub fn stats(&self) -> ExplainStats {
        ExplainStats {
            window: self.window.stats,
            facts: self.window.len(),
            open: self.registry.open(),
            refused: self.registry.refused,
            revisions: self.registry.revisions,
            judged: self.judged,
            relations_refused: self.topology.refused,
        }
    }

    fn judge(&mut self, slots: &[Slot], now_ns: u64, boot_unix_ns: u64) -> (Vec<Verdict>, Vec<u64>) {
        let component = Component::new(&self.window, &self.rules, &self.gaps, slots);
        let scene = Scene {
            window: &self.window,
            rules: &self.rules,
            topology: &self.topology,
            trends: &self.trends,
            gaps: &self.gaps,
            wall: &self.wall,
            boot_id: self.boot_id,
            now_ns,
            boot_unix_ns,
        };
        let mut verdicts = Vec::new();
        for root in component.incidents() {
            if self.registry.has_room(&verdict::incident_name(self.boot_id, component.facts[root])) {
                verdicts.push(verdict::judge(scene, &component, root));
            } else {
                self.registry.refused += 1;
            }
        }
        (verdicts, component.facts.iter().map(|fact| fact.id()).collect())
    }

    fn forget(&mut self, now_ns: u64) {
        self.touched.clear();
        self.registry.expire(now_ns, self.bounds.cause_ns);
        let pinned = self.registry.pinned();
        self.window.expire(now_ns, pinned, &mut self.touched);
        self.dirty.extend(self.touched.drain(..));
        self.gaps.expire(now_ns.saturating_sub(self.bounds.context_ns));
        self.trends.expire(now_ns.saturating_sub(self.bounds.context_ns));
    }

    fn bind_relations(&mut self) {
        let kinds: BTreeSet<FactKind> = self
            .rules
            .rules
            .iter()
            .filter(|rule| !rule.via.is_empty())
            .flat_map(|rule| rule.effects.iter().copied())
            .collect();
        let slots: Vec<Slot> = self
            .window
            .slots()
            .filter(|&slot| self.window.fact(slot).is_some_and(|fact| kinds.contains(&fact.kind)))
            .collect();
        for slot in slots {
            self.window.bind(slot, &self.rules, &self.topology);
            self.dirty.insert(slot);
        }
    }
}
