//! Reading a journal: all of one, by our own reader, libsystemd and journalctl; and its tail, as it grows.
//!
//! Invariants:
//! - Our own reader and libsystemd touch every byte of every field, and the run fails unless they saw the same.
//! - journalctl writes to `/dev/null`, which flatters it, and reads the last entries only, since it is slow.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::report::{Measure, Report};
use super::{Rig, progress};
use crate::load::baseline::journal::{LIBSYSTEMD, Read};
use crate::load::child::Start;
use crate::load::control::Watch;
use crate::load::stats::float;
use crate::load::{LoadError, procfs};

/// Writes journal files from the export format.
const REMOTE: &str = "/lib/systemd/systemd-journal-remote";
/// Entries of the journal that is read.
const ENTRIES: u64 = 400_000;
/// How many of them journalctl reads.
const JOURNALCTL_ENTRIES: u64 = 20_000;
/// How long anything here may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Own,
    Libsystemd,
    Export,
    Json,
}

impl Side {
    /// All of them, our own first.
    pub(super) const ALL: [Self; 4] = [Self::Own, Self::Libsystemd, Self::Export, Self::Json];

    /// Its name in a line.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Own => "our own reader",
            Self::Libsystemd => "libsystemd, sd_journal_next and enumerate_data",
            Self::Export => "journalctl -o export",
            Self::Json => "journalctl -o json",
        }
    }

    /// What its details start with.
    pub(super) const fn prefix(self) -> &'static str {
        match self {
            Self::Own => "",
            Self::Libsystemd => "libsystemd_",
            Self::Export => "export_",
            Self::Json => "json_",
        }
    }
}

/// A journal to read, and what reads it.
#[derive(Debug)]
pub(super) struct Backfill {
    directory: PathBuf,
    /// The compiled baseline, where its headers are here.
    libsystemd: Option<PathBuf>,
    /// What our own reader saw last.
    seen: Option<Read>,
}

impl Backfill {
    /// Makes the journal, once for this machine, and the baseline.
    pub(super) fn prepare(rig: &Rig) -> Result<Self, LoadError> {
        let entries = if rig.quick { ENTRIES / 10 } else { ENTRIES };
        let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
        let directory = home.join(format!(".cache/tapio/journal/{entries}-v1"));
        if !directory.exists() {
            write_journal(&directory, entries)?;
        }
        let libsystemd = compile(&rig.place.scratch)
            .inspect_err(|error| progress(format_args!("  without libsystemd (libsystemd-dev): {error}")))
            .ok();
        Ok(Self { directory, libsystemd, seen: None })
    }

    /// Who can read here.
    pub(super) fn sides(&self) -> Vec<Side> {
        let here = |side: &Side| *side != Side::Libsystemd || self.libsystemd.is_some();
        Side::ALL.into_iter().filter(here).collect()
    }

    /// One run of one side.
    pub(super) fn run(&mut self, rig: &Rig, side: Side) -> Result<Report, LoadError> {
        let directory = self.directory.display();
        let watch = Watch::start()?;
        let (entries, cpu_s, read) = match side {
            Side::Own => {
                let start = rig.own().args(["baseline", "journal"]).arg(directory);
                let read = parse(&start.on(&rig.agent_cpus).output(LIMIT)?)?;
                self.seen = Some(read);
                (read.entries, read.cpu_s, Some(read))
            }
            Side::Libsystemd => {
                let program = self.libsystemd.as_deref().unwrap_or(Path::new("libsystemd"));
                let start = Start::new(program.display()).arg(directory).on(&rig.agent_cpus);
                let read = parse(&start.output(LIMIT)?)?;
                (read.entries, read.cpu_s, Some(read))
            }
            Side::Export | Side::Json => {
                let output = if side == Side::Json { "--output=json" } else { "--output=export" };
                let before = procfs::waited_s();
                Start::new("journalctl")
                    .args(["--quiet", "--no-pager", "--all", output])
                    .arg(format_args!("--lines={JOURNALCTL_ENTRIES}"))
                    .arg(format_args!("--directory={directory}"))
                    .on(&rig.agent_cpus)
                    .run(LIMIT)?;
                (JOURNALCTL_ENTRIES, procfs::waited_s() - before, None)
            }
        };
        let mut report = Report::new(watch.finish()?);
        report.calls = entries;
        report.put(Measure::EntryUs, cpu_s * 1e6 / float(entries.max(1)));
        report.put(Measure::EntriesPerS, float(entries) / cpu_s.max(1e-9));
        if let Some(read) = read {
            report.put(Measure::FieldBytes, float(read.bytes));
            report.lost = read.gaps;
            let other = self.seen.filter(|seen| !seen.agrees(&read));
            report.ledger = other.map(|seen| format!("our own reader saw {seen:?}, libsystemd {read:?}"));
        }
        Ok(report)
    }
}

fn parse(text: &str) -> Result<Read, LoadError> {
    serde_json::from_str(text.trim())
        .map_err(|error| LoadError::process("journal reader", format!("{error} in its output {text:?}")))
}

/// Compiles the baseline.
fn compile(scratch: &Path) -> Result<PathBuf, LoadError> {
    let (source, program) = (scratch.join("libsystemd.c"), scratch.join("libsystemd"));
    std::fs::write(&source, LIBSYSTEMD).map_err(LoadError::io(source.display().to_string()))?;
    let start = Start::new("cc").args(["-O2", "-o"]).arg(program.display()).arg(source.display());
    start.arg("-lsystemd").output(Duration::from_secs(60))?;
    Ok(program)
}

/// Writes a journal of so many entries of twenty fields, as services write them.
fn write_journal(directory: &Path, entries: u64) -> Result<(), LoadError> {
    progress(format_args!("  writing a journal of {entries} entries to {}", directory.display()));
    let parts = directory.with_extension(format!("part-{}", std::process::id()));
    std::fs::create_dir_all(&parts).map_err(LoadError::io(parts.display().to_string()))?;
    let output = format!("--output={}", parts.join("system.journal").display());
    let mut remote = std::process::Command::new(REMOTE)
        .args([output.as_str(), "--compress=yes", "-"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .map_err(|_| LoadError::Missing {
            program: "systemd-journal-remote".into(),
            remedy: "scripts/setup --bench installs it",
        })?;
    if let Some(input) = remote.stdin.take() {
        let mut input = BufWriter::new(input);
        let written = (0..entries).try_for_each(|index| write_entry(&mut input, index));
        written.and_then(|()| input.flush()).map_err(LoadError::io("writing to systemd-journal-remote"))?;
    }
    let status = remote.wait().map_err(LoadError::io("waiting for systemd-journal-remote"))?;
    if !status.success() {
        return Err(LoadError::process("systemd-journal-remote", format!("failed, {status}")));
    }
    std::fs::rename(&parts, directory).map_err(LoadError::io(directory.display().to_string()))
}

fn write_entry(out: &mut impl Write, index: u64) -> std::io::Result<()> {
    let unit =
        ["web", "database", "cron", "queue", "auth", "cache", "proxy", "mail"][(index * 7 % 8) as usize];
    let (time, pid, owner) = (1_700_000_000_000_000 + index * 50, 1000 + index * 13 % 97, index % 4 * 1000);
    let (served, status, port) = (index * 7919 % 9973, 200 + index % 5, 8000 + index % 8);
    writeln!(out, "__REALTIME_TIMESTAMP={time}\n__MONOTONIC_TIMESTAMP={}", 1_000_000 + index * 50)?;
    writeln!(out, "_BOOT_ID=1234567890abcdef1234567890abcdef")?;
    writeln!(out, "MESSAGE=request {index} from 10.0.0.{} served in {served} us with {status}", index % 256)?;
    writeln!(out, "PRIORITY={}\nSYSLOG_IDENTIFIER={unit}\nSYSLOG_FACILITY=3\n_TRANSPORT=journal", index % 8)?;
    writeln!(out, "_PID={pid}\n_UID={owner}\n_GID={owner}\n_COMM={unit}\n_EXE=/usr/bin/{unit}")?;
    writeln!(out, "_CMDLINE=/usr/bin/{unit} --serve --port {port}\n_CAP_EFFECTIVE=0")?;
    writeln!(out, "_SYSTEMD_CGROUP=/system.slice/{unit}.service\n_SYSTEMD_UNIT={unit}.service")?;
    writeln!(out, "_SYSTEMD_SLICE=system.slice\n_SYSTEMD_INVOCATION_ID={:032x}", index * 7 % 8)?;
    writeln!(out, "_MACHINE_ID=0123456789abcdef0123456789abcdef\n_HOSTNAME=node-1")?;
    writeln!(out, "_SOURCE_REALTIME_TIMESTAMP={}\n", time - 3)
}
