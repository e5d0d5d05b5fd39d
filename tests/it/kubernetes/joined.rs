//! Real containers as three sources tell of them: the kernel, the journal and the API, joined by the container's id, and
//! what the agent makes of it.

use serde_json::json;
use tapio::explain::Incident;

use super::cluster::{limited, run, shell};
use super::plane::Plane;
use super::programs::{Programs, Stored, report, told};
use crate::journal::live::{Journald, unavailable};
use crate::skipped;

/// The containers of a pod of which the API says that a run of them ended, by id.
fn ended(programs: &Programs, pod: &str) -> Vec<String> {
    let states = programs.events("kind=container_state");
    let of_pod = |event: &&Stored| event.field("POD") == pod && event.slot("terminated") == 1;
    let mut ids: Vec<String> =
        states.iter().filter(of_pod).map(|event| event.container_id().to_owned()).collect();
    ids.sort();
    ids.dedup();
    ids
}

/// What has to be there of one source.
type Wanted = (&'static str, &'static str, fn(&Stored) -> bool);

/// One query by the id of each container of this pod that ended finds this of each source, for one of them at least.
fn assert_joined(programs: &Programs, pod: &str, wanted: &[Wanted]) {
    programs.wait(&format!("every source on a container of {pod}"), |programs| {
        let mut instead = Vec::new();
        for id in ended(programs, pod) {
            let joined = programs.joined(&id);
            let other = joined.values().flatten().find(|event| event.container_id() != id);
            assert!(other.is_none(), "of another container than {id}: {other:?}");
            let has =
                |(source, _, holds): &Wanted| joined.get(*source).is_some_and(|all| all.iter().any(holds));
            let missing: Vec<&str> = wanted.iter().filter(|one| !has(one)).map(|one| one.1).collect();
            if missing.is_empty() {
                return Ok(());
            }
            let kinds: Vec<&str> = joined.values().flatten().map(Stored::kind).collect();
            instead.push(format!("{id} lacks {missing:?}, it has {kinds:?}"));
        }
        Err(instead)
    });
}

fn has_source(incident: &Incident, source: &str) -> bool {
    incident.facts.iter().any(|fact| fact.source == source)
}

/// The verdict on a pod: what its root has to be, and what hangs on it.
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

/// Scenario: on a real node, a container over its memory limit, one whose child is, a crash loop, a container whose
/// liveness probe fails, an image that nobody has, and a `ConfigMap` that is missing.
/// Guarantees: one query by a container's id finds what the kernel, the journal (where the kernel said something) and
/// the API tell of it; the running agent names the cause of each, and of nothing else.
#[test]
fn live_three_sources_are_joined_by_container() {
    let test = "live_three_sources_are_joined_by_container";
    let Some(plane) = Plane::start(test) else { return };
    if let Err(reason) = plane.start_node() {
        return skipped(test, &reason);
    }
    if let Some(reason) = unavailable() {
        return skipped(test, reason);
    }
    let programs = Programs::start(&plane, Some(Journald::of_kernel("joined")));
    let eater = "x=x; while :; do x=$x$x; done";
    run(&plane, "oom", &limited(shell(&format!("sleep 1; {eater}")), "16Mi"), &json!({}));
    let child = shell(&format!("sleep 1; sh -c '{eater}'; sleep 1000"));
    run(&plane, "child", &limited(child, "16Mi"), &json!({}));
    run(&plane, "loop", &shell("sleep 0.2; exit 3"), &json!({}));
    let mut probed = shell("sleep 1000");
    probed["livenessProbe"] =
        json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 2});
    run(&plane, "probed", &probed, &json!({}));
    run(&plane, "pull", &json!({"image": "registry.invalid/none:1"}), &json!({}));
    let mut configured = shell("sleep 1000");
    configured["envFrom"] = json!([{"configMapRef": {"name": "missing"}}]);
    run(&plane, "configured", &configured, &json!({}));
    run(&plane, "fine", &shell("sleep 1000"), &json!({}));

    let oom: [Wanted; 4] = [
        ("ebpf", "the victim", |event| event.kind() == "oom_victim"),
        ("ebpf", "its end", |event| event.kind() == "process_exit" && event.slot("signal") == 9),
        ("kubernetes", "OOMKilled", |event| event.field("REASON") == "OOMKilled"),
        ("journald", "the kernel's line", |event| event.field("MEANING").starts_with("oom_kill")),
    ];
    assert_joined(&programs, "oom", &oom);
    assert_joined(
        &programs,
        "loop",
        &[
            ("ebpf", "its end", |event| event.kind() == "process_exit" && event.slot("exit_code") == 3),
            ("kubernetes", "status 3", |event| event.slot("exit_code") == 3),
        ],
    );
    assert_joined(
        &programs,
        "probed",
        &[
            ("ebpf", "the signal", |event| event.kind() == "signal"),
            ("ebpf", "its end", |event| event.kind() == "process_exit"),
            ("kubernetes", "its end", |event| event.slot("terminated") == 1),
        ],
    );

    let oom = assert_verdict(&programs, "oom", "memory_limit_hit", &["oom_victim", "oom_killed"]);
    for source in ["ebpf", "journald", "kubernetes"] {
        assert!(has_source(&oom, source), "{source} says nothing: {}", told(&oom));
    }
    let child = assert_verdict(&programs, "child", "memory_limit_hit", &["oom_victim"]);
    assert!(!has_source(&child, "kubernetes"), "the API says nothing of a child: {}", told(&child));
    let crash_loop = assert_verdict(&programs, "loop", "exit_failure", &["crash_loop"]);
    assert!(!crash_loop.root_cause.known, "nothing says why: {}", told(&crash_loop));
    assert_verdict(&programs, "probed", "probe_failed", &["runtime_kill", "container_failed"]);
    let pull = assert_verdict(&programs, "pull", "image_registry_dns_failure", &["image_pull_failed"]);
    assert!(!has_source(&pull, "ebpf"), "there was no process: {}", told(&pull));
    let configured = assert_verdict(&programs, "configured", "config_missing", &[]);
    assert!(configured.root_cause.summary.contains("missing"), "{}", told(&configured));
    let of_fine: Vec<Incident> = programs
        .incidents()
        .into_iter()
        .filter(|incident| incident.facts.iter().any(|fact| fact.entity.name.starts_with("shop/fine")))
        .collect();
    assert!(of_fine.is_empty(), "{}", of_fine.iter().map(told).collect::<String>());
}
