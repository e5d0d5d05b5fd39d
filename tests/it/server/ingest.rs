//! Streams: what is acked, what is refused, and that one stream's trouble stays its own.

use tapio::proto::stream_events_request::Message;
use tonic::Code;

use super::client::{Agent, Server, hello, steady};

/// Scenario: a server without a store gets batches in order.
/// Guarantees: it wants a bounded amount in flight, acks all of them, and knows the position afterwards.
#[tokio::test]
async fn the_null_store_acks() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--store", "null"]);
    let mut agent = Agent::open(server.grpc).await.unwrap();
    agent.send(Message::Hello(hello(1, 1))).await;
    let first = agent.answer().await.unwrap();
    assert_eq!(first.acked_sequence, 0);
    let control = first.flow_control.unwrap();
    assert_eq!(control.stalled_reason, "");
    assert!((1 << 20..1 << 30).contains(&control.unacked_bytes_max));
    for sequence in 1..=500 {
        agent.send_batch(steady(sequence)).await;
    }
    agent.acked(500).await.unwrap();
    let (again, acked) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
    assert_eq!(acked, 500);
    drop(again);
    let (code, _) = server.stop().await;
    assert_eq!(code, Some(0));
}

/// Scenario: a batch before the greeting, a bad greeting, an epoch that is over.
/// Guarantees: each stream is refused with a reason.
#[tokio::test]
async fn streams_start_with_a_good_greeting() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--store", "null"]);
    let mut rude = Agent::open(server.grpc).await.unwrap();
    rude.send_batch(steady(1)).await;
    let status = rude.end().await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::FailedPrecondition, "the first request of a stream must be a Hello")
    );
    let mut nameless = hello(1, 5);
    nameless.agent_id.truncate(3);
    let status = Agent::connect(server.grpc, nameless).await.err().unwrap();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "Hello: agent_id is not 16 bytes"));
    let (mut current, _) = Agent::connect(server.grpc, hello(1, 5)).await.unwrap();
    let status = Agent::connect(server.grpc, hello(1, 4)).await.err().unwrap();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("this agent has sent under epoch 5 before"), "{}", status.message());
    current.send_batch(steady(1)).await;
    current.acked(1).await.unwrap();
}
