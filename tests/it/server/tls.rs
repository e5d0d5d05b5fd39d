//! TLS between the real programs, and certificates that are replaced while the server runs.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Signal, geteuid};

use super::certificates::{Pems, check, connect, make_all, make_ca, make_certificate};
use super::client::{Server, WAIT_MAX};
use crate::config::agent;
use crate::control::Running;
use crate::skipped;

/// Scenario: a server with a certificate and a client CA, asked with and without TLS and a client's certificate.
/// Guarantees: only who has a certificate of the CA gets through, on both ports.
#[tokio::test]
async fn tls_lets_the_right_clients_in() {
    let dir = tempfile::tempdir().unwrap();
    if let Err(reason) = make_all(dir.path()) {
        return skipped("tls_lets_the_right_clients_in", &format!("openssl makes no certificates: {reason}"));
    }
    let pems = Pems(dir.path().to_owned());
    let ca = pems.path("ca.pem");
    let identity = pems.server_flags("server");
    let flags: Vec<&str> = identity.iter().map(String::as_str).collect();
    let flags = [&flags[..], &["--tls-client-ca", &ca, "--store", "null"]].concat();
    let server = Server::start(&dir.path().join("data"), &flags);
    let ask = async |tls| match connect(server.grpc.port(), tls).await {
        Ok(channel) => check(channel).await,
        Err(error) => Err(error),
    };
    let trusting = pems.trusting("ca");
    assert_eq!(ask(Some(trusting.clone().identity(pems.identity("client")))).await, Ok(()));
    assert!(ask(Some(trusting)).await.is_err());
    assert!(ask(None).await.is_err());

    let url = format!("https://localhost:{}/healthz", server.http.port());
    let curl = |more: &[&str]| {
        let args = [&["-sS", "-m", "10", "--cacert", &ca, &url][..], more].concat();
        Command::new("curl")
            .args(args)
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    match curl(&["--cert", &pems.path("client.pem"), "--key", &pems.path("client.key")]) {
        Ok(answer) => assert_eq!(answer, "ok\n"),
        Err(error) => {
            return skipped("tls_lets_the_right_clients_in (HTTP part)", &format!("no curl: {error}"));
        }
    }
    assert_eq!(curl(&[]).unwrap(), "");
}

/// Scenario: while the server runs, its files are replaced by those of another CA, and then by garbage.
/// Guarantees: without a restart new connections get the new certificate, open ones go on, garbage changes nothing and
/// is said.
#[tokio::test]
async fn a_new_certificate_is_used_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let made = make_all(dir.path()).and_then(|()| make_ca(dir.path(), "other"));
    if let Err(reason) = made.and_then(|()| make_certificate(dir.path(), "second", "other", "2")) {
        let test = "a_new_certificate_is_used_without_a_restart";
        return skipped(test, &format!("openssl makes no certificates: {reason}"));
    }
    let pems = Pems(dir.path().to_owned());
    let identity = pems.server_flags("server");
    let flags: Vec<&str> = identity.iter().map(String::as_str).collect();
    let server = Server::start(&dir.path().join("data"), &[&flags[..], &["--store", "null"]].concat());
    let port = server.grpc.port();
    let old = connect(port, Some(pems.trusting("ca"))).await.unwrap();
    assert_eq!(check(old.clone()).await, Ok(()));
    for end in ["pem", "key"] {
        std::fs::rename(dir.path().join(format!("second.{end}")), pems.path(&format!("server.{end}")))
            .unwrap();
    }
    let start = Instant::now();
    let new = loop {
        match connect(port, Some(pems.trusting("other"))).await {
            Ok(channel) => break channel,
            Err(error) => assert!(start.elapsed() < WAIT_MAX, "still the old certificate: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(check(new).await, Ok(()));
    assert!(connect(port, Some(pems.trusting("ca"))).await.is_err());
    assert_eq!(check(old).await, Ok(()));

    std::fs::write(pems.path("server.pem"), "garbage").unwrap();
    // Longer than the files go without a look.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for _ in 0..3 {
        let channel = connect(port, Some(pems.trusting("other"))).await.unwrap();
        assert_eq!(check(channel).await, Ok(()));
    }
    let (code, said) = server.stop().await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("has no certificate; the certificate in use stays").count(), 1, "{said}");
}

/// An agent of a TLS server, kept to a folder.
fn tls_agent(folder: &Path, server: &Server, flags: &[String]) -> Command {
    let mut command = agent();
    command.arg(format!("--socket={}", folder.join("collector.sock").display()));
    command.arg(format!("--state-dir={}", folder.join("state").display()));
    command.arg(format!("--server=localhost:{}", server.grpc.port()));
    command.args(["--grpc-insecure=false", "--shutdown-deadline=0s"]).args(flags).env("NO_COLOR", "1");
    command
}

/// What the agent says of its way to the server, and how often the reason was logged by its end.
fn outcome(folder: &Path, command: &mut Command) -> String {
    let mut running = Running::start(command);
    let said = running.line_with("tapio-server at");
    // Long enough for some more attempts, each of which could say it again.
    std::thread::sleep(Duration::from_secs(2));
    running.send(Signal::TERM);
    let rest = running.line_with("SIGTERM");
    assert!(rest.contains("SIGTERM") && running.wait().is_some(), "{}", folder.display());
    said
}

/// Scenario: an agent whose server has a certificate of a CA, with that CA, with another one, with an expired
/// certificate at the server, and with a server that wants the agent's own.
/// Guarantees: with the right files it delivers; each other case is one message that says what to do.
#[test]
fn live_agent_speaks_tls() {
    if !geteuid().is_root() {
        return skipped("live_agent_speaks_tls", "needs root, to load BPF programs");
    }
    let dir = tempfile::tempdir().unwrap();
    let made = make_all(dir.path())
        .and_then(|()| make_ca(dir.path(), "other"))
        .and_then(|()| make_certificate(dir.path(), "expired", "ca", "0"));
    if let Err(reason) = made {
        return skipped("live_agent_speaks_tls", &format!("openssl makes no certificates: {reason}"));
    }
    let pems = Pems(dir.path().to_owned());
    let start = |name: &str, more: &[&str]| {
        let identity = pems.server_flags(name);
        let flags: Vec<&str> = identity.iter().map(String::as_str).collect();
        Server::start(&dir.path().join("data"), &[&flags[..], &["--store", "null"], more].concat())
    };
    let flag = |flag: &str, file: &str| format!("--{flag}={}", pems.path(file));
    let trusting = flag("tls-ca", "ca.pem");

    let server = start("server", &[]);
    let said = outcome(dir.path(), &mut tls_agent(dir.path(), &server, std::slice::from_ref(&trusting)));
    assert!(said.contains("connected to tapio-server"), "{said}");
    let said = outcome(dir.path(), &mut tls_agent(dir.path(), &server, &[flag("tls-ca", "other.pem")]));
    assert!(said.contains("nobody whom this agent trusts") && said.contains("--tls-ca"), "{said}");
    drop(server);

    let server = start("expired", &[]);
    let said = outcome(dir.path(), &mut tls_agent(dir.path(), &server, std::slice::from_ref(&trusting)));
    assert!(said.contains("has expired: renew it"), "{said}");
    drop(server);

    let server = start("server", &["--tls-client-ca", &pems.path("ca.pem")]);
    let said = outcome(dir.path(), &mut tls_agent(dir.path(), &server, std::slice::from_ref(&trusting)));
    assert!(said.contains("--tls-cert and --tls-key"), "{said}");
    let known = [trusting, flag("tls-cert", "client.pem"), flag("tls-key", "client.key")];
    let said = outcome(dir.path(), &mut tls_agent(dir.path(), &server, &known));
    assert!(said.contains("connected to tapio-server"), "{said}");
}
