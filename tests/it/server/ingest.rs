//! Streams: what is acked, what is refused, and that one stream's trouble stays its own.

use tapio::proto::stream_events_request::Message;
use tapio::proto::{LedgerReport, LedgerRow};
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

/// Scenario: batches, some of them sent again on a new connection, then more.
/// Guarantees: the repeated ones are acked, counted and stored once.
#[tokio::test]
async fn duplicates_are_dropped() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let (mut agent, _) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
    for sequence in 1..=10 {
        agent.send_batch(steady(sequence)).await;
    }
    agent.acked(10).await.unwrap();
    drop(agent);
    let (mut agent, acked) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
    assert_eq!(acked, 10);
    for sequence in 4..=12 {
        agent.send_batch(steady(sequence)).await;
    }
    agent.acked(12).await.unwrap();
    assert_eq!(agent.finish().await, 12);
    assert_eq!(server.counter("duplicate_batches"), 7);
    assert_eq!(server.counter("batches"), 12);
    let events = server.json("/api/v1/events?limit=1000");
    assert_eq!(events.as_array().unwrap().len(), 120);
}

/// Scenario: batch 3 follows batch 1.
/// Guarantees: the stream ends with the reason, what came before is acked, and the agent goes on from there.
#[tokio::test]
async fn gaps_are_refused() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let (mut agent, _) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
    agent.send_batch(steady(1)).await;
    agent.send_batch(steady(3)).await;
    let status = agent.end().await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().starts_with("batch 3 follows batch 1"), "{}", status.message());
    assert_eq!(server.counter("gaps"), 1);
    let (mut agent, _) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
    for sequence in 1..=3 {
        agent.send_batch(steady(sequence)).await;
    }
    agent.acked(3).await.unwrap();
}

/// Scenario: one agent sends batches whose columns do not fit together while another one sends good ones.
/// Guarantees: the bad ones are refused with a reason and counted, the good stream is not disturbed.
#[tokio::test]
async fn corrupt_batches_are_refused() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let (mut good, _) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
    let mut sequence = 0;
    for (agent, message) in
        [(2, "column slot has"), (3, "event kind 99 is not known"), (4, "the runs count 11")]
    {
        let (mut bad, _) = Agent::connect(server.grpc, hello(agent, 1)).await.unwrap();
        let mut batch = steady(1);
        match agent {
            2 => batch.slot.truncate(5),
            3 => batch.kind = vec![99; 10].into(),
            _ => batch.runs[0].count = 11,
        }
        bad.send_batch(batch).await;
        let status = bad.end().await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(message), "{}", status.message());
        sequence += 1;
        good.send_batch(steady(sequence)).await;
        good.acked(sequence).await.unwrap();
    }
    assert_eq!(server.counter("malformed_batches"), 3);
    assert_eq!(server.counter("batches"), 3);
}

/// Scenario: a message larger than any batch.
/// Guarantees: it is refused, and the server goes on.
#[tokio::test]
async fn huge_messages_are_refused() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--store", "null"]);
    let (mut agent, _) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
    let mut batch = steady(1);
    batch.slot = vec![0; 9 << 20].into();
    agent.send_batch(batch).await;
    let status = agent.end().await;
    assert_eq!(status.code(), Code::OutOfRange, "{}", status.message());
    let (mut agent, _) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
    agent.send_batch(steady(1)).await;
    agent.acked(1).await.unwrap();
}

/// Scenario: a server without a store is replaced by another one; the agent is at batch 8 by then.
/// Guarantees: the agent can go on, and what the server does not have is counted.
#[tokio::test]
async fn a_server_that_forgot_is_no_dead_end() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--store", "null"]);
    let (mut agent, acked) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
    assert_eq!(acked, 0);
    agent.send_batch(steady(8)).await;
    agent.acked(8).await.unwrap();
    assert_eq!(server.counter("forgotten_batches"), 7);
}

/// Scenario: a ledger is reported, batches leave gaps in a producer's numbers.
/// Guarantees: both are shown: what the agent says, and what its numbers prove.
#[tokio::test]
async fn ledger_and_losses_are_shown() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let (mut agent, _) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
    let row = LedgerRow { produced: 33, ring_lost: 3, drained: 30, enriched: 30, ..LedgerRow::default() };
    agent.send(Message::Ledger(LedgerReport { time_ns: 5, rows: vec![row] })).await;
    agent.send_batch(steady(1)).await;
    let mut later = steady(2);
    later.runs[0].first_sequence += 3;
    agent.send_batch(later).await;
    agent.acked(2).await.unwrap();
    let status = server.json("/api/v1/status");
    let shown = &status["agents"][0];
    assert_eq!(shown["host"], "host-1");
    assert_eq!(shown["lost"]["ebpf"], 3);
    assert_eq!(shown["producers"][0]["events"], 20);
    assert_eq!((&shown["connected"], &shown["acked_sequence"]), (&true.into(), &2.into()));
    let ledger = server.json("/api/v1/ledger");
    assert_eq!(ledger[0]["rows"][0]["produced"], 33);
    assert_eq!(ledger[0]["rows"][0]["source"], "ebpf");
    let (_, metrics) = server.get("/metrics");
    assert!(metrics.contains("tapio_server_lost_events{source=\"ebpf\"} 3\n"), "{metrics}");
    assert!(metrics.contains("tapio_server_batches_total 2\n"), "{metrics}");
}
