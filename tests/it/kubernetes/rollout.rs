//! A rollout that goes wrong and a node that is lost: controllers, scheduler and kubelet as they are.

use std::time::SystemTime;

use rustix::process::Signal;
use serde_json::{Value, json};
use tapio::explain::Incident;

use super::asked;
use super::joined::{ERROR_3, KILLED, KUBELET, OVER, STATUS_3, assert_joined};
use super::plane::Plane;
use super::programs::{Programs, Stored, is_about, report, told};
use crate::journal::live::{Journald, unavailable};
use crate::skipped;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/shop/deployments";

/// A Deployment of two pods that are ready once their script says so, on any node that lives.
fn deployment(script: &str) -> Value {
    let container = json!({"name": "main", "image": "rig.local/busybox:1", "imagePullPolicy": "Never",
        "command": ["sh", "-c", script], "readinessProbe": {"exec": {"command": ["test", "-e", "/ready"]}, "periodSeconds": 1}});
    let leave = |key: &str| {
        json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": 2})
    };
    let spec = json!({"hostNetwork": true, "automountServiceAccountToken": false, "containers": [container],
        "terminationGracePeriodSeconds": 1, "tolerations": [leave("unreachable"), leave("not-ready")]});
    json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "progressDeadlineSeconds": 12,
        "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": spec}}})
}

/// Waits until the rollout is done: every pod is of this generation, and ready.
fn rolled_out(plane: &Plane, programs: &Programs, generation: i64) {
    programs.wait(&format!("generation {generation}"), |_| {
        let now = plane.get(&format!("{DEPLOYMENTS}/web"));
        let of = |field: &str| now["status"][field].as_i64().unwrap_or_default();
        let is_done = of("observedGeneration") == generation
            && ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|field| of(field) == 2);
        if is_done { Ok(()) } else { Err(now["status"].to_string()) }
    });
}

/// Keeps the node `other` alive, which nobody runs.
fn beat(plane: &Plane) {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let ready =
        json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now});
    plane.patch("/api/v1/nodes/other/status", &json!({"status": {"conditions": [ready]}}));
}

/// Waits until nothing but these many pods is left.
fn pods_left(plane: &Plane, programs: &Programs, count: usize) {
    programs.wait(&format!("{count} pods"), |_| {
        let pods = plane.get("/api/v1/namespaces/shop/pods");
        let names: Vec<String> =
            pods["items"].as_array().unwrap().iter().map(|pod| pod["metadata"]["name"].to_string()).collect();
        if names.len() == count { Ok(()) } else { Err(names) }
    });
}

/// The pods of which the API says that a container ended with this status, with their revisions.
fn revisions_with_status(programs: &Programs, status: i64) -> Vec<String> {
    let states = programs.events("kind=container_state");
    let ended = |event: &&Stored| event.slot("terminated") == 1 && event.slot("exit_code") == status;
    let mut revisions: Vec<String> =
        states.iter().filter(ended).map(|event| event.field("REVISION").to_owned()).collect();
    revisions.dedup();
    revisions
}

/// The ids of the containers of which the API says that they ended, and this.
fn ended(programs: &Programs, so: impl Fn(&Stored) -> bool) -> Vec<String> {
    let states = programs.events("kind=container_state").into_iter();
    let ended = states.filter(|event| event.slot("terminated") == 1 && so(event));
    ended.map(|event| event.container_id().to_owned()).filter(|id| !id.is_empty()).collect()
}

/// The pods that the controllers evicted from a lost node.
fn evicted(programs: &Programs) -> Vec<String> {
    let told = programs.events("kind=object_event").into_iter();
    let evicted = told.filter(|event| event.field("REASON") == "TaintManagerEviction");
    evicted.map(|event| event.field("POD").to_owned()).collect()
}

/// Scenario: on a real cluster pods are deleted, scaled down and drained. A Deployment is rolled out twice: to a revision
/// as good as the first, then to one that ends at once, which the controllers give up. Then the kubelet stops, the node is
/// lost, and its pods are evicted; the kubelet goes on.
/// Guarantees: nothing is said of what was asked for; the bad rollout is the root of what fails, and only of that. The
/// node's condition and taint and the evictions are seen as the API tells them, and its kubelet, which is silent, is their
/// root. One query by a container's id finds what the kernel, the journal and the API tell of both.
#[test]
fn live_a_bad_rollout_and_a_lost_node() {
    let test = "live_a_bad_rollout_and_a_lost_node";
    if let Some(reason) = unavailable() {
        return skipped(test, reason);
    }
    let Some(plane) = Plane::start(test) else { return };
    let journald = Journald::of_kernel("rollout");
    if let Err(reason) = plane.start_node(Some(&journald)) {
        return skipped(test, &reason);
    }
    let mut programs = Programs::start(&plane, Some(journald));
    asked::is_silent(&plane, &programs, &deployment("touch /ready; sleep 1000"));
    plane.post(DEPLOYMENTS, &deployment("touch /ready; sleep 1000"));
    rolled_out(&plane, &programs, 1);
    let change = |script: &str| {
        plane.patch(&format!("{DEPLOYMENTS}/web"), &json!({"spec": deployment(script)["spec"]}));
    };
    change("touch /ready; sleep 1001");
    rolled_out(&plane, &programs, 2);
    let about = |name: &str| {
        let all = programs.incidents();
        all.iter().filter(|incident| is_about(incident, name)).map(told).collect::<Vec<_>>()
    };
    assert_eq!(about("shop/web"), Vec::<String>::new(), "what was asked for is no failure");

    change("sleep 0.2; exit 3");
    let bad = programs.incident("shop/web", |incident| {
        let has = |kind: &str| incident.facts.iter().any(|fact| fact.kind == kind);
        incident.root_cause.kind == "rollout" && has("crash_loop") && has("rollout_failed")
    });
    report(&bad);
    let root = &bad.root_cause.entity;
    assert_eq!((root.kind.as_str(), root.name.as_str()), ("deployment", "shop/web"), "{}", told(&bad));
    let hash =
        bad.facts.iter().find(|fact| fact.id == bad.root_cause.fact).map(|fact| &fact.detail["revision"]);
    let revisions = revisions_with_status(&programs, 3);
    assert_eq!(revisions.len(), 1, "only the new revision fails: {revisions:?}");
    assert_eq!(hash.and_then(Value::as_str), Some(&*revisions[0]), "its own rollout: {}", told(&bad));
    assert_joined(
        &programs,
        "a container of the bad revision",
        || ended(&programs, |event| event.slot("exit_code") == 3),
        &[STATUS_3, KUBELET, ERROR_3],
    );
    change("touch /ready; sleep 1001");
    rolled_out(&plane, &programs, 4);
    pods_left(&plane, &programs, 2);

    let good = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
    // Where every node is lost, the controllers take the blame on themselves and evict nobody.
    let other = json!({"metadata": {"name": "other"},
        "spec": {"taints": [{"key": "rig.local/empty", "effect": "NoSchedule"}]}});
    plane.post("/api/v1/nodes", &other);
    beat(&plane);
    plane.signal("kubelet", Signal::STOP);
    let lost = programs.wait("the verdict on the lost node", |programs| {
        beat(&plane);
        let all = programs.incidents();
        let is_lost = |incident: &&Incident| {
            incident.root_cause.kind == "kubelet_unavailable"
                && is_about(incident, "shop/web")
                && incident.facts.iter().any(|fact| fact.kind == "evicted")
        };
        all.iter().find(is_lost).cloned().ok_or_else(|| about("shop/web"))
    });
    plane.signal("kubelet", Signal::CONT);
    report(&lost);
    let root = &lost.root_cause.entity;
    assert_eq!((root.kind.as_str(), root.name.as_str()), ("node", "rig"), "{}", told(&lost));
    let conditions = programs.events("kind=node_condition");
    let said = |condition: &str, status: &str, reason: &str| {
        conditions.iter().any(|event| {
            event.field("CONDITION") == condition
                && event.field("STATUS") == status
                && event.field("REASON").starts_with(reason)
        })
    };
    assert!(said("Ready", "Unknown", "NodeStatusUnknown"), "{conditions:?}");
    assert!(said("Taint", "True", "node.kubernetes.io/unreachable"), "{conditions:?}");
    let evicted = evicted(&programs);
    assert!(evicted.len() >= 2, "{evicted:?}: 2 pods were evicted");
    rolled_out(&plane, &programs, 4);
    assert_joined(
        &programs,
        "a container of the lost node",
        || ended(&programs, |event| evicted.iter().any(|pod| pod == event.field("POD"))),
        &[KILLED, OVER],
    );
    programs.stop();
    programs.keep("asked", "tests/it/kubernetes/asked.rs", "calm/", ..);
    programs.keep(
        "rollout",
        "the bad revision of tests/it/kubernetes/rollout.rs",
        "shop/web",
        ..good.clone(),
    );
    programs.keep("node-lost", "the lost node of tests/it/kubernetes/rollout.rs", "shop/web", good..);
}
