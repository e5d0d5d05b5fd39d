//! What the agent was asked to do: defaults, file, environment and flags, merged and checked once.
//!
//! `options` is the one table of settings, `values` reads single values, `file` finds settings in TOML with their
//! positions, `load` merges the layers and says what a reload changes.
//!
//! Invariants:
//! - [`Settings`] is what the rest of the agent sees: no wish of the user reaches it any other way.
//! - Every value has a bound, checked before anything starts.

mod file;
mod load;
mod options;
mod values;

pub use load::{Args, Change, ConfigError, Environment, load, reload};
pub use options::{Form, OPTIONS, Opt};
pub use values::url;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::egress::tls;
use crate::event::Source;

/// Whether a collector runs, and whether somebody asked for it by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// On by default: where it cannot run, it is reported and the others go on.
    Default,
    /// Asked for by name: where it cannot run, the agent does not start.
    On,
    /// Off.
    Off,
}

/// How much is made of the events (`--correlation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Correlation {
    /// Trace ids, facts and incidents.
    Semantic,
    /// Trace ids and columns only.
    Basic,
}

/// What the drain timer optimises for under load (`--latency`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latency {
    /// A pass every millisecond at most: the least CPU an event.
    Normal,
    /// A pass every 100 microseconds at most.
    Low,
}

/// A file of `--certificates`, written as `[UNIT:]FILE`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Certificate {
    /// The file, from the root.
    pub path: PathBuf,
    /// The unit that uses it; empty where nobody said.
    pub unit: String,
}

impl std::fmt::Display for Certificate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let colon = if self.unit.is_empty() { "" } else { ":" };
        write!(formatter, "{}{colon}{}", self.unit, self.path.display())
    }
}

/// How much of a Kubernetes cluster an agent watches (`--k8s-scope`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterScope {
    /// Its own node, and the whole cluster while it holds the Lease.
    Elect,
    /// Its own node.
    Node,
    /// The whole cluster.
    All,
}

/// The checked settings. Field names are those of the flags and of the configuration file.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `host:port` of tapio-server, or a URL.
    pub server: String,
    /// `host:port` of an OTLP receiver, or a URL.
    pub otel_endpoint: String,
    /// By [`Source`] number.
    pub collectors: [Switch; Source::ALL.len()],
    /// Events from which a batch does not wait for the flush interval, only a few milliseconds for more; 1 to 65,536.
    pub buffer_size: usize,
    /// Longest time an event waits in a batch; 1 ms to 1 min.
    pub flush_interval: Duration,
    /// How much is made of the events.
    pub correlation: Correlation,
    /// Plain text to the server and the OTLP receiver.
    pub grpc_insecure: bool,
    /// Where each revision of an incident is appended as a line; `-` is the standard output.
    pub output: Option<PathBuf>,
    /// A folder of rules that add to the shipped ones, or replace them by name.
    pub rules: Option<PathBuf>,
    /// Certificates that the server's must be signed by; none: the system's.
    pub tls_ca: Option<PathBuf>,
    /// The agent's own certificate chain, for servers that want to know who sends.
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    pub tls_key: Option<PathBuf>,
    /// The Unix socket of `status` and its siblings.
    pub socket: PathBuf,
    /// Where the agent keeps its identity and epoch.
    pub state_dir: PathBuf,
    /// Where the cluster is described: files, separated by colons; empty: the user's, or the pod's service account.
    pub kubeconfig: String,
    /// The context of the kubeconfig; empty: its current one.
    pub context: String,
    /// The name of this node in Kubernetes; empty: the host's name.
    pub node_name: String,
    /// How much of the cluster is watched.
    pub k8s_scope: ClusterScope,
    /// How often usage is read; 1 s to 5 min. What is near a limit is looked at every second.
    pub sampler_interval: Duration,
    /// Files of certificates whose end is foretold.
    pub certificates: Vec<Certificate>,
    /// All BPF ring memory together, bytes; 64 KiB to 4 GiB.
    pub ring_bytes: u64,
    /// Batches kept for resending until they are acked, bytes; 1 MiB to 1 GiB.
    pub window_bytes: u64,
    /// Where every batch is written; nowhere unless asked for.
    pub record: Option<PathBuf>,
    /// Disk that the last batches may take in the state directory, bytes; 0: none.
    pub flight_recorder_bytes: u64,
    /// What the drain timer optimises for.
    pub latency: Latency,
    /// Names of BPF probes that stay off.
    pub probes_off: Vec<String>,
    /// The kernel-side filters.
    pub filters: Filters,
    /// How far back the first start reads what a source still has; `None`: not at all.
    pub since: Option<Since>,
    /// Where the files of the journal are, if not where this host's journald keeps them.
    pub journal_directory: Option<PathBuf>,
    /// Namespaces of the journal to read, too.
    pub journal_namespace: Vec<String>,
    /// How much of a log message is sent.
    pub journal_text: JournalText,
    /// What looks like a password, a key or a token in a log message is masked.
    pub journal_mask_secrets: bool,
    /// The bench-only `load` probe.
    pub load_probe: bool,
    /// Cores to pin the agent's threads to; empty: placement chooses.
    pub cores: Vec<usize>,
    /// Worker threads; 0: placement chooses.
    pub shards: usize,
    /// Where the systemd manager is: an address of a bus, or the path of a manager's own socket; empty: the system's.
    pub systemd_bus: String,
    /// Where `/metrics` is served in Prometheus form; off unless asked for.
    pub metrics_listen: Option<SocketAddr>,
    /// How often the agent's own metrics go to `otel_endpoint`; zero: never.
    pub otel_metrics_interval: Duration,
    /// Sent with every OTLP request, for example for authentication.
    pub otel_headers: Vec<(String, String)>,
    /// Longest time for one OTLP request; 100 ms to 5 min.
    pub otel_timeout: Duration,
    /// `service.name` of the agent's own metrics.
    pub otel_service_name: String,
    /// Resource attributes of the agent's own metrics.
    pub otel_resource_attributes: Vec<(String, String)>,
    /// Nothing goes to `otel_endpoint`.
    pub otel_disabled: bool,
    /// How long a shutdown may drain.
    pub shutdown_deadline: Duration,
    /// What is logged: a level, or directives of `tracing_subscriber::EnvFilter`.
    pub log_level: String,
}

/// From when on (`--since`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// So long before the start.
    Ago(Duration),
    /// A point in time.
    At(std::time::SystemTime),
}

impl Since {
    /// Microseconds since 1970, if the agent starts at `now`.
    #[must_use]
    pub fn unix_us(self, now: std::time::SystemTime) -> u64 {
        let at = match self {
            Self::Ago(time) => now.checked_sub(time).unwrap_or(std::time::UNIX_EPOCH),
            Self::At(at) => at,
        };
        let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }
}

/// How much of a log message leaves the host (`--journal-text`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalText {
    /// All of it.
    Full,
    /// What it is without its numbers, ids and names.
    Pattern,
}

/// What the kernel side filters and aggregates, so that ruinous rates never reach a ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filters {
    /// Stream connects that succeeded, not only those that failed.
    pub connect_success: bool,
    /// Retransmits of established connections streamed a second, per cgroup, and as many resets sent and resets
    /// received; the rest is counted.
    pub retransmits_per_second: u32,
    /// A block request slower than this is an event; the rest is counted.
    pub block_latency: Duration,
    /// Failed system calls streamed a second, per cgroup and errno; the rest is counted.
    pub errnos_per_second: u32,
    /// What looking for failed system calls may cost of the CPU time of the host, in thousandths of a percent; 0: the
    /// probe is off, 100,000: it looks always. While it looks, every system call of the host pays about 0.1 us.
    pub errno_budget: u32,
    /// Stream every fork, not only execs and exits.
    pub forks: bool,
    /// Stream exits with status 0, not only those that failed.
    pub clean_exits: bool,
}

impl Default for Filters {
    fn default() -> Self {
        Self {
            connect_success: true,
            retransmits_per_second: 100,
            block_latency: Duration::from_millis(100),
            errnos_per_second: 10,
            errno_budget: 200,
            forks: true,
            clean_exits: true,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            server: "localhost:9090".into(),
            otel_endpoint: "localhost:4317".into(),
            collectors: [Switch::Default; Source::ALL.len()],
            buffer_size: 1000,
            flush_interval: Duration::from_secs(1),
            correlation: Correlation::Semantic,
            grpc_insecure: true,
            output: None,
            rules: None,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            socket: "/run/tapio/collector.sock".into(),
            state_dir: "/var/lib/tapio".into(),
            kubeconfig: String::new(),
            context: String::new(),
            node_name: String::new(),
            k8s_scope: ClusterScope::Elect,
            sampler_interval: Duration::from_secs(10),
            certificates: Vec::new(),
            ring_bytes: 16 << 20,
            window_bytes: 16 << 20,
            record: None,
            flight_recorder_bytes: 64 << 20,
            latency: Latency::Normal,
            probes_off: Vec::new(),
            filters: Filters::default(),
            since: None,
            journal_directory: None,
            journal_namespace: Vec::new(),
            journal_text: JournalText::Full,
            journal_mask_secrets: true,
            load_probe: false,
            cores: Vec::new(),
            shards: 0,
            systemd_bus: String::new(),
            metrics_listen: None,
            otel_metrics_interval: Duration::ZERO,
            otel_headers: Vec::new(),
            otel_timeout: Duration::from_secs(10),
            otel_service_name: "tapio-collector".into(),
            otel_resource_attributes: Vec::new(),
            otel_disabled: false,
            shutdown_deadline: Duration::from_secs(5),
            log_level: "info".into(),
        }
    }
}

impl Settings {
    /// The files of TLS to the server.
    #[must_use]
    pub fn tls_files(&self) -> tls::Files {
        tls::Files { ca: self.tls_ca.clone(), cert: self.tls_cert.clone(), key: self.tls_key.clone() }
    }

    /// Whether a probe stays off because somebody wants it so, or because nobody asked for it.
    #[must_use]
    pub fn is_probe_off(&self, name: &str) -> bool {
        self.probes_off.iter().any(|off| off == name)
            || (name == "load" && !self.load_probe)
            || (name == "errno" && self.filters.errno_budget == 0)
    }
}
