//! The words that each CPU's programs count in, mapped: sequences, losses, aggregates, and the one word
//! that user space writes.
//!
//! Invariants:
//! - The layout is `struct tapio_cpu` of `bpf/lib/cpu.h`; a test compares the two.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

pub use crate::engine::Lane;
use crate::sys::SharedWords;

/// Words that a CPU has.
const CPU_WORDS: usize = 24;
const SEQUENCE: usize = 0;
const LOST: usize = 2;
const AWAKE: usize = 4;
const CALLS: usize = 5;
const FIRST_COUNTER: usize = 6;

macro_rules! counters {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $name:literal; )+) => {
        /// An aggregate that programs keep instead of streaming, or for want of room.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Counter { $( $(#[doc = $doc])+ $variant ),+ }

        /// Every counter with its name, in the order of their words.
        pub const COUNTERS: &[(Counter, &str)] = &[$( (Counter::$variant, $name) ),+];
    };
}

counters! {
    /// Times a memory cgroup began to reclaim.
    ReclaimMemcg = "reclaim_memcg";
    /// Times an allocation began to reclaim for want of free memory on the host.
    ReclaimDirect = "reclaim_direct";
    /// Failed system calls beyond the budget of their cgroup and errno.
    ErrnosSuppressed = "errnos_suppressed";
    /// Connects that succeeded while only failed ones are streamed.
    ConnectsFiltered = "connects_filtered";
    /// Forks while they are not streamed.
    ForksFiltered = "forks_filtered";
    /// Exits with status 0 while only failed ones are streamed.
    ExitsFiltered = "exits_filtered";
    /// Retransmits beyond the budget of their cgroup.
    RetransmitsSuppressed = "retransmits_suppressed";
    /// Resets, sent and received, beyond the budget of their cgroup.
    ResetsSuppressed = "resets_suppressed";
    /// Block requests faster than the threshold.
    BlockFast = "block_fast";
    /// Block requests whose completion was not seen: another one was issued at the same address.
    BlockAmbiguous = "block_ambiguous";
    /// Block requests that completed and whose issue was not seen.
    BlockUnmatched = "block_unmatched";
    /// Block requests that found no room to be remembered: their latency is not known.
    BlockMapFull = "block_map_full";
    /// Sockets that found no room to be remembered: their events have no owner and no duration.
    SocketMapFull = "socket_map_full";
}

/// The mapped words of every CPU.
#[derive(Debug)]
pub struct CpuWords {
    words: SharedWords,
}

impl CpuWords {
    /// Maps the words of `cpus` CPUs.
    ///
    /// # Errors
    /// Of `mmap(2)`.
    pub(super) fn map(fd: BorrowedFd<'_>, cpus: usize) -> std::io::Result<Self> {
        Ok(Self { words: SharedWords::map(fd, cpus * CPU_WORDS)? })
    }

    /// CPUs there are, counted from 0, those that are offline included.
    #[must_use]
    pub fn cpus(&self) -> usize {
        self.words.len() / CPU_WORDS
    }

    fn word(&self, cpu: usize, index: usize) -> Option<&AtomicU64> {
        self.words.get(cpu * CPU_WORDS + index)
    }

    fn read(&self, cpu: usize, index: usize) -> u64 {
        self.word(cpu, index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Events that this CPU made for a lane, lost ones included.
    #[must_use]
    pub fn sequence(&self, cpu: usize, lane: Lane) -> u64 {
        self.read(cpu, SEQUENCE + lane as usize)
    }

    /// Events of this CPU and lane that did not fit their ring.
    #[must_use]
    pub fn lost(&self, cpu: usize, lane: Lane) -> u64 {
        self.read(cpu, LOST + lane as usize)
    }

    /// Tells this CPU's programs whether its ring is read by a timer, so that they need not wake anybody.
    /// The caller that goes to sleep must look at its ring once more after `false`.
    pub fn set_awake(&self, cpu: usize, awake: bool) {
        if let Some(word) = self.word(cpu, AWAKE) {
            // SeqCst: ordered before the caller's next look at the ring, so that no record falls between.
            word.store(u64::from(awake), Ordering::SeqCst);
        }
    }

    /// System calls that ended while the errno probe was attached, on all CPUs.
    #[must_use]
    pub fn calls(&self) -> u64 {
        (0..self.cpus()).map(|cpu| self.read(cpu, CALLS)).fold(0, u64::wrapping_add)
    }

    /// One aggregate of one CPU.
    #[must_use]
    pub fn counter(&self, cpu: usize, counter: Counter) -> u64 {
        self.read(cpu, FIRST_COUNTER + counter as usize)
    }

    /// One aggregate of all CPUs.
    #[must_use]
    pub fn total(&self, counter: Counter) -> u64 {
        (0..self.cpus()).map(|cpu| self.counter(cpu, counter)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = include_str!("../../../bpf/lib/cpu.h");

    fn block(start: &str) -> Vec<&'static str> {
        let body = HEADER.split_once(start).expect("is there").1.split_once("};").expect("ends").0;
        body.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
    }

    /// Scenario: the C enum of counters beside the table here.
    /// Guarantees: same names in the same order, so no program counts into another's word.
    #[test]
    fn counters_match_the_header() {
        let in_c: Vec<String> = block("enum tapio_counter {")
            .iter()
            .map(|line| line.trim_start_matches("TAPIO_").trim_end_matches(',').to_lowercase())
            .filter(|name| name != "counters")
            .collect();
        let here: Vec<&str> = COUNTERS.iter().map(|&(_, name)| name).collect();
        assert_eq!(in_c, here);
        for (index, &(counter, _)) in COUNTERS.iter().enumerate() {
            assert_eq!(counter as usize, index);
        }
    }

    /// Scenario: the fields of the C struct beside the offsets here.
    /// Guarantees: each word is where the programs have it.
    #[test]
    fn layout_matches_the_header() {
        let counters: usize = HEADER
            .split_once("#define TAPIO_COUNTER_WORDS ")
            .and_then(|(_, rest)| rest.lines().next()?.parse().ok())
            .expect("defined");
        let fields: Vec<&str> = block("struct tapio_cpu {")
            .iter()
            .map(|line| line.trim_start_matches("__u64 ").split_once(';').expect("a field").0)
            .collect();
        assert_eq!(fields, ["sequence[2]", "lost[2]", "awake", "calls", "counters[TAPIO_COUNTER_WORDS]"]);
        assert_eq!((SEQUENCE, LOST, AWAKE, CALLS, FIRST_COUNTER), (0, 2, 4, 5, 6));
        assert_eq!(CPU_WORDS, FIRST_COUNTER + counters);
    }
}
