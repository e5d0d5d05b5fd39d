//! Starting: what is in the way is said once, with the exit code that says what to change. TLS. gRPC's own services.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use tapio::proto::DESCRIPTOR;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::client::Server;
use crate::skipped;

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

fn openssl(dir: &Path, args: &[&str]) -> Result<(), String> {
    let output =
        Command::new("openssl").args(args).current_dir(dir).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Makes a CA, a server's certificate and a client's.
fn certificates(dir: &Path) -> Result<(), String> {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let ca = ["req", "-x509", "-subj", "/CN=test-ca", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(dir, &[&ca[..], &key].concat())?;
    for name in ["server", "client"] {
        let (keyout, out) = (format!("{name}.key"), format!("{name}.pem"));
        let signed = ["req", "-x509", "-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=localhost"];
        let extensions =
            ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"];
        openssl(dir, &[&signed[..], &extensions, &["-keyout", &keyout, "-out", &out], &key].concat())?;
    }
    Ok(())
}

/// Scenario: a server with a certificate and a client CA, asked with and without TLS and a client's certificate.
/// Guarantees: only who has a certificate of the CA gets through, on both ports.
#[tokio::test]
async fn tls_lets_the_right_clients_in() {
    let dir = tempfile::tempdir().unwrap();
    if let Err(reason) = certificates(dir.path()) {
        return skipped("tls_lets_the_right_clients_in", &format!("openssl makes no certificates: {reason}"));
    }
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let flags = [
        "--tls-cert",
        &path("server.pem"),
        "--tls-key",
        &path("server.key"),
        "--tls-client-ca",
        &path("ca.pem"),
    ];
    let server = Server::start(&dir.path().join("data"), &[&flags[..], &["--store", "null"]].concat());
    let pem = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let trusting =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem("ca.pem"))).domain_name("localhost");
    let known = trusting.clone().identity(Identity::from_pem(pem("client.pem"), pem("client.key")));
    let check = async |tls: Option<ClientTlsConfig>| {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut endpoint =
            Channel::from_shared(format!("{scheme}://localhost:{}", server.grpc.port())).unwrap();
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls).unwrap();
        }
        let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
        let health = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
        health.map(|_| ()).map_err(|status| status.to_string())
    };
    assert_eq!(check(Some(known)).await, Ok(()));
    assert!(check(Some(trusting)).await.is_err());
    assert!(check(None).await.is_err());

    let url = format!("https://localhost:{}/healthz", server.http.port());
    let curl = |more: &[&str]| {
        let ca = path("ca.pem");
        let args = [&["-sS", "-m", "10", "--cacert", &ca, &url][..], more].concat();
        Command::new("curl")
            .args(args)
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    match curl(&["--cert", &path("client.pem"), "--key", &path("client.key")]) {
        Ok(answer) => assert_eq!(answer, "ok\n"),
        Err(error) => {
            return skipped("tls_lets_the_right_clients_in (HTTP part)", &format!("no curl: {error}"));
        }
    }
    assert_eq!(curl(&[]).unwrap(), "");
}
