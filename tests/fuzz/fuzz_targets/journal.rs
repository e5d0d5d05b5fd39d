//! The journal reader on any bytes, as a file that is damaged or made to deceive.
//!
//! Finds: panics, reads outside of the file, loops, entries that come twice, and work that is not linear in the size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tapio::collector::journald::journal::{Position, Reader};
use tapio::sys::Map;

/// Bytes that an entry takes at least, and that may stand between two.
const ENTRY_BYTES_MIN: usize = 72;

/// Reads all, touching every byte; the cursors in the order in which they came.
fn read(reader: &mut Reader, bytes: usize) -> Vec<String> {
    let mut cursors = Vec::new();
    let mut sum = 0_u64;
    while let Some(entry) = reader.next() {
        assert!(entry.is_intact());
        for (name, value) in entry.fields() {
            sum += name.iter().chain(value).map(|&byte| u64::from(byte)).sum::<u64>();
        }
        cursors.push(entry.cursor().to_string());
        assert!(cursors.len() <= bytes / ENTRY_BYTES_MIN + 1, "more entries than fit");
    }
    std::hint::black_box(sum);
    cursors
}

fuzz_target!(|bytes: &[u8]| {
    // One file, or two that are merged.
    let half = bytes.len() / 2 / 8 * 8;
    for files in [vec![bytes], vec![&bytes[..half], &bytes[half..]]] {
        let mut reader = Reader::of_maps(files.into_iter().map(Map::copy_of).collect());
        let cursors = read(&mut reader, bytes.len());
        assert!(reader.take_gaps().len() <= 8, "a gap for each cause");
        for cursor in cursors.iter().take(8) {
            let cursor = cursor.parse().expect("what is printed is read");
            let _ = reader.seek(Position::Cursor(cursor));
            read(&mut reader, bytes.len());
        }
        for position in [Position::Tail, Position::RealtimeUs(1_700_000_000_000_000), Position::Head] {
            let _ = reader.seek(position);
            read(&mut reader, bytes.len());
        }
    }
});
