//! The layers of settings, seen from outside: files, variables, flags, exit codes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tapio::config::{OPTIONS, Settings};

/// The agent without the variables of whoever runs the tests.
pub(super) fn agent() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tapio-collector"));
    let ours = |name: &str| name.starts_with("TAPIO_") || name.starts_with("OTEL_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
        command.env_remove(name);
    }
    command
}

/// Exit code and standard error.
pub(super) fn outcome(output: &Output) -> (i32, String) {
    (output.status.code().expect("not killed"), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn file(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("tapio.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn check(text: &str) -> (i32, String, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), text);
    let (code, error) = outcome(&agent().arg("check").arg("--config").arg(&path).output().unwrap());
    (code, error, path)
}

/// Scenario: files with a slip in a key, a value out of bounds, a wrong type, and text that is no TOML.
/// Guarantees: exit code 78 and one line with path, line, column, what is wrong and what would be right.
#[test]
fn a_bad_file_is_answered_with_its_place() {
    for (text, place, part) in [
        ("\nbufer_size = 7\n", ":2:1: ", "did you mean buffer_size?"),
        ("server = 'a:1'\nring_bytes = 0\n", ":2:14: ", "must be a size from 64KiB to 4GiB"),
        ("[filters]\nforks = 'yes'\n", ":2:9: ", "filters.forks must be true or false"),
        ("flush_interval = \"soon\"\n", ":1:18: ", "must be a time from 1ms to 1m"),
        ("server 'a:1'\n", ":1:", "this is not TOML"),
        ("probes_off = ['nett']\n", ":1:14: ", "did you mean net?"),
    ] {
        let (code, error, path) = check(text);
        assert_eq!(code, 78, "{text}: {error}");
        assert!(error.contains(&format!("{}{place}", path.display())), "{text}: {error}");
        assert!(error.contains(part), "{text}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let (code, error, _) = check("server = 'a:1'\n[filters]\nforks = false\n");
    assert_eq!((code, error.as_str()), (0, ""));
}

/// Scenario: a file that is not there, named by the flag and by the variable; a variable with a bad value; a bad flag.
/// Guarantees: 78 for what is configured, 2 for what is typed; each names what it is about.
#[test]
fn other_layers_have_their_codes() {
    let output = agent().args(["check", "--config", "/does/not/exist"]).output().unwrap();
    let (code, error) = outcome(&output);
    assert_eq!(code, 78);
    assert!(error.contains("/does/not/exist"), "{error}");
    let (code, _) = outcome(&agent().arg("check").env("TAPIO_CONFIG", "/does/not/exist").output().unwrap());
    assert_eq!(code, 78);
    let (code, error) = outcome(&agent().arg("check").env("TAPIO_SHARDS", "many").output().unwrap());
    assert_eq!(code, 78);
    assert!(error.contains("TAPIO_SHARDS: \"many\" must be a whole number from 0 to 64"), "{error}");
    let (code, error) = outcome(&agent().args(["check", "--shards", "many"]).output().unwrap());
    assert_eq!(code, 2);
    assert!(error.contains("--shards"), "{error}");
    let help = agent().arg("--help").output().unwrap();
    assert!(help.status.success() && help.stderr.is_empty() && !help.stdout.is_empty());
}

/// Scenario: the socket is named in the file, then in a variable too, then by a flag too.
/// Guarantees: the later goes before the earlier.
#[test]
fn a_flag_goes_before_a_variable_before_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "socket = '/nowhere/file.sock'");
    let asked = |command: &mut Command| {
        outcome(&command.arg("status").arg("--config").arg(&path).output().unwrap()).1
    };
    assert!(asked(&mut agent()).contains("/nowhere/file.sock"));
    assert!(asked(agent().env("TAPIO_SOCKET", "/nowhere/variable.sock")).contains("/nowhere/variable.sock"));
    let both =
        asked(agent().env("TAPIO_SOCKET", "/nowhere/variable.sock").args(["--socket", "/nowhere/flag.sock"]));
    assert!(both.contains("/nowhere/flag.sock"), "{both}");
}

/// Scenario: the table of flags in README beside the table of settings.
/// Guarantees: each flag has its row, with its default; a switch without the word for its value.
#[test]
fn readme_has_every_flag_with_its_default() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    for option in OPTIONS.iter().filter(|option| !option.hidden) {
        let value = match option.form {
            tapio::config::Form::Switch => String::new(),
            form => format!(" {}", form.placeholder()),
        };
        let default = (option.get)(&Settings::default());
        let default = if default.is_empty() { "none".to_owned() } else { format!("`{default}`") };
        let row = format!("| `--{}{value}` | {default} | ", option.flag);
        assert!(
            readme.lines().any(|line| line.starts_with(&row)),
            "README has no row that starts with\n{row}"
        );
    }
}
