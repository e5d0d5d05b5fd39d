//! An incident as a page of text, for a person who was woken up by it: what, why, proof, what next, what to
//! do.
//!
//! Invariants:
//! - No line is wider than [`WIDTH`], words that are longer aside. The page says what the JSON says, and
//!   nothing else.

use super::incident::{FactView, Incident, State};
use super::predict::span;

/// Columns of the page.
pub const WIDTH: usize = 80;

/// Facts of the chain that are shown one by one.
const STEPS_MAX: usize = 24;

/// What decided, the most telling first.
const DECISIONS_SHOWN: usize = 6;

/// In front of a fact.
const FACT: &str = "  ";

/// Affected ones that are named.
const NAMES_MAX: usize = 12;

/// The page of an incident.
#[must_use]
pub fn page(incident: &Incident) -> String {
    let mut page = Page(String::new());
    page.line("", &format!("{}: {}", incident.severity.name().to_uppercase(), incident.title));
    let state = match incident.state {
        State::Open => "open",
        State::Closed => "over",
        State::Merged => "part of another incident",
        State::Withdrawn => "taken back",
        State::Forecast => "nothing failed yet",
    };
    page.line(
        "",
        &format!(
            "{} | since {} | {state}, revision {}",
            incident.id,
            clock(&incident.started_at),
            incident.revision
        ),
    );
    if let Some(other) = &incident.merged_into {
        page.line("", &format!("it is part of {other}: tapio-collector explain {other}"));
    }
    if let Some(file) = &incident.recording {
        page.line("", &format!("events: tapio-collector replay {file}"));
    }
    what(&mut page, incident);
    why(&mut page, incident);
    proof(&mut page, incident);
    next(&mut page, incident);
    page.heading("What to do");
    if incident.actions.is_empty() {
        page.line("  ", "Nothing that these facts tell for sure.");
    }
    for (number, action) in incident.actions.iter().enumerate() {
        page.item(&format!("  {}. ", number + 1), action);
    }
    page.0
}

fn what(page: &mut Page, incident: &Incident) {
    page.heading("What happened");
    page.line("  ", &sentence(&incident.root_cause.summary));
    if let Some(killer) = &incident.killed_by {
        page.line("  ", &format!("Killed by {}.", killer.text));
    }
    let failed: Vec<_> = incident.impact.affected.iter().filter(|one| one.failed).collect();
    for one in failed.iter().take(NAMES_MAX) {
        page.item("  - ", &format!("{} {}: {}", one.kind, one.name, one.how.replace('_', " ")));
    }
    let more = failed.len().saturating_sub(NAMES_MAX) as u64 + incident.impact.affected_more;
    if more > 0 {
        page.item("  - ", &format!("and {more} more"));
    }
}

fn why(page: &mut Page, incident: &Incident) {
    page.heading("Why");
    let root = &incident.root_cause;
    let sure = format!("{:.0} % sure", root.confidence * 100.0);
    if root.known {
        page.line("  ", &format!("{} of {} ({sure}).", root.kind.replace('_', " "), root.entity));
    } else {
        page.line("  ", &format!("The cause is not known: {} ({sure}).", root.kind.replace('_', " ")));
    }
    for decision in root.decided_by.iter().take(DECISIONS_SHOWN) {
        let fact = decision.fact.as_ref().map_or_else(String::new, |fact| format!(" [{fact}]"));
        page.item("  - ", &format!("{}{fact}", decision.evidence.replace('_', " ")));
    }
    for one in &incident.contributing {
        page.item("  + ", &format!("made it worse: {}", one.summary));
    }
    for other in &incident.hypotheses {
        let against = other.against.join("; ");
        let of = format!("{} of {}", other.kind.replace('_', " "), other.entity);
        page.item("  ? ", &format!("not {of} ({:.0} %): {against}", other.confidence * 100.0));
    }
}

fn proof(page: &mut Page, incident: &Incident) {
    page.heading("Proof");
    let find = |id: &str| incident.facts.iter().find(|fact| fact.id == id);
    if let Some(root) = find(&incident.root_cause.fact) {
        page.item(FACT, &fact_line(root));
    }
    for link in incident.chain.iter().take(STEPS_MAX) {
        if let Some(fact) = find(&link.to) {
            page.item(FACT, &fact_line(fact));
        }
        let by = link.keys.join(" or ");
        page.item(
            "       ",
            &format!(
                "{}: {} (same {by}, {:+.1} ms, {:.0} %)",
                link.rule,
                link.text,
                link.dt_ms,
                link.confidence * 100.0
            ),
        );
    }
    let hidden = incident.chain.len().saturating_sub(STEPS_MAX);
    if hidden > 0 {
        page.line("  ", &format!("and {hidden} more steps: --json has them all"));
    }
    let in_chain = |fact: &FactView| {
        fact.id == incident.root_cause.fact || incident.chain.iter().any(|link| link.to == fact.id)
    };
    for fact in incident.facts.iter().filter(|fact| !in_chain(fact)).take(STEPS_MAX) {
        page.item(FACT, &fact_line(fact));
    }
    for gap in &incident.evidence_gaps {
        page.item(
            "  ! ",
            &format!("{} missed something until {}: {}", gap.source, clock(&gap.until), gap.text),
        );
    }
}

fn next(page: &mut Page, incident: &Incident) {
    page.heading("What next");
    for one in &incident.predictions {
        let [soon, late] = one.eta_s;
        let when = format!("{} to {} after {}", span(soon), span(late), clock(&one.at));
        let what = one.scenario.replace('_', " ");
        page.item(
            "  - ",
            &format!("{what} of {} in {when} ({:.0} %): {}", one.entity, one.probability * 100.0, one.basis),
        );
        if incident.state != State::Forecast {
            one.actions.iter().for_each(|action| page.item("    > ", action));
        }
    }
    let exposed: Vec<_> = incident.impact.affected.iter().filter(|one| !one.failed).collect();
    if !exposed.is_empty() {
        let chance = incident.impact.cascade_probability * 100.0;
        page.line(
            "  ",
            &format!("{} depend on it and run still; one of them fails with {chance:.0} %:", exposed.len()),
        );
        for one in exposed.iter().take(NAMES_MAX) {
            page.item("  - ", &format!("{} {} ({})", one.kind, one.name, one.how.replace('_', " ")));
        }
    }
    if incident.predictions.is_empty() && exposed.is_empty() {
        page.line("  ", "Nothing that was seen says that it spreads.");
    }
}

/// One fact in a line.
fn fact_line(fact: &FactView) -> String {
    let said = fact.detail.get("text").and_then(|text| text.as_str());
    let said = said.map_or_else(String::new, |text| format!(" \"{text}\""));
    let about = if fact.uncertain_ms > 0 {
        format!(" (+{} s)", fact.uncertain_ms.div_ceil(1000))
    } else {
        String::new()
    };
    let events = fact.events.first().map_or_else(String::new, |event| format!(" {event}"));
    let time = fact.at.get(11..23).unwrap_or(&fact.at);
    format!(
        "[{}] {time}{about} {} {}{said} ({}{events})",
        fact.id,
        fact.kind.replace('_', " "),
        fact.entity,
        fact.source
    )
}

/// A time as people read it: the date and the time to the second.
fn clock(time: &str) -> String {
    time.get(..19).unwrap_or(time).replace('T', " ")
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    let end = if text.ends_with('.') { "" } else { "." };
    format!("{first}{}{end}", letters.as_str())
}

struct Page(String);

impl Page {
    fn heading(&mut self, text: &str) {
        self.0.push('\n');
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn line(&mut self, indent: &str, text: &str) {
        self.wrap(indent, indent, text);
    }

    /// With a mark in front of the first line.
    fn item(&mut self, mark: &str, text: &str) {
        let indent = " ".repeat(if mark == FACT { 7 } else { mark.len() });
        self.wrap(mark, &indent, text);
    }

    fn wrap(&mut self, first: &str, others: &str, text: &str) {
        let mut line = first.to_owned();
        let mut is_empty = true;
        for word in text.split_whitespace() {
            let needed = line.chars().count() + usize::from(!is_empty) + word.chars().count();
            if !is_empty && needed > WIDTH {
                self.0.push_str(line.trim_end());
                self.0.push('\n');
                line = others.to_owned();
                is_empty = true;
            }
            if !is_empty {
                line.push(' ');
            }
            // What programs log must not move the cursor of who reads it.
            line.extend(word.chars().map(|letter| if letter.is_control() { '?' } else { letter }));
            is_empty = false;
        }
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }
}
