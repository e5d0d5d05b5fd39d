//! The observed programs: real ones under their own load generators, and the worst case.

use std::path::PathBuf;
use std::time::Duration;

use super::Rig;
use super::agent::{free_port, wait_for_port};
use super::report::{Measure, Report};
use crate::load::child::{Child, Start};
use crate::load::control::{Watch, join};
use crate::load::generate::Generated;
use crate::load::stats::float;
use crate::load::storm::Stormed;
use crate::load::{LoadError, procfs};

/// What is observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    /// A loop of getpgid(2), one event a call: nothing can be slowed down more.
    Getpgid,
    /// nginx serving a small file to wrk over kept connections.
    Nginx,
    /// The same with a connection for each request.
    NginxConnections,
    /// redis under redis-benchmark, SET and GET.
    Redis,
    /// A process started and waited for, again and again.
    ForkExec,
}

/// An observed program that is up.
pub(super) struct Running {
    program: Program,
    child: Option<Child>,
    port: u16,
}

impl Running {
    /// Starts it on the CPU of observed programs.
    pub(super) fn start(program: Program, rig: &Rig) -> Result<Self, LoadError> {
        let port = free_port()?;
        let start = match program {
            Program::Getpgid | Program::ForkExec => return Ok(Self { program, child: None, port }),
            Program::Nginx | Program::NginxConnections => nginx(rig, port)?,
            Program::Redis => Start::new("redis-server")
                .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"])
                .arg(port)
                .arg("--dir")
                .arg(rig.place.scratch.display()),
        };
        let log = rig.place.scratch.join("program.log");
        let mut child = start.on(&rig.program_cpus).log(&log)?.spawn()?;
        wait_for_port(&mut child, port)?;
        Ok(Self { program, child: Some(child), port })
    }

    /// One measurement of some seconds, with its control.
    pub(super) fn measure(&self, rig: &Rig, seconds: u64) -> Result<Report, LoadError> {
        let watch = Watch::start()?;
        let cpu = self.child.as_ref().map_or(0, |child| procfs::cpu_ns(child.pid()));
        let (mut calls, mut own_us) = (0, None);
        let (rate, operations) = match self.program {
            Program::Getpgid => {
                let made = getpgid(rig, seconds)?;
                calls = made.calls;
                (made.rate, float(made.calls))
            }
            Program::Nginx => wrk(rig, self.port, seconds, &[])?,
            Program::NginxConnections => wrk(rig, self.port, seconds, &["-H", "Connection: close"])?,
            Program::Redis => redis(rig, self.port, seconds)?,
            Program::ForkExec => {
                let stormed = storm(rig, seconds)?;
                own_us = Some(stormed.us_per_process);
                (stormed.rate, float(stormed.processes))
            }
        };
        let mut report = Report::new(watch.finish()?);
        report.calls = calls;
        report.put(Measure::Operations, rate);
        let of_child = self.child.as_ref().map(|child| {
            let used = procfs::cpu_ns(child.pid()).saturating_sub(cpu);
            float(used) / 1e3 / operations.max(1.0)
        });
        if let Some(us) = of_child.or(own_us) {
            report.put(Measure::OperationUs, us);
        }
        Ok(report)
    }
}

/// One process, one file of 1 KiB in memory's reach, nothing logged.
fn nginx(rig: &Rig, port: u16) -> Result<Start, LoadError> {
    let folder = rig.place.scratch.join("nginx");
    std::fs::create_dir_all(&folder).map_err(LoadError::io(folder.display().to_string()))?;
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(LoadError::io(path.display().to_string()))
    };
    write("index.html", "x".repeat(1024))?;
    let here = folder.display();
    write(
        "nginx.conf",
        format!(
            "daemon off; master_process off; error_log stderr crit; pid {here}/nginx.pid;\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {here}/b;\n\
             proxy_temp_path {here}/p; fastcgi_temp_path {here}/f; uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;\n\
             open_file_cache max=10; server {{ listen 127.0.0.1:{port}; root {here}; }} }}\n"
        ),
    )?;
    let program = ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/local/bin/nginx"]
        .into_iter()
        .find(|path| PathBuf::from(path).exists())
        .unwrap_or("nginx");
    // -e: without it nginx opens the distribution's log before it reads its configuration.
    Ok(Start::new(program).args(["-e", "stderr", "-c"]).arg(folder.join("nginx.conf").display()))
}

fn unreadable(program: &str, text: &str) -> LoadError {
    LoadError::process(program, format!("its output has no result: {text:?}"))
}

/// Operations a second, and how many there were.
type Rate = (f64, f64);

fn wrk(rig: &Rig, port: u16, seconds: u64, extra: &[&str]) -> Result<Rate, LoadError> {
    let text = Start::new("wrk")
        .args(["-t", "1", "-c", "32", "-d"])
        .arg(format_args!("{seconds}s"))
        .args(extra)
        .arg(format_args!("http://127.0.0.1:{port}/index.html"))
        .on(&rig.agent_cpus)
        .output(Duration::from_secs(seconds + 30))?;
    wrk_result(&text).ok_or_else(|| unreadable("wrk", &text))
}

fn wrk_result(text: &str) -> Option<Rate> {
    if text.contains("Non-2xx") {
        return None;
    }
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"))?.trim().parse().ok()?;
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())?;
    Some((rate, requests))
}

/// Requests of each kind a second of measurement: about what one core does, so that a run lasts about as
/// long as it should; a fixed number, since redis-benchmark knows no other measure.
const REDIS_REQUESTS: u64 = 50_000;

fn redis(rig: &Rig, port: u16, seconds: u64) -> Result<Rate, LoadError> {
    let requests = REDIS_REQUESTS * seconds;
    let text = Start::new("redis-benchmark")
        .args(["-h", "127.0.0.1", "-c", "32", "-t", "set,get", "--csv", "-p"])
        .arg(port)
        .arg("-n")
        .arg(requests)
        .on(&rig.agent_cpus)
        .output(Duration::from_secs(seconds * 10 + 30))?;
    let rates = redis_rates(&text);
    match rates.as_slice() {
        // Both kinds have the same number of requests, so the rate of all is the harmonic mean.
        [set, get] => Ok((2.0 / (1.0 / set + 1.0 / get), float(requests * 2))),
        _ => Err(unreadable("redis-benchmark", &text)),
    }
}

fn redis_rates(text: &str) -> Vec<f64> {
    text.lines()
        .filter_map(|line| {
            let mut cells = line.split(',').map(|cell| cell.trim_matches('"'));
            matches!(cells.next()?, "SET" | "GET").then(|| cells.next()?.parse().ok())?
        })
        .collect()
}

fn getpgid(rig: &Rig, seconds: u64) -> Result<Generated, LoadError> {
    let text = rig
        .own()
        .args(["generate", "--rate", "0", "--cpu"])
        .arg(join(&rig.program_cpus))
        .arg("--seconds")
        .arg(seconds)
        .output(Duration::from_secs(seconds * 2 + 30))?;
    serde_json::from_str(&text).map_err(|_| unreadable("generator", &text))
}

fn storm(rig: &Rig, seconds: u64) -> Result<Stormed, LoadError> {
    let text = rig
        .own()
        .args(["storm", "--cpu"])
        .arg(rig.program_cpus.first().copied().unwrap_or(0))
        .arg("--seconds")
        .arg(seconds)
        .output(Duration::from_secs(seconds * 2 + 30))?;
    serde_json::from_str(&text).map_err(|_| unreadable("storm", &text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: what wrk and redis-benchmark print, and wrk with failed requests.
    /// Guarantees: rates and counts are read; a run with errors is no result.
    #[test]
    fn reads_their_output() {
        let text = "Running 3s test @ http://127.0.0.1:1/\n  1 threads and 32 connections\n  Thread Stats   Avg\n  \
                    174325 requests in 3.00s, 201.81MB read\nRequests/sec:  58102.46\nTransfer/sec:     67.26MB\n";
        assert_eq!(wrk_result(text), Some((58102.46, 174_325.0)));
        assert_eq!(wrk_result(&format!("{text}  Non-2xx or 3xx responses: 3\n")), None);
        let csv = "\"test\",\"rps\",\"avg_latency_ms\"\n\"SET\",\"100000.00\",\"0.1\"\n\"GET\",\"50000.50\",\"0.1\"\n";
        assert_eq!(redis_rates(csv), [100_000.0, 50_000.5]);
    }
}
