/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What each CPU counts, shared with user space by mmap. src/collector/ebpf/cpus.rs has the same
 * layout and the same counters, and a test compares them.
 */
#ifndef TAPIO_CPU_H
#define TAPIO_CPU_H

enum tapio_lane {
	TAPIO_BULK = 0,
	TAPIO_URGENT = 1,
};

/* Aggregates: what is counted here and not streamed, or could not be kept. */
enum tapio_counter {
	TAPIO_RECLAIM_MEMCG,
	TAPIO_RECLAIM_DIRECT,
	TAPIO_ERRNOS_SUPPRESSED,
	TAPIO_CONNECTS_FILTERED,
	TAPIO_FORKS_FILTERED,
	TAPIO_EXITS_FILTERED,
	TAPIO_RETRANSMITS_SUPPRESSED,
	TAPIO_RESETS_SUPPRESSED,
	TAPIO_BLOCK_FAST,
	TAPIO_BLOCK_AMBIGUOUS,
	TAPIO_BLOCK_UNMATCHED,
	TAPIO_BLOCK_MAP_FULL,
	TAPIO_SOCKET_MAP_FULL,
	TAPIO_COUNTERS,
};

#define TAPIO_COUNTER_WORDS 18

/* Whole cache lines, so that two CPUs never write the same one. */
struct tapio_cpu {
	__u64 sequence[2]; /* by lane: events made, lost ones included */
	__u64 lost[2];     /* by lane: events that did not fit their ring */
	__u64 awake;       /* written by user space: 1 while it polls the bulk ring by a timer */
	__u64 calls;       /* system calls that ended while the errno probe looked */
	__u64 counters[TAPIO_COUNTER_WORDS];
};

_Static_assert(sizeof(struct tapio_cpu) % 64 == 0, "whole cache lines");
_Static_assert((int)TAPIO_COUNTERS <= TAPIO_COUNTER_WORDS, "room for every counter");

#endif
