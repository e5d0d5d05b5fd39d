//! Real containers as three sources tell of them: the kernel, the journal and the API, joined by the container's id, and
//! what the agent makes of it.

use std::path::Path;

use tapio::explain::Incident;

use super::cluster::{PODS, Registry, cgroup_of, hog, leave_only, provoke};
use super::plane::Plane;
use super::programs::{Programs, Stored, is_about, report, say, told};
use crate::journal::live::{Journald, unavailable};
use crate::skipped;

/// The trace id of a pod, once its state is known.
fn trace(programs: &Programs, pod: &str) -> Vec<String> {
    let states = programs.events("kind=pod_state");
    let of_pod = states.iter().find(|event| event.field("POD") == pod);
    of_pod.map(|event| event.trace_id().to_owned()).into_iter().collect()
}

/// The containers of a pod that had an id, by id.
fn ids(programs: &Programs, pod: &str) -> Vec<String> {
    let states = programs.events("kind=container_state");
    let of_pod = states.iter().filter(|event| event.field("POD") == pod);
    let mut ids: Vec<String> =
        of_pod.map(|event| event.container_id().to_owned()).filter(|id| !id.is_empty()).collect();
    ids.sort();
    ids.dedup();
    ids
}

/// What has to be there of one source.
pub(super) type Wanted = (&'static str, &'static str, fn(&Stored) -> bool);

/// The kernel's records of the end.
pub(super) const ENDED: Wanted = ("ebpf", "its end", |event| event.kind() == "process_exit");
pub(super) const KILLED: Wanted =
    ("ebpf", "its end by a signal", |event| event.kind() == "process_exit" && event.slot("signal") == 9);
pub(super) const SIGNALLED: Wanted = ("ebpf", "the signal", |event| event.kind() == "signal");
const VICTIM: Wanted = ("ebpf", "the victim", |event| event.kind() == "oom_victim");
pub(super) const STATUS_3: Wanted =
    ("ebpf", "status 3", |event| event.kind() == "process_exit" && event.slot("exit_code") == 3);

/// The journal's.
const LINE: Wanted =
    ("journald", "the kernel's line", |event| event.field("MEANING").starts_with("oom_kill"));
pub(super) const KUBELET: Wanted =
    ("journald", "the kubelet's line", |event| event.field("MEANING") == "kubelet_says");

/// The API's.
const OOM_KILLED: Wanted = ("kubernetes", "OOMKilled", |event| {
    event.field("REASON") == "OOMKilled" && event.slot("exit_code") == 137
});
pub(super) const ERROR_3: Wanted =
    ("kubernetes", "Error 3", |event| event.field("REASON") == "Error" && event.slot("exit_code") == 3);
pub(super) const OVER: Wanted = ("kubernetes", "its end", |event| event.slot("terminated") == 1);
const EVICTED: Wanted = ("kubernetes", "Evicted", |event| event.field("REASON") == "Evicted");
const RUNNING: Wanted = ("kubernetes", "running", |event| event.field("STATE") == "running");

/// What each pod that runs has to show of one of its containers.
const OF_CONTAINERS: &[(&str, &[Wanted])] = &[
    ("oom", &[VICTIM, KILLED, LINE, KUBELET, OOM_KILLED]),
    // The API says nothing of a child, and the kubelet does not know of it.
    ("child", &[VICTIM, KILLED, LINE, RUNNING]),
    ("loop", &[STATUS_3, KUBELET, ERROR_3]),
    ("probed", &[SIGNALLED, ENDED, KUBELET, OVER]),
    // Of a pod that it evicts the kubelet says how the container ended, or that it waits: either may come first.
    ("full", &[SIGNALLED, ENDED, RUNNING]),
];

/// What each has to show of the pod itself: of a container that never ran there is no id, and nothing in the kernel.
const OF_PODS: &[(&str, &[Wanted])] = &[
    ("pull", &[KUBELET, waiting(|event| event.field("REASON") == "ImagePullBackOff")]),
    ("absent", &[KUBELET, waiting(|event| event.field("REASON") == "ImagePullBackOff")]),
    ("private", &[KUBELET, waiting(|event| event.field("REASON") == "ImagePullBackOff")]),
    ("untrusted", &[KUBELET, waiting(|event| event.field("REASON") == "ImagePullBackOff")]),
    ("configured", &[KUBELET, waiting(|event| event.field("REASON") == "CreateContainerConfigError")]),
    ("full", &[KUBELET, EVICTED]),
    ("probed", &[("kubernetes", "Unhealthy", |event| event.field("REASON") == "Unhealthy")]),
];

const fn waiting(holds: fn(&Stored) -> bool) -> Wanted {
    ("kubernetes", "why it waits", holds)
}

/// One query by one of these ids finds all that is wanted, and nothing of another container. Says how much it found.
pub(super) fn assert_joined(
    programs: &Programs,
    what: &str,
    ids: impl Fn() -> Vec<String>,
    wanted: &[Wanted],
) {
    let found = programs.wait(&format!("every source on {what}"), |programs| {
        let mut instead = Vec::new();
        for id in ids() {
            let joined = programs.joined(&id);
            let is_other = |event: &&Stored| id.len() == 64 && event.container_id() != id;
            let other = joined.values().flatten().find(is_other);
            assert!(other.is_none(), "of another container than {id}: {other:?}");
            let has =
                |(source, _, holds): &Wanted| joined.get(*source).is_some_and(|all| all.iter().any(holds));
            let missing: Vec<&str> = wanted.iter().filter(|one| !has(one)).map(|one| one.1).collect();
            if missing.is_empty() {
                return Ok(joined
                    .into_iter()
                    .map(|(source, all)| format!(" {source} {}", all.len()))
                    .collect());
            }
            let kinds: Vec<&str> = joined.values().flatten().map(Stored::kind).collect();
            instead.push(format!("{id} lacks {missing:?}, it has {kinds:?}"));
        }
        Err(instead)
    });
    let found: Vec<String> = found;
    say(&format!("{what} by its id:{}", found.concat()));
}

fn has_source(incident: &Incident, source: &str) -> bool {
    incident.facts.iter().any(|fact| fact.source == source)
}

/// The verdict on a pod: what its root has to be, whose, and what hangs on it.
fn assert_verdict(programs: &Programs, pod: &str, root: &str, chain: &[&str]) -> Incident {
    let about = format!("shop/{pod}");
    let verdict = programs.incident(&about, |incident| {
        let has = |kind: &&str| incident.facts.iter().any(|fact| fact.kind == *kind);
        incident.root_cause.kind == root
            && incident.root_cause.entity.name.starts_with(&about)
            && chain.iter().all(has)
    });
    report(&verdict);
    verdict
}

fn assert_verdicts(programs: &Programs) {
    let oom = assert_verdict(programs, "oom", "memory_limit_hit", &["oom_victim", "oom_killed"]);
    for source in ["ebpf", "journald", "kubernetes"] {
        assert!(has_source(&oom, source), "{source} says nothing: {}", told(&oom));
    }
    let child = assert_verdict(programs, "child", "memory_limit_hit", &["oom_victim"]);
    assert!(!has_source(&child, "kubernetes"), "the API says nothing of a child: {}", told(&child));
    for incident in [&oom, &child] {
        assert_eq!(incident.root_cause.entity.kind, "container", "the limit is its own: {}", told(incident));
    }
    let crash_loop = assert_verdict(programs, "loop", "exit_failure", &["crash_loop"]);
    assert!(!crash_loop.root_cause.known, "nothing says why: {}", told(&crash_loop));
    assert_verdict(programs, "probed", "probe_failed", &["runtime_kill", "container_failed"]);
    for (pod, root) in [
        ("pull", "image_registry_dns_failure"),
        ("absent", "incorrect_image_reference"),
        ("private", "missing_image_pull_secret"),
        ("untrusted", "image_pull_failed"),
    ] {
        let pull = assert_verdict(programs, pod, root, &["image_pull_failed"]);
        assert!(!has_source(&pull, "ebpf"), "there was no process: {}", told(&pull));
    }
    let configured = assert_verdict(programs, "configured", "config_missing", &[]);
    assert!(configured.root_cause.summary.contains("missing"), "{}", told(&configured));
    assert_verdict(programs, "full", "evicted", &[]);
}

/// The ids that the API names are those of the cgroups, each run has one of its own, and a child takes no run with it.
fn assert_ids(programs: &Programs) {
    let states = programs.events("kind=container_state");
    for pod in ["fine", "child"] {
        let is_it = |event: &&Stored| event.field("POD") == pod && event.field("STATE") == "running";
        let running = states.iter().find(is_it).expect("it runs");
        let id = running.container_id();
        let path = cgroup_of(id, Path::new("/sys/fs/cgroup")).unwrap_or_else(|| panic!("no cgroup of {id}"));
        let path = path.display().to_string();
        assert!(path.contains(running.field("POD_UID")), "{path}");
        assert_eq!(running.slot("restarts"), 0);
    }
    let runs = ids(programs, "loop");
    assert!(runs.len() > 1, "each run has an id of its own: {runs:?}");
}

/// Once nothing else runs but what is fine, which the kubelet would evict first where it knows nothing of its memory.
fn assert_eviction(plane: &Plane, programs: &Programs) {
    leave_only(plane, programs, "fine");
    hog(plane);
    assert_joined(programs, "the pod hog", || trace(programs, "hog"), &[EVICTED]);
    assert_joined(programs, "a container of hog", || ids(programs, "hog"), &[SIGNALLED, ENDED, RUNNING]);
    programs.wait("the node's condition", |programs| {
        let conditions = programs.events("kind=node_condition");
        let is_short =
            |event: &Stored| event.field("CONDITION") == "MemoryPressure" && event.field("STATUS") == "True";
        if conditions.iter().any(is_short) { Ok(()) } else { Err(conditions) }
    });
    let pressure = programs.incident("shop/hog", |incident| {
        let mut facts = incident.facts.iter();
        incident.root_cause.kind == "node_pressure"
            && facts.any(|fact| fact.kind == "runtime_kill" && fact.entity.name.starts_with("shop/hog"))
    });
    report(&pressure);
    // Who used the memory is named where a series of what it used shows it, else the node.
    let whose = pressure.root_cause.entity.name.as_str();
    assert!(matches!(whose, "rig" | "shop/hog/main"), "{}", told(&pressure));
    let others = programs.incident("shop/full", |incident| incident.root_cause.kind == "evicted");
    assert!(!is_about(&others, "shop/hog"), "of its own volume: {}", told(&others));
}

/// Scenario: on a real node whose kubelet logs to the journal, a pod for every way to fail, and one that is fine, which
/// is then deleted. At last one that takes so much of the memory of all that the kubelet evicts it.
/// Guarantees: one query by a container's id, or by the pod's where none ran, finds what the kernel, the journal and the
/// API tell of it; the ids are those of the cgroups; the running agent names the cause of each, and of nothing else.
#[test]
fn live_three_sources_are_joined_by_container() {
    let test = "live_three_sources_are_joined_by_container";
    if let Some(reason) = unavailable() {
        return skipped(test, reason);
    }
    let Some(plane) = Plane::start(test) else { return };
    let journald = Journald::of_kernel("joined");
    if let Err(reason) = plane.start_node(Some(&journald)) {
        return skipped(test, &reason);
    }
    let mut programs = Programs::start(&plane, Some(journald));
    provoke(&plane, &Registry::start());
    for (pod, wanted) in OF_CONTAINERS {
        assert_joined(&programs, &format!("a container of {pod}"), || ids(&programs, pod), wanted);
    }
    for (pod, wanted) in OF_PODS {
        assert_joined(&programs, &format!("the pod {pod}"), || trace(&programs, pod), wanted);
    }
    assert_ids(&programs);
    assert_verdicts(&programs);

    if std::env::var_os("TAPIO_KUBE_EVICTION").is_some() {
        assert_eviction(&plane, &programs);
    } else {
        say(
            "not looked at: an eviction for memory, whose verdict was not yet seen to the end; set TAPIO_KUBE_EVICTION",
        );
    }

    plane.delete_gracefully(&format!("{PODS}/fine"));
    programs.wait("the end of what was asked to go", |programs| {
        let gone = programs.events("kind=object_change");
        let is_it = |event: &Stored| event.field("OBJECT") == "Pod/shop/fine" && event.slot("deleted") == 1;
        if gone.iter().any(is_it) { Ok(()) } else { Err(gone.len()) }
    });
    let of_fine: Vec<Incident> = programs
        .incidents()
        .into_iter()
        .filter(|incident| incident.facts.iter().any(|fact| fact.entity.name.starts_with("shop/fine")))
        .collect();
    assert!(of_fine.is_empty(), "{}", of_fine.iter().map(told).collect::<String>());
    programs.stop();
    for (pod, ..) in OF_CONTAINERS.iter().chain(OF_PODS) {
        let by = format!("the pod {pod} of tests/it/kubernetes/cluster.rs");
        programs.keep(pod, &by, &format!("shop/{pod}"), ..);
    }
}
