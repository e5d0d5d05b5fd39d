//! tapio-server: options, runtime, signals, exit code. Everything else is in [`tapio::server`].

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use tapio::logging::Log;
use tapio::server::options::Options;
use tapio::server::serve::{Bound, ServeError};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let options = Options::parse();
    let filter = std::env::var("RUST_LOG").unwrap_or_default();
    let _log = match Log::start(if filter.is_empty() { "info" } else { &filter }) {
        Ok(log) => log,
        Err(error) => {
            // Nothing is left to do when standard error is gone too.
            let _unsaid = writeln!(std::io::stderr().lock(), "tapio-server: RUST_LOG: {error}");
            return ExitCode::from(78);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(options: &Options) -> Result<(), ServeError> {
    // One thread serves all streams: work per event is a few nanoseconds, and the store has its own thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let bound = Bound::new(options).await?;
        tracing::info!("agents: {}; queries: {}", bound.grpc_address()?, bound.http_address()?);
        let stop = async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            tracing::info!("stopping: what was received is stored and acked first");
        };
        bound.serve(stop).await
    });
    // Not by its drop, which would wait for a disk that does not answer.
    runtime.shutdown_background();
    ended
}
