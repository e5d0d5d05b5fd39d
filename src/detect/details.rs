//! The names of details and what they mean: what detectors write and rules read.
//!
//! Invariants:
//! - A rule may read only what stands here for the kind; `rules check` says so.
//! - What a detector adds beyond it is shown to people and decides nothing.

use super::fact::FactKind;

/// Details that a fact of any kind may have.
///
/// `snapshot`: a state that was found, not announced: it may be older than the observation. `text`: what a
/// log or a message says. `culprit`: who used up what ran out, as `TYPE NAME`. `revision`: the
/// pod-template-hash of its pod. `role`: `dns`, `cni`, `proxy`, `kubelet` or `runtime`, for those that a
/// whole node depends on. `comm` and `pid`: of the process that it happened to. `small`: it concerns a file
/// system, a quota or a process that nobody else uses.
pub const COMMON_DETAILS: &[&str] =
    &["snapshot", "text", "culprit", "revision", "role", "comm", "pid", "small", "count", "uid", "result"];

/// More details, by kind.
///
/// `constraint` is `memcg`, `none`, `cpuset` or `memory_policy`; `limit_of` the cgroup whose limit was hit
/// and `victim_cgroup` the one that was killed in; `init` whether the victim was the first process of its
/// container; `sender*` who sent a signal; `main` whether it was the main process; `status` the exit status
/// that systemd gives for a failed step; `probe` `liveness`, `readiness` or `startup`; `reason` the API's or
/// the manager's word; `listened` whether somebody was seen listening there before; `holder` who has the
/// port, as `TYPE NAME`; `relation` one of `requires`, `binds_to`, `part_of`, `wants`, `routes_to`,
/// `connects_to`, `runs_on`, by which the subject needs the target.
pub const DETAILS: &[(FactKind, &[&str])] = &[
    (
        FactKind::MemoryLimitHit,
        &["constraint", "limit_bytes", "usage_bytes", "limit_of", "victim_cgroup", "victim", "init"],
    ),
    (FactKind::NodeMemoryExhausted, &["constraint", "victim"]),
    (FactKind::OomVictim, &["anon_rss_kib", "init", "code"]),
    (FactKind::PressureKill, &["sender", "signal", "pressure", "actor"]),
    (FactKind::ExternalKill, &["signal", "code", "sender", "sender_pid", "sender_uid", "sender_unit"]),
    (
        FactKind::RuntimeKill,
        &["signal", "code", "sender", "sender_pid", "sender_unit", "reason", "actor", "group"],
    ),
    (FactKind::ManagerKill, &["signal", "code", "sender", "reason", "actor"]),
    (FactKind::RequestedStop, &["by", "reason", "grace_s"]),
    (FactKind::Crash, &["signal", "code", "address", "sender", "core", "actor", "group"]),
    (FactKind::Abort, &["signal", "code", "sender", "core", "exit_code", "actor", "group"]),
    (FactKind::ExitFailure, &["exit_code", "signal", "main"]),
    (FactKind::SpawnFailed, &["status", "step"]),
    (FactKind::BadConfig, &["exit_code", "file"]),
    (FactKind::StartLimitHit, &["restarts", "burst"]),
    (FactKind::RestartLoop, &["restarts", "burst", "interval_s"]),
    (FactKind::DependencyFailed, &["target"]),
    (FactKind::ConnectionRefused, &["listened", "address", "port", "errno"]),
    (FactKind::ConnectionTimeout, &["address", "port", "errno"]),
    (FactKind::ListenerGone, &["address", "port"]),
    (FactKind::Listener, &["address", "port"]),
    (FactKind::PortConflict, &["port", "holder", "errno"]),
    (FactKind::RetransmitStorm, &["address", "ratio", "peers"]),
    (FactKind::NodeNetworkPacketLoss, &["peers"]),
    (FactKind::DnsFailure, &["server", "host", "reason"]),
    (FactKind::DiskFull, &["errno", "mount", "filesystem", "free_bytes"]),
    (FactKind::InodesExhausted, &["errno", "mount", "filesystem", "free_bytes", "free_inodes"]),
    (FactKind::QuotaExceeded, &["errno", "mount"]),
    (FactKind::FdExhausted, &["errno", "limit"]),
    (FactKind::PidsLimitHit, &["limit", "path", "errno"]),
    (FactKind::IoError, &["errno", "operation"]),
    (FactKind::IoLatency, &["latency_us", "usual_us"]),
    (FactKind::CpuThrottled, &["ratio_percent", "limit"]),
    (FactKind::ProbeFailed, &["probe", "reason", "port"]),
    (FactKind::ContainerRestart, &["restarts", "exit_code", "reason", "signal"]),
    (FactKind::ContainerFailed, &["exit_code", "reason", "signal", "restarts"]),
    (FactKind::CrashLoop, &["restarts", "backoff_s", "reason"]),
    (FactKind::ImagePullFailed, &["reason", "image"]),
    (FactKind::ConfigMissing, &["object", "reason"]),
    (FactKind::Rollout, &["image", "replicas", "generation", "change"]),
    (FactKind::RolloutFailed, &["reason"]),
    (FactKind::Evicted, &["reason"]),
    (FactKind::Preempted, &["by", "priority"]),
    (FactKind::NodePressure, &["resource", "reason"]),
    (FactKind::NodeNotReady, &["status", "reason", "condition"]),
    (FactKind::SandboxFailed, &["reason"]),
    (FactKind::Unschedulable, &["reason"]),
    (FactKind::MountFailed, &["reason", "volume"]),
    (FactKind::EndpointsEmpty, &["before", "ready", "service"]),
    (FactKind::CertificateExpired, &["not_after_unix_s", "server", "file"]),
    (FactKind::ClockJump, &["delta_ms"]),
    (FactKind::NetworkUnreachable, &["link", "errno"]),
    (FactKind::LogError, &["priority", "pattern"]),
    (FactKind::UnitStarted, &["restarts"]),
    (FactKind::ContainerStarted, &["restarts"]),
    (FactKind::ResourceTrend, &["resource", "limit", "series"]),
    (FactKind::Relation, &["relation", "target_type", "target", "replicas", "ready"]),
    (FactKind::EvidenceGap, &["lost", "reason"]),
];

/// Whether rules may read this detail of this kind.
#[must_use]
pub fn is_detail(kind: FactKind, name: &str) -> bool {
    let own = DETAILS.iter().filter(|(of, _)| *of == kind).any(|(_, names)| names.contains(&name));
    own || COMMON_DETAILS.contains(&name)
}
