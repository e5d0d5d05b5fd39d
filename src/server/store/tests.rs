//! The store against crashes, damage and a bad disk.

use std::fs;
use std::io;
use std::sync::atomic::AtomicU32;

use bytes::Bytes;
use prost::Message;
use tempfile::TempDir;

use super::recover::Recovered;
use super::writer::Disk;
use super::*;
use crate::event::Kind;
use crate::proto::{Entity, EventBatch, Run};
use crate::server::agents::{Agents, Session};
use crate::server::book::Id;
use crate::server::decode::Columns;
use crate::server::query::filter::Filter;
use crate::server::query::scan;

const AGENT: Id = Id([1; 16]);

fn sender() -> Sender {
    Sender { agent: AGENT, boot: Id([2; 16]), epoch: 1, host: "h".into(), version: "1".into() }
}

/// A batch of two load events whose numbers and times follow from its own.
fn batch(sequence: u64) -> RawBatch {
    let fixed = |numbers: [u32; 2]| numbers.into_iter().flat_map(u32::to_le_bytes).collect::<Bytes>();
    let batch = EventBatch {
        sequence,
        base_time_ns: sequence * 10,
        boot_unix_ns: 1000,
        entities: vec![Entity { key: 5, name: "load.service".into(), ..Entity::default() }],
        runs: vec![Run { source: 0, producer: 0, first_sequence: sequence * 2, count: 2 }],
        time_delta: fixed([0, 1]),
        kind: vec![Kind::Load as u8; 2].into(),
        entity: fixed([0, 0]),
        pid: fixed([1, 1]),
        slot: vec![7; 32].into(),
        ..EventBatch::default()
    };
    RawBatch { raw: batch.encode_to_vec().into(), batch }
}

fn put(place: Place<'_>, session: &Session, sequence: u64) {
    let batch = batch(sequence);
    let columns = Columns::check(&batch.batch).expect("consistent");
    let mark = BatchMark::new(session.sender(), sequence, batch.raw.len(), &columns);
    let agent = Arc::clone(session.agent());
    session
        .accept(sequence, || place.put(Accepted { agent, sender: sender(), mark, batch }))
        .expect("accepted");
}

/// Stores batches one by one, each in a group of its own.
async fn store_each(store: &Store, session: &Session, sequences: std::ops::RangeInclusive<u64>) {
    let mut stored = session.agent().stored();
    for sequence in sequences {
        put(store.reserve(100).await.expect("runs"), session, sequence);
        stored.wait_for(|stored| stored.sequence >= sequence).await.expect("runs");
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// A store with the batches 1 to `last`, closed.
fn filled(last: u64) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    block_on(async {
        let store = Store::open(dir.path(), Limits::new(1 << 30)).expect("opens");
        let session = Agents::new(&store.book()).greet(sender()).expect("new");
        store_each(&store, &session, 1..=last).await;
        store.close().await;
    });
    dir
}

fn only_segment(dir: &TempDir) -> PathBuf {
    catalogue::path_of(dir.path(), 1)
}

/// What a store knows and holds after it was opened: the position, and the numbers of the batches found in it.
fn reopened(dir: &Path) -> (u64, Vec<u64>, Recovered) {
    let recovered = recover::open(dir).expect("opens");
    let position = recovered.book.agents().get(&AGENT).map_or(0, |entry| entry.sequence);
    let found = scan::run(&recovered.catalogue, &Filter::default(), &AtomicBool::new(false)).expect("reads");
    let mut batches: Vec<u64> = found.keys().map(|place| place.batch).collect();
    batches.dedup();
    (position, batches, recovered)
}

/// Scenario: a store is closed and opened again.
/// Guarantees: the book is the same book, the batches are all there, and a second server is kept out meanwhile.
#[test]
fn a_store_is_what_it_was() {
    let dir = filled(5);
    let (position, batches, recovered) = reopened(dir.path());
    assert_eq!((position, batches), (5, vec![1, 2, 3, 4, 5]));
    let entry = &recovered.book.agents()[&AGENT];
    assert_eq!((&*entry.host, entry.batches, entry.events, entry.lost()[0]), ("h", 5, 10, 0));
    assert!(matches!(recover::open(dir.path()), Err(StoreError::InUse(_))));
    let record = record::encode_book(&recovered.book);
    assert_eq!(record::decode_book(&record), Some(recovered.book));
}

/// Scenario: the newest segment is cut at every byte of its last record, as a crash would leave it.
/// Guarantees: exactly the last batch is gone, nothing needs a human, and the store goes on where it was cut.
#[test]
fn a_torn_tail_is_cut_off() {
    let dir = filled(3);
    let whole = fs::read(only_segment(&dir)).expect("reads");
    let shorter = fs::read(only_segment(&filled(2))).expect("reads").len();
    for end in shorter..whole.len() {
        fs::write(only_segment(&dir), &whole[..end]).expect("writes");
        let (position, batches, recovered) = reopened(dir.path());
        assert_eq!((position, batches), (2, vec![1, 2]), "cut at {end}");
        assert_eq!(recovered.catalogue.report().truncated_bytes, (end - shorter) as u64);
        assert!(recovered.open.is_some());
    }
    block_on(async {
        let store = Store::open(dir.path(), Limits::new(1 << 30)).expect("opens");
        let session = Agents::new(&store.book()).greet(sender()).expect("known");
        store_each(&store, &session, 3..=4).await;
        store.close().await;
    });
    assert_eq!(reopened(dir.path()).1, [1, 2, 3, 4]);
}

/// Scenario: a bit is flipped in each byte of the segment, one at a time.
/// Guarantees: at most one batch is gone; where later records prove that it had been stored, the position stays.
#[test]
fn flipped_bits_cost_one_batch() {
    let dir = filled(4);
    let whole = fs::read(only_segment(&dir)).expect("reads");
    let until = |last| fs::read(only_segment(&filled(last))).expect("reads").len();
    // The sender's frame lies before the first batch's own.
    let first_batch = until(1) - (until(2) - until(1));
    let (third, fourth) = (until(2), until(3));
    let mut unused = 0;
    for at in first_batch..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(only_segment(&dir), &damaged).expect("writes");
        let (position, batches, recovered) = reopened(dir.path());
        if batches.len() == 4 {
            unused += 1;
            continue;
        }
        assert_eq!(batches.len(), 3, "flipped at {at}");
        assert_eq!(position, if at < fourth { 4 } else { 3 }, "flipped at {at}");
        if at < third {
            assert_eq!(recovered.catalogue.report().corrupt, 1, "flipped at {at}");
        }
    }
    // The reserved word of each header, and the padding of each body to 8 bytes.
    assert!(unused <= 4 * (4 + 7), "{unused} flips were not noticed");
}

/// Scenario: the headers of the only segment are damaged.
/// Guarantees: the store opens and takes new batches.
#[test]
fn a_damaged_header_stops_nothing() {
    let dir = filled(2);
    let whole = fs::read(only_segment(&dir)).expect("reads");
    for at in [0, 9, 13, 41, 60] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(only_segment(&dir), &damaged).expect("writes");
        let (_, _, recovered) = reopened(dir.path());
        assert!(recovered.open.is_none(), "damaged at {at}");
        assert_eq!(recovered.next_id, 2);
    }
    block_on(async {
        let store = Store::open(dir.path(), Limits::new(1 << 30)).expect("opens");
        let session = Agents::new(&store.book()).greet(sender()).expect("new");
        store_each(&store, &session, 3..=3).await;
        store.close().await;
    });
    assert_eq!(reopened(dir.path()).0, 3);
}

/// Scenario: among the segments are a directory, an empty file and noise, older and newer than the good one.
/// Guarantees: the store opens and has what is good; it goes on under a number of its own.
#[test]
fn what_is_no_segment_is_passed_over() {
    let dir = filled(2);
    fs::rename(only_segment(&dir), catalogue::path_of(dir.path(), 5)).expect("renames");
    fs::create_dir(catalogue::path_of(dir.path(), 3)).expect("makes");
    fs::write(catalogue::path_of(dir.path(), 4), vec![0x5a; 5000]).expect("writes");
    fs::write(catalogue::path_of(dir.path(), 7), "").expect("writes");
    fs::write(dir.path().join("00000000000000000005.tmp"), "half").expect("writes");
    fs::write(dir.path().join("notes.txt"), "mine").expect("writes");
    let (position, batches, recovered) = reopened(dir.path());
    assert_eq!((position, batches), (2, vec![1, 2]));
    assert_eq!(recovered.next_id, 8);
    assert!(!dir.path().join("00000000000000000005.tmp").exists());
    assert!(dir.path().join("notes.txt").exists());
}

/// Scenario: a store of three small segments at most gets many batches; then index files are lost or damaged.
/// Guarantees: it stays within its bound, deletes the oldest and counts it; indexes are made again, and the
/// position survives the deletion of the segments it came from.
#[test]
fn the_store_is_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let limits = Limits { store_bytes: 3 * (8192 + index::INDEX_BYTES), segment_bytes: 8192 };
    let (report, last) = block_on(async {
        let store = Store::open(dir.path(), limits).expect("opens");
        let agents = Agents::new(&store.book());
        let quiet = agents.greet(Sender { agent: Id([9; 16]), ..sender() }).expect("new");
        store_each(&store, &quiet, 1..=1).await;
        let session = agents.greet(sender()).expect("new");
        store_each(&store, &session, 1..=200).await;
        store.close().await;
        (store.catalogue().expect("segments").report(), 200)
    });
    assert!(report.segments <= 3 && report.bytes <= 3 * 8192, "{report:?}");
    assert!(report.deleted_segments >= 3, "{report:?}");
    assert_eq!(report.deleted_events + report.events, 402);

    let oldest = list_ids(dir.path())[0];
    fs::remove_file(index::path_of(&catalogue::path_of(dir.path(), oldest))).expect("there");
    let (position, batches, recovered) = reopened(dir.path());
    assert_eq!(position, last);
    assert_eq!(batches.len() as u64 * 2, report.events);
    assert_eq!(recovered.book.agents()[&Id([9; 16])].sequence, 1);
    assert_eq!(recovered.catalogue.report().events, report.events);
    drop(recovered);
    let index = index::path_of(&catalogue::path_of(dir.path(), oldest));
    let mut damaged = fs::read(&index).expect("made again");
    damaged[30] ^= 1;
    fs::write(&index, damaged).expect("writes");
    assert_eq!(reopened(dir.path()).2.catalogue.report().events, report.events);
}

fn list_ids(dir: &Path) -> Vec<u64> {
    let mut ids: Vec<u64> = fs::read_dir(dir)
        .expect("reads")
        .filter_map(|entry| {
            entry.ok()?.path().to_str()?.strip_suffix(".seg")?.rsplit('/').next()?.parse().ok()
        })
        .collect();
    ids.sort_unstable();
    ids
}

/// A disk that fails its next operations in a given way.
struct BadDisk {
    /// Failures left: of writes in the low half, of syncs in the high one.
    failures: Arc<[AtomicU32; 2]>,
}

fn fails(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Disk for BadDisk {
    fn write(&mut self, file: &fs::File, bytes: &[u8], at: u64) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        if fails(&self.failures[0]) {
            // Half of it arrives, as on a full disk.
            file.write_all_at(&bytes[..bytes.len() / 2], at)?;
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
        }
        file.write_all_at(bytes, at)
    }

    fn sync(&mut self, file: &fs::File) -> io::Result<()> {
        if fails(&self.failures[1]) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        file.sync_data()
    }
}

/// Scenario: writes fail half way, then syncs fail, on a fresh segment and on one with batches; then the disk is well.
/// Guarantees: nothing is acked while it fails, the reason is said, each batch is stored exactly once, and after a
/// failed sync another segment is used.
#[test]
fn a_bad_disk_delays_acks_and_loses_nothing() {
    for (which, begun) in [(0, 0), (0, 2), (1, 0), (1, 2)] {
        let dir = tempfile::tempdir().expect("a directory");
        let failures: Arc<[AtomicU32; 2]> = Arc::default();
        let recovered = recover::open(dir.path()).expect("opens");
        let store = Store::start(
            dir.path(),
            Limits::new(1 << 30),
            BadDisk { failures: Arc::clone(&failures) },
            recovered,
        )
        .expect("starts");
        block_on(async {
            let session = Agents::default().greet(sender()).expect("new");
            store_each(&store, &session, 1..=begun).await;
            failures[which].store(3, Ordering::SeqCst);
            let mut stalled = store.stalled();
            put(store.reserve(100).await.expect("runs"), &session, begun + 1);
            let reason = stalled.wait_for(|reason| !reason.is_empty()).await.expect("runs").clone();
            let expected = ["No space left on device", "Input/output error"][which];
            assert!(reason.contains(expected), "{reason}");
            assert_eq!(session.agent().stored().borrow().sequence, begun);
            let mut stored = session.agent().stored();
            stored.wait_for(|stored| stored.sequence > begun).await.expect("stored at last");
            assert_eq!(failures[which].load(Ordering::SeqCst), 0, "the faults were not met");
            stalled.wait_for(String::is_empty).await.expect("runs");
            store_each(&store, &session, begun + 2..=begun + 3).await;
            store.close().await;
        });
        drop(store);
        let (position, batches, _) = reopened(dir.path());
        assert_eq!(position, begun + 3, "fault {which} after {begun}");
        assert_eq!(batches, (1..=begun + 3).collect::<Vec<_>>(), "fault {which} after {begun}");
        assert_eq!(list_ids(dir.path()).len() > 1, which == 1 && begun > 0, "fault {which} after {begun}");
    }
}

/// Scenario: the disk fails for good and the server is told to stop.
/// Guarantees: it stops; what was not acked is not acked.
#[test]
fn a_dead_disk_does_not_keep_the_server() {
    let dir = tempfile::tempdir().expect("a directory");
    let failures: Arc<[AtomicU32; 2]> = Arc::default();
    failures[0].store(u32::MAX, Ordering::SeqCst);
    let recovered = recover::open(dir.path()).expect("opens");
    let store =
        Store::start(dir.path(), Limits::new(1 << 30), BadDisk { failures }, recovered).expect("starts");
    block_on(async {
        let session = Agents::default().greet(sender()).expect("new");
        put(store.reserve(100).await.expect("runs"), &session, 1);
        store.stalled().wait_for(|reason| !reason.is_empty()).await.expect("runs");
        store.close().await;
        assert_eq!(session.agent().stored().borrow().sequence, 0);
        assert!(store.reserve(100).await.is_none());
    });
}
