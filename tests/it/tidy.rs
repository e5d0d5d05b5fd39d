//! What the compiler and clippy do not check about the repository.
//!
//! Each check is a function from texts to complaints, tried here on a small bad text beside the real ones:
//! a check that cannot complain checks nothing.

mod rules;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use rules::File;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text files of the repository, new ones included, as far as git knows or does not ignore them.
fn files() -> Vec<File> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the files of the repository");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let paths = String::from_utf8(output.stdout).expect("names are UTF-8");
    let mut files: Vec<File> = paths
        .split_terminator('\0')
        .filter_map(|path| Some(File { path: path.into(), text: read(path)? }))
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files.dedup_by(|a, b| a.path == b.path);
    assert!(files.len() > 20, "only {} files: is this the repository?", files.len());
    files
}

/// A file of the repository; nothing where it is gone or not a text.
fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(root().join(path)).ok()
}

fn clean(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Scenario: every file that people write.
/// Guarantees: none is longer than 600 lines.
#[test]
fn files_are_short() {
    clean(&rules::long_files(&files()));
}

/// Scenario: every file that people write.
/// Guarantees: ASCII only, so that every terminal, font and diff shows what is there.
#[test]
fn files_are_ascii() {
    clean(&rules::not_ascii(&files()));
}

/// Scenario: every Rust file.
/// Guarantees: it starts by saying what it owns.
#[test]
fn rust_files_say_what_they_own() {
    clean(&rules::undocumented(&files()));
}

/// Scenario: the sources of the library and the programs.
/// Guarantees: unsafe code is in `src/sys` and the generated skeleton only.
#[test]
fn unsafe_stays_in_its_room() {
    clean(&rules::stray_unsafe(&files()));
}

/// Scenario: the sources of the library and the programs.
/// Guarantees: one file knows which queue it is.
#[test]
fn one_file_knows_the_queue() {
    clean(&rules::stray_queue(&files()));
}

/// Scenario: the sources of the library and the programs.
/// Guarantees: a name says where it comes from; tests may take all of what they test.
#[test]
fn names_are_imported_one_by_one() {
    clean(&rules::glob_imports(&files()));
}

/// Scenario: the top of the repository.
/// Guarantees: nothing lies there that has no room.
#[test]
fn the_top_level_has_its_names_only() {
    clean(&rules::stray_names(&files()));
}

/// Scenario: the table of kinds, the wire format and the header that BPF programs use.
/// Guarantees: the three give the same number to the same name.
#[test]
fn kinds_have_one_number_each() {
    let table: BTreeMap<String, u32> =
        tapio::event::KINDS.iter().map(|info| (info.name.to_uppercase(), info.kind as u32)).collect();
    assert_eq!(table.len(), tapio::event::KINDS.len());

    let mut proto = rules::numbers(&read("proto/tapio/v1/event.proto").unwrap(), "KIND_");
    assert_eq!(proto.remove("UNSPECIFIED"), Some(0));
    assert_eq!(proto, table, "proto/tapio/v1/event.proto against KINDS");

    let header = read("bpf/lib/event.h").unwrap();
    let kinds = rules::numbers(rules::block(&header, "enum tapio_kind {"), "TAPIO_");
    let table: BTreeMap<String, u32> = tapio::event::KINDS
        .iter()
        .filter(|info| info.is_recorded())
        .map(|info| (info.name.to_uppercase(), info.kind as u32))
        .collect();
    assert_eq!(kinds, table, "enum tapio_kind of bpf/lib/event.h against KINDS");

    let words = rules::numbers(rules::block(&header, "enum tapio_slot_words {"), "TAPIO_");
    let expected: BTreeMap<String, u32> = tapio::event::KINDS
        .iter()
        .filter(|info| info.is_recorded())
        .map(|info| {
            (format!("{}_WORDS", info.name.to_uppercase()), u32::try_from(info.slot_words()).unwrap())
        })
        .collect();
    assert_eq!(words, expected, "enum tapio_slot_words of bpf/lib/event.h against the slots of KINDS");
}

/// Scenario: the folder of probes, the one object that includes them, the table of probes and that of kinds.
/// Guarantees: every probe is built and loaded, every kind has its probe, README names each.
#[test]
fn every_probe_is_built() {
    let files = files();
    let probes = rules::probes(&files);
    let object = read("bpf/tapio.bpf.c").unwrap();
    let kinds: Vec<&str> =
        tapio::event::KINDS.iter().filter(|info| info.is_recorded()).map(|info| info.probe).collect();
    clean(&rules::unbuilt_probes(&probes, &object, &kinds));

    let table: BTreeSet<String> =
        tapio::collector::ebpf::PROBES.iter().map(|probe| probe.name.to_owned()).collect();
    assert_eq!(table, probes, "PROBES against bpf/probes");
    let readme = read("README.md").unwrap();
    let rows = rules::rows(rules::block(&readme, "| probe | events |"));
    assert_eq!(rows, probes, "the probes of README against bpf/probes");
}

/// Scenario: what the agent answers to `--help`, and the table of flags in README.
/// Guarantees: each flag is in both.
#[test]
fn every_flag_is_in_the_readme() {
    let help = Command::new(env!("CARGO_BIN_EXE_tapio-collector")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let flags = rules::flags_of_help(&help);
    assert!(flags.len() > 10, "the agent's help names {} flags", flags.len());
    clean(&rules::undocumented_flags(&flags, &read("README.md").unwrap()));
}

/// Scenario: the scripts that README, people and CI call.
/// Guarantees: they are there and can be started.
#[test]
fn the_scripts_can_be_started() {
    use std::os::unix::fs::PermissionsExt;
    for name in ["scripts/setup", "scripts/run", "scripts/test", "scripts/check", ".ci/run"] {
        let path: PathBuf = root().join(name);
        let mode =
            std::fs::metadata(&path).unwrap_or_else(|error| panic!("{name}: {error}")).permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{name} cannot be started");
    }
}
