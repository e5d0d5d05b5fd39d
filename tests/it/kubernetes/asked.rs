//! What is asked for at a real cluster and is no failure: a pod is deleted, a Deployment is scaled down, a node is
//! drained, a Deployment is deleted.
//!
//! Invariants:
//! - The containers ignore SIGTERM, so that each is killed: what a failure looks like, but for who asked.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::plane::Plane;
use super::programs::{Programs, Stored, told};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/calm/deployments";
const PODS: &str = "/api/v1/namespaces/calm/pods";

/// For so long the agent must say nothing after the last of it.
const STAYS: Duration = Duration::from_secs(5);

/// The scheduler watches nodes and pods apart: so long after a change of a node, it knows of it whatever comes next. A pod that
/// it finds no node for, be it for a moment, is a failure that it tells of.
const KNOWN: Duration = Duration::from_secs(1);

/// The names of the pods that are ready, once there are as many as this and no others.
fn ready(plane: &Plane, programs: &Programs, count: usize) -> Vec<String> {
    programs.wait(&format!("{count} ready pods"), |_| {
        let pods = plane.get(PODS);
        let pods = pods["items"].as_array().unwrap();
        let is_ready = |pod: &Value| {
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            pod["metadata"]["deletionTimestamp"].is_null()
                && conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
        };
        let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
        let names: Vec<String> = pods.iter().map(name).collect();
        if pods.len() == count && pods.iter().all(is_ready) { Ok(names) } else { Err(names) }
    })
}

fn cordon(plane: &Plane, node: &str, is_cordoned: bool) {
    plane.patch(&format!("/api/v1/nodes/{node}"), &json!({"spec": {"unschedulable": is_cordoned}}));
}

/// Moves these pods to another node and back, as `kubectl drain` and `kubectl uncordon` do it. Nobody runs what is on the
/// other node.
fn drain(plane: &Plane, programs: &Programs, pods: &[String]) {
    const OTHER: &str = "/api/v1/nodes/spare";
    plane.post("/api/v1/nodes", &json!({"metadata": {"name": "spare"}}));
    let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
    let ready =
        json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now});
    let room = json!({"cpu": "4", "memory": "8Gi", "pods": "10"});
    let status = json!({"conditions": [ready], "allocatable": room, "capacity": room});
    plane.patch(&format!("{OTHER}/status"), &json!({"status": status}));
    programs.wait("the other node", |_| {
        let taints = plane.get(OTHER)["spec"]["taints"].clone();
        if taints.is_null() { Ok(()) } else { Err(taints) }
    });
    cordon(plane, "rig", true);
    std::thread::sleep(KNOWN);
    for name in pods {
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": name, "namespace": "calm"}});
        plane.post(&format!("{PODS}/{name}/eviction"), &body);
    }
    let on_other = || {
        let pods = plane.get(PODS);
        let pods = pods["items"].as_array().unwrap().iter();
        pods.map(|pod| (pod["metadata"]["name"].clone(), pod["spec"]["nodeName"] == "spare"))
            .collect::<Vec<_>>()
    };
    let moved = programs.wait("pods on the other node", |_| {
        let found = on_other();
        if found.len() == pods.len() && found.iter().all(|pod| pod.1) { Ok(found) } else { Err(found) }
    });
    cordon(plane, "rig", false);
    cordon(plane, "spare", true);
    std::thread::sleep(KNOWN);
    for (name, _) in moved {
        plane.delete(&format!("{PODS}/{}", name.as_str().unwrap()));
    }
    self::ready(plane, programs, pods.len());
    plane.delete(OTHER);
}

/// The containers of which the kernel says that they were killed, and the API that they ended.
fn killed(programs: &Programs) -> usize {
    let of = |query: &str, is_it: fn(&Stored) -> bool| -> BTreeSet<String> {
        let events = programs.events(query).into_iter();
        events.filter(is_it).map(|event| event.container_id().to_owned()).collect()
    };
    let ended = of("kind=container_state", |event| {
        event.field("NAMESPACE") == "calm" && event.slot("terminated") == 1 && event.slot("exit_code") == 137
    });
    let exits = of("kind=process_exit", |event| event.slot("signal") == 9);
    ended.intersection(&exits).count()
}

/// Does all of it, with a Deployment of these pods in a namespace of its own, and asks the agent after each.
pub(super) fn is_silent(plane: &Plane, programs: &Programs, deployment: &Value) {
    plane.post("/api/v1/namespaces", &json!({"metadata": {"name": "calm"}}));
    plane.post("/api/v1/namespaces/calm/serviceaccounts", &json!({"metadata": {"name": "default"}}));
    let mut deployment = deployment.clone();
    deployment["spec"]["replicas"] = json!(3);
    plane.post(DEPLOYMENTS, &deployment);
    let first = ready(plane, programs, 3);
    let scale = |replicas: usize| {
        plane.patch(&format!("{DEPLOYMENTS}/web"), &json!({"spec": {"replicas": replicas}}));
    };
    let silent = |what: &str| {
        let all = programs.incidents();
        assert!(all.is_empty(), "after {what}: {}", all.iter().map(told).collect::<String>());
    };

    plane.delete_gracefully(&format!("{PODS}/{}", first[0]));
    let second = ready(plane, programs, 3);
    assert!(!second.contains(&first[0]), "another pod took its place: {second:?}");
    silent("the deletion of a pod");

    scale(2);
    let rest = ready(plane, programs, 2);
    silent("scaling down");

    drain(plane, programs, &rest);
    silent("a drain");

    plane.delete_gracefully(&format!("{DEPLOYMENTS}/web"));
    ready(plane, programs, 0);
    programs.wait("six killed containers", |programs| {
        let count = killed(programs);
        if count >= 6 { Ok(()) } else { Err(count) }
    });
    let begun = Instant::now();
    while begun.elapsed() < STAYS {
        silent("all of it");
        std::thread::sleep(Duration::from_millis(200));
    }
}
