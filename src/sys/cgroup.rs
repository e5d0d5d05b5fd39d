//! From a cgroup's kernfs id to a descriptor: the one system call of identity that no safe crate wraps.
//!
//! Invariants:
//! - The handle passed to the kernel is a local of fixed size; the kernel reads it and nothing else.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// `FILEID_KERNFS` of `include/linux/exportfs.h`: the handle is the 64-bit id of the node.
const FILEID_KERNFS: i32 = 0xfe;

/// `struct file_handle` with the body of a kernfs handle.
#[repr(C)]
struct KernfsHandle {
    bytes: u32,
    kind: i32,
    id: [u8; 8],
}

/// Opens (as a path only) the directory with this id in the cgroup hierarchy that `mount` is part of.
///
/// # Errors
/// `ESTALE` when there is no such directory (any more) or `mount` is not a cgroup hierarchy, `EPERM` without
/// `CAP_DAC_READ_SEARCH`.
pub fn open_by_id(mount: impl AsFd, id: u64) -> io::Result<OwnedFd> {
    let mut handle = KernfsHandle { bytes: 8, kind: FILEID_KERNFS, id: id.to_ne_bytes() };
    // SAFETY: the pointer is to a live, writable local laid out as the kernel's struct file_handle, whose
    // `bytes` field states the true length of its body; the descriptor is borrowed for the call.
    let raw = unsafe {
        libc::open_by_handle_at(
            mount.as_fd().as_raw_fd(),
            (&raw mut handle).cast(),
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: an id is looked up on a file system that has no kernfs handles.
    /// Guarantees: an error, never a descriptor of something else.
    #[test]
    #[cfg_attr(miri, ignore = "Miri has no file handles")]
    fn other_file_systems_are_refused() {
        let root = std::fs::File::open("/proc").expect("proc is mounted");
        assert!(open_by_id(&root, 1).is_err());
    }
}
