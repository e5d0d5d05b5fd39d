//! Faults that a real API server does not produce on demand. Each test asks whether its fault fired.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tapio::config::{ClusterScope, Settings};
use tapio::event::{Kind, fields};
use tapio::health::State;

use super::agent::{Agent, numbers, settings, warnings};
use super::fake::{Fake, Fault, write_kubeconfig};
use super::place::{ends, has_end, killed, pod, running, today};

fn watched(fake: &Fake) -> Agent {
    let agent = Agent::start(settings(&fake.kubeconfig(), &fake.state_dir()));
    agent.wait_for("the pod", |events| events.iter().any(|seen| seen.kind == Kind::ContainerState));
    agent
}

/// Scenario: a change breaks off in the middle of its line, another comes in slow pieces, a third comes twice and then
/// with an older version.
/// Guarantees: each is seen exactly once.
#[test]
fn torn_slow_and_repeated_changes_count_once() {
    let fake = Fake::start();
    fake.put("pods", pod("web", 0, &running(), &json!({})));
    let agent = watched(&fake);
    for (run, fault) in [Fault::TornLine, Fault::SlowLine, Fault::Repeated].into_iter().enumerate() {
        fake.fault("pods", fault);
        let run = run as u64;
        fake.put("pods", pod("web", run + 1, &running(), &killed("web", run)));
        agent.wait_for("the end", has_end(&format!("web-{run}")));
    }
    fake.put("pods", pod("web", 4, &running(), &killed("web", 3)));
    let events = agent.wait_for("the last end", has_end("web-3"));
    for fault in ["torn line", "slow line", "repeated"] {
        assert_eq!(fake.fired(fault), 1, "{fault}");
    }
    assert_eq!(ends(&events), ["web-0", "web-1", "web-2", "web-3"]);
    assert!(numbers(&events).values().all(|&count| count == 1));
    assert!(agent.of(Kind::WatchGap).is_empty());
}

/// Scenario: the first list breaks off, is refused, and is then served.
/// Guarantees: nothing of a torn list is taken for the whole; in the end all is as if nothing had been.
#[test]
fn a_torn_list_is_asked_for_again() {
    let fake = Fake::start();
    fake.put("pods", pod("a", 0, &running(), &json!({})));
    fake.put("pods", pod("b", 0, &running(), &json!({})));
    fake.fault("pods", Fault::TornList(700));
    fake.fault("pods", Fault::Status(500, "etcd is not there"));
    let agent = Agent::start(settings(&fake.kubeconfig(), &fake.state_dir()));
    let events = agent.wait_for("both pods", |events| {
        events.iter().filter(|seen| seen.kind == Kind::ContainerState).count() == 2
    });
    assert_eq!((fake.fired("torn list"), fake.fired("status")), (1, 1));
    assert!(events.iter().all(|seen| seen.kind != Kind::ObjectChange || seen.slot("deleted") == 0));
    agent.wait_health("health", |health| health.state == State::Running);
}

/// Scenario: an ERROR that is not 410 inside HTTP 200, and lines that are no JSON, no object, and of an unknown type.
/// Guarantees: the watch goes on; what could not be read is a gap that says so.
#[test]
fn lies_do_not_stop_a_watch() {
    let fake = Fake::start();
    fake.put("pods", pod("web", 0, &running(), &json!({})));
    let agent = watched(&fake);
    fake.fault("pods", Fault::ErrorInside(500));
    fake.cut();
    let lines: [&[u8]; 3] = [
        b"<html>not an API server</html>\n",
        b"{\"type\":\"MODIFIED\",\"object\":[1,2]}\n",
        b"{\"type\":\"WHATEVER\",\"object\":{}}\n",
    ];
    for (run, line) in lines.into_iter().enumerate() {
        fake.fault("pods", Fault::Line(Arc::from(line)));
        let run = run as u64;
        fake.put("pods", pod("web", run + 1, &running(), &killed("web", run)));
        agent.wait_for("the end", has_end(&format!("web-{run}")));
    }
    assert_eq!((fake.fired("error inside"), fake.fired("line")), (1, 3));
    assert_eq!(ends(&agent.events()), ["web-0", "web-1", "web-2"]);
    let gaps = agent.of(Kind::WatchGap);
    assert!(
        gaps.iter().all(|gap| gap.get(fields::CAUSE) == "unreadable" && gap.slot("lost") == 1),
        "{gaps:#?}"
    );
    assert_eq!(gaps.len(), 1, "{gaps:#?}");
}

/// Scenario: an object of 5 MB comes in the middle of a watch, and another in a list.
/// Guarantees: each is passed over with one warning and a gap; its neighbours are seen.
#[test]
fn an_object_of_5_mb_is_passed_over() {
    let fake = Fake::start();
    fake.put("pods", pod("web", 0, &running(), &json!({})));
    let agent = watched(&fake);
    let large = format!(
        "{{\"type\":\"MODIFIED\",\"object\":{{\"metadata\":{{\"uid\":\"x\"}},\"data\":\"{}\"}}}}\n",
        "x".repeat(5 << 20)
    );
    fake.fault("pods", Fault::Line(Arc::from(large.into_bytes())));
    fake.put("pods", pod("web", 1, &running(), &killed("web", 0)));
    let events = agent.wait_for("the end", has_end("web-0"));
    assert_eq!(fake.fired("line"), 1);
    let gaps: Vec<_> = events.iter().filter(|seen| seen.kind == Kind::WatchGap).collect();
    assert_eq!((gaps.len(), gaps[0].get(fields::CAUSE), gaps[0].slot("lost")), (1, "too_large", 1));
    assert_eq!(warnings("an object of pods is larger than").len(), 1);
}

/// Scenario: 403 for pods, for as long as the test runs; everything else is served.
/// Guarantees: the collector says so once, names what to do, goes on with the rest, and asks rarely.
#[test]
fn a_forbidden_resource_does_not_stop_the_others() {
    let fake = Fake::start();
    for _ in 0..1000 {
        fake.fault("pods", Fault::Status(403, "pods is forbidden: User \"x\" cannot list resource \"pods\""));
    }
    fake.put(
        "nodes",
        json!({"metadata": {"name": "here", "uid": "n"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
    );
    let agent = Agent::start(settings(&fake.kubeconfig(), &fake.state_dir()));
    agent.wait_for("the node", |events| events.iter().any(|seen| seen.kind == Kind::NodeCondition));
    let health = agent.wait_health("the reason", |health| health.reason.contains("403"));
    assert_eq!(health.state, State::Degraded);
    assert!(
        health.reason.contains("list and watch pods") && health.reason.contains("rbac.yaml"),
        "{}",
        health.reason
    );
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(fake.fired("status"), 1, "it was asked again within seconds");
}

/// Scenario: the token expires; a new one is put into its file a little later.
/// Guarantees: one complaint that says what to do; the new token is found without a restart; nothing is lost.
#[test]
fn a_renewed_token_is_read_from_its_file() {
    let fake = Fake::start();
    fake.put("pods", pod("web", 0, &running(), &json!({})));
    let agent = watched(&fake);
    fake.accept_only("token-2");
    agent.wait_health("the reason", |health| {
        health.state == State::Failed && health.reason.contains("does not accept this agent's credentials")
    });
    fake.put("pods", pod("web", 1, &running(), &killed("web", 0)));
    fake.set_token_file("token-2");
    let events = agent.wait_for("the end", has_end("web-0"));
    assert_eq!(ends(&events), ["web-0"]);
    agent.wait_health("recovery", |health| health.state == State::Running);
    assert!(fake.asked().iter().any(|asked| asked.authorization == "Bearer token-2"));
    let said = warnings(&fake.address).into_iter().filter(|line| line.contains("credentials")).count();
    assert_eq!(said, 1);
}

/// Scenario: nobody listens where the API server is said to be.
/// Guarantees: one warning for all watches together, that names the address; the attempts get rare.
#[test]
fn an_unreachable_server_is_one_complaint() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody else uses this address of loopback.
    let address = "127.0.0.2:9";
    let kubeconfig = write_kubeconfig(folder.path(), &format!("http://{address}"), "token: x", "");
    let agent =
        Agent::start(Settings { k8s_scope: ClusterScope::All, ..settings(&kubeconfig, folder.path()) });
    let health = agent.wait_health("the reason", |health| health.reason.contains("cannot reach"));
    assert_eq!(health.state, State::Failed);
    std::thread::sleep(Duration::from_secs(3));
    let said = warnings(address);
    assert_eq!(said.len(), 1, "{said:#?}");
}

/// Scenario: the server's certificate is signed by nobody whom the kubeconfig names.
/// Guarantees: one complaint about the certificate, which names what to check.
#[test]
fn a_wrong_certificate_authority_is_one_complaint() {
    let folder = tempfile::tempdir().unwrap();
    let Some(address) = serve_tls(folder.path()) else {
        return crate::skipped("a_wrong_certificate_authority_is_one_complaint", "openssl is missing");
    };
    let cluster = format!("    certificate-authority: {}", folder.path().join("other.crt").display());
    let kubeconfig = write_kubeconfig(folder.path(), &format!("https://{address}"), "token: x", &cluster);
    let agent = Agent::start(settings(&kubeconfig, folder.path()));
    let health = agent.wait_health("the reason", |health| health.reason.contains("certificate"));
    assert!(health.reason.contains("certificate-authority"), "{}", health.reason);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(warnings(&address).len(), 1, "{:#?}", warnings(&address));
}

/// Serves TLS with a certificate of its own, and makes another that did not sign it.
fn serve_tls(folder: &std::path::Path) -> Option<String> {
    for name in ["own", "other"] {
        let status = std::process::Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=fake"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .arg("-keyout")
            .arg(folder.join(format!("{name}.key")))
            .arg("-out")
            .arg(folder.join(format!("{name}.crt")))
            .stderr(std::process::Stdio::null())
            .status()
            .ok()?;
        assert!(status.success());
    }
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::{ServerConfig, ServerConnection, crypto};
    let certificate = CertificateDer::from_pem_file(folder.join("own.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("own.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), Ok(mut tls)) = (stream, ServerConnection::new(Arc::clone(&config))) else {
                return;
            };
            // The other side refuses the certificate, which ends this.
            while tls.complete_io(&mut stream).is_ok() && tls.is_handshaking() {}
        }
    });
    Some(address)
}

/// Scenario: 100,000 Events of the API, as fast as they can be sent, of which some repeat.
/// Guarantees: each is an event, none is remembered, nothing is lost or shed.
#[test]
fn a_hundred_thousand_events_are_taken() {
    const COUNT: u64 = 100_000;
    let fake = Fake::start();
    fake.put("pods", pod("web", 0, &running(), &json!({})));
    let agent = watched(&fake);
    let version = fake.put(
        "events",
        json!({"metadata": {"uid": "first"},
        "involvedObject": {"kind": "Pod", "uid": "uid-web", "name": "web"}, "reason": "Started",
        "lastTimestamp": "2100-01-01T00:00:00Z"}),
    );
    agent.wait_for("the first", |events| events.iter().any(|seen| seen.kind == Kind::ObjectEvent));
    let mut lines = String::new();
    for number in 1..=COUNT {
        lines.push_str(&format!(
            "{{\"type\":\"ADDED\",\"object\":{{\"metadata\":{{\"uid\":\"e{}\",\"resourceVersion\":\"{}\"}},\
             \"involvedObject\":{{\"kind\":\"Pod\",\"uid\":\"uid-web\",\"name\":\"web\"}},\"reason\":\"Unhealthy\",\
             \"message\":\"Readiness probe failed\",\"count\":{number},\"lastTimestamp\":\"{}\"}}}}\n",
            number % 1000,
            version + number,
            today(),
        ));
    }
    fake.fault("events", Fault::Line(Arc::from(lines.into_bytes())));
    fake.put(
        "events",
        json!({"metadata": {"uid": "last"},
        "involvedObject": {"kind": "Pod", "uid": "uid-web", "name": "web"}, "reason": "Pulled"}),
    );
    let made = |agent: &Agent| agent.ledger().produced;
    agent.wait_for("all of them", |_| made(&agent) >= COUNT);
    assert_eq!(fake.fired("line"), 1);
    let events = agent.of(Kind::ObjectEvent);
    let unhealthy = events.iter().filter(|seen| seen.get(fields::REASON) == "Unhealthy").count();
    assert_eq!(unhealthy as u64, COUNT);
    assert!(numbers(&events).values().all(|&count| count == 1));
    assert_eq!(agent.ledger().shed.values().sum::<u64>(), 0);
}
