//! Ordinary life at the fake API server, and the place in time over gaps and restarts of the agent.

use std::sync::OnceLock;
use std::time::SystemTime;

use serde_json::{Value, json};
use tapio::config::{ClusterScope, Settings};
use tapio::event::{Kind, fields};
use tapio::health::State;

use super::agent::{Acks, Agent, Seen, numbers, settings, warnings};
use super::fake::Fake;

/// A pod of this node whose one container has this state.
pub(super) fn pod(name: &str, restarts: u64, state: &Value, last: &Value) -> Value {
    json!({
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"),
            "labels": {"pod-template-hash": "5d4"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-5d4", "controller": true}]},
        "spec": {"nodeName": "here", "containers": [{"name": "web", "image": "web:1"}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "web", "image": "web:1", "ready": true,
            "restartCount": restarts, "containerID": format!("containerd://{name}-{restarts}"),
            "state": state, "lastState": last}]}
    })
}

/// A point in time of this run of the tests, as the API writes it: detectors are not shown what was before the boot.
pub(super) fn today() -> &'static str {
    static TODAY: OnceLock<String> = OnceLock::new();
    TODAY.get_or_init(|| humantime::format_rfc3339_seconds(SystemTime::now()).to_string())
}

pub(super) fn running() -> Value {
    json!({"running": {"startedAt": today()}})
}

pub(super) fn killed(name: &str, run: u64) -> Value {
    json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "startedAt": today(),
        "finishedAt": today(), "containerID": format!("containerd://{name}-{run}")}})
}

/// The ends of runs, by container id, in order.
pub(super) fn ends(events: &[Seen]) -> Vec<String> {
    let ends = events.iter().filter(|seen| seen.kind == Kind::ContainerState && seen.slot("terminated") == 1);
    ends.map(|seen| seen.get(fields::CONTAINER_ID).to_owned()).collect()
}

pub(super) fn has_end(id: &str) -> impl Fn(&[Seen]) -> bool {
    let id = id.to_owned();
    move |events| ends(events).contains(&id)
}

/// Scenario: a pod of this node and one of another; a container is killed for memory, restarted, its pod deleted.
/// Guarantees: everything about the own pod is seen once, with the keys that others join by, and nothing of the other.
#[test]
fn a_pod_is_followed_from_start_to_end() {
    let fake = Fake::start();
    let mut other = pod("elsewhere", 0, &running(), &json!({}));
    other["spec"]["nodeName"] = json!("there");
    fake.put("pods", other);
    fake.put("pods", pod("web", 0, &running(), &json!({})));
    let agent = Agent::start(settings(&fake.kubeconfig(), &fake.state_dir()));
    agent.wait_for("the pod", |events| events.iter().any(|seen| seen.kind == Kind::ContainerState));
    fake.put("pods", pod("web", 0, &killed("web", 0), &json!({})));
    fake.put("pods", pod("web", 1, &running(), &killed("web", 0)));
    fake.delete("pods", "uid-web");
    let gone = |seen: &Seen| seen.kind == Kind::ObjectChange && seen.slot("deleted") == 1;
    let events = agent.wait_for("the deletion", |events| events.iter().any(gone));
    assert_eq!(ends(&events), ["web-0"]);
    let end = events.iter().find(|seen| has_end("web-0")(std::slice::from_ref(seen))).unwrap();
    let joined = [fields::POD_UID, fields::POD, fields::OWNER, fields::REVISION, fields::REASON];
    let joined = joined.map(|name| end.get(name).to_owned());
    assert_eq!(joined, ["uid-web", "web", "Deployment/shop/web", "5d4", "OOMKilled"]);
    assert!(events.iter().all(|seen| !format!("{seen:?}").contains("elsewhere")));
    assert!(numbers(&events).values().all(|&count| count == 1));
    agent.wait_health("health", |health| health.state == State::Running);
}

/// Scenario: nothing changes for a while.
/// Guarantees: nothing is asked after the watches were opened.
#[test]
fn an_idle_cluster_is_not_asked() {
    let fake = Fake::start();
    for number in 0..20 {
        fake.put("pods", pod(&format!("web-{number}"), 0, &running(), &json!({})));
    }
    let settings =
        Settings { k8s_scope: ClusterScope::All, ..settings(&fake.kubeconfig(), &fake.state_dir()) };
    let agent = Agent::start(settings);
    agent.wait_health("health", |health| health.state == State::Running);
    let watches = |fake: &Fake| fake.asked().iter().filter(|asked| asked.is_watch).count();
    // Three of its own, two more of pods and nodes, and one for each kind of the cluster.
    let all = 5 + tapio::collector::kubernetes::resources().count() - 3;
    agent.wait_for("the watches", |_| watches(&fake) >= all);
    let before = fake.asked().len();
    std::thread::sleep(std::time::Duration::from_secs(5));
    let asked: Vec<_> = fake.asked().into_iter().skip(before).collect();
    assert_eq!(asked.len(), 0, "{asked:?}");
    let metadata =
        fake.asked().into_iter().filter(|asked| asked.plural == "secrets" || asked.plural == "configmaps");
    assert!(metadata.into_iter().all(|asked| asked.accept.contains("as=PartialObjectMetadata")));
}

/// Scenario: connections break again and again while containers are killed and restarted.
/// Guarantees: every end is seen exactly once, nothing makes a gap, and no list is asked for a second time.
#[test]
fn broken_connections_lose_nothing() {
    let fake = Fake::start();
    fake.put("pods", pod("web", 0, &running(), &json!({})));
    let agent = Agent::start(settings(&fake.kubeconfig(), &fake.state_dir()));
    agent.wait_for("the pod", |events| events.iter().any(|seen| seen.kind == Kind::ContainerState));
    for run in 0..12 {
        fake.put("pods", pod("web", run, &killed("web", run), &json!({})));
        if run % 3 == 0 {
            fake.cut();
        }
        fake.put("pods", pod("web", run + 1, &running(), &killed("web", run)));
    }
    let events = agent.wait_for("the last end", has_end("web-11"));
    let expected: Vec<String> = (0..12).map(|run| format!("web-{run}")).collect();
    assert_eq!(ends(&events), expected);
    assert!(agent.of(Kind::WatchGap).is_empty());
    let lists = fake.asked().into_iter().filter(|asked| asked.plural == "pods" && !asked.is_watch).count();
    assert_eq!(lists, 1);
}

/// Scenario: the server forgets the versions from which a watch wants to go on, while a pod changed and one went.
/// Guarantees: a list is compared with what was known, the gap is said once and is in the ledger.
#[test]
fn a_forgotten_version_makes_a_gap() {
    let fake = Fake::start();
    fake.put("pods", pod("web", 0, &running(), &json!({})));
    fake.put("pods", pod("old", 0, &running(), &json!({})));
    let agent = Agent::start(settings(&fake.kubeconfig(), &fake.state_dir()));
    let both = |events: &[Seen]| events.iter().filter(|seen| seen.kind == Kind::ContainerState).count() == 2;
    agent.wait_for("the pods", both);
    // The watch must not see the change before it is cut.
    fake.fault("pods", super::fake::Fault::ErrorInside(410));
    fake.cut();
    fake.put("pods", pod("web", 3, &running(), &killed("web", 2)));
    fake.delete("pods", "uid-old");
    let events = agent.wait_for("the gap", |events| events.iter().any(|seen| seen.kind == Kind::WatchGap));
    assert_eq!(fake.fired("error inside"), 1);
    let gaps: Vec<_> = events.iter().filter(|seen| seen.kind == Kind::WatchGap).collect();
    assert_eq!((gaps[0].get(fields::RESOURCE), gaps[0].get(fields::CAUSE)), ("pods", "expired"));
    assert_eq!(ends(&events), ["web-2"]);
    let gone: Vec<_> =
        events.iter().filter(|seen| seen.kind == Kind::ObjectChange && seen.slot("deleted") == 1).collect();
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0].get(fields::OBJECT), "Pod/shop/old");
    assert_eq!(agent.ledger().ring_lost, 1);
}

/// Scenario: the agent is stopped; containers end and a pod goes meanwhile; it starts again, then once more after the
/// server forgot what was between.
/// Guarantees: what happened meanwhile is seen, with the numbers that a watch would have given; nothing that was stored
/// comes again; only the second start makes a gap.
#[test]
fn a_restart_goes_on_where_it_was() {
    let fake = Fake::start();
    let folder = tempfile::tempdir().unwrap();
    let acks = Acks::start(folder.path());
    let wanted =
        || Settings { server: acks.address.clone(), ..settings(&fake.kubeconfig(), &fake.state_dir()) };
    std::fs::create_dir_all(fake.state_dir()).unwrap();
    let kept = fake.state_dir().join("kubernetes.json");
    let wait_kept = |agent: &Agent, version: u64| {
        agent.wait_for("the position", |_| {
            std::fs::read_to_string(&kept)
                .is_ok_and(|text| text.contains(&format!("\"position\":\"{version}\"")))
        });
    };
    fake.put("pods", pod("gone", 0, &running(), &json!({})));
    let version = fake.put("pods", pod("web", 0, &running(), &json!({})));
    let agent = Agent::start(wanted());
    wait_kept(&agent, version);
    let first = agent.stop();

    fake.put("pods", pod("web", 0, &killed("web", 0), &json!({})));
    fake.put("pods", pod("web", 1, &running(), &killed("web", 0)));
    let agent = Agent::start(wanted());
    agent.wait_for("the end", has_end("web-0"));
    wait_kept(&agent, version + 2);
    let second = agent.stop();
    assert_eq!(ends(&second), ["web-0"]);
    let (before, after) = (numbers(&first), numbers(&second));
    assert!(after.keys().all(|number| !before.contains_key(number)), "an event came again");
    assert!(second.iter().all(|seen| seen.kind != Kind::WatchGap));

    fake.put("pods", pod("web", 2, &running(), &killed("web", 1)));
    fake.delete("pods", "uid-gone");
    fake.compact();
    let agent = Agent::start(wanted());
    let third = agent.wait_for("the gap", |events| {
        events.iter().any(|seen| seen.kind == Kind::WatchGap && seen.get(fields::RESOURCE) == "pods")
    });
    assert_eq!(ends(&third), ["web-1"]);
    let gone = |seen: &&Seen| seen.kind == Kind::ObjectChange && seen.slot("deleted") == 1;
    assert_eq!(third.iter().filter(gone).count(), 1);
    let states = third.iter().filter(|seen| seen.kind == Kind::PodState).count();
    assert_eq!(states, 0, "what did not change was said again");
}

/// Scenario: the agent is killed before anything was stored, and starts again.
/// Guarantees: everything comes again, with the same numbers: a receiver keeps one of each.
#[test]
fn what_was_not_stored_comes_again_with_its_numbers() {
    let fake = Fake::start();
    fake.put("pods", pod("web", 0, &running(), &json!({})));
    let run = || {
        let agent = Agent::start(settings(&fake.kubeconfig(), &fake.state_dir()));
        agent.wait_for("the end", has_end("web-0"));
        agent.stop()
    };
    fake.put("pods", pod("web", 1, &running(), &killed("web", 0)));
    let (first, second) = (run(), run());
    assert_eq!(numbers(&first), numbers(&second));
    assert!(!fake.state_dir().join("kubernetes.json").exists());
}

/// Scenario: there is no cluster; then a kubeconfig appears.
/// Guarantees: until then the collector is disabled, says why once, and costs nothing.
#[test]
fn no_cluster_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let agent = Agent::start(settings(&missing, folder.path()));
    let health = agent.wait_health("health", |health| health.state == State::Disabled);
    assert_eq!(health.reason, format!("there is no kubeconfig {}", missing.display()));
    assert!(warnings(&missing.display().to_string()).is_empty(), "no cluster is no reason to warn");
    assert!(agent.events().is_empty());
}
