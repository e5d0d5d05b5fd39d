//! Stories as they are written in TOML: facts with relative times, and what must come of them.

use serde::Deserialize;

use super::Incident;
use crate::detect::{EventId, Fact, FactKind, Subject, Value};
use crate::event::{Source, mix};
use crate::explain::rules::key_kind;

/// When stories begin, since boot.
pub(super) const START_NS: u64 = 20_000_000_000_000;

/// Unix nanoseconds at boot.
pub(super) const BOOT_UNIX_NS: u64 = 1_790_000_000_000_000_000;

const FILES: [&str; 3] = [
    include_str!("stories/host.toml"),
    include_str!("stories/cluster.toml"),
    include_str!("stories/controls.toml"),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    story: Vec<Story>,
}

/// One story.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Story {
    pub(super) id: String,
    pub(super) title: String,
    facts: Vec<String>,
    #[serde(default)]
    silent: bool,
    #[serde(default)]
    roots: Vec<String>,
    root: Option<String>,
    entity: Option<String>,
    #[serde(default)]
    chain: Vec<String>,
    #[serde(default)]
    reaches: Vec<String>,
    #[serde(default)]
    decided: Vec<String>,
    #[serde(default)]
    contributing: Vec<String>,
    #[serde(default)]
    affected: Vec<String>,
    killed_by: Option<String>,
    action: Option<String>,
    summary: Option<String>,
    state: Option<String>,
    severity: Option<String>,
    gaps: Option<usize>,
    confidence_max: Option<f64>,
    at: Option<String>,
}

/// In which order the facts arrive.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    AsHappened,
    Shuffled(u64),
}

/// A sequence of numbers that looks random.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = mix(self.0.wrapping_add(0x9e37_79b9_7f4a_7c15));
        self.0 % sides
    }
}

/// Each fact with when it arrives, and whether the engine judges then.
pub(crate) fn arrivals(mut facts: Vec<Fact>, order: Order) -> Vec<(u64, Fact, bool)> {
    facts.sort_by_key(|fact| fact.from_ns);
    let Order::Shuffled(seed) = order else {
        return facts.into_iter().map(|fact| (fact.until_ns, fact, true)).collect();
    };
    let mut dice = Dice(seed);
    // Half of the orders are any order at all, the others what really happens: each source has its own delay.
    let wild = seed % 2 == 0;
    let start_ns = facts.first().map_or(0, |fact| fact.from_ns);
    let mut arrivals: Vec<(u64, Fact, bool)> = Vec::new();
    for fact in facts {
        let late_ns = if wild { dice.roll(40_000_000_000) } else { late_ns(fact.source, &mut dice) };
        let begin = if wild { start_ns } else { fact.until_ns };
        // Told once more, later: after a reconnect a source says again what it said.
        if dice.roll(4) == 0 {
            arrivals.push((begin + late_ns + dice.roll(20_000_000_000), fact.clone(), dice.roll(2) == 0));
        }
        arrivals.push((begin + late_ns, fact, dice.roll(3) > 0));
    }
    arrivals.sort_by_key(|(at, ..)| *at);
    arrivals
}

/// How late a source may be: Kubernetes half a minute, the journal a moment.
pub(crate) fn late_ns(source: Source, dice: &mut Dice) -> u64 {
    match source {
        Source::Kubernetes => 30_000_000_000 + dice.roll(2_000_000_000),
        Source::Journald => dice.roll(3_000_000_000),
        _ => dice.roll(50_000_000),
    }
}

pub(super) fn stories() -> Vec<Story> {
    let read = |text: &&str| toml::from_str::<File>(text).unwrap_or_else(|error| panic!("{error}")).story;
    FILES.iter().flat_map(read).collect()
}

impl Story {
    pub(super) fn parsed(&self) -> Vec<Fact> {
        self.facts.iter().enumerate().map(|(number, line)| fact(line, number as u64 + 1)).collect()
    }

    /// When the last judgement is made.
    pub(super) fn end_ns(&self) -> u64 {
        let after = self.at.as_deref().map_or(300.0, |at| at.trim_end_matches('s').parse().unwrap());
        START_NS + ns(after)
    }

    /// What is not as told.
    pub(super) fn complaints(&self, incidents: &[Incident]) -> Vec<String> {
        let mut list = Vec::new();
        let mut expect = |what: &str, is: String, wanted: String| {
            if is != wanted {
                list.push(format!("{what}: {is}, not {wanted}"));
            }
        };
        let said =
            |incident: &Incident| format!("{} {}", incident.root_cause.kind, incident.root_cause.entity);
        let mut roots: Vec<String> = incidents.iter().map(said).collect();
        roots.sort();
        if self.silent {
            expect("incidents", format!("{roots:?}"), "[]".into());
            return list;
        }
        let only = || format!("{} {}", self.root.clone().unwrap(), self.entity.clone().unwrap());
        let mut wanted = if self.roots.is_empty() { vec![only()] } else { self.roots.clone() };
        wanted.sort();
        expect("roots", format!("{roots:?}"), format!("{wanted:?}"));
        let Some(root) = &self.root else { return list };
        let Some(incident) = incidents.iter().find(|incident| incident.root_cause.kind == *root) else {
            return list;
        };
        if let Some(state) = &self.state {
            expect("state", incident.state.name().into(), state.clone());
        }
        if let Some(severity) = &self.severity {
            expect("severity", incident.severity.name().into(), severity.clone());
        }
        if let Some(gaps) = self.gaps {
            expect("gaps", incident.evidence_gaps.len().to_string(), gaps.to_string());
        }
        let killer = incident.killed_by.as_ref().map(|killer| killer.who.clone());
        if self.killed_by.is_some() {
            expect("killed by", format!("{killer:?}"), format!("{:?}", self.killed_by));
        }
        list.extend(self.missing(incident));
        list
    }

    fn missing(&self, incident: &Incident) -> Vec<String> {
        let mut list = Vec::new();
        let mut want = |is: bool, what: String| {
            if !is {
                list.push(what);
            }
        };
        let chain: Vec<&str> = self.chain.iter().map(String::as_str).collect();
        want(has_way(incident, &chain), format!("no way {chain:?} in {:?}", ways(incident)));
        for kind in &self.reaches {
            want(
                incident.chain.iter().any(|link| kind_of(incident, &link.to) == kind),
                format!("does not reach {kind}"),
            );
        }
        let evidence: Vec<&str> =
            incident.root_cause.decided_by.iter().map(|decision| decision.evidence.as_str()).collect();
        for decided in &self.decided {
            want(evidence.contains(&decided.as_str()), format!("{decided} did not decide: {evidence:?}"));
        }
        for kind in &self.contributing {
            let there = incident.contributing.iter().any(|one| one.kind == *kind);
            want(there, format!("{kind} does not contribute: {:?}", incident.contributing));
        }
        for entity in &self.affected {
            let there =
                incident.impact.affected.iter().any(|one| format!("{} {}", one.kind, one.name) == *entity);
            want(there, format!("{entity} is not affected: {:?}", incident.impact.affected));
        }
        if let Some(action) = &self.action {
            let there = incident.actions.iter().any(|text| text.contains(action));
            want(there, format!("no action {action}: {:?}", incident.actions));
        }
        if let Some(summary) = &self.summary {
            want(
                incident.root_cause.summary.contains(summary),
                format!("not said: {summary}: {}", incident.root_cause.summary),
            );
        }
        if let Some(most) = self.confidence_max {
            want(
                incident.root_cause.confidence <= most,
                format!("too sure: {}", incident.root_cause.confidence),
            );
        }
        list
    }
}

fn kind_of<'incident>(incident: &'incident Incident, id: &str) -> &'incident str {
    incident.facts.iter().find(|fact| fact.id == id).map_or("", |fact| fact.kind.as_str())
}

/// Whether the links lead from the root through facts of these kinds, one after the other.
pub(crate) fn has_way(incident: &Incident, kinds: &[&str]) -> bool {
    fn from(incident: &Incident, fact: &str, kinds: &[&str]) -> bool {
        let Some((first, rest)) = kinds.split_first() else { return true };
        // What happened once more, or to others, is the same step.
        let goes_on = |link: &crate::explain::incident::Link| {
            let stays = || kind_of(incident, &link.to) == *first && from(incident, &link.to, kinds);
            link.from == fact && (from(incident, &link.to, rest) || stays())
        };
        kind_of(incident, fact) == *first && (rest.is_empty() || incident.chain.iter().any(goes_on))
    }
    kinds.is_empty() || from(incident, &incident.root_cause.fact, kinds)
}

pub(crate) fn ways(incident: &Incident) -> Vec<String> {
    let of = |link: &crate::explain::incident::Link| {
        format!("{} -> {} ({})", kind_of(incident, &link.from), kind_of(incident, &link.to), link.rule)
    };
    incident.chain.iter().map(of).collect()
}

fn ns(seconds: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a story")]
    let ns = (seconds * 1e9).round() as u64;
    ns
}

/// A time like `+12ms`, `-3s`, `+1500ms`, relative to the start.
fn time(text: &str) -> u64 {
    let (sign, rest) = text.split_at(1);
    let seconds = match rest.strip_suffix("ms") {
        Some(ms) => ms.parse::<f64>().unwrap() / 1e3,
        None => rest.strip_suffix('s').unwrap_or_else(|| panic!("{text}")).parse().unwrap(),
    };
    match sign {
        "+" => START_NS + ns(seconds),
        "-" => START_NS - ns(seconds),
        _ => panic!("{text}"),
    }
}

/// The words of a line; quotes keep spaces.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => words.last_mut().unwrap().push(letter),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn fact(line: &str, number: u64) -> Fact {
    let words = words(line);
    let [when, kind, subject_kind, subject_name, source, rest @ ..] = words.as_slice() else {
        panic!("{line}")
    };
    let kind = FactKind::from_name(kind).unwrap_or_else(|| panic!("{line}"));
    let source = Source::ALL.into_iter().find(|known| format!("@{}", known.name()) == *source).expect(line);
    let (at, within) = when.split_once('~').unwrap_or((when, "0s"));
    let mut fact = Fact::new(kind, Subject::new(subject_kind, subject_name.as_str()), source, time(at));
    fact.until_ns = fact.from_ns + (time(&format!("+{within}")) - START_NS);
    fact = fact.event(EventId { source, producer: 0, sequence: number });
    let mut parts = rest.split(|word| word == "|");
    for word in parts.next().unwrap_or_default() {
        let (key, value) = word.split_once('=').unwrap_or_else(|| panic!("{line}"));
        fact = fact.key(key_kind(key).unwrap_or_else(|| panic!("{line}: {key}")), value);
    }
    for word in parts.next().unwrap_or_default() {
        let (name, value) = word.split_once('=').unwrap_or_else(|| panic!("{line}"));
        assert!(crate::detect::is_detail(kind, name), "{line}: {name} is no detail of {}", kind.name());
        fact = fact.with(name.to_owned().leak(), value_of(name, value));
    }
    fact
}

fn value_of(name: &str, text: &str) -> Value {
    if name == "series" {
        let point = |point: &str| {
            let (at, value) = point.split_once(':').unwrap();
            (time(at), value.parse().unwrap())
        };
        return Value::Series(text.split(',').map(point).collect());
    }
    match (text, text.parse::<i64>()) {
        ("true" | "false", _) => Value::Flag(text == "true"),
        (_, Ok(number)) => Value::Number(number),
        _ => Value::Text(text.into()),
    }
}
