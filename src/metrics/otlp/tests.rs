//! Exports to a receiver that is there, and to none.

use std::net::SocketAddr;

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::*;

struct Fake;

impl Vitals for Fake {
    fn snapshot(&self) -> Snapshot {
        Snapshot { uptime_s: 7.5, ..Snapshot::default() }
    }
}

/// Passes on what it receives, with the header that the test sends.
struct Receiver(mpsc::Sender<(ExportMetricsServiceRequest, String)>);

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let header = request
            .metadata()
            .get("x-key")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        // A test that has seen enough does not listen any more.
        let _enough = self.0.try_send((request.into_inner(), header));
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn settings(endpoint: SocketAddr) -> Settings {
    Settings {
        otel_endpoint: endpoint.to_string(),
        otel_metrics_interval: Duration::from_secs(1),
        otel_timeout: Duration::from_millis(500),
        otel_headers: vec![("X-Key".into(), "secret".into())],
        otel_resource_attributes: vec![("team".into(), "a".into())],
        ..Settings::default()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Scenario: a receiver on loopback, the runtime of one thread that the agent has.
/// Guarantees: an export arrives with all metrics, the resource and the header; it is counted.
#[test]
fn metrics_arrive() {
    runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, mut received) = mpsc::channel(4);
        let service = MetricsServiceServer::new(Receiver(sender));
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

        let report = Arc::new(Mutex::new(Otlp::default()));
        let exporter =
            Exporter::start(&settings(address), Arc::new(Fake), Arc::clone(&report)).expect("starts");
        let wait = tokio::time::timeout(Duration::from_secs(20), received.recv());
        let (request, header) = wait.await.expect("in time").expect("an export");
        assert_eq!(header, "secret");
        let resource = &request.resource_metrics[0];
        let attributes = &resource.resource.as_ref().expect("a resource").attributes;
        assert!(attributes.iter().any(|attribute| attribute.key == "team"), "{attributes:?}");
        let metrics = &resource.scope_metrics[0].metrics;
        let uptime = metrics.iter().find(|metric| metric.name == "tapio.uptime").expect("uptime");
        assert_eq!(uptime.unit, "s");
        assert!(matches!(&uptime.data, Some(Data::Gauge(gauge)) if gauge.data_points.len() == 1));
        exporter.expect("asked for").stop().await;
        assert!(report.lock().expect("whole").exported > 0);
    });
}

/// Scenario: nobody listens; then exporting is switched off in either way.
/// Guarantees: failures are counted with their reason; stopping ends; switched off, nothing starts.
#[test]
fn an_absent_receiver_is_counted() {
    runtime().block_on(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let report = Arc::new(Mutex::new(Otlp::default()));
        let exporter =
            Exporter::start(&settings(address), Arc::new(Fake), Arc::clone(&report)).expect("starts");
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if report.lock().expect("whole").failed > 0 {
                break;
            }
        }
        exporter.expect("asked for").stop().await;
        let report = report.lock().expect("whole").clone();
        assert!(report.failed > 0 && report.exported == 0 && !report.last_error.is_empty(), "{report:?}");

        let report = Arc::new(Mutex::new(Otlp::default()));
        for off in [
            Settings { otel_disabled: true, ..settings(address) },
            Settings { otel_metrics_interval: Duration::ZERO, ..settings(address) },
        ] {
            let exporter = Exporter::start(&off, Arc::new(Fake), Arc::clone(&report)).expect("valid");
            assert!(exporter.is_none());
        }
    });
}

/// Scenario: a header with a space in its name, a value with a line break.
/// Guarantees: both are refused; the value is not repeated.
#[test]
fn headers_are_checked() {
    for (name, value) in [("a b", "x"), ("a", "hush\nx")] {
        let error = headers(&[(name.into(), value.into())]).expect_err("no header").to_string();
        assert!(!error.contains("hush"), "{error}");
    }
}

/// Scenario: a receiver that takes the connection and says nothing, with a timeout of minutes.
/// Guarantees: stopping does not wait for it, and the SDK's thread is done with the runtime.
#[test]
fn a_stalled_receiver_does_not_hold_up_the_end() {
    runtime().block_on(async {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = silent.local_addr().expect("an address");
        let settings = Settings { otel_timeout: Duration::from_secs(300), ..settings(address) };
        let report = Arc::new(Mutex::new(Otlp::default()));
        let exporter = Exporter::start(&settings, Arc::new(Fake), Arc::clone(&report)).expect("starts");
        let accepted =
            tokio::task::spawn_blocking(move || silent.accept().map(|(stream, _)| (silent, stream)));
        let _kept = accepted.await.expect("ran").expect("an export has begun");
        let stopped =
            tokio::time::timeout(Duration::from_secs(60), exporter.expect("asked for").stop()).await;
        assert!(stopped.is_ok(), "it waited for the receiver");
        assert!(report.lock().expect("whole").failed > 0);
    });
}
