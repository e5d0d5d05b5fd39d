//! Every interleaving of the kernel's half and our half of the ring protocol, within loom's bounds.
//!
//! `sys::ring` is the agent's own file; only the memory under it is replaced. The kernel's half is what
//! `bpf_ringbuf_reserve` and `bpf_ringbuf_submit` do, order for order.

/// What `ring.rs` takes from the event model.
mod event {
    pub(crate) const EVENT_WORDS_MAX: usize = 8;
}

mod sys {
    #[allow(dead_code, reason = "the model needs less than the agent")]
    #[path = "../../../../src/sys/ring.rs"]
    pub(crate) mod ring;
    pub(crate) mod ring_memory;
}

use std::ops::ControlFlow;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering, fence};
use loom::thread;

use sys::ring::Ring;
use sys::ring_memory::{Kernel, RingMemory};

fn read(ring: &mut Ring) -> Vec<Vec<u64>> {
    let mut records = Vec::new();
    ring.drain(|words| {
        records.push(words.to_vec());
        ControlFlow::Continue(())
    });
    records
}

fn new_ring(data_words: usize) -> (Ring, Kernel) {
    let (memory, kernel) = RingMemory::new(data_words);
    (Ring::over(memory, std::fs::File::open("/dev/null").expect("exists").into()), kernel)
}

/// Scenario: two CPUs write into one ring, in any interleaving, while the reader drains.
/// Guarantees: each record comes once and whole; loom sees no read of a word that is still being written.
pub fn records_arrive_whole_and_once() {
    loom::model(|| {
        let (mut ring, kernel) = new_ring(8);
        let kernel = Arc::new(kernel);
        let writers: Vec<_> = [1, 2]
            .map(|value| {
                let kernel = Arc::clone(&kernel);
                thread::spawn(move || {
                    let at = kernel.reserve(2).expect("space for both");
                    kernel.submit(at, &[value, value]);
                })
            })
            .into();
        let mut records = read(&mut ring);
        for writer in writers {
            writer.join().expect("no panic");
        }
        records.extend(read(&mut ring));
        records.sort();
        assert_eq!(records, [[1, 1], [2, 2]]);
    });
}

/// Scenario: a ring with room for one record is reused while the reader drains.
/// Guarantees: the kernel never writes a word that the reader still reads.
pub fn space_is_reused_only_after_it_was_read() {
    loom::model(|| {
        let (mut ring, kernel) = new_ring(2);
        let writer = thread::spawn(move || {
            let mut written = 0;
            for value in 1..=2 {
                if let Some(at) = kernel.reserve(1) {
                    kernel.submit(at, &[value]);
                    written += 1;
                }
            }
            written
        });
        let mut records = read(&mut ring);
        records.extend(read(&mut ring));
        let written = writer.join().expect("no panic");
        records.extend(read(&mut ring));
        assert_eq!(records.len(), written);
    });
}

/// Scenario: the reader finds nothing and goes to sleep just as a record is submitted with the kernel's own wake-up rule.
/// Guarantees: it is woken, or it saw the record and did not sleep.
/// Holds without the fence in these few steps too; the drain thread has it for the hardware, which loom's
/// store order does not cover.
pub fn no_wake_up_is_lost() {
    loom::model(|| {
        let (mut ring, kernel) = new_ring(8);
        let woken = Arc::new(AtomicBool::new(false));
        let writer = {
            let woken = Arc::clone(&woken);
            thread::spawn(move || {
                for value in 1..=2 {
                    let at = kernel.reserve(1).expect("space");
                    if kernel.submit(at, &[value]) {
                        woken.store(true, Ordering::Relaxed);
                    }
                }
            })
        };
        let seen = read(&mut ring).len();
        let quiet = read(&mut ring).len();
        fence(Ordering::SeqCst);
        let slept = quiet == 0 && ring.fill() == 0;
        writer.join().expect("no panic");
        if slept && seen < 2 {
            assert!(woken.load(Ordering::Relaxed), "asleep with a record in the ring and nobody to wake it");
        }
    });
}
