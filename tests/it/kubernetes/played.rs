//! Thousands of changes of pods that run nowhere: kwok plays the kubelet at a real API server.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use serde_json::json;
use tapio::event::{Kind, fields};
use tapio::health::State;

use super::agent::{Agent, Seen, numbers, settings};
use super::plane::{Plane, step};
use crate::skipped;

const PODS: &str = "/api/v1/namespaces/shop/pods";

/// How many pods there are of each revision: `TAPIO_PODS`, which `scripts/test --long` raises.
fn count_of_pods() -> usize {
    std::env::var("TAPIO_PODS").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

/// The steps of a pod with `life: long` in tests/rigs/kube/kwok/stages.yaml, and its deletion.
const LONG: [&str; 8] = [
    "ContainerCreating",
    "running 0",
    "end 0",
    "running 1",
    "end 1",
    "CrashLoopBackOff",
    "Evicted",
    "deleted",
];

/// The same with `life: short`.
const SHORT: [&str; 3] = ["ContainerCreating", "running 0", "deleted"];

/// Makes the pods of a revision, and returns their uids.
fn make_pods(plane: &Plane, pods: usize, [revision, life]: [&str; 2]) -> Vec<String> {
    let make = |number| {
        let name = format!("web-{revision}-{number}");
        let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("web-{revision}"),
            "uid": revision, "controller": true}]);
        let metadata = json!({"name": name, "ownerReferences": owner,
            "labels": {"life": life, "pod-template-hash": revision}});
        let spec = json!({"nodeName": "here", "automountServiceAccountToken": false,
            "containers": [{"name": "web", "image": "web:1"}]});
        let made = plane.post(PODS, &json!({"metadata": metadata, "spec": spec}));
        made["metadata"]["uid"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
    };
    (0..pods).map(make).collect()
}

/// How many events show this step of a life.
fn count(events: &[Seen], wanted: &str) -> usize {
    events.iter().filter(|seen| step(seen).as_deref() == Some(wanted)).count()
}

/// The steps that were seen of each pod, by uid, in order.
fn lives(events: &[Seen]) -> BTreeMap<&str, Vec<String>> {
    let mut lives: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for seen in events {
        let Some(step) = step(seen) else { continue };
        let uid = if seen.kind == Kind::ObjectChange { fields::OBJECT_UID } else { fields::POD_UID };
        lives.entry(seen.get(uid)).or_default().push(step);
    }
    lives
}

/// Scenario: kwok takes 200 pods through creation, ready, two kills for memory, back-off and eviction; then a rollout
/// puts 200 others in their place, which get ready and are deleted. The API server is restarted in the middle of the
/// kills, and again in the middle of the back-offs.
/// Guarantees: every status change of every pod is seen, each exactly once after duplicates are removed by number, and
/// the ledger closes.
#[test]
fn live_two_restarts_lose_no_status_of_200_pods() {
    let test = "live_two_restarts_lose_no_status_of_200_pods";
    let Some(plane) = Plane::start(test) else { return };
    let pods = count_of_pods();
    plane.post("/api/v1/nodes", &json!({"metadata": {"name": "here"}}));
    if let Err(reason) = plane.play() {
        return skipped(test, &reason);
    }
    let agent = Agent::start(settings(&plane.kubeconfig(), &plane.state_dir()));
    agent.wait_health("health", |health| health.state == State::Running);
    let old = make_pods(&plane, pods, ["old", "long"]);
    let mut reached = Vec::new();
    for restart_in in ["end 0", "CrashLoopBackOff"] {
        agent.wait_for(restart_in, |events| count(events, restart_in) >= pods / 8);
        reached.push(format!("{restart_in} of {}", count(&agent.events(), restart_in)));
        plane.stop_api_server();
        plane.start_again();
    }
    agent.wait_for("every eviction", |events| count(events, "Evicted") >= pods);
    let new = make_pods(&plane, pods, ["new", "short"]);
    for number in 0..pods {
        plane.delete(&format!("{PODS}/web-old-{number}"));
    }
    agent.wait_for("the new revision", |events| count(events, "running 0") >= 2 * pods);
    for number in 0..pods {
        plane.delete_gracefully(&format!("{PODS}/web-new-{number}"));
    }
    agent.wait_for("every deletion", |events| count(events, "deleted") >= 2 * pods);

    let mut events = agent.events();
    let repeated = numbers(&events).values().filter(|&&count| count > 1).count();
    let mut known = BTreeSet::new();
    events.retain(|seen| known.insert(seen.number));
    let lives = lives(&events);
    for (uids, expected) in [(&old, &LONG[..]), (&new, &SHORT[..])] {
        for uid in uids {
            assert_eq!(lives.get(uid.as_str()).map(Vec::as_slice).unwrap_or_default(), expected, "{uid}");
        }
    }
    let gaps = agent.of(Kind::WatchGap).len();
    let report = format!(
        "2 x {pods} pods, restarts at {}: {} events, {repeated} repeated, {gaps} gaps\n",
        reached.join(" and at "),
        events.len()
    );
    std::io::stderr().lock().write_all(report.as_bytes()).unwrap();
    let ledger = agent.ledger();
    assert_eq!(ledger.shed.values().sum::<u64>(), 0);
    assert_eq!(ledger.drained, agent.events().len() as u64);
}
