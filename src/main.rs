//! The agent's program: what was typed, the settings, the log, the command, the exit code.

use std::io::Write;
use std::process::ExitCode;

use tapio::agent::{AgentError, RulesError};
use tapio::cli::{self, Command};
use tapio::config::{ConfigError, Environment, load};
use tapio::control::client::ClientError;
use tapio::control::incidents::{self, ExplainError, ReplayError};
use tapio::control::run::RunError;
use tapio::control::{doctor, print, run, status};
use tapio::logging::{Log, LogError};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Everything that ends the program early.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Explain(#[from] ExplainError),
    #[error(transparent)]
    Rules(#[from] RulesError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error("cannot print the answer: {0}")]
    Print(#[from] std::io::Error),
}

impl Error {
    /// The exit code: 77 missing privilege, 78 bad configuration, 1 anything else.
    const fn code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Rules(_) | Self::Run(RunError::Agent(AgentError::Rules(_))) => 78,
            Self::Run(RunError::Agent(AgentError::Privilege(_))) => 77,
            Self::Replay(_)
            | Self::Log(_)
            | Self::Run(_)
            | Self::Client(_)
            | Self::Explain(_)
            | Self::Print(_) => 1,
        }
    }
}

fn main() -> ExitCode {
    use_small_pages();
    let environment = Environment::read(|name| std::env::var_os(name));
    let command = match cli::parse(std::env::args_os(), environment) {
        Ok(command) => command,
        Err(error) => {
            // Help and version go to the standard output, usage errors (2) to the standard error.
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            return if error.print().is_ok() { ExitCode::from(code) } else { ExitCode::FAILURE };
        }
    };
    match execute(command) {
        Ok(code) => code,
        Err(error) => {
            // The log may be filtered or not there yet; why the program ends is said in any case. If even that
            // fails, the exit code remains.
            let _unsaid = writeln!(std::io::stderr().lock(), "tapio-collector: {error}");
            ExitCode::from(error.code())
        }
    }
}

fn execute(command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Run(args) => {
            let settings = load(&args)?;
            let log = Log::start(&settings.log_level)?;
            run::run(&args, settings, &log)?;
        }
        Command::Check(args) => {
            load(&args)?;
            let file = args.file().map(|path| format!("{}: ", path.display())).unwrap_or_default();
            print(&format!("{file}the settings are valid\n"))?;
        }
        Command::Status { args, json } => status::run(&load(&args)?.socket, json)?,
        Command::Incidents { args, json } => incidents::list(&load(&args)?.socket, json)?,
        Command::Explain { args, id, json } => incidents::explain(&load(&args)?.socket, &id, json)?,
        Command::CheckRules { places } => print(&incidents::check_rules(&places)?)?,
        Command::Kinds => print(&incidents::kinds())?,
        Command::Replay { files, rules, facts, json } => {
            let (text, remarks) = incidents::replay(&files, &rules, facts, json)?;
            print(&text)?;
            std::io::stderr().lock().write_all(remarks.as_bytes())?;
        }
        Command::Doctor { args, json } => {
            let settings = load(&args)?;
            let report = doctor::examine(&settings);
            print(&if json { report.json() } else { report.text() })?;
            return Ok(if report.blocks() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Keeps memory in small pages. Each thread's heap touches a little of many huge ones: measured at idle, 17 MiB with them
/// and 5 MiB without; 10 MiB where only what was touched before the settings were read is in huge ones.
fn use_small_pages() {
    // A kernel without huge pages refuses, and has nothing to turn off.
    let _without = rustix::thread::disable_transparent_huge_pages(true);
}
