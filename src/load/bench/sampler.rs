//! What the sampler costs beside many services.
//!
//! Invariants:
//! - The cgroups that it makes are gone when it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Rig;
use super::agent::{Agent, Server};
use super::report::{Measure, Report};
use crate::load::child::pause;
use crate::load::control::Watch;
use crate::load::stats::float;
use crate::load::{LoadError, procfs};

/// The thread that is measured.
const THREAD: &str = "sampler";

/// Cgroups that look like services, in every hierarchy that lets them be made.
pub(super) struct Services(Vec<PathBuf>);

impl Services {
    /// The folders of one of them, one in each hierarchy.
    pub(super) fn of(&self, number: usize) -> impl Iterator<Item = &PathBuf> {
        let name = format!("s{number}.service");
        self.0.iter().filter(move |path| path.ends_with(&name))
    }

    pub(super) fn make(count: usize) -> Result<Self, LoadError> {
        let mut services = Self(Vec::new());
        for point in ["", "unified", "memory", "pids", "cpu", "cpuacct"] {
            let point = Path::new("/sys/fs/cgroup").join(point);
            if !point.join("cgroup.procs").exists() {
                continue;
            }
            let slice = point.join(format!("tapioload{}.slice", std::process::id()));
            let made = |path: &Path| fs::create_dir(path).map_err(LoadError::io(path.display().to_string()));
            made(&slice)?;
            services.0.push(slice.clone());
            // On v2, so that the services have the controllers of their parent; what it has not itself stays away.
            for controller in ["+memory", "+pids", "+cpu", "+io"] {
                let _not_here = fs::write(point.join("cgroup.subtree_control"), controller);
                let _not_there = fs::write(slice.join("cgroup.subtree_control"), controller);
            }
            for number in 0..count {
                let service = slice.join(format!("s{number}.service"));
                made(&service)?;
                services.0.push(service);
            }
        }
        if services.0.is_empty() {
            return Err(LoadError::process("cgroups", "are not mounted at /sys/fs/cgroup"));
        }
        Ok(services)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // What cannot be removed names the process that left it.
            let _left = fs::remove_dir(path);
        }
    }
}

fn thread_ns(agent: &Agent) -> u64 {
    let threads = procfs::cpu_ns_by_thread(agent.pid());
    threads.into_iter().filter(|(name, _)| name.starts_with(THREAD)).map(|(_, nanos)| nanos).sum()
}

/// One run: the CPU time of the thread over some rounds, every ten seconds.
pub(super) fn run(rig: &Rig, count: usize) -> Result<Report, LoadError> {
    let server = Server::start(&rig.place, &rig.program_cpus, None)?;
    let services = Services::make(count)?;
    let agent = Agent::start(&rig.place, &rig.agent_cpus, &server, &rig.extra)?;
    // The first round opens the files, and is not what the others cost.
    pause(Duration::from_secs(5))?;
    let watch = Watch::start()?;
    let (start, cpu) = (Instant::now(), thread_ns(&agent));
    pause(Duration::from_secs(rig.seconds(120)))?;
    let used = Duration::from_nanos(thread_ns(&agent).saturating_sub(cpu)).as_secs_f64();
    let lasted = start.elapsed().as_secs_f64();
    let mut report = Report::new(watch.finish()?);
    report.put(Measure::SamplerPct, used * 100.0 / lasted);
    let row = agent.status()?.ledger.into_iter().find(|row| row.source == THREAD);
    report.put(Measure::SamplerEvents, float(row.map_or(0, |row| row.produced)) / (lasted + 5.0));
    agent.stop()?;
    drop(services);
    server.stop()?;
    Ok(report)
}
