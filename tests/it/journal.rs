//! The journal reader beside journalctl: the same entries, field by field, from files that real writers made.
//!
//! `journalctl -o export` is what is right. Where it stops at damage and the reader goes on, each test says what
//! equality means then.

/// The collector, from journald to a query of the server.
mod collector;
/// What the reader says of damage, and files that change while they are read.
mod damage;
/// Entries as both sides tell them.
mod export;
/// The agent and journald, killed again and again.
mod kills;
/// A journald of our own, with the reader at its heels.
pub(crate) mod live;
/// Files from systemd-journal-remote.
mod writer;

use std::path::Path;

use export::{Told, assert_same, by_journalctl, by_reader};
use writer::{Record, Writer};

/// A boot, and another.
const BOOTS: [u128; 2] =
    [0x1111_2222_3333_4444_5555_6666_7777_8888, 0x9999_aaaa_bbbb_cccc_dddd_eeee_ffff_0000];
/// Where the clock of the records starts: in 2023.
const START_US: u64 = 1_700_000_000_000_000;

/// Records as services write them: some fields that never change, some that do, a few long, binary or repeated.
fn records(count: u64, boot: u128, start_us: u64) -> Vec<Record> {
    (0..count)
        .map(|index| {
            let mut record = Record::new(start_us + index * 1000, 1_000_000 + index * 1000, boot);
            record.text("MESSAGE", &format!("request {index} served in {} us", index * 7 % 1000));
            record.text("PRIORITY", &(index % 8).to_string());
            record.text("_COMM", ["web", "database", "cron"][usize::try_from(index % 3).expect("small")]);
            record.text("_SYSTEMD_UNIT", &format!("unit-{}.service", index % 5));
            record.text("EMPTY", "");
            if index % 10 == 0 {
                record.binary("LINES", format!("first {index}\nsecond\n\nlast\n").as_bytes());
                record.text("TAG", "one").text("TAG", &format!("two {index}"));
            }
            if index % 25 == 0 {
                let blob: Vec<u8> = (0..5000_u32).map(|at| (at / 20 % 251).to_le_bytes()[0]).collect();
                record.binary("BLOB", &[&blob, index.to_string().as_bytes()].concat());
            }
            record
        })
        .collect()
}

/// Compares the two in a directory; the number of entries.
fn compare(name: &str, directory: &Path) -> usize {
    let (ours, gaps) = by_reader(directory);
    assert_eq!(gaps, [], "{name}: nothing is damaged");
    let told = by_journalctl(directory);
    assert_same(name, &ours, &told);
    ours.len()
}

fn tools(test: &str) -> bool {
    let missing = writer::missing_tool();
    if let Some(tool) = missing {
        crate::skipped(test, &format!("{tool} is not installed: scripts/setup --tests"));
    }
    missing.is_none()
}

/// Scenario: the same records written in each layout, hash and compression, each into a directory of its own.
/// Guarantees: every entry and every field of it as journalctl tells it.
#[test]
fn every_kind_of_file_reads_the_same() {
    if !tools("every_kind_of_file_reads_the_same") {
        return;
    }
    let records = records(1000, BOOTS[0], START_US);
    for (name, writer) in [
        ("regular", Writer { compact: false, keyed: false, compress: false }),
        ("regular, keyed", Writer { compact: false, keyed: true, compress: false }),
        ("compact", Writer { compact: true, keyed: true, compress: false }),
        ("regular, ZSTD", Writer { compact: false, keyed: false, compress: true }),
        ("compact, ZSTD", Writer { compact: true, keyed: true, compress: true }),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        writer.write(&directory.path().join("system.journal"), &records);
        assert_eq!(compare(name, directory.path()), records.len(), "{name}");
    }
    for compression in [writer::Compression::Xz, writer::Compression::Lz4] {
        for compact in [false, true] {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("system.journal");
            Writer { compact, keyed: compact, compress: false }.write(&path, &records);
            assert!(writer::compress(&path, compression) >= 40, "the long fields");
            let name = format!("{compression:?}, compact: {compact}");
            assert_eq!(compare(&name, directory.path()), records.len(), "{name}");
        }
    }
}

/// Scenario: fields of 70 KiB to 3 MiB, compressible and not, stored and compressed.
/// Guarantees: all of them are read, whole.
#[test]
fn long_fields_are_whole() {
    if !tools("long_fields_are_whole") {
        return;
    }
    let mut noise = 1_u64;
    let mut record = |index: u64, bytes: usize| {
        let mut record = Record::new(START_US + index, 1_000_000 + index, BOOTS[0]);
        let mut random = || {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            noise.to_be_bytes()[0]
        };
        let blob: Vec<u8> = (0..bytes)
            .map(|at| if index.is_multiple_of(2) { random() } else { (at % 100).to_le_bytes()[0] })
            .collect();
        record.text("MESSAGE", &format!("dump {index}")).binary("DUMP", &blob);
        record
    };
    let records: Vec<_> = (0..8).map(|index| record(index, 70_000 << (index / 2 * 2))).collect();
    for compress in [false, true] {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("system.journal");
        Writer { compact: compress, keyed: true, compress }.write(&path, &records);
        assert_eq!(compare("long fields", directory.path()), records.len());
    }
}

/// Scenario: a directory with a system's and a user's journal of one boot, an archived file of an earlier boot whose
/// clock was ahead, and another machine's directory; entries interleave.
/// Guarantees: all files are found and merged into journalctl's order.
#[test]
fn files_are_merged_in_order() {
    if !tools("files_are_merged_in_order") {
        return;
    }
    let writer = Writer { compact: true, keyed: true, compress: true };
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let (even, odd): (Vec<_>, Vec<_>) =
        records(600, BOOTS[0], START_US).into_iter().enumerate().partition(|(index, _)| index % 3 != 0);
    let strip =
        |records: Vec<(usize, Record)>| records.into_iter().map(|(_, record)| record).collect::<Vec<_>>();
    writer.write(&at("system.journal"), &strip(even));
    writer.write(&at("user-1000.journal"), &strip(odd));
    writer.write(&at("system@archive.journal"), &records(200, BOOTS[1], START_US - 150_500));
    let machine = at("0123456789abcdef0123456789abcdef");
    std::fs::create_dir(&machine).expect("made");
    writer.write(&machine.join("system.journal"), &records(100, 77, START_US + 250_250));
    assert_eq!(compare("merged", directory.path()), 900);
}

/// Scenario: the same entries in two files, since one is a copy of the other.
/// Guarantees: each is told once.
#[test]
fn copies_are_told_once() {
    if !tools("copies_are_told_once") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("system.journal");
    let writer = Writer { compact: false, keyed: true, compress: false };
    writer.write(&path, &records(300, BOOTS[0], START_US));
    std::fs::copy(&path, directory.path().join("system@copy.journal")).expect("copied");
    assert_eq!(compare("copies", directory.path()), 300);
}

/// Scenario: a cursor of each entry in turn, then times before, between and behind the entries.
/// Guarantees: reading goes on where `journalctl --after-cursor` and `--since` go on.
#[test]
fn positions_are_those_of_journalctl() {
    if !tools("positions_are_those_of_journalctl") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let writer = Writer { compact: true, keyed: true, compress: false };
    let path = |name: &str| directory.path().join(name);
    writer.write(&path("system.journal"), &records(60, BOOTS[0], START_US));
    writer.write(&path("user-1000.journal"), &records(60, BOOTS[1], START_US + 20_500));
    let all = by_journalctl(directory.path());
    for index in (0..all.len()).step_by(11) {
        let cursor = &all[index].cursor;
        let told = export::journalctl(directory.path(), &["--after-cursor", cursor]);
        let ours = export::from_cursor(directory.path(), cursor);
        assert_same(cursor, &ours, &told);
        assert_eq!(ours.len(), all.len() - 1 - index, "each cursor is found");
    }
    for since in [0, 1, 15_000, 15_001, 40_500, 79_499, 79_500, 90_000] {
        let time = START_US + since;
        let expected: Vec<Told> = all.iter().filter(|told| told.realtime_us >= time).cloned().collect();
        assert_same(&format!("since {since}"), &export::from_time(directory.path(), time), &expected);
    }
}
