//! The attached programs, and how often the kernel did not run one.
//!
//! The kernel never runs a program while the same program runs on the same CPU: an event in an interrupt that
//! comes at just that moment is passed over. No program can count that, so it is in no sequence; the kernel
//! counts it.
//!
//! Invariants:
//! - Reading the counts needs no privilege and no bpf(2): they are in `/proc/self/fdinfo`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libbpf_rs::{Link, Object};

use super::kernel::read_text;
use super::probes::Program;
use super::states::States;
use crate::sys::tracepoint;

struct Running {
    name: &'static str,
    program: OwnedFd,
    /// Detaches on drop; none while the program is paused.
    link: Option<Hook>,
}

/// What keeps a program attached: libbpf's link from loading on, a plain descriptor after a pause.
#[expect(dead_code, reason = "held for its drop")]
enum Hook {
    Loaded(Link),
    Again(OwnedFd),
}

/// The attached programs. Dropping it detaches them.
#[derive(Default)]
pub struct Attached {
    programs: Vec<Running>,
}

impl std::fmt::Debug for Attached {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.programs.iter().map(|running| running.name)).finish()
    }
}

impl Attached {
    /// Whether nothing is attached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.programs.is_empty()
    }

    /// Whether a program is there, attached or paused.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.programs.iter().any(|running| running.name == name)
    }

    /// Attaches a program again, or pauses it. One that is not there stays so: false.
    ///
    /// # Errors
    /// Of `bpf(2)`: the program stays paused.
    pub fn set_attached(&mut self, name: &str, attached: bool) -> io::Result<bool> {
        let Some(running) = self.programs.iter_mut().find(|running| running.name == name) else {
            return Ok(false);
        };
        if !attached {
            running.link = None;
        } else if running.link.is_none() {
            running.link = Some(Hook::Again(tracepoint::attach(&running.program)?));
        }
        Ok(true)
    }

    /// How often the kernel passed each program over since it was loaded, by name. Kernels before 5.12 do not
    /// say: none then.
    ///
    /// # Errors
    /// Of reading `/proc/self/fdinfo`: skip this round.
    pub fn misses(&self) -> io::Result<Vec<(&'static str, u64)>> {
        let mut misses = Vec::with_capacity(self.programs.len());
        for Running { name, program, .. } in &self.programs {
            let text = read_text(&format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
            misses.extend(recursion_misses(&text).map(|count| (*name, count)));
        }
        Ok(misses)
    }
}

fn recursion_misses(fdinfo: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse().ok())
}

/// Attaches what is wanted; what the kernel refuses is marked so.
pub(super) fn attach(object: &Object, states: &mut States) -> Attached {
    let wanted: Vec<&Program> = states.wanted().collect();
    let mut programs = Vec::with_capacity(wanted.len());
    for &Program { name, .. } in wanted {
        match attach_program(object, name) {
            Ok(running) => programs.push(running),
            Err(reason) => {
                states.refuse(name, &reason);
            }
        }
    }
    Attached { programs }
}

fn attach_program(object: &Object, name: &'static str) -> Result<Running, String> {
    let found = object.progs_mut().find(|program| program.name() == name);
    let program = found.ok_or("the BPF object has no such program")?;
    let fd = program.as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    let link = program.attach().map_err(|error| format!("attach: {error:#}"))?;
    Ok(Running { name, program: fd, link: Some(Hook::Loaded(link)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the fdinfo of a program, and one of an older kernel.
    /// Guarantees: the count is read, its absence is not a zero.
    #[test]
    fn misses_are_read() {
        let text = "pos:\t0\nprog_type:\t26\nrun_cnt:\t0\nrecursion_misses:\t17\nverified_insns:\t30\n";
        assert_eq!(recursion_misses(text), Some(17));
        assert_eq!(recursion_misses("pos:\t0\nprog_type:\t26\n"), None);
    }
}
