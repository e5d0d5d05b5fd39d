//! The processes of a run: born on the right CPUs, ended when the run ends.
//!
//! Invariants:
//! - A child is never left behind: dropping it ends it, first kindly, then not.
//! - Every wait has a deadline and ends when the harness is told to stop.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;

use super::{LoadError, pin};

static STOP: AtomicBool = AtomicBool::new(false);

/// Tells the harness to stop at its next wait.
pub(super) fn request_stop() {
    STOP.store(true, Ordering::Relaxed);
}

/// Sleeps, unless the harness is told to stop.
pub(super) fn pause(duration: Duration) -> Result<(), LoadError> {
    let end = Instant::now() + duration;
    loop {
        if STOP.load(Ordering::Relaxed) {
            return Err(LoadError::Interrupted);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

/// A command line to start.
pub(super) struct Start {
    command: Command,
    name: String,
    cpus: Option<Vec<usize>>,
}

impl Start {
    pub(super) fn new(program: impl Display) -> Self {
        let program = program.to_string();
        let mut command = Command::new(&program);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let name = program.rsplit('/').next().unwrap_or(&program).to_owned();
        Self { command, name, cpus: None }
    }

    pub(super) fn arg(mut self, arg: impl Display) -> Self {
        self.command.arg(arg.to_string());
        self
    }

    pub(super) fn args<T: Display>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.command.args(args.into_iter().map(|arg| arg.to_string()));
        self
    }

    /// On which CPUs it runs; where the harness does, unless said.
    pub(super) fn on(mut self, cpus: &[usize]) -> Self {
        self.cpus = Some(cpus.to_vec());
        self
    }

    pub(super) fn stdin_piped(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    pub(super) fn stdout_piped(mut self) -> Self {
        self.command.stdout(Stdio::piped());
        self
    }

    /// Sends standard error to a file, which is shown when the child fails.
    pub(super) fn log(mut self, path: &std::path::Path) -> Result<Self, LoadError> {
        let file = std::fs::File::create(path).map_err(LoadError::io(path.display().to_string()))?;
        self.command.stderr(file);
        Ok(self)
    }

    pub(super) fn spawn(mut self) -> Result<Child, LoadError> {
        let name = self.name;
        let mut start = || {
            self.command.spawn().map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => LoadError::Missing {
                    program: name.clone(),
                    remedy: "scripts/bench --setup installs what the figures need, cargo build --release builds the rest",
                },
                _ => LoadError::io(format!("starting {name}"))(error),
            })
        };
        let inner = match &self.cpus {
            Some(cpus) => pin::started_on(cpus, start)?,
            None => start()?,
        };
        Ok(Child { inner, name })
    }

    /// Runs it to its end; an exit that is not 0 is an error.
    pub(super) fn run(self, limit: Duration) -> Result<(), LoadError> {
        self.spawn()?.expect_success(limit)
    }

    /// Runs it to its end and returns what it wrote; an exit that is not 0 is an error.
    pub(super) fn output(self, limit: Duration) -> Result<String, LoadError> {
        let mut child = self.stdout_piped().spawn()?;
        let text = child.rest_of_output();
        child.expect_success(limit)?;
        Ok(text)
    }
}

/// A running child.
pub(super) struct Child {
    inner: std::process::Child,
    name: String,
}

impl Child {
    pub(super) fn pid(&self) -> u32 {
        self.inner.id()
    }

    /// An error if it has ended.
    pub(super) fn expect_alive(&mut self) -> Result<(), LoadError> {
        match self.inner.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(LoadError::process(&self.name, format!("ended too early, {status}"))),
            Err(error) => Err(LoadError::io(format!("waiting for {}", self.name))(error)),
        }
    }

    pub(super) fn take_stdout(&mut self) -> Option<BufReader<std::process::ChildStdout>> {
        self.inner.stdout.take().map(BufReader::new)
    }

    /// Gives back what [`Self::take_stdout`] took, once nothing buffered is left to read.
    pub(super) fn give_stdout(&mut self, output: BufReader<std::process::ChildStdout>) {
        self.inner.stdout = Some(output.into_inner());
    }

    /// Waits for one line of its output, for example the one that says that it is ready.
    pub(super) fn expect_line(
        &mut self,
        output: &mut BufReader<std::process::ChildStdout>,
    ) -> Result<String, LoadError> {
        let mut line = String::new();
        let read =
            output.read_line(&mut line).map_err(LoadError::io(format!("reading from {}", self.name)))?;
        if read == 0 {
            let status = self.inner.wait().map_err(LoadError::io(format!("waiting for {}", self.name)))?;
            return Err(LoadError::process(&self.name, format!("ended before it was ready, {status}")));
        }
        Ok(line)
    }

    fn rest_of_output(&mut self) -> String {
        let mut text = Vec::new();
        if let Some(mut output) = self.inner.stdout.take() {
            // A torn pipe shows as a text that does not parse.
            let _ = output.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Ends its standard input, waits for its end and reads the JSON that it leaves.
    pub(super) fn finish_json<T: DeserializeOwned>(mut self, limit: Duration) -> Result<T, LoadError> {
        drop(self.inner.stdin.take());
        let text = self.rest_of_output();
        self.expect_success(limit)?;
        let line = text.lines().next_back().unwrap_or_default();
        serde_json::from_str(line)
            .map_err(|error| LoadError::process(&self.name, format!("{error} in its output {line:?}")))
    }

    fn expect_success(&mut self, limit: Duration) -> Result<(), LoadError> {
        match self.wait(limit)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(LoadError::process(&self.name, format!("failed, {status}"))),
            None => Err(LoadError::process(&self.name, format!("still running after {limit:?}"))),
        }
    }

    fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>, LoadError> {
        let end = Instant::now() + limit;
        loop {
            match self.inner.try_wait() {
                Ok(Some(status)) => return Ok(Some(status)),
                Ok(None) if Instant::now() >= end => return Ok(None),
                Ok(None) => pause(Duration::from_millis(5))?,
                Err(error) => return Err(LoadError::io(format!("waiting for {}", self.name))(error)),
            }
        }
    }

    /// Asks it to end and waits for it; its status, or `None` when it had to be killed.
    pub(super) fn terminate(mut self, limit: Duration) -> Result<Option<ExitStatus>, LoadError> {
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    fn signal(&self, signal: Signal) {
        // Not reaped yet, so the number is still its own; it may have ended, which is as good.
        let _ = kill_process(Pid::from_child(&self.inner), signal);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if matches!(self.inner.try_wait(), Ok(Some(_))) {
            return;
        }
        self.signal(Signal::TERM);
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            if matches!(self.inner.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.inner.kill();
        let _ = self.inner.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a program that is not there, one that fails, one that is too slow.
    /// Guarantees: each is an error of its own that names the program.
    #[test]
    fn failures_name_the_program() {
        let missing = Start::new("no-such-program").spawn().err().expect("it is not there");
        assert!(matches!(missing, LoadError::Missing { program, .. } if program == "no-such-program"));
        let failed = Start::new("false").output(Duration::from_secs(5)).expect_err("it fails");
        assert!(failed.to_string().starts_with("false: failed"), "{failed}");
        let slow = Start::new("sleep").arg(30).spawn().expect("it is there");
        assert_eq!(slow.terminate(Duration::from_secs(5)).expect("ends").and_then(|end| end.code()), None);
    }

    /// Scenario: a child started for one CPU.
    /// Guarantees: it runs there and the harness stays where it was.
    #[test]
    fn children_are_pinned() {
        let before = pin::allowed();
        let cpu = before[before.len() - 1];
        let text = Start::new("cat").arg("/proc/self/status").on(&[cpu]).output(Duration::from_secs(5));
        assert!(text.expect("runs").contains(&format!("Cpus_allowed_list:\t{cpu}\n")));
        assert_eq!(pin::allowed(), before);
    }
}
