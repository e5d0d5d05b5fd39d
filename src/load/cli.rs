//! The command line of `tapio-load`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::control::print_json;
use super::generate::{self, Load};
use super::{LoadError, baseline, bench, control, facts, storm};

/// Generates load and measures: every figure of the benchmark is made by this program.
#[derive(Debug, Parser)]
#[command(name = "tapio-load", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes getpgid(2) calls at a rate and prints how many.
    Generate(Generate),
    /// Starts and waits for processes as fast as it can.
    Storm(Storm),
    /// Runs the causal engine alone under facts and prints what it costs.
    Facts {
        /// Facts a second.
        #[arg(long, default_value_t = 1000)]
        rate: u64,
        /// For how long, in the time of the facts.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Samples the pauses of CPUs until standard input ends.
    Watch {
        /// CPUs to watch.
        #[arg(long, value_delimiter = ',', default_value = "0")]
        cpu: Vec<usize>,
    },
    /// Runs what the agent is compared with, until standard input ends.
    #[command(subcommand)]
    Baseline(Baseline),
    /// Measures figures and prints one JSON line each.
    Bench(bench::Options),
}

#[derive(Debug, Args)]
struct Generate {
    /// Calls a second; 0: as fast as they go.
    #[arg(long, default_value_t = 1_000_000)]
    rate: u64,
    /// For how long.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// One thread on each of these CPUs.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    cpu: Vec<usize>,
    /// Length of a burst's turn, microseconds.
    #[arg(long, default_value_t = 100)]
    burst_us: u64,
}

#[derive(Debug, Args)]
struct Storm {
    /// For how long.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// The CPU to do it on.
    #[arg(long, default_value_t = 0)]
    cpu: usize,
}

#[derive(Debug, Subcommand)]
enum Baseline {
    /// One shared ring, libbpf's epoll and callback.
    Ring,
    /// Rows: OTLP log records through prost and tonic.
    Otlp {
        /// Where the sink listens.
        #[arg(long, default_value = "127.0.0.1:4317")]
        endpoint: String,
    },
    /// Reads a journal directory once, with our own reader.
    Journal {
        /// The directory.
        directory: PathBuf,
    },
    /// Receives, decodes and counts rows.
    OtlpSink {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:4317")]
        listen: SocketAddr,
    },
}

/// Does what the command line says.
///
/// # Errors
/// Any [`LoadError`].
pub fn run(cli: Cli) -> Result<(), LoadError> {
    match cli.command {
        Command::Generate(Generate { rate, seconds, cpu, burst_us }) => {
            let duration = duration(seconds)?;
            let burst = Duration::from_micros(burst_us);
            print_json(&generate::run(&Load { rate, duration, burst, cpus: cpu })?)
        }
        Command::Storm(Storm { seconds, cpu }) => print_json(&storm::run(cpu, duration(seconds)?)?),
        Command::Facts { rate, seconds } => print_json(&facts::run(rate, seconds)?),
        Command::Watch { cpu } => print_json(&control::watch(&cpu)?),
        Command::Baseline(Baseline::Ring) => print_json(&baseline::ring::run()?),
        Command::Baseline(Baseline::Otlp { endpoint }) => print_json(&baseline::otlp::run(&endpoint)?),
        Command::Baseline(Baseline::Journal { directory }) => {
            print_json(&baseline::journal::run(&directory)?)
        }
        Command::Baseline(Baseline::OtlpSink { listen }) => print_json(&baseline::otlp::sink(listen)?),
        Command::Bench(options) => bench::run(&options),
    }
}

fn duration(seconds: f64) -> Result<Duration, LoadError> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|error| LoadError::process("tapio-load", format!("--seconds {seconds}: {error}")))
}
