//! `tapio-load`: the load generator and the harness around it.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

// As the agent: parts of it are measured here.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match tapio::load::cli::run(tapio::load::cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do when standard error is gone too.
            let _ = writeln!(std::io::stderr().lock(), "tapio-load: {error}");
            ExitCode::FAILURE
        }
    }
}
