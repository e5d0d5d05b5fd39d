//! Events of units as the server answers them, and whether they say what scripts and the manager said.

use std::collections::BTreeMap;

use serde_json::Value;
use tapio::event::fields::Fields;

use super::announced::Transition;
use super::script::Line;

/// An event as the server answers it.
#[derive(Debug, Clone)]
pub(crate) struct Event(pub(crate) Value);

impl Event {
    pub(crate) fn id(&self) -> &str {
        self.0["id"].as_str().expect("an event has an id")
    }

    /// A slot that is a number.
    pub(crate) fn number(&self, name: &str) -> i64 {
        self.0["slots"][name].as_i64().unwrap_or_else(|| panic!("no number {name}: {}", self.0))
    }

    /// A slot that is text.
    fn word(&self, name: &str) -> &str {
        self.0["slots"][name].as_str().unwrap_or_else(|| panic!("no word {name}: {}", self.0))
    }

    /// A field of the text; empty when there is none.
    pub(crate) fn field(&self, name: &str) -> String {
        Fields::new(self.0["text"].as_str().unwrap_or_default().as_bytes()).get(name).into_owned()
    }

    /// Result, code and status of a unit's run.
    fn run(&self) -> (String, i64, i64) {
        (self.field("RESULT"), self.number("exec_code"), self.number("exec_status"))
    }
}

/// The events of kind `unit_state`, by unit and the manager's time of the change.
#[derive(Debug)]
pub(crate) struct Changes(BTreeMap<(String, u64), Vec<Event>>);

impl Changes {
    pub(crate) fn new(events: Vec<Event>) -> Self {
        let mut changes: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for event in events {
            let changed_us = u64::try_from(event.number("changed_us")).unwrap();
            changes.entry((event.field("UNIT"), changed_us)).or_default().push(event);
        }
        Self(changes)
    }

    fn at(&self, unit: &str, changed_us: u64) -> &[Event] {
        self.0.get(&(unit.to_owned(), changed_us)).map_or(&[], Vec::as_slice)
    }

    /// Each of these transitions is told: state, invocation and, for services, the run; by at most one event that
    /// tells a change. A state that was found when the agent looked may tell it once more: how many do is returned.
    pub(crate) fn assert_each_once(&self, heard: &[Transition]) -> usize {
        let mut found_again = 0;
        for transition in heard {
            let events = self.at(&transition.unit, transition.changed_us);
            let says = |event: &&Event| {
                event.field("ACTIVE_STATE") == transition.active
                    && event.field("SUB_STATE") == transition.sub
                    && event.word("invocation_id") == format!("{:0>32}", transition.invocation)
                    && transition.run.as_ref().is_none_or(|run| event.run() == *run)
            };
            let said = events.iter().filter(says);
            let (found, changed): (Vec<_>, Vec<_>) = said.partition(|event| event.number("snapshot") == 1);
            let is_once = changed.len() == 1 || (changed.is_empty() && !found.is_empty());
            assert!(is_once, "{} events tell {transition:?}, among {events:#?}", changed.len());
            found_again += found.len() + changed.len() - 1;
        }
        found_again
    }

    /// Each end of a run that a script brought about has exactly one event that says it.
    pub(crate) fn assert_ends(&self, outcomes: &[Line]) {
        for outcome in outcomes {
            let code =
                ["-", "exited", "killed", "dumped"].iter().position(|code| *code == outcome.field("code"));
            let code = i64::try_from(code.expect("a known code")).unwrap();
            let run = (outcome.field("result").to_owned(), code, outcome.field("status").parse().unwrap());
            let events = self.at(outcome.field("unit"), outcome.field("changed_us").parse().unwrap());
            let says = |event: &&Event| {
                event.word("invocation_id") == outcome.field("invocation")
                    && event.field("ACTIVE_STATE") == outcome.field("state")
                    && event.run() == run
            };
            let count = events.iter().filter(says).count();
            assert_eq!(count, 1, "events that say {outcome:?}, among {events:#?}");
        }
    }
}
