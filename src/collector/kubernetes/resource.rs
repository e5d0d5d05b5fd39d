//! The table of what is watched: where it is found, and which of its fields others are compared with.
//!
//! Invariants:
//! - Everything that the collector may ask the API server for is in the table below; `rbac.yaml` grants exactly that.
//! - Secrets and `ConfigMap`s are watched as metadata: what they hold is never sent to this agent.

/// What the collector makes of the objects of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Pods: their status, and that of their containers.
    Pod,
    /// Nodes: conditions and taints.
    Node,
    /// Events of the API.
    Event,
    /// Endpoint slices: how many endpoints of a service are ready.
    Endpoints,
    /// Leases: whether their holder still renews them.
    Lease,
    /// Anything else: what changed.
    Object,
}

/// One field that is kept.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// The names from the object to the field, separated by spaces. Lists on the way are passed through.
    pub path: &'static str,
    /// Of an object there, or of each object of a list there, only these names; empty: all.
    pub only: &'static [&'static str],
}

/// One resource of the API.
#[derive(Debug, Clone, Copy)]
pub struct Resource {
    /// The plural of its path.
    pub plural: &'static str,
    /// Its kind.
    pub kind: &'static str,
    /// Its group; empty for the core.
    pub group: &'static str,
    /// The only namespace that is of interest; empty: all.
    pub namespace: &'static str,
    /// What is made of it.
    pub role: Role,
    /// Only its metadata is asked for.
    pub metadata_only: bool,
    /// What is kept of each object, for comparison and for the event.
    pub keep: &'static [Keep],
    /// Where the number of replicas wanted is; empty: it has none.
    pub desired: &'static str,
    /// Where the number of replicas that are ready is.
    pub ready: &'static str,
}

const fn all(path: &'static str) -> Keep {
    Keep { path, only: &[] }
}

const fn some(path: &'static str, only: &'static [&'static str]) -> Keep {
    Keep { path, only }
}

const fn object(
    kind: &'static str,
    group: &'static str,
    plural: &'static str,
    keep: &'static [Keep],
) -> Resource {
    let role = Role::Object;
    Resource { plural, kind, group, namespace: "", role, metadata_only: false, keep, desired: "", ready: "" }
}

const CONDITION: &[&str] = &["type", "status", "reason"];
const CONTAINER: &[&str] = &[
    "name",
    "image",
    "ports",
    "resources",
    "env",
    "envFrom",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "volumeMounts",
    "securityContext",
    "restartPolicy",
];
const VOLUME: &[&str] = &[
    "name",
    "configMap",
    "secret",
    "persistentVolumeClaim",
    "emptyDir",
    "hostPath",
    "projected",
    "ephemeral",
];

/// What is kept of a pod. The same fields of a template have the path of the template before them.
const POD: &[Keep] = &[
    all("metadata labels"),
    some("spec containers", CONTAINER),
    some("spec initContainers", CONTAINER),
    some("spec volumes", VOLUME),
    all("spec nodeSelector"),
    all("spec affinity"),
    some("spec tolerations", &["key", "operator", "value", "effect"]),
    all("spec serviceAccountName"),
    all("spec imagePullSecrets"),
    all("spec priorityClassName"),
    all("spec securityContext"),
    all("spec hostNetwork"),
];

macro_rules! template {
    ($($own:expr),* $(,)?) => {
        &[
            $($own,)*
            all("spec template metadata labels"),
            some("spec template spec containers", CONTAINER),
            some("spec template spec initContainers", CONTAINER),
            some("spec template spec volumes", VOLUME),
            all("spec template spec nodeSelector"),
            all("spec template spec affinity"),
            some("spec template spec tolerations", &["key", "operator", "value", "effect"]),
            all("spec template spec serviceAccountName"),
            all("spec template spec imagePullSecrets"),
            all("spec template spec priorityClassName"),
            some("status conditions", CONDITION),
        ]
    };
}

/// Pods.
pub(super) const PODS: Resource = Resource { role: Role::Pod, ..object("Pod", "", "pods", POD) };

/// Nodes.
pub(super) const NODES: Resource = Resource {
    role: Role::Node,
    ..object(
        "Node",
        "",
        "nodes",
        &[
            all("metadata labels"),
            some("spec taints", &["key", "value", "effect"]),
            all("spec unschedulable"),
            all("status allocatable"),
        ],
    )
};

/// Events. Those of `events.k8s.io` are the same objects, and are seen here with all of their fields.
pub(super) const EVENTS: Resource = Resource { role: Role::Event, ..object("Event", "", "events", &[]) };

/// Leases of the control plane.
pub(super) const LEASES: Resource = Resource {
    role: Role::Lease,
    namespace: "kube-system",
    ..object("Lease", "coordination.k8s.io", "leases", &[])
};

/// What every agent watches, each its own part of it.
pub(super) const OWN: &[Resource] = &[PODS, NODES, EVENTS];

/// What one agent watches for the whole cluster, besides pods without a node and the other nodes.
pub(super) const CLUSTER: &[Resource] = &[
    Resource {
        desired: "spec replicas",
        ready: "status readyReplicas",
        ..object(
            "Deployment",
            "apps",
            "deployments",
            template![
                all("spec replicas"),
                all("spec selector"),
                all("spec strategy"),
                all("spec paused"),
                all("spec progressDeadlineSeconds"),
            ],
        )
    },
    Resource {
        desired: "spec replicas",
        ready: "status readyReplicas",
        ..object(
            "ReplicaSet",
            "apps",
            "replicasets",
            &[
                all("spec replicas"),
                some("spec template spec containers", &["name", "image"]),
                some("status conditions", CONDITION),
            ],
        )
    },
    Resource {
        desired: "spec replicas",
        ready: "status readyReplicas",
        ..object(
            "StatefulSet",
            "apps",
            "statefulsets",
            template![
                all("spec replicas"),
                all("spec selector"),
                all("spec serviceName"),
                all("spec updateStrategy")
            ],
        )
    },
    Resource {
        desired: "status desiredNumberScheduled",
        ready: "status numberReady",
        ..object(
            "DaemonSet",
            "apps",
            "daemonsets",
            template![all("spec selector"), all("spec updateStrategy"), all("status desiredNumberScheduled")],
        )
    },
    Resource {
        desired: "spec completions",
        ready: "status succeeded",
        ..object(
            "Job",
            "batch",
            "jobs",
            template![
                all("spec completions"),
                all("spec backoffLimit"),
                all("spec activeDeadlineSeconds"),
                all("status failed"),
            ],
        )
    },
    Resource { role: Role::Endpoints, ..object("EndpointSlice", "discovery.k8s.io", "endpointslices", &[]) },
    object(
        "Service",
        "",
        "services",
        &[
            all("spec selector"),
            some("spec ports", &["name", "port", "targetPort", "protocol"]),
            all("spec type"),
            all("spec clusterIP"),
        ],
    ),
    Resource { metadata_only: true, ..object("ConfigMap", "", "configmaps", &[]) },
    Resource { metadata_only: true, ..object("Secret", "", "secrets", &[]) },
    object("ServiceAccount", "", "serviceaccounts", &[all("imagePullSecrets")]),
    object(
        "ResourceQuota",
        "",
        "resourcequotas",
        &[all("spec hard"), all("spec scopes"), all("status used")],
    ),
    object(
        "PersistentVolumeClaim",
        "",
        "persistentvolumeclaims",
        &[
            all("spec storageClassName"),
            all("spec accessModes"),
            all("spec resources requests"),
            all("spec selector"),
            all("spec volumeName"),
            all("spec volumeMode"),
            all("status phase"),
        ],
    ),
    object(
        "PersistentVolume",
        "",
        "persistentvolumes",
        &[
            all("metadata labels"),
            all("spec capacity"),
            all("spec accessModes"),
            all("spec storageClassName"),
            some("spec claimRef", &["namespace", "name"]),
            all("spec nodeAffinity"),
            all("spec volumeMode"),
            all("status phase"),
        ],
    ),
    object(
        "StorageClass",
        "storage.k8s.io",
        "storageclasses",
        &[
            all("provisioner"),
            all("volumeBindingMode"),
            some("metadata annotations", &["storageclass.kubernetes.io/is-default-class"]),
        ],
    ),
    Resource {
        desired: "status desiredHealthy",
        ready: "status currentHealthy",
        ..object(
            "PodDisruptionBudget",
            "policy",
            "poddisruptionbudgets",
            &[
                all("spec minAvailable"),
                all("spec maxUnavailable"),
                all("spec selector"),
                all("status disruptionsAllowed"),
            ],
        )
    },
    Resource {
        desired: "status desiredReplicas",
        ready: "status currentReplicas",
        ..object(
            "HorizontalPodAutoscaler",
            "autoscaling",
            "horizontalpodautoscalers",
            &[
                all("spec minReplicas"),
                all("spec maxReplicas"),
                all("spec scaleTargetRef"),
                some("status conditions", CONDITION),
            ],
        )
    },
    LEASES,
];

/// Every resource.
pub fn resources() -> impl Iterator<Item = &'static Resource> {
    OWN.iter().chain(CLUSTER)
}

impl Resource {
    /// The version of its group that is asked for.
    #[must_use]
    pub fn version(&self) -> &'static str {
        if self.group == "autoscaling" { "v2" } else { "v1" }
    }

    /// Its path below the API server's address.
    #[must_use]
    pub fn path(&self) -> String {
        self.path_in(self.namespace)
    }

    /// The same in a namespace; empty: all.
    #[must_use]
    pub fn path_in(&self, namespace: &str) -> String {
        let (group, version, plural) = (self.group, self.version(), self.plural);
        let root =
            if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        if namespace.is_empty() {
            format!("{root}/{plural}")
        } else {
            format!("{root}/namespaces/{namespace}/{plural}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// The resources of each group that `rbac.yaml` grants, with their verbs.
    fn granted() -> BTreeMap<(String, String), Vec<String>> {
        let mut grants = BTreeMap::new();
        let (mut groups, mut resources) = (Vec::new(), Vec::new());
        let list = |text: &str| -> Vec<String> {
            let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
            inner.split(',').map(|part| part.trim().trim_matches('"').to_owned()).collect()
        };
        for line in include_str!("rbac.yaml").lines() {
            let line = line.trim().trim_start_matches("- ");
            if let Some(rest) = line.strip_prefix("apiGroups:") {
                groups = list(rest);
            } else if let Some(rest) = line.strip_prefix("resources:") {
                resources = list(rest);
            } else if let Some(rest) = line.strip_prefix("verbs:") {
                for group in &groups {
                    for resource in &resources {
                        let verbs: &mut Vec<String> =
                            grants.entry((group.clone(), resource.clone())).or_default();
                        verbs.extend(list(rest));
                        verbs.sort();
                        verbs.dedup();
                    }
                }
            }
        }
        grants
    }

    /// Scenario: the manifest that users apply, against the table.
    /// Guarantees: each resource may be listed and watched and nothing else; only leases may be written.
    #[test]
    fn the_manifest_grants_what_is_used() {
        let mut granted = granted();
        for resource in resources() {
            let key = (resource.group.to_owned(), resource.plural.to_owned());
            let verbs = granted.remove(&key).unwrap_or_else(|| panic!("rbac.yaml lacks {key:?}"));
            let expected: &[&str] = match resource.role {
                Role::Lease => &["create", "get", "list", "update", "watch"],
                _ => &["list", "watch"],
            };
            assert_eq!(verbs, expected, "{key:?}");
        }
        assert!(granted.is_empty(), "rbac.yaml grants what nobody uses: {granted:?}");
    }

    /// Scenario: the table.
    /// Guarantees: no resource is there twice, paths are those of the API, nothing of a secret is kept.
    #[test]
    fn resources_are_unique() {
        let mut paths = std::collections::BTreeSet::new();
        for resource in resources() {
            assert!(paths.insert(resource.path()), "{} is there twice", resource.plural);
            assert!(!resource.metadata_only || resource.keep.is_empty());
            assert!(resource.keep.len() < 64);
        }
        assert!(paths.contains("/apis/autoscaling/v2/horizontalpodautoscalers"));
        assert!(paths.contains("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"));
        assert!(resources().filter(|resource| resource.metadata_only).count() == 2);
    }
}
