//! The tests that look at the whole: one binary, one module per room.
//!
//! A test that cannot run on this machine calls [`skipped`] and returns; `scripts/test` counts it.
//! Tests whose name starts with `live_` need root and this machine's kernel; `scripts/test` runs them alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed, and its helpers with it"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::too_many_lines,
    clippy::print_stdout,
    clippy::manual_is_multiple_of,
    reason = "numbers are small, a story is told in one piece, and what was measured is printed"
)]

/// Settings from files, variables and flags.
mod config;
/// Commands, exit codes, and the life of an agent.
mod control;
/// The kernel probes, on this kernel.
mod ebpf;
/// Identity against this machine's cgroups and processes.
mod entity;
/// Incidents of real processes.
mod explain;
/// The agent on a whole host with another kernel, emulated.
mod guest;
/// The journal reader beside journalctl.
mod journal;
/// The kubernetes collector, beside a fake API server and a real one.
mod kubernetes;
/// Incidents as an independent receiver reads them.
mod otlp;
/// The agent on a host with a whole systemd, where failures are provoked.
mod rig;
/// Usage of this machine's cgroups.
mod sampler;
/// tapio-server, from outside.
mod server;
/// What the compiler and clippy do not check about the repository.
mod tidy;
/// The whole path with the real programs.
mod whole;

/// Says that a test cannot run here. The test harness captures the print macros of tests that pass, so this
/// writes to the standard error itself.
fn skipped(test: &str, reason: &str) {
    use std::io::Write;
    // Whole lines, starting at the margin: the harness leaves `test x ... ` open on the standard output.
    let line = format!("\nSKIPPED {test}: {}\n", reason.replace('\n', " "));
    std::io::stderr().lock().write_all(line.as_bytes()).expect("the standard error is open");
}
