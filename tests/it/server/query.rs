//! Queries: each filter, order, limits, late names, and what is refused.

use serde_json::Value;
use tapio::event::Kind;
use tapio::proto::{Entity, EventBatch, SemanticGroup};

use super::client::{Agent, Fact, Server, batch, entity, hello, load};

/// The `(ms, kind)` of each event of an answer.
fn summary(answer: &Value) -> Vec<(u64, &str)> {
    let ms = |event: &Value| {
        let id = event["id"].as_str().unwrap();
        assert_eq!(id.split(':').count(), 4, "{id}");
        let time = event["time"].as_str().unwrap();
        let (_, fraction) = time.split_once('.').unwrap();
        fraction[..3].parse().unwrap()
    };
    answer.as_array().unwrap().iter().map(|event| (ms(event), event["kind"].as_str().unwrap())).collect()
}

fn words(bytes: [u8; 16]) -> [u64; 2] {
    let (low, high) = bytes.split_at(8);
    [u64::from_le_bytes(low.try_into().unwrap()), u64::from_le_bytes(high.try_into().unwrap())]
}

fn connect(ms: u32, entity: u32) -> Fact {
    let source = words([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]);
    let destination = words([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    let slots = [&source[..], &destination[..], &[4000, 443, 111, 52]].concat();
    Fact { ms, kind: Kind::TcpConnect, entity, pid: 41, slots, text: None }
}

fn exec(ms: u32, entity: u32) -> Fact {
    let comm = words(*b"true\0\0\0\0\0\0\0\0\0\0\0\0");
    Fact {
        ms,
        kind: Kind::ProcessExec,
        entity,
        pid: 42,
        slots: vec![1, comm[0], comm[1]],
        text: Some("/bin/true"),
    }
}

fn signal(ms: u32, entity: u32) -> Fact {
    let slots = vec![9, (-6_i64).cast_unsigned(), 1, 0, 1, 2, 3, 0, 0, 0];
    Fact { ms, kind: Kind::Signal, entity, pid: 43, slots, text: None }
}

/// A server with three batches of two agents: one early, of an entity without a name; one late that names it.
async fn server(data: &std::path::Path) -> Server {
    let server = Server::start(data, &[]);
    let (mut agent, _) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
    let unnamed = Entity { key: 0xabc, r#type: 5, ..Entity::default() };
    let other = entity(0xdef, "other.service", 0x22);
    agent
        .send_batch(batch(1, 0, vec![unnamed, other.clone()], &[load(5, 1), connect(1, 0), exec(3, 1)]))
        .await;
    let nginx = Entity { container_id: "c0ffee".into(), ..entity(0xabc, "nginx.service", 0x11) };
    agent.send_batch(batch(2, 3, vec![nginx, other], &[signal(4, 0), load(6, 2), exec(2, 1)])).await;
    agent.acked(2).await.unwrap();
    let (mut second, _) = Agent::connect(server.grpc, hello(2, 1)).await.unwrap();
    second.send_batch(batch(1, 0, vec![entity(0xabc, "second.service", 0x33)], &[load(7, 9)])).await;
    second.acked(1).await.unwrap();
    server
}

/// Scenario: three batches of two agents, whose events overlap in time, asked for by each filter.
/// Guarantees: exactly the matching events, oldest first, whatever batch they came in.
#[tokio::test]
async fn events_are_found_by_each_filter() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path()).await;
    let ask = |query: &str| server.json(&format!("/api/v1/events?{query}"));
    let all = ask("");
    let times: Vec<u64> = summary(&all).iter().map(|&(ms, _)| ms).collect();
    assert_eq!(times, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(summary(&ask("kind=signal")), [(4, "signal")]);
    assert_eq!(summary(&ask("kind=signal,tcp_connect")), [(1, "tcp_connect"), (4, "signal")]);
    let from = super::client::BOOT_UNIX_NS + 3_000_000;
    assert_eq!(
        summary(&ask(&format!("from={from}&to={}", from + 2_000_000))),
        [(3, "process_exec"), (4, "signal")]
    );
    assert_eq!(summary(&ask("from=2023-11-14T22:13:20.006Z")), [(6, "load"), (7, "load")]);
    assert_eq!(summary(&ask("limit=2")), [(1, "tcp_connect"), (2, "process_exec")]);
    assert_eq!(summary(&ask("entity=other.service")), [(2, "process_exec"), (3, "process_exec")]);
    assert_eq!(summary(&ask(&format!("agent={}", "02".repeat(16)))), [(7, "load")]);
    assert_eq!(summary(&ask("entity=nobody.service")), []);
    assert_eq!(ask("to=1"), Value::Array(Vec::new()));
    // The tests' agents have one boot id, so the key is the same entity to the store.
    assert_eq!(summary(&ask("entity=0000000000000def")), [(2, "process_exec"), (3, "process_exec")]);
}

/// Scenario: an entity has no name in the first batch and one in the second.
/// Guarantees: its early events carry the name, and are found by it, its container, and its trace id; not by those
/// that a range which ends before says nothing of.
#[tokio::test]
async fn late_names_reach_early_events() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path()).await;
    let ask = |query: &str| server.json(&format!("/api/v1/events?{query}"));
    let expected = [(1, "tcp_connect"), (4, "signal"), (5, "load"), (6, "load")];
    for query in ["entity=nginx.service", "entity=c0ffee", &format!("trace_id={}", "11".repeat(16))] {
        let found = ask(query);
        assert_eq!(summary(&found), expected, "{query}");
        for event in found.as_array().unwrap() {
            assert_eq!(event["entity"]["name"], "nginx.service", "{query}");
            assert_eq!(event["entity"]["trace_id"], "11".repeat(16), "{query}");
        }
    }
    // The batch that names it starts at 2 ms.
    let before = ask(&format!("to={}", super::client::BOOT_UNIX_NS + 2_000_000));
    assert_eq!(before[0]["entity"]["name"], "");
}

/// Scenario: events of kinds with addresses, text and signed numbers.
/// Guarantees: each value reads as what it is, and ids are those derived from the event's id.
#[tokio::test]
async fn values_read_by_their_form() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path()).await;
    let connect = &server.json("/api/v1/events?kind=tcp_connect")[0];
    assert_eq!(connect["slots"]["source_address"], "10.0.0.1");
    assert_eq!(connect["slots"]["destination_address"], "2001:db8::9");
    assert_eq!(connect["slots"]["duration_ns"], 52);
    assert_eq!(connect["time"], "2023-11-14T22:13:20.001000000Z");
    assert_eq!(connect["id"], format!("{}:ebpf:2:1", "b0".repeat(16)));
    let span = tapio::event::span_id([0xb0; 16], tapio::event::Source::Ebpf, 2, 1);
    assert_eq!(connect["span_id"], format!("{span:016x}"));
    let exec = &server.json("/api/v1/events?kind=process_exec")[0];
    assert_eq!(
        (&exec["slots"]["comm"], &exec["text"], &exec["pid"]),
        (&"true".into(), &"/bin/true".into(), &42.into())
    );
    assert_eq!(server.json("/api/v1/events?kind=signal")[0]["slots"]["code"], -6);
}

/// Scenario: parameters that are no good, paths that are not there, a server that keeps nothing.
/// Guarantees: each gets a status, and JSON that says what is wrong with which parameter.
#[tokio::test]
async fn bad_queries_are_refused_by_name() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    for (query, parameter) in [
        ("from=noon", "from"),
        ("to=", "to"),
        ("kind=nothing", "kind"),
        ("trace_id=1", "trace_id"),
        ("limit=0", "limit"),
        ("limit=1000000", "limit"),
        ("agent=x", "agent"),
        ("colour=red", "colour"),
        ("to=1&to=2", "to"),
    ] {
        let (status, body) = server.get(&format!("/api/v1/events?{query}"));
        let error: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &error["parameter"]), (400, &parameter.into()), "{query}: {body}");
        assert!(error["error"].as_str().unwrap().starts_with(&format!("{parameter}: ")), "{body}");
    }
    assert_eq!(server.get("/api/v2").0, 404);
    assert_eq!(server.get("/healthz"), (200, "ok\n".into()));
    drop(server);
    let null = Server::start(data.path(), &["--store", "null"]);
    let (status, body) = null.get("/api/v1/events");
    assert_eq!(status, 409, "{body}");
}

/// A revision of an incident.
fn group(id: u8, revision: u64, state: &str) -> SemanticGroup {
    let id_text = format!("{id:032x}");
    let json = serde_json::json!({"id": id_text, "revision": revision, "chain": [], "facts": [{"id": "f1"}]});
    SemanticGroup {
        id: id_text,
        revision,
        state: state.into(),
        started_at: format!("2026-11-24T10:00:0{id}Z"),
        json: json.to_string(),
        ..SemanticGroup::default()
    }
}

/// Scenario: revisions of two incidents in three batches, one of which has events too.
/// Guarantees: the newest revision of each is found, newest incident first, in the JSON of the contract; by state,
/// by id with every revision; and events are found as before.
#[tokio::test]
async fn incidents_are_found() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let (mut agent, _) = Agent::connect(server.grpc, hello(1, 1)).await.unwrap();
    let one = entity(7, "a.service", 1);
    let mut with_events = batch(1, 0, vec![one], &[load(5, 1)]);
    with_events.groups = vec![group(1, 1, "open"), group(2, 1, "open")];
    agent.send_batch(with_events).await;
    for (sequence, group) in [(2, group(1, 2, "open")), (3, group(1, 3, "closed"))] {
        let alone = EventBatch { sequence, boot_unix_ns: 1, groups: vec![group], ..EventBatch::default() };
        agent.send_batch(alone).await;
    }
    agent.acked(3).await.unwrap();
    let ask = |query: &str| server.json(&format!("/api/v1/incidents?{query}"));
    let revisions = |answer: &Value| -> Vec<(String, u64)> {
        let groups = answer.as_array().unwrap().iter();
        groups
            .map(|g| (g["id"].as_str().unwrap()[31..].to_owned(), g["revision"].as_u64().unwrap()))
            .collect()
    };
    let all = ask("");
    assert_eq!(revisions(&all), [("2".to_owned(), 1), ("1".to_owned(), 3)]);
    assert_eq!(all[0]["facts"][0]["id"], "f1");
    assert_eq!(all[0]["agent"].as_str().unwrap().len(), 32);
    assert_eq!(revisions(&ask("state=open")), [("2".to_owned(), 1)]);
    let id = format!("id={:032x}&revisions=all", 1);
    let every: Vec<u64> = revisions(&ask(&id)).into_iter().map(|(_, revision)| revision).collect();
    assert_eq!(every, [3, 2, 1]);
    assert_eq!(summary(&server.json("/api/v1/events")), [(5, "load")]);
    assert_eq!(server.get("/api/v1/incidents?state=ajar").0, 400);
}
