//! Files that are damaged, and files that are damaged while they are read.
//!
//! Equality here: all that journalctl still tells of such a file, the reader tells alike and in the same order. It may
//! tell more, since it goes on where journalctl stops and follows fewer links; then it tells what the whole file held, or
//! counts it as lost.

use std::fs;
use std::path::{Path, PathBuf};

use tapio::collector::journald::journal::{Cause, Gap};

use super::export::{self, Told, by_journalctl, by_reader};
use super::writer::{self, Record, Writer};
use super::{BOOTS, START_US, records, tools};

const WRITER: Writer = Writer { compact: true, keyed: true, compress: true };

/// A file of some records in a directory of its own, and all that it tells.
fn whole(count: u64) -> (tempfile::TempDir, PathBuf, Vec<Told>) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("system.journal");
    WRITER.write(&path, &records(count, BOOTS[0], START_US));
    let (all, gaps) = by_reader(directory.path());
    assert_eq!((all.len() as u64, gaps), (count, vec![]));
    (directory, path, all)
}

fn word(file: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(file[at..at + 8].try_into().expect("eight"))
}

/// Where the objects that were written last end.
fn used(path: &Path) -> u64 {
    let file = fs::read(path).expect("readable");
    let tail = word(&file, 136);
    tail + word(&file, usize::try_from(tail).expect("small") + 8)
}

fn lost(gaps: &[Gap]) -> u64 {
    gaps.iter().filter(|gap| gap.cause.is_of_entries()).filter_map(|gap| gap.lost).sum()
}

/// Whether all of `part` is in `whole`, in the same order.
fn is_subsequence(part: &[Told], whole: &[Told]) -> bool {
    let mut left = whole.iter();
    part.iter().all(|told| left.any(|other| other == told))
}

/// Whether all of `told` is in `ours`, in the same order, with all its fields in theirs. journalctl also leaves out
/// fields whose text is whole but whose links to other fields are not, which the reader has no use for.
fn is_covered(told: &[Told], ours: &[Told]) -> bool {
    let mut left = ours.iter();
    told.iter().all(|told| {
        left.any(|ours| {
            let mut fields = ours.fields.iter();
            let covered = told.fields.iter().all(|field| fields.any(|other| other == field));
            covered
                && Told { fields: Vec::new(), ..ours.clone() } == Told { fields: Vec::new(), ..told.clone() }
        })
    })
}

/// Scenario: the writer is killed while its file is open.
/// Guarantees: every entry that was written is read, as journalctl reads it, and nothing counts as damage.
#[test]
fn files_of_killed_writers_read_the_same() {
    if !tools("files_of_killed_writers_read_the_same") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("system.journal");
    let mut child = WRITER.start(&path);
    let mut input = child.stdin.take().expect("piped");
    writer::send(&mut input, &records(500, BOOTS[0], START_US));
    // The writer holds the last record back until it knows where it ends.
    let mut last = Record::new(START_US + 500_000, 1_500_000, BOOTS[0]);
    writer::send(&mut input, &[last.text("MESSAGE", "last").clone(), last]);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !path.exists() || by_reader(directory.path()).0.len() < 500 {
        assert!(std::time::Instant::now() < until, "systemd-journal-remote did not write");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert_eq!(fs::read(&path).expect("readable")[16], 1, "the file says that it is being written");
    assert!(super::compare("unclean", directory.path()) >= 500);
}

/// Scenario: a file is cut at many places, from behind its last object to inside its header.
/// Guarantees: what is left of the entries is told as before, and the others are counted, each once.
#[test]
fn cut_files_tell_what_is_left() {
    if !tools("cut_files_tell_what_is_left") {
        return;
    }
    let (directory, path, all) = whole(400);
    let file = fs::read(&path).expect("readable");
    let used = used(&path);
    // Behind the tables that the file starts with, there are the objects.
    let tables = word(&file, 104) + word(&file, 112);
    for step in 0..40 {
        let bytes = tables + (used - tables) * step / 40;
        fs::write(&path, &file[..usize::try_from(bytes).expect("small")]).expect("written");
        let (ours, gaps) = by_reader(directory.path());
        assert!(is_subsequence(&ours, &all), "cut to {bytes}");
        assert_eq!(ours.len() as u64 + lost(&gaps), all.len() as u64, "cut to {bytes}: {gaps:?}");
        assert!(gaps.iter().any(|gap| gap.cause == Cause::Truncated), "cut to {bytes}: {gaps:?}");
        assert!(is_subsequence(&by_journalctl(directory.path()), &ours));
    }
    for bytes in [0, 7, 100, 207] {
        fs::write(&path, &file[..bytes]).expect("written");
        let (ours, gaps) = by_reader(directory.path());
        assert_eq!((ours.len(), gaps.len()), (0, 1), "cut to {bytes}");
    }
}

/// Scenario: a file is cut under a reader that has read a part of it; then it is cut to nothing.
/// Guarantees: the process lives, what can be read is read, and entries read and entries lost make up the whole.
#[test]
fn a_file_cut_under_the_reader_is_a_gap() {
    if !tools("a_file_cut_under_the_reader_is_a_gap") {
        return;
    }
    for (tenths, passed) in [(9, 100), (5, 10), (3, 300), (0, 200)] {
        let (directory, path, all) = whole(400);
        let mut reader = export::open(directory.path());
        let mut read = 0;
        while read < passed && reader.next().is_some() {
            read += 1;
        }
        let bytes = if tenths == 0 {
            0
        } else {
            let file = fs::read(&path).expect("readable");
            let tables = word(&file, 104) + word(&file, 112);
            tables + (used(&path) - tables) * tenths / 10
        };
        fs::OpenOptions::new().write(true).open(&path).expect("there").set_len(bytes).expect("cut");
        let rest = export::read(&mut reader);
        reader.refresh();
        let more = export::read(&mut reader);
        let gaps = reader.take_gaps();
        assert!(
            more.is_empty() && is_subsequence(&rest, &all[passed..]),
            "cut to {tenths} tenths after {passed}"
        );
        assert_eq!(
            (passed + rest.len()) as u64 + lost(&gaps),
            400,
            "cut to {tenths} tenths after {passed}: {gaps:?}"
        );
        assert!(gaps.iter().all(|gap| gap.cause == Cause::Truncated), "{gaps:?}");
        assert!(rest.len() < 400 - passed, "something was cut off");
    }
}

/// Scenario: one bit after the other is turned over, at places all over the objects of a file.
/// Guarantees: the reader tells at least what journalctl tells, all but a few entries are as they were, and each that
/// is missing is counted.
#[test]
fn turned_bits_cost_little() {
    if !tools("turned_bits_cost_little") {
        return;
    }
    let (directory, path, all) = whole(200);
    let file = fs::read(&path).expect("readable");
    let tables = word(&file, 104) + word(&file, 112);
    let room = used(&path) - tables;
    let mut more = 0;
    for turn in 0..120_u64 {
        let at = usize::try_from(tables + turn * 7919 % room).expect("small");
        let mut damaged = file.clone();
        damaged[at] ^= 1 << (turn % 8);
        fs::write(&path, &damaged).expect("written");
        let (ours, gaps) = by_reader(directory.path());
        let told = by_journalctl(directory.path());
        assert!(is_covered(&told, &ours), "bit {} at {at}: journalctl tells what we do not", turn % 8);
        more += ours.len() - told.len();
        let same = ours.iter().filter(|ours| all.contains(ours)).count();
        let touched = all.len() - same;
        // A field that many entries share is damaged in all of them; an entry on its own is one.
        let fields = gaps.iter().any(|gap| gap.cause == Cause::DamagedField);
        let shared = touched > 2 && ours.len() == all.len();
        assert!(
            touched <= 2 || fields || shared || lost(&gaps) > 0,
            "bit at {at}: {touched} entries, {gaps:?}"
        );
        assert!(
            ours.len() as u64 + lost(&gaps) >= all.len() as u64,
            "bit at {at}: {} and {gaps:?}",
            ours.len()
        );
    }
    assert!(more > 0, "the reader goes on where journalctl stops");
}
