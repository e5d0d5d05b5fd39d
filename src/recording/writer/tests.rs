//! Recordings that are written and read again.

use super::*;
use crate::egress::batch::BatchBuilder;
use crate::entity::{CgroupLookup, EntityTable};
use crate::event::{Event, EventBuilder, Kind, Source, fields};
use crate::recording::ring::SEGMENTS;
use crate::recording::{flight_files, load};

struct NoHost;

impl CgroupLookup for NoHost {
    fn path(&mut self, _cgroup: u64) -> Option<String> {
        None
    }

    fn invocation_id(&mut self, _path: &str) -> Option<[u8; 16]> {
        None
    }
}

fn batch(numbers: std::ops::Range<u64>, urgent: bool) -> Sealed {
    let mut entities = EntityTable::new([7; 16], 64, Box::new(NoHost));
    let mut events = EventBuilder::default();
    let mut batch = BatchBuilder::new(0, urgent);
    for number in numbers {
        events.start(Source::Systemd, Kind::UnitState, 100_000 * (number + 1));
        events.owner(fields::UNIT, &format!("u{}.service", number % 3)).field(fields::ACTIVE_STATE, "failed");
        events.slot(number);
        let event = Event::parse(events.finish()).expect("an event");
        entities.observe(&event);
        let entity = entities.resolve(event.header());
        batch.push(&event, number, entity, &entities).expect("room");
    }
    batch.seal(1_700_000_000_000_000_000).expect("events")
}

fn plan(dir: &Path, ring_bytes: u64) -> Plan {
    let hello = Hello { host_name: "n1".into(), boot_id: vec![7; 16].into(), ..Hello::default() };
    Plan { file: Some(dir.join("all.rec")), ring: (dir.to_owned(), ring_bytes), hello }
}

/// Scenario: three batches, the last one twice, are recorded and loaded in another order.
/// Guarantees: every event comes back once, in order, with its owner, host and times.
#[test]
fn what_was_recorded_comes_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut recorder = Recorder::start(&plan(dir.path(), 0)).expect("started").expect("a recorder");
    for numbers in [10..20, 0..10, 20..30, 20..30] {
        recorder.offer(&batch(numbers, true), 0);
    }
    let report = Arc::clone(recorder.report());
    drop(recorder);
    assert_eq!(report.written.load(Ordering::Relaxed), 4);
    let recording = load(&[dir.path().join("all.rec")]).expect("loaded");
    assert_eq!((recording.host.as_str(), recording.boot_id), ("n1", [7; 16]));
    assert_eq!(recording.boot_unix_ns, 1_700_000_000_000_000_000);
    assert_eq!(recording.moments.len(), 30);
    for (number, moment) in (0_u64..).zip(&recording.moments) {
        assert_eq!((moment.id.sequence, moment.time_ns()), (number, 100_000 * (number + 1)));
        assert_eq!(moment.owner.unit, format!("u{}.service", number % 3));
        let event = Event::parse(&moment.words).expect("an event");
        assert_eq!(event.fields().get(fields::ACTIVE_STATE), "failed");
    }
}

/// Scenario: far more than the ring holds, then the agent starts again.
/// Guarantees: the ring keeps its bound and the newest, also over the restart, and each file is a recording.
#[test]
fn the_ring_keeps_the_last() {
    let dir = tempfile::tempdir().expect("a directory");
    let bytes = 512 << 10;
    for round in 0..2_u64 {
        let mut recorder = Recorder::start(&Plan { file: None, ..plan(dir.path(), bytes) })
            .expect("started")
            .expect("a recorder");
        for number in 0..60 {
            let first = round * 60_000 + number * 1000;
            recorder.offer(&batch(first..first + 1000, true), 0);
            while !recorder.orders.is_empty() {
                std::thread::yield_now();
            }
        }
        assert_eq!(recorder.report().dropped.load(Ordering::Relaxed), 0);
    }
    let files = flight_files(dir.path()).expect("files");
    let size: u64 = files.iter().map(|file| file.metadata().expect("there").len()).sum();
    assert!(files.len() as u64 <= SEGMENTS && size <= bytes + bytes / SEGMENTS, "{} {size}", files.len());
    let recording = load(&files).expect("loaded");
    assert_eq!(recording.moments.last().map(|moment| moment.id.sequence), Some(119_999));
    assert!(recording.moments.len() < 120_000);
}

/// Scenario: a second of batches beyond the rate of the ring, one of them urgent; a file that cannot be made.
/// Guarantees: the ring passes over what is not urgent and counts it; the failure names the file.
#[test]
fn the_ring_has_a_rate() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut recorder =
        Recorder::start(&Plan { file: None, ..plan(dir.path(), 1 << 30) }).expect("started").expect("one");
    let ordinary = batch(0..5000, false);
    let fits = RING_BYTES_PER_S / ordinary.bytes as u64;
    for _ in 0..=fits {
        recorder.offer(&ordinary, 5);
    }
    recorder.offer(&batch(0..10, true), 5);
    assert_eq!(recorder.report().passed_over.load(Ordering::Relaxed), 1);
    recorder.offer(&ordinary, 5 + SECOND_NS);
    assert_eq!(recorder.report().passed_over.load(Ordering::Relaxed), 1);

    let plan = Plan { file: Some(dir.path().join("no/such/dir.rec")), ..plan(dir.path(), 0) };
    let error = Recorder::start(&plan).expect_err("no directory");
    assert!(error.to_string().contains("no/such/dir.rec"), "{error}");
}

/// Records batches of 100 events, one each ten seconds, and has an incident cut out at each of these batches.
fn record_with_cuts(dir: &Path, bytes: u64, batches: u64, cuts: impl Iterator<Item = u64>) -> Vec<PathBuf> {
    let plan = Plan { file: None, ..plan(dir, bytes) };
    let mut recorder = Recorder::start(&plan).expect("started").expect("one");
    let cutter = recorder.cutter().expect("a ring");
    for number in 0..batches {
        recorder.offer(&batch(number * 100..(number + 1) * 100, true), number * 10 * SECOND_NS);
        while !recorder.orders.is_empty() {
            std::thread::yield_now();
        }
    }
    let mut files = Vec::new();
    for number in cuts {
        let id = format!("{number:016x}");
        cutter.cut(&id, number * 10 * SECOND_NS);
        files.push(cutter.path(&id));
        while !recorder.orders.is_empty() {
            std::thread::yield_now();
        }
    }
    // The end does not wait for what would have followed.
    let report = Arc::clone(recorder.report());
    drop(recorder);
    let refused = report.cuts_refused.load(Ordering::Relaxed);
    assert_eq!(report.cuts.load(Ordering::Relaxed) + refused, files.len() as u64);
    files
}

/// Scenario: incidents are cut out of a ring of some segments, an earlier and a late one.
/// Guarantees: each has a recording of its own with the minute before its beginning and all that followed.
#[test]
fn incidents_are_cut_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = record_with_cuts(dir.path(), 16 << 20, 400, [345, 390].into_iter());
    assert!(flight_files(dir.path()).expect("files").len() > 1);
    for (file, first) in files.iter().zip([33_900, 38_400]) {
        let recording = load(std::slice::from_ref(file)).expect("a recording");
        assert_eq!(recording.damage, crate::recording::frame::Damage::default());
        let sequences: Vec<u64> = recording.moments.iter().map(|moment| moment.id.sequence).collect();
        assert_eq!(sequences, (first..40_000).collect::<Vec<u64>>(), "{}", file.display());
    }
}

/// Scenario: more incidents at once than may be cut out, from a small ring whose segments were replaced meanwhile.
/// Guarantees: files and bytes stay within their bounds, the rest is counted, each file is whole.
#[test]
fn cuts_are_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let bytes = 1 << 20;
    let files = record_with_cuts(dir.path(), bytes, 600, 500..580);
    let kept: Vec<&PathBuf> = files.iter().filter(|file| file.exists()).collect();
    let size: u64 = kept.iter().map(|file| file.metadata().expect("there").len()).sum();
    assert!(!kept.is_empty() && kept.len() <= cuts::FILES_MAX, "{}", kept.len());
    assert!(size <= bytes / CUT_SHARE, "{size}");
    for file in kept {
        let recording = load(std::slice::from_ref(file)).expect("a recording");
        assert_eq!(recording.damage, crate::recording::frame::Damage::default());
        assert_eq!(recording.moments.last().map(|moment| moment.id.sequence), Some(59_999));
    }
    let left = std::fs::read_dir(dir.path().join(RING_DIR)).expect("the ring");
    assert!(left.flatten().all(|entry| entry.path().extension().is_some_and(|name| name == "rec")));
}
