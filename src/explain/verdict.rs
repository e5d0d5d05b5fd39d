//! Makes one revision of an incident from a tree of facts.
//!
//! Invariants:
//! - Pure: the component, what was seen around it, and the time are all that it reads.
//! - It answers with the earliest unexplained fact. Where that is only what happened, not why, it says so;
//!   where sources missed something that could have said why, or two causes are equally likely, it names no
//!   cause.

mod decisions;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value as Json};

use super::component::Component;
use super::forest::{Edge, delay_ns};
use super::gaps::Gaps;
use super::impact::{self, share};
use super::incident::{
    Contribution, FactView, GapView, Hypothesis, Impact, Incident, Level, Link, RootCause,
};
use super::rules::{Part, Rule, RuleSet, key_name};
use super::topology::Topology;
use super::trends::Trends;
use super::wall::Wall;
use super::window::Window;
use super::words::{self, Words};
use super::{predict, who};
use crate::detect::{Fact, FactKind, Subject, Value};
use crate::event::mix;

/// Facts shown in an incident.
pub const FACTS_SHOWN_MAX: usize = 64;

/// Parts of rules that attach facts to a member; the first only where the story is told.
const ATTACHED: [Part; 3] = [Part::Supports, Part::Contributes, Part::Silences];

/// What people said that is shown.
const SAID_MAX: usize = 12;

/// Hypotheses shown.
const HYPOTHESES_MAX: usize = 8;

/// How long before the root a gap may hide its cause.
const BEFORE_ROOT_NS: u64 = 60_000_000_000;

/// Two causes that are this close are equally likely.
const TIE: f64 = 0.03;

/// Everything that a verdict reads.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'scene> {
    /// The facts.
    pub window: &'scene Window,
    /// The rules.
    pub rules: &'scene RuleSet,
    /// Who needs whom.
    pub topology: &'scene Topology,
    /// What is used of resources.
    pub trends: &'scene Trends,
    /// What was missed.
    pub gaps: &'scene Gaps,
    /// Names the boot.
    pub boot_id: [u8; 16],
    /// Now.
    pub now_ns: u64,
    /// Unix nanoseconds at boot, before the steps of the clock.
    pub boot_unix_ns: u64,
    /// The steps of the clock.
    pub wall: &'scene Wall,
}

impl Scene<'_> {
    /// A time of the one axis as people write it.
    #[must_use]
    pub fn wall(&self, boot_ns: u64) -> String {
        let unix_ns = self.wall.unix_ns(self.boot_unix_ns, boot_ns);
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_ns);
        humantime::format_rfc3339_micros(time).to_string()
    }
}

/// An incident and what the engine has to know about it besides.
#[derive(Debug)]
pub struct Verdict {
    /// The revision; its number is not set yet.
    pub incident: Incident,
    /// The ids of its facts.
    pub facts: Vec<u64>,
    /// When to look again, if nothing happens before.
    pub due_ns: u64,
    /// When the last of its facts was.
    pub last_ns: u64,
}

/// The id of the incident with this root.
#[must_use]
pub fn incident_id(boot_id: [u8; 16], root: u64) -> u64 {
    boot_id.chunks(8).fold(mix(root), |id, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(id ^ u64::from_le_bytes(word))
    })
}

/// The id as it is written.
#[must_use]
pub fn incident_name(boot_id: [u8; 16], root: &Fact) -> String {
    format!("{:016x}", incident_id(boot_id, root.id()))
}

/// What a rule attaches to a member: the rule, the fact, and the member's place.
type Attached<'draft> = (&'draft Rule, &'draft Fact, usize);

/// What is worked out step by step.
struct Draft<'draft> {
    scene: Scene<'draft>,
    component: &'draft Component<'draft>,
    members: Vec<usize>,
    root: usize,
    /// The facts that are shown, by place, with circumstances behind those of the component.
    names: BTreeMap<u64, String>,
    /// The edges from the root to what is worst.
    way: Vec<usize>,
    culprit: Option<(Subject, String)>,
    /// The root, as all sources together tell it.
    told: Fact,
}

/// Judges the tree below a root.
#[must_use]
pub fn judge(scene: Scene<'_>, component: &Component<'_>, root: usize) -> Verdict {
    let members = component.members(root);
    let worst = worst(component, &members);
    let culprit = who::culprit(component.facts[root], scene.rules, scene.trends);
    let mut draft = Draft {
        scene,
        component,
        root,
        way: component.way_to(worst),
        names: BTreeMap::new(),
        culprit,
        told: component.retold(root, &members),
        members,
    };
    let circumstances = draft.circumstances();
    let (facts, facts_more) = draft.facts(&circumstances);
    let life = super::life::of(scene, component, &draft.members);
    let impact = impact::assess(component, &draft.members, scene.topology, life.recovered);
    let (hypotheses, margin) = draft.hypotheses();
    let evidence_gaps = draft.gaps();
    let root_cause = draft.root_cause(margin);
    let words = Words { fact: &draft.told, culprit: draft.culprit.as_ref().map(|(subject, _)| subject) };
    let actions = scene.rules.root(component.facts[root].kind).map_or_else(Vec::new, |root| {
        let fits = root
            .actions
            .iter()
            .filter(|action| action.when.iter().all(|condition| condition.holds(words.fact, words.fact)));
        fits.filter_map(|action| words.action(&action.text)).collect()
    });
    let id = incident_id(scene.boot_id, component.facts[root].id());
    let killed_by = who::killer(component, &draft.members, &|place| draft.name(component.facts[place]));
    let incident = Incident {
        id: format!("{id:016x}"),
        revision: 0,
        state: life.state,
        severity: draft.severity(&impact, life.recovered),
        title: draft.title(&root_cause, &impact),
        trace_id: format!("{id:016x}{:016x}", mix(id).max(1)),
        started_at: scene.wall(component.facts[root].from_ns),
        updated_at: scene.wall(life.last_ns),
        killed_by,
        chain: draft.chain(),
        facts,
        facts_more,
        contributing: draft.contributing(&circumstances),
        hypotheses,
        evidence_gaps,
        predictions: predict::for_incident(scene, component, &draft.members),
        impact,
        actions,
        root_cause,
        merged_into: None,
        recording: None,
    };
    let facts = draft.members.iter().map(|&place| component.facts[place].id()).collect();
    Verdict { incident, facts, due_ns: life.due_ns, last_ns: life.last_ns }
}

/// The member at the end of the way that is told: whoever suffers most, late, and far from the root.
fn worst(component: &Component<'_>, members: &[usize]) -> usize {
    let depths = component.depths();
    let best = members
        .iter()
        .filter(|&&place| component.suffers[place])
        .max_by_key(|&&place| (depths[place], std::cmp::Reverse(place)));
    best.or_else(|| members.first()).copied().unwrap_or(0)
}

impl<'draft> Draft<'draft> {
    fn fact(&self, place: usize) -> &'draft Fact {
        self.component.facts[place]
    }

    fn name(&self, fact: &Fact) -> Option<String> {
        self.names.get(&fact.id()).cloned()
    }

    /// What rules attach to the members: circumstances, and what was said.
    fn circumstances(&self) -> Vec<Attached<'draft>> {
        let scene = self.scene;
        let mut found = Vec::new();
        for &place in &self.members {
            let slot = self.component.slots[place];
            // What was said counts where the story is told.
            let told =
                place == self.root || self.way.iter().any(|&edge| self.component.edges[edge].effect == place);
            let parts = if told { &ATTACHED[..] } else { &ATTACHED[1..] };
            for (rule, other) in scene.window.attached(slot, scene.rules, parts) {
                let inside = self.members.iter().any(|&member| self.component.slots[member] == other);
                if let Some(fact) = scene.window.fact(other).filter(|_| !inside) {
                    found.push((rule, fact, place));
                }
            }
        }
        found.sort_by_key(|(rule, fact, place)| {
            (fact.from_ns, fact.until_ns, fact.kind, fact.id(), &rule.name, *place)
        });
        found.dedup_by_key(|(_, fact, _)| fact.id());
        // Of what was said, the last words.
        let said = found.iter().filter(|(rule, ..)| rule.part == Part::Supports).count();
        let mut passed_over = said.saturating_sub(SAID_MAX);
        found.retain(|(rule, ..)| {
            let goes = rule.part == Part::Supports && passed_over > 0;
            passed_over -= usize::from(goes);
            !goes
        });
        found
    }

    /// Names and shows the facts: those of the tree, and what is attached to it.
    fn facts(&mut self, circumstances: &[Attached<'_>]) -> (Vec<FactView>, u64) {
        let mut all: Vec<&Fact> = self.members.iter().map(|&place| self.component.facts[place]).collect();
        all.extend(circumstances.iter().map(|(_, fact, _)| *fact));
        all.sort_by_key(|fact| (fact.from_ns, fact.until_ns, fact.kind, fact.id()));
        all.dedup_by_key(|fact| fact.id());
        let on_way: Vec<u64> = self
            .way
            .iter()
            .flat_map(|&edge| [self.component.edges[edge].cause, self.component.edges[edge].effect])
            .chain([self.root])
            .map(|place| self.component.facts[place].id())
            .collect();
        let more = all.len().saturating_sub(FACTS_SHOWN_MAX);
        let mut spare = FACTS_SHOWN_MAX.saturating_sub(on_way.len());
        let shown: Vec<&Fact> = all
            .into_iter()
            .filter(|fact| {
                let kept = on_way.contains(&fact.id());
                let fits = kept || spare > 0;
                spare = spare.saturating_sub(usize::from(!kept));
                fits
            })
            .collect();
        self.names =
            shown.iter().enumerate().map(|(place, fact)| (fact.id(), format!("f{}", place + 1))).collect();
        let views = shown.iter().filter_map(|fact| Some(view(self.scene, fact, self.name(fact)?))).collect();
        (views, more as u64)
    }

    fn chain(&self) -> Vec<Link> {
        let mut places: Vec<(usize, usize)> = Vec::new();
        for &member in &self.members {
            if let Some(edge) = self.component.parents[member] {
                places.push((self.component.way_to(member).len(), edge));
            }
        }
        places.sort_by_key(|&(depth, edge)| (depth, self.component.edges[edge].effect));
        places.iter().filter_map(|&(_, edge)| self.link(edge)).collect()
    }

    fn link(&self, place: usize) -> Option<Link> {
        let edge = &self.component.edges[place];
        let (cause, effect) = (self.component.facts[edge.cause], self.component.facts[edge.effect]);
        let rule = self.scene.rules.rule(edge.rule)?;
        let keys = match edge.key {
            Some(key) => vec![key_name(key).to_owned()],
            None if rule.same_subject => vec!["subject".into()],
            None => rule.via.clone(),
        };
        let micros = delay_ns(cause, effect) / 1_000;
        #[expect(clippy::cast_precision_loss, reason = "microseconds of an hour are exact")]
        let dt_ms = micros as f64 / 1_000.0;
        Some(Link {
            from: self.name(cause)?,
            to: self.name(effect)?,
            rule: rule.name.clone(),
            keys,
            dt_ms,
            confidence: share(edge.weighed.confidence),
            text: words::edge_text(&rule.text, cause, effect),
        })
    }

    fn contributing(&self, circumstances: &[Attached<'_>]) -> Vec<Contribution> {
        let mut list = Vec::new();
        for (rule, fact, place) in circumstances.iter().filter(|(rule, ..)| rule.part != Part::Supports) {
            let summary = if rule.part == Part::Silences {
                format!("{} was stopped on request", fact.subject)
            } else {
                words::edge_text(&rule.text, fact, self.fact(*place))
            };
            list.push(Contribution {
                kind: fact.kind.name().into(),
                entity: fact.subject.clone(),
                summary,
                fact: self.name(fact),
            });
        }
        if let Some((subject, how)) = &self.culprit {
            list.push(Contribution {
                kind: "resource_trend".into(),
                entity: subject.clone(),
                summary: format!("{subject} used up what ran out: {how}"),
                fact: None,
            });
        }
        for place in super::topology::subjects(self.fact(self.root)) {
            for need in self.scene.topology.dependants(&place).chain(self.scene.topology.needs(&place)) {
                if need.replicas == 1 {
                    list.push(Contribution {
                        kind: "single_replica".into(),
                        entity: need.other.clone(),
                        summary: format!("{} has one replica only", need.other),
                        fact: None,
                    });
                }
            }
        }
        list
    }

    /// What else could have caused what happened, and what speaks against it; and by how much less sure the
    /// surest other cause of a step on the way is.
    fn hypotheses(&self) -> (Vec<Hypothesis>, f64) {
        let mut margin: f64 = 1.0;
        let mut best: BTreeMap<u64, (f64, Hypothesis)> = BTreeMap::new();
        for edge in self.component.edges.iter().filter(|edge| !edge.repeats) {
            let theirs = self.component.roots[edge.cause];
            let is_ours = self.component.roots[edge.effect] == self.root;
            if !is_ours || (theirs == self.root && edge.weighed.excluded.is_none()) {
                continue;
            }
            let Some(parent) = self.component.parents[edge.effect] else { continue };
            let (cause, effect) = (self.component.facts[edge.cause], self.component.facts[edge.effect]);
            let confidence =
                if edge.weighed.excluded.is_some() { 0.0 } else { share(edge.weighed.confidence) };
            let hypothesis = Hypothesis {
                kind: cause.kind.name().into(),
                entity: cause.subject.clone(),
                confidence,
                effect: effect.kind.name().into(),
                against: self.against(edge, parent),
            };
            if self.way.contains(&parent) && edge.weighed.excluded.is_none() {
                let chosen = self.component.edges[parent].weighed.confidence;
                margin = margin.min(chosen - edge.weighed.confidence);
            }
            let kept = best.entry(cause.id()).or_insert_with(|| (confidence, hypothesis.clone()));
            if kept.0 < confidence {
                *kept = (confidence, hypothesis);
            }
        }
        let mut list: Vec<Hypothesis> = best.into_values().map(|(_, hypothesis)| hypothesis).collect();
        list.sort_by(|one, other| {
            other
                .confidence
                .total_cmp(&one.confidence)
                .then_with(|| (&one.kind, &one.entity).cmp(&(&other.kind, &other.entity)))
        });
        list.truncate(HYPOTHESES_MAX);
        (list, margin)
    }

    /// What speaks against an edge whose effect has another cause.
    fn against(&self, edge: &Edge, parent: usize) -> Vec<String> {
        let (theirs, chosen) = (&edge.weighed, &self.component.edges[parent]);
        if let Some(why) = &theirs.excluded {
            return vec![why.clone()];
        }
        let mut list: Vec<String> =
            theirs.proofs.iter().filter(|proof| proof.weight < 0.0).map(|proof| proof.says.clone()).collect();
        for proof in chosen.weighed.proofs.iter().filter(|proof| proof.weight > 0.0) {
            list.push(format!("{} speaks for the other", proof.says));
        }
        for source in &theirs.deaf {
            list.push(format!("{} missed what could decide", source.name()));
        }
        let better = self.component.facts[chosen.cause];
        list.push(format!("{} of {} explains it better", better.kind.name(), better.subject));
        list
    }

    fn gaps(&self) -> Vec<GapView> {
        let (from, until) = self.span();
        let of = |gap: &super::gaps::Gap| GapView {
            source: gap.source.name().into(),
            from: self.scene.wall(gap.from_ns),
            until: self.scene.wall(gap.until_ns),
            text: gap.text.clone(),
        };
        self.scene.gaps.between(from, until).map(of).collect()
    }

    /// From a while before the root to the last fact.
    fn span(&self) -> (u64, u64) {
        let last = self.members.iter().map(|&place| self.fact(place).until_ns).max().unwrap_or(0);
        (self.fact(self.root).from_ns.saturating_sub(BEFORE_ROOT_NS), last)
    }

    fn root_cause(&self, margin: f64) -> RootCause {
        let fact = self.fact(self.root);
        let words = Words { fact: &self.told, culprit: self.culprit.as_ref().map(|(subject, _)| subject) };
        let root = self.scene.rules.root(fact.kind);
        let open = root.is_some_and(|root| root.open);
        let (kind, mut summary) = match root {
            Some(root) => (root.named.unwrap_or(fact.kind), words.text(&root.text)),
            None => (fact.kind, format!("{}: {}", fact.subject, fact.kind.info().doc)),
        };
        let gaps = self.scene.gaps.between(self.span().0, fact.until_ns).count();
        let is_snapshot = fact.detail.get("snapshot") == Some(&Value::Flag(true));
        let tied = margin < TIE;
        let mut confidence = self.confidence(open, margin);
        let (kind, known) = if is_snapshot {
            confidence = confidence.min(0.3);
            summary =
                format!("{summary}; it happened before the observation began, so its cause was not seen");
            (FactKind::BeforeObservation, false)
        } else if open && gaps > 0 {
            confidence = confidence.min(0.25);
            summary = format!("{summary}; sources missed something just before, so no cause is named");
            (FactKind::InsufficientEvidence, false)
        } else if tied {
            confidence = confidence.min(0.4);
            summary = format!("{summary}; another cause is as likely, and nothing was seen that decides");
            (FactKind::InsufficientEvidence, false)
        } else {
            (kind, !open)
        };
        RootCause {
            kind: kind.name().into(),
            entity: self
                .culprit
                .as_ref()
                .map_or_else(|| fact.subject.clone(), |(subject, _)| subject.clone()),
            summary,
            confidence: share(confidence),
            fact: self.name(fact).unwrap_or_default(),
            known,
            decided_by: self.decisions(),
        }
    }

    /// The mean of what the way to the worst rests on, less for open questions, rivals and gaps.
    fn confidence(&self, open: bool, margin: f64) -> f64 {
        let mut product = if open { 0.5 } else { 0.98 };
        let edges: Vec<f64> = self
            .way
            .iter()
            .map(|&edge| &self.component.edges[edge])
            .filter(|edge| !edge.repeats)
            .map(|edge| edge.weighed.confidence)
            .collect();
        if !edges.is_empty() {
            let count = f64::from(u32::try_from(edges.len()).unwrap_or(u32::MAX));
            product *= edges.iter().product::<f64>().powf(1.0 / count);
        }
        let (from, until) = self.span();
        let gaps = self.scene.gaps.between(from, until).count();
        let gaps = i32::try_from(gaps.min(4)).unwrap_or(0);
        product * (1.0 - 0.5 * (0.2 - margin).clamp(0.0, 0.2)) * 0.85_f64.powi(gaps)
    }

    /// The impact decides, but what runs again by itself is nobody's emergency.
    fn severity(&self, impact: &Impact, recovered: bool) -> Level {
        let harmless = self.members.iter().filter(|&&place| self.component.suffers[place]).all(|&place| {
            matches!(
                self.fact(place).kind,
                FactKind::ContainerRestart
                    | FactKind::ContainerFailed
                    | FactKind::ExitFailure
                    | FactKind::UnitFailed
            )
        });
        if harmless && recovered { Level::Low } else { impact.level }
    }

    fn title(&self, root: &RootCause, impact: &Impact) -> String {
        let mut title = format!("{} of {}", root.kind.replace('_', " "), root.entity);
        let others = impact
            .affected
            .iter()
            .filter(|one| one.failed && (one.kind != root.entity.kind || one.name != root.entity.name))
            .count();
        if others > 0 {
            title = format!("{title}, {others} more affected");
        }
        title
    }
}

/// A fact as it is shown.
pub(super) fn view(scene: Scene<'_>, fact: &Fact, id: String) -> FactView {
    let json = |value: &Value| match value {
        Value::Flag(flag) => Json::from(*flag),
        Value::Number(number) => Json::from(*number),
        Value::Text(text) => Json::from(text.as_str()),
        Value::Series(series) => Json::from(series.len()),
    };
    let mut keys = Map::new();
    for key in &fact.keys {
        let values = keys.entry(key_name(key.kind)).or_insert_with(|| Json::Array(Vec::new()));
        if let Json::Array(values) = values {
            values.push(Json::from(key.value.as_str()));
        }
    }
    FactView {
        id,
        kind: fact.kind.name().into(),
        entity: fact.subject.clone(),
        at: scene.wall(fact.from_ns),
        uncertain_ms: fact.until_ns.saturating_sub(fact.from_ns) / 1_000_000,
        source: fact.source.name().into(),
        events: fact.events.iter().map(ToString::to_string).collect(),
        detail: fact.detail.iter().map(|(name, value)| ((*name).to_owned(), json(value))).collect(),
        keys,
    }
}
