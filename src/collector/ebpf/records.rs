//! The tests that hold the records of `bpf/probes/` against [`KINDS`](crate::event::KINDS).

use std::collections::BTreeMap;
use std::path::Path;

use super::probes::PROBES;
use crate::event::{CGROUP_V1, KINDS, TEXT_CUT};

const EVENT_H: &str = include_str!("../../../bpf/lib/event.h");

/// The text of every file of `bpf/probes` whose name ends so, by name.
fn files(end: &str) -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf/probes");
    let entries = std::fs::read_dir(folder).expect("the probes are there");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let named = paths.filter_map(|path| {
        let name = path.file_name()?.to_str()?.strip_suffix(end)?.to_owned();
        Some((name, std::fs::read_to_string(path).expect("readable")))
    });
    named.collect()
}

/// The numbers of a C enum, by name without the prefix.
fn enumeration(name: &str) -> BTreeMap<String, usize> {
    let body = EVENT_H.split_once(&format!("enum {name} {{")).expect("is there").1;
    let lines = body.split_once("};").expect("ends").0.lines();
    let entries = lines.filter_map(|line| {
        let (name, number) = line.trim().strip_prefix("TAPIO_")?.trim_end_matches(',').split_once(" = ")?;
        Some((name.to_lowercase(), number.parse().expect("a number")))
    });
    entries.collect()
}

/// The slots of a kind as its C record declares them: names with words.
fn record(headers: &str, kind: &str) -> Vec<(String, usize)> {
    let start = format!("struct tapio_{kind} {{\n\tstruct tapio_header header;\n");
    let body = headers.split_once(&start).unwrap_or_else(|| panic!("no record of {kind}")).1;
    let fields = body.split_once("};").expect("ends").0.lines().map(|line| {
        let field = line.trim().strip_prefix("__u64 ").unwrap_or_else(|| panic!("{kind}: {line}"));
        let field = field.split_once(';').expect("a declaration").0;
        match field.split_once('[') {
            Some((name, words)) => (name.to_owned(), words.trim_end_matches(']').parse().expect("a number")),
            None => (field.to_owned(), 1),
        }
    });
    fields.collect()
}

/// Scenario: the kinds of the C header beside the table of kinds.
/// Guarantees: the same kinds with the same numbers and words, so that no decoder reads past or short.
#[test]
fn kinds_match_the_header() {
    let numbers: BTreeMap<_, _> = KINDS
        .iter()
        .filter(|info| info.is_recorded())
        .map(|info| (info.name.to_owned(), info.kind as usize))
        .collect();
    assert_eq!(enumeration("tapio_kind"), numbers);
    let words: BTreeMap<_, _> = KINDS
        .iter()
        .filter(|info| info.is_recorded())
        .map(|info| (format!("{}_words", info.name), info.slot_words()))
        .collect();
    assert_eq!(enumeration("tapio_slot_words"), words);
}

/// Scenario: every C record beside the slots of its kind.
/// Guarantees: the same slots, in the same order, with the same words, in the header of the probe that the
/// table names.
#[test]
fn records_match_the_slots() {
    let headers = files(".h");
    for info in KINDS.iter().filter(|info| info.is_recorded()) {
        let slots: Vec<_> = info.slots.iter().map(|slot| (slot.name.to_owned(), slot.form.words())).collect();
        assert_eq!(record(&headers[info.probe], info.name), slots, "{}", info.name);
        let pinned = format!("TAPIO_RECORD(TAPIO_{}, tapio_{});", info.name.to_uppercase(), info.name);
        assert!(headers[info.probe].contains(&pinned), "{} is not asserted in C", info.name);
    }
}

/// Scenario: the flag bits of both languages.
/// Guarantees: they are the same bits.
#[test]
fn flags_match_the_header() {
    assert!(EVENT_H.contains(&format!("#define TAPIO_TEXT_CUT {TEXT_CUT}\n")));
    assert!(EVENT_H.contains(&format!("#define TAPIO_CGROUP_V1 (1ULL << {})\n", CGROUP_V1.trailing_zeros())));
}

/// Scenario: the files of `bpf/probes`, the object that includes them, and the table of probes.
/// Guarantees: each file is a row and included; each row's programs stand in its file, opted in one by one,
/// named after the probe, at the tracepoint that the row says.
#[test]
fn table_matches_the_files() {
    let sources = files(".bpf.c");
    let rows: Vec<&str> = PROBES.iter().map(|probe| probe.name).collect();
    assert_eq!(sources.keys().map(String::as_str).collect::<Vec<_>>(), rows, "sorted by name");
    let object = include_str!("../../../bpf/tapio.bpf.c");
    for probe in PROBES {
        assert!(object.contains(&format!("#include \"probes/{}.bpf.c\"", probe.name)));
        let source = &sources[probe.name];
        for program in probe.programs {
            assert!(program.name.starts_with(&format!("{}_", probe.name)), "{}", program.name);
            let section = format!("SEC(\"?tp_btf/{}\")\nint ", program.tracepoint);
            let found = source.match_indices(&section).any(|(at, _)| {
                let rest = source[at + section.len()..].trim_start_matches("BPF_PROG(");
                rest.strip_prefix(program.name).is_some_and(|rest| rest.starts_with([',', '(']))
            });
            assert!(found, "{} at {} is not in {}.bpf.c", program.name, program.tracepoint, probe.name);
        }
        assert_eq!(source.matches("SEC(\"?tp_btf/").count(), probe.programs.len(), "{}", probe.name);
        assert_eq!(
            source.matches("SEC(\"").count() - source.matches("SEC(\".maps\")").count(),
            probe.programs.len()
        );
    }
}
