//! Who is sending: the boot, the host, the agent, and the epoch that numbers its batches.
//!
//! Invariants:
//! - An epoch is larger than that of every earlier start that could store it, and than the wall clock of every
//!   earlier start that could not, so the two numberings never meet.
//! - A state directory that cannot be written costs one notice, never the start.
//! - A file of the state directory is whole or absent: written aside, synced, then put in place.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::trace;

/// Tells the hash of the machine id from others.
const TAG_MACHINE: u64 = 7;

/// Epochs from here on are not from us.
const EPOCH_MAX: u64 = 1 << 62;

/// Who is sending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Names the boot.
    pub boot_id: [u8; 16],
    /// As `hostname` says.
    pub host_name: String,
    /// Names the agent, over restarts.
    pub agent_id: [u8; 16],
    /// Names this start: larger is later.
    pub epoch: u64,
    /// What did not work and what follows from it; to be logged once.
    pub notice: Option<String>,
}

/// Why the agent cannot say who it is. All of these stop the start: a sender without an identity would have its
/// batches mistaken for another's.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The kernel does not tell the boot.
    #[error("cannot read the boot id from {path}: {source}; mount /proc")]
    BootId {
        /// Where it should be.
        path: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Neither source of an agent id works.
    #[error(
        "no agent id: {state} cannot keep one ({source}) and /etc/machine-id holds none; \
         make the state directory writable or run systemd-machine-id-setup"
    )]
    AgentId {
        /// The state directory.
        state: String,
        /// Why it cannot.
        source: io::Error,
    },
}

impl Host {
    /// Finds out who is sending, and stores what the next start must know.
    ///
    /// # Errors
    /// [`HostError`] when the boot or the agent has no id.
    pub fn identify(state_dir: &Path) -> Result<Self, HostError> {
        let boot_id = boot_id()?;
        let stored_id = fs::create_dir_all(state_dir).and_then(|()| stored_agent_id(state_dir));
        let stored_epoch = next_epoch(state_dir, clock_epoch());
        let (epoch, epoch_error) = stored_epoch;
        let (agent_id, id_error) = match stored_id {
            Ok(id) => (id, None),
            Err(error) => match machine_id(Path::new("/etc/machine-id")) {
                Some(id) => (id, Some(error)),
                None => {
                    return Err(HostError::AgentId { state: state_dir.display().to_string(), source: error });
                }
            },
        };
        let notice = id_error.or(epoch_error).map(|error| {
            format!(
                "cannot keep state in {}: {error}; the epoch comes from the wall clock, so batches may be taken \
                 for old ones if it is set back; make the directory writable or choose another with --state-dir",
                state_dir.display()
            )
        });
        Ok(Self { boot_id, host_name: host_name(), agent_id, epoch, notice })
    }
}

/// The id of this boot.
///
/// # Errors
/// [`HostError::BootId`] when the kernel does not tell.
pub fn boot_id() -> Result<[u8; 16], HostError> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path).map_err(|source| HostError::BootId { path, source })?;
    let invalid = || HostError::BootId { path, source: io::ErrorKind::InvalidData.into() };
    trace::parse_hex(&text.trim().replace('-', "")).ok_or_else(invalid)
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The agent's id from the state directory, made there on the first start.
fn stored_agent_id(state_dir: &Path) -> io::Result<[u8; 16]> {
    let path = state_dir.join("agent_id");
    if let Some(id) = fs::read_to_string(&path).ok().and_then(|text| trace::parse_hex(text.trim())) {
        return Ok(id);
    }
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().replace('-', "");
    let id = trace::parse_hex(&text).ok_or(io::ErrorKind::InvalidData)?;
    replace_file(state_dir, "agent_id", &format!("{text}\n"))?;
    Ok(id)
}

/// An id made from the machine's, which itself should not leave the host.
fn machine_id(path: &Path) -> Option<[u8; 16]> {
    let text = fs::read_to_string(path).ok()?;
    trace::parse_hex(text.trim())?;
    Some(trace::of_text(TAG_MACHINE, text.trim()))
}

/// Seconds and microseconds of the wall clock, as an epoch.
fn clock_epoch() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_secs() << 20) | u64::from(now.subsec_micros())
}

/// The epoch after the stored one, stored; and why not, where it could not be.
fn next_epoch(state_dir: &Path, clock: u64) -> (u64, Option<io::Error>) {
    let stored = match fs::read_to_string(state_dir.join("epoch")) {
        Ok(text) => text.trim().parse().ok().filter(|&epoch| epoch < EPOCH_MAX).unwrap_or(0),
        Err(_) => 0,
    };
    let epoch = clock.max(stored + 1);
    (epoch, replace_file(state_dir, "epoch", &format!("{epoch}\n")).err())
}

/// Puts a file in place as a whole, durably.
pub(crate) fn replace_file(directory: &Path, name: &str, content: &str) -> io::Result<()> {
    let aside = directory.join(format!("{name}.{}.tmp", std::process::id()));
    let written = File::create(&aside).and_then(|mut file| {
        file.write_all(content.as_bytes())?;
        file.sync_all()
    });
    let placed = written
        .and_then(|()| fs::rename(&aside, directory.join(name)))
        .and_then(|()| File::open(directory)?.sync_all());
    if placed.is_err() {
        // Nothing else can be done about what is left; the next start writes over it.
        let _ = fs::remove_file(&aside);
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: starts in one state directory, with the wall clock standing still and then set back.
    /// Guarantees: every epoch is larger than the one before, and the agent's id stays.
    #[test]
    fn epochs_grow_over_restarts() {
        let state = tempfile::tempdir().expect("temporary directory");
        let first = Host::identify(state.path()).expect("identity");
        let second = Host::identify(state.path()).expect("identity");
        assert!(second.epoch > first.epoch);
        assert_eq!((second.agent_id, second.notice), (first.agent_id, None));
        let (third, error) = next_epoch(state.path(), 5);
        assert!(error.is_none());
        assert_eq!(third, second.epoch + 1);
        assert_eq!(
            fs::read_dir(state.path()).expect("readable").count(),
            2,
            "nothing is left beside the files"
        );
    }

    /// Scenario: the stored epoch and agent id are garbage, or absurdly large.
    /// Guarantees: the clock's epoch and a new id replace them.
    #[test]
    fn garbage_is_replaced() {
        let state = tempfile::tempdir().expect("temporary directory");
        for garbage in ["", "x", "-1", "18446744073709551615"] {
            fs::write(state.path().join("epoch"), garbage).expect("writable");
            fs::write(state.path().join("agent_id"), garbage).expect("writable");
            assert_eq!(next_epoch(state.path(), 77).0, 77);
            let id = stored_agent_id(state.path()).expect("made");
            assert_eq!(stored_agent_id(state.path()).expect("kept"), id);
        }
    }

    /// Scenario: the state directory cannot exist, since a file is where it should be.
    /// Guarantees: one notice that names the directory and the remedy; epochs still grow; the agent's id is the
    /// same in both starts, or its absence is an error that says what to do.
    #[test]
    fn an_unwritable_state_directory_is_no_stop() {
        let state = tempfile::NamedTempFile::new().expect("temporary file");
        let path = state.path().join("below");
        match (Host::identify(&path), machine_id(Path::new("/etc/machine-id"))) {
            (Ok(first), Some(id)) => {
                let notice = first.notice.expect("a notice");
                assert!(
                    notice.contains(&path.display().to_string()) && notice.contains("--state-dir"),
                    "{notice}"
                );
                std::thread::sleep(std::time::Duration::from_micros(2));
                let second = Host::identify(&path).expect("identity");
                assert!(second.epoch > first.epoch);
                assert_eq!([first.agent_id, second.agent_id], [id, id]);
            }
            (Err(error), None) => assert!(error.to_string().contains("systemd-machine-id-setup"), "{error}"),
            (host, id) => panic!("{host:?} with machine id {id:?}"),
        }
    }

    /// Scenario: machine ids as written at install time, in an image, and real.
    /// Guarantees: only a real one gives an agent id, and not the machine id itself.
    #[test]
    fn machine_ids_are_hashed() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        for (text, usable) in
            [("", false), ("uninitialized\n", false), ("3d1219c7c4c5404aaa1f6d2a48adfda4\n", true)]
        {
            fs::write(file.path(), text).expect("writable");
            let id = machine_id(file.path());
            assert_eq!(id.is_some(), usable);
            assert!(id.is_none() || id != trace::parse_hex(text.trim()));
        }
    }
}
