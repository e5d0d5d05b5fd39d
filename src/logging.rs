//! The log: text on the standard error, filtered by the settings.
//!
//! Invariants:
//! - Nothing but the log goes to the standard error, and the log goes nowhere else.
//! - Who logs never waits: a thread writes, and lines that it cannot keep up with are counted, which the next line says.

use std::io::{self, IsTerminal, Stderr, Write};
use std::sync::{Arc, OnceLock};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, Registry, fmt, layer::SubscriberExt, reload};

/// Lines that wait for a reader of the standard error, at most: minutes of a busy log in a few hundred KiB.
const LINES_MAX: usize = 4096;

/// A running log. What waits is written when it is dropped, for a second at most.
#[derive(Debug)]
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    _writer: WorkerGuard,
}

/// The standard error, which says between its lines how many are missing there.
struct Lines {
    to: Stderr,
    lost: Arc<OnceLock<ErrorCounter>>,
    told: usize,
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let lost = self.lost.get().map_or(0, ErrorCounter::dropped_lines);
        if lost > self.told {
            writeln!(self.to, "{} lines of the log are lost: nobody read them in time", lost - self.told)?;
            self.told = lost;
        }
        self.to.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
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
        let lost = Arc::new(OnceLock::new());
        let lines = Lines { to: io::stderr(), lost: Arc::clone(&lost), told: 0 };
        let (writer, guard) =
            NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).thread_name("log").finish(lines);
        lost.get_or_init(|| writer.error_counter());
        let text = fmt::layer().with_writer(writer).with_ansi(coloured).with_target(false);
        let log = tracing_subscriber::registry().with(layer).with(text);
        tracing::subscriber::set_global_default(log).map_err(|error| LogError::Taken(error.to_string()))?;
        Ok(Self { filter: handle, _writer: guard })
    }

    /// Filters by something else from now on.
    ///
    /// # Errors
    /// [`LogError`]: the log filters as before.
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        self.filter.reload(parsed(filter)?).map_err(|error| LogError::Taken(error.to_string()))
    }
}
