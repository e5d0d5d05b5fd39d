//! The agent's metrics over OTLP, on the SDK's own thread.
//!
//! Invariants:
//! - A receiver that is absent or slow costs one message and a counter, and holds up nothing.
//! - Every instrument of one export reads the same snapshot.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{MetricExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use tokio::sync::watch;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use super::{Info, Kind, METRICS, Sample};
use crate::config::{self, Settings};
use crate::control::Vitals;
use crate::control::snapshot::{Otlp, Snapshot};

/// A snapshot older than this belongs to the export before. Shorter than the shortest interval, longer than it takes
/// to read every instrument.
const FRESH: Duration = Duration::from_millis(500);

/// Longest wait for the last export at the end.
const LAST_EXPORT_MAX: Duration = Duration::from_secs(1);

/// Why metrics are not exported. Stop the start: they were asked for.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// The endpoint, or TLS to it, cannot be set up.
    #[error("cannot export to {endpoint}: {reason}; check otel_endpoint and grpc_insecure")]
    Endpoint {
        /// Of the settings.
        endpoint: String,
        /// Why not.
        reason: String,
    },
    /// A header is not one.
    #[error("otel_headers: {0:?} is not a name or value of an HTTP header")]
    Header(String),
}

/// A running export.
#[derive(Debug)]
pub struct Exporter {
    provider: SdkMeterProvider,
    /// Dropped to give up an export that is on its way.
    give_up: watch::Sender<()>,
}

impl Exporter {
    /// Starts exporting; nothing when the settings do not ask for it. Call it within the runtime that is to carry
    /// the connection, and keep that running.
    ///
    /// # Errors
    /// [`OtlpError`].
    pub fn start(
        settings: &Settings,
        vitals: Arc<dyn Vitals>,
        report: Arc<Mutex<Otlp>>,
    ) -> Result<Option<Self>, OtlpError> {
        if settings.otel_metrics_interval.is_zero() || settings.otel_disabled {
            return Ok(None);
        }
        let bad = |reason: String| OtlpError::Endpoint { endpoint: settings.otel_endpoint.clone(), reason };
        let inner = MetricExporter::builder()
            .with_tonic()
            .with_channel(channel(settings).map_err(|error| bad(error.to_string()))?)
            .with_timeout(settings.otel_timeout)
            .with_metadata(headers(&settings.otel_headers)?)
            .with_temporality(Temporality::Cumulative)
            .build()
            .map_err(|error| bad(error.to_string()))?;
        let (give_up, given_up) = watch::channel(());
        let counted = Counted {
            given_up,
            inner,
            report,
            runtime: tokio::runtime::Handle::current(),
            endpoint: settings.otel_endpoint.clone(),
        };
        let reader = PeriodicReader::builder(counted).with_interval(settings.otel_metrics_interval).build();
        let provider =
            SdkMeterProvider::builder().with_reader(reader).with_resource(resource(settings)).build();
        let scope =
            InstrumentationScope::builder("tapio-collector").with_version(env!("CARGO_PKG_VERSION")).build();
        register(&provider.meter_with_scope(scope), &Arc::new(Cache { vitals, last: Mutex::new(None) }));
        Ok(Some(Self { provider, give_up }))
    }

    /// Exports a last time, if the receiver answers at once, and stops. The runtime must still run: the SDK's thread
    /// uses it until this returns.
    pub async fn stop(self) {
        let provider = self.provider;
        let mut stopping =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST_EXPORT_MAX));
        // The SDK knows no limit while an export is on its way.
        let ended = match tokio::time::timeout(LAST_EXPORT_MAX, &mut stopping).await {
            Ok(ended) => ended,
            Err(_) => {
                drop(self.give_up);
                stopping.await
            }
        };
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("the last export of metrics: {error}"),
            Err(error) => tracing::debug!("the last export of metrics: {error}"),
        }
    }
}

/// A connection that is made when it is needed, and again when it broke.
pub(crate) fn channel(settings: &Settings) -> Result<Channel, tonic::transport::Error> {
    let url = config::url(&settings.otel_endpoint, settings.grpc_insecure);
    let secure = url.starts_with("https");
    let endpoint =
        Endpoint::from_shared(url)?.connect_timeout(settings.otel_timeout).timeout(settings.otel_timeout);
    let endpoint = endpoint.http2_max_header_list_size(16 << 10);
    let endpoint =
        if secure { endpoint.tls_config(ClientTlsConfig::new().with_native_roots())? } else { endpoint };
    Ok(endpoint.connect_lazy())
}

/// The headers of every request.
pub(crate) fn headers(pairs: &[(String, String)]) -> Result<MetadataMap, OtlpError> {
    let mut headers = MetadataMap::new();
    for (name, value) in pairs {
        // The value may be a secret: only the name is repeated.
        let key = MetadataKey::from_bytes(name.to_lowercase().as_bytes())
            .map_err(|_| OtlpError::Header(name.clone()))?;
        let value = MetadataValue::try_from(value.as_str()).map_err(|_| OtlpError::Header(name.clone()))?;
        headers.insert(key, value);
    }
    Ok(headers)
}

fn resource(settings: &Settings) -> Resource {
    let attributes = settings.otel_resource_attributes.iter();
    Resource::builder_empty()
        .with_attributes(attributes.map(|(key, value)| KeyValue::new(key.clone(), value.clone())))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_service_name(settings.otel_service_name.clone())
        .build()
}

/// One snapshot for all instruments of an export.
struct Cache {
    vitals: Arc<dyn Vitals>,
    last: Mutex<Option<(Instant, Arc<Snapshot>)>>,
}

impl Cache {
    fn snapshot(&self) -> Arc<Snapshot> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((taken, snapshot)) if taken.elapsed() < FRESH => Arc::clone(snapshot),
            _ => {
                let snapshot = Arc::new(self.vitals.snapshot());
                *last = Some((Instant::now(), Arc::clone(&snapshot)));
                snapshot
            }
        }
    }
}

fn register(meter: &Meter, cache: &Arc<Cache>) {
    for info in METRICS {
        let cache = Arc::clone(cache);
        let observe = move |each: &mut dyn FnMut(f64, &[KeyValue])| {
            for sample in (info.samples)(&cache.snapshot()) {
                each(sample.value, &attributes(&sample));
            }
        };
        instrument(meter, info, observe);
    }
}

/// The instrument lives as long as its provider: the handle is not needed.
fn instrument(
    meter: &Meter,
    info: &Info,
    observe: impl Fn(&mut dyn FnMut(f64, &[KeyValue])) + Send + Sync + 'static,
) {
    let (name, unit) = (info.otlp_name(), info.unit.ucum());
    match info.kind {
        Kind::Counter => drop(
            meter
                .f64_observable_counter(name)
                .with_unit(unit)
                .with_description(info.help)
                .with_callback(move |observer| observe(&mut |value, labels| observer.observe(value, labels)))
                .build(),
        ),
        Kind::Gauge => drop(
            meter
                .f64_observable_gauge(name)
                .with_unit(unit)
                .with_description(info.help)
                .with_callback(move |observer| observe(&mut |value, labels| observer.observe(value, labels)))
                .build(),
        ),
    }
}

fn attributes(sample: &Sample) -> Vec<KeyValue> {
    sample.labels.iter().map(|(name, value)| KeyValue::new(*name, value.clone())).collect()
}

/// Counts exports and says once when they begin to fail, and once when they arrive again.
struct Counted {
    inner: MetricExporter,
    report: Arc<Mutex<Otlp>>,
    runtime: tokio::runtime::Handle,
    endpoint: String,
    given_up: watch::Receiver<()>,
}

impl Counted {
    fn count(&self, result: &OTelSdkResult) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => {
                if !report.last_error.is_empty() {
                    tracing::info!("metrics arrive at {} again", self.endpoint);
                }
                report.exported += 1;
                report.last_error.clear();
            }
            Err(error) => {
                if report.last_error.is_empty() {
                    tracing::warn!(
                        "metrics do not arrive at {}: {error}; further failures are counted",
                        self.endpoint
                    );
                }
                report.failed += 1;
                report.last_error = error.to_string();
            }
        }
    }
}

impl PushMetricExporter for Counted {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut given_up = self.given_up.clone();
        let mut given_up = pin!(given_up.changed());
        let mut exporting = pin!(self.inner.export(metrics));
        let result = poll_fn(|context| {
            // Nothing is ever sent: this is ready once the sender is gone. The runtime may be next, so the export is
            // not touched any more.
            if given_up.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(OTelSdkError::Timeout(LAST_EXPORT_MAX)));
            }
            // The SDK's thread has no runtime: lend it the one that drives the connection.
            let _lent = self.runtime.enter();
            exporting.as_mut().poll(context)
        })
        .await;
        self.count(&result);
        // It is counted and said: the SDK would only repeat it.
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        match self.inner.shutdown_with_timeout(timeout) {
            Err(OTelSdkError::AlreadyShutdown) => Ok(()),
            result => result,
        }
    }

    fn temporality(&self) -> Temporality {
        self.inner.temporality()
    }
}

#[cfg(test)]
mod tests;
