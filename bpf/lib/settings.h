/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What user space decides before the programs are loaded. The verifier sees constants: a branch that
 * is off here, or that this kernel has no arguments for, is removed and not even checked.
 */
#ifndef TAPIO_SETTINGS_H
#define TAPIO_SETTINGS_H

struct tapio_settings {
	__u64 block_latency_ns;
	__u64 errno_bits[2];
	__u64 signal_bits;
	__u8 block_errnos[32]; /* the errno of each blk_status_t, 0 for EIO */
	__u32 errnos_per_second;
	__u32 retransmits_per_second;
	__u32 v1_memory_hierarchy; /* its id, as in /proc/cgroups */
	__u32 page_kib;
	__u32 load_syscall;
	__u32 fork_syscalls[4]; /* the calls whose EAGAIN is a refused fork */
	__u32 v1_memory;        /* the memory controller is on a v1 hierarchy */
	__u32 connect_success;
	__u32 forks;
	__u32 clean_exits;
	__u32 exit_has_group_dead;
	__u32 victim_is_task;
	__u32 reset_has_reason;
	__u32 block_status; /* completions carry a blk_status_t, not an errno */
	__u32 block_error_by_complete;
};

/* A section of its own: user space writes the whole of it. */
const volatile struct tapio_settings settings SEC(".rodata.settings") = {};

#endif
