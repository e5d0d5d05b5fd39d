//! `incidents`, `explain`, `replay` and `rules check`: what the agent found, for people or for machines.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::client::{self, ClientError};
use super::table::columns;
use super::{Request, print};
use crate::agent::{RulesError, rules};
use crate::detect::{DETAILS, FACT_KINDS};
use crate::explain::Incident;
use crate::explain::page::page;
use crate::recording::{self, LoadError};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The agent did not give one.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No incident, or more than one, has such an id.
    #[error("{found} incidents have an id that starts with {id}; `tapio-collector incidents` lists them")]
    Id {
        /// What was asked for.
        id: String,
        /// How many have it.
        found: usize,
    },
}

fn ask(socket: &Path, request: &Request) -> Result<(String, Vec<Incident>), ClientError> {
    let line = client::ask(socket, request)?;
    let incidents = serde_json::from_str(&line)
        .map_err(|error| ClientError::Answer { path: socket.to_owned(), answer: error.to_string() })?;
    Ok((line, incidents))
}

fn printed(socket: &Path, text: &str) -> Result<(), ClientError> {
    print(text).map_err(|source| ClientError::Io { path: socket.to_owned(), source })
}

/// Prints the incidents of the running agent, the newest first.
///
/// # Errors
/// [`ClientError`].
pub fn list(socket: &Path, json: bool) -> Result<(), ClientError> {
    let (line, incidents) = ask(socket, &Request::Incidents)?;
    if json {
        return printed(socket, &format!("{line}\n"));
    }
    printed(socket, &table(&incidents))
}

/// Incidents as a table for people.
#[must_use]
pub fn table(incidents: &[Incident]) -> String {
    let head = ["id", "state", "severity", "since", "what"].map(str::to_owned).to_vec();
    let rows = incidents.iter().map(|incident| {
        let since = incident.started_at.get(..19).unwrap_or(&incident.started_at).replace('T', " ");
        let id = incident.id.get(..12).unwrap_or(&incident.id).to_owned();
        vec![id, incident.state.name().into(), incident.severity.name().into(), since, incident.title.clone()]
    });
    if incidents.is_empty() {
        "no incidents\n".into()
    } else {
        columns(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
    }
}

/// Prints one incident of the running agent: what, why, the proof, what next, what to do.
///
/// # Errors
/// [`ExplainError`].
pub fn explain(socket: &Path, id: &str, json: bool) -> Result<(), ExplainError> {
    let request = Request::Explain { id: id.to_lowercase() };
    let (_, incidents) = ask(socket, &request)?;
    let [incident] = incidents.as_slice() else {
        return Err(ExplainError::Id { id: id.into(), found: incidents.len() });
    };
    // Maps with text keys and finite numbers only: it can be written.
    let text = if json { serde_json::to_string(incident).unwrap_or_default() + "\n" } else { page(incident) };
    Ok(printed(socket, &text)?)
}

/// Why recordings say nothing. Stop: another attempt has the same end.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// They cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The rules are not valid.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// What they say cannot be written down.
    #[error("cannot write the answer: {0}")]
    Write(#[from] std::io::Error),
}

/// What recordings say: incidents, or facts; and what was wrong with the recordings.
///
/// # Errors
/// [`ReplayError`].
pub fn replay(
    files: &[PathBuf],
    own_rules: &[PathBuf],
    facts: bool,
    json: bool,
) -> Result<(String, String), ReplayError> {
    let recording = recording::load(files)?;
    let remarks = recording::replay::remarks(&recording);
    if facts {
        return Ok((recording::replay::facts(&recording)?, remarks));
    }
    let incidents = recording::replay::incidents(&recording, Arc::new(rules(own_rules)?));
    if !json {
        return Ok((table(&incidents), remarks));
    }
    let mut text = String::new();
    for incident in &incidents {
        text += &serde_json::to_string(incident).map_err(std::io::Error::from)?;
        text.push('\n');
    }
    Ok((text, remarks))
}

/// Says whether the rules of files and folders, with the built-in ones, are valid.
///
/// # Errors
/// [`RulesError`] with file, line and column.
pub fn check_rules(places: &[PathBuf]) -> Result<String, RulesError> {
    let rules = rules(places)?;
    Ok(format!("the rules are valid: {} licences for edges\n", rules.rules.len()))
}

/// Every kind of fact that rules can be about: what part it can play, what it says, and its details.
#[must_use]
pub fn kinds() -> String {
    let head = ["kind", "part", "says that", "details"].map(str::to_owned).to_vec();
    let rows = FACT_KINDS.iter().map(|info| {
        let own = DETAILS.iter().filter(|(kind, _)| *kind == info.kind);
        let details: Vec<&str> = own.flat_map(|(_, names)| names.iter().copied()).collect();
        let part = format!("{:?}", info.role).to_lowercase();
        vec![info.name.into(), part, info.doc.into(), details.join(" ")]
    });
    columns(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}
