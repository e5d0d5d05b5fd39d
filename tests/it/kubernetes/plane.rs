//! A real API server with etcd behind it: restarted in the middle of changes, compacted, and with RBAC on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use kube::client::Body;
use kube::{Client, Config};
use serde_json::{Value, json};
use tapio::config::{ClusterScope, Settings};
use tapio::event::{Kind, fields};
use tapio::health::State;

use super::agent::{Agent, Seen, settings};
use super::fake::write_kubeconfig;
use super::place::today;
use crate::journal::live::Journald;
use crate::skipped;

const RIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rigs/kube");

/// Longest time for one script of the rig: each waits a minute at most for each program that it starts.
const SCRIPT_SECONDS_MAX: &str = "180";

/// A control plane of its own, and a way to ask it.
pub(super) struct Plane {
    /// Before the folder, which it needs.
    _leash: Leash,
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    client: Client,
}

fn free_ports() -> [String; 3] {
    let listeners = [0; 3].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.each_ref().map(|listener| listener.local_addr().unwrap().port().to_string())
}

/// The folder of the rig, wherever the tests are built.
fn rig() -> PathBuf {
    std::env::var_os("TAPIO_RIG_KUBE").map_or_else(|| PathBuf::from(RIG), PathBuf::from)
}

/// Builds programs of the rig, once in this process and within the limit of its script; why there are none.
fn built(programs: &'static str) -> Result<(), String> {
    static BUILT: Mutex<BTreeMap<&str, Result<(), String>>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap();
    let build = || {
        let output = Command::new(rig().join("build")).arg(programs).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let last = || said.lines().last().unwrap_or("the rig cannot be built").to_owned();
        if output.status.success() { Ok(()) } else { Err(last()) }
    };
    built.entry(programs).or_insert_with(build).clone()
}

/// Stops the rig when it is dropped, and when this process is gone without having dropped it.
struct Leash(Child);

impl Leash {
    fn on(folder: &Path) -> Self {
        // In a session of its own, so that a signal for the group of this process is not for it.
        let script = "cat >/dev/null; exec timeout -k 5 60 \"$0\" \"$1\"";
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", script]).arg(rig().join("down")).arg(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ended = self.0.wait();
    }
}

impl Plane {
    /// Starts it; says that the test is skipped where it cannot be built.
    pub(super) fn start(test: &str) -> Option<Self> {
        if let Err(reason) = built("plane") {
            skipped(test, &reason);
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let leash = Leash::on(folder.path());
        if let Err(reason) = extend(folder.path(), "up", &free_ports()) {
            skipped(test, &reason);
            return None;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let kubeconfig = kube::config::Kubeconfig::read_from(folder.path().join("kubeconfig")).unwrap();
        let client = runtime.block_on(async {
            let options = kube::config::KubeConfigOptions::default();
            Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap()).unwrap()
        });
        let plane = Self { _leash: leash, folder, runtime, client };
        plane.post("/api/v1/namespaces", &json!({"metadata": {"name": "shop"}}));
        let account = json!({"metadata": {"name": "default"}});
        plane.post("/api/v1/namespaces/shop/serviceaccounts", &account);
        Some(plane)
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    pub(super) fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Asks until it is answered: the server may be restarting.
    fn ask(&self, method: &str, path: &str, kind: &str, body: &str) -> (u16, Value) {
        let request = || {
            axum::http::Request::builder()
                .method(method)
                .uri(path)
                .header("content-type", kind)
                .body(Body::from(body.as_bytes().to_vec()))
                .unwrap()
        };
        let until = std::time::Instant::now() + super::agent::WAIT_MAX;
        loop {
            let answer = self.runtime.block_on(async {
                let response = self.client.send(request()).await.ok()?;
                let status = response.status().as_u16();
                Some((status, response.into_body().collect_bytes().await.ok()?))
            });
            match answer {
                Some((status, body)) if status < 500 => {
                    return (status, serde_json::from_slice(&body).unwrap_or_default());
                }
                other => {
                    assert!(std::time::Instant::now() < until, "{method} {path}: {other:?}");
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
            }
        }
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask("POST", path, "application/json", &body.to_string());
        assert!(matches!(status, 200 | 201 | 409), "POST {path}: {status} {answer}");
        answer
    }

    pub(super) fn get(&self, path: &str) -> Value {
        let (status, answer) = self.ask("GET", path, "application/json", "");
        assert_eq!(status, 200, "GET {path}: {answer}");
        answer
    }

    /// Changes these fields of an object.
    pub(super) fn patch(&self, path: &str, change: &Value) {
        let (status, answer) = self.ask("PATCH", path, "application/merge-patch+json", &change.to_string());
        assert_eq!(status, 200, "PATCH {path}: {answer}");
    }

    fn patch_status(&self, path: &str, status: &Value) {
        self.patch(&format!("{path}/status"), &json!({"status": status}));
    }

    pub(super) fn delete(&self, path: &str) {
        let body = json!({"gracePeriodSeconds": 0}).to_string();
        let (status, answer) = self.ask("DELETE", path, "application/json", &body);
        assert!(matches!(status, 200 | 404), "DELETE {path}: {status} {answer}");
    }

    /// Asks for the deletion of a pod, which its kubelet ends.
    pub(super) fn delete_gracefully(&self, path: &str) {
        let (status, answer) = self.ask("DELETE", path, "application/json", "{}");
        assert!(matches!(status, 200 | 202), "DELETE {path}: {status} {answer}");
    }

    /// Makes this machine its node, whose kubelet logs to this journal if there is one; why it cannot be one.
    pub(super) fn start_node(&self, journald: Option<&Journald>) -> Result<(), String> {
        built("node")?;
        let journal: Vec<String> = journald.map(|journald| journald.name().to_owned()).into_iter().collect();
        extend(self.folder.path(), "node", &journal)
    }

    /// The port of the API server.
    pub(super) fn port(&self) -> String {
        let ports = std::fs::read_to_string(self.folder.path().join("ports")).unwrap();
        ports.split_whitespace().next().unwrap().to_owned()
    }

    /// Lets kwok play the kubelet of its nodes; why it cannot.
    pub(super) fn play(&self) -> Result<(), String> {
        built("kwok")?;
        extend(self.folder.path(), "play", &[])
    }

    /// Sends a signal to a program of the rig.
    pub(super) fn signal(&self, program: &str, signal: rustix::process::Signal) {
        let pid = std::fs::read_to_string(self.folder.path().join("pids").join(program)).unwrap();
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(super) fn stop_api_server(&self) {
        run(self.folder.path(), "down", &["kube-apiserver".into()]).unwrap();
    }

    pub(super) fn start_again(&self) {
        run(self.folder.path(), "up", &[]).unwrap();
    }

    /// Makes etcd forget every version before the present one.
    fn compact(&self) {
        let ports = std::fs::read_to_string(self.folder.path().join("ports")).unwrap();
        let etcd = ports.split_whitespace().nth(1).unwrap().to_owned();
        let ask = |path: &str, body: &Value| -> Value {
            let output = Command::new("curl")
                .args([
                    "-sf",
                    "--max-time",
                    "10",
                    "-d",
                    &body.to_string(),
                    &format!("http://127.0.0.1:{etcd}/v3/{path}"),
                ])
                .output()
                .unwrap();
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("etcd {path}: {output:?}"))
        };
        let status = ask("maintenance/status", &json!({}));
        let revision = status["header"]["revision"].as_str().unwrap().to_owned();
        ask("kv/compaction", &json!({"revision": revision, "physical": true}));
    }
}

/// Runs a script of the rig to its end; what it said if it failed.
fn run(folder: &Path, script: &str, arguments: &[String]) -> Result<(), String> {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", SCRIPT_SECONDS_MAX]).arg(rig().join(script)).arg(folder).args(arguments);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{script}: {}: {said}", output.status)) }
}

/// Runs a script that starts a part of the rig; what this machine lacks for it.
fn extend(folder: &Path, script: &str, arguments: &[String]) -> Result<(), String> {
    let outcome = run(folder, script, arguments);
    if let Err(said) = &outcome {
        let lacks = ["is missing", "needs root"].iter().any(|words| said.contains(words));
        assert!(lacks, "the rig does not start: {said}");
    }
    outcome
}

const PODS: &str = "/api/v1/namespaces/shop/pods";

fn create_pod(plane: &Plane, name: &str, node: &str) -> String {
    let made = plane.post(
        PODS,
        &json!({"metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"nodeName": node, "automountServiceAccountToken": false,
                "containers": [{"name": "web", "image": "web:1"}]}}),
    );
    made["metadata"]["uid"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
}

/// One container with this state.
fn container(restarts: u64, ready: bool, state: &Value, last: &Value) -> Value {
    json!([{"name": "web", "image": "web:1", "imageID": "x", "ready": ready, "started": ready, "restartCount": restarts,
        "containerID": format!("containerd://{restarts}"), "state": state, "lastState": last}])
}

fn oom(run: u64) -> Value {
    json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "startedAt": today(),
        "finishedAt": today(), "containerID": format!("containerd://{run}")}})
}

/// The statuses that a pod goes through, and what each has to be seen as: a word of the event that it makes.
fn life() -> Vec<(Value, &'static str)> {
    let running = json!({"running": {"startedAt": today()}});
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    let none = json!({});
    let pod = |phase: &str, ready: bool, containers: Value| {
        let ready = if ready { "True" } else { "False" };
        json!({"phase": phase, "conditions": [{"type": "Ready", "status": ready}], "containerStatuses": containers})
    };
    vec![
        (
            pod("Pending", false, container(0, false, &waiting("ContainerCreating"), &none)),
            "ContainerCreating",
        ),
        (pod("Running", true, container(0, true, &running, &none)), "running 0"),
        (pod("Running", false, container(0, false, &oom(0), &none)), "end 0"),
        (pod("Running", true, container(1, true, &running, &oom(0))), "running 1"),
        (pod("Running", false, container(1, false, &oom(1), &oom(0))), "end 1"),
        (
            pod("Running", false, container(1, false, &waiting("CrashLoopBackOff"), &oom(1))),
            "CrashLoopBackOff",
        ),
        (json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}), "Evicted"),
    ]
}

/// What of a pod's life an event shows.
pub(super) fn step(seen: &Seen) -> Option<String> {
    match seen.kind {
        Kind::ContainerState if seen.slot("terminated") == 1 => {
            Some(format!("end {}", seen.get(fields::CONTAINER_ID)))
        }
        Kind::ContainerState if seen.get(fields::STATE) == "running" => {
            Some(format!("running {}", seen.slot("restarts")))
        }
        Kind::ContainerState => Some(seen.get(fields::REASON).to_owned()),
        // The deletion, too, is a state of the pod.
        Kind::PodState if seen.get(fields::REASON) == "Evicted" && seen.slot("deleted_unix_s") == 0 => {
            Some("Evicted".into())
        }
        Kind::ObjectChange if seen.slot("deleted") == 1 => Some("deleted".into()),
        _ => None,
    }
}

/// Scenario: the agent is away while etcd is compacted and pods change; the API server is restarted, so that it
/// remembers nothing in between.
/// Guarantees: 410 leads to a list that is compared with what was known, and to a gap.
#[test]
fn live_a_compaction_makes_a_gap() {
    let Some(plane) = Plane::start("live_a_compaction_makes_a_gap") else { return };
    let acks = super::agent::Acks::start(plane.folder.path());
    let wanted =
        || Settings { server: acks.address.clone(), ..settings(&plane.kubeconfig(), &plane.state_dir()) };
    std::fs::create_dir_all(plane.state_dir()).unwrap();
    let life = life();
    create_pod(&plane, "web", "here");
    create_pod(&plane, "gone", "here");
    plane.patch_status(&format!("{PODS}/web"), &life[1].0);
    let agent = Agent::start(wanted());
    agent
        .wait_for("the pods", |events| events.iter().filter(|seen| seen.kind == Kind::PodState).count() == 2);
    let kept = plane.state_dir().join("kubernetes.json");
    agent.wait_for("the position", |_| {
        std::fs::read_to_string(&kept)
            .is_ok_and(|text| text.contains("\"pods\"") && text.contains("\"nodes\""))
    });
    agent.stop();
    for (status, _) in &life[2..5] {
        plane.patch_status(&format!("{PODS}/web"), status);
    }
    plane.delete(&format!("{PODS}/gone"));
    plane.stop_api_server();
    plane.compact();
    plane.start_again();
    let agent = Agent::start(wanted());
    let of_pods = |seen: &Seen| seen.kind == Kind::WatchGap && seen.get(fields::RESOURCE) == "pods";
    let events = agent.wait_for("the gap", |events| events.iter().any(of_pods));
    let steps: Vec<String> = events.iter().filter_map(step).collect();
    assert_eq!(steps, ["end 0", "end 1", "deleted"]);
    assert!(agent.ledger().ring_lost > 0);
}

fn apply(plane: &Plane, manifest: &str) {
    for document in manifest.split("\n---\n") {
        let line = |name: &str| {
            document.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
        };
        let namespace =
            document.lines().find_map(|line| line.strip_prefix("  namespace: ")).map(str::to_owned);
        let namespace = namespace.map_or(String::new(), |name| format!("namespaces/{name}/"));
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let path = match line("kind: ").as_str() {
            "Namespace" => "/api/v1/namespaces".to_owned(),
            "ServiceAccount" => format!("/api/v1/{namespace}serviceaccounts"),
            "ClusterRole" => format!("{rbac}/clusterroles"),
            "ClusterRoleBinding" => format!("{rbac}/clusterrolebindings"),
            "Role" => format!("{rbac}/{namespace}roles"),
            "RoleBinding" => format!("{rbac}/{namespace}rolebindings"),
            other => panic!("{other:?} in {document}"),
        };
        let (status, answer) = plane.ask("POST", &path, "application/yaml", document);
        assert!(matches!(status, 201 | 409), "{path}: {status} {answer}");
    }
}

/// A kubeconfig of a service account.
fn account(plane: &Plane, name: &str) -> PathBuf {
    let request = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {}});
    let path = format!("/api/v1/namespaces/tapio/serviceaccounts/{name}/token");
    let token = plane.post(&path, &request)["status"]["token"].as_str().unwrap().to_owned();
    let port = plane.port();
    let authority =
        format!("    certificate-authority: {}", plane.folder.path().join("pki/ca.crt").display());
    let folder = plane.folder.path().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    write_kubeconfig(&folder, &format!("https://127.0.0.1:{port}"), &format!("token: {token}"), &authority)
}

/// Scenario: with RBAC on, an agent under the manifest that users apply, and one whose account may do nothing.
/// Guarantees: the first is elected, watches everything and is fine; the second says what it lacks and takes nothing.
#[test]
fn live_the_manifest_is_enough_and_needed() {
    let Some(plane) = Plane::start("live_the_manifest_is_enough_and_needed") else { return };
    let manifest = Path::new(RIG).join("../../../src/collector/kubernetes/rbac.yaml");
    let manifest = std::env::var_os("TAPIO_RBAC").map_or(manifest, PathBuf::from);
    apply(&plane, &std::fs::read_to_string(manifest).unwrap());
    plane.post("/api/v1/namespaces/tapio/serviceaccounts", &json!({"metadata": {"name": "nobody"}}));
    plane.post(
        "/api/v1/namespaces/shop/secrets",
        &json!({"metadata": {"name": "s"}, "stringData": {"k": "hunter2"}}),
    );
    plane.post("/api/v1/nodes", &json!({"metadata": {"name": "there"}}));
    let elect = |kubeconfig: &Path| Settings {
        k8s_scope: ClusterScope::Elect,
        ..settings(kubeconfig, &plane.folder.path().join("state of somebody"))
    };
    let agent = Agent::start(elect(&account(&plane, "tapio-collector")));
    let object = |name: &str| {
        let name = name.to_owned();
        move |seen: &Seen| seen.get(fields::OBJECT) == name
    };
    let events = agent.wait_for("the cluster", |events| {
        events.iter().any(object("Secret/shop/s")) && events.iter().any(object("Node/there"))
    });
    agent.wait_health("health", |health| health.state == State::Running);
    assert!(!format!("{events:?}").contains("hunter2") && !format!("{events:?}").contains("aHVudGVyMg"));

    let other = Agent::start(elect(&account(&plane, "nobody")));
    let health = other.wait_health("the reason", |health| health.reason.contains("403"));
    assert_eq!(health.state, State::Failed, "{}", health.reason);
    assert!(health.reason.contains("pods") && health.reason.contains("rbac.yaml"), "{}", health.reason);
    assert!(other.events().is_empty());
}

/// Scenario: an Event is made by either API, and each repeats in its own way.
/// Guarantees: all four are seen, each once, with their counts.
#[test]
fn live_events_of_both_apis_are_seen_once() {
    let Some(plane) = Plane::start("live_events_of_both_apis_are_seen_once") else { return };
    let uid = create_pod(&plane, "web", "here");
    let agent = Agent::start(settings(&plane.kubeconfig(), &plane.state_dir()));
    agent.wait_health("health", |health| health.state == State::Running);
    let pod = json!({"kind": "Pod", "namespace": "shop", "name": "web", "uid": uid});
    let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
    let micro = now.replace('Z', ".000000Z");
    let old = "/api/v1/namespaces/shop/events";
    plane.post(
        old,
        &json!({"metadata": {"name": "old"}, "involvedObject": pod, "reason": "Unhealthy", "type": "Warning",
        "message": "Liveness probe failed", "count": 1, "firstTimestamp": now, "lastTimestamp": now,
        "source": {"component": "kubelet", "host": "here"}}),
    );
    let patch = json!({"count": 2, "lastTimestamp": now}).to_string();
    plane.ask("PATCH", &format!("{old}/old"), "application/merge-patch+json", &patch);
    let new = "/apis/events.k8s.io/v1/namespaces/shop/events";
    plane.post(
        new,
        &json!({"metadata": {"name": "new"}, "regarding": pod, "reason": "BackOff", "type": "Warning",
        "note": "Back-off restarting failed container", "eventTime": micro, "action": "Restart",
        "reportingController": "kubelet", "reportingInstance": "here"}),
    );
    let patch = json!({"series": {"count": 5, "lastObservedTime": micro}}).to_string();
    plane.ask("PATCH", &format!("{new}/new"), "application/merge-patch+json", &patch);
    let of = |events: &[Seen]| -> Vec<(String, u64)> {
        let events = events.iter().filter(|seen| seen.kind == Kind::ObjectEvent);
        events.map(|seen| (seen.get(fields::REASON).to_owned(), seen.slot("count"))).collect()
    };
    let events = agent.wait_for("the repetitions", |events| of(events).contains(&("BackOff".into(), 5)));
    let expected = [("Unhealthy", 1), ("Unhealthy", 2), ("BackOff", 1), ("BackOff", 5)];
    assert_eq!(of(&events), expected.map(|(reason, count)| (reason.to_owned(), count)), "{events:#?}");
}
