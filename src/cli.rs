//! The command line: the table of settings as flags, and the commands.
//!
//! Invariants:
//! - A flag exists because its setting does; a value that the setting refuses is a usage error.
//! - Nothing here reads a file or the environment: what was typed and the variables go on as [`Args`].

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command as Clap};

use crate::config::{Args, Environment, Form, OPTIONS, Opt, Settings};

/// What was asked for.
#[derive(Debug)]
pub enum Command {
    /// Run the agent.
    Run(Args),
    /// Say whether the settings are valid.
    Check(Args),
    /// Ask the running agent.
    Status {
        /// Its settings; only the socket matters.
        args: Args,
        /// For machines.
        json: bool,
    },
    /// Ask the running agent what it found.
    Incidents {
        /// Its settings; only the socket matters.
        args: Args,
        /// For machines.
        json: bool,
    },
    /// Ask the running agent for one incident.
    Explain {
        /// Its settings; only the socket matters.
        args: Args,
        /// The first digits of its id.
        id: String,
        /// For machines.
        json: bool,
    },
    /// Say whether rules are valid.
    CheckRules {
        /// Files and folders of rules, beside the built-in ones.
        places: Vec<PathBuf>,
    },
    /// List the kinds of facts.
    Kinds,
    /// Say what recordings say.
    Replay {
        /// The recordings.
        files: Vec<PathBuf>,
        /// Files and folders of rules, beside the built-in ones.
        rules: Vec<PathBuf>,
        /// Print the facts instead of the incidents.
        facts: bool,
        /// For machines.
        json: bool,
    },
    /// Say what the agent could do here.
    Doctor {
        /// The settings that it would run with.
        args: Args,
        /// For machines.
        json: bool,
    },
}

const EXIT_CODES: &str = "Settings: each flag but --config is also a variable, TAPIO_SERVER for --server, and a key \
    of the file, server; `enable_ebpf` for --enable-ebpf, `forks` in the table `filters` for --filter-forks. A flag \
    goes before the variable, the variable before the file. SIGHUP reads the file again.\n\n\
    Exit codes: 0 fine, 2 usage, 77 missing privilege, 78 bad configuration, 1 anything else.";

/// Reads a command line, program name included.
///
/// # Errors
/// [`clap::Error`] for what is not understood, and for `--help` and `--version`, whose texts it carries.
pub fn parse<Words>(words: Words, environment: Environment) -> Result<Command, clap::Error>
where
    Words: IntoIterator,
    Words::Item: Into<OsString> + Clone,
{
    let matches = command().try_get_matches_from(words)?;
    let mut args = Args { environment, ..Args::default() };
    // Flags may stand before or after the command.
    collect(&mut args, &matches);
    let Some((name, inner)) = matches.subcommand() else { return Ok(Command::Run(args)) };
    let paths = |from: &ArgMatches, name: &str| -> Vec<PathBuf> {
        from.get_many::<PathBuf>(name).into_iter().flatten().cloned().collect()
    };
    match inner.subcommand() {
        Some(("kinds", _)) => return Ok(Command::Kinds),
        Some((_, check)) => return Ok(Command::CheckRules { places: paths(check, "places") }),
        None => {}
    }
    collect(&mut args, inner);
    if name == "replay" {
        return Ok(Command::Replay {
            files: paths(inner, "files"),
            rules: paths(inner, "rules"),
            facts: inner.get_flag("facts"),
            json: inner.get_flag("json"),
        });
    }
    let json = name != "check" && inner.get_flag("json");
    Ok(match name {
        "status" => Command::Status { args, json },
        "incidents" => Command::Incidents { args, json },
        "explain" => {
            let id = inner.get_one::<String>("id").cloned().unwrap_or_default();
            Command::Explain { args, id, json }
        }
        "doctor" => Command::Doctor { args, json },
        _ => Command::Check(args),
    })
}

fn command() -> Clap {
    Clap::new("tapio-collector")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Watches this host's kernel and sends what happens to tapio-server. Without a command: runs the agent.")
        .after_help(EXIT_CODES)
        .max_term_width(110)
        .args_override_self(true)
        .arg(config())
        .args(OPTIONS.iter().map(flag))
        .subcommand(asking("status", "Ask the running agent how it is"))
        .subcommand(asking("incidents", "Ask the running agent what failed, the newest first"))
        .subcommand(
            asking("explain", "Ask the running agent why: cause, proof, what comes next, what to do")
                .arg(Arg::new("id").required(true).value_name("ID").help("First digits of the incident's id")),
        )
        .subcommand(rules())
        .subcommand(
            starting("doctor", "Say what the agent could do on this host, and why not more; needs no agent and no root")
                .arg(json()),
        )
        .subcommand(replay())
        .subcommand(starting("check", "Say whether the settings are valid, and exit"))
}

/// A command that asks the running agent.
fn asking(name: &'static str, about: &'static str) -> Clap {
    let socket = OPTIONS.iter().filter(|option| option.flag == "socket");
    Clap::new(name).about(about).args_override_self(true).args([config(), json()]).args(socket.map(flag))
}

/// A command that looks at the settings that the agent would start with.
fn starting(name: &'static str, about: &'static str) -> Clap {
    Clap::new(name).about(about).args_override_self(true).arg(config()).args(OPTIONS.iter().map(flag))
}

fn rules() -> Clap {
    let places = Arg::new("places")
        .value_name("PATH")
        .num_args(0..)
        .value_parser(clap::value_parser!(PathBuf))
        .help("Files, and folders with *.toml files [default: the built-in rules alone]");
    let check = Clap::new("check").about("Say whether rules are valid beside the built-in ones");
    let kinds =
        Clap::new("kinds").about("List the kinds of facts that rules can be about, and their details");
    let rules = Clap::new("rules").about("Look at the rules of the causal engine");
    rules.subcommand_required(true).subcommand(check.arg(places)).subcommand(kinds)
}

fn replay() -> Clap {
    let files = Arg::new("files")
        .value_name("FILE")
        .required(true)
        .num_args(1..)
        .value_parser(clap::value_parser!(PathBuf))
        .help("Recordings of one host, in any order");
    let rules = Arg::new("rules")
        .long("rules")
        .value_name("PATH")
        .num_args(1)
        .action(ArgAction::Append)
        .value_parser(clap::value_parser!(PathBuf))
        .help("File or folder of rules that add to the built-in ones, or replace them by name");
    let facts = Arg::new("facts")
        .long("facts")
        .action(ArgAction::SetTrue)
        .help("Print the facts as lines of JSON, not the incidents");
    Clap::new("replay")
        .about(
            "Say what recordings say: files of --record, of the flight recorder, or events as lines of JSON",
        )
        .args_override_self(true)
        .args([files, rules, facts, json()])
}

fn json() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON")
}

fn config() -> Arg {
    Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("TOML file with settings [default: none]")
}

fn flag(option: &'static Opt) -> Arg {
    let default = (option.get)(&Settings::default());
    let default = if default.is_empty() { "none" } else { &default };
    let mut help = format!("{} [default: {default}]", option.help);
    if let Some(first) = help.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let check = move |text: &str| (option.set)(&mut Settings::default(), text).map(|()| text.to_owned());
    let arg = Arg::new(option.flag)
        .long(option.flag)
        .value_name(option.form.placeholder())
        .value_parser(check)
        .hide(option.hidden)
        .help(help);
    match option.form {
        // As in Go: the flag alone means true, a value follows an equals sign only.
        Form::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => arg.allow_hyphen_values(true),
    }
}

fn collect(args: &mut Args, matches: &ArgMatches) {
    // `None` also stands for a flag that this command does not have.
    if let Ok(Some(path)) = matches.try_get_one::<PathBuf>("config") {
        args.config = Some(path.clone());
    }
    for option in OPTIONS {
        if let Ok(Some(text)) = matches.try_get_one::<String>(option.flag) {
            args.flags.push((option, text.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Switch, load};
    use crate::event::Source;

    fn parsed(line: &str) -> Result<Command, clap::Error> {
        parse(std::iter::once("tapio-collector").chain(line.split_whitespace()), Environment::default())
    }

    fn settings(line: &str) -> Settings {
        match parsed(line).expect(line) {
            Command::Run(args) | Command::Check(args) => load(&args).expect(line),
            Command::Status { args, .. } | Command::Doctor { args, .. } => load(&args).expect(line),
            Command::Incidents { args, .. } | Command::Explain { args, .. } => load(&args).expect(line),
            Command::CheckRules { .. } | Command::Kinds => panic!("{line} has no settings"),
            Command::Replay { .. } => panic!("{line} has no settings"),
        }
    }

    /// Scenario: the command that clap is given.
    /// Guarantees: clap finds nothing wrong with it.
    #[test]
    fn the_command_is_consistent() {
        command().debug_assert();
    }

    /// Scenario: no flags; switches alone, with true and with false; a value twice.
    /// Guarantees: a switch alone is on and asked for by name; the last value counts.
    #[test]
    fn flags_are_read_as_in_go() {
        assert_eq!(settings(""), Settings::default());
        let settings = settings(
            "--enable-ebpf --enable-k8s=false --enable-systemd=true --buffer-size 5 --buffer-size=6",
        );
        assert_eq!(settings.collectors[Source::Ebpf as usize], Switch::On);
        assert_eq!(settings.collectors[Source::Kubernetes as usize], Switch::Off);
        assert_eq!(settings.collectors[Source::Systemd as usize], Switch::On);
        assert_eq!(settings.buffer_size, 6);
    }

    /// Scenario: commands with flags before and after them.
    /// Guarantees: both count, the later one more; a switch does not swallow the command behind it.
    #[test]
    fn flags_stand_on_both_sides_of_a_command() {
        assert_eq!(settings("--socket /a status --json").socket, PathBuf::from("/a"));
        assert_eq!(settings("--socket /a status --socket /b").socket, PathBuf::from("/b"));
        assert!(matches!(parsed("--enable-ebpf doctor"), Ok(Command::Doctor { json: false, .. })));
        assert!(matches!(parsed("status --json"), Ok(Command::Status { json: true, .. })));
        assert!(matches!(parsed("check"), Ok(Command::Check(_))));
        assert!(matches!(parsed("incidents"), Ok(Command::Incidents { json: false, .. })));
        let explain = parsed("explain 12ab --json --socket /a");
        assert!(matches!(explain, Ok(Command::Explain { id, json: true, .. }) if id == "12ab"));
        let rules = parsed("rules check /etc/tapio/rules");
        assert!(matches!(rules, Ok(Command::CheckRules { places }) if places.len() == 1));
        assert!(matches!(parsed("rules kinds"), Ok(Command::Kinds)));
        let replay = parsed("replay a b --rules c --rules d");
        assert!(matches!(replay, Ok(Command::Replay { files, rules, .. }) if files.len() + rules.len() == 4));
    }

    /// Scenario: what nobody can have meant.
    /// Guarantees: a usage error that names the flag, and for a value says what would be right.
    #[test]
    fn nonsense_is_a_usage_error() {
        for (line, part) in [
            ("--bufer-size 5", "--buffer-size"),
            ("--buffer-size 0", "whole number from 1 to 65536"),
            ("--flush-interval 5", "for example 1s"),
            ("--latency lowest", "normal or low"),
            ("--enable-ebpf false", "false"),
            ("status --server a:1", "--server"),
            ("run", "run"),
        ] {
            let error = parsed(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
        assert_eq!(parsed("--help").expect_err("help").exit_code(), 0);
    }
}
