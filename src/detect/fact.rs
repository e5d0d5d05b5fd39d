//! The fact: a typed statement about an entity that matters for diagnosis. Detectors make them of events, the
//! causal engine makes incidents of them.
//!
//! Invariants:
//! - A fact is a value: two facts with the same content are the same fact, and its id says so. Nothing in it
//!   depends on when or in which order it arrived.
//! - [`FACT_KINDS`] is the one table of kinds; the documentation of kinds is made from it. What details are
//!   called is in [`super::DETAILS`].
//!
//! Conventions that rules rely on:
//! - A subject is the unit or container where there is one; `process` only for what belongs to no unit or
//!   container, which is nobody's service and makes no incident alone.
//! - A fact carries every key of its subject that is known, weak ones too. What concerns a socket has the key
//!   of the end point that is listened on or connected to, as `address:port`; if it is an address of this
//!   host, `*:port` too.
//! - A fact about a part of a cluster has the [`KeyKind::Node`] of its node, one about this host that of this
//!   host.
//! - The Kubernetes API counts in seconds: `from_ns` and `until_ns` are then two seconds apart, not one
//!   moment.
//! - A gap in the evidence is one fact for each stretch: its source is the source that missed something.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::event::{Source, mix};

/// What part a fact of a kind can play.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Somebody suffers: makes the facts that it is connected with an incident, and may be its root.
    Symptom,
    /// May explain a symptom and be a root; alone it is no incident.
    Cause,
    /// Evidence and circumstance: supports, excludes or silences, and is never a root.
    Context,
    /// What the engine answers where the facts do not say: no detector makes it.
    Verdict,
}

/// One row of [`FACT_KINDS`].
#[derive(Debug, Clone, Copy)]
pub struct FactKindInfo {
    /// The kind.
    pub kind: FactKind,
    /// `snake_case`, as in JSON and rules.
    pub name: &'static str,
    /// What part it can play.
    pub role: Role,
    /// What it says, in one sentence without its full stop.
    pub doc: &'static str,
}

macro_rules! fact_kinds {
    ($( $variant:ident, $name:literal, $role:ident, $doc:literal; )+) => {
        /// What a fact says.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum FactKind { $( #[doc = $doc] $variant, )+ }

        /// Every kind of fact.
        pub const FACT_KINDS: &[FactKindInfo] = &[$( FactKindInfo {
            kind: FactKind::$variant, name: $name, role: Role::$role, doc: $doc,
        } ),+];
    };
}

fact_kinds! {
    MemoryLimitHit, "memory_limit_hit", Symptom, "a cgroup reached its memory limit and the kernel killed in it";
    NodeMemoryExhausted, "node_memory_exhausted", Symptom, "the host had no memory left and the kernel killed for it";
    OomVictim, "oom_victim", Symptom, "the kernel chose a process to kill for want of memory";
    PressureKill, "pressure_kill", Symptom, "systemd-oomd killed a cgroup because it stalled on memory";
    ExternalKill, "external_kill", Cause, "a process of a person or a tool sent the signal that ended another";
    RuntimeKill, "runtime_kill", Cause, "a container runtime sent the signal that ended a container";
    ManagerKill, "manager_kill", Cause, "the service manager sent the signal that ended a process of a unit";
    RequestedStop, "requested_stop", Context, "somebody asked for a unit to stop or an object to be deleted";
    Crash, "crash", Symptom, "a process ended by a fault of its own: a memory fault, an illegal instruction";
    Abort, "abort", Symptom, "a process gave up by itself: abort, panic, failed assertion";
    ExitFailure, "exit_failure", Symptom, "the main process of a unit or container ended with a failure status";
    SpawnFailed, "spawn_failed", Symptom, "the program of a unit or container could not be executed at all";
    BadConfig, "bad_config", Cause, "a program refused its configuration when it started";
    StartLimitHit, "start_limit_hit", Symptom, "a unit was restarted too often and is not any more";
    RestartLoop, "restart_loop", Symptom, "a unit fails and is restarted again and again";
    UnitFailed, "unit_failed", Symptom, "a unit entered the failed state";
    DependencyFailed, "dependency_failed", Symptom, "a unit was not started because one that it requires failed";
    WatchdogTimeout, "watchdog_timeout", Symptom, "a unit did not report in time that it is alive";
    StartTimeout, "start_timeout", Symptom, "a unit did not become ready in time";
    StopTimeout, "stop_timeout", Symptom, "a unit did not end in time when it was stopped";
    ConnectionRefused, "connection_refused", Cause, "nobody listened where a program wanted to connect to";
    ConnectionTimeout, "connection_timeout", Cause, "a connection attempt got no answer";
    ListenerGone, "listener_gone", Cause, "a port that somebody listened on is not listened on any more";
    Listener, "listener", Context, "a unit or container listens on a port";
    PortConflict, "port_conflict", Cause, "a port was taken when a program wanted to listen on it";
    RetransmitStorm, "retransmit_storm", Cause, "many segments to a peer had to be sent again";
    ConntrackFull, "conntrack_full", Symptom, "the table of connections is full and new ones are dropped";
    DnsFailure, "dns_failure", Cause, "names could not be resolved";
    DiskFull, "disk_full", Symptom, "a write failed because a file system is full";
    InodesExhausted, "inodes_exhausted", Symptom, "a file could not be made because a file system has no inode left";
    QuotaExceeded, "quota_exceeded", Cause, "a write failed because of a quota";
    FdExhausted, "fd_exhausted", Symptom, "a process has as many files open as it may";
    PidsLimitHit, "pids_limit_hit", Symptom, "a fork was refused because a cgroup has as many tasks as it may";
    IoError, "io_error", Symptom, "a block device failed a request";
    IoLatency, "io_latency", Cause, "requests to a block device take far longer than usual";
    ReadOnlyFilesystem, "read_only_filesystem", Symptom, "a file system cannot be written any more";
    CpuThrottled, "cpu_throttled", Cause, "a cgroup waits for most of its periods because of its CPU limit";
    ProbeFailed, "probe_failed", Cause, "a probe of a container failed";
    ContainerRestart, "container_restart", Symptom, "a container ended and was started again";
    ContainerFailed, "container_failed", Symptom, "a container ended with a failure";
    CrashLoop, "crash_loop", Symptom, "a container fails and is restarted again and again";
    ImagePullFailed, "image_pull_failed", Symptom, "an image could not be pulled";
    ConfigMissing, "config_missing", Symptom, "an object that a pod refers to does not exist";
    Rollout, "rollout", Cause, "the template of a workload's pods changed";
    RolloutFailed, "rollout_failed", Symptom, "a rollout does not make progress";
    Evicted, "evicted", Symptom, "a pod was evicted";
    Preempted, "preempted", Symptom, "a pod had to make room for one of higher priority";
    NodePressure, "node_pressure", Symptom, "a node reports that it is short of something";
    NodeNotReady, "node_not_ready", Symptom, "a node is not ready, or nobody knows";
    KubeletDown, "kubelet_down", Symptom, "the kubelet of this node does not run";
    RuntimeDown, "runtime_down", Symptom, "the container runtime of this node does not run";
    SandboxFailed, "sandbox_failed", Symptom, "the sandbox of a pod could not be made";
    Unschedulable, "unschedulable", Symptom, "no node can take a pod";
    MountFailed, "mount_failed", Symptom, "a volume could not be attached or mounted";
    EndpointsEmpty, "endpoints_empty", Symptom, "a service has no ready endpoint left";
    CertificateExpired, "certificate_expired", Cause, "a certificate is past its end";
    ClockJump, "clock_jump", Cause, "the wall clock was changed by a step";
    NetworkUnreachable, "network_unreachable", Cause, "a link or route is gone";
    Hung, "hung", Symptom, "a task or unit does not make progress, and nothing says why";
    NamespaceCpuQuotaExceeded, "namespace_cpu_quota_exceeded", Symptom, "a namespace's quota leaves no CPU for an object";
    NamespaceMemoryQuotaExceeded, "namespace_memory_quota_exceeded", Symptom, "a namespace's quota leaves no memory for an object";
    NamespacePodQuotaExceeded, "namespace_pod_quota_exceeded", Symptom, "a namespace's quota leaves no pod for a workload";
    NamespaceServiceQuotaExceeded, "namespace_service_quota_exceeded", Symptom, "a namespace's quota leaves no room for a service";
    NamespaceStorageQuotaExceeded, "namespace_storage_quota_exceeded", Symptom, "a namespace's quota leaves no storage for a claim";
    MissingServiceAccount, "missing_service_account", Symptom, "a workload names a service account that does not exist";
    NodeCordoned, "node_cordoned", Cause, "the nodes that fit a pod are cordoned";
    NodeAffinityMismatch, "node_affinity_mismatch", Cause, "no node satisfies the node affinity that a pod requires";
    NodeSelectorMismatch, "node_selector_mismatch", Cause, "no node has the labels that a pod selects";
    PodAntiAffinityConflict, "pod_anti_affinity_conflict", Cause, "pods that a pod must not be near are on every node";
    TaintTolerationMismatch, "taint_toleration_mismatch", Cause, "the nodes that fit have a taint that a pod does not tolerate";
    InsufficientNodeCpu, "insufficient_node_cpu", Cause, "no node has as much CPU left as a pod requests";
    InsufficientNodeMemory, "insufficient_node_memory", Cause, "no node has as much memory left as a pod requests";
    PvcSelectorMismatch, "pvc_selector_mismatch", Cause, "no volume has the labels that a claim selects";
    PvcStorageClassMismatch, "pvc_storage_class_mismatch", Cause, "the storage class of a claim fits no volume or does not exist";
    PvcAccessModeMismatch, "pvc_access_mode_mismatch", Cause, "the volume that fits a claim does not offer its access modes";
    PvcCapacityMismatch, "pvc_capacity_mismatch", Cause, "a claim requests more than the volume that fits it has";
    PvBindingOccupied, "pv_binding_occupied", Cause, "the volume that fits a claim is bound to another";
    VolumeMountPermissionDenied, "volume_mount_permission_denied", Cause, "a container may not use a path of its volume";
    ImageRegistryDnsFailure, "image_registry_dns_failure", Cause, "the host of an image's registry cannot be resolved";
    IncorrectImageReference, "incorrect_image_reference", Cause, "the registry does not have the image";
    MissingImagePullSecret, "missing_image_pull_secret", Cause, "the registry wants credentials that a pod does not have";
    OomKilled, "oom_killed", Symptom, "Kubernetes says that a container was killed for want of memory";
    LivenessProbeIncorrectPort, "liveness_probe_incorrect_port", Cause, "a liveness probe asks a port that the container does not serve";
    LivenessProbeIncorrectProtocol, "liveness_probe_incorrect_protocol", Cause, "a liveness probe speaks another protocol than the port";
    LivenessProbeIncorrectTiming, "liveness_probe_incorrect_timing", Cause, "a liveness probe kills a container before it can be ready";
    ReadinessProbeIncorrectPort, "readiness_probe_incorrect_port", Cause, "a readiness probe asks a port that the container does not serve";
    ReadinessProbeIncorrectProtocol, "readiness_probe_incorrect_protocol", Cause, "a readiness probe speaks another protocol than the port";
    ServiceSelectorMismatch, "service_selector_mismatch", Symptom, "a service selects none of the pods that are ready";
    ServicePortMappingMismatch, "service_port_mapping_mismatch", Symptom, "a service's target port is none of its pods'";
    ServiceProtocolMismatch, "service_protocol_mismatch", Symptom, "a service's port has another protocol than the container's";
    ServiceEnvVarAddressMismatch, "service_env_var_address_mismatch", Cause, "a workload's environment names an address that no service has";
    PodCpuOverload, "pod_cpu_overload", Symptom, "a pod uses all the CPU that it may";
    PodNetworkDelay, "pod_network_delay", Cause, "the network of one pod is slow";
    KubeletUnavailable, "kubelet_unavailable", Symptom, "the kubelet of a node stopped reporting";
    ContainerdUnavailable, "containerd_unavailable", Symptom, "the kubelet of a node says that its container runtime is down";
    KubeProxyUnavailable, "kube_proxy_unavailable", Symptom, "the service addresses of a node lead nowhere because kube-proxy is down";
    KubeSchedulerUnavailable, "kube_scheduler_unavailable", Symptom, "nobody schedules pods";
    NodeNetworkDelay, "node_network_delay", Cause, "the network of a node is slow";
    NodeNetworkPacketLoss, "node_network_packet_loss", Cause, "the network of a node loses packets";
    InsufficientEvidence, "insufficient_evidence", Verdict, "the sources missed too much to name a cause";
    BeforeObservation, "before_observation", Verdict, "the cause is older than the observation";
    LogError, "log_error", Context, "a program logged an error";
    UnitStarted, "unit_started", Context, "a unit became active";
    ContainerStarted, "container_started", Context, "a container runs";
    ResourceTrend, "resource_trend", Context, "what an entity uses of a limited resource, as a series";
    Relation, "relation", Context, "how a unit, pod or workload depends on others";
    EvidenceGap, "evidence_gap", Context, "a source missed something";
}

impl FactKind {
    /// The row of this kind.
    #[must_use]
    pub fn info(self) -> &'static FactKindInfo {
        &FACT_KINDS[self as usize]
    }

    /// The name of this kind.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// The kind with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        FACT_KINDS.iter().find(|info| info.name == name).map(|info| info.kind)
    }
}

/// What a fact is about, by type and name, as people write it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Subject {
    /// `unit`, `container`, `pod`, `process`, `cgroup`, `node`, `device`, `mount`, `port`, or the kind of a
    /// Kubernetes object in lower case.
    #[serde(rename = "type")]
    pub kind: String,
    /// A unit's name, a pod's `namespace/name`, a container's `namespace/pod/container` or id, a process's
    /// `comm[pid]`.
    pub name: String,
}

impl Subject {
    /// A subject of this type and name.
    #[must_use]
    pub fn new(kind: &str, name: impl Into<String>) -> Self {
        Self { kind: kind.into(), name: name.into() }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind, self.name)
    }
}

/// What two facts can have in common. The order is that of their strength: the first that matches names an
/// edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// The invocation of a unit: 32 hexadecimal digits.
    Invocation,
    /// A process: `tgid:start_ns`.
    Process,
    /// A container id.
    Container,
    /// The path of a cgroup, from its root.
    Cgroup,
    /// A pod's uid.
    PodUid,
    /// A unit's name; `uid:name` for units of a user.
    Unit,
    /// A pod: `namespace/name`.
    Pod,
    /// A TCP or UDP end point: `address:port`, or `*:port` for any address of this host.
    Socket,
    /// A disk: `major:minor`.
    Device,
    /// A mount point.
    Mount,
    /// A workload: `Kind/namespace/name`.
    Owner,
    /// Any object of Kubernetes: `Kind/namespace/name`.
    Object,
    /// A pod that needs room, or for which others had to make it: its uid, or `namespace/name`.
    Claimant,
    /// A bare process id: it licenses an edge only within a second, since ids are used again.
    Pid,
    /// A W3C trace id.
    Trace,
    /// The host itself: it licenses an edge only from a cause that concerns all of it.
    Node,
}

/// One key of a fact.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What it is.
    pub kind: KeyKind,
    /// Its value.
    pub value: String,
}

/// A detail of a fact.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A yes or no.
    Flag(bool),
    /// A count, an amount or a code; the unit is in the name.
    Number(i64),
    /// A text.
    Text(String),
    /// A series: times in `CLOCK_BOOTTIME` nanoseconds, and values.
    Series(Vec<(u64, u64)>),
}

/// Names an event: stable across resends and restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// Its source.
    pub source: Source,
    /// Its producer within the source.
    pub producer: u16,
    /// Its number among the producer's.
    pub sequence: u64,
}

/// As on the wire: `source:producer:sequence`.
impl fmt::Display for EventId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.source.name(), self.producer, self.sequence)
    }
}

/// Keys of a fact at most; further ones are left out, weakest first.
pub const KEYS_MAX: usize = 24;

/// Events that a fact cites at most: the first ones.
pub const EVENTS_MAX: usize = 16;

/// A typed statement about an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What it says.
    pub kind: FactKind,
    /// About what.
    pub subject: Subject,
    /// When it happened, `CLOCK_BOOTTIME` nanoseconds: no earlier than `from_ns`, no later than `until_ns`.
    /// Times of wall clocks carry their uncertainty here.
    pub from_ns: u64,
    /// See `from_ns`.
    pub until_ns: u64,
    /// Whose events say so.
    pub source: Source,
    /// What it has in common with others.
    pub keys: BTreeSet<Key>,
    /// The events that say so.
    pub events: BTreeSet<EventId>,
    /// More of what they say, by name.
    pub detail: BTreeMap<&'static str, Value>,
}

impl Fact {
    /// A fact of this moment, without keys, events and details.
    #[must_use]
    pub fn new(kind: FactKind, subject: Subject, source: Source, at_ns: u64) -> Self {
        Self {
            kind,
            subject,
            from_ns: at_ns,
            until_ns: at_ns,
            source,
            keys: BTreeSet::new(),
            events: BTreeSet::new(),
            detail: BTreeMap::new(),
        }
    }

    /// With one more key. An empty value is left out.
    #[must_use]
    pub fn key(mut self, kind: KeyKind, value: impl Into<String>) -> Self {
        let value = value.into();
        if !value.is_empty() {
            self.keys.insert(Key { kind, value });
            while self.keys.len() > KEYS_MAX {
                self.keys.pop_last();
            }
        }
        self
    }

    /// With one more event.
    #[must_use]
    pub fn event(mut self, id: EventId) -> Self {
        if self.events.len() < EVENTS_MAX {
            self.events.insert(id);
        }
        self
    }

    /// With one more detail.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.detail.insert(name, value.into());
        self
    }

    /// Names the fact: kind, subject and the first event that says so. What is learnt about it later does not
    /// change the id.
    #[must_use]
    pub fn id(&self) -> u64 {
        let mut id = mix(self.kind as u64 + 1);
        for text in [&self.subject.kind, &self.subject.name] {
            for chunk in text.as_bytes().chunks(8) {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                id = mix(id ^ u64::from_le_bytes(word));
            }
        }
        let first = self.events.first();
        let origin = first.map_or(self.from_ns, |event| {
            event.sequence ^ mix(u64::from(event.producer) << 8 | u64::from(event.source as u8))
        });
        mix(id ^ mix(origin))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the table of fact kinds is read back by name.
    /// Guarantees: names are unique and in `snake_case`, every kind finds its row.
    #[test]
    fn fact_kinds_are_unique() {
        for info in FACT_KINDS {
            assert_eq!(FactKind::from_name(info.name), Some(info.kind), "{} is not unique", info.name);
            assert_eq!(info.kind.info().name, info.name);
            assert!(info.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
        }
    }

    /// Scenario: more keys than a fact may have, and an empty one.
    /// Guarantees: the weakest are left out, the empty one too.
    #[test]
    fn the_weakest_keys_are_left_out() {
        let mut fact = Fact::new(FactKind::Crash, Subject::new("unit", "a.service"), Source::Ebpf, 5);
        fact = fact.key(KeyKind::Node, "here").key(KeyKind::Unit, "");
        for number in 0..KEYS_MAX {
            fact = fact.key(KeyKind::Process, number.to_string());
        }
        assert_eq!(fact.keys.len(), KEYS_MAX);
        assert!(fact.keys.iter().all(|key| key.kind == KeyKind::Process));
    }
}
