//! The parts of Kubernetes objects that are read, and no others: what is not named here is never allocated.
//!
//! Invariants:
//! - Every field may be absent or null: what an API server leaves out is never an error.

use serde::Deserialize;

/// The text of a field; empty when it is absent.
#[must_use]
pub(super) fn text(field: Option<&String>) -> &str {
    field.map_or("", String::as_str)
}

/// What every object has.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Meta {
    /// Unique within namespace and kind at one time.
    pub(super) name: Option<String>,
    /// Absent for objects of the cluster.
    pub(super) namespace: Option<String>,
    /// Unique for ever.
    pub(super) uid: Option<String>,
    /// Changes with every write.
    pub(super) resource_version: Option<String>,
    /// Changes with every change of what is wanted.
    pub(super) generation: Option<u64>,
    /// When it was made.
    pub(super) creation_timestamp: Option<String>,
    /// By when it is to be gone.
    pub(super) deletion_timestamp: Option<String>,
    /// How long its end may take.
    pub(super) deletion_grace_period_seconds: Option<u64>,
    /// The labels that mean something to us.
    pub(super) labels: Option<Labels>,
    /// The annotations that mean something to us.
    pub(super) annotations: Option<Annotations>,
    /// Whom it belongs to.
    pub(super) owner_references: Option<Vec<OwnerReference>>,
}

/// The labels that controllers set.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Labels {
    /// The revision of a Deployment.
    #[serde(rename = "pod-template-hash")]
    pub(super) pod_template_hash: Option<String>,
    /// The revision of a `StatefulSet` or `DaemonSet`.
    #[serde(rename = "controller-revision-hash")]
    pub(super) controller_revision_hash: Option<String>,
    /// The service of an endpoint slice.
    #[serde(rename = "kubernetes.io/service-name")]
    pub(super) service_name: Option<String>,
}

/// The annotations that change what an object is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Annotations {
    /// The object is a lock in the old way: it changes every other second and means nothing.
    #[serde(rename = "control-plane.alpha.kubernetes.io/leader")]
    pub(super) leader: Option<String>,
}

/// Whom an object belongs to.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OwnerReference {
    /// Its kind.
    pub(super) kind: Option<String>,
    /// Its name.
    pub(super) name: Option<String>,
    /// It manages the object.
    pub(super) controller: Option<bool>,
}

/// Any object.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Plain {
    /// See [`Meta`].
    pub(super) metadata: Meta,
    /// What is.
    pub(super) status: PlainStatus,
}

/// What any object is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PlainStatus {
    /// See [`Condition`].
    pub(super) conditions: Option<Vec<Condition>>,
}

/// A condition of a pod, a node or a workload.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Condition {
    /// Which one.
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    /// `True`, `False` or `Unknown`.
    pub(super) status: Option<String>,
    /// One word.
    pub(super) reason: Option<String>,
    /// For people.
    pub(super) message: Option<String>,
    /// When the status changed.
    pub(super) last_transition_time: Option<String>,
}

/// A pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    /// See [`Meta`].
    pub(super) metadata: Meta,
    /// What is wanted.
    pub(super) spec: PodSpec,
    /// What is.
    pub(super) status: PodStatus,
}

/// What is wanted of a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodSpec {
    /// Where it is to run; absent until it is scheduled.
    pub(super) node_name: Option<String>,
}

/// What a pod is.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`.
    pub(super) phase: Option<String>,
    /// `Evicted` and the like.
    pub(super) reason: Option<String>,
    /// For people.
    pub(super) message: Option<String>,
    /// See [`Condition`].
    pub(super) conditions: Option<Vec<Condition>>,
    /// Its addresses.
    #[serde(rename = "podIPs")]
    pub(super) pod_ips: Option<Vec<PodIp>>,
    /// Its containers.
    pub(super) container_statuses: Option<Vec<ContainerStatus>>,
    /// Those that run before, or beside as sidecars.
    pub(super) init_container_statuses: Option<Vec<ContainerStatus>>,
    /// Those that a person added.
    pub(super) ephemeral_container_statuses: Option<Vec<ContainerStatus>>,
}

/// An address.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodIp {
    /// The address.
    pub(super) ip: Option<String>,
}

/// What a container is.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ContainerStatus {
    /// Its name in the pod.
    pub(super) name: Option<String>,
    /// Its readiness probe succeeds.
    pub(super) ready: Option<bool>,
    /// How often it was started again.
    pub(super) restart_count: Option<u64>,
    /// What it runs.
    pub(super) image: Option<String>,
    /// `scheme://id` of the present run.
    #[serde(rename = "containerID")]
    pub(super) container_id: Option<String>,
    /// Now.
    pub(super) state: Option<ContainerState>,
    /// How the run before ended.
    pub(super) last_state: Option<ContainerState>,
}

/// One of three.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ContainerState {
    /// It does not run yet, or not again.
    pub(super) waiting: Option<Waiting>,
    /// It runs.
    pub(super) running: Option<Running>,
    /// It has ended.
    pub(super) terminated: Option<Terminated>,
}

/// Why a container does not run.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Waiting {
    /// One word.
    pub(super) reason: Option<String>,
    /// For people.
    pub(super) message: Option<String>,
}

/// A container that runs.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Running {
    /// Since when.
    pub(super) started_at: Option<String>,
}

/// A run that is over.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Terminated {
    /// Its exit status.
    pub(super) exit_code: Option<i64>,
    /// The signal that ended it, where the runtime says so.
    pub(super) signal: Option<u64>,
    /// One word.
    pub(super) reason: Option<String>,
    /// For people.
    pub(super) message: Option<String>,
    /// Its start; 1970 when it never started.
    pub(super) started_at: Option<String>,
    /// Its end.
    pub(super) finished_at: Option<String>,
    /// `scheme://id` of the run.
    #[serde(rename = "containerID")]
    pub(super) container_id: Option<String>,
}

/// A node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    /// See [`Meta`].
    pub(super) metadata: Meta,
    /// What is wanted.
    pub(super) spec: NodeSpec,
    /// What is.
    pub(super) status: NodeStatus,
}

/// What is wanted of a node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeSpec {
    /// What keeps pods away.
    pub(super) taints: Option<Vec<Taint>>,
}

/// What keeps pods away from a node.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Taint {
    /// Its name.
    pub(super) key: Option<String>,
    /// Its value.
    pub(super) value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule`, `NoExecute`.
    pub(super) effect: Option<String>,
    /// Since when.
    pub(super) time_added: Option<String>,
}

/// What a node is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeStatus {
    /// See [`Condition`].
    pub(super) conditions: Option<Vec<Condition>>,
}

/// An Event, as either API writes it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ApiEvent {
    /// See [`Meta`].
    pub(super) metadata: Meta,
    /// What it is about.
    #[serde(alias = "regarding")]
    pub(super) involved_object: Reference,
    /// One word.
    pub(super) reason: Option<String>,
    /// For people.
    #[serde(alias = "note")]
    pub(super) message: Option<String>,
    /// `Normal` or `Warning`.
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    /// How often, in the old way.
    #[serde(alias = "deprecatedCount")]
    pub(super) count: Option<u64>,
    /// How often, in the new way.
    pub(super) series: Option<Series>,
    /// First, in the old way.
    #[serde(alias = "deprecatedFirstTimestamp")]
    pub(super) first_timestamp: Option<String>,
    /// Last, in the old way.
    #[serde(alias = "deprecatedLastTimestamp")]
    pub(super) last_timestamp: Option<String>,
    /// First, in the new way.
    pub(super) event_time: Option<String>,
    /// Who reports, in the old way.
    #[serde(alias = "deprecatedSource")]
    pub(super) source: Option<EventSource>,
    /// Who reports, in the new way.
    #[serde(alias = "reportingController")]
    pub(super) reporting_component: Option<String>,
    /// Which one of them.
    pub(super) reporting_instance: Option<String>,
}

/// How often an Event repeated.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Series {
    /// Times so far.
    pub(super) count: Option<u64>,
    /// The last time.
    pub(super) last_observed_time: Option<String>,
}

/// Who reports an Event.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct EventSource {
    /// The program.
    pub(super) component: Option<String>,
    /// Its node.
    pub(super) host: Option<String>,
}

/// A pointer to an object.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Reference {
    /// Its kind.
    pub(super) kind: Option<String>,
    /// Its namespace.
    pub(super) namespace: Option<String>,
    /// Its name.
    pub(super) name: Option<String>,
    /// Its uid.
    pub(super) uid: Option<String>,
    /// Which part of it: `spec.containers{web}`.
    pub(super) field_path: Option<String>,
}

/// Some of the endpoints of a service.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct EndpointSlice {
    /// See [`Meta`].
    pub(super) metadata: Meta,
    /// The endpoints.
    pub(super) endpoints: Option<Vec<Endpoint>>,
    /// Their ports.
    pub(super) ports: Option<Vec<EndpointPort>>,
}

/// One endpoint.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Endpoint {
    /// Its addresses.
    pub(super) addresses: Option<Vec<String>>,
    /// Whether it takes traffic.
    pub(super) conditions: Option<EndpointConditions>,
    /// The pod.
    pub(super) target_ref: Option<Reference>,
}

/// Whether an endpoint takes traffic.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct EndpointConditions {
    /// It does; absent means yes.
    pub(super) ready: Option<bool>,
}

/// A port of endpoints.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct EndpointPort {
    /// The number.
    pub(super) port: Option<u32>,
    /// `TCP`, `UDP`, `SCTP`.
    pub(super) protocol: Option<String>,
}

/// A lease.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Lease {
    /// See [`Meta`].
    pub(super) metadata: Meta,
    /// Who holds it.
    pub(super) spec: LeaseSpec,
}

/// Who holds a lease.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct LeaseSpec {
    /// The holder.
    pub(super) holder_identity: Option<String>,
    /// How long it holds after a renewal.
    pub(super) lease_duration_seconds: Option<u64>,
    /// The last renewal.
    pub(super) renew_time: Option<String>,
}

/// The `metadata` of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ListMeta {
    /// The version of the whole.
    pub(super) resource_version: Option<String>,
    /// Where the next page starts; absent on the last.
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}

/// What an API server says of a request that it does not serve.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    /// As in HTTP.
    pub(super) code: Option<u16>,
    /// One word.
    pub(super) reason: Option<String>,
    /// For people.
    pub(super) message: Option<String>,
}
