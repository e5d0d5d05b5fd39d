//! A journal whose files come and go while nobody reads, and faster than anybody looks.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::super::journal::sample::{START_US, Sample};
use super::*;

/// Longer than any grace time.
const LATER_NS: u64 = 60_000_000_000;

/// A directory with a journal, and a state directory.
struct Host {
    journal: TempDir,
    state: TempDir,
}

impl Host {
    fn new() -> Self {
        let folder = || tempfile::tempdir().expect("a directory");
        Self { journal: folder(), state: folder() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.journal.path().join(name)
    }

    /// Writes a file with entries of these numbers, as it is while journald writes to it.
    fn write(&self, name: &str, numbers: std::ops::Range<u64>) {
        fs::write(self.path(name), Sample::numbered(numbers)).expect("written");
    }

    /// Says in its header that a file is closed for good.
    fn archive(&self, name: &str) {
        use std::os::unix::fs::FileExt;
        let file = fs::File::options().write(true).open(self.path(name)).expect("there");
        file.write_all_at(&[2], 16).expect("written");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("there");
    }

    /// A start of the agent, for the first time at the time of the entry of this number.
    fn start(&self, number: u64) -> Feed {
        let source = Source::Directory(self.journal.path().into());
        let mut feed = Feed::new(source, self.state.path(), START_US + number * 1000);
        feed.open().expect("there is a journal");
        feed
    }
}

/// Reads all there is; the numbers of the entries.
fn read(feed: &mut Feed) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Some(cursor) = feed.next().map(|entry| entry.cursor()) {
        feed.read(&cursor, 0);
        feed.passed(cursor);
        numbers.push(cursor.seqnum);
    }
    numbers
}

/// How many entries are said to be lost, in the end.
fn told(feed: &mut Feed) -> u64 {
    let gaps = feed.take_gaps(LATER_NS);
    gaps.iter().map(|gap| gap.lost.expect("the number is known")).sum()
}

/// Scenario: the agent starts for the first time, keeps its position and is killed before it reads; files are written
/// and removed; it starts again.
/// Guarantees: what is left is read, and what was removed is counted to the entry.
#[test]
fn what_was_removed_before_the_first_entry_was_read_is_counted() {
    let host = Host::new();
    host.write("a.journal", 1..11);
    let mut first = host.start(11);
    let mark = first.at();
    first.keep(mark).expect("kept");
    drop(first);
    host.remove("a.journal");
    host.write("c.journal", 31..41);
    let mut second = host.start(99);
    assert_eq!(read(&mut second), (31..41).collect::<Vec<_>>());
    assert_eq!(told(&mut second), 20);
}

/// Scenario: entries are read up to one behind a hole, and the agent is killed before the hole is told.
/// Guarantees: the position to keep is before the hole until it was told, so the next start tells it.
#[test]
fn a_hole_that_was_not_told_is_told_by_the_next_start() {
    let host = Host::new();
    host.write("a.journal", 1..11);
    host.write("c.journal", 21..31);
    let mut first = host.start(1);
    assert_eq!(read(&mut first).len(), 20);
    let mark = first.at();
    first.keep(mark).expect("kept");
    drop(first);
    let mut second = host.start(99);
    assert_eq!(read(&mut second), (21..31).collect::<Vec<_>>());
    assert_eq!(told(&mut second), 10);
    let mark = second.at();
    second.keep(mark).expect("kept");
    let mut third = host.start(99);
    assert_eq!((read(&mut third), told(&mut third)), (vec![], 0));
}

/// Scenario: a file is archived and followed by another, which is followed and removed in its turn, all between two
/// looks for new files.
/// Guarantees: every entry is read, nothing is missing.
#[test]
fn a_rotation_is_followed_at_once() {
    let host = Host::new();
    host.write("a.journal", 1..11);
    let mut feed = host.start(1);
    assert_eq!(read(&mut feed).len(), 10);
    for (name, next, from) in [("a.journal", "b.journal", 11), ("b.journal", "c.journal", 21)] {
        host.write(next, from..from + 10);
        host.archive(name);
        assert_eq!(read(&mut feed), (from..from + 10).collect::<Vec<_>>());
        host.remove(name);
    }
    assert_eq!(told(&mut feed), 0);
}

/// Scenario: a file was read to its end and let go; it is removed, and the next file has its inode.
/// Guarantees: the next file is read.
#[test]
fn an_inode_that_is_used_again_is_another_file() {
    let host = Host::new();
    host.write("a.journal", 1..11);
    host.archive("a.journal");
    let mut feed = host.start(1);
    assert_eq!(read(&mut feed).len(), 10);
    for _ in 0..10 {
        feed.refresh();
    }
    // What a file system does with a free inode, it is made to do here: the file is written anew in place.
    host.write("a.journal", 11..31);
    feed.refresh();
    assert_eq!(read(&mut feed), (11..31).collect::<Vec<_>>());
    assert_eq!(told(&mut feed), 0);
}

/// Scenario: reading begins at a time; then the clock is set back and journald opens a new file.
/// Guarantees: the entries of the new file are read, though their time is before the beginning.
#[test]
fn a_clock_that_is_set_back_hides_no_file() {
    let host = Host::new();
    host.write("a.journal", 100..111);
    let mut feed = host.start(106);
    assert_eq!(read(&mut feed), (106..111).collect::<Vec<_>>());
    let mut bytes = Sample::numbered(111..112);
    let time = bytes.windows(8).position(|word| word == (START_US + 111_000).to_le_bytes()).expect("it has");
    bytes[time..time + 8].copy_from_slice(&START_US.to_le_bytes());
    fs::write(host.path("b.journal"), bytes).expect("written");
    feed.refresh();
    assert_eq!(read(&mut feed), [111]);
}
