//! The hot path a step at a time, in one thread.
//!
//! Times: `decode` (words to event), `scatter` (through a queue), `columns` (entity and columns of a batch),
//! `encode` (sealed batch to bytes). Each is 1000 load events of one entity an iteration, so the figure in
//! microseconds is nanoseconds an event.
//! Does not time: the ring, wake-ups, the socket.
//! Command: `cargo bench --bench path`.
#![allow(missing_docs, clippy::expect_used, reason = "a benchmark: the macros make undocumented items")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use prost::Message;
use tapio::egress::batch::BatchBuilder;
use tapio::engine::queue;
use tapio::entity::{CgroupLookup, EntityTable};
use tapio::event::{Event, Header, Kind, Source};
use zerocopy::IntoBytes;

const EVENTS: u32 = 1000;

struct NoHost;

impl CgroupLookup for NoHost {
    fn path(&mut self, _cgroup: u64) -> Option<String> {
        None
    }

    fn invocation_id(&mut self, _path: &str) -> Option<[u8; 16]> {
        None
    }
}

fn events() -> Vec<[u64; 7]> {
    (0..EVENTS)
        .map(|sequence| {
            let mut words = [0; 7];
            let header = Header {
                time_ns: 5_000_000_000 + u64::from(sequence) * 500,
                cgroup: 77,
                start_ns: 1,
                tgid: 4242,
                sequence,
                kind: Kind::Load as u16,
                words: 7,
                producer: 0,
                source: Source::Ebpf as u8,
                flags: 0,
            };
            words.as_mut_bytes()[..size_of::<Header>()].copy_from_slice(header.as_bytes());
            words
        })
        .collect()
}

fn path(criterion: &mut Criterion) {
    let events = events();
    criterion.bench_function("decode", |bencher| {
        bencher.iter(|| {
            events.iter().map(|words| Event::parse(black_box(words)).expect("whole").slots()[0]).sum::<u64>()
        });
    });

    let (mut sender, mut receiver) = queue::words(128 << 10);
    criterion.bench_function("scatter", |bencher| {
        bencher.iter(|| {
            for words in &events {
                sender.push(black_box(words)).expect("space");
            }
            let mut sum = 0;
            let received = receiver.drain(usize::MAX, |words| sum += words[0]);
            assert_eq!(received, u64::from(EVENTS));
            sum
        });
    });

    let mut entities = EntityTable::new([1; 16], 1024, Box::new(NoHost));
    let mut builder = BatchBuilder::new(0, false);
    let mut fill = || {
        for words in &events {
            let event = Event::parse(black_box(words)).expect("whole");
            entities.observe(&event);
            let entity = entities.resolve(event.header());
            builder.push(&event, u64::from(event.header().sequence), entity, &entities).expect("space");
        }
        builder.seal(0).expect("events").batch
    };
    criterion.bench_function("columns", |bencher| bencher.iter(&mut fill));

    let batch = fill();
    let mut buffer = Vec::new();
    criterion.bench_function("encode", |bencher| {
        bencher.iter(|| {
            buffer.clear();
            black_box(&batch).encode(&mut buffer).expect("grows");
            buffer.len()
        });
    });
    assert!(buffer.len() < 40 * EVENTS as usize, "{} bytes for {EVENTS} events", buffer.len());
}

criterion_group!(benches, path);
criterion_main!(benches);
