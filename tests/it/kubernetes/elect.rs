//! Who watches the cluster, when who did is cut off from it and comes back.

use std::path::Path;

use serde_json::{Value, json};
use tapio::config::{ClusterScope, Settings};
use tapio::event::{Kind, fields};

use super::agent::{Agent, Seen, settings};
use super::fake::{Fake, write_kubeconfig};

fn agent(fake: &Fake, name: &str, folder: &Path) -> Agent {
    let folder = folder.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let kubeconfig =
        write_kubeconfig(&folder, &format!("http://{}", fake.address), &format!("token: {name}"), "");
    Agent::start(Settings {
        k8s_scope: ClusterScope::Elect,
        node_name: name.into(),
        ..settings(&kubeconfig, &folder)
    })
}

fn deployment(image: &str) -> Value {
    json!({"kind": "Deployment", "metadata": {"name": "web", "namespace": "shop", "uid": "d", "generation": 1},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "web", "image": image}]}}}})
}

/// The numbers of what was seen of the deployment.
fn changes(agent: &Agent) -> Vec<u64> {
    let of_it =
        |seen: &Seen| seen.kind == Kind::ObjectChange && seen.get(fields::OBJECT).ends_with("shop/web");
    agent.events().iter().filter(|seen| of_it(seen)).map(|seen| seen.number).collect()
}

/// Scenario: two agents stand for election; the one that holds the Lease is refused by the server, as if it were dead,
/// while a deployment changes; after the other took over, the first is let in again, and the deployment changes again.
/// Guarantees: the other watches the cluster once the Lease has run out, and says that there is a gap; the first does
/// not watch it any more; no version of the deployment is seen by both.
#[test]
fn a_lost_holder_is_succeeded_and_does_not_come_back() {
    let fake = Fake::start();
    let folder = tempfile::tempdir().unwrap();
    fake.put("deployments", deployment("web:1"));
    let first = agent(&fake, "first", folder.path());
    first.wait_for("the deployment", |_| changes(&first).len() == 1);
    assert!(fake.holder("tapio-collector").starts_with("first_"));
    let second = agent(&fake, "second", folder.path());
    let stood = |fake: &Fake| {
        let leases = fake.asked().into_iter().filter(|asked| asked.plural == "leases" && asked.is_watch);
        leases.filter(|asked| asked.authorization == "Bearer second").count()
    };
    second.wait_for("its watch of the Lease", |_| stood(&fake) > 0);
    assert!(changes(&second).is_empty(), "both watch the cluster");

    fake.accept_only("second");
    fake.put("deployments", deployment("web:2"));
    second.wait_for("the succession", |_| changes(&second).len() == 1);
    assert!(fake.holder("tapio-collector").starts_with("second_"));
    assert!(second.of(Kind::WatchGap).iter().any(|gap| gap.get(fields::CAUSE) == "takeover"));
    assert_eq!(changes(&first).len(), 1, "the first saw what it was refused");

    fake.accept_all();
    fake.put(
        "nodes",
        json!({"metadata": {"name": "first", "uid": "n"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
    );
    first.wait_for("its own node", |events| events.iter().any(|seen| seen.kind == Kind::NodeCondition));
    fake.put("deployments", deployment("web:3"));
    second.wait_for("the change", |_| changes(&second).len() == 2);
    let (first, second) = (changes(&first), changes(&second));
    assert_eq!(first.len(), 1, "the first watches the cluster again");
    assert!(first.iter().all(|number| !second.contains(number)), "{first:?} {second:?}");
}

/// Scenario: the holder of the Lease is stopped in the ordinary way while another waits.
/// Guarantees: the Lease is given back, and the other goes on without waiting for its end.
#[test]
fn a_stopped_holder_gives_the_lease_back() {
    let fake = Fake::start();
    let folder = tempfile::tempdir().unwrap();
    fake.put("deployments", deployment("web:1"));
    let first = agent(&fake, "first", folder.path());
    first.wait_for("the deployment", |_| changes(&first).len() == 1);
    let second = agent(&fake, "second", folder.path());
    second.wait_for("health", |_| second.health().is_some());
    let transitions = |holder: &str| fake.holder("tapio-collector").starts_with(holder);
    assert!(transitions("first_"));
    first.stop();
    second.wait_for("the deployment", |_| changes(&second).len() == 1);
    assert!(transitions("second_"));
}
