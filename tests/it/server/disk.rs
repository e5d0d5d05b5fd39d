//! What was acked is on the disk: crashes, stops, a full disk.

use std::path::Path;
use std::process::Command;

use super::client::{Agent, Server, hello, steady};
use crate::skipped;

/// The numbers of the load events that the server has, in order.
fn values(server: &Server) -> Vec<u64> {
    let events = server.json("/api/v1/events?kind=load&limit=100000");
    let mut values: Vec<u64> =
        events.as_array().unwrap().iter().map(|event| event["slots"]["value"].as_u64().unwrap()).collect();
    values.sort_unstable();
    values
}

/// Scenario: the server is killed in the middle of a stream, again and again; the agent resends what is unacked.
/// Guarantees: at every restart the server knows at least what it acked, and in the end has every event once.
#[tokio::test]
async fn a_killed_server_loses_nothing_it_acked() {
    let data = tempfile::tempdir().unwrap();
    let mut acked = 0;
    for round in 0..6_u64 {
        let server = Server::start(data.path(), &[]);
        let (mut agent, known) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
        assert!(known >= acked, "round {round}: {acked} were acked, {known} are known");
        let mut sequence = known;
        // Killed with batches at every stage: acked, stored, queued, on their way.
        while acked < known + 20 + round * 7 {
            sequence += 1;
            agent.send_batch(steady(sequence)).await;
            if sequence.is_multiple_of(8) {
                acked = agent.answer().await.unwrap().acked_sequence;
            }
        }
        server.kill();
        while let Ok(answer) = agent.answer().await {
            acked = answer.acked_sequence;
        }
    }
    let server = Server::start(data.path(), &[]);
    let (_agent, known) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
    assert!(known >= acked);
    assert_eq!(values(&server), (0..known * 10).collect::<Vec<_>>());
}

/// Scenario: the server is asked to stop while batches are on their way.
/// Guarantees: it acks what it took in, ends the stream in order, exits with 0, and has exactly that.
#[tokio::test]
async fn a_stop_acks_what_was_received() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let (mut agent, _) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
    for sequence in 1..=200 {
        agent.send_batch(steady(sequence)).await;
    }
    agent.acked(1).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut acked = 0;
        loop {
            match agent.answer().await {
                Ok(answer) => acked = answer.acked_sequence,
                Err(status) => return (acked, status),
            }
        }
    });
    let (code, said) = server.stop().await;
    assert_eq!(code, Some(0), "{said}");
    let (acked, end) = reading.await.unwrap();
    assert_eq!(end.message(), "the stream ended in order");
    let server = Server::start(data.path(), &[]);
    let (_agent, known) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
    assert_eq!(known, acked);
    assert_eq!(values(&server).len() as u64, acked * 10);
}

/// A small file system of its own.
struct SmallDisk<'path>(&'path Path);

impl<'path> SmallDisk<'path> {
    /// Mounts it; the reason if that is not possible here.
    fn mount(path: &'path Path, kib: u32) -> Result<Self, String> {
        let options = format!("size={kib}k");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tapio-test"]).arg(path).output();
        match mount {
            Ok(output) if output.status.success() => Ok(Self(path)),
            Ok(output) => {
                Err(format!("cannot mount a tmpfs: {}", String::from_utf8_lossy(&output.stderr).trim()))
            }
            Err(error) => Err(format!("cannot mount a tmpfs: {error}")),
        }
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "{} stays mounted", self.0.display());
    }
}

/// Scenario: the disk fills up under a stream, then space is freed; then the server is killed.
/// Guarantees: acks stop, the agent and the health check are told why, acks resume by themselves, nothing acked
/// is lost.
#[tokio::test]
async fn a_full_disk_stalls_and_resumes() {
    let data = tempfile::tempdir().unwrap();
    let _disk = match SmallDisk::mount(data.path(), 2048) {
        Ok(disk) => disk,
        Err(reason) => return skipped("a_full_disk_stalls_and_resumes", &reason),
    };
    let ballast = data.path().join("ballast");
    std::fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let server = Server::start(data.path(), &[]);
    let (mut agent, _) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
    let (mut sequence, mut acked) = (0, 0);
    let mut reason = String::new();
    while reason.is_empty() {
        sequence += 1;
        assert!(sequence < 3000, "1 MiB took {sequence} batches");
        agent.send_batch(steady(sequence)).await;
        while acked < sequence && reason.is_empty() {
            let answer = agent.answer().await.unwrap();
            acked = acked.max(answer.acked_sequence);
            reason = answer.flow_control.unwrap().stalled_reason;
        }
    }
    assert!(reason.contains("No space left on device"), "{reason}");
    assert!(acked < sequence);
    let (status, body) = server.get("/healthz");
    assert_eq!(status, 503, "{body}");
    assert!(server.json("/api/v1/status")["store"]["stalled_reason"].as_str().unwrap().contains("No space"));
    // Still asked for events, and still taking some in.
    assert_eq!(values(&server).len() as u64, acked * 10);
    agent.send_batch(steady(sequence + 1)).await;

    std::fs::remove_file(&ballast).unwrap();
    agent.acked(sequence + 1).await.unwrap();
    assert_eq!(server.get("/healthz").0, 200);
    assert_eq!(server.json("/api/v1/status")["store"]["stalls"], 1);
    server.kill();
    let server = Server::start(data.path(), &[]);
    let (_agent, known) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
    assert_eq!(known, sequence + 1);
    assert_eq!(values(&server), (0..known * 10).collect::<Vec<_>>());
}
