//! The verdicts of the corpus: what detectors and causal engine make of the events of every story.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cluster::CLUSTER;
use super::tests::corpus;
use super::{AFTER_NS, TICK_NS, facts_of, incidents, live};
use crate::detect::Hindsight;
use crate::event::Source;
use crate::explain::tests::story::{Dice, Order, arrivals, has_way, late_ns, ways};
use crate::explain::tests::{ORDERS, shipped, show, told_in_the_end, told_of};
use crate::explain::{Incident, RuleSet, State};
use crate::recording::{Recording, load};

/// The roots of the incidents that each story comes to, none for silent ones; the way from the first root to the worst of
/// it; and what decided against its look-alikes.
const VERDICTS: &[(&str, &[&str], &str, &[&str])] = &[
    (
        "01-container-oom",
        &["memory_limit_hit container shop/web-1/web"],
        "memory_limit_hit > oom_killed > crash_loop > endpoints_empty",
        &["oom_victim present", "constraint = memcg"],
    ),
    (
        "02-child-oom",
        &["memory_limit_hit container shop/api-1/api"],
        "memory_limit_hit > oom_victim",
        &["container_failed or oom_killed or container_restart absent", "constraint = memcg"],
    ),
    (
        "03-pod-limit",
        &["memory_limit_hit container shop/mix-1/app"],
        "memory_limit_hit > oom_killed",
        &["constraint = memcg", "container shop/mix-1/app: its memory grew more than that of any other"],
    ),
    (
        "04-node-oom",
        &["node_memory_exhausted container shop/hog-1/hog"],
        "node_memory_exhausted > node_pressure > evicted",
        &[
            "constraint = none",
            "container shop/hog-1/hog: its memory grew more than that of any other",
            "oom_victim of 2 has one cause",
        ],
    ),
    (
        "05-unit-oom",
        &["memory_limit_hit unit leak.service"],
        "memory_limit_hit > oom_victim > exit_failure > unit_failed",
        &["constraint = memcg", "external_kill or pressure_kill or manager_kill absent"],
    ),
    (
        "06-oomd-pressure",
        &["pressure_kill unit batch.service"],
        "pressure_kill > exit_failure > unit_failed",
        &["oom_victim absent", "actor = oomd"],
    ),
    (
        "07-disk-full",
        &["disk_full unit filler.service"],
        "disk_full > exit_failure > dependency_failed",
        &["unit filler.service: its written bytes grew more than that of any other", "quota_exceeded absent"],
    ),
    (
        "08-node-disk-pressure",
        &["disk_full container shop/chatty-1/chatty"],
        "disk_full > node_pressure > evicted > unschedulable",
        &["container shop/chatty-1/chatty: its written bytes grew more than that of any other"],
    ),
    (
        "09-inodes",
        &["inodes_exhausted mount /srv"],
        "inodes_exhausted > exit_failure > unit_failed",
        &["free_inodes = 0"],
    ),
    (
        "10-fd-exhausted",
        &["fd_exhausted container shop/api-1/api"],
        "fd_exhausted > probe_failed > runtime_kill > container_failed",
        &["errno = 24", "oom_victim absent"],
    ),
    (
        "11-refused",
        &["crash unit db.service"],
        "crash > exit_failure > listener_gone > connection_refused > exit_failure > unit_failed",
        &["listened = true", "actor = self"],
    ),
    (
        "12-dependency",
        &["unit_failed unit mnt-data.mount"],
        "unit_failed > dependency_failed",
        &["dependency_failed absent", "result = exit-code", "dependency_failed of 3 has one cause"],
    ),
    (
        "13-dns",
        &["memory_limit_hit unit unbound.service"],
        "memory_limit_hit > oom_victim > exit_failure > listener_gone > dns_failure",
        &["constraint = memcg", "dns_failure of 3 has one cause"],
    ),
    (
        "14-liveness-kill",
        &["probe_failed container shop/live-1/live"],
        "probe_failed > runtime_kill > container_failed > container_restart",
        &["oom_victim absent", "actor = runtime", "sender = runc"],
    ),
    (
        "15-cpu-throttle",
        &["cpu_throttled container shop/calc-1/calc"],
        "cpu_throttled > probe_failed > runtime_kill > container_failed",
        &["connection_refused or connection_timeout or fd_exhausted absent", "ratio_percent = "],
    ),
    (
        "16-io-latency",
        &["io_latency device sdb"],
        "io_latency > watchdog_timeout > manager_kill > exit_failure > unit_failed",
        &["connection_refused or connection_timeout absent"],
    ),
    (
        "17-io-error",
        &["io_error device sdb"],
        "io_error > read_only_filesystem > exit_failure > unit_failed",
        &["operation = write", "read_only_filesystem of 3 has one cause"],
    ),
    (
        "18-bad-config",
        &["bad_config unit web.service"],
        "bad_config > exit_failure > unit_failed",
        &["connection_refused absent", "text = "],
    ),
    (
        "19-spawn-failed",
        &["spawn_failed unit gone.service"],
        "spawn_failed > unit_failed",
        &["status = 203", "crash or abort or exit_failure or listener absent"],
    ),
    (
        "20-missing-configmap",
        &["config_missing container shop/cfg-1/app"],
        "config_missing > rollout_failed",
        &["exit_failure or crash or abort or oom_victim absent"],
    ),
    (
        "21-rollout-regression",
        &["rollout deployment shop/web"],
        "rollout > exit_failure > container_failed > container_restart > crash_loop",
        &["container_failed or crash_loop absent", "revision = "],
    ),
    (
        "22a-unauthorized",
        &["missing_image_pull_secret deployment shop/img"],
        "missing_image_pull_secret > image_pull_failed",
        &["reason = unauthorized"],
    ),
    (
        "22b-not-found",
        &["incorrect_image_reference deployment shop/img"],
        "incorrect_image_reference > image_pull_failed",
        &["reason = not_found"],
    ),
    (
        "22c-dns",
        &["image_registry_dns_failure deployment shop/img"],
        "image_registry_dns_failure > image_pull_failed",
        &["reason = no_such_host"],
    ),
    ("22d-x509", &["image_pull_failed container shop/img-1/app"], "image_pull_failed", &["reason = x509"]),
    (
        "23-segfault",
        &["crash unit calc.service"],
        "crash > exit_failure > unit_failed",
        &["actor = self", "external_kill or manager_kill or runtime_kill absent"],
    ),
    (
        "24-abort",
        &["abort unit rusty.service"],
        "abort > exit_failure > unit_failed",
        &["actor = self", "log_error present"],
    ),
    (
        "25-start-timeout",
        &["hung unit slow.service"],
        "start_timeout > unit_failed",
        &["hung or io_latency or cpu_throttled or connection_timeout absent", "manager_kill present"],
    ),
    (
        "25-watchdog",
        &["hung unit stuck.service"],
        "watchdog_timeout > manager_kill > exit_failure > unit_failed",
        &["hung or io_latency or cpu_throttled or connection_timeout absent", "actor = manager"],
    ),
    (
        "26-tls-expired",
        &["certificate_expired unit kubelet.service"],
        "certificate_expired > node_not_ready",
        &["connection_refused absent", "clock_jump absent"],
    ),
    (
        "27-pids-limit",
        &["pids_limit_hit unit bomb.service"],
        "pids_limit_hit > exit_failure > unit_failed",
        &["path = /system.slice/bomb.service"],
    ),
    (
        "28-retransmits",
        &["retransmit_storm address 10.0.9.4"],
        "retransmit_storm > connection_timeout > exit_failure > unit_failed",
        &["connection_refused absent", "address = 10.0.9.4"],
    ),
    (
        "29-conntrack",
        &["conntrack_full node node-1"],
        "conntrack_full > connection_timeout",
        &["retransmit_storm absent"],
    ),
    (
        "30-clock-jump",
        &["clock_jump node node-1"],
        "clock_jump > certificate_expired > exit_failure > unit_failed",
        &["delta_ms = "],
    ),
    (
        "31-kubelet-down",
        &["bad_config unit kubelet.service"],
        "bad_config > kubelet_down > node_not_ready > evicted",
        &["network_unreachable or clock_jump or node_pressure absent"],
    ),
    (
        "32-runtime-down",
        &["memory_limit_hit unit containerd.service"],
        "memory_limit_hit > oom_victim > runtime_down > sandbox_failed",
        &["container_failed or container_restart absent"],
    ),
    (
        "33-link-down",
        &["network_unreachable link eth0"],
        "network_unreachable > connection_timeout > exit_failure > unit_failed",
        &["connection_refused absent", "link = eth0"],
    ),
    (
        "34-cni-failure",
        &["crash container kube-system/cni-1/agent"],
        "crash > sandbox_failed",
        &["sandbox_failed of 3 has one cause"],
    ),
    (
        "35-port-conflict",
        &["port_conflict unit new.service"],
        "port_conflict > exit_failure > unit_failed",
        &["listener present"],
    ),
    (
        "36-preemption",
        &["insufficient_node_cpu pod batch/big-1"],
        "insufficient_node_cpu > unschedulable > preempted > runtime_kill > container_failed",
        &["by = pod batch/big-1", "actor = runtime"],
    ),
    ("37-volume", &["mount_failed pod shop/db-0"], "mount_failed", &["reason = "]),
    (
        "38-human-kill",
        &["external_kill unit cache.service"],
        "external_kill > exit_failure > unit_failed",
        &[
            "oom_victim absent",
            "actor = person",
            "sender = bash",
            "sender_uid = 1000",
            "sender_unit = session-7.scope",
        ],
    ),
    (
        "E1-two-faults",
        &["memory_limit_hit unit a.service", "bad_config unit b.service"],
        "memory_limit_hit > oom_victim > exit_failure > unit_failed",
        &[],
    ),
    ("E2-old-rollout", &["memory_limit_hit container shop/web-1/web"], "memory_limit_hit > oom_killed", &[]),
    ("E3-lost-sources", &["insufficient_evidence unit c.service"], "exit_failure > unit_failed", &[]),
    (
        "E4-oomkilled-exit-0",
        &["memory_limit_hit container shop/job-2/job"],
        "memory_limit_hit > oom_victim > oom_killed",
        &[],
    ),
    (
        "E5-pid-reuse",
        &["memory_limit_hit unit one.service", "exit_failure unit two.service"],
        "memory_limit_hit > oom_victim > exit_failure > unit_failed",
        &[],
    ),
    ("E6-relist", &["config_missing container shop/cfg-1/app"], "config_missing", &[]),
    (
        "E8-before-start",
        &["before_observation container shop/web-1/web", "before_observation unit old.service"],
        "oom_killed",
        &["snapshot = true"],
    ),
    ("N1-restart", &[], "", &[]),
    ("N2-delete", &[], "", &[]),
    (
        "N3-one-restart",
        &["exit_failure container shop/web-1/web"],
        "exit_failure > container_failed > container_restart",
        &[],
    ),
    ("N4-job", &[], "", &[]),
    ("N4-oneshot", &[], "", &[]),
    ("N5-scan", &[], "", &[]),
    ("N6-plateau", &[], "", &[]),
    ("N7-small-tmpfs", &[], "", &[]),
];

/// Every story.
pub(super) fn verdicts()
-> impl Iterator<Item = &'static (&'static str, &'static [&'static str], &'static str, &'static [&'static str])>
{
    VERDICTS.iter().chain(live::VERDICTS).chain(CLUSTER)
}

pub(super) fn story(name: &str) -> Recording {
    load(&[corpus().join(format!("{name}.jsonl"))]).unwrap_or_else(|error| panic!("{error}"))
}

/// Whether its events are those of real processes, rather than written by a person.
fn is_live(name: &str) -> bool {
    let text = std::fs::read_to_string(corpus().join(format!("{name}.jsonl"))).expect("a story");
    text.lines().next().is_some_and(|head| head.contains("recorded live"))
}

/// When a story is judged for the last time.
fn end_ns(recording: &Recording) -> u64 {
    recording.moments.last().map_or(0, |moment| moment.time_ns()) + 100_000_000_000
}

fn is_left(incident: &&Incident) -> bool {
    !matches!(incident.state, State::Merged | State::Withdrawn)
}

fn root_of(incident: &Incident) -> String {
    format!("{} {}", incident.root_cause.kind, incident.root_cause.entity)
}

/// What is not as it stands in the table.
fn complaints(incidents: &[Incident], roots: &[&str], way: &str, decided: &[&str]) -> Vec<String> {
    let said: Vec<String> = incidents.iter().map(root_of).collect();
    let mut list = Vec::new();
    if said != roots {
        list.push(format!("{said:?}, not {roots:?}"));
    }
    let first = roots.first().and_then(|root| incidents.iter().find(|incident| root_of(incident) == **root));
    let Some(incident) = first else { return list };
    let kinds: Vec<&str> = way.split(" > ").collect();
    if way.is_empty() || !has_way(incident, &kinds) {
        list.push(format!("no way {kinds:?} in {:?}", ways(incident)));
    }
    for decided in decided {
        let all = &incident.root_cause.decided_by;
        // What ends in a blank is the beginning: the rest is a number or a message.
        let is =
            |evidence: &str| evidence == *decided || decided.ends_with(' ') && evidence.starts_with(decided);
        if !all.iter().any(|decision| is(&decision.evidence)) {
            let all: Vec<&str> = all.iter().map(|decision| decision.evidence.as_str()).collect();
            list.push(format!("{decided} did not decide: {all:?}"));
        }
    }
    list
}

/// Scenario: every story through detectors and the causal engine.
/// Guarantees: as many incidents as there are faults, each with the root that the story has, along its way, decided by its
/// discriminator; silent ones none.
#[test]
fn stories_have_their_verdicts() {
    let rules = shipped();
    let mut wrong = Vec::new();
    let mut table = String::from("\nstory                    events         result   root\n");
    for (name, roots, way, decided) in verdicts() {
        let recording = story(name);
        let incidents = incidents(&recording, Arc::clone(&rules));
        let left: Vec<Incident> = incidents.iter().filter(is_left).cloned().collect();
        let complaints = complaints(&left, roots, way, decided);
        let result = if complaints.is_empty() { "as told" } else { "WRONG" };
        let origin = if is_live(name) { "recorded live" } else { "written" };
        let roots: Vec<String> = left.iter().map(root_of).collect();
        let root = if roots.is_empty() { "silent".to_owned() } else { roots.join("; ") };
        table.push_str(&format!("{name:<24} {origin:<14} {result:<8} {root}\n"));
        wrong.extend(complaints.into_iter().map(|complaint| format!("{name}: {complaint}")));
    }
    show(&table);
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// The number in the list of stories of a file of the corpus, as it is written there.
fn number(name: &str) -> String {
    let live = live::NUMBERS.iter().find(|(live, _)| *live == name).map(|(_, number)| *number);
    let number = live.unwrap_or_else(|| name.split('-').next().unwrap_or_default());
    number.trim_start_matches('0').trim_end_matches(|letter: char| letter.is_ascii_lowercase()).to_owned()
}

/// Scenario: the list of stories that the engine must know.
/// Guarantees: each is in the corpus, and each recorded one has a number; which are written and which recorded live is
/// printed.
#[test]
fn each_story_is_written_or_recorded() {
    let mut files: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    verdicts().for_each(|(name, ..)| files.entry(number(name)).or_default().push(name));
    let list = (1..=38).map(|number: u32| number.to_string());
    // E7, a story that is shuffled, is what every story is in `no_arrival_of_facts_changes_a_verdict`.
    let exact = [1, 2, 3, 4, 5, 6, 8].map(|number| format!("E{number}"));
    let list = list.chain((1..=7).map(|number| format!("N{number}"))).chain(exact);
    let mut table = String::from("\nstory recorded live / written\n");
    for number in list {
        let names = files.remove(&number).unwrap_or_default();
        assert!(!names.is_empty(), "story {number} is in no file");
        let (live, written): (Vec<&str>, Vec<&str>) = names.into_iter().partition(|name| is_live(name));
        table.push_str(&format!("{number:<5} {} / {}\n", live.join(" "), written.join(" ")));
    }
    table.push_str("E7    every story, shuffled\n");
    show(&table);
    // Of the comparisons of objects, K1 to K40, those are written that events can tell.
    let is_more = |number: &String| number.starts_with('K') || number == live::UNLISTED;
    assert!(files.keys().all(is_more), "{files:?}");
}

/// Scenario: the files of the corpus beside the table.
/// Guarantees: each story has its verdict.
#[test]
fn every_story_has_its_verdict() {
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    verdicts().for_each(|(name, ..)| *rows.entry(name).or_default() += 1);
    for entry in std::fs::read_dir(corpus()).expect("the corpus is there") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
            assert_eq!(rows.remove(name), Some(1), "{name}");
        }
    }
    assert!(rows.is_empty(), "without a file: {rows:?}");
}

fn json(incidents: &[Incident]) -> String {
    serde_json::to_string_pretty(incidents).expect("it can be written")
}

/// Where two texts part.
fn apart(one: &str, other: &str) -> String {
    let lines = one.lines().zip(other.lines()).find(|(one, other)| one != other);
    lines.map_or_else(|| "one is longer".into(), |(one, other)| format!("{} / {}", one.trim(), other.trim()))
}

/// Scenario: the facts of every story in many other orders, repeated, with pauses, and with Kubernetes half a minute late.
/// Guarantees: the same bytes at the end.
#[test]
fn no_arrival_of_facts_changes_a_verdict() {
    let rules = shipped();
    let mut told = 0;
    for (name, ..) in verdicts() {
        let recording = story(name);
        let (facts, end) = (facts_of(&recording), (end_ns(&recording), recording.boot_unix_ns));
        let right = json(&told_of(arrivals(facts.clone(), Order::AsHappened), end, &rules));
        for seed in 1..=ORDERS {
            let other = json(&told_of(arrivals(facts.clone(), Order::Shuffled(seed)), end, &rules));
            assert!(other == right, "{name} in order {seed}: {}", apart(&other, &right));
            told += 1;
        }
    }
    show(&format!(
        "\n{told} other arrivals of the facts of {} stories end in the same bytes\n",
        verdicts().count()
    ));
}

/// How often detectors are asked while events come.
const ASK_NS: u64 = 200_000_000;

/// What is left of a story whose events come to the detectors so late.
fn told_late(
    recording: &Recording,
    mut late: impl FnMut(Source) -> u64,
    rules: &Arc<RuleSet>,
) -> Vec<Incident> {
    let mut events: Vec<_> =
        recording.moments.iter().map(|moment| (moment.time_ns() + late(moment.id.source), moment)).collect();
    events.sort_by_key(|(at_ns, moment)| (*at_ns, moment.id));
    let mut detectors = Hindsight::new(&recording.host);
    let mut arrivals = Vec::new();
    let mut due_ns = events.first().map_or(0, |(at_ns, _)| at_ns + TICK_NS);
    let mut asked_ns = 0;
    for (at_ns, moment) in events {
        while due_ns <= at_ns {
            detectors.tick(due_ns);
            arrivals.push((due_ns, detectors.news(), true));
            due_ns = if at_ns - due_ns > AFTER_NS { at_ns } else { due_ns + TICK_NS };
        }
        // As the agent does, who takes what came in between at once.
        if at_ns >= asked_ns + ASK_NS {
            arrivals.push((at_ns, detectors.news(), true));
            asked_ns = at_ns;
        }
        detectors.event(super::shown(moment));
    }
    let end_ns = end_ns(recording);
    while due_ns < end_ns {
        detectors.tick(due_ns);
        arrivals.push((due_ns, detectors.news(), true));
        due_ns += TICK_NS;
    }
    assert_eq!(detectors.too_late(), 0);
    told_in_the_end(arrivals.into_iter(), (end_ns, recording.boot_unix_ns), rules)
}

/// Scenario: the events of the stories come to the detectors late: those of Kubernetes half a minute, those of the journal
/// up to three seconds, the others up to one, each by another time.
/// Guarantees: the same bytes at the end.
#[test]
fn no_late_source_changes_a_verdict() {
    let rules = shipped();
    let mut told = 0;
    let mut wrong = BTreeMap::new();
    for (name, ..) in verdicts() {
        let recording = story(name);
        let right = json(&told_late(&recording, |_| 0, &rules));
        for seed in 1..=ORDERS {
            let mut dice = Dice(seed);
            let late = |source| match source {
                Source::Kubernetes | Source::Journald => late_ns(source, &mut dice),
                _ => dice.roll(1_000_000_000),
            };
            let other = json(&told_late(&recording, late, &rules));
            if other != right {
                wrong.entry(*name).or_insert_with(|| format!("delays {seed}: {}", apart(&other, &right)));
            }
            told += 1;
        }
    }
    show(&format!(
        "\n{told} delays of the sources of {} stories end in the same bytes, but for {}\n",
        verdicts().count(),
        wrong.len()
    ));
    assert!(wrong.is_empty(), "{wrong:#?}");
}
