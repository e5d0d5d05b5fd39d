//! Attaching a loaded program to its tracepoint again, after libbpf's own objects are gone.
//!
//! Invariants:
//! - Only reads the descriptor that it is given; what it returns is owned by the caller alone.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use libbpf_rs::libbpf_sys;

/// Attaches a program whose tracepoint is part of its type (`tp_btf`). Closing the descriptor detaches it.
///
/// # Errors
/// Of `bpf(2)`: the privilege is gone, or the descriptor is not such a program.
pub fn attach(program: impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is borrowed for the call, and a null name is what such programs take.
    let raw = unsafe { libbpf_sys::bpf_raw_tracepoint_open(std::ptr::null(), program.as_fd().as_raw_fd()) };
    if raw < 0 {
        return Err(io::Error::from_raw_os_error(-raw));
    }
    // SAFETY: the kernel just returned this descriptor and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
