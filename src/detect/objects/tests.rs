//! The words of the Kubernetes API, as it says them.

use super::*;

/// Scenario: Events as real kubelets, schedulers and controllers write them.
/// Guarantees: each means one thing; those of ordinary life mean nothing.
#[test]
fn events_mean_what_they_say() {
    use FactKind as F;
    for (reason, message, expected) in [
        (
            "Unhealthy",
            "Liveness probe failed: HTTP probe failed with statuscode: 500",
            meaning(F::ProbeFailed, "liveness"),
        ),
        ("Unhealthy", "Readiness probe failed: dial tcp 10.244.0.5:80", meaning(F::ProbeFailed, "readiness")),
        ("Unhealthy", "Startup probe failed: command timed out", meaning(F::ProbeFailed, "startup")),
        (
            "Killing",
            "Container web failed liveness probe, will be restarted",
            meaning(F::RuntimeKill, "liveness"),
        ),
        ("Killing", "Stopping container web", None),
        (
            "BackOff",
            "Back-off restarting failed container web in pod web-1_shop(1)",
            meaning(F::CrashLoop, ""),
        ),
        ("BackOff", "Back-off pulling image \"x:1\"", meaning(F::ImagePullFailed, "back_off")),
        ("Failed", "Failed to pull image \"x:1\": not found", meaning(F::ImagePullFailed, "not_found")),
        ("Failed", "Error: configmap \"settings\" not found", meaning(F::ConfigMissing, "reference")),
        ("Failed", "Error: secret \"keys\" not found", meaning(F::ConfigMissing, "reference")),
        (
            "Failed",
            "Error: failed to create containerd task: exec: \"/x\": stat /x: no such file",
            meaning(F::SpawnFailed, ""),
        ),
        (
            "FailedMount",
            "MountVolume.SetUp failed for volume \"c\" : configmap \"c\" not found",
            meaning(F::ConfigMissing, "mount"),
        ),
        ("FailedMount", "Unable to attach or mount volumes: timed out", meaning(F::MountFailed, "")),
        (
            "FailedAttachVolume",
            "Multi-Attach error for volume \"pvc-1\"",
            meaning(F::MountFailed, "multi_attach"),
        ),
        ("FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu.", meaning(F::Unschedulable, "")),
        ("TaintManagerEviction", "Marking for deletion Pod shop/web-1", meaning(F::Evicted, "")),
        ("TaintManagerEviction", "Cancelling deletion of Pod shop/web-1", None),
        (
            "FailedCreate",
            "pods \"web-1\" is forbidden: exceeded quota: q, requested: limits.memory=1Gi, used: limits.memory=2Gi",
            meaning(F::NamespaceMemoryQuotaExceeded, "quota"),
        ),
        (
            "FailedCreate",
            "pods \"w\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2",
            meaning(F::NamespacePodQuotaExceeded, "quota"),
        ),
        (
            "FailedCreate",
            "error looking up service account shop/x: serviceaccount \"x\" not found",
            meaning(F::RolloutFailed, "create"),
        ),
        ("Scheduled", "Successfully assigned shop/web-1 to node", None),
        ("Pulled", "Container image already present", None),
        ("NodeReady", "Node n status is now: NodeReady", None),
    ] {
        assert_eq!(classify(reason, message), expected, "{reason} {message}");
    }
}

/// Scenario: errors of registries.
/// Guarantees: the four sub-causes are told apart, names before certificates before rights before absence.
#[test]
fn pulls_fail_for_a_reason() {
    for (message, expected) in [
        ("dial tcp: lookup registry.local on 10.0.0.2:53: no such host", Some("no_such_host")),
        ("tls: failed to verify certificate: x509: certificate signed by unknown authority", Some("x509")),
        ("401 Unauthorized: authentication required", Some("unauthorized")),
        ("docker.io/library/x:1: not found", Some("not_found")),
        ("dial tcp 10.0.0.9:443: connect: connection refused", Some("unreachable")),
        ("something else", None),
    ] {
        assert_eq!(pull_failure(message), expected, "{message}");
    }
    assert_eq!(missing_object("configmap \"a\" not found").as_deref(), Some("ConfigMap/a"));
    assert_eq!(missing_object("couldn't find key x in ConfigMap shop/a"), None);
    assert_eq!(missing_object("image not found"), None);
}

/// What changes of `ReplicaSet`s are told as, each a name, what changed, and how many pods are wanted.
fn rollouts(changes: &[(&str, &str, u64)]) -> Vec<String> {
    use super::super::fact::EventId;
    use crate::event::{Event, EventBuilder, Source};
    let owner = crate::entity::Entity { kind: crate::entity::EntityKind::Object, ..Default::default() };
    let mut builder = EventBuilder::default();
    let (mut objects, mut out) = (Objects::default(), Vec::new());
    for (step, (revision, changed, desired)) in (1_u64..).zip(changes) {
        builder.start(Source::Kubernetes, Kind::ObjectChange, step * 1_000_000_000);
        for slot in Kind::ObjectChange.info().slots {
            builder.slot(if slot.name == "desired" { *desired } else { 0 });
        }
        builder.owner(fields::OBJECT, &format!("ReplicaSet/shop/web-{revision}"));
        builder.field(fields::OWNER, "Deployment/shop/web").field(fields::REVISION, revision);
        builder.field(fields::CHANGED, changed);
        let event = Event::parse(builder.finish()).expect("an event");
        let id = EventId { source: Source::Kubernetes, producer: 0, sequence: step };
        objects.event(&Seen { event, owner: &owner, id, host: "n1", above: &Default::default() }, &mut out);
    }
    out.iter().map(|fact| format!("{} {:?}", fact.subject, fact.detail.get("revision"))).collect()
}

/// Scenario: `ReplicaSet`s as a first list finds them, in a rolling update, scaled to nothing and back, and taken back
/// to an earlier revision.
/// Guarantees: each change of the revision is one rollout of the Deployment, with the hash that its pods have; all else
/// is none.
#[test]
fn replica_sets_show_revisions() {
    let of_b = || vec![format!("deployment shop/web {:?}", Some(Value::from("b")))];
    assert_eq!(rollouts(&[("a", "new", 2)]), Vec::<String>::new(), "the first replaces nothing");
    assert_eq!(rollouts(&[("a", "", 2), ("b", "", 1)]), Vec::<String>::new(), "they were there");
    assert_eq!(
        rollouts(&[("a", "", 2), ("b", "new", 1), ("a", "spec.replicas", 1), ("b", "spec.replicas", 2)]),
        of_b()
    );
    assert_eq!(rollouts(&[("a", "", 2), ("b", "new", 0), ("b", "spec.replicas", 1)]), of_b());
    let idle = [("a", "", 2), ("a", "spec.replicas", 0), ("a", "spec.replicas", 2)];
    assert_eq!(rollouts(&idle), Vec::<String>::new(), "scaled to nothing and back");
    let back = rollouts(&[("b", "", 0), ("a", "", 2), ("b", "spec.replicas", 1)]);
    assert_eq!(back, of_b(), "an earlier revision comes back");
}
