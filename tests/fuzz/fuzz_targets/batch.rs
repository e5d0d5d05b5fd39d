//! The server's decoder on any bytes: a request as it arrives, and a batch as it is stored.
//!
//! Finds: panics, and batches that pass the check without yielding exactly their events.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tapio::server::decode::Columns;
use tapio::server::message::{RawBatch, Request};

fn check(batch: &RawBatch) {
    let Ok(columns) = Columns::check(&batch.batch) else { return };
    assert_eq!(columns.events().count(), columns.len());
    let spanned: u64 = columns.spans().map(|span| u64::from(span.events)).sum();
    assert_eq!(spanned, columns.len() as u64);
    let (first, last) = columns.unix_range();
    for row in columns.events() {
        assert!((first..=last).contains(&row.unix_ns));
        assert_eq!(row.slots.len(), row.info.slot_words());
        assert_eq!(row.text.is_some(), row.info.text.is_some());
    }
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = bytes::Bytes::copy_from_slice(bytes);
    if let Ok(batch) = RawBatch::decode(bytes.clone()) {
        check(&batch);
    }
    if let Ok(Request::Batch(batch)) = Request::decode(bytes) {
        check(&batch);
    }
});
