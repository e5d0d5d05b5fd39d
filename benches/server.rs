//! The server's path a step at a time: what a batch costs between the receive buffer and the ack.
//!
//! Times: `decode` (received bytes to message), `check` (columns), `rows` (iterating), `null` (decode, check, sequence,
//! ack), `append` (all that, into segments, synced, acked), `disk` (the same bytes written and synced with nothing
//! around it: the disk's own limit). Each iteration is 1000 events, so microseconds are nanoseconds an event;
//! `append` and `disk` are 256 batches of 1000, with that many under way.
//! Does not time: the socket, HTTP/2.
//! Command: `cargo bench --bench server`.
#![allow(missing_docs, clippy::expect_used, reason = "a benchmark: the macros make undocumented items")]

use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use tapio::event::{KINDS, Kind};
use tapio::proto::stream_events_request::Message as Body;
use tapio::proto::{Entity, EventBatch, Run, StreamEventsRequest};
use tapio::server::agents::{Agents, Session};
use tapio::server::book::{BatchMark, Id, Sender};
use tapio::server::decode::Columns;
use tapio::server::message::Request;
use tapio::server::store::{Accepted, Limits, Store};

const EVENTS: u32 = 1000;
const ENTITIES: u32 = 20;
const BATCHES: u64 = 256;

fn fixed32(number: impl Fn(u32) -> u32) -> Bytes {
    (0..EVENTS).flat_map(|event| number(event).to_le_bytes()).collect::<Vec<_>>().into()
}

/// A batch of events of these kinds in turn.
fn batch(sequence: u64, kinds: &[Kind]) -> EventBatch {
    let kind = |event: u32| kinds[event as usize % kinds.len()];
    let words: usize = (0..EVENTS).map(|event| KINDS[kind(event) as usize - 1].slot_words()).sum();
    let texts = (0..EVENTS).filter(|&event| KINDS[kind(event) as usize - 1].text.is_some()).count();
    EventBatch {
        sequence,
        base_time_ns: sequence * 1_000_000,
        boot_unix_ns: 1_700_000_000_000_000_000,
        strings: vec!["/usr/bin/true".into()],
        entities: (0..ENTITIES)
            .map(|entity| Entity {
                key: entity.into(),
                r#type: 2,
                name: format!("service-{entity}.service"),
                trace_id: vec![7; 16].into(),
                cgroup_path: format!("/system.slice/service-{entity}.service"),
                ..Entity::default()
            })
            .collect(),
        runs: vec![Run { source: 0, producer: 0, first_sequence: sequence * 1000, count: EVENTS }],
        time_delta: fixed32(|event| event * 500),
        kind: (0..EVENTS).map(|event| kind(event) as u8).collect::<Vec<_>>().into(),
        entity: fixed32(|event| event % ENTITIES),
        pid: fixed32(|event| event),
        sequence_delta: Bytes::new(),
        slot: (0..words as u64).flat_map(u64::to_le_bytes).collect::<Vec<_>>().into(),
        text: vec![0; texts],
        shard: 0,
        groups: Vec::new(),
        time_unit_ns: 0,
    }
}

fn request(sequence: u64, kinds: &[Kind]) -> Bytes {
    StreamEventsRequest { message: Some(Body::Batch(batch(sequence, kinds))) }.encode_to_vec().into()
}

fn session() -> Session {
    let sender =
        Sender { agent: Id([1; 16]), boot: Id([2; 16]), epoch: 1, host: "h".into(), version: "1".into() };
    Agents::default().greet(sender).expect("new")
}

/// What the server does with a request.
async fn take(store: &Store, session: &Session, request: Bytes) {
    let Ok(Request::Batch(batch)) = Request::decode(request) else { return };
    let Ok(columns) = Columns::check(&batch.batch) else { return };
    let sequence = batch.batch.sequence;
    let mark = BatchMark::new(session.sender(), sequence, batch.raw.len(), &columns);
    let place = store.reserve(batch.raw.len()).await.expect("runs");
    let (agent, sender) = (Arc::clone(session.agent()), session.sender().clone());
    session.accept(sequence, || place.put(Accepted { agent, sender, mark, batch })).expect("in order");
}

fn steps(c: &mut Criterion) {
    for (name, kinds) in [
        ("load", &[Kind::Load][..]),
        ("mixed", &[Kind::ProcessFork, Kind::ProcessExec, Kind::ProcessExit, Kind::TcpConnect]),
    ] {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(EVENTS.into()));
        let bytes = request(1, kinds);
        let batch = batch(1, kinds);
        group.bench_function("decode", |b| b.iter(|| Request::decode(black_box(bytes.clone()))));
        group.bench_function("check", |b| {
            b.iter(|| Columns::check(black_box(&batch)).map(|columns| columns.len()))
        });
        let columns = Columns::check(&batch).expect("consistent");
        let sum = || columns.events().map(|row| row.slots[0].get() ^ row.sequence).fold(0, |a, b| a ^ b);
        group.bench_function("rows", |b| b.iter(sum));
        group.finish();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Passes all batches through a store; the time until the last of them is acked.
fn through(store: &Store, next: &mut u64, session: &Session, requests: u64) -> Duration {
    let batches: Vec<Bytes> = (0..requests).map(|number| request(*next + number, &[Kind::Load])).collect();
    *next += requests;
    let last = *next - 1;
    let started = Instant::now();
    runtime().block_on(async {
        for request in batches {
            take(store, session, request).await;
        }
        let mut stored = session.agent().stored();
        stored.wait_for(|stored| stored.sequence >= last).await.expect("runs");
    });
    started.elapsed()
}

fn stores(c: &mut Criterion) {
    let mut group = c.benchmark_group("store");
    group.throughput(Throughput::Elements(u64::from(EVENTS) * BATCHES));
    group.sample_size(10);
    // Not a tmpfs: syncs must cost what they cost.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let null = Store::null();
    let durable = Store::open(dir.path(), Limits::new(1 << 30)).expect("opens");
    for (name, store) in [("null", &null), ("append", &durable)] {
        let (session, mut next) = (session(), 1);
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| through(store, &mut next, &session, BATCHES)).sum());
        });
    }
    runtime().block_on(durable.close());
    let bytes: Vec<u8> = (0..BATCHES).flat_map(|number| request(number + 1, &[Kind::Load])).collect();
    let mut file = tempfile::tempfile_in(dir.path()).expect("a file");
    group.bench_function("disk", |b| {
        b.iter(|| {
            for piece in bytes.chunks(1 << 20) {
                file.write_all(piece).expect("room");
            }
            file.sync_data().expect("a disk");
        });
    });
    group.finish();
}

criterion_group!(benches, steps, stores);
criterion_main!(benches);
