//! The reader of recordings and of events as lines of JSON, and the detectors behind it, on any bytes.
//!
//! Finds: panics, and facts that are not about any event.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tapio::recording::{from_bytes, replay};

fuzz_target!(|bytes: &[u8]| {
    let Ok(recording) = from_bytes(bytes) else { return };
    assert!(recording.moments.is_sorted_by_key(|moment| (moment.time_ns(), moment.id)));
    replay::run(&recording, |_, news| {
        for fact in news.told.iter().chain(&news.taken) {
            assert!(!fact.events.is_empty() && fact.from_ns <= fact.until_ns);
        }
    });
});
