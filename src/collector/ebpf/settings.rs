//! The constants that the programs are loaded with: the user's filters, and what this kernel has.

use zerocopy::{Immutable, IntoBytes};

use super::kernel::Kernel;
use super::options::Options;

/// Signals that end or dump a process: the ones whose sender a diagnosis asks for.
const SIGNALS: [u32; 13] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 15, 24, 31];

/// Errnos that mean a resource is gone or failing. Those of ordinary life (`ENOENT`, `EACCES`, `EAGAIN` of a
/// socket) are not here: they would cost everybody a look-up.
const ERRNOS: [u32; 18] = [
    5,   // EIO
    11,  // EAGAIN, of the fork calls only
    12,  // ENOMEM
    23,  // ENFILE
    24,  // EMFILE
    28,  // ENOSPC
    30,  // EROFS
    98,  // EADDRINUSE
    99,  // EADDRNOTAVAIL
    100, // ENETDOWN
    101, // ENETUNREACH
    105, // ENOBUFS
    112, // EHOSTDOWN
    113, // EHOSTUNREACH
    116, // ESTALE
    117, // EUCLEAN
    121, // EREMOTEIO
    122, // EDQUOT
];

/// Block statuses (`include/linux/blk_types.h`) with the errnos that the kernel turns them into; EIO for
/// others.
const BLOCK_ERRNOS: [(usize, u8); 15] = [
    (1, 95),  // not supported: EOPNOTSUPP
    (2, 110), // timeout: ETIMEDOUT
    (3, 28),  // no space: ENOSPC
    (4, 67),  // transport: ENOLINK
    (5, 121), // target: EREMOTEIO
    (6, 52),  // reservation conflict: EBADE
    (7, 61),  // medium: ENODATA
    (8, 84),  // protection: EILSEQ
    (9, 12),  // resource: ENOMEM
    (10, 5),  // I/O: EIO
    (12, 11), // again: EAGAIN
    (13, 16), // device resource: EBUSY
    (16, 19), // offline: ENODEV
    (17, 62), // duration limit: ETIME
    (19, 22), // invalid: EINVAL
];

fn block_errnos() -> [u8; 32] {
    let mut errnos = [0; 32];
    for (status, errno) in BLOCK_ERRNOS {
        errnos[status] = errno;
    }
    errnos
}

#[cfg(target_arch = "x86_64")]
mod syscalls {
    /// getpgid.
    pub(super) const LOAD: u32 = 121;
    /// clone, fork, vfork, clone3.
    pub(super) const FORKS: [u32; 4] = [56, 57, 58, 435];
}

#[cfg(not(target_arch = "x86_64"))]
mod syscalls {
    /// getpgid, in the generic table that every newer architecture has.
    pub(super) const LOAD: u32 = 155;
    /// clone and clone3.
    pub(super) const FORKS: [u32; 4] = [220, 435, 220, 435];
}

macro_rules! constants {
    ($( $field:ident: $type:ty = $in_c:literal ),+ $(,)?) => {
        /// `struct tapio_settings` of `bpf/lib/settings.h`.
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, IntoBytes, Immutable)]
        pub(super) struct Constants { $( pub(super) $field: $type ),+ }

        #[cfg(test)]
        const FIELDS: &[&str] = &[$( concat!($in_c, ";") ),+];
    };
}

constants! {
    block_latency_ns: u64 = "__u64 block_latency_ns",
    errno_bits: [u64; 2] = "__u64 errno_bits[2]",
    signal_bits: u64 = "__u64 signal_bits",
    block_errnos: [u8; 32] = "__u8 block_errnos[32]",
    errnos_per_second: u32 = "__u32 errnos_per_second",
    retransmits_per_second: u32 = "__u32 retransmits_per_second",
    v1_memory_hierarchy: u32 = "__u32 v1_memory_hierarchy",
    page_kib: u32 = "__u32 page_kib",
    load_syscall: u32 = "__u32 load_syscall",
    fork_syscalls: [u32; 4] = "__u32 fork_syscalls[4]",
    v1_memory: u32 = "__u32 v1_memory",
    connect_success: u32 = "__u32 connect_success",
    forks: u32 = "__u32 forks",
    clean_exits: u32 = "__u32 clean_exits",
    exit_has_group_dead: u32 = "__u32 exit_has_group_dead",
    victim_is_task: u32 = "__u32 victim_is_task",
    reset_has_reason: u32 = "__u32 reset_has_reason",
    block_status: u32 = "__u32 block_status",
    block_error_by_complete: u32 = "__u32 block_error_by_complete",
}

impl Constants {
    /// The constants for these options on this kernel, whose memory controller is on hierarchy `v1_memory`,
    /// if on a v1 one.
    pub(super) fn new(options: &Options, kernel: &Kernel, v1_memory: Option<u32>) -> Self {
        let filters = &options.filters;
        let argument = |tracepoint: &str, index: usize| {
            kernel.tracepoint(tracepoint).and_then(|arguments| arguments.into_iter().nth(index))
        };
        Self {
            block_latency_ns: u64::try_from(filters.block_latency.as_nanos()).unwrap_or(u64::MAX),
            errno_bits: errno_bits(),
            signal_bits: SIGNALS.iter().fold(0, |bits, signal| bits | 1 << signal),
            block_errnos: block_errnos(),
            errnos_per_second: filters.errnos_per_second,
            retransmits_per_second: filters.retransmits_per_second,
            v1_memory_hierarchy: v1_memory.unwrap_or(0),
            page_kib: u32::try_from(rustix::param::page_size() / 1024).unwrap_or(4),
            load_syscall: syscalls::LOAD,
            fork_syscalls: syscalls::FORKS,
            v1_memory: u32::from(v1_memory.is_some()),
            connect_success: u32::from(filters.connect_success),
            forks: u32::from(filters.forks),
            clean_exits: u32::from(filters.clean_exits),
            exit_has_group_dead: u32::from(argument("sched_process_exit", 1).is_some()),
            victim_is_task: u32::from(kernel.gives_task("mark_victim")),
            reset_has_reason: u32::from(argument("tcp_send_reset", 2).is_some()),
            block_status: u32::from(argument("block_rq_complete", 1).as_deref() == Some("blk_status_t")),
            block_error_by_complete: u32::from(kernel.tracepoint("block_rq_error").is_none()),
        }
    }
}

fn errno_bits() -> [u64; 2] {
    let mut bits = [0; 2];
    for errno in ERRNOS {
        bits[errno as usize / 64] |= 1 << (errno % 64);
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the fields of the C struct beside the ones here.
    /// Guarantees: same types and names in the same order, without padding, so each constant arrives as
    /// itself.
    #[test]
    fn layout_matches_the_header() {
        let header = include_str!("../../../bpf/lib/settings.h");
        let body = header.split_once("struct tapio_settings {").expect("is there").1;
        let body = body.split_once("};").expect("ends").0;
        let in_c: Vec<&str> = body
            .lines()
            .map(str::trim)
            .filter_map(|line| line.split_inclusive(';').next().filter(|line| line.ends_with(';')))
            .collect();
        assert_eq!(in_c, FIELDS);
        assert_eq!(size_of::<Constants>() % 8, 0);
    }

    /// Scenario: the errnos as bits.
    /// Guarantees: exactly those of the table are set.
    #[test]
    fn every_errno_has_its_bit() {
        let bits = errno_bits();
        let set: Vec<u32> =
            (0..128).filter(|errno| bits[*errno as usize / 64] >> (errno % 64) & 1 == 1).collect();
        assert_eq!(set, ERRNOS);
    }
}
