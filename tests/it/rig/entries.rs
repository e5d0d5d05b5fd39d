//! The journal collector in the rig, as part of the whole agent: every entry arrives, whatever is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::host::Rig;
use super::inside::Agent;
use super::{measured, text};

/// Losses that are told, by cause: how many entries each time, 0 where nobody knows.
fn gaps(agent: &Agent<'_>) -> BTreeMap<String, Vec<i64>> {
    let mut gaps: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for gap in agent.events("log_gap").0 {
        gaps.entry(gap.field("CAUSE")).or_default().push(gap.number("lost"));
    }
    gaps
}

/// What is told to be lost of entries: of fields that an entry is delivered without the count is of fields.
fn of_entries(gaps: &BTreeMap<String, Vec<i64>>) -> impl Iterator<Item = i64> {
    gaps.iter().filter(|(cause, _)| !cause.ends_with("_field")).flat_map(|(_, lost)| lost).copied()
}

/// How many entries are told to be lost; nobody knows, where one gap does not. Whoever removes a file empties it, so what is
/// left of it under a reader looks cut or damaged.
fn removed(gaps: &BTreeMap<String, Vec<i64>>) -> Option<i64> {
    let lost: Vec<i64> = of_entries(gaps).collect();
    (!lost.contains(&0)).then(|| lost.iter().sum())
}

/// What was produced and is not on the server is lost in the ledger, and each of these losses is a gap with a cause.
fn assert_told(row: &Value, gaps: &BTreeMap<String, Vec<i64>>) {
    let rows = row["ledger"]["rows"].as_array().unwrap();
    let ledger = rows.iter().find(|row| row["source"] == "journald").unwrap_or_else(|| panic!("{row:#}"));
    let number = |name: &str| ledger[name].as_i64().unwrap_or_else(|| panic!("{name}: {ledger:#}"));
    assert!(number("acked") > 0, "{ledger:#}");
    assert_eq!(number("acked"), number("drained"), "{ledger:#}");
    assert_eq!(number("produced"), number("drained") + number("ring_lost"), "{ledger:#}");
    let told: i64 = of_entries(gaps).map(|lost| lost.max(1)).sum();
    assert_eq!(number("ring_lost"), told, "{gaps:?}: {ledger:#}");
}

/// Writes an entry behind all others and waits until the server has it: then it has all that were to come.
fn await_all(rig: &Rig, agent: &Agent<'_>) {
    let last = format!("the last entry at {}", tapio::clock::boot_ns());
    rig.text(&["/bin/sh", "-c", "echo \"$0\" | systemd-cat && journalctl --sync", &last]);
    agent.await_event("log_record", |event| event.field("MESSAGE") == last);
}

/// Flags of an agent that reads the journal and listens to the manager.
const BOTH: [&str; 2] = ["--enable-ebpf=false", "--enable-k8s=false"];

/// Longer than the collector waits for entries of a file that may yet appear.
const GRACE: Duration = Duration::from_secs(4);

/// How long the agent is left alone to see what it costs.
const IDLE: Duration = Duration::from_secs(30);

/// How often each message of this tag arrived, events with one id counted once.
fn arrived(agent: &Agent<'_>, tag: &str) -> BTreeMap<String, usize> {
    let mut messages = BTreeMap::new();
    agent.each_event("log_record", |event| {
        let message = event.field("MESSAGE");
        if message.starts_with(&format!("{tag} number ")) {
            *messages.entry(message).or_default() += 1;
        }
    });
    messages
}

fn assert_each_once(expected: &BTreeSet<String>, arrived: &BTreeMap<String, usize>) {
    let missing: Vec<_> = expected.iter().filter(|message| !arrived.contains_key(*message)).take(5).collect();
    assert!(missing.is_empty(), "{} of {} arrived; missing: {missing:?}", arrived.len(), expected.len());
    let double: Vec<_> = arrived.iter().filter(|&(_, &count)| count != 1).take(5).collect();
    assert!(double.is_empty(), "{double:?}");
}

fn numbered(tag: &str, count: usize) -> BTreeSet<String> {
    (0..count).map(|number| format!("{tag} number {number}")).collect()
}

/// Scenario: a burst of entries; entries with a rotation after each tenth of them and old files removed; journald
/// killed three times between others.
/// Guarantees: each entry of the journal is one event, unless its file was removed before it could be read, and then a
/// gap counts it; the ledger has every loss, those of journald itself included, and each is a gap.
#[test]
fn live_every_entry_is_one_event() {
    const NAME: &str = "live_every_entry_is_one_event";
    let Some(rig) = Rig::get(NAME) else { return };
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(rig, folder.path(), &["journald"], &BOTH);
    rig.provoke(NAME, "journal-write 5000 burst");
    rig.provoke(NAME, "journal-rotate 2000 rotated");
    rig.provoke(NAME, "journald-kill 3 survivor");
    // What journald had not written when it was killed is nobody's: the journal says what there is.
    let kept = rig.journal(&["SYSLOG_IDENTIFIER=survivor"]);
    let kept: BTreeSet<_> = kept.iter().map(|entry| text(entry, "MESSAGE").to_owned()).collect();
    assert!(kept.len() >= 100, "{} entries", kept.len());
    await_all(rig, &agent);
    // Numbers that no file has are missed for so long before they are told.
    std::thread::sleep(GRACE);
    let row = agent.stop();
    assert_each_once(&kept, &arrived(&agent, "survivor"));
    let gaps = gaps(&agent);
    assert_told(&row, &gaps);
    // Where others keep the machine busy the reader is late, and the files of the burst are among the first to go.
    let written: BTreeSet<_> = numbered("burst", 5000).into_iter().chain(numbered("rotated", 2000)).collect();
    let mut arrived_once = arrived(&agent, "burst");
    arrived_once.extend(arrived(&agent, "rotated"));
    assert!(arrived_once.iter().all(|(message, &count)| count == 1 && written.contains(message)));
    let missing = i64::try_from(written.len() - arrived_once.len()).unwrap();
    assert!(removed(&gaps).is_none_or(|told| told >= missing), "{missing} are missing: {gaps:?}");
    measured(
        NAME,
        &format!("7,000 entries and {}: {missing} were removed unread, gaps {gaps:?}", kept.len()),
    );
}

/// Scenario: the agent is killed again and again while entries are written and files are rotated, and each time
/// started with the state that it left; in the end files are removed, too, while it is dead.
/// Guarantees: each entry is one event in the end, however often it was sent, as long as its file is there; what was
/// removed before it could be read is a gap that counts it.
#[test]
fn live_a_killed_agent_misses_no_entry() {
    const NAME: &str = "live_a_killed_agent_misses_no_entry";
    let Some(rig) = Rig::get(NAME) else { return };
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(rig, folder.path(), &["journald"], &BOTH);
    let tags = ["first", "second", "third"];
    for tag in tags {
        let command = ["/bin/sh", "/host/journal-rotate.sh", "2000", tag, "1000"];
        let mut writing = rig.command(&command).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        agent.kill();
        agent.start_again(&BOTH);
        assert!(writing.wait().unwrap().success(), "{tag} was not written");
    }
    agent.await_running(&["journald"]);
    await_all(rig, &agent);
    agent.kill();
    rig.provoke(NAME, "journal-rotate 2000 removed 1");
    agent.start_again(&BOTH);
    agent.await_event("log_gap", |gap| gap.field("CAUSE").starts_with("journal_"));
    await_all(rig, &agent);
    agent.stop();
    for tag in tags {
        assert_each_once(&numbered(tag, 2000), &arrived(&agent, tag));
    }
    let missing = 2000 - i64::try_from(arrived(&agent, "removed").len()).unwrap();
    assert!(missing > 0, "files with entries were removed");
    let gaps = gaps(&agent);
    assert!(removed(&gaps).is_none_or(|told| told >= missing), "{missing} are missing: {gaps:?}");
    measured(NAME, &format!("4 kills; {missing} entries removed unread, gaps {gaps:?}"));
}

/// Entries that are lost at most when journald is killed: the one it handles, and what was in a socket that is closed.
const HELD_MAX: usize = 16;

/// Writes five hundred entries, numbered from this number on, over a second or so, waits until the journal has what
/// journald took, and says how many that were. An entry that nobody took is sent again, over a new socket.
const WRITE_SLOWLY: &str = r#"exec python3 - "$0" <<'PYTHON'
import socket, subprocess, sys, time
first, taken, tries = int(sys.argv[1]), 0, 0
while taken < 500 and tries < 5000:
    tries += 1
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
            journal.settimeout(1)
            journal.connect("/run/systemd/journal/socket")
            text = f"MESSAGE=kill number {first + taken}\nPRIORITY=6\nSYSLOG_IDENTIFIER=kill\n"
            journal.send(text.encode())
            taken += 1
    except OSError:
        pass
    time.sleep(0.002)
while subprocess.run(["journalctl", "--sync"], stderr=subprocess.DEVNULL, timeout=60).returncode and tries < 6000:
    # journald was killed just now.
    tries += 1
    time.sleep(0.02)
print(taken)
PYTHON"#;

/// Scenario: the agent is killed at random points while entries are written, and every other time journald as well;
/// for `TAPIO_KILL_SECONDS`, or long enough for some of each. `TAPIO_SEED` chooses the points.
/// Guarantees: each entry that the journal has is one event in the end; it has all but the few that journald had in its
/// hands when it was killed.
#[test]
fn live_kills_at_random_lose_nothing() {
    const NAME: &str = "live_kills_at_random_lose_nothing";
    let Some(rig) = Rig::get(NAME) else { return };
    let number = |name: &str, usual: u64| {
        std::env::var(name).map_or(usual, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
    };
    let until = Instant::now() + Duration::from_secs(number("TAPIO_KILL_SECONDS", 15));
    let mut random = number("TAPIO_SEED", 17);
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(rig, folder.path(), &["journald"], &BOTH);
    let (mut rounds, mut taken) = (0, 0);
    while rounds < 4 || Instant::now() < until {
        let mut writing = rig.command(&["/bin/sh", "-c", WRITE_SLOWLY, &(rounds * 500).to_string()]);
        let writing = writing.stdout(Stdio::piped()).spawn().unwrap();
        for kill in 0..2 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            std::thread::sleep(Duration::from_millis((random >> 33) & 511));
            if kill == 0 {
                agent.kill();
                agent.start_again(&BOTH);
            } else if rounds % 2 == 1 {
                // The manager starts it five times in ten seconds, and then never again.
                rig.text(&["systemctl", "reset-failed", "systemd-journald.service"]);
                rig.text(&["systemctl", "kill", "--signal=KILL", "systemd-journald.service"]);
            }
        }
        let written = writing.wait_with_output().unwrap();
        assert!(written.status.success(), "the writer of round {rounds} ended with {}", written.status);
        taken += String::from_utf8(written.stdout).unwrap().trim().parse::<usize>().unwrap();
        rounds += 1;
    }
    agent.await_running(&["journald"]);
    await_all(rig, &agent);
    agent.stop();
    let kept = rig.text(&["journalctl", "--quiet", "--output=cat", "SYSLOG_IDENTIFIER=kill"]);
    let kept: BTreeSet<_> = kept.lines().map(str::to_owned).collect();
    let arrived = arrived(&agent, "kill");
    assert_each_once(&kept, &arrived);
    // In a long run journald removes its oldest files: what arrived from them was in the journal, too.
    let double = arrived.values().filter(|&&count| count != 1).count();
    assert_eq!(double, 0, "messages arrived under more than one id");
    let (entries, of_journald) = (arrived.len(), rounds / 2);
    assert!(entries + HELD_MAX * of_journald >= taken, "{entries} of {taken} were in the journal");
    measured(
        NAME,
        &format!(
            "{rounds} kills of the agent, {of_journald} of journald: {taken} entries taken, {entries} \
             arrived, {} still in the journal, each one event",
            kept.len()
        ),
    );
}

/// Scenario: the agent reads the journal and listens to the manager of a host where nothing happens.
/// Guarantees: the processor time of both collectors and of the whole agent is measured; nothing is judged, because
/// other work on the machine changes it.
#[test]
fn live_an_idle_host_is_measured() {
    const NAME: &str = "live_an_idle_host_is_measured";
    let Some(rig) = Rig::get(NAME) else { return };
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(rig, folder.path(), &["journald", "systemd"], &BOTH);
    std::thread::sleep(Duration::from_secs(5));
    let threads = ["journal", "systemd"];
    let before = agent.cpu_ns(&threads);
    let begun = Instant::now();
    std::thread::sleep(IDLE);
    let after = agent.cpu_ns(&threads);
    let wall_ns = u64::try_from(begun.elapsed().as_nanos()).unwrap();
    assert!(after.1 > before.1, "the agent is counted");
    // Thousandths of a percent of one core.
    let share = |used: u64| format!("{}.{:03} %", used * 100 / wall_ns, used * 100_000 / wall_ns % 1000);
    let [both, whole] = [share(after.0 - before.0), share(after.1 - before.1)];
    measured(NAME, &format!("journald and systemd together {both} of a core, the whole agent {whole}"));
}
