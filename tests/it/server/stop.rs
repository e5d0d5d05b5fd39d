//! Peers that are slow or stay: what they hold is bounded, and the server's stop does not wait for them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::client::{Agent, Server, WAIT_MAX, hello, steady};

/// A connection on which this was said.
fn said(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
    stream
}

/// Reads until the other side ends the connection, in order or not.
fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    if let Err(error) = stream.read_to_end(&mut text) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it is still open");
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Scenario: HTTP peers that say nothing, half a request, or a request and then nothing more; one whose request is
/// too long; a gRPC peer that says nothing.
/// Guarantees: each connection is ended by the server, those that asked have their answer.
#[test]
fn slow_peers_are_left() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--store", "null"]);
    let silent = said(server.http, "");
    let half = said(server.http, "GET /healthz HTTP/1.1\r\nHost: localh");
    let kept = said(server.http, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let long = said(server.http, "GET /");
    let grpc = said(server.grpc, "");
    assert_eq!(rest(silent), "");
    assert!(!rest(half).contains("200 OK"));
    assert!(rest(kept).starts_with("HTTP/1.1 200 OK"));
    rest(grpc);
    let mut writer = long.try_clone().unwrap();
    let flood = std::thread::spawn(move || while writer.write_all(&[b'a'; 4096]).is_ok() {});
    // Whatever it answers, it does not read on for ever.
    assert!(!rest(long).contains("200 OK"));
    flood.join().unwrap();
}

/// Scenario: a stop while HTTP connections are kept, half a request is there, a client reads nothing of its answer, a
/// health watch and an agent's stream are open, and gRPC connections have said nothing or something wrong.
/// Guarantees: the server ends in order, within a bounded time, and what it acked is stored.
#[tokio::test]
async fn a_stop_waits_for_nobody() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let (mut agent, _) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
    for sequence in 1..=50 {
        agent.send_batch(steady(sequence)).await;
    }
    agent.acked(50).await.unwrap();
    let (http, grpc) = (server.http, server.grpc);
    let question = "GET /api/v1/events?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let held = [
        said(http, ""),
        said(http, "GET /healthz HTTP/1.1\r\nHo"),
        said(http, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        // Many answers that nobody reads.
        said(http, &question.repeat(200)),
        said(grpc, ""),
        said(grpc, "PRI * HTTP/2.0\r\n\r\nSM"),
    ];
    let channel = Channel::from_shared(format!("http://{grpc}")).unwrap().connect().await.unwrap();
    let watch = HealthClient::new(channel).watch(HealthCheckRequest::default()).await.unwrap();
    let mut watch = watch.into_inner();
    watch.message().await.unwrap();

    let stopped = tokio::time::timeout(WAIT_MAX, server.stop()).await;
    let (code, log) = stopped.expect("it ends, though nobody else does");
    assert_eq!(code, Some(0), "{log}");
    drop((held, watch, agent));
    let server = Server::start(data.path(), &[]);
    let status = server.json("/api/v1/status");
    assert_eq!(status["agents"][0]["acked_sequence"], 50, "{status}");
}
