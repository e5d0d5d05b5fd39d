//! The checks themselves: from texts to complaints.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{code, words};

/// A file of the repository.
#[derive(Debug)]
pub(super) struct File {
    /// From the top of the repository.
    pub(super) path: String,
    pub(super) text: String,
}

const LINES_MAX: usize = 600;

/// What may lie at the top, dotfiles apart.
const TOP: [&str; 13] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "benches",
    "bpf",
    "perf",
    "proto",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "scripts",
    "src",
    "tests",
];

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_source(&self) -> bool {
        self.is_rust() && self.path.starts_with("src/")
    }

    /// Written by people, as opposed to the lock file, the licence and recorded data.
    fn is_written(&self) -> bool {
        let data = self.path.ends_with("Cargo.lock")
            || self.path.ends_with("go.sum")
            || self.path == "LICENSE"
            || self.path.contains("/corpus/")
            || self.path.contains("/data/")
            || self.path.ends_with(".jsonl");
        !data
    }

    /// The generated skeleton is included into a module that has nothing else.
    fn includes_skeleton(&self) -> bool {
        self.text.contains("include!(concat!(env!(\"OUT_DIR\"), \"/tapio.skel.rs\"))")
    }
}

pub(super) fn long_files(files: &[File]) -> Vec<String> {
    let long = |file: &&File| file.is_written() && file.text.lines().count() > LINES_MAX;
    files
        .iter()
        .filter(long)
        .map(|file| format!("{}: {} lines, at most {LINES_MAX}", file.path, file.text.lines().count()))
        .collect()
}

pub(super) fn not_ascii(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.is_written()) {
        for (number, line) in file.text.lines().enumerate() {
            if let Some(odd) = line.chars().find(|c| !c.is_ascii()) {
                complaints.push(format!("{}:{}: {odd:?} is not ASCII", file.path, number + 1));
            }
        }
    }
    complaints
}

pub(super) fn undocumented(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|file| file.is_rust() && !file.text.starts_with("//!"))
        .map(|file| format!("{}: does not start with //!", file.path))
        .collect()
}

pub(super) fn stray_unsafe(files: &[File]) -> Vec<String> {
    words_outside(files, &["unsafe", "unsafe_code"], |file| {
        file.path.starts_with("src/sys/") || file.includes_skeleton()
    })
}

pub(super) fn stray_queue(files: &[File]) -> Vec<String> {
    words_outside(files, &["rtrb"], |file| {
        file.path == "src/engine/queue.rs" || file.path.starts_with("src/engine/queue/")
    })
}

/// Complains of words in the code of `src`, except where they belong.
fn words_outside(files: &[File], unwanted: &[&str], belongs: impl Fn(&File) -> bool) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.is_source() && !belongs(file)) {
        for (number, line) in code(&file.text).lines().enumerate() {
            for word in words(line).filter(|word| unwanted.contains(word)) {
                complaints.push(format!("{}:{}: {word} does not belong here", file.path, number + 1));
            }
        }
    }
    complaints
}

pub(super) fn glob_imports(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    let sources = files.iter().filter(|file| file.is_source() && !file.path.ends_with("/tests.rs"));
    for file in sources {
        let code = code(&file.text);
        // Tests come last in a file.
        let lines = code.lines().take_while(|line| line.trim() != "#[cfg(test)]");
        for (number, line) in lines.enumerate() {
            let line = line.trim();
            if (line.starts_with("use ") || line.starts_with("pub use ")) && line.ends_with("::*;") {
                complaints.push(format!("{}:{}: {line}", file.path, number + 1));
            }
        }
    }
    complaints
}

pub(super) fn stray_names(files: &[File]) -> Vec<String> {
    let names: BTreeSet<&str> = files.iter().filter_map(|file| file.path.split('/').next()).collect();
    names
        .into_iter()
        .filter(|name| !name.starts_with('.') && !TOP.contains(name))
        .map(|name| format!("{name} does not belong at the top level"))
        .collect()
}

/// The `PREFIX_NAME = 3` of a text, by name. Twice the same name is a complaint of the compiler, not ours.
pub(super) fn numbers(text: &str, prefix: &str) -> BTreeMap<String, u32> {
    text.lines()
        .filter_map(|line| {
            let (name, number) = line.trim().strip_prefix(prefix)?.split_once(" = ")?;
            let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
            Some((name.to_owned(), digits.parse().ok()?))
        })
        .collect()
}

/// What stands between a line and the next line without indent, bar or dash: an enum, a table.
pub(super) fn block<'text>(text: &'text str, first: &str) -> &'text str {
    let Some((_, rest)) = text.split_once(&format!("{first}\n")) else { return "" };
    let mut end = 0;
    for line in rest.split_inclusive('\n') {
        if !line.starts_with([' ', '\t', '|', '-']) {
            break;
        }
        end += line.len();
    }
    &rest[..end]
}

/// The first cells of a table, those that are code.
pub(super) fn rows(table: &str) -> BTreeSet<String> {
    table.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned())).collect()
}

/// The names of the probes in `bpf/probes`.
pub(super) fn probes(files: &[File]) -> BTreeSet<String> {
    let name = |file: &File| Some(file.path.strip_prefix("bpf/probes/")?.strip_suffix(".bpf.c")?.to_owned());
    files.iter().filter_map(name).collect()
}

pub(super) fn unbuilt_probes(probes: &BTreeSet<String>, object: &str, kinds: &[&str]) -> Vec<String> {
    let mut complaints = Vec::new();
    for probe in probes {
        let include = format!("#include \"probes/{probe}.bpf.c\"");
        match object.lines().filter(|line| line.trim() == include).count() {
            1 => {}
            times => complaints.push(format!("bpf/tapio.bpf.c has {times} lines {include}")),
        }
    }
    for kind in kinds.iter().filter(|kind| !probes.contains(**kind)) {
        complaints.push(format!("KINDS names the probe {kind}, and there is no bpf/probes/{kind}.bpf.c"));
    }
    complaints
}

/// The long flags of a help text, without those that every program has.
pub(super) fn flags_of_help(help: &str) -> BTreeSet<String> {
    help.lines()
        .filter_map(|line| {
            let line = line.trim_start();
            let line = line.strip_prefix('-').filter(|rest| !rest.starts_with('-')).map_or(line, |rest| {
                // A short form comes first: `-h, --help`.
                rest.split_once(", ").map_or(rest, |(_, long)| long)
            });
            let name: String = line
                .strip_prefix("--")?
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '-')
                .collect();
            (!name.is_empty() && name != "help" && name != "version").then_some(name)
        })
        .collect()
}

/// Compares the flags with the rows of README's table of flags.
pub(super) fn undocumented_flags(flags: &BTreeSet<String>, readme: &str) -> Vec<String> {
    let flag = |cell: &String| Some(cell.strip_prefix("--")?.split(['=', ' ']).next()?.to_owned());
    let table = block(readme, "| flag | default | meaning |");
    let rows: BTreeSet<String> = rows(table).iter().filter_map(flag).collect();
    let missing = flags.difference(&rows).map(|flag| format!("README has no row for --{flag}"));
    let surplus =
        rows.difference(flags).map(|flag| format!("README has a row for --{flag}, which the agent has not"));
    missing.chain(surplus).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    /// Scenario: for each check over files one file that is at fault and one that is not.
    /// Guarantees: exactly the first is complained of.
    #[test]
    fn each_check_finds_its_fault_and_no_other() {
        type Check = fn(&[File]) -> Vec<String>;
        let long = "x\n".repeat(LINES_MAX + 1);
        let skeleton =
            "//! S.\n#![allow(unsafe_code)]\ninclude!(concat!(env!(\"OUT_DIR\"), \"/tapio.skel.rs\"));";
        let cases: [(Check, File, File); 9] = [
            (long_files, file("src/a.rs", &long), file("Cargo.lock", &long)),
            (not_ascii, file("README.md", "caf\u{e9}"), file("README.md", "cafe")),
            (undocumented, file("src/a.rs", "fn a() {}"), file("src/a.rs", "//! A.\n")),
            (stray_unsafe, file("src/a.rs", "unsafe { b() }"), file("src/sys/a.rs", "unsafe { b() }")),
            (stray_unsafe, file("src/a.rs", "#![allow(unsafe_code)]"), file("src/b.rs", skeleton)),
            (
                stray_queue,
                file("src/engine/a.rs", "use rtrb::X;"),
                file("src/engine/queue.rs", "use rtrb::X;"),
            ),
            (stray_queue, file("src/a.rs", "rtrb::new()"), file("src/a.rs", "// rtrb is elsewhere")),
            (
                glob_imports,
                file("src/a.rs", "use b::*;"),
                file("src/a.rs", "#[cfg(test)]\nmod t {\nuse super::*;\n}"),
            ),
            (stray_names, file("notes/a.md", ""), file(".ci/run", "")),
        ];
        for (check, bad, good) in cases {
            let (bad_path, good_path) = (bad.path.clone(), good.path.clone());
            assert_eq!(check(&[bad]).len(), 1, "fault in {bad_path} not found");
            assert_eq!(check(&[good]), Vec::<String>::new(), "{good_path} is fine");
        }
    }

    /// Scenario: an enum with a comment behind a number, a line of another prefix and a line without a number.
    /// Guarantees: names and numbers of the prefix only.
    #[test]
    fn numbers_are_read_by_prefix() {
        let read = numbers("  KIND_A = 1;\n\tKIND_B_C = 22, /* = 3 */\n  SOURCE_A = 4;\n  KIND_D;", "KIND_");
        assert_eq!(read, BTreeMap::from([("A".to_owned(), 1), ("B_C".to_owned(), 22)]));
    }

    /// Scenario: two enums of one prefix, of which one is asked for; one that is not there.
    /// Guarantees: a block ends where the next begins; none is an empty one, whose numbers match no table.
    #[test]
    fn blocks_end() {
        let text = "enum a {\n\tX_A = 1,\n};\nenum b {\n\tX_B = 2,\n};\n";
        assert_eq!(numbers(block(text, "enum a {"), "X_"), BTreeMap::from([("A".to_owned(), 1)]));
        assert_eq!(block(text, "enum c {"), "");
    }

    /// Scenario: one probe that is built, one that is not, one that is built twice, one kind without a probe.
    /// Guarantees: one complaint for each of the last three.
    #[test]
    fn unbuilt_probes_are_found() {
        let files = ["a", "b", "c"].map(|name| file(&format!("bpf/probes/{name}.bpf.c"), ""));
        let object =
            "#include \"probes/a.bpf.c\"\n#include \"probes/c.bpf.c\"\n#include \"probes/c.bpf.c\"\n";
        let complaints = unbuilt_probes(&probes(&files), object, &["a", "d"]);
        assert_eq!(complaints.len(), 3, "{complaints:?}");
    }

    /// Scenario: a help text with one flag that README lacks, and a row of README that the help lacks.
    /// Guarantees: both are named; the others, with or without a value or a short form, are not.
    #[test]
    fn flags_are_compared_both_ways() {
        let help = "Options:\n      --server <SERVER>\n          The --server to use\n  -q, --quiet\n  -h, --help\n      --lost";
        let flags = flags_of_help(help);
        assert_eq!(flags, ["lost", "quiet", "server"].map(str::to_owned).into());
        let readme = "| `--lost` | elsewhere |\n\n| flag | default | meaning |\n|---|---|---|\n\
            | `--server HOST:PORT` | x | x |\n| `--quiet` | x | x |\n| `--gone=X` | x | x |\n| `other` | --lost | x |\n";
        let complaints = undocumented_flags(&flags, readme);
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints[0].contains("--lost") && complaints[1].contains("--gone"), "{complaints:?}");
    }
}
