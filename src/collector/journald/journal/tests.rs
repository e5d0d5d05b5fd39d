//! The reader on files in memory: whole ones, and ones with every sort of damage.

use super::sample::{BOOT, START_US, Sample, put};
use super::{Cause, Cursor, Gap, Position, Reader, Seek};
use crate::sys::Map;

fn reader(files: &[&[u8]]) -> Reader {
    Reader::of_maps(files.iter().map(|bytes| Map::copy_of(bytes)).collect())
}

/// Numbers and fields of all that is left to read.
fn rest(reader: &mut Reader) -> Vec<(u64, Vec<String>)> {
    let mut all = Vec::new();
    while let Some(entry) = reader.next() {
        let text = |(name, value): (&[u8], &[u8])| {
            format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value))
        };
        all.push((entry.seqnum, entry.fields().map(text).collect()));
    }
    all
}

fn numbers(reader: &mut Reader) -> Vec<u64> {
    rest(reader).into_iter().map(|(number, _)| number).collect()
}

fn cursors(reader: &mut Reader) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(entry) = reader.next() {
        all.push(entry.cursor().to_string());
    }
    all
}

/// Where objects of some kinds start.
fn objects(bytes: &[u8], kinds: &[u8]) -> Vec<usize> {
    let mut at = 272;
    let mut found = Vec::new();
    while at < bytes.len() {
        if kinds.contains(&bytes[at]) {
            found.push(at);
        }
        let size = u64::from_le_bytes(bytes[at + 8..at + 16].try_into().expect("eight"));
        at += usize::try_from(size).expect("small").next_multiple_of(8);
    }
    found
}

fn lost(gaps: &[Gap]) -> u64 {
    gaps.iter().filter(|gap| gap.cause.is_of_entries()).filter_map(|gap| gap.lost).sum()
}

/// Scenario: a regular and a compact file of some entries.
/// Guarantees: head and fields of each entry, in order, and then nothing.
#[test]
fn entries_are_read() {
    for compact in [false, true] {
        let sample = Sample::of(compact, 20);
        let mut reader = reader(&[&sample.bytes]);
        let first = reader.next().expect("there are 20").cursor();
        assert_eq!(first.boot_id, BOOT.to_be_bytes());
        assert_eq!((first.seqnum_id, first.seqnum, first.xor_hash), ([0xab; 16], 1, 77));
        assert_eq!((first.realtime_us, first.monotonic_us), (START_US + 1000, 1000));
        let rest = rest(&mut reader);
        assert_eq!(rest.len(), 19);
        assert_eq!(rest[0], (2, ["MESSAGE=entry 2", "_COMM=sample", "ODD="].map(str::to_owned).to_vec()));
        assert!(reader.next().is_none() && reader.take_gaps().is_empty());
    }
}

/// Scenario: three files of one journal, of which two hold the same entries in part.
/// Guarantees: each number once, in order.
#[test]
fn files_are_merged() {
    let mut files = [(); 3].map(|()| Sample::new(true, 0xab));
    for number in 1..=30 {
        let text = format!("N={number}");
        files[usize::try_from(number % 3).expect("small")].entry(number, &[text.as_bytes()]);
        if (10..15).contains(&number) && number % 3 != 0 {
            files[0].entry(number, &[text.as_bytes()]);
        }
    }
    let mut reader = reader(&files.each_ref().map(|file| &file.bytes[..]));
    assert_eq!(numbers(&mut reader), (1..=30).collect::<Vec<_>>());
}

/// Scenario: positions by cursor, time, head and tail; a cursor of an entry that is not there.
/// Guarantees: reading goes on there; the missing entry is a gap that says how many were lost.
#[test]
fn positions_are_found() {
    let mut sample = Sample::new(false, 0xab);
    for number in (5..10).chain(20..25) {
        sample.entry(number, &[b"A=1"]);
    }
    let mut reader = reader(&[&sample.bytes]);
    let cursor = |seqnum: u64| Cursor {
        seqnum_id: [0xab; 16],
        seqnum,
        boot_id: BOOT.to_be_bytes(),
        monotonic_us: seqnum * 1000,
        realtime_us: START_US + seqnum * 1000,
        xor_hash: seqnum * 77,
    };
    let mut seek = |position| {
        let sought = reader.seek(position).expect("nothing can fail");
        (sought, numbers(&mut reader), reader.take_gaps())
    };
    for number in 5..9 {
        let expected: Vec<_> = (number + 1..10).chain(20..25).collect();
        assert_eq!(seek(Position::Cursor(cursor(number))), (Seek::Exact, expected, vec![]));
    }
    let gap = |lost| vec![Gap { cause: Cause::CursorGone, lost: Some(lost), file: Default::default() }];
    assert_eq!(seek(Position::Cursor(cursor(15))), (Seek::Gone, (20..25).collect(), gap(4)));
    assert_eq!(seek(Position::Cursor(cursor(1))).2, gap(3));
    let other = Cursor { seqnum_id: [1; 16], ..cursor(9) };
    assert_eq!(seek(Position::Cursor(other)).1, (20..25).collect::<Vec<_>>(), "by the clock of the boot");
    let other = Cursor { boot_id: [2; 16], ..other };
    assert_eq!(seek(Position::Cursor(other)).1, (20..25).collect::<Vec<_>>(), "by time");
    assert_eq!(seek(Position::RealtimeUs(START_US + 9_000)).1, (9..10).chain(20..25).collect::<Vec<_>>());
    assert!(seek(Position::Tail).1.is_empty());
    assert_eq!(seek(Position::Head).1.len(), 10);
}

/// Scenario: a field without a name, one compressed by what is unknown, one that claims to become huge, next to a good one.
/// Guarantees: the good one is delivered, the others are counted.
#[test]
fn bad_fields_are_counted() {
    let mut sample = Sample::new(true, 1);
    let huge = [&u64::MAX.to_le_bytes()[..], b"x"].concat();
    let items =
        [sample.data(0, b"A=1"), sample.data(0, b"no name"), sample.data(7, b"B=2"), sample.data(2, &huge)];
    sample.entry_of(1, &items);
    sample.entry_of(2, &[items[0] + 4, items[0]]);
    let mut reader = reader(&[&sample.bytes]);
    assert_eq!(rest(&mut reader), [(1, vec!["A=1".to_owned()]), (2, vec!["A=1".to_owned()])]);
    let gaps: Vec<_> = reader.take_gaps().into_iter().map(|gap| (gap.cause, gap.lost)).collect();
    assert_eq!(gaps, [(Cause::DamagedField, Some(3)), (Cause::OversizedField, Some(1))]);
}

/// Scenario: the list of entries is broken in its first, its second and its third array, by type, link and size.
/// Guarantees: entries behind the break are found by looking for them; those that are not are counted.
#[test]
fn entries_are_found_behind_a_broken_list() {
    for compact in [false, true] {
        let whole = Sample::of(compact, 40).bytes;
        // Miri is a thousand times slower: it sees one break of each array.
        let breaks = if cfg!(miri) { 1 } else { 6 };
        let arrays = objects(&whole, &[6]);
        for array in arrays {
            let damage = [(8, 17), (0, 9), (0, 1), (8, usize::MAX), (16, 8), (16, usize::MAX / 16 * 8)];
            for (at, value) in damage.into_iter().take(breaks) {
                let mut bytes = whole.clone();
                put(&mut bytes, array + at, value);
                let mut reader = reader(&[&bytes]);
                let read = numbers(&mut reader);
                assert!(read.is_sorted() && read.len() >= 39, "array at {array}, {at}: {read:?}");
                assert_eq!(read.len() as u64 + lost(&reader.take_gaps()), 40);
            }
        }
    }
}

/// Scenario: every byte of a file, header and every sort of object, set to several values, one at a time.
/// Guarantees: reading ends, nothing panics, no entry comes twice; and unless the header's own count is damaged, read
/// and lost entries are at least as many as there were.
#[test]
fn every_damaged_byte_is_survived() {
    for compact in [false, true] {
        let whole = Sample::of(compact, 6).bytes;
        // Likewise, it sees bytes of every part, but not all.
        let step = if cfg!(miri) { 61 } else { 1 };
        for at in (0..whole.len()).step_by(step) {
            for value in [0, 0xff, whole[at] ^ 1, whole[at] ^ 0x80, whole[at].wrapping_add(8)] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let mut reader = reader(&[&bytes]);
                let mut read = cursors(&mut reader);
                let gaps = reader.take_gaps();
                let counted = gaps.iter().all(|gap| gap.lost.is_some());
                let is_count = (152..160).contains(&at);
                assert!(
                    is_count || !counted || read.len() as u64 + lost(&gaps) >= 6,
                    "{at}={value}: {read:?} {gaps:?}"
                );
                let count = read.len();
                read.sort_unstable();
                read.dedup();
                assert!(count <= 7 && read.len() == count, "{at}={value}: {read:?}");
                let _sought = reader.seek(Position::RealtimeUs(START_US + 3000));
                assert!(numbers(&mut reader).len() <= 7);
            }
        }
    }
}

/// Scenario: a file cut at every length.
/// Guarantees: what is left is read, and the rest counted, unless not even the header is left.
#[test]
fn every_length_is_survived() {
    let whole = Sample::of(false, 6).bytes;
    for length in (0..whole.len()).step_by(if cfg!(miri) { 37 } else { 1 }) {
        let mut reader = reader(&[&whole[..length]]);
        let read = numbers(&mut reader);
        let gaps = reader.take_gaps();
        assert!(!gaps.is_empty(), "cut to {length}");
        assert!(length < 272 || read.len() as u64 + lost(&gaps) == 6, "cut to {length}: {read:?} {gaps:?}");
    }
}

/// Scenario: arrays, entries and links that point to themselves, backwards and into each other.
/// Guarantees: reading ends, and no entry comes twice.
#[test]
fn loops_end() {
    let whole = Sample::of(false, 12).bytes;
    let objects: Vec<usize> =
        (272..whole.len()).step_by(8).filter(|&at| matches!(whole[at], 3 | 6)).collect();
    // Miri is a thousand times slower: it sees some of the links.
    let step = if cfg!(miri) { 7 } else { 1 };
    for &from in objects.iter().step_by(step) {
        for &to in objects.iter().step_by(step) {
            for at in [8, 16, 24, 32] {
                let mut bytes = whole.clone();
                put(&mut bytes, from + at, to);
                let mut reader = reader(&[&bytes]);
                let mut read = cursors(&mut reader);
                let count = read.len();
                read.sort_unstable();
                read.dedup();
                assert!(count <= 13 && read.len() >= count - 1, "{from}+{at} to {to}: {read:?}");
            }
        }
    }
}
