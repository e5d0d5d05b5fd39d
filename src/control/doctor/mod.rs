//! `doctor`: what the agent could do on this host with these settings, and why not more.
//!
//! Invariants:
//! - Needs neither an agent nor a privilege, and changes nothing.
//! - Every wait has a limit: a dead name server costs seconds, not the answer.
//! - A problem keeps a collector that is asked for from running; a warning does not.

mod kernel;
mod paths;
mod reach;

use serde::Serialize;

use super::table::columns;
use crate::config::{Settings, Switch};
use crate::event::Source;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be, or not needed.
    Ok,
    /// Something will be missing.
    Warning,
    /// A collector that is asked for cannot run.
    Problem,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What follows from it; empty when nothing does.
    pub why: String,
    /// What to do about it; empty when nothing is to be done.
    pub remedy: String,
}

impl Check {
    fn ok(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            state: State::Ok,
            found: found.into(),
            why: String::new(),
            remedy: String::new(),
        }
    }

    fn bad(
        state: State,
        check: impl Into<String>,
        found: impl Into<String>,
        [why, remedy]: [&str; 2],
    ) -> Self {
        Self { check: check.into(), state, found: found.into(), why: why.into(), remedy: remedy.into() }
    }
}

/// All rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// No check is a problem.
    pub ready: bool,
    /// In the order of the path of an event.
    pub checks: Vec<Check>,
}

/// Looks at everything that the agent needs for these settings.
#[must_use]
pub fn examine(settings: &Settings) -> Report {
    let mut checks = kernel::examine(settings);
    checks.extend(paths::sources());
    checks.extend(others(settings));
    checks.extend(reach::examine(settings));
    checks.extend(paths::examine(settings));
    Report { ready: checks.iter().all(|check| check.state != State::Problem), checks }
}

/// The collectors that this version does not have.
fn others(settings: &Settings) -> Vec<Check> {
    let sources = [Source::Journald, Source::Systemd, Source::Kubernetes];
    let asked = sources.into_iter().filter(|source| settings.collectors[*source as usize] == Switch::On);
    let row = |source: Source| {
        let what =
            ["the agent will not start with it asked for by name", "leave its flag, variable or key out"];
        Check::bad(State::Problem, format!("collector {}", source.name()), "not in this version", what)
    };
    asked.map(row).collect()
}

impl Report {
    /// Whether something that is asked for cannot run.
    #[must_use]
    pub fn blocks(&self) -> bool {
        !self.ready
    }

    /// For machines.
    #[must_use]
    pub fn json(&self) -> String {
        // Texts and names only: this cannot fail, and an empty answer would be seen.
        serde_json::to_string(self).map(|json| json + "\n").unwrap_or_default()
    }

    /// For people: a table, then what to do about each row that is not as it should be.
    #[must_use]
    pub fn text(&self) -> String {
        let mut rows = Vec::new();
        for check in &self.checks {
            let state = match check.state {
                State::Ok => "ok",
                State::Warning => "warning",
                State::Problem => "PROBLEM",
            };
            rows.push(vec![state.to_owned(), check.check.clone(), check.found.clone()]);
            let about =
                [("why", &check.why), ("do", &check.remedy)].into_iter().filter(|(_, text)| !text.is_empty());
            rows.extend(
                about.map(|(label, text)| vec![String::new(), String::new(), format!("{label}: {text}")]),
            );
        }
        let count = |state: State| self.checks.iter().filter(|check| check.state == state).count();
        let verdict =
            if self.ready { "The agent can run here as asked" } else { "The agent cannot run here as asked" };
        let (problems, warnings) = (count(State::Problem), count(State::Warning));
        format!("{}\n{verdict}. Problems: {problems}, warnings: {warnings}\n", columns(&rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: this host with default settings, without the kernel, with an absent collector asked for.
    /// Guarantees: every row that is not fine says why and what to do; the absent collector is a problem.
    #[test]
    fn every_bad_row_has_a_remedy() {
        let mut settings = Settings { server: "localhost:1".into(), ..Settings::default() };
        let report = examine(&settings);
        assert!(report.checks.len() > 10, "{report:?}");
        for check in &report.checks {
            let fine = check.state == State::Ok;
            assert!(fine || !(check.why.is_empty() || check.remedy.is_empty()), "{check:?}");
        }
        let text = report.text();
        assert!(text.contains("warning  server"), "{text}");

        settings.collectors[Source::Kubernetes as usize] = Switch::On;
        let report = examine(&settings);
        assert!(report.blocks());
        let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
        assert_eq!(json["ready"], false);
    }

    /// Scenario: the kernel collector is switched off.
    /// Guarantees: nothing of the kernel is a problem, and that nothing is left to collect is one.
    #[test]
    fn what_is_off_is_no_problem() {
        let mut settings = Settings::default();
        settings.collectors[Source::Ebpf as usize] = Switch::Off;
        let problems: Vec<Check> =
            examine(&settings).checks.into_iter().filter(|check| check.state == State::Problem).collect();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].check, "collector ebpf");
    }
}
