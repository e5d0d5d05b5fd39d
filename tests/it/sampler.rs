//! The sampler against this machine's own cgroups and file systems.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::process::{Signal, geteuid};
use serde_json::Value;

use super::config::agent;
use super::control::Running;
use super::server::client::Server;
use super::skipped;

/// A service's cgroup with a process that sleeps; removed when dropped.
struct Service {
    slice: PathBuf,
    directory: PathBuf,
    child: Child,
}

impl Service {
    fn start(point: &Path) -> std::io::Result<Self> {
        let slice = point.join(format!("tapiotest{}.slice", std::process::id()));
        let directory = slice.join("sampled.service");
        fs::create_dir_all(&directory)?;
        let child = Command::new("sleep").arg("60").spawn()?;
        fs::write(directory.join("cgroup.procs"), child.id().to_string())?;
        Ok(Self { slice, directory, child })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
        for path in [&self.directory, &self.slice] {
            // The kernel lets a process go a moment after it has ended.
            for _ in 0..100 {
                if fs::remove_dir(path).is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}

/// Asks until some events of a kind fit.
fn wait_for(server: &Server, kind: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let mut events = Value::Null;
    for _ in 0..300 {
        events = server.json(&format!("/api/v1/events?kind={kind}&limit=1000"));
        if let Some(event) = events.as_array().unwrap().iter().find(|event| fits(event)) {
            return event.clone();
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("no such {kind}: {events}");
}

/// Scenario: an agent with nothing but the sampler, and a service's cgroup with one process on each hierarchy.
/// Guarantees: the service, the file system of the temporary folder and the host are sampled with numbers that are
/// theirs; the service is named; the ledger closes.
#[test]
fn live_usage_of_a_service_arrives() {
    let test = "live_usage_of_a_service_arrives";
    if !geteuid().is_root() {
        return skipped(test, "needs root, to make cgroups");
    }
    let points = ["", "unified", "memory"].map(|name| Path::new("/sys/fs/cgroup").join(name));
    let services: Vec<Service> = points
        .iter()
        .filter(|point| point.join("cgroup.procs").exists())
        .filter_map(|point| Service::start(point).ok())
        .collect();
    if services.is_empty() {
        return skipped(test, "no cgroup hierarchy at /sys/fs/cgroup in which one can be made");
    }
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("server"), &[]);
    let mut command = agent();
    command
        .args([
            "--enable-sampler",
            "--enable-ebpf=false",
            "--enable-journald=false",
            "--enable-systemd=false",
        ])
        .args(["--enable-k8s=false", "--sampler-interval=1s", "--flush-interval=20ms"])
        .arg(format!("--socket={}", folder.path().join("collector.sock").display()))
        .arg(format!("--state-dir={}", folder.path().join("state").display()))
        .arg(format!("--server={}", server.grpc));
    let mut running = Running::start(&mut command);
    running.line_with("runs");
    let usage = wait_for(&server, "cgroup_usage", |event| event["entity"]["name"] == "sampled.service");
    // The processes have no more of them than they were started with.
    let open =
        |service: &Service| fs::read_dir(format!("/proc/{}/fd", service.child.id())).unwrap().count() as u64;
    let open: Vec<u64> = services.iter().map(open).collect();
    assert!(open.contains(&usage["slots"]["open_files"].as_u64().unwrap()), "{open:?}: {usage}");
    assert!(usage["slots"]["open_files_limit"].as_u64().unwrap() >= open[0], "{usage}");
    assert!(usage["slots"]["cpu_us"].as_u64().unwrap() < 10_000_000, "{usage}");
    let device = fs::metadata(folder.path()).unwrap().dev();
    let device = u64::from(rustix::fs::major(device)) << 20 | u64::from(rustix::fs::minor(device));
    let space = wait_for(&server, "filesystem_usage", |event| event["slots"]["device"] == device);
    let number = |name: &str| space["slots"][name].as_u64().unwrap();
    assert!(number("available_bytes") <= number("bytes") && number("bytes") > 0, "{space}");
    let node = wait_for(&server, "node_usage", |_| true);
    assert!(node["slots"]["tasks"].as_u64().unwrap() > 1, "{node}");
    running.send(Signal::TERM);
    let last = running.line_with("Status: Events=");
    assert!(last.trim_end().ends_with("lost=0, ledger=closed"), "{last}");
    assert_eq!(running.wait(), Some(0));
}
