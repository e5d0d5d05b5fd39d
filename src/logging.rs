//! The log: text on the standard error, filtered by the settings.
//!
//! Invariants:
//! - Nothing but the log goes to the standard error, and the log goes nowhere else.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, Registry, fmt, layer::SubscriberExt, reload};

/// Changes the filter of a running log.
#[derive(Debug, Clone)]
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Why the log is not as wished. It goes on as it was.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The settings check this: it means that the filter was never checked.
    #[error("log filter {filter:?}: {reason}")]
    Filter {
        /// The filter.
        filter: String,
        /// Why not.
        reason: String,
    },
    /// Something else in this process has taken the log.
    #[error("the log is taken: {0}")]
    Taken(String),
}

/// Logs each failed request as an error, which collectors say once and better.
const NOISY: &str = "kube_client";

fn parsed(filter: &str) -> Result<EnvFilter, LogError> {
    let quiet = if filter.contains(NOISY) { filter.to_owned() } else { format!("{filter},{NOISY}=off") };
    EnvFilter::try_new(quiet)
        .map_err(|error| LogError::Filter { filter: filter.to_owned(), reason: error.to_string() })
}

impl Log {
    /// Starts the log of this process.
    ///
    /// # Errors
    /// [`LogError`]: there is no log then.
    pub fn start(filter: &str) -> Result<Self, LogError> {
        let (layer, handle) = reload::Layer::new(parsed(filter)?);
        // https://no-color.org: any text but the empty one means no colour.
        let coloured =
            io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let text = fmt::layer().with_writer(io::stderr).with_ansi(coloured).with_target(false);
        let log = tracing_subscriber::registry().with(layer).with(text);
        tracing::subscriber::set_global_default(log).map_err(|error| LogError::Taken(error.to_string()))?;
        Ok(Self { filter: handle })
    }

    /// Filters by something else from now on.
    ///
    /// # Errors
    /// [`LogError`]: the log filters as before.
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        self.filter.reload(parsed(filter)?).map_err(|error| LogError::Taken(error.to_string()))
    }
}
