//! Stories that were recorded of real processes: `tests/it/rig/stories.rs` provokes each and keeps what was seen.

/// As the table of written stories: facts that are there, and kinds that are not.
pub(super) const FACTS: &[(&str, &[&str], &[&str])] = &[
    (
        "live-oom-child",
        &["memory_limit_hit unit oom-child.service", "oom_victim unit oom-child.service"],
        &["unit_failed", "node_memory_exhausted"],
    ),
    (
        "live-oom-kill",
        &["memory_limit_hit unit oom-kill.service", "start_limit_hit unit oom-kill.service"],
        &["external_kill", "node_memory_exhausted"],
    ),
    (
        "live-disk-full",
        &["disk_full unit filler.service", "disk_full unit writer.service"],
        &["inodes_exhausted"],
    ),
    (
        "live-inodes",
        &["inodes_exhausted unit sessions.service", "inodes_exhausted unit spool.service"],
        &["disk_full"],
    ),
    ("live-fds", &["fd_exhausted unit fds.service", "unit_failed unit fds.service"], &["external_kill"]),
    (
        "live-refused",
        &["listener_gone unit database.service", "connection_refused unit client.service"],
        &["external_kill", "port_conflict"],
    ),
    ("live-dependency-failed", &["dependency_failed unit needs-store-web.service"], &["external_kill"]),
    ("live-mount-failed", &["dependency_failed unit index.service"], &["external_kill"]),
    (
        "live-dns-down",
        &["dns_failure unit asks-shop.service", "dns_failure unit asks-mail.service"],
        &["external_kill"],
    ),
    ("live-start-limit", &["start_limit_hit unit start-limit.service"], &["connection_refused"]),
    (
        "live-spawn-failed",
        &["spawn_failed unit spawn-exec.service", "spawn_failed unit spawn-user.service"],
        &["bad_config"],
    ),
    ("live-segfault", &["crash unit segfault.service"], &["external_kill", "manager_kill"]),
    (
        "live-abort",
        &["abort unit abort.service", "log_error unit abort.service"],
        &["external_kill", "manager_kill"],
    ),
    (
        "live-watchdog",
        &["watchdog_timeout unit watchdog.service", "manager_kill unit watchdog.service"],
        &["external_kill"],
    ),
    (
        "live-start-timeout",
        &["start_timeout unit start-timeout.service", "manager_kill unit start-timeout.service"],
        &["external_kill", "stop_timeout"],
    ),
    ("live-pids", &["pids_limit_hit unit pids.service", "unit_failed unit pids.service"], &["external_kill"]),
    ("live-kubelet-down", &["kubelet_down unit kubelet.service"], &["external_kill"]),
    ("live-port-conflict", &["port_conflict unit port-new.service"], &["external_kill"]),
    ("live-killed-by-person", &["external_kill unit killed.service"], &["oom_victim", "manager_kill"]),
    (
        "live-two-faults",
        &["memory_limit_hit unit fault-memory.service", "bad_config unit fault-config.service"],
        &["external_kill"],
    ),
    ("live-recovered", &["exit_failure unit recovered.service"], &["restart_loop"]),
    (
        "live-guest-oom-kill",
        &["memory_limit_hit unit oom-kill.service", "start_limit_hit unit oom-kill.service"],
        &["external_kill", "node_memory_exhausted"],
    ),
    (
        "live-guest-pressure-kill",
        &["pressure_kill unit pressed.service", "unit_failed unit pressed.service"],
        &["oom_victim", "external_kill", "memory_limit_hit"],
    ),
    ("live-guest-segfault", &["crash unit segfault.service"], &["external_kill", "manager_kill"]),
    (
        "live-guest-clock-step",
        &["clock_jump node", "certificate_expired unit verifies.service"],
        &["external_kill", "bad_config"],
    ),
];

/// As the table of written stories: roots, the way from the first one, and what decided.
pub(super) const VERDICTS: &[(&str, &[&str], &str, &[&str])] = &[
    ("live-oom-child", &["memory_limit_hit unit oom-child.service"], "memory_limit_hit > oom_victim", &[]),
    (
        "live-oom-kill",
        &["memory_limit_hit unit oom-kill.service"],
        "memory_limit_hit > oom_victim > exit_failure > unit_failed",
        &[],
    ),
    ("live-disk-full", &["disk_full unit filler.service"], "disk_full > exit_failure > unit_failed", &[]),
    (
        "live-inodes",
        &["inodes_exhausted unit sessions.service"],
        "inodes_exhausted > exit_failure > unit_failed",
        &[],
    ),
    ("live-fds", &["fd_exhausted unit fds.service"], "fd_exhausted > exit_failure > unit_failed", &[]),
    (
        "live-refused",
        &["exit_failure unit database.service"],
        "exit_failure > listener_gone > connection_refused > exit_failure > unit_failed",
        &["bad_config absent"],
    ),
    ("live-dependency-failed", &["exit_failure unit store.service"], "exit_failure > dependency_failed", &[]),
    ("live-mount-failed", &["unit_failed unit srv-archive.mount"], "unit_failed > dependency_failed", &[]),
    (
        "live-dns-down",
        &["exit_failure unit resolver.service"],
        "exit_failure > listener_gone > dns_failure > exit_failure > unit_failed",
        &[],
    ),
    (
        "live-start-limit",
        &["bad_config unit start-limit.service"],
        "bad_config > exit_failure > unit_failed",
        &["connection_refused absent"],
    ),
    (
        "live-spawn-failed",
        &[
            "spawn_failed unit spawn-exec.service",
            "spawn_failed unit spawn-chdir.service",
            "spawn_failed unit spawn-user.service",
        ],
        "spawn_failed > unit_failed",
        &[],
    ),
    ("live-segfault", &["crash unit segfault.service"], "crash > exit_failure > unit_failed", &[]),
    ("live-abort", &["abort unit abort.service"], "abort > exit_failure > unit_failed", &[]),
    (
        "live-watchdog",
        &["hung unit watchdog.service"],
        "watchdog_timeout > manager_kill > exit_failure > unit_failed",
        &[],
    ),
    ("live-start-timeout", &["hung unit start-timeout.service"], "start_timeout > unit_failed", &[]),
    ("live-pids", &["pids_limit_hit unit pids.service"], "pids_limit_hit > exit_failure > unit_failed", &[]),
    ("live-kubelet-down", &["bad_config unit kubelet.service"], "bad_config > kubelet_down", &[]),
    (
        "live-port-conflict",
        &["port_conflict unit port-new.service"],
        "port_conflict > exit_failure > unit_failed",
        &[],
    ),
    (
        "live-killed-by-person",
        &["external_kill unit killed.service"],
        "external_kill > exit_failure > unit_failed",
        &["oom_victim absent"],
    ),
    (
        "live-two-faults",
        &["bad_config unit fault-config.service", "memory_limit_hit unit fault-memory.service"],
        "bad_config > exit_failure > unit_failed",
        &[],
    ),
    ("live-recovered", &["exit_failure unit recovered.service"], "exit_failure > unit_failed", &[]),
    (
        "live-guest-oom-kill",
        &["memory_limit_hit unit oom-kill.service"],
        "memory_limit_hit > oom_victim > exit_failure > unit_failed",
        &[],
    ),
    (
        "live-guest-pressure-kill",
        &["pressure_kill unit pressed.service"],
        "pressure_kill > exit_failure > unit_failed",
        &["oom_victim absent"],
    ),
    ("live-guest-segfault", &["crash unit segfault.service"], "crash > exit_failure > unit_failed", &[]),
    (
        "live-guest-clock-step",
        &["clock_jump node tapio-guest"],
        "clock_jump > certificate_expired > exit_failure > unit_failed",
        &[],
    ),
];
