//! The disk's own limit: what sequential writes and fdatasync of the same sizes reach with nothing else.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::LoadError;
use super::stats::float;

/// What the disk did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disk {
    /// Bytes a second that were on the disk.
    pub(super) bytes_per_s: f64,
    /// CPU time a byte.
    pub(super) cpu_s_per_byte: f64,
}

/// Appends `chunk` bytes and syncs, again and again, for a time.
pub(super) fn limit(folder: &Path, chunk: usize, duration: Duration) -> Result<Disk, LoadError> {
    let path = folder.join("disk-limit");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&path)
        .map_err(LoadError::io(path.display().to_string()))?;
    // Not zeros, so that nothing below can shorten them.
    let data: Vec<u8> = (0..chunk).map(|index| u8::try_from(index * 31 % 251).unwrap_or(0)).collect();
    let cpu_start = cpu_s();
    let start = Instant::now();
    let mut bytes = 0;
    while start.elapsed() < duration {
        file.write_all(&data)
            .and_then(|()| file.sync_data())
            .map_err(LoadError::io("writing to the disk"))?;
        bytes += u64::try_from(chunk).unwrap_or(0);
    }
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_s() - cpu_start);
    fs::remove_file(&path).map_err(LoadError::io(path.display().to_string()))?;
    Ok(Disk { bytes_per_s: float(bytes) / seconds, cpu_s_per_byte: cpu / float(bytes.max(1)) })
}

fn cpu_s() -> f64 {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default().as_secs_f64()
}

/// Bytes of all files below a folder.
pub(super) fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}
