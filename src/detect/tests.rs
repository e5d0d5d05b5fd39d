//! The table of detectors.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;

/// Files of this room that are not detectors.
const PARTS: [&str; 14] = [
    "bounded",
    "claims",
    "details",
    "devices",
    "fact",
    "hindsight",
    "mod",
    "names",
    "ports",
    "scan",
    "seen",
    "specs",
    "tests",
    "text",
];

/// Scenario: the table of detectors beside the files of this room.
/// Guarantees: each file that is no part is a detector with a row, and each row has a doc and kinds.
#[test]
fn every_detector_has_its_row() {
    let room = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/detect");
    let files: BTreeSet<String> = std::fs::read_dir(room)
        .expect("the room is there")
        .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned))
        .filter(|name| !PARTS.contains(&name.as_str()))
        .collect();
    let rows: BTreeSet<String> = DETECTORS.iter().map(|info| info.name.to_owned()).collect();
    assert_eq!(files, rows);
    assert_eq!(rows.len(), DETECTORS.len());
    for info in DETECTORS {
        assert!(info.doc.len() > 10 && !info.doc.ends_with('.'), "{}", info.name);
        assert!(info.kinds != 0);
        assert_eq!((info.make)().evicted(), 0);
    }
}
