//! Why the harness could not do something.

/// `Missing` skips one figure; the others stop the harness.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A program that a figure needs is not installed.
    #[error("{program} is not installed: {remedy}")]
    Missing {
        /// Its name.
        program: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A process of the run did not do what it should.
    #[error("{process}: {problem}")]
    Process {
        /// Which.
        process: String,
        /// What happened and what it said.
        problem: String,
    },
    /// An event was lost without being counted, or a sum of the ledger does not close.
    #[error("no result: {0}")]
    Ledger(String),
    /// The harness was told to stop.
    #[error("interrupted")]
    Interrupted,
    /// A file or socket.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Of the system.
        source: std::io::Error,
    },
    /// The baseline's BPF object.
    #[error("the baseline's BPF program (root is needed): {0}")]
    Bpf(#[from] libbpf_rs::Error),
    /// The baseline's gRPC.
    #[error("OTLP baseline: {0}")]
    Otlp(String),
    /// A name that is not a figure.
    #[error("there is no figure {0:?}; --list names them")]
    UnknownFigure(String),
}

impl LoadError {
    /// Wraps an error of the system.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// A process of the run that did not do what it should.
    pub fn process(process: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Process { process: process.into(), problem: problem.into() }
    }
}
