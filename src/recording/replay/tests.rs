//! The corpus: events of every story, and the facts that detectors make of them.
//!
//! Beside each `tests/corpus/NN-name.jsonl` stands `NN-name.facts`, one line a fact. `TAPIO_BLESS=1` writes them anew; the
//! difference is then for a person to judge.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::cluster::CLUSTER;
use super::*;
use crate::detect::Role;
use crate::recording::load;

/// What each story must bring: facts by kind and subject, and nothing of the kinds behind the bar. A silent story, which
/// has no kinds, must bring no symptom.
const STORIES: &[(&str, &[&str], &[&str])] = &[
    (
        "01-container-oom",
        &[
            "memory_limit_hit container",
            "oom_victim container",
            "oom_killed container",
            "crash_loop container",
            "endpoints_empty service shop/web",
            "rollout deployment shop/web",
            "connection_refused unit ingress.service",
        ],
        &["node_memory_exhausted", "external_kill", "runtime_kill"],
    ),
    (
        "02-child-oom",
        &["memory_limit_hit container", "oom_victim container"],
        &["container_failed", "oom_killed"],
    ),
    (
        "03-pod-limit",
        &["memory_limit_hit pod", "oom_victim container", "resource_trend container"],
        &["node_memory_exhausted"],
    ),
    (
        "04-node-oom",
        &[
            "node_memory_exhausted node",
            "oom_victim container",
            "evicted pod shop/news-1",
            "node_pressure node",
        ],
        &["memory_limit_hit"],
    ),
    (
        "05-unit-oom",
        &[
            "memory_limit_hit unit leak.service",
            "oom_victim unit leak.service",
            "start_limit_hit unit leak.service",
            "restart_loop unit leak.service",
            "unit_failed unit leak.service",
        ],
        &["external_kill", "requested_stop", "node_memory_exhausted"],
    ),
    (
        "06-oomd-pressure",
        &["pressure_kill unit batch.service"],
        &["oom_victim", "external_kill", "memory_limit_hit"],
    ),
    (
        "07-disk-full",
        &[
            "disk_full mount /var",
            "disk_full unit db.service",
            "unit_failed unit db.service",
            "dependency_failed unit web.service",
            "resource_trend mount /var",
            "relation unit web.service",
        ],
        &["inodes_exhausted", "quota_exceeded"],
    ),
    (
        "08-node-disk-pressure",
        &[
            "node_pressure node node-1",
            "evicted pod shop/idle-1",
            "disk_full container",
            "unschedulable pod shop/idle-2",
        ],
        &["memory_limit_hit"],
    ),
    (
        "09-inodes",
        &["inodes_exhausted mount /srv", "inodes_exhausted unit spool.service"],
        &["quota_exceeded"],
    ),
    (
        "10-fd-exhausted",
        &[
            "fd_exhausted container",
            "probe_failed container shop/api-1/api",
            "runtime_kill container",
            "container_failed container",
        ],
        &["oom_victim", "external_kill"],
    ),
    (
        "11-refused",
        &[
            "crash unit db.service",
            "listener_gone unit db.service",
            "connection_refused unit shop.service",
            "unit_failed unit shop.service",
        ],
        &["external_kill"],
    ),
    (
        "12-dependency",
        &[
            "unit_failed unit mnt-data.mount",
            "dependency_failed unit a.service",
            "dependency_failed unit b.service",
            "dependency_failed unit c.service",
            "relation unit a.service",
        ],
        &["unit_started"],
    ),
    (
        "13-dns",
        &[
            "memory_limit_hit unit unbound.service",
            "dns_failure unit shop.service",
            "dns_failure unit mail.service",
            "dns_failure unit sync.service",
            "listener_gone unit unbound.service",
        ],
        &[],
    ),
    (
        "14-liveness-kill",
        &[
            "probe_failed container shop/live-1/live",
            "runtime_kill container",
            "container_failed container shop/live-1/live",
        ],
        &["oom_victim", "external_kill", "exit_failure"],
    ),
    (
        "15-cpu-throttle",
        &["cpu_throttled container", "probe_failed container", "runtime_kill container"],
        &["external_kill"],
    ),
    (
        "16-io-latency",
        &[
            "io_latency device sdb",
            "hung process",
            "watchdog_timeout unit lag.service",
            "manager_kill unit lag.service",
        ],
        &["abort", "external_kill"],
    ),
    (
        "17-io-error",
        &[
            "io_error device sdb",
            "read_only_filesystem device sdb",
            "read_only_filesystem unit log.service",
            "read_only_filesystem mount /data",
        ],
        &[],
    ),
    (
        "18-bad-config",
        &["bad_config unit web.service", "exit_failure unit web.service", "start_limit_hit unit web.service"],
        &["connection_refused", "requested_stop", "spawn_failed"],
    ),
    (
        "19-spawn-failed",
        &["spawn_failed unit gone.service", "unit_failed unit gone.service"],
        &["exit_failure", "bad_config"],
    ),
    (
        "20-missing-configmap",
        &["config_missing container shop/cfg-1/app", "rollout_failed deployment shop/cfg"],
        &["crash_loop", "container_failed"],
    ),
    (
        "21-rollout-regression",
        &[
            "rollout deployment shop/web",
            "container_failed container shop/web-new/web",
            "crash_loop container shop/web-new/web",
        ],
        &["bad_config"],
    ),
    ("22a-unauthorized", &["image_pull_failed container shop/img-1/app"], &["dns_failure", "crash_loop"]),
    ("22b-not-found", &["image_pull_failed container shop/img-1/app"], &["config_missing", "crash_loop"]),
    ("22c-dns", &["image_pull_failed container shop/img-1/app"], &["crash_loop"]),
    ("22d-x509", &["image_pull_failed container shop/img-1/app"], &["crash_loop"]),
    ("23-segfault", &["crash unit calc.service", "unit_failed unit calc.service"], &["external_kill"]),
    ("24-abort", &["abort unit rusty.service", "log_error unit rusty.service"], &["external_kill", "crash"]),
    (
        "25-watchdog",
        &["watchdog_timeout unit stuck.service", "manager_kill unit stuck.service"],
        &["abort", "external_kill", "requested_stop"],
    ),
    (
        "25-start-timeout",
        &["start_timeout unit slow.service", "manager_kill unit slow.service"],
        &["requested_stop", "stop_timeout"],
    ),
    (
        "26-tls-expired",
        &["certificate_expired unit kubelet.service", "node_not_ready node node-1"],
        &["connection_refused", "clock_jump"],
    ),
    (
        "27-pids-limit",
        &["pids_limit_hit unit bomb.service", "resource_trend unit bomb.service"],
        &["fd_exhausted"],
    ),
    (
        "28-retransmits",
        &["retransmit_storm address 10.0.9.4", "connection_timeout unit sync.service"],
        &["connection_refused", "network_unreachable"],
    ),
    ("29-conntrack", &["conntrack_full node", "connection_timeout unit web.service"], &["retransmit_storm"]),
    ("30-clock-jump", &["clock_jump node", "certificate_expired unit auth.service"], &[]),
    (
        "31-kubelet-down",
        &[
            "kubelet_down unit kubelet.service",
            "bad_config unit kubelet.service",
            "node_not_ready node node-1",
            "evicted pod shop/web-1",
        ],
        &[],
    ),
    (
        "32-runtime-down",
        &[
            "runtime_down unit containerd.service",
            "memory_limit_hit unit containerd.service",
            "sandbox_failed pod shop/new-1",
            "node_not_ready node node-1",
        ],
        &["runtime_kill"],
    ),
    (
        "33-link-down",
        &["network_unreachable link eth0", "connection_timeout unit web.service"],
        &["connection_refused"],
    ),
    (
        "34-cni-failure",
        &[
            "crash container",
            "sandbox_failed pod shop/p-0",
            "sandbox_failed pod shop/p-1",
            "sandbox_failed pod shop/p-2",
        ],
        &["external_kill"],
    ),
    (
        "35-port-conflict",
        &["listener unit old.service", "port_conflict unit new.service", "start_limit_hit unit new.service"],
        &["bad_config", "requested_stop"],
    ),
    (
        "36-preemption",
        &[
            "unschedulable pod batch/big-1",
            "preempted pod shop/web-1",
            "endpoints_empty service shop/web",
            "requested_stop pod shop/web-1",
        ],
        &["external_kill", "exit_failure"],
    ),
    ("37-volume", &["mount_failed pod shop/db-0"], &["config_missing"]),
    (
        "38-human-kill",
        &["external_kill unit cache.service", "unit_started unit cache.service"],
        &["oom_victim", "requested_stop"],
    ),
    ("N1-restart", &[], &[]),
    // Whether somebody asked is for the engine to say: it needs the failure to know that it was asked for.
    (
        "N2-delete",
        &["requested_stop pod shop/web-1", "container_failed container shop/web-1/web"],
        &["external_kill", "exit_failure"],
    ),
    (
        "N3-one-restart",
        &["container_failed container shop/web-1/web", "container_started container shop/web-1/web"],
        &["crash_loop"],
    ),
    ("N4-oneshot", &[], &[]),
    ("N4-job", &[], &[]),
    ("N5-scan", &[], &[]),
    ("N6-plateau", &[], &[]),
    (
        "N7-small-tmpfs",
        &["disk_full mount /run/cache", "disk_full unit cache.service"],
        &["unit_failed", "node_pressure"],
    ),
    (
        "E1-two-faults",
        &[
            "memory_limit_hit unit a.service",
            "bad_config unit b.service",
            "unit_failed unit a.service",
            "unit_failed unit b.service",
        ],
        &[],
    ),
    ("E2-old-rollout", &["rollout deployment shop/web", "memory_limit_hit container"], &[]),
    (
        "E3-lost-sources",
        &["evidence_gap source journald", "unit_failed unit c.service"],
        &["oom_victim", "external_kill", "crash"],
    ),
    (
        "E4-oomkilled-exit-0",
        &["memory_limit_hit container", "oom_killed container shop/job-2/job"],
        &["exit_failure"],
    ),
    ("E5-pid-reuse", &["oom_victim unit one.service", "exit_failure unit two.service"], &["external_kill"]),
    (
        "E6-relist",
        &["config_missing container shop/cfg-1/app", "evidence_gap source kubernetes"],
        &["crash_loop"],
    ),
    (
        "E8-before-start",
        &["oom_killed container shop/web-1/web", "unit_failed unit old.service"],
        &["oom_victim"],
    ),
];

/// The stories of both tables.
fn names() -> impl Iterator<Item = &'static str> {
    STORIES.iter().chain(live::FACTS).map(|(name, ..)| *name).chain(CLUSTER.iter().map(|(name, ..)| *name))
}

pub(super) fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// A fact on one line: when, what, of whom, details, keys.
fn line(fact: &Fact) -> String {
    let seconds = fact.from_ns / 1_000_000_000;
    let mut line =
        format!("{seconds}.{:06} {} {}", fact.from_ns / 1000 % 1_000_000, fact.kind.name(), fact.subject);
    for (name, value) in &fact.detail {
        let value = serde_json::to_string(value).expect("a value");
        write!(line, " {name}={value}").expect("memory");
    }
    for key in fact.keys.iter().filter(|key| key.kind != crate::detect::KeyKind::Node) {
        write!(line, " | {}", key_text(key)).expect("memory");
    }
    line
}

fn text_of(facts: &[Fact]) -> String {
    facts.iter().map(|fact| line(fact) + "\n").collect()
}

/// Scenario: the events of every story, in order.
/// Guarantees: exactly the facts beside it, each cited to events; the story's own facts are there, those of look-alikes
/// are not; silent stories have no symptom.
#[test]
fn stories_bring_their_facts() {
    let bless = std::env::var_os("TAPIO_BLESS").is_some();
    let mut wrong = Vec::new();
    let rows = STORIES.iter().chain(live::FACTS).map(|(name, wanted, unwanted)| (name, *wanted, *unwanted));
    for (name, wanted, unwanted) in
        rows.chain(CLUSTER.iter().map(|(name, roots, ..)| (name, *roots, &[][..])))
    {
        let path = corpus().join(format!("{name}.jsonl"));
        let recording = load(std::slice::from_ref(&path)).unwrap_or_else(|error| panic!("{error}"));
        let facts = facts_of(&recording);
        for fact in &facts {
            assert!(!fact.events.is_empty() && fact.from_ns <= fact.until_ns, "{name}: {fact:?}");
            for detail in fact.detail.keys() {
                assert!(detail.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{detail}");
            }
        }
        let said: Vec<String> =
            facts.iter().map(|fact| format!("{} {}", fact.kind.name(), fact.subject)).collect();
        for wanted in wanted {
            if !said.iter().any(|said| said == wanted || said.starts_with(&format!("{wanted} "))) {
                wrong.push(format!("{name}: no {wanted}"));
            }
        }
        for unwanted in unwanted {
            if let Some(said) = said.iter().find(|said| said.split(' ').next() == Some(unwanted)) {
                wrong.push(format!("{name}: {said}"));
            }
        }
        if wanted.is_empty() {
            let symptoms = facts.iter().filter(|fact| fact.kind.info().role == Role::Symptom);
            wrong.extend(symptoms.map(|fact| format!("{name}: {}", line(fact))));
        }
        let expected = path.with_extension("facts");
        let text = text_of(&facts);
        if bless {
            std::fs::write(&expected, &text).expect("written");
        } else if std::fs::read_to_string(&expected).unwrap_or_default() != text {
            wrong.push(format!("{name}: not the facts of {}", expected.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// Scenario: the lines of every story shuffled twenty times, some of them twice.
/// Guarantees: the same facts, bit for bit.
#[test]
fn the_order_of_lines_means_nothing() {
    let folder = tempfile::tempdir().expect("a directory");
    let mut seed = 17_u64;
    let mut next = |bound: usize| {
        seed = crate::event::mix(seed.wrapping_add(1));
        usize::try_from(seed % bound as u64).expect("small")
    };
    for name in names() {
        let path = corpus().join(format!("{name}.jsonl"));
        let text = std::fs::read_to_string(&path).expect("a story");
        let expected = facts_of(&load(&[path]).expect("loaded"));
        let mut lines: Vec<&str> = text.lines().collect();
        lines.extend(text.lines().skip(1).step_by(3));
        for _ in 0..20 {
            for at in (1..lines.len()).rev() {
                lines.swap(at, next(at + 1));
            }
            let path = folder.path().join("shuffled.jsonl");
            std::fs::write(&path, lines.join("\n")).expect("written");
            assert_eq!(facts_of(&load(&[path]).expect("loaded")), expected, "{name}");
        }
    }
}

/// Scenario: the files of the corpus beside the table.
/// Guarantees: each story has its row and its facts, and each row its story.
#[test]
fn every_story_has_its_row() {
    let mut files: BTreeMap<String, usize> = BTreeMap::new();
    for entry in std::fs::read_dir(corpus()).expect("the corpus is there") {
        let path = entry.expect("an entry").path();
        let is_own = path.extension().is_some_and(|extension| extension == "jsonl" || extension == "facts");
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned();
        *files.entry(stem).or_default() += usize::from(is_own);
    }
    for name in names() {
        assert_eq!(files.remove(name), Some(2), "{name}");
    }
    assert!(files.is_empty(), "without a row: {files:?}");
}
