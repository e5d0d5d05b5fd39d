//! Real containers on a real node: what the kubelet makes of their failures.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tapio::event::{Kind, fields};
use tapio::health::State;

use super::agent::{Agent, Seen, settings};
use super::plane::Plane;
use crate::skipped;

const PODS: &str = "/api/v1/namespaces/shop/pods";

/// Makes a pod of the node whose one container is like this, with what else the pod needs.
pub(super) fn run(plane: &Plane, name: &str, container: &Value, more: &Value) {
    let mut container = container.clone();
    container["name"] = json!("main");
    if container["image"].is_null() {
        container["image"] = json!("rig.local/busybox:1");
        container["imagePullPolicy"] = json!("Never");
    }
    let mut spec = json!({"nodeName": "rig", "hostNetwork": true, "automountServiceAccountToken": false, "containers": [container],
        "terminationGracePeriodSeconds": 1});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    plane.post(PODS, &json!({"metadata": {"name": name}, "spec": spec}));
}

pub(super) fn shell(script: &str) -> Value {
    json!({"command": ["sh", "-c", script]})
}

pub(super) fn limited(mut container: Value, memory: &str) -> Value {
    container["resources"] = json!({"limits": {"memory": memory}});
    container
}

fn of<'seen>(events: &'seen [Seen], pod: &str) -> Vec<&'seen Seen> {
    events.iter().filter(|seen| seen.get(fields::POD) == pod).collect()
}

/// The reasons of a pod's events of a kind, in order.
fn reasons(events: &[Seen], pod: &str, kind: Kind) -> Vec<String> {
    let events = of(events, pod).into_iter().filter(|seen| seen.kind == kind);
    events.map(|seen| seen.get(fields::REASON).to_owned()).collect()
}

fn ends(events: &[Seen], pod: &str) -> Vec<(String, u64)> {
    let ends = of(events, pod)
        .into_iter()
        .filter(|seen| seen.kind == Kind::ContainerState && seen.slot("terminated") == 1);
    ends.map(|seen| (seen.get(fields::REASON).to_owned(), seen.slot("exit_code"))).collect()
}

/// The cgroup with the name of a container, wherever it is.
fn cgroup_of(container_id: &str, folder: &Path) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if !path.is_dir() {
            return None;
        }
        let is_it = path.file_name().is_some_and(|name| name.to_string_lossy().contains(container_id));
        if is_it { Some(path) } else { cgroup_of(container_id, &path) }
    })
}

/// Scenario: a container over its memory limit, one whose child is, a crash loop, a liveness probe that fails, an image
/// that nobody has, a `ConfigMap` that is missing, a pod that fills its volume, and one that is fine.
/// Guarantees: each is seen as what it is; the ids that the API names are those of the cgroups.
#[test]
fn live_real_containers_fail_as_they_do() {
    let test = "live_real_containers_fail_as_they_do";
    let Some(plane) = Plane::start(test) else { return };
    if let Err(reason) = plane.start_node() {
        return skipped(test, &reason);
    }
    let wanted = tapio::config::Settings {
        node_name: "rig".into(),
        ..settings(&plane.kubeconfig(), &plane.state_dir())
    };
    let agent = Agent::start(wanted);
    agent.wait_health("health", |health| health.state == State::Running);
    let eater = "x=x; while :; do x=$x$x; done";
    run(&plane, "fine", &shell("sleep 1000"), &json!({}));
    run(&plane, "oom", &limited(shell(&format!("sleep 1; {eater}")), "16Mi"), &json!({}));
    run(
        &plane,
        "child",
        &limited(shell(&format!("sleep 1; sh -c '{eater}'; sleep 1000")), "16Mi"),
        &json!({}),
    );
    run(&plane, "loop", &shell("echo no; exit 3"), &json!({}));
    let mut probed = shell("sleep 1000");
    probed["livenessProbe"] =
        json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 2});
    run(&plane, "probed", &probed, &json!({}));
    run(&plane, "pull", &json!({"image": "registry.invalid/none:1"}), &json!({}));
    let mut configured = shell("sleep 1000");
    configured["envFrom"] = json!([{"configMapRef": {"name": "missing"}}]);
    run(&plane, "configured", &configured, &json!({}));
    let mut full = shell("sleep 1; dd if=/dev/zero of=/data/x bs=1M count=30; sleep 1000");
    full["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    run(&plane, "full", &full, &json!({"volumes": [{"name": "data", "emptyDir": {"sizeLimit": "10Mi"}}]}));

    let has = |events: &[Seen], pod: &str, kind, reason: &str| {
        reasons(events, pod, kind).iter().any(|found| found == reason)
    };
    let events = agent.wait_for("every failure", |events| {
        ends(events, "oom").len() > 1
            && ends(events, "loop").len() > 1
            && has(events, "probed", Kind::ObjectEvent, "Killing")
            && !ends(events, "probed").is_empty()
            && has(events, "pull", Kind::ContainerState, "ImagePullBackOff")
            && has(events, "configured", Kind::ContainerState, "CreateContainerConfigError")
            && has(events, "full", Kind::PodState, "Evicted")
    });
    assert!(
        ends(&events, "oom").iter().all(|end| *end == ("OOMKilled".to_owned(), 137)),
        "{:?}",
        ends(&events, "oom")
    );
    assert!(ends(&events, "loop").iter().all(|end| *end == ("Error".to_owned(), 3)));
    assert!(has(&events, "loop", Kind::ObjectEvent, "BackOff"));
    assert!(has(&events, "probed", Kind::ObjectEvent, "Unhealthy"));
    let pull = of(&events, "pull");
    let pull = pull
        .iter()
        .find(|seen| seen.get(fields::REASON) == "ErrImagePull" && !seen.get(fields::MESSAGE).is_empty());
    assert!(pull.is_some_and(|seen| seen.get(fields::MESSAGE).contains("registry.invalid")), "{pull:?}");
    // The API says nothing of a child: the kernel does, in the container of this id.
    let states = of(&events, "child");
    let running = states.iter().find(|seen| seen.get(fields::STATE) == "running").expect("it runs");
    assert_eq!(running.slot("restarts"), 0);

    for pod in ["fine", "child"] {
        let states = of(&events, pod);
        let running = states.iter().find(|seen| seen.get(fields::STATE) == "running").expect("it runs");
        let id = running.get(fields::CONTAINER_ID);
        let path = cgroup_of(id, Path::new("/sys/fs/cgroup")).unwrap_or_else(|| panic!("no cgroup of {id}"));
        let path = path.display().to_string();
        assert!(path.contains(running.get(fields::POD_UID)), "{path}");
    }
    let ids: std::collections::BTreeSet<&str> = of(&events, "loop")
        .iter()
        .map(|seen| seen.get(fields::CONTAINER_ID))
        .filter(|id| !id.is_empty())
        .collect();
    assert!(ids.len() > 1, "each run has an id of its own: {ids:?}");
    plane.delete(&format!("{PODS}/fine"));
    let asked = |seen: &Seen| {
        seen.get(fields::POD) == "fine" && seen.kind == Kind::PodState && seen.slot("deleted_unix_s") > 0
    };
    agent.wait_for("the deletion that was asked for", |events| events.iter().any(asked));
}
