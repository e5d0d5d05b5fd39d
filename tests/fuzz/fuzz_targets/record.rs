//! The decoder of records on any words, as a broken ring would hand them over.
//!
//! Finds: panics, and events whose parts do not add up.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tapio::event::{Event, HEADER_WORDS};
use zerocopy::IntoBytes;

fuzz_target!(|bytes: &[u8]| {
    let words: Vec<u64> =
        bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    let mut rest = &words[..];
    while let Ok(event) = Event::parse(rest) {
        assert!(event.words().len() >= HEADER_WORDS + event.slots().len());
        assert_eq!(event.slots().len(), event.info().slot_words());
        assert!(event.text().len() <= event.words().as_bytes().len());
        assert_eq!(event.has_text(), event.info().text.is_some());
        rest = &rest[event.words().len()..];
    }
});
