//! The comparison of objects, without a server.

use serde_json::{Value, json};

use super::*;
use crate::collector::kubernetes::resource::{CLUSTER, EVENTS, NODES, PODS};

/// A tracker with what it is looked at with.
struct Bench {
    tracker: Tracker,
    memory: Memory,
    everything: bool,
}

impl Bench {
    fn of(plural: &str) -> Self {
        let all = [PODS, NODES, EVENTS].into_iter().chain(CLUSTER.iter().copied());
        let resource = all.into_iter().find(|resource| resource.plural == plural).expect("a resource");
        let tracker = Tracker::new(Box::leak(Box::new(resource)), false);
        Self { tracker, memory: Memory::default(), everything: true }
    }

    fn look<R>(&mut self, look: impl FnOnce(&mut Tracker, &mut Scene<'_>) -> R) -> R {
        let pods = |uid: &str, name: &str| (uid == "own").then(|| format!("id of {name}"));
        let mut scene = Scene {
            node: "here",
            everything: self.everything,
            now_unix_s: 1_000,
            since_unix_s: 500,
            memory: &mut self.memory,
            pods: &pods,
        };
        look(&mut self.tracker, &mut scene)
    }

    fn take(&mut self, change: Change, object: &Value) -> Vec<Draft> {
        let text = object.to_string();
        self.look(|tracker, scene| tracker.take(change, text.as_bytes(), scene)).expect("an object")
    }

    fn changed(&mut self, object: &Value) -> Vec<Draft> {
        self.take(Change::Changed, object)
    }

    fn list(&mut self, version: &str, objects: &[Value]) -> Vec<Draft> {
        self.tracker.begin_list();
        let mut drafts: Vec<Draft> =
            objects.iter().flat_map(|object| self.take(Change::Listed, object)).collect();
        drafts.extend(self.look(|tracker, scene| tracker.end_list(version, scene)));
        drafts
    }
}

fn of_kind(drafts: &[Draft], kind: Kind) -> Vec<&Draft> {
    drafts.iter().filter(|draft| draft.kind == kind).collect()
}

fn slot(draft: &Draft, name: &str) -> u64 {
    let at = draft.kind.info().slots.iter().position(|slot| slot.name == name).expect("a slot");
    draft.slots.get(at).copied().unwrap_or(0)
}

fn pod(version: u64, status: &Value) -> Value {
    json!({
        "metadata": {
            "name": "web-5d4-abc", "namespace": "shop", "uid": "0f8fad5b-d9cb-469f-a165-70867728950e",
            "resourceVersion": version.to_string(), "labels": {"app": "web", "pod-template-hash": "5d4"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-5d4", "controller": true}],
            "managedFields": [{"manager": "x"}]
        },
        "spec": {"nodeName": "here", "containers": [{"name": "web", "image": "web:1"}]},
        "status": status,
    })
}

fn status(restarts: u64, state: &Value, last: &Value) -> Value {
    json!({"phase": "Running", "containerStatuses": [{
        "name": "web", "restartCount": restarts, "image": "web:1", "ready": false,
        "containerID": format!("containerd://run{restarts}"), "state": state, "lastState": last,
    }]})
}

fn ended(run: u64, reason: &str, exit_code: i64) -> Value {
    json!({"terminated": {"exitCode": exit_code, "reason": reason, "containerID": format!("containerd://run{run}"),
        "startedAt": "2026-11-24T18:00:00Z", "finishedAt": format!("2026-11-24T18:00:{:02}Z", 10 + run)}})
}

fn running() -> Value {
    json!({"running": {"startedAt": "2026-11-24T18:00:00Z"}})
}

/// Scenario: a container runs, is killed for memory, waits, runs again; the API shows the end twice, as the present
/// state and as the last.
/// Guarantees: the end is said once, with the id of its run; the restart is said; owner and revision are derived.
#[test]
fn the_end_of_a_run_is_said_once() {
    let mut bench = Bench::of("pods");
    let first = bench.changed(&pod(1, &status(0, &running(), &json!({}))));
    let state = of_kind(&first, Kind::ContainerState)[0];
    assert_eq!(state.owner, (fields::CONTAINER_ID, "run0".to_owned()));
    assert_eq!((state.get(fields::OWNER), state.get(fields::REVISION)), ("Deployment/shop/web", "5d4"));
    assert_eq!((state.get(fields::STATE), state.get(fields::POD_UID).len()), ("running", 36));
    assert_eq!(of_kind(&first, Kind::PodState).len(), 1);
    assert_eq!(of_kind(&first, Kind::ObjectChange).len(), 1);

    let end = bench.changed(&pod(2, &status(0, &ended(0, "OOMKilled", 137), &json!({}))));
    assert_eq!(end.len(), 1, "{end:#?}");
    assert_eq!((end[0].get(fields::REASON), slot(&end[0], "exit_code")), ("OOMKilled", 137));
    assert_eq!(slot(&end[0], "terminated"), 1);

    let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
    let mut back_off = status(0, &waiting, &ended(0, "OOMKilled", 137));
    let waits = bench.changed(&pod(3, &back_off));
    assert_eq!(waits.len(), 1, "{waits:#?}");
    assert_eq!(waits[0].get(fields::REASON), "CrashLoopBackOff");
    back_off["conditions"] = json!([{"type": "Initialized", "status": "True"}]);
    assert_eq!(bench.changed(&pod(4, &back_off)), []);

    let again = bench.changed(&pod(5, &status(1, &running(), &ended(0, "OOMKilled", 137))));
    assert_eq!(again.len(), 1, "{again:#?}");
    assert_eq!((slot(&again[0], "restarts"), slot(&again[0], "restarts_before")), (1, 0));
}

/// Scenario: two restarts between two updates, of which only the last end is shown.
/// Guarantees: that end is said, and the counts show that another was not seen.
#[test]
fn restarts_between_updates_are_counted() {
    let mut bench = Bench::of("pods");
    bench.changed(&pod(1, &status(3, &running(), &ended(2, "Error", 1))));
    let drafts = bench.changed(&pod(2, &status(5, &running(), &ended(4, "Error", 2))));
    let states = of_kind(&drafts, Kind::ContainerState);
    assert_eq!(states.len(), 2, "{states:#?}");
    assert!(states.iter().all(|draft| slot(draft, "restarts") - slot(draft, "restarts_before") == 2));
    assert_eq!(states[0].owner.1, "run4");
}

/// Scenario: a container that was never made waits; its pod has no container id yet.
/// Guarantees: the pod owns the event, a negative exit status stays one.
#[test]
fn containers_without_an_id_belong_to_their_pod() {
    let mut bench = Bench::of("pods");
    let waiting = json!({"phase": "Pending", "initContainerStatuses": [{"name": "init",
        "state": {"waiting": {"reason": "CreateContainerConfigError", "message": "configmap \"x\" not found"}}}]});
    let drafts = bench.changed(&pod(1, &waiting));
    let state = of_kind(&drafts, Kind::ContainerState)[0];
    assert_eq!(state.owner.0, fields::POD_UID);
    assert_eq!((state.get(fields::CONTAINER), state.get(fields::CONTAINER_TYPE)), ("init", "init"));
    let drafts = bench.changed(&pod(2, &status(0, &ended(0, "Error", -1), &json!({}))));
    let end = of_kind(&drafts, Kind::ContainerState)[0];
    assert_eq!(slot(end, "exit_code").cast_signed(), -1);
}

/// Scenario: versions come twice, and an older one after a newer; then the pod is deleted, twice.
/// Guarantees: nothing is said twice, what came again is counted.
#[test]
fn repeated_versions_say_nothing() {
    let mut bench = Bench::of("pods");
    let one = pod(10, &status(0, &running(), &json!({})));
    let two = pod(12, &status(0, &ended(0, "Error", 1), &json!({})));
    assert!(!bench.changed(&one).is_empty());
    assert!(!bench.changed(&two).is_empty());
    for object in [&one, &two, &one] {
        assert_eq!(bench.changed(object), []);
    }
    let mut gone = two;
    gone["metadata"]["resourceVersion"] = json!("13");
    let drafts = bench.take(Change::Deleted, &gone);
    assert_eq!(drafts.len(), 1, "{drafts:#?}");
    assert_eq!((slot(&drafts[0], "deleted"), drafts[0].get(fields::CHANGED)), (1, "deleted"));
    assert_eq!(bench.take(Change::Deleted, &gone), []);
    assert_eq!(bench.tracker.passed().repeated, 4);
    assert!(bench.tracker.known().is_empty());
}

/// Scenario: a pod is deleted in the last version that shows how its container ended.
/// Guarantees: the end is said before the pod is gone.
#[test]
fn a_deletion_says_how_it_ended() {
    let mut bench = Bench::of("pods");
    bench.changed(&pod(1, &status(0, &running(), &json!({}))));
    let drafts = bench.take(Change::Deleted, &pod(2, &status(0, &ended(0, "Error", 143), &json!({}))));
    assert_eq!(slot(of_kind(&drafts, Kind::ContainerState)[0], "exit_code"), 143);
    assert_eq!(slot(drafts.last().expect("the deletion"), "deleted"), 1);
}

/// Scenario: after a gap a list shows one pod changed, one as it was, and lacks one.
/// Guarantees: the change and the deletion are said, with the numbers that the watch would have given them.
#[test]
fn a_list_is_compared_with_what_was_known() {
    let mut live = Bench::of("pods");
    let named = |name: &str, version: u64, status: &Value| {
        let mut pod = pod(version, status);
        pod["metadata"]["uid"] = json!(format!("uid of {name}"));
        pod["metadata"]["name"] = json!(name);
        pod
    };
    let fine = status(0, &running(), &json!({}));
    let before: Vec<Value> = ["a", "b", "c"].iter().map(|name| named(name, 5, &fine)).collect();
    live.list("9", &before);
    let changed = named("b", 15, &status(1, &running(), &ended(0, "Error", 1)));
    let drafts = live.list("20", &[named("a", 5, &fine), changed.clone()]);
    let mut watched = Bench::of("pods");
    watched.list("9", &before);
    let mut expected = watched.changed(&changed);
    expected.extend(watched.take(Change::Deleted, &named("c", 16, &fine)));
    assert_eq!(drafts, expected);
    assert!(!drafts.is_empty());
    assert_eq!(live.list("20", &[named("a", 5, &fine), changed]), []);
}

/// Scenario: Events of both APIs: one repeated in the old way, one as a series, listed and watched.
/// Guarantees: each repetition is an event with its count and container; old ones are left out unless they were missed.
#[test]
fn api_events_are_counted() {
    let old = |version: u64, count: u64, time: &str| {
        json!({"metadata": {"uid": "e1", "resourceVersion": version.to_string(), "namespace": "shop"},
            "involvedObject": {"kind": "Pod", "namespace": "shop", "name": "web", "uid": "own",
                "fieldPath": "spec.containers{web}"},
            "reason": "Unhealthy", "message": "Liveness probe failed", "type": "Warning", "count": count,
            "firstTimestamp": "1970-01-01T00:10:00Z", "lastTimestamp": time, "eventTime": null,
            "source": {"component": "kubelet", "host": "here"}})
    };
    let mut bench = Bench::of("events");
    bench.everything = false;
    // 480 is before the start at 500, 600 after.
    assert_eq!(bench.list("10", &[old(7, 1, "1970-01-01T00:08:00Z")]), []);
    let drafts = bench.changed(&old(11, 2, "1970-01-01T00:10:00Z"));
    assert_eq!((slot(&drafts[0], "count"), slot(&drafts[0], "last_unix_s")), (2, 600));
    assert_eq!(drafts[0].owner, (fields::POD_UID, "own".to_owned()));
    assert_eq!((drafts[0].get(fields::CONTAINER), drafts[0].get(fields::CONTAINER_ID)), ("web", "id of web"));
    assert_eq!(bench.changed(&old(11, 2, "1970-01-01T00:10:00Z")), []);
    // What a list shows after a gap was missed, however old it is.
    let missed = bench.list("20", &[old(11, 2, "1970-01-01T00:10:00Z"), old(14, 5, "1970-01-01T00:08:00Z")]);
    assert_eq!(missed.len(), 1);
    assert_eq!(slot(&missed[0], "count"), 5);

    let new = json!({"metadata": {"uid": "e2", "resourceVersion": "21"},
        "regarding": {"kind": "Pod", "namespace": "shop", "name": "late", "uid": "other"},
        "reason": "FailedScheduling", "note": "0/1 nodes are available", "type": "Warning",
        "eventTime": "1970-01-01T00:11:00.000000Z", "reportingController": "default-scheduler",
        "series": {"count": 7, "lastObservedTime": "1970-01-01T00:12:00.000000Z"}});
    assert_eq!(bench.changed(&new), [], "an Event that has nothing to do with this node");
    bench.everything = true;
    let mut again = new;
    again["metadata"]["resourceVersion"] = json!("22");
    let drafts = bench.changed(&again);
    assert_eq!((slot(&drafts[0], "count"), slot(&drafts[0], "last_unix_s")), (7, 720));
    assert_eq!(drafts[0].get(fields::COMPONENT), "default-scheduler");
    assert_eq!(drafts[0].get(fields::MESSAGE), "0/1 nodes are available");
}

/// Scenario: a node's heartbeat, a condition that changes, a taint that comes and goes.
/// Guarantees: only what changed is said.
#[test]
fn nodes_say_what_changed() {
    let node = |version: u64, ready: &str, beat: u64, taints: &Value| {
        json!({"metadata": {"name": "here", "uid": "n", "resourceVersion": version.to_string()},
            "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready, "reason": "Kubelet",
                "lastHeartbeatTime": beat.to_string(), "lastTransitionTime": "1970-01-01T00:10:00Z"}]}})
    };
    let mut bench = Bench::of("nodes");
    let first = bench.changed(&node(1, "True", 1, &json!(null)));
    assert_eq!(of_kind(&first, Kind::NodeCondition).len(), 1);
    assert_eq!(bench.changed(&node(2, "True", 2, &json!(null))), []);
    let taint = json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]);
    let drafts = bench.changed(&node(3, "Unknown", 2, &taint));
    let said: Vec<_> = of_kind(&drafts, Kind::NodeCondition)
        .iter()
        .map(|draft| (draft.get(fields::CONDITION).to_owned(), draft.get(fields::STATUS).to_owned()))
        .collect();
    let pair = |condition: &str, status: &str| (condition.to_owned(), status.to_owned());
    assert_eq!(said, [pair("Ready", "Unknown"), pair("Taint", "True")]);
    let drafts = bench.changed(&node(4, "Unknown", 2, &json!([])));
    let gone = of_kind(&drafts, Kind::NodeCondition)[0];
    assert_eq!(
        (gone.get(fields::STATUS), gone.get(fields::REASON)),
        ("False", "node.kubernetes.io/unreachable:NoExecute")
    );
}

/// Scenario: a Deployment is found, scaled, given another image; its rollout gets stuck.
/// Guarantees: each change names its fields and carries them, a template says so, the stuck rollout says why.
#[test]
fn workloads_name_their_changes() {
    let deployment = |version: u64, replicas: u64, image: &str, conditions: &Value| {
        json!({"metadata": {"name": "web", "namespace": "shop", "uid": "d", "resourceVersion": version.to_string(),
                "generation": version},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "web", "image": image, "command": ["x"]}]}}},
            "status": {"readyReplicas": 2, "conditions": conditions}})
    };
    let mut bench = Bench::of("deployments");
    let found = bench.list("1", &[deployment(1, 2, "web:1", &json!([]))]);
    assert_eq!((found.len(), found[0].get(fields::CHANGED)), (1, ""));
    assert_eq!((slot(&found[0], "desired"), slot(&found[0], "ready")), (2, 2));
    assert!(found[0].get(fields::SPEC).contains(r#""spec.selector":{"matchLabels":{"app":"web"}}"#));
    assert!(!found[0].get(fields::SPEC).contains("command"));

    let scaled = bench.changed(&deployment(2, 3, "web:1", &json!([])));
    assert_eq!(scaled[0].get(fields::CHANGED), "spec.replicas");
    assert_eq!(scaled[0].get(fields::SPEC), r#"{"spec.replicas":3}"#);

    let rolled = bench.changed(&deployment(3, 3, "web:2", &json!([])));
    assert_eq!(rolled[0].get(fields::CHANGED), "spec.template spec.template.spec.containers");
    assert_eq!(rolled[0].get(fields::IMAGE), "web:2");

    let stuck = json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]);
    let drafts = bench.changed(&deployment(4, 3, "web:2", &stuck));
    assert_eq!(drafts[0].get(fields::REASON), "ProgressDeadlineExceeded");
}

/// Scenario: two slices of one service lose endpoints one after the other; a third service is not concerned.
/// Guarantees: the sums are those of the service, a change that leaves them is silent, a deleted slice counts.
#[test]
fn endpoints_are_summed_over_slices() {
    let slice = |uid: &str, version: u64, ready: &[bool]| {
        let endpoints: Vec<Value> = ready
            .iter()
            .enumerate()
            .map(|(number, ready)| {
                json!({"addresses": [format!("10.0.0.{number}")], "conditions": {"ready": ready},
                    "targetRef": {"kind": "Pod", "name": format!("web-{number}")}})
            })
            .collect();
        json!({"metadata": {"name": uid, "namespace": "shop", "uid": uid, "resourceVersion": version.to_string(),
                "labels": {"kubernetes.io/service-name": "web"}},
            "endpoints": endpoints, "ports": [{"port": 8080, "protocol": "TCP"}]})
    };
    let counts = |drafts: &[Draft]| -> Vec<[u64; 3]> {
        drafts
            .iter()
            .map(|draft| ["ready", "not_ready", "ready_before"].map(|name| slot(draft, name)))
            .collect()
    };
    let mut bench = Bench::of("endpointslices");
    let drafts = bench.changed(&slice("s1", 1, &[true, true]));
    assert_eq!(counts(&drafts), [[2, 0, 0]]);
    assert_eq!(
        (drafts[0].get(fields::OBJECT), drafts[0].get(fields::PORTS)),
        ("Service/shop/web", "8080/TCP")
    );
    assert_eq!(drafts[0].get(fields::PODS), "web-0 web-1");
    assert_eq!(counts(&bench.changed(&slice("s2", 2, &[true]))), [[3, 0, 2]]);
    assert_eq!(bench.changed(&slice("s1", 3, &[true, true])), []);
    assert_eq!(counts(&bench.changed(&slice("s1", 4, &[false, true]))), [[2, 1, 3]]);
    assert_eq!(counts(&bench.take(Change::Deleted, &slice("s2", 5, &[true]))), [[1, 1, 2]]);
    assert_eq!(counts(&bench.list("9", &[])), [[0, 0, 1]]);
}

/// Scenario: a Secret is made, changed and deleted; a lock of the old kind is written again and again.
/// Guarantees: that the Secret changed is said and nothing of what it holds; the lock is silent.
#[test]
fn secrets_change_without_their_content() {
    let object = |version: u64, annotations: &Value| {
        json!({"metadata": {"name": "s", "namespace": "shop", "uid": "s", "resourceVersion": version.to_string(),
            "annotations": annotations}, "data": {"password": "aHVudGVyMg=="}})
    };
    let mut bench = Bench::of("secrets");
    bench.list("1", &[]);
    assert_eq!(bench.changed(&object(2, &json!({})))[0].get(fields::CHANGED), "new");
    let drafts = bench.changed(&object(3, &json!({})));
    assert_eq!((drafts[0].get(fields::CHANGED), drafts[0].get(fields::SPEC)), ("data", ""));
    assert!(!format!("{drafts:?}").contains("aHVudGVyMg"));
    let lock = json!({"control-plane.alpha.kubernetes.io/leader": "{}"});
    let mut bench = Bench::of("configmaps");
    assert_eq!(bench.changed(&object(4, &lock)), []);
    assert_eq!(bench.changed(&object(5, &lock)), []);
}

/// Scenario: a lease is renewed, then not, then by another holder.
/// Guarantees: renewals are silent, the overdue lease is said once, the new holder is said.
#[test]
fn leases_say_when_nobody_renews() {
    let lease = |version: u64, holder: &str| {
        json!({"metadata": {"name": "kube-scheduler", "namespace": "kube-system", "uid": "l",
            "resourceVersion": version.to_string()},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15}})
    };
    let mut bench = Bench::of("leases");
    assert_eq!(bench.changed(&lease(1, "a"))[0].get(fields::REASON), "holder");
    assert_eq!(bench.changed(&lease(2, "a")), []);
    assert_eq!(bench.tracker.overdue(1_029), []);
    let overdue = bench.tracker.overdue(1_030);
    assert_eq!((overdue.len(), overdue[0].get(fields::REASON)), (1, "overdue"));
    assert_eq!(bench.tracker.overdue(1_100), []);
    assert_eq!(bench.changed(&lease(3, "a"))[0].get(fields::REASON), "renewed");
    assert_eq!(bench.changed(&lease(4, "b"))[0].get(fields::MESSAGE), "b");
}

/// Scenario: objects that are none, and with nulls where the table expects lists.
/// Guarantees: what is none is refused, what is empty is taken.
#[test]
fn odd_objects_do_no_harm() {
    for plural in ["pods", "nodes", "events", "deployments", "endpointslices", "leases", "secrets"] {
        let mut bench = Bench::of(plural);
        for odd in [json!({}), json!({"metadata": {"uid": "x", "labels": null}, "spec": {}, "status": {}})] {
            let _any = bench.changed(&odd);
        }
        for none in [&b"[1]"[..], b"{", b"null", br#"{"metadata":7}"#] {
            assert!(
                bench.look(|tracker, scene| tracker.take(Change::Changed, none, scene)).is_err(),
                "{plural}"
            );
        }
    }
}

/// Scenario: an object whose fields are longer than an event.
/// Guarantees: they come in parts that make the whole again.
#[test]
fn long_fields_come_in_parts() {
    let labels: serde_json::Map<String, Value> =
        (0..200).map(|number| (format!("label-{number}"), json!("\u{e4}".repeat(20)))).collect();
    let mut object = pod(1, &json!({}));
    object["metadata"]["labels"] = Value::Object(labels);
    let drafts = Bench::of("pods").changed(&object);
    let changes = of_kind(&drafts, Kind::ObjectChange);
    assert!(changes.len() > 1);
    let whole: String = changes.iter().map(|draft| draft.get(fields::SPEC)).collect();
    let value: Value = serde_json::from_str(&whole).expect("JSON");
    assert_eq!(value["metadata.labels"].as_object().map(serde_json::Map::len), Some(200));
    let numbers: std::collections::BTreeSet<u64> = changes.iter().map(|draft| draft.slots[0]).collect();
    assert_eq!(numbers.len(), changes.len());
    assert!(changes.iter().all(|draft| slot(draft, "parts") == changes.len() as u64));
}
