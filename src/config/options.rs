//! The one table of settings. Flags, environment variables, keys of the file, `--help` and what a reload may change
//! all come from it.
//!
//! Invariants:
//! - Every field of `Settings` has exactly one row.
//! - `set` of what `get` wrote changes nothing, apart from the wish that a collector was asked for by name.

use std::time::Duration;

use super::values::{self, Read, written, written_bytes, written_pairs, written_percent};
use super::{ClusterScope, Correlation, JournalText, Latency, Settings, Switch};
use crate::collector::ebpf::PROBES;
use crate::engine::placement::SHARDS_MAX;
use crate::event::Source;

/// How a setting is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `true` or `false`; a flag alone means `true`.
    Switch,
    /// A whole number.
    Number,
    /// A time with its unit.
    Time,
    /// A size, with or without unit.
    Size,
    /// A part of a whole of 100.
    Percent,
    /// Text; the word that stands for it in `--help`.
    Text(&'static str),
    /// Elements separated by commas, or an array of the file; the word that stands for them in `--help`.
    List(&'static str),
}

impl Form {
    /// The word for the value in `--help`.
    #[must_use]
    pub const fn placeholder(self) -> &'static str {
        match self {
            Self::Switch => "BOOL",
            Self::Number => "N",
            Self::Time => "TIME",
            Self::Size => "SIZE",
            Self::Percent => "PERCENT",
            Self::Text(word) | Self::List(word) => word,
        }
    }
}

type Set = fn(&mut Settings, &str) -> Read<()>;
type Get = fn(&Settings) -> String;

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// The flag, without its dashes.
    pub flag: &'static str,
    /// How it is written.
    pub form: Form,
    /// What it does: one sentence without its full stop.
    pub help: &'static str,
    /// A running agent can change it.
    pub live: bool,
    /// Left out of `--help`.
    pub hidden: bool,
    /// Its value must not appear in logs.
    pub secret: bool,
    /// Variables that other programs read too, most specific first.
    pub shared_variables: &'static [Shared],
    /// Checks a text and stores what it says.
    pub set: Set,
    /// The text of what is stored.
    pub get: Get,
}

/// A variable that other programs read too.
#[derive(Debug, Clone, Copy)]
pub struct Shared {
    /// Its name.
    pub name: &'static str,
    /// What its value lacks to be one of ours: a unit.
    pub suffix: &'static str,
}

const fn opt(flag: &'static str, form: Form, help: &'static str, set: Set, get: Get) -> Opt {
    Opt { flag, form, help, live: false, hidden: false, secret: false, shared_variables: &[], set, get }
}

const fn shared(name: &'static str) -> Shared {
    Shared { name, suffix: "" }
}

const fn shared_ms(name: &'static str) -> Shared {
    Shared { name, suffix: "ms" }
}

impl Opt {
    const fn live(mut self) -> Self {
        self.live = true;
        self
    }

    const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    const fn also(mut self, variables: &'static [Shared]) -> Self {
        self.shared_variables = variables;
        self
    }

    /// The variable of the environment.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("TAPIO_{}", self.flag.to_uppercase().replace('-', "_"))
    }

    /// The key of the file: the flag in `snake_case`; that of a filter in the table `filters`.
    #[must_use]
    pub fn key(&self) -> String {
        let key = self.flag.replace('-', "_");
        key.strip_prefix("filter_").map_or(key.clone(), |filter| format!("filters.{filter}"))
    }

    /// The row with this flag.
    #[must_use]
    pub fn by_flag(flag: &str) -> Option<&'static Self> {
        OPTIONS.iter().find(|option| option.flag == flag)
    }
}

fn put<T>(place: &mut T, value: Read<T>) -> Read<()> {
    *place = value?;
    Ok(())
}

fn put_collector(settings: &mut Settings, source: Source, text: &str) -> Read<()> {
    let on = values::switch(text)?;
    settings.collectors[source as usize] = if on { Switch::On } else { Switch::Off };
    Ok(())
}

fn collector(settings: &Settings, source: Source) -> String {
    (settings.collectors[source as usize] != Switch::Off).to_string()
}

fn probe(name: &str) -> Read<String> {
    let names: Vec<&str> = PROBES.iter().map(|probe| probe.name).collect();
    if names.contains(&name) {
        return Ok(name.to_owned());
    }
    let meant = values::nearest(name, names.iter().copied()).map(|near| format!("; did you mean {near}?"));
    Err(format!("must be names of {}{}", names.join(", "), meant.unwrap_or_default()))
}

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

const CORRELATIONS: [(&str, Correlation); 2] =
    [("semantic", Correlation::Semantic), ("basic", Correlation::Basic)];
const JOURNAL_TEXTS: [(&str, JournalText); 2] =
    [("full", JournalText::Full), ("pattern", JournalText::Pattern)];
const SCOPES: [(&str, ClusterScope); 3] =
    [("elect", ClusterScope::Elect), ("node", ClusterScope::Node), ("all", ClusterScope::All)];
const LATENCIES: [(&str, Latency); 2] = [("normal", Latency::Normal), ("low", Latency::Low)];

/// The name of a value.
fn name_of<T: PartialEq>(names: &[(&str, T)], value: &T) -> String {
    names.iter().find(|(_, named)| named == value).map_or_else(String::new, |(name, _)| (*name).to_owned())
}

/// A path that may be missing.
fn written_path(path: Option<&std::path::PathBuf>) -> String {
    path.map_or_else(String::new, |path| path.display().to_string())
}

/// Every setting, in the order of `--help`.
pub const OPTIONS: &[Opt] = &[
    opt(
        "server",
        Form::Text("HOST:PORT"),
        "where tapio-server listens, or a URL",
        |s, v| put(&mut s.server, values::endpoint(v)),
        |s| s.server.clone(),
    ),
    opt(
        "otel-endpoint",
        Form::Text("HOST:PORT"),
        "where an OTLP receiver listens, or a URL",
        |s, v| put(&mut s.otel_endpoint, values::endpoint(v)),
        |s| s.otel_endpoint.clone(),
    )
    .also(&[shared("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"), shared("OTEL_EXPORTER_OTLP_ENDPOINT")]),
    opt(
        "enable-ebpf",
        Form::Switch,
        "collect from the kernel",
        |s, v| put_collector(s, Source::Ebpf, v),
        |s| collector(s, Source::Ebpf),
    ),
    opt(
        "enable-k8s",
        Form::Switch,
        "collect from Kubernetes",
        |s, v| put_collector(s, Source::Kubernetes, v),
        |s| collector(s, Source::Kubernetes),
    ),
    opt(
        "enable-systemd",
        Form::Switch,
        "collect from systemd",
        |s, v| put_collector(s, Source::Systemd, v),
        |s| collector(s, Source::Systemd),
    ),
    opt(
        "enable-journald",
        Form::Switch,
        "collect from the journal",
        |s, v| put_collector(s, Source::Journald, v),
        |s| collector(s, Source::Journald),
    ),
    opt(
        "enable-sampler",
        Form::Switch,
        "read what units, containers and the host use against their limits",
        |s, v| put_collector(s, Source::Sampler, v),
        |s| collector(s, Source::Sampler),
    ),
    opt(
        "buffer-size",
        Form::Number,
        "events from which a batch is sent within 4 ms, not only after the flush interval",
        |s, v| put(&mut s.buffer_size, values::number(v, 1, 65_536)),
        |s| s.buffer_size.to_string(),
    )
    .live(),
    opt(
        "flush-interval",
        Form::Time,
        "longest time that an event waits in a batch",
        |s, v| put(&mut s.flush_interval, values::time(v, millis(1), seconds(60))),
        |s| written(s.flush_interval),
    )
    .live(),
    opt(
        "correlation",
        Form::Text("MODE"),
        "`semantic`, or `basic`: stop after identities and trace ids",
        |s, v| put(&mut s.correlation, values::one_of(v, &CORRELATIONS)),
        |s| name_of(&CORRELATIONS, &s.correlation),
    ),
    opt(
        "grpc-insecure",
        Form::Switch,
        "plain text to the server and the receiver",
        |s, v| put(&mut s.grpc_insecure, values::switch(v)),
        |s| s.grpc_insecure.to_string(),
    ),
    opt(
        "output",
        Form::Text("FILE"),
        "where each revision of an incident is appended as a line of JSON; `-` is the standard output",
        |s, v| put(&mut s.output, values::path_or_none(v)),
        |s| written_path(s.output.as_ref()),
    ),
    opt(
        "rules",
        Form::Text("PATH"),
        "rules of your own, a file or a folder of them, that add to the built-in ones or replace them by name",
        |s, v| put(&mut s.rules, values::path_or_none(v)),
        |s| written_path(s.rules.as_ref()),
    )
    .live(),
    opt(
        "tls-ca",
        Form::Text("FILE"),
        "certificates, PEM, one of which must have signed the server's; empty: those of the system",
        |s, v| put(&mut s.tls_ca, values::path_or_none(v)),
        |s| written_path(s.tls_ca.as_ref()),
    ),
    opt(
        "tls-cert",
        Form::Text("FILE"),
        "the agent's own certificate chain, PEM, for servers that want to know who sends",
        |s, v| put(&mut s.tls_cert, values::path_or_none(v)),
        |s| written_path(s.tls_cert.as_ref()),
    ),
    opt(
        "tls-key",
        Form::Text("FILE"),
        "private key of that certificate, PEM",
        |s, v| put(&mut s.tls_key, values::path_or_none(v)),
        |s| written_path(s.tls_key.as_ref()),
    ),
    opt(
        "socket",
        Form::Text("PATH"),
        "where `status` asks",
        |s, v| put(&mut s.socket, values::socket(v)),
        |s| s.socket.display().to_string(),
    ),
    opt(
        "state-dir",
        Form::Text("PATH"),
        "where the agent keeps its identity and its positions",
        |s, v| put(&mut s.state_dir, values::path(v)),
        |s| s.state_dir.display().to_string(),
    ),
    opt(
        "kubeconfig",
        Form::Text("FILE"),
        "where the cluster is described; empty: ~/.kube/config, or the service account of the pod",
        |s, v| put(&mut s.kubeconfig, values::text_or_nothing(v)),
        |s| s.kubeconfig.clone(),
    )
    .also(&[shared("KUBECONFIG")]),
    opt(
        "context",
        Form::Text("NAME"),
        "the context of the kubeconfig; empty: its current one",
        |s, v| put(&mut s.context, values::text_or_nothing(v)),
        |s| s.context.clone(),
    ),
    opt(
        "node-name",
        Form::Text("NAME"),
        "this node's name in Kubernetes; empty: the host's name",
        |s, v| put(&mut s.node_name, values::text_or_nothing(v)),
        |s| s.node_name.clone(),
    )
    .also(&[shared("NODE_NAME")]),
    opt(
        "k8s-scope",
        Form::Text("SCOPE"),
        "what of the cluster is watched: `node`, `all`, or `elect`: this node, and the rest while no other agent does",
        |s, v| put(&mut s.k8s_scope, values::one_of(v, &SCOPES)),
        |s| name_of(&SCOPES, &s.k8s_scope),
    ),
    opt(
        "sampler-interval",
        Form::Time,
        "how often usage is read; what is near a limit is looked at every second",
        |s, v| put(&mut s.sampler_interval, values::time(v, seconds(1), seconds(300))),
        |s| written(s.sampler_interval),
    )
    .live(),
    opt(
        "certificates",
        Form::List("[UNIT:]FILE,..."),
        "certificates, PEM, whose end is foretold 30, 7 and 1 days ahead, each with the unit that uses it",
        |s, v| put(&mut s.certificates, values::list(v, values::certificate)),
        |s| s.certificates.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    )
    .live(),
    opt(
        "ring-bytes",
        Form::Size,
        "memory of all kernel rings together",
        |s, v| put(&mut s.ring_bytes, values::bytes(v, 64 << 10, 4 << 30)),
        |s| written_bytes(s.ring_bytes),
    ),
    opt(
        "record",
        Form::Text("FILE"),
        "write every batch to this file, for `tapio-collector replay`; empty: nowhere",
        |s, v| put(&mut s.record, values::path_or_none(v)),
        |s| s.record.as_ref().map_or_else(String::new, |path| path.display().to_string()),
    ),
    opt(
        "flight-recorder-bytes",
        Form::Size,
        "disk for the last batches, in the state directory, for `tapio-collector replay`; 0: none",
        |s, v| put(&mut s.flight_recorder_bytes, values::bytes(v, 0, 1 << 40)),
        |s| written_bytes(s.flight_recorder_bytes),
    ),
    opt(
        "window-bytes",
        Form::Size,
        "batches kept for resending until the server has stored them",
        |s, v| put(&mut s.window_bytes, values::bytes(v, 1 << 20, 1 << 30)),
        |s| written_bytes(s.window_bytes),
    ),
    opt(
        "latency",
        Form::Text("MODE"),
        "`normal`, or `low`: wake up for each record at low rates and read the rings eight times as often at high ones, for more CPU",
        |s, v| put(&mut s.latency, values::one_of(v, &LATENCIES)),
        |s| name_of(&LATENCIES, &s.latency),
    )
    .live(),
    opt(
        "probes-off",
        Form::List("NAME,..."),
        "probes that stay off",
        |s, v| put(&mut s.probes_off, values::list(v, probe)),
        |s| s.probes_off.join(","),
    ),
    opt(
        "filter-connect-success",
        Form::Switch,
        "stream connects that succeeded, too",
        |s, v| put(&mut s.filters.connect_success, values::switch(v)),
        |s| s.filters.connect_success.to_string(),
    ),
    opt(
        "filter-retransmits-per-second",
        Form::Number,
        "retransmits streamed a second and cgroup; the rest is counted",
        |s, v| put(&mut s.filters.retransmits_per_second, values::number(v, 0, 1_000_000)),
        |s| s.filters.retransmits_per_second.to_string(),
    ),
    opt(
        "filter-block-latency",
        Form::Time,
        "a block request slower than this is an event",
        |s, v| put(&mut s.filters.block_latency, values::time(v, Duration::ZERO, seconds(60))),
        |s| written(s.filters.block_latency),
    ),
    opt(
        "filter-errno-budget",
        Form::Percent,
        "CPU time of the host that looking for failed system calls may cost; `100`: look always; `0`: never",
        |s, v| put(&mut s.filters.errno_budget, values::percent(v)),
        |s| written_percent(s.filters.errno_budget),
    ),
    opt(
        "filter-errnos-per-second",
        Form::Number,
        "failed system calls streamed a second, cgroup and errno",
        |s, v| put(&mut s.filters.errnos_per_second, values::number(v, 0, 1_000_000)),
        |s| s.filters.errnos_per_second.to_string(),
    ),
    opt(
        "filter-forks",
        Form::Switch,
        "stream forks, too",
        |s, v| put(&mut s.filters.forks, values::switch(v)),
        |s| s.filters.forks.to_string(),
    ),
    opt(
        "filter-clean-exits",
        Form::Switch,
        "stream exits with status 0, too",
        |s, v| put(&mut s.filters.clean_exits, values::switch(v)),
        |s| s.filters.clean_exits.to_string(),
    ),
    opt(
        "since",
        Form::Text("TIME"),
        "what the first start reads of the past: `2h`, or a point in time as in RFC 3339; empty: nothing",
        |s, v| put(&mut s.since, values::since(v)),
        |s| values::written_since(s.since),
    ),
    opt(
        "journal-directory",
        Form::Text("PATH"),
        "where the files of the journal are; empty: where this host's journald keeps them",
        |s, v| put(&mut s.journal_directory, values::path_or_none(v)),
        |s| written_path(s.journal_directory.as_ref()),
    ),
    opt(
        "journal-namespace",
        Form::List("NAME,..."),
        "namespaces of the journal to read, too",
        |s, v| put(&mut s.journal_namespace, values::list(v, values::file_name)),
        |s| s.journal_namespace.join(","),
    ),
    opt(
        "journal-text",
        Form::Text("MODE"),
        "how much of a log message is sent: `full`, or `pattern`: without numbers, ids and names",
        |s, v| put(&mut s.journal_text, values::one_of(v, &JOURNAL_TEXTS)),
        |s| name_of(&JOURNAL_TEXTS, &s.journal_text),
    )
    .live(),
    opt(
        "journal-mask-secrets",
        Form::Switch,
        "mask what looks like a password, a key or a token in log messages",
        |s, v| put(&mut s.journal_mask_secrets, values::switch(v)),
        |s| s.journal_mask_secrets.to_string(),
    )
    .live(),
    opt(
        "load-probe",
        Form::Switch,
        "stream the load generator's system calls; for benchmarks only",
        |s, v| put(&mut s.load_probe, values::switch(v)),
        |s| s.load_probe.to_string(),
    )
    .hidden(),
    opt(
        "cores",
        Form::List("N,..."),
        "cores for the agent's threads; empty: the agent chooses",
        |s, v| put(&mut s.cores, values::list(v, |core| values::number(core, 0, 4095))),
        |s| s.cores.iter().map(usize::to_string).collect::<Vec<_>>().join(","),
    ),
    opt(
        "shards",
        Form::Number,
        "worker threads; 0: the agent chooses",
        |s, v| put(&mut s.shards, values::number(v, 0, SHARDS_MAX)),
        |s| s.shards.to_string(),
    ),
    opt(
        "systemd-bus",
        Form::Text("ADDRESS"),
        "bus of the systemd manager, or the path of its own socket; empty: the system's",
        |s, v| put(&mut s.systemd_bus, values::bus(v)),
        |s| s.systemd_bus.clone(),
    ),
    opt(
        "metrics-listen",
        Form::Text("ADDRESS:PORT"),
        "where to serve /metrics, /healthz and /readyz; empty: nowhere",
        |s, v| put(&mut s.metrics_listen, values::listen(v)),
        |s| s.metrics_listen.map_or_else(String::new, |address| address.to_string()),
    ),
    opt(
        "otel-metrics-interval",
        Form::Time,
        "how often the agent's own metrics go to the receiver; 0s: never",
        |s, v| put(&mut s.otel_metrics_interval, values::time_or_never(v, seconds(1), seconds(3600))),
        |s| written(s.otel_metrics_interval),
    )
    .live(),
    opt(
        "otel-headers",
        Form::List("KEY=VALUE,..."),
        "sent with every OTLP request; a file keeps them off the command line",
        |s, v| put(&mut s.otel_headers, values::pairs(v)),
        |s| written_pairs(&s.otel_headers),
    )
    .secret()
    .also(&[shared("OTEL_EXPORTER_OTLP_METRICS_HEADERS"), shared("OTEL_EXPORTER_OTLP_HEADERS")]),
    opt(
        "otel-timeout",
        Form::Time,
        "longest time for one OTLP request",
        |s, v| put(&mut s.otel_timeout, values::time(v, millis(100), seconds(300))),
        |s| written(s.otel_timeout),
    )
    .also(&[shared_ms("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT"), shared_ms("OTEL_EXPORTER_OTLP_TIMEOUT")]),
    opt(
        "otel-service-name",
        Form::Text("NAME"),
        "`service.name` of the agent's own metrics",
        |s, v| put(&mut s.otel_service_name, values::text(v)),
        |s| s.otel_service_name.clone(),
    )
    .also(&[shared("OTEL_SERVICE_NAME")]),
    opt(
        "otel-resource-attributes",
        Form::List("KEY=VALUE,..."),
        "resource attributes of the agent's own metrics",
        |s, v| put(&mut s.otel_resource_attributes, values::pairs(v)),
        |s| written_pairs(&s.otel_resource_attributes),
    )
    .also(&[shared("OTEL_RESOURCE_ATTRIBUTES")]),
    opt(
        "otel-disabled",
        Form::Switch,
        "send nothing to the OTLP receiver",
        |s, v| put(&mut s.otel_disabled, values::switch(v)),
        |s| s.otel_disabled.to_string(),
    )
    .also(&[shared("OTEL_SDK_DISABLED")]),
    opt(
        "shutdown-deadline",
        Form::Time,
        "how long a shutdown may wait for the server",
        |s, v| put(&mut s.shutdown_deadline, values::time(v, Duration::ZERO, seconds(600))),
        |s| written(s.shutdown_deadline),
    ),
    opt(
        "log-level",
        Form::Text("LEVEL"),
        "`off`, `error`, `warn`, `info`, `debug`, `trace`, or directives by module",
        |s, v| put(&mut s.log_level, values::log_filter(v)),
        |s| s.log_level.clone(),
    )
    .live()
    .also(&[shared("TAPIO_LOG")]),
];

#[cfg(test)]
mod tests;
