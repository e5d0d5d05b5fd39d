//! The orchestration behind `scripts/bench`: starts the programs, makes the load, prints a JSON line a figure.
//!
//! Invariants:
//! - Lines go to standard output, everything else to standard error.
//! - A figure whose programs are missing is skipped with the reason; a ledger that does not close fails the whole.

mod agent;
mod collectors;
mod explain;
mod figures;
mod journal;
mod journal_tail;
mod legs;
mod line;
mod programs;
mod report;
mod rounds;
mod sampler;
mod slowdown;

use std::fmt::Arguments;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use self::agent::Place;
use self::figures::{FIGURES, Figure};
use super::child::{self, Child, Start};
use super::control::print_json;
use super::{LoadError, pin, procfs};

/// What to measure.
#[derive(Debug, Args)]
pub struct Options {
    /// Figures; all of them where none is named.
    names: Vec<String>,
    /// Name the figures and end.
    #[arg(long)]
    list: bool,
    /// Fewer and shorter runs: for CI, not for conclusions.
    #[arg(long)]
    quick: bool,
    /// Runs behind each median, instead of each figure's own number.
    #[arg(long)]
    runs: Option<usize>,
    /// Also append the lines to this file.
    #[arg(long)]
    save: Option<PathBuf>,
    /// Show where the CPU time of each run went, by thread.
    #[arg(long)]
    verbose: bool,
    /// Record where the agent's CPU time goes under load, for `perf script`; such runs are void.
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// The agent's --buffer-size under load.
    #[arg(long, default_value_t = 4000)]
    buffer_size: u64,
    /// The agent's --ring-bytes under load.
    #[arg(long, default_value = "32MiB")]
    ring_bytes: String,
    /// One more argument for the agent, in every run; may be repeated.
    #[arg(long = "agent-arg", allow_hyphen_values = true)]
    agent_args: Vec<String>,
}

/// What all runs share.
#[derive(Debug)]
struct Rig {
    place: Place,
    /// Where the generator, the server and observed programs run.
    program_cpus: Vec<usize>,
    /// Where the agent and what stands in its place run.
    agent_cpus: Vec<usize>,
    quick: bool,
    runs: Option<usize>,
    verbose: bool,
    profile: Option<PathBuf>,
    buffer_size: u64,
    ring_bytes: String,
    extra: Vec<String>,
}

impl Rig {
    fn new(options: &Options) -> Result<Self, LoadError> {
        let own = std::env::current_exe().map_err(LoadError::io("finding tapio-load"))?;
        // On a disk, since the server's store is measured there; /tmp may be memory.
        let scratch = PathBuf::from(format!("/var/tmp/tapio-bench-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).map_err(LoadError::io(scratch.display().to_string()))?;
        let cpus = pin::allowed();
        let (first, last) = (cpus.first().copied().unwrap_or(0), cpus.last().copied().unwrap_or(0));
        if first == last {
            progress(format_args!("one CPU only: everything shares it, and no figure compares with others"));
        }
        Ok(Self {
            place: Place { programs: own.parent().map(PathBuf::from).unwrap_or_default(), scratch },
            program_cpus: vec![first],
            agent_cpus: vec![last],
            quick: options.quick,
            runs: options.runs,
            verbose: options.verbose,
            profile: options.profile.clone(),
            buffer_size: options.buffer_size,
            ring_bytes: options.ring_bytes.clone(),
            extra: options.agent_args.clone(),
        })
    }

    fn own(&self) -> Start {
        self.place.program("tapio-load")
    }

    /// The agent's arguments under generated load.
    fn load_args(&self) -> Vec<String> {
        let mut args = vec!["--load-probe".to_owned(), "--ring-bytes".to_owned(), self.ring_bytes.clone()];
        args.extend(["--buffer-size".to_owned(), self.buffer_size.to_string()]);
        args.extend(self.extra.iter().cloned());
        args
    }

    fn seconds(&self, full: u64) -> u64 {
        if self.quick { (full / 5).max(2) } else { full }
    }

    fn runs(&self, full: usize) -> usize {
        self.runs.unwrap_or(if self.quick { 3 } else { full }).max(1)
    }

    /// A profiler on the agent for some seconds, if one was asked for. The clock of the CPU is what it samples: virtual
    /// machines have no hardware counters.
    fn profile(&self, pid: u32, seconds: u64) -> Result<Option<Child>, LoadError> {
        let Some(file) = &self.profile else { return Ok(None) };
        let start = Start::new("perf").args([
            "record",
            "-q",
            "-e",
            "cpu-clock",
            "-F",
            "997",
            "--call-graph",
            "dwarf",
        ]);
        let start = start.arg("-o").arg(file.display()).arg("-p").arg(pid);
        start.args(["--", "sleep"]).arg(seconds).spawn().map(Some)
    }

    fn print_threads(&self, name: &str, pid: u32) {
        for (thread, nanos) in procfs::cpu_ns_by_thread(pid) {
            progress(format_args!(
                "  {name} {thread}: {:.3} s",
                std::time::Duration::from_nanos(nanos).as_secs_f64()
            ));
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // What cannot be removed is small and names the process that left it.
        let _ = std::fs::remove_dir_all(&self.place.scratch);
    }
}

/// Says something to whoever watches.
fn progress(text: Arguments<'_>) {
    // A closed standard error must not end a measurement.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Measures the figures that were asked for.
///
/// # Errors
/// When a ledger did not close, a name is unknown, or the programs do not run.
pub fn run(options: &Options) -> Result<(), LoadError> {
    if options.list {
        return list();
    }
    let chosen = choose(&options.names)?;
    stop_on_signals()?;
    let rig = Rig::new(options)?;
    let mut cache = figures::Cache::default();
    let mut broken = Vec::new();
    for figure in chosen {
        let name = figure.head.name;
        progress(format_args!("{name}: {}", figure.about));
        match figures::measure(&rig, &mut cache, figure) {
            Ok(line) => {
                print_json(&line)?;
                save(options.save.as_ref(), &line)?;
                if !line.ledger_closed {
                    broken.push(name);
                }
                progress(format_args!("{}", summary(&line)));
            }
            Err(LoadError::Missing { program, remedy }) => {
                progress(format_args!("  skipped: {program} is not installed: {remedy}"));
            }
            Err(LoadError::Interrupted) => return Err(LoadError::Interrupted),
            Err(error) => {
                progress(format_args!("  failed: {error}"));
                broken.push(name);
            }
        }
    }
    if broken.is_empty() { Ok(()) } else { Err(LoadError::Ledger(broken.join(", "))) }
}

fn list() -> Result<(), LoadError> {
    let mut out = std::io::stdout().lock();
    for figure in FIGURES {
        let Figure { head, about, .. } = figure;
        let goal = head.goal.map(|goal| format!("<= {goal} {}", head.unit)).unwrap_or_default();
        writeln!(out, "{:28} {goal:14} {about}", head.name)
            .map_err(LoadError::io("writing to standard output"))?;
    }
    Ok(())
}

fn choose(names: &[String]) -> Result<Vec<&'static Figure>, LoadError> {
    if names.is_empty() {
        return Ok(FIGURES.iter().collect());
    }
    let known = |name: &String| FIGURES.iter().find(|figure| figure.head.name == name);
    names.iter().map(|name| known(name).ok_or_else(|| LoadError::UnknownFigure(name.clone()))).collect()
}

/// Ctrl-C and SIGTERM end the next wait, and with it every child.
fn stop_on_signals() -> Result<(), LoadError> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LoadError::io("starting a runtime"))?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            loop {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                child::request_stop();
            }
        });
    });
    Ok(())
}

fn save(path: Option<&PathBuf>, line: &line::Line) -> Result<(), LoadError> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string(line)
        .map_err(|error| LoadError::io("writing JSON")(std::io::Error::other(error)))?;
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| writeln!(file, "{text}"))
        .map_err(LoadError::io(path.display().to_string()))
}

fn summary(line: &line::Line) -> String {
    let mut text = format!("  {} {} [{}, {}]", line.value, line.unit, line.spread[0], line.spread[1]);
    if let Some(goal) = line.goal {
        text.push_str(&format!(", goal {goal}{}", if line.value <= goal { "" } else { ": MISSED" }));
    }
    if let (Some(name), Some(value)) = (line.baseline, line.baseline_value) {
        text.push_str(&format!(", {name}: {value}"));
    }
    if line.lost > 0 {
        text.push_str(&format!(", {} LOST (counted)", line.lost));
    }
    if !line.ledger_closed {
        text.push_str(", LEDGER OPEN");
    }
    if line.void {
        text.push_str(", VOID");
    }
    text
}
