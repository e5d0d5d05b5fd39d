//! The stream against servers that are absent, lie, vanish and stall. The server is a fake: the real one does none of it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tapio::egress::batch::Sealed;
use tapio::egress::stream::{Parts, Stream, StreamReport};
use tapio::engine::queue::{self, BatchSender};
use tapio::event::Source;
use tapio::ledger::{Dropped, Ledger};
use tapio::proto::collector_service_server::{CollectorService, CollectorServiceServer};
use tapio::proto::stream_events_request::Message;
use tapio::proto::{EventBatch, FlowControl, Hello, LedgerReport, StreamEventsRequest, StreamEventsResponse};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// What the fake server does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Stores and acks everything.
    Good,
    /// Acks a batch that was never sent.
    AcksTooMuch,
    /// Ends the stream with an error at the third batch, unacked.
    VanishesAtThird,
    /// Takes batches and says that its disk is full.
    Stalls,
}

/// What the fake server has seen, over all its connections.
#[derive(Debug, Default)]
struct Seen {
    /// Sequence number and first entity column byte of each batch, in order of arrival.
    batches: Vec<(u64, u8)>,
    /// The highest batch that is stored: what a good server knows after a restart.
    stored: u64,
    ledgers: usize,
}

struct Fake {
    manner: Manner,
    seen: Arc<Mutex<Seen>>,
}

type Responses = Pin<Box<dyn tokio_stream::Stream<Item = Result<StreamEventsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl CollectorService for Fake {
    type StreamEventsStream = Responses;

    async fn stream_events(
        &self,
        request: Request<Streaming<StreamEventsRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let (responses, outbound) = mpsc::channel(16);
        let (manner, seen) = (self.manner, Arc::clone(&self.seen));
        tokio::spawn(async move {
            let mut requests = request.into_inner();
            while let Ok(Some(request)) = requests.message().await {
                let Some(response) = answer(manner, &seen, request.message) else { continue };
                let failed = response.is_err();
                if responses.send(response).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outbound))))
    }
}

fn ack(acked_sequence: u64, stalled_reason: &str) -> Result<StreamEventsResponse, Status> {
    let stalled_reason = stalled_reason.to_owned();
    let flow_control = Some(FlowControl { unacked_bytes_max: 0, stalled_reason });
    Ok(StreamEventsResponse { acked_sequence, flow_control })
}

fn answer(
    manner: Manner,
    seen: &Mutex<Seen>,
    message: Option<Message>,
) -> Option<Result<StreamEventsResponse, Status>> {
    let mut seen = seen.lock().unwrap();
    match message? {
        Message::Hello(_) => Some(ack(seen.stored, "")),
        Message::Ledger(_) => {
            seen.ledgers += 1;
            None
        }
        Message::Batch(batch) => {
            seen.batches.push((batch.sequence, batch.entity[0]));
            match manner {
                Manner::Good => {
                    seen.stored = seen.stored.max(batch.sequence);
                    Some(ack(seen.stored, ""))
                }
                Manner::AcksTooMuch => Some(ack(1_000_000, "")),
                Manner::VanishesAtThird if batch.sequence == 3 => Some(Err(Status::unavailable("power cut"))),
                Manner::VanishesAtThird => None,
                Manner::Stalls => Some(ack(seen.stored, "no space left on device")),
            }
        }
    }
}

/// Serves on `address` (port 0: a free one); ending the task closes everything.
async fn serve(address: &str, manner: Manner, seen: &Arc<Mutex<Seen>>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = CollectorServiceServer::new(Fake { manner, seen: Arc::clone(seen) });
    let server = tonic::transport::Server::builder().add_service(service);
    let task = tokio::spawn(async move {
        server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
    });
    (address, task)
}

/// One agent's egress with one shard, whose batches hold ten events and 1000 bytes each.
struct Agent {
    input: Option<[BatchSender<Sealed>; 2]>,
    wake: Arc<Notify>,
    ledger: Arc<Ledger>,
    report: Arc<Mutex<StreamReport>>,
    deadline: watch::Sender<Option<Instant>>,
    running: std::thread::JoinHandle<()>,
    pushed: u8,
}

impl Agent {
    fn start(server: SocketAddr, window_bytes: usize) -> Self {
        let [bulk, urgent] = [0; 2].map(|_| queue::batches(64));
        let wake = Arc::new(Notify::new());
        let ledger = Arc::new(Ledger::default());
        let report = Arc::new(Mutex::new(StreamReport::default()));
        let (deadline, watched) = watch::channel(None);
        let mut stream = Stream::new(Parts {
            server: server.to_string(),
            insecure: true,
            hello: Hello { epoch: 1, ..Hello::default() },
            inputs: vec![[bulk.1, urgent.1]],
            wake: Arc::clone(&wake),
            window_bytes,
            ledger: Arc::clone(&ledger),
            report: Arc::clone(&report),
            ledger_report: Box::new(LedgerReport::default),
            deadline: watched,
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let running = std::thread::spawn(move || runtime.block_on(stream.run()));
        Self { input: Some([bulk.0, urgent.0]), wake, ledger, report, deadline, running, pushed: 0 }
    }

    fn push(&mut self) {
        self.pushed += 1;
        let batch = EventBatch { entity: vec![self.pushed].into(), ..EventBatch::default() };
        self.ledger.source(Source::Ebpf).held.fetch_add(10, Ordering::Relaxed);
        self.ledger.source(Source::Ebpf).enriched.fetch_add(10, Ordering::Relaxed);
        let sealed = Sealed { batch, counts: [10, 0, 0, 0], bytes: 1000, urgent: false };
        self.input.as_mut().unwrap()[0].push(sealed).unwrap();
        self.wake.notify_one();
    }

    async fn until(&self, what: &str, condition: impl Fn(&StreamReport, u64) -> bool) {
        for _ in 0..1000 {
            let acked = self.ledger.source(Source::Ebpf).acked.load(Ordering::Relaxed);
            if condition(&self.report.lock().unwrap(), acked) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what} did not happen: {:?}", self.report.lock().unwrap());
    }

    /// Lets the shard go and waits for the end; returns acked and dropped by reason.
    async fn finish(mut self, longest: Duration) -> (u64, Vec<(&'static str, u64)>) {
        self.deadline.send(Some(Instant::now() + longest)).unwrap();
        drop(self.input.take());
        self.wake.notify_one();
        tokio::task::spawn_blocking(move || self.running.join().unwrap()).await.unwrap();
        let ledger = self.ledger.source(Source::Ebpf);
        assert_eq!(ledger.held.load(Ordering::Relaxed), 0, "nothing is held after the end");
        let dropped = Dropped::ALL.iter().map(|reason| (reason.name(), &ledger.dropped[*reason as usize]));
        let dropped = dropped.map(|(name, count)| (name, count.load(Ordering::Relaxed)));
        (ledger.acked.load(Ordering::Relaxed), dropped.filter(|(_, count)| *count > 0).collect())
    }
}

/// Scenario: no server; 50 batches into a window of 20.
/// Guarantees: the window stays in its bound, the oldest 30 are counted as dropped, the rest at the deadline.
#[tokio::test]
async fn an_absent_server_costs_a_bounded_window() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let mut agent = Agent::start(address, 20_000);
    for _ in 0..50 {
        agent.push();
    }
    agent.until("the failure is reported", |report, _| !report.last_error.is_empty()).await;
    agent.until("the window is full", |report, _| report.unacked_batches == 20).await;
    let error = agent.report.lock().unwrap().last_error.clone();
    assert!(error.contains("cannot reach tapio-server") && error.contains("refused"), "{error}");
    let (acked, dropped) = agent.finish(Duration::from_millis(50)).await;
    assert_eq!((acked, dropped), (0, vec![("window_full", 300), ("shutdown_deadline", 200)]));
}

/// Scenario: a server acks a batch that was never sent; later a good one takes its place.
/// Guarantees: the message says what is wrong, nothing counts as acked before it is, everything is delivered in the end.
#[tokio::test]
async fn nonsense_acks_settle_nothing() {
    let seen = Arc::default();
    let (address, liar) = serve("127.0.0.1:0", Manner::AcksTooMuch, &seen).await;
    let mut agent = Agent::start(address, 100_000);
    agent.push();
    agent.push();
    agent.until("the lie is reported", |report, _| report.last_error.contains("acked batch 1000000")).await;
    assert_eq!(agent.ledger.source(Source::Ebpf).acked.load(Ordering::Relaxed), 0);
    liar.abort();
    let _aborted = liar.await;
    let seen = Arc::default();
    let (_, _good) = serve(&address.to_string(), Manner::Good, &seen).await;
    agent.until("both are acked", |_, acked| acked == 20).await;
    assert_eq!(agent.finish(Duration::from_secs(10)).await, (20, vec![]));
    assert_eq!(seen.lock().unwrap().batches, [(1, 1), (2, 2)]);
}

/// Scenario: the server dies with three batches unacked and comes back knowing none of them.
/// Guarantees: all are sent again in order under their numbers, later ones follow, nothing is dropped.
#[tokio::test]
async fn a_server_that_vanishes_gets_everything_again() {
    let seen = Arc::default();
    let (address, dying) = serve("127.0.0.1:0", Manner::VanishesAtThird, &seen).await;
    let mut agent = Agent::start(address, 100_000);
    for _ in 0..3 {
        agent.push();
    }
    agent
        .until("the end of the stream is reported", |report, _| report.last_error.contains("power cut"))
        .await;
    dying.abort();
    let _aborted = dying.await;
    agent.push();
    let after = Arc::default();
    let (_, _good) = serve(&address.to_string(), Manner::Good, &after).await;
    agent.until("all four are acked", |_, acked| acked == 40).await;
    assert_eq!(agent.finish(Duration::from_secs(10)).await, (40, vec![]));
    let after = after.lock().unwrap();
    assert_eq!(after.batches, [(1, 1), (2, 2), (3, 3), (4, 4)]);
    assert!(after.ledgers > 0, "the ledger is reported at the end");
}

/// Scenario: the server takes batches and says that it cannot store.
/// Guarantees: the reason is reported, nothing counts as acked, the events are kept until the deadline.
#[tokio::test]
async fn a_stalled_server_is_reported() {
    let seen = Arc::default();
    let (address, _server) = serve("127.0.0.1:0", Manner::Stalls, &seen).await;
    let mut agent = Agent::start(address, 100_000);
    agent.push();
    agent.until("the reason is reported", |report, _| report.stalled_reason.contains("no space left")).await;
    let (acked, dropped) = agent.finish(Duration::from_millis(50)).await;
    assert_eq!((acked, dropped), (0, vec![("shutdown_deadline", 10)]));
}
