//! What the agent needs for incidents, put together: rules, outputs, and what shards and thread share.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::AgentError;
use super::incidents::{Host, Watch, Watches};
use super::outputs::{Incidents, Outputs, open};
use crate::config::{Correlation, Settings};
use crate::engine::MakeExplain;
use crate::entity;
use crate::explain::{RuleError, RuleSet};
use crate::ledger::Ledger;
use crate::proto::SemanticGroup;
use crate::recording::Cutter;

/// Files of rules at most.
const RULE_FILES_MAX: usize = 1000;

/// Why the rules cannot be used. Stop the start; a reload keeps the ones in force.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The folder or a file of it cannot be read.
    #[error("cannot read the rules in {path}: {source}; check --rules")]
    Read {
        /// Of the settings, or a file in it.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// What is in a file.
    #[error(transparent)]
    Rule(#[from] RuleError),
}

/// The shipped rules, with those of files, and of the `*.toml` files of folders in the order of their names.
///
/// # Errors
/// [`RulesError`].
pub fn rules(places: &[PathBuf]) -> Result<RuleSet, RulesError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| RulesError::Read { path, source }
    };
    let mut paths = Vec::new();
    for place in places {
        if !std::fs::metadata(place).map_err(failed(place))?.is_dir() {
            paths.push(place.clone());
            continue;
        }
        let mut inside = Vec::new();
        for entry in std::fs::read_dir(place).map_err(failed(place))?.take(RULE_FILES_MAX) {
            let path = entry.map_err(failed(place))?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                inside.push(path);
            }
        }
        inside.sort();
        paths.extend(inside);
    }
    let mut files = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).map_err(failed(&path))?;
        files.push((path.display().to_string(), text));
    }
    Ok(RuleSet::with_files(&files)?)
}

/// See the module; nothing of it where correlation is `basic`.
pub(super) struct Explaining(Option<Parts>);

struct Parts {
    watches: Arc<Watches>,
    host: Host,
    rules: Arc<RuleSet>,
    incidents: Arc<Incidents>,
    file: Option<Box<dyn Write + Send>>,
    otlp: Option<mpsc::Sender<SemanticGroup>>,
}

impl Explaining {
    pub(super) fn new(
        settings: &Settings,
        host: &entity::Host,
        incidents: &Arc<Incidents>,
        otlp: Option<mpsc::Sender<SemanticGroup>>,
    ) -> Result<Self, AgentError> {
        if settings.correlation == Correlation::Basic {
            return Ok(Self(None));
        }
        Ok(Self(Some(Parts {
            watches: Arc::default(),
            host: Host { boot_id: host.boot_id, name: host.host_name.clone() },
            rules: Arc::new(rules(settings.rules.as_slice())?),
            incidents: Arc::clone(incidents),
            file: settings.output.as_deref().map(open).transpose()?,
            otlp,
        })))
    }

    /// Makes what sees the events of a shard.
    pub(super) fn inspect(&self) -> Box<dyn Fn() -> Option<Watch>> {
        let watches = self.0.as_ref().map(|parts| Arc::clone(&parts.watches));
        Box::new(move || watches.as_ref().map(|watches| watches.for_shard()))
    }

    /// Makes the thread's worker; once. Incidents are cut out by `cutter`.
    pub(super) fn worker(
        &mut self,
        ledger: &Arc<Ledger>,
        cutter: Option<Cutter>,
    ) -> Option<MakeExplain<'static>> {
        let parts = self.0.take()?;
        let ledger = Arc::clone(ledger);
        Some(Box::new(move |server| {
            let outputs = Outputs::new(parts.incidents, server, parts.file, parts.otlp, cutter);
            Box::new(parts.watches.worker(&parts.host, parts.rules, ledger, outputs))
        }))
    }
}
