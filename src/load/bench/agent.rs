//! The agent and its server as processes: start, wait until ready, ask, account, stop.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::load::LoadError;
use crate::load::child::{Child, Start, pause};

const READY_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// What `status --json` says, as far as a run needs it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) collectors: BTreeMap<String, Collector>,
    pub(super) ledger: Vec<Row>,
    pub(super) latency: Latency,
}

/// A collector.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Collector {
    pub(super) state: String,
    pub(super) reason: String,
    pub(super) probes: BTreeMap<String, Probe>,
}

/// A probe.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Probe {
    pub(super) state: String,
    pub(super) reason: String,
}

/// Ring to batch.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(super) struct Latency {
    pub(super) samples: u64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// The ledger of one source.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Row {
    pub(super) source: String,
    pub(super) produced: u64,
    pub(super) ring_lost: u64,
    pub(super) drained: u64,
    pub(super) shed: BTreeMap<String, u64>,
    pub(super) enriched: u64,
    pub(super) acked: u64,
    pub(super) spooled: u64,
    pub(super) dropped: BTreeMap<String, u64>,
}

impl Row {
    /// Lost and counted.
    pub(super) fn lost(&self) -> u64 {
        self.ring_lost + self.shed.values().sum::<u64>() + self.dropped.values().sum::<u64>()
    }

    /// Delivered, or lost and counted.
    pub(super) fn settled(&self) -> u64 {
        self.acked + self.lost()
    }

    /// The first sum of an agent that has ended which does not close: the harness adds up itself and does not take
    /// the agent's word.
    pub(super) fn open_sum(&self) -> Option<String> {
        let shed: u64 = self.shed.values().sum();
        let dropped: u64 = self.dropped.values().sum();
        let sums = [
            ("produced = ring_lost + drained", self.produced, self.ring_lost + self.drained),
            ("drained = enriched + shed", self.drained, self.enriched + shed),
            ("enriched = acked + spooled + dropped", self.enriched, self.acked + self.spooled + dropped),
        ];
        sums.into_iter()
            .find(|(_, left, right)| left != right)
            .map(|(name, left, right)| format!("{name}: {left} is not {right}, source {}", self.source))
    }
}

/// Where the programs are and where they may write.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The folder of the three binaries.
    pub(super) programs: PathBuf,
    /// A folder of the run's own, on a disk.
    pub(super) scratch: PathBuf,
}

impl Place {
    pub(super) fn program(&self, name: &str) -> Start {
        Start::new(self.programs.join(name).display())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.scratch.join(format!("{name}.log"))
    }
}

/// Attaches the end of a process's log to an error.
fn explain<T>(result: Result<T, LoadError>, log: &Path) -> Result<T, LoadError> {
    result.map_err(|error| match error {
        LoadError::Process { process, problem } => {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let mut lines: Vec<&str> = text.lines().rev().take(8).collect();
            lines.reverse();
            LoadError::Process { process, problem: format!("{problem}\n{}", lines.join("\n")) }
        }
        other => other,
    })
}

/// A port that is free now.
pub(super) fn free_port() -> Result<u16, LoadError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(LoadError::io("finding a free port"))
}

/// Waits until something listens.
pub(super) fn wait_for_port(child: &mut Child, port: u16) -> Result<(), LoadError> {
    let end = Instant::now() + READY_LIMIT;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        child.expect_alive()?;
        if Instant::now() >= end {
            return Err(LoadError::process("server", format!("does not listen on port {port}")));
        }
        pause(Duration::from_millis(20))?;
    }
    Ok(())
}

/// What a server has received since its start, of the one agent of a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Received {
    /// Events of accepted batches.
    pub(super) events: u64,
    /// Events that are missing from the sequences it received: loss that it saw for itself.
    pub(super) missing: u64,
    /// The agent's last report: after its end, its final ledger.
    pub(super) rows: Vec<Row>,
    /// Times that it synced its disk.
    pub(super) syncs: u64,
}

impl Received {
    fn parse(text: &str) -> serde_json::Result<Self> {
        let status: ServerStatus = serde_json::from_str(text)?;
        let agent = status.agents.into_iter().next().unwrap_or_default();
        Ok(Self {
            events: status.counters.events,
            missing: agent.lost.values().sum(),
            rows: agent.ledger.unwrap_or_default().rows,
            syncs: status.store.syncs,
        })
    }

    /// Settles the account of an agent that has ended: its final ledger of the eBPF source, and what is wrong.
    /// `before` is what the server had received before that agent, `calls` what the generator did to it.
    pub(super) fn settle(&self, before: &Self, calls: u64) -> (Row, Option<String>) {
        let Some(row) = self.rows.iter().find(|row| row.source == "ebpf") else {
            return (Row::default(), Some("the agent ended without a last report".to_owned()));
        };
        let acked: u64 = self.rows.iter().map(|row| row.acked).sum();
        let (events, missing) = (self.events - before.events, self.missing.saturating_sub(before.missing));
        let problem = if let Some(sum) = row.open_sum() {
            Some(sum)
        } else if row.produced < calls {
            let silent = calls - row.produced;
            Some(format!("{silent} of {calls} calls left no event and were not counted as lost"))
        } else if events != acked {
            Some(format!("the agent counts {acked} events as acked, the server received {events}"))
        } else if missing > self.rows.iter().map(Row::lost).sum() {
            Some(format!(
                "{missing} events are missing from the sequences, {} were counted as lost",
                row.lost()
            ))
        } else {
            None
        };
        (row.clone(), problem)
    }
}

#[derive(Deserialize)]
struct ServerStatus {
    counters: ServerCounters,
    store: ServerStore,
    agents: Vec<ServerAgent>,
}

#[derive(Deserialize)]
struct ServerCounters {
    events: u64,
}

#[derive(Deserialize)]
struct ServerStore {
    syncs: u64,
}

#[derive(Default, Deserialize)]
struct ServerAgent {
    lost: BTreeMap<String, u64>,
    ledger: Option<ServerLedger>,
}

#[derive(Default, Deserialize)]
struct ServerLedger {
    rows: Vec<Row>,
}

/// A running tapio-server.
pub(super) struct Server {
    child: Child,
    grpc: u16,
    http: u16,
    log: PathBuf,
}

impl Server {
    /// Starts it on `cpus`; it keeps what it receives in `folder`, or nothing.
    pub(super) fn start(place: &Place, cpus: &[usize], folder: Option<&Path>) -> Result<Self, LoadError> {
        let (grpc, http, log) = (free_port()?, free_port()?, place.log("server"));
        let store = match folder {
            Some(folder) => {
                ["segments".to_owned(), "--data-dir".to_owned(), folder.display().to_string()].to_vec()
            }
            None => vec!["null".to_owned()],
        };
        let child = place
            .program("tapio-server")
            .arg("--grpc-listen")
            .arg(format_args!("127.0.0.1:{grpc}"))
            .arg("--http-listen")
            .arg(format_args!("127.0.0.1:{http}"))
            .arg("--store")
            .args(store)
            .on(cpus)
            .log(&log)?
            .spawn()?;
        let mut server = Self { child, grpc, http, log };
        explain(wait_for_port(&mut server.child, grpc), &server.log)?;
        explain(wait_for_port(&mut server.child, http), &server.log)?;
        Ok(server)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Where agents reach it.
    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.grpc))
    }

    /// What it has received.
    pub(super) fn received(&self) -> Result<Received, LoadError> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.http));
        let text = http_get(address, "/api/v1/status").map_err(LoadError::io("asking tapio-server"))?;
        Received::parse(&text)
            .map_err(|error| LoadError::process("tapio-server", format!("{error} in its status {text:?}")))
    }

    pub(super) fn stop(self) -> Result<(), LoadError> {
        expect_clean_end(self.child, "tapio-server", &self.log)
    }
}

fn expect_clean_end(child: Child, name: &str, log: &Path) -> Result<(), LoadError> {
    let ended = match child.terminate(STOP_LIMIT)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(LoadError::process(name, format!("did not stop cleanly, {status}"))),
        None => Err(LoadError::process(name, format!("did not stop within {STOP_LIMIT:?}"))),
    };
    explain(ended, log)
}

fn http_get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text.as_str(), ""));
    if head.split_whitespace().nth(1) != Some("200") {
        return Err(std::io::Error::other(head.lines().next().unwrap_or_default().to_owned()));
    }
    Ok(body.to_owned())
}

/// A running tapio-collector.
pub(super) struct Agent {
    child: Child,
    place: Place,
    socket: PathBuf,
    log: PathBuf,
}

impl Agent {
    /// Starts it on `cpus` against `server` and waits until its probes are attached.
    pub(super) fn start(
        place: &Place,
        cpus: &[usize],
        server: &Server,
        extra: &[String],
    ) -> Result<Self, LoadError> {
        let (socket, log) = (place.scratch.join("collector.sock"), place.log("collector"));
        let child = place
            .program("tapio-collector")
            .arg("--server")
            .arg(server.address())
            .arg("--socket")
            .arg(socket.display())
            .arg("--state-dir")
            .arg(place.scratch.join("state").display())
            .args(extra)
            .on(cpus)
            .log(&log)?
            .spawn()?;
        let mut agent = Self { child, place: place.clone(), socket, log };
        let load = extra.iter().any(|arg| arg == "--load-probe");
        explain(agent.wait_ready(load), &agent.log)?;
        Ok(agent)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.pid()
    }

    fn wait_ready(&mut self, load: bool) -> Result<(), LoadError> {
        let end = Instant::now() + READY_LIMIT;
        loop {
            self.child.expect_alive()?;
            let seen = match self.status() {
                Ok(status) => match not_ready(&status, load) {
                    None => return Ok(()),
                    Some(why) => why,
                },
                Err(LoadError::Interrupted) => return Err(LoadError::Interrupted),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= end {
                return Err(LoadError::process("tapio-collector", format!("is not ready: {seen}")));
            }
            pause(Duration::from_millis(100))?;
        }
    }

    /// What it says of itself.
    pub(super) fn status(&self) -> Result<Status, LoadError> {
        let text = self
            .place
            .program("tapio-collector")
            .args(["status", "--json", "--socket"])
            .arg(self.socket.display())
            .log(&self.place.log("status"))?
            .output(Duration::from_secs(5))?;
        serde_json::from_str(&text)
            .map_err(|error| LoadError::process("status", format!("{error} in {text:?}")))
    }

    pub(super) fn stop(self) -> Result<(), LoadError> {
        expect_clean_end(self.child, "tapio-collector", &self.log)
    }
}

impl Status {
    /// The ledger of the eBPF source; zeros where there is none.
    pub(super) fn ebpf_row(&self) -> Row {
        self.ledger.iter().find(|row| row.source == "ebpf").cloned().unwrap_or_default()
    }
}

/// Why the agent cannot be measured yet.
fn not_ready(status: &Status, load: bool) -> Option<String> {
    let Some(ebpf) = status.collectors.get("ebpf") else { return Some("no ebpf collector".into()) };
    if !matches!(ebpf.state.as_str(), "running" | "degraded") {
        return Some(format!("ebpf is {:?}: {}", ebpf.state, ebpf.reason));
    }
    let probe = ebpf.probes.get("load").cloned().unwrap_or_default();
    (load && probe.state != "attached").then(|| format!("probe load is {:?}: {}", probe.state, probe.reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the status of the design document, with the eBPF collector running and then failed.
    /// Guarantees: it is read, the row found, and readiness needs the load probe only where it is used.
    #[test]
    fn reads_the_status() {
        let text = r#"{"version":"1","uptime_s":12.3,"events_total":15234,"incidents_open":1,"ledger_closed":true,
            "collectors":{"ebpf":{"state":"running","reason":"","events":15000,"probes":{"net":{"state":"attached","reason":""}}}},
            "latency":{"samples":5,"p50_us":410.5,"p99_us":900},
            "ledger":[{"source":"ebpf","produced":10,"ring_lost":1,"drained":9,"shed":{"queue_full":2},"enriched":7,
                       "acked":4,"spooled":0,"in_flight":2,"dropped":{"window_full":1}}]}"#;
        let status: Status = serde_json::from_str(text).expect("the fixed form");
        let row = status.ebpf_row();
        assert_eq!((row.lost(), row.settled()), (4, 8));
        assert!(status.latency.samples == 5);
        assert_eq!(not_ready(&status, false), None);
        assert!(not_ready(&status, true).is_some_and(|why| why.contains("load")));
    }

    /// Scenario: what the server says after an agent has ended that lost two events and counted them.
    /// Guarantees: it is read, and the account is in order.
    #[test]
    fn reads_the_last_report() {
        let text = r#"{"agents":[{"lost":{"ebpf":2,"journald":0},"ledger":{"boot_ns":1,"rows":[{"acked":7,"drained":7,
            "dropped":{},"enriched":7,"in_flight":0,"produced":9,"ring_lost":2,"shed":{},"source":"ebpf","spooled":0}]}}],
            "counters":{"batches":9,"events":17},"store":{"syncs":3},"version":"1"}"#;
        let received = Received::parse(text).expect("the fixed form");
        let before = Received { events: 10, ..Received::default() };
        let (row, problem) = received.settle(&before, 8);
        assert_eq!((row.lost(), problem, received.syncs), (2, None, 3));
    }

    /// Scenario: an agent that never saw some calls, sums that do not close at each hop, events acked that the server
    /// does not have, events received twice, a gap in the sequences that nobody counted, no report at all.
    /// Guarantees: none of them has a result.
    #[test]
    fn silent_loss_is_found() {
        let row = Row {
            source: "ebpf".to_owned(),
            produced: 9,
            drained: 9,
            enriched: 9,
            acked: 9,
            ..Row::default()
        };
        let received =
            |row: &Row, events, missing| Received { events, missing, rows: vec![row.clone()], syncs: 0 };
        let problem =
            |received: Received, calls| received.settle(&Received::default(), calls).1.unwrap_or_default();
        assert_eq!(problem(received(&row, 9, 0), 9), "");
        assert!(problem(received(&row, 9, 0), 10).starts_with("1 of 10 calls"));
        assert!(problem(received(&Row { produced: 10, ..row.clone() }, 9, 0), 9).starts_with("produced ="));
        assert!(problem(received(&Row { enriched: 8, ..row.clone() }, 9, 0), 9).starts_with("drained ="));
        assert!(problem(received(&Row { acked: 8, ..row.clone() }, 8, 0), 9).starts_with("enriched ="));
        assert!(problem(received(&row, 8, 0), 9).contains("the server received 8"));
        assert!(problem(received(&row, 10, 0), 9).contains("the server received 10"));
        assert!(problem(received(&row, 9, 1), 9).starts_with("1 events are missing"));
        assert!(problem(Received::default(), 0).contains("without a last report"));
    }
}
