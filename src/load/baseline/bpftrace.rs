//! Baseline (c): what Debian offers for the same question - bpftrace, one printf a call of the same tracepoint.

use std::io::{BufReader, Read};
use std::path::Path;
use std::process::ChildStdout;
use std::time::Duration;

use crate::load::child::{Child, Start};
use crate::load::{LoadError, pin};

const PROGRAM: &str =
    "tracepoint:syscalls:sys_enter_getpgid { printf(\"%llu %d %d %llu\\n\", nsecs, pid, args->pid, cgroup) }";

/// A running bpftrace.
pub(in crate::load) struct Bpftrace {
    child: Child,
    lines: std::thread::JoinHandle<u64>,
}

impl Bpftrace {
    /// Starts it on `cpus` and waits until it is attached; its output is counted on `reader_cpus`, its complaints
    /// go to a file in `scratch`.
    pub(in crate::load) fn start(
        cpus: &[usize],
        reader_cpus: &[usize],
        scratch: &Path,
    ) -> Result<Self, LoadError> {
        mount_tracefs()?;
        let start = Start::new("bpftrace").arg("-e").arg(PROGRAM).on(cpus).stdout_piped();
        let mut child = start.log(&scratch.join("bpftrace.log"))?.spawn()?;
        let mut output =
            child.take_stdout().ok_or_else(|| LoadError::process("bpftrace", "has no output"))?;
        let first = child.expect_line(&mut output)?;
        if !first.starts_with("Attaching") {
            return Err(LoadError::process("bpftrace", first));
        }
        let reader_cpus = reader_cpus.to_vec();
        let lines = std::thread::spawn(move || {
            // Where pinning is refused the count is still right.
            let _ = pin::pin_current(&reader_cpus);
            count_lines(output)
        });
        // It says that it attaches before it has.
        super::super::child::pause(Duration::from_secs(1))?;
        Ok(Self { child, lines })
    }

    pub(in crate::load) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Ends it; the calls it printed.
    pub(in crate::load) fn finish(self) -> Result<u64, LoadError> {
        self.child.terminate(Duration::from_secs(10))?;
        self.lines.join().map_err(|_| LoadError::process("bpftrace", "its reader panicked"))
    }
}

fn count_lines(mut output: BufReader<ChildStdout>) -> u64 {
    let mut chunk = vec![0; 1 << 16];
    let mut calls = 0;
    let mut at_start = true;
    while let Ok(read @ 1..) = output.read(&mut chunk) {
        calls += count_calls(&chunk[..read], &mut at_start);
    }
    calls
}

/// Lines that start with a digit: calls. Others are "Lost 42 events" and blank ones.
fn count_calls(chunk: &[u8], at_start: &mut bool) -> u64 {
    let mut calls = 0;
    for &byte in chunk {
        calls += u64::from(*at_start && byte.is_ascii_digit());
        *at_start = byte == b'\n';
    }
    calls
}

/// bpftrace looks up tracepoints in tracefs; some machines do not mount it.
fn mount_tracefs() -> Result<(), LoadError> {
    if Path::new("/sys/kernel/tracing/events").exists() {
        return Ok(());
    }
    Start::new("mount")
        .args(["-t", "tracefs", "tracefs", "/sys/kernel/tracing"])
        .output(Duration::from_secs(5))
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: output in two chunks, cut inside a line, with a report of loss between.
    /// Guarantees: every call is counted once and the report is not a call.
    #[test]
    fn counts_calls_across_chunks() {
        let mut at_start = true;
        let first = count_calls(b"123 4 0 1\n12", &mut at_start);
        assert_eq!(first + count_calls(b"4 4 0 1\nLost 5 events\n\n125 4 0 1\n", &mut at_start), 3);
    }
}
