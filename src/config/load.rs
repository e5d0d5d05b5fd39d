//! The layers of settings: flags go before the environment, the environment before the file, the file before the
//! defaults. And what changes when they are read again.
//!
//! Invariants:
//! - A layer that is in doubt is an error, never skipped.
//! - [`reload`] changes nothing itself: either every layer is right, or the caller keeps what it has.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Settings;
use super::file::{self, Position};
use super::options::{OPTIONS, Opt};

/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The variable that names the file.
const CONFIG_VARIABLE: &str = "TAPIO_CONFIG";

/// The variables of the environment that settings have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// Asks `variable` for each variable that a setting has.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let mut names = vec![CONFIG_VARIABLE.to_owned()];
        for option in OPTIONS {
            names.push(option.variable());
            names.extend(option.shared_variables.iter().map(|shared| shared.name.to_owned()));
        }
        Self(names.into_iter().filter_map(|name| Some((name.clone(), variable(&name)?))).collect())
    }
}

/// What a process was started with: enough to make its settings again.
#[derive(Debug, Clone, Default)]
pub struct Args {
    /// The file of `--config`.
    pub config: Option<PathBuf>,
    /// The flags and their texts, in their order: the last one counts.
    pub flags: Vec<(&'static Opt, String)>,
    /// The environment.
    pub environment: Environment,
}

impl Args {
    /// The file that [`load`] reads, if any.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        let variable = || self.environment.0.get(CONFIG_VARIABLE).filter(|value| !value.is_empty());
        self.config.clone().or_else(|| variable().map(PathBuf::from))
    }
}

/// Why the settings are not valid. All of them need a person: at the start the agent stops, at a reload it keeps
/// the settings that it has.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {reason}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The file is wrong at a place.
    #[error("{}:{line}:{column}: {problem}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A variable of the environment is wrong.
    #[error("environment variable {name}: {problem}")]
    Variable {
        /// The variable.
        name: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A flag is wrong.
    #[error("--{flag}: {problem}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// Makes the settings of all layers.
///
/// # Errors
/// [`ConfigError`] for the first layer that is wrong.
pub fn load(args: &Args) -> Result<Settings, ConfigError> {
    let mut settings = Settings::default();
    if let Some(path) = args.file() {
        apply_file(&mut settings, &path)?;
    }
    for option in OPTIONS {
        apply_variable(&mut settings, option, &args.environment)?;
    }
    for (option, text) in &args.flags {
        (option.set)(&mut settings, text).map_err(|right| ConfigError::Flag {
            flag: option.flag,
            problem: sentence(option, text, &right),
        })?;
    }
    Ok(settings)
}

/// What was given, and what would be right.
fn sentence(option: &Opt, text: &str, right: &str) -> String {
    if option.secret { right.to_owned() } else { format!("{text:?} {right}") }
}

fn apply_file(settings: &mut Settings, path: &Path) -> Result<(), ConfigError> {
    let unreadable = |reason: String| ConfigError::Unreadable { path: path.to_owned(), reason };
    let bytes = read_bounded(path).map_err(|error| unreadable(error.to_string()))?;
    let placed = |at: Position, problem: String| ConfigError::File {
        path: path.to_owned(),
        line: at.line,
        column: at.column,
        problem,
    };
    for found in file::settings(&bytes).map_err(|problem| placed(problem.at, problem.what))? {
        (found.option.set)(settings, &found.text).map_err(|right| {
            placed(
                found.at,
                format!("{}: {}", found.option.key(), sentence(found.option, &found.text, &right)),
            )
        })?;
    }
    Ok(())
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it is longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

fn apply_variable(
    settings: &mut Settings,
    option: &Opt,
    environment: &Environment,
) -> Result<(), ConfigError> {
    let own = (option.variable(), "");
    // Other programs' variables count as absent when they are empty, as OpenTelemetry specifies.
    let shared = option.shared_variables.iter().map(|shared| (shared.name.to_owned(), shared.suffix));
    let shared = shared.filter(|(name, _)| environment.0.get(name).is_some_and(|value| !value.is_empty()));
    let mut candidates = std::iter::once(own).chain(shared);
    let Some((name, suffix)) = candidates.find(|(name, _)| environment.0.contains_key(name)) else {
        return Ok(());
    };
    let value = environment.0.get(&name).and_then(|value| value.to_str());
    let Some(value) = value else {
        return Err(ConfigError::Variable { name, problem: "its value is not UTF-8".into() });
    };
    let text = format!("{value}{suffix}");
    (option.set)(settings, &text)
        .map_err(|right| ConfigError::Variable { name, problem: sentence(option, value, &right) })
}

/// What a reload found different in one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The setting.
    pub flag: &'static str,
    /// The text in force so far; empty where it is secret.
    pub old: String,
    /// The text wanted now; empty where it is secret.
    pub new: String,
    /// It is in the new settings. If not, the old value stays until the agent is started again.
    pub live: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} -> {:?}", self.flag, self.old, self.new)?;
        f.write_str(if self.live { "" } else { "; takes a restart" })
    }
}

/// Reads the layers again. Gives the settings to go on with, in which only what a running agent can change has
/// changed, and every difference.
///
/// # Errors
/// [`ConfigError`] for the first layer that is wrong.
pub fn reload(old: &Settings, args: &Args) -> Result<(Settings, Vec<Change>), ConfigError> {
    let wanted = load(args)?;
    let mut settings = old.clone();
    let mut changes = Vec::new();
    for option in OPTIONS {
        let (before, after) = ((option.get)(old), (option.get)(&wanted));
        if before == after {
            continue;
        }
        if option.live {
            (option.set)(&mut settings, &after).map_err(|right| ConfigError::Flag {
                flag: option.flag,
                problem: sentence(option, &after, &right),
            })?;
        }
        let shown = |text: String| if option.secret { String::new() } else { text };
        changes.push(Change { flag: option.flag, old: shown(before), new: shown(after), live: option.live });
    }
    Ok((settings, changes))
}

#[cfg(test)]
mod tests;
