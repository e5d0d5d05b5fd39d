//! Starting: what is in the way is said once, with the exit code that says what to change. gRPC's own services.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use tapio::proto::DESCRIPTOR;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::client::Server;

fn run(args: &[&str], data: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tapio-server"))
        .args(args)
        .arg("--data-dir")
        .arg(data)
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

/// The exit code and the one line on the standard error.
fn refusal(output: &Output) -> (Option<i32>, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.lines().count(), 1, "{said}");
    (output.status.code(), said)
}

/// Scenario: each port is taken by something else.
/// Guarantees: one message that names the flag and what to do, exit code 1.
#[test]
fn a_taken_port_is_said() {
    let data = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (args, flag) in [
        (["--grpc-listen", &address, "--http-listen", "127.0.0.1:0"], "--grpc-listen"),
        (["--grpc-listen", "127.0.0.1:0", "--http-listen", &address], "--http-listen"),
    ] {
        let (code, said) = refusal(&run(&args, data.path()));
        assert_eq!(code, Some(1));
        assert!(
            said.contains(&format!("cannot listen on {address} ({flag}): Address already in use")),
            "{said}"
        );
        assert!(said.contains("is another tapio-server running?"), "{said}");
    }
}

/// Scenario: a directory that another server uses, one that is a file, plain text beyond loopback, a bad certificate,
/// a flag that is none.
/// Guarantees: each is refused with its reason and its exit code.
#[test]
fn bad_starts_are_refused() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let free = ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    let (code, said) = refusal(&run(&free, data.path()));
    assert_eq!(code, Some(1));
    assert!(said.contains("another tapio-server keeps its events in"), "{said}");
    drop(server);

    let file = data.path().join("file");
    std::fs::write(&file, "not a certificate").unwrap();
    let (code, said) = refusal(&run(&free, &file));
    assert_eq!(code, Some(1));
    assert!(said.contains("cannot keep events in") && said.contains("--data-dir"), "{said}");

    let (code, said) = refusal(&run(&["--grpc-listen", "0.0.0.0:0"], data.path()));
    assert_eq!(code, Some(78));
    assert!(said.contains("--grpc-listen 0.0.0.0:0 is reachable from other hosts and needs TLS"), "{said}");

    let name = file.to_str().unwrap();
    let (code, said) = refusal(&run(&["--tls-cert", name, "--tls-key", name], data.path()));
    assert_eq!(code, Some(78));
    assert!(said.contains("has no certificate"), "{said}");
    assert_eq!(run(&["--no-such-flag"], data.path()).status.code(), Some(2));
}

/// Scenario: standard clients ask for health and for the services.
/// Guarantees: the collector service is serving, and its description is the one of the proto files.
#[tokio::test]
async fn health_and_reflection_answer() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--store", "null"]);
    let channel = Channel::from_shared(format!("http://{}", server.grpc)).unwrap().connect().await.unwrap();
    for service in ["", "tapio.v1.CollectorService"] {
        let request = HealthCheckRequest { service: service.into() };
        let health = HealthClient::new(channel.clone()).check(request).await.unwrap();
        assert_eq!(health.into_inner().status, 1, "{service:?}");
    }
    let ask = MessageRequest::FileContainingSymbol("tapio.v1.EventBatch".into());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let mut client = ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::FileDescriptorResponse(file)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let served = &file.file_descriptor_proto[0];
    assert!(DESCRIPTOR.windows(served.len()).any(|window| window == served), "another description");
}
