//! Times what an event pays for its identity: the same owner as before, one of many known owners, a new owner
//! that the event or the live system names; and the parser alone. Prints the memory of an entity.
//! Does not time: the clock, the queue, the columns.
//! Reference: the 120 ns that a whole event may cost. Command: `cargo bench --bench entity`.

use std::fs;
use std::hint::black_box;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;

use criterion::{BatchSize, Criterion};
use tapio::entity::{CAPACITY, CgroupLookup, EntityTable, LiveLookup, cgroup};
use tapio::event::{CGROUP_V1, Header};

const UNIT: &str = "/system.slice/nginx.service";

/// Every cgroup is a pod's container, as long as such paths are.
struct Containers;

impl CgroupLookup for Containers {
    fn path(&mut self, cgroup: u64) -> Option<String> {
        Some(container(cgroup))
    }

    fn invocation_id(&mut self, _: &str) -> Option<[u8; 16]> {
        None
    }
}

fn container(cgroup: u64) -> String {
    format!(
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2b5f1c7e_8d3a_4e6f_9a0b_{cgroup:012x}.slice\
         /cri-containerd-{cgroup:064x}.scope"
    )
}

fn header(cgroup: u64) -> Header {
    Header { cgroup, tgid: 1, start_ns: 1, time_ns: cgroup, ..Header::default() }
}

fn table() -> EntityTable {
    EntityTable::new([1; 16], CAPACITY, Box::new(Containers))
}

fn hits(criterion: &mut Criterion) {
    let mut table = table();
    let one = header(77);
    criterion.bench_function("resolve/same", |bench| {
        bench.iter(|| {
            let entity = table.resolve(black_box(&one));
            (entity, table.version(entity))
        });
    });
    for (name, count) in [("resolve/of_100", 100_u64), ("resolve/of_10k", 10_000)] {
        // A stride that is coprime to the count visits all of them in no cache-friendly order.
        let headers: Vec<_> = (0..count).map(|index| header(1000 + index * 7919 % count)).collect();
        let mut next = headers.iter().cycle();
        for header in &headers {
            table.resolve(header);
        }
        criterion.bench_function(name, |bench| {
            bench.iter(|| {
                let entity = next.next().map(|header| table.resolve(black_box(header)));
                entity.map(|entity| table.version(entity))
            });
        });
    }
    let processes: Vec<_> = (0..10_000).map(|tgid| Header { cgroup: 0, tgid, ..header(9) }).collect();
    let mut next = processes.iter().cycle();
    criterion.bench_function("resolve/of_10k_processes", |bench| {
        bench.iter(|| next.next().map(|header| table.resolve(black_box(header))));
    });
}

fn misses(criterion: &mut Criterion) {
    let mut empty = table();
    let mut cgroup = 2;
    criterion.bench_function("miss/container_in_full_table", |bench| {
        bench.iter(|| {
            cgroup += 1;
            empty.resolve(&header(cgroup))
        });
    });
    let path = container(77);
    criterion.bench_function("parse/container", |bench| bench.iter(|| cgroup::parse(black_box(&path)).kind));
    criterion.bench_function("parse/unit", |bench| bench.iter(|| cgroup::parse(black_box(UNIT)).kind));
}

/// One existing cgroup of the live system, asked for in an empty table each time.
fn live(criterion: &mut Criterion) {
    let lookup = LiveLookup::open();
    let points = [(lookup.mount_points()[0], 0), (lookup.mount_points()[1], CGROUP_V1)];
    let found = points.into_iter().find_map(|(point, bit)| {
        let directory = fs::read_dir(point?).ok()?.flatten().find(|entry| entry.path().is_dir())?;
        Some(directory.metadata().ok()?.ino() | bit)
    });
    if let Some(cgroup) = found {
        let mut lookup = LiveLookup::open();
        criterion.bench_function("live/path", |bench| bench.iter(|| lookup.path(black_box(cgroup))));
        criterion.bench_function("live/miss", |bench| {
            bench.iter_batched_ref(
                || EntityTable::new([1; 16], 16, Box::new(LiveLookup::open())),
                |table| table.resolve(&header(cgroup)),
                BatchSize::PerIteration,
            );
        });
    }
}

/// Bytes of resident memory that a full table takes for each entity.
fn memory() -> io::Result<()> {
    let resident = || -> io::Result<u64> {
        let pages = fs::read_to_string("/proc/self/statm")?;
        let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
        Ok(pages * 4096)
    };
    let before = resident()?;
    let mut table = table();
    let empty = resident()? - before;
    for cgroup in 2..=CAPACITY as u64 {
        table.resolve(&header(cgroup));
    }
    let each = (resident()? - before) / CAPACITY as u64;
    let stats = table.stats();
    writeln!(io::stdout().lock(), "memory: {each} bytes an entity of {}, {empty} when empty", stats.live)
}

fn main() -> io::Result<()> {
    memory()?;
    let mut criterion = Criterion::default().configure_from_args();
    hits(&mut criterion);
    misses(&mut criterion);
    live(&mut criterion);
    criterion.final_summary();
    Ok(())
}
