//! `incidents`, `explain` and `rules check`: what the agent found, for people or for machines.

use std::path::{Path, PathBuf};

use super::client::{self, ClientError};
use super::table::columns;
use super::{Request, print};
use crate::agent::{RulesError, rules};
use crate::explain::Incident;
use crate::explain::page::page;

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
    let head = ["id", "state", "severity", "since", "what"].map(str::to_owned).to_vec();
    let rows = incidents.iter().map(|incident| {
        let since = incident.started_at.get(..19).unwrap_or(&incident.started_at).replace('T', " ");
        let id = incident.id.get(..12).unwrap_or(&incident.id).to_owned();
        vec![id, incident.state.name().into(), incident.severity.name().into(), since, incident.title.clone()]
    });
    let text = if incidents.is_empty() {
        "no incidents\n".into()
    } else {
        columns(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
    };
    printed(socket, &text)
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
    let text = if json { serde_json::to_string(incident).unwrap_or_default() + "\n" } else { page(incident) };
    Ok(printed(socket, &text)?)
}

/// Says whether the rules of a folder, with the built-in ones, are valid.
///
/// # Errors
/// [`RulesError`] with file, line and column.
pub fn check_rules(folder: Option<PathBuf>) -> Result<String, RulesError> {
    let rules = rules(folder.as_deref())?;
    Ok(format!("the rules are valid: {} licences for edges\n", rules.rules.len()))
}
