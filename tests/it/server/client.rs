//! What the tests of the server talk through: batches, a gRPC stream, the running program.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tapio::event::{KINDS, Kind};
use tapio::proto::collector_service_client::CollectorServiceClient;
use tapio::proto::stream_events_request::Message;
use tapio::proto::{Entity, EventBatch, Hello, Run, StreamEventsRequest, StreamEventsResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Longest wait for anything; a test that waits this long has failed.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(30);

/// The boot time and wall clock of the tests' batches.
pub(crate) const BOOT_UNIX_NS: u64 = 1_700_000_000_000_000_000;

/// A process that does not outlive its test, whatever becomes of that.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// tapio-server as a process.
pub(crate) struct Server {
    child: Running,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    /// Reads what it says on its standard error, to the end: what nobody reads is lost.
    log: JoinHandle<String>,
}

impl Server {
    /// Starts it on free ports and waits until it listens.
    pub(crate) fn start(data: &Path, flags: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", data, flags)
    }

    /// Starts it where agents expect it, and waits until it listens.
    pub(crate) fn start_at(grpc: &str, data: &Path, flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tapio-server"));
        command
            .args(["--grpc-listen", grpc, "--http-listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .args(flags)
            .env("NO_COLOR", "1")
            .stderr(Stdio::piped());
        let mut child = Running(command.spawn().expect("tapio-server starts"));
        let mut log = BufReader::new(child.0.stderr.take().expect("piped"));
        let mut said = String::new();
        loop {
            let mut line = String::new();
            let read = log.read_line(&mut line).expect("a line");
            assert!(read > 0, "tapio-server ended: {said}");
            said.push_str(&line);
            if let Some((_, addresses)) = line.split_once("agents: ") {
                let (grpc, http) = addresses.trim().split_once("; queries: ").expect("two addresses");
                let (grpc, http) = (grpc.parse().expect("an address"), http.parse().expect("an address"));
                let log = std::thread::spawn(move || {
                    let mut said = String::new();
                    log.read_to_string(&mut said).expect("text");
                    said
                });
                return Self { child, grpc, http, log };
            }
        }
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.0.kill().expect("it runs");
        self.child.0.wait().expect("it ends");
    }

    /// Asks it to stop; returns its exit code and what it said. Clients go on meanwhile: they must answer it.
    pub(crate) async fn stop(self) -> (Option<i32>, String) {
        tokio::task::spawn_blocking(|| self.terminate()).await.expect("it ends")
    }

    fn terminate(mut self) -> (Option<i32>, String) {
        let pid = rustix::process::Pid::from_child(&self.child.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let said = self.log.join().expect("its log is read");
        (self.child.0.wait().expect("it ends").code(), said)
    }

    /// GETs a path: the status and the body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        get(self.http, path)
    }

    /// GETs a path whose answer is JSON.
    pub(crate) fn json(&self, path: &str) -> serde_json::Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.json("/api/v1/status")["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
    }
}

/// GETs a path over HTTP/1.0: the status and the body.
pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(WAIT_MAX)).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: {answer}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// The greeting of the tests' agent.
pub(crate) fn hello(agent: u8, epoch: u64) -> Hello {
    Hello {
        agent_id: vec![agent; 16].into(),
        epoch,
        boot_id: vec![0xb0; 16].into(),
        host_name: format!("host-{agent}"),
        version: "0.1.0".into(),
    }
}

/// One open stream.
pub(crate) struct Agent {
    requests: mpsc::Sender<StreamEventsRequest>,
    responses: Streaming<StreamEventsResponse>,
}

impl Agent {
    /// Opens a stream without a word.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Status> {
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("a URL");
        let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let (requests, outbound) = mpsc::channel(64);
        let responses =
            CollectorServiceClient::new(channel).stream_events(ReceiverStream::new(outbound)).await?;
        Ok(Self { requests, responses: responses.into_inner() })
    }

    /// Opens a stream and greets; returns what is acked already.
    pub(crate) async fn connect(address: SocketAddr, hello: Hello) -> Result<(Self, u64), Status> {
        let mut agent = Self::open(address).await?;
        agent.send(Message::Hello(hello)).await;
        let first = agent.answer().await?;
        Ok((agent, first.acked_sequence))
    }

    pub(crate) async fn send(&self, message: Message) {
        // A stream that the server has ended takes nothing more; the test sees the end in `answer`.
        let _ended = self.requests.send(StreamEventsRequest { message: Some(message) }).await;
    }

    pub(crate) async fn send_batch(&self, batch: EventBatch) {
        self.send(Message::Batch(batch)).await;
    }

    /// The next answer.
    pub(crate) async fn answer(&mut self) -> Result<StreamEventsResponse, Status> {
        let answer = tokio::time::timeout(WAIT_MAX, self.responses.message()).await;
        answer.expect("an answer in time")?.ok_or_else(|| Status::cancelled("the stream ended in order"))
    }

    /// Waits until a batch is acked.
    pub(crate) async fn acked(&mut self, sequence: u64) -> Result<(), Status> {
        while self.answer().await?.acked_sequence < sequence {}
        Ok(())
    }

    /// Waits for the end of the stream.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.answer().await {
                return status;
            }
        }
    }

    /// Ends the sending side, then waits for the server's end: the last ack.
    pub(crate) async fn finish(mut self) -> u64 {
        drop(self.requests);
        let mut acked = 0;
        while let Ok(Some(answer)) = self.responses.message().await {
            acked = answer.acked_sequence;
        }
        acked
    }
}

pub(crate) fn fixed32(numbers: impl IntoIterator<Item = u32>) -> Bytes {
    numbers.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<_>>().into()
}

/// An event as the tests describe it.
#[derive(Debug, Clone)]
pub(crate) struct Fact {
    pub(crate) ms: u32,
    pub(crate) kind: Kind,
    pub(crate) entity: u32,
    pub(crate) pid: u32,
    pub(crate) slots: Vec<u64>,
    pub(crate) text: Option<&'static str>,
}

/// A load event at this millisecond.
pub(crate) fn load(ms: u32, value: u64) -> Fact {
    Fact { ms, kind: Kind::Load, entity: 0, pid: 40, slots: vec![39, value], text: None }
}

/// An entity with a key and, unless it is not known yet, a name and trace id.
pub(crate) fn entity(key: u64, name: &str, trace: u8) -> Entity {
    let trace_id = if trace == 0 { Bytes::new() } else { vec![trace; 16].into() };
    Entity { key, r#type: 2, name: name.into(), trace_id, ..Entity::default() }
}

/// A batch whose first event has this number at its producer.
pub(crate) fn batch(sequence: u64, first: u64, entities: Vec<Entity>, facts: &[Fact]) -> EventBatch {
    let mut strings: Vec<String> = Vec::new();
    let mut text = Vec::new();
    for fact in facts {
        assert_eq!(fact.slots.len(), KINDS[fact.kind as usize - 1].slot_words());
        if let Some(string) = fact.text {
            text.push(u32::try_from(strings.len()).expect("few"));
            strings.push(string.into());
        }
    }
    let count = u32::try_from(facts.len()).expect("few");
    EventBatch {
        sequence,
        base_time_ns: 0,
        boot_unix_ns: BOOT_UNIX_NS,
        strings,
        entities,
        runs: vec![Run { source: 0, producer: 2, first_sequence: first, count }],
        time_delta: fixed32(facts.iter().map(|fact| fact.ms * 1_000_000)),
        kind: facts.iter().map(|fact| fact.kind as u8).collect::<Vec<_>>().into(),
        entity: fixed32(facts.iter().map(|fact| fact.entity)),
        pid: fixed32(facts.iter().map(|fact| fact.pid)),
        sequence_delta: Bytes::new(),
        slot: facts
            .iter()
            .flat_map(|fact| &fact.slots)
            .flat_map(|slot| slot.to_le_bytes())
            .collect::<Vec<_>>()
            .into(),
        text,
        shard: 0,
        groups: Vec::new(),
        time_unit_ns: 0,
    }
}

/// Batch number N of a steady stream: ten load events at N times ten milliseconds, numbered without gaps.
pub(crate) fn steady(sequence: u64) -> EventBatch {
    let first = (sequence - 1) * 10;
    let ms = u32::try_from(sequence).expect("few batches") * 10 % 4000;
    let facts: Vec<Fact> = (0..10).map(|event| load(ms, first + event)).collect();
    batch(sequence, first, vec![entity(77, "load.service", 7)], &facts)
}
