//! The agent and journald, killed at random points while messages come in.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::collector::{Agent, numbers_of, parts, wait_until};
use super::export;
use crate::server::client::Server;

/// How long it goes on: `TAPIO_KILL_SECONDS`, which `scripts/test --long` sets to ten minutes.
fn seconds() -> u64 {
    std::env::var("TAPIO_KILL_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

/// Pseudo-random numbers (an xorshift), so that a seed gives the same kills at about the same times.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Logs numbered messages until told to stop, some 150 a second; a message that journald did not take is sent again.
fn log(socket: &Path, stop: &AtomicBool, sent: &AtomicU64) {
    let mut number = 1;
    while !stop.load(Ordering::Relaxed) {
        let text = format!("MESSAGE=message {number}\nPRIORITY={}\nNUMBER={number}\n", number % 8);
        let sender = UnixDatagram::unbound().expect("a socket");
        sender.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        if sender.send_to(text.as_bytes(), socket).is_ok() {
            sent.store(number, Ordering::Relaxed);
            number += 1;
        }
        // In bursts, as programs log.
        if number.is_multiple_of(8) {
            std::thread::sleep(Duration::from_millis(50));
        } else {
            std::thread::sleep(Duration::from_micros(300));
        }
    }
}

/// The numbers of the log records that the server has, by their ids. The server shows events that it got more than once
/// under one id as one.
fn stored(server: &Server) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut from = "0".to_owned();
    loop {
        let page = server.json(&format!("/api/v1/events?kind=log_record&limit=20000&from={from}"));
        let events = page.as_array().expect("a list");
        let before = found.len();
        for event in events {
            let Some(number) = number(event) else { continue };
            let id = event["id"].as_str().expect("an id").to_owned();
            let known = *found.entry(id).or_insert(number);
            assert_eq!(known, number, "one id names two entries: {event}");
        }
        // Pages overlap in the time of the last event; one with nothing new is behind the end.
        if found.len() == before {
            return found;
        }
        from = events.last().expect("a page with something")["time"].as_str().expect("a time").to_owned();
    }
}

/// Events that the server was sent, copies included.
fn received(server: &Server) -> u64 {
    server.json("/api/v1/status")["agents"][0]["events"].as_u64().expect("a number")
}

fn number(event: &Value) -> Option<u64> {
    let message = event["text"].as_str()?.lines().find_map(|line| line.strip_prefix("MESSAGE=message "))?;
    message.parse().ok()
}

/// Numbers that the journal has.
fn in_journal(directory: &Path) -> BTreeSet<u64> {
    numbers_of(&export::journalctl(directory, &["--output-fields=NUMBER"]))
        .into_iter()
        .filter(|&number| number > 0)
        .collect()
}

/// Scenario: messages come in all the time; agent and journald are killed (SIGKILL) and started again at random moments.
/// Guarantees: every entry that the journal has in the end is on the server at least once; copies have the same id; an
/// id never names two entries. What was in journald's socket when it was killed is nobody's: the journal says what counts.
#[test]
fn live_kills_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some((mut journald, server, flag)) =
        parts("/var/log/journal", "live_kills_lose_nothing", folder.path())
    else {
        return;
    };
    let mut agent = Agent::start(folder.path(), server.grpc, &[&flag]);
    let has_position = |agent: &Agent| {
        let files = std::fs::read_dir(&agent.state).into_iter().flatten().flatten();
        files.map(|file| file.path()).any(|path: PathBuf| path.extension().is_some_and(|end| end == "cursor"))
    };
    wait_until("a position is kept", || has_position(&agent));
    let seed = std::env::var("TAPIO_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    let mut dice = Dice(seed);
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let sender = {
        let (socket, stop, sent) = (journald.socket(), Arc::clone(&stop), Arc::clone(&sent));
        std::thread::spawn(move || log(&socket, &stop, &sent))
    };
    let until = Instant::now() + Duration::from_secs(seconds());
    let (mut agent_kills, mut journald_kills) = (0, 0);
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(200 + dice.roll(2800)));
        if dice.roll(2) == 0 {
            agent.crash();
            agent_kills += 1;
        } else {
            journald.crash();
            journald_kills += 1;
        }
    }
    stop.store(true, Ordering::Relaxed);
    sender.join().expect("the sender ends");
    let sent = sent.load(Ordering::Relaxed);
    let last = format!("MESSAGE=message {}\nNUMBER={}\n", sent + 1, sent + 1);
    wait_until("journald takes one more message", || {
        let sender = UnixDatagram::unbound().expect("a socket");
        sender.send_to(last.as_bytes(), journald.socket()).is_ok()
    });
    // What is read now was there before: journald takes its messages in order.
    wait_until("the last message is in the journal", || {
        in_journal(&journald.directory()).contains(&(sent + 1))
    });
    let truth = in_journal(&journald.directory());
    let arrived = |stored: &BTreeMap<String, u64>| -> BTreeSet<u64> { stored.values().copied().collect() };
    let patience = Instant::now() + Duration::from_secs(60);
    let mut found = stored(&server);
    while !truth.is_subset(&arrived(&found)) && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(500));
        found = stored(&server);
    }
    let missing: Vec<u64> = truth.difference(&arrived(&found)).copied().collect();
    let report = format!(
        "\nKILLS seconds={} agent={agent_kills} journald={journald_kills} sent={sent} in_journal={} stored={} \
         received={} missing={} seed={seed}\n",
        seconds(),
        truth.len(),
        found.len(),
        received(&server),
        missing.len()
    );
    std::io::stderr().lock().write_all(report.as_bytes()).expect("the standard error is open");
    assert!(agent_kills + journald_kills > 5 && agent_kills > 0 && journald_kills > 0, "{report}");
    assert!(truth.len() as u64 * 2 > sent, "{report}");
    assert_eq!(missing, Vec::<u64>::new(), "{report}");
    // Agents that were killed had sent what their successors sent again, or nothing was tested.
    assert!(received(&server) > found.len() as u64, "{report}");
    assert_eq!(found.len(), arrived(&found).len(), "one id for each entry: {report}");
}
