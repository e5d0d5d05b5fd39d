//! A log that nobody reads.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::client::{Running, WAIT_MAX};

/// What makes a pipe full: its 64 KiB less the longest line.
const FULL: u64 = 60 << 10;

/// Scenario: everything is logged, to a pipe that its reader keeps open and stops reading.
/// Guarantees: the server goes on answering once the pipe is full, and ends when it is told to.
#[tokio::test]
async fn a_log_that_nobody_reads_stops_nothing() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Running(
        Command::new(env!("CARGO_BIN_EXE_tapio-server"))
            .args(["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--data-dir"])
            .arg(data.path())
            .envs([("NO_COLOR", "1"), ("RUST_LOG", "trace")])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut log = BufReader::new(server.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("agents: ") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "tapio-server ended");
    }
    let address = line.split_once("agents: ").and_then(|(_, rest)| rest.split_once(';')).unwrap().0;
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let ask = async || {
        let answer = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await;
        assert_eq!(answer.unwrap().into_inner().status, 1);
    };
    let unread = || rustix::io::ioctl_fionread(log.get_ref()).unwrap();
    let fill = async {
        while unread() < FULL {
            ask().await;
        }
        for _ in 0..100 {
            ask().await;
        }
    };
    tokio::time::timeout(WAIT_MAX, fill).await.expect("it answers although its log is full");

    kill_process(Pid::from_child(&server.0), Signal::TERM).unwrap();
    let until = Instant::now() + WAIT_MAX;
    let ended = loop {
        match server.0.try_wait().unwrap() {
            Some(ended) => break ended,
            None => assert!(Instant::now() < until, "it does not end while its log is full"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(ended.code(), Some(0));
}
