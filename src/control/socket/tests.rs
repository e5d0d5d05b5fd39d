//! The socket against clients that behave and clients that do not.

use std::io::{BufRead, BufReader as BlockingReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as BlockingListener;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::control::client::{ClientError, ask};
use crate::control::snapshot::Snapshot;

/// Counts how often it was looked at.
#[derive(Default)]
struct Fake(AtomicU64);

impl Vitals for Fake {
    fn snapshot(&self) -> Snapshot {
        Snapshot { events_total: self.0.fetch_add(1, Ordering::Relaxed) + 1, ..Snapshot::default() }
    }
}

/// A socket that is served by a thread of its own until the test ends.
fn served(path: &Path) {
    let socket = Socket::bind(path).expect("a socket");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(socket.serve(Arc::new(Fake::default())))
    });
}

fn line(stream: &BlockingStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    let mut line = String::new();
    BlockingReader::new(stream).read_line(&mut line).expect("an answer");
    line
}

/// Scenario: a socket in a directory that does not exist, asked twice on one connection and once on another.
/// Guarantees: mode 0600, directory 0755; each question has an answer, on one line.
#[test]
fn questions_have_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run/tapio/x.sock");
    served(&path);
    let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    // As far as the umask of whoever runs the tests lets it.
    assert_eq!(mode(path.parent().expect("a directory")) & !0o755, 0);
    let mut stream = BlockingStream::connect(&path).expect("connects");
    for count in 1..=2 {
        stream.write_all(b"{\"command\":\"status\"}\n").expect("asked");
        let snapshot: Snapshot = serde_json::from_str(&line(&stream)).expect("a snapshot");
        assert_eq!(snapshot.events_total, count);
    }
    let answer = ask(&path, &Request::Status).expect("an answer");
    assert_eq!(serde_json::from_str::<Snapshot>(&answer).expect("a snapshot").events_total, 3);
}

/// Scenario: agents that start at the same instant where one has left its socket behind, many times.
/// Guarantees: exactly one gets the socket, which answers; the others are told that somebody has it.
#[test]
fn one_of_many_gets_a_stale_socket() {
    const AGENTS: usize = 8;
    let folder = tempfile::tempdir().expect("a folder");
    for round in 0..50 {
        let path = folder.path().join(format!("{round}.sock"));
        drop(BlockingListener::bind(&path).expect("left behind"));
        let start = std::sync::Barrier::new(AGENTS);
        let bound: Vec<_> = std::thread::scope(|scope| {
            let agent = || {
                start.wait();
                Socket::bind(&path)
            };
            let threads: Vec<_> = (0..AGENTS).map(|_| scope.spawn(agent)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(bound.iter().filter(|socket| socket.is_ok()).count(), 1);
        for refused in bound.iter().filter_map(|socket| socket.as_ref().err()) {
            assert!(matches!(refused, SocketError::InUse(_)), "{refused}");
        }
        assert!(BlockingStream::connect(&path).is_ok(), "the socket of the one that has it was taken away");
        drop(bound);
        assert!(Socket::bind(&path).is_ok(), "what was given back can be had again");
    }
}

/// Scenario: no JSON, another command, an empty line, a line without an end that is too long.
/// Guarantees: each is refused with a reason; only the endless line ends the connection.
#[test]
fn nonsense_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.sock");
    served(&path);
    let mut stream = BlockingStream::connect(&path).expect("connects");
    for (asked, part) in
        [("hello", "one line such as"), ("{\"command\":\"reboot\"}", "unknown variant `reboot`"), ("", "EOF")]
    {
        stream.write_all(format!("{asked}\n").as_bytes()).expect("asked");
        let refusal: Refusal = serde_json::from_str(&line(&stream)).expect("a refusal");
        assert!(refusal.error.contains(part), "{asked}: {}", refusal.error);
    }
    stream.write_all(&vec![b'x'; REQUEST_BYTES_MAX]).expect("flooded");
    assert!(line(&stream).contains("longer than"));
    assert_eq!(stream.read(&mut [0; 1]).expect("the end"), 0);
}

/// Scenario: as many silent clients as there are places, then one more, then one of them leaves.
/// Guarantees: the one too many is told so at once; a place that is given back is used again.
#[test]
fn clients_are_bounded() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.sock");
    served(&path);
    let mut silent: Vec<BlockingStream> =
        (0..CLIENTS_MAX).map(|_| BlockingStream::connect(&path).expect("connects")).collect();
    match ask(&path, &Request::Status) {
        Err(ClientError::Answer { answer, .. }) => assert!(answer.contains("16 clients"), "{answer}"),
        // It was told and left before its question arrived.
        Err(ClientError::Io { .. }) => {}
        other => panic!("{other:?}"),
    }
    silent.pop();
    // The agent learns of the leave by itself.
    let answered = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        ask(&path, &Request::Status).is_ok()
    });
    assert!(answered, "the free place was not used");
}

/// Scenario: the path is taken by a dead socket, by a living one, by a file.
/// Guarantees: only the dead one is replaced, the others are left as they are and named.
#[test]
fn only_a_dead_socket_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.sock");
    drop(BlockingListener::bind(&path).expect("bound"));
    assert!(path.exists(), "the standard library leaves it");
    let socket = Socket::bind(&path).expect("a dead socket is replaced");
    assert!(matches!(Socket::bind(&path), Err(SocketError::InUse(_))));
    drop(socket);
    assert!(!path.exists());
    assert!(matches!(ask(&path, &Request::Status), Err(ClientError::NoAgent(_))));

    let living = BlockingListener::bind(&path).expect("bound");
    assert!(matches!(Socket::bind(&path), Err(SocketError::InUse(_))));
    drop(living);
    fs::remove_file(&path).expect("removed");
    fs::write(&path, "text").expect("written");
    assert!(matches!(Socket::bind(&path), Err(SocketError::NotASocket(_))));
    assert_eq!(fs::read_to_string(&path).expect("still there"), "text");
}

/// Scenario: while a socket is open its file is replaced by another agent's.
/// Guarantees: closing the first leaves the second's file.
#[test]
fn only_our_own_file_is_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.sock");
    let first = Socket::bind(&path).expect("bound");
    fs::remove_file(&path).expect("removed");
    let _second = BlockingListener::bind(&path).expect("bound");
    drop(first);
    assert!(path.exists());
}
