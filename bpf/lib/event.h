/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The record: what a probe writes into a ring, and the only layout that user space decodes.
 * A record is a header of five 8-byte words, the slots of its kind, and for some kinds a text,
 * NUL-padded to whole words. Kinds, slots and texts are described in src/event.rs (KINDS), and a
 * test compares that table with this file and with the records of probes/.
 */
#ifndef TAPIO_EVENT_H
#define TAPIO_EVENT_H

struct tapio_header {
	__u64 time_ns;  /* CLOCK_BOOTTIME */
	__u64 cgroup;   /* kernfs id of the owner's cgroup, 0 when there is none */
	__u64 start_ns; /* CLOCK_BOOTTIME at which the process started, 0 for none */
	__u32 tgid;
	__u32 sequence; /* low half of the producer's counter; a failed reserve leaves a gap */
	__u16 kind;
	__u16 words;    /* length of the record, header included, in words */
	__u16 producer; /* cpu * 2 + (1 for the urgent ring) */
	__u8 source;    /* 0: ebpf */
	__u8 flags;
};

_Static_assert(sizeof(struct tapio_header) == 40, "five words");

/* Set in tapio_header.cgroup when the id is of the v1 memory hierarchy, whose ids overlap those of v2. */
#define TAPIO_CGROUP_V1 (1ULL << 62)

/* Set in tapio_header.flags when the text fills the record, so that more of it may be missing. */
#define TAPIO_TEXT_CUT 1

enum tapio_kind {
	TAPIO_PROCESS_FORK = 1,
	TAPIO_PROCESS_EXEC = 2,
	TAPIO_PROCESS_EXIT = 3,
	TAPIO_OOM_VICTIM = 4,
	TAPIO_SIGNAL = 5,
	TAPIO_TCP_CONNECT = 6,
	TAPIO_TCP_LISTEN = 7,
	TAPIO_TCP_RESET_RECEIVED = 8,
	TAPIO_TCP_RESET_SENT = 9,
	TAPIO_TCP_RETRANSMIT = 10,
	TAPIO_BLOCK_ERROR = 11,
	TAPIO_BLOCK_LATENCY = 12,
	TAPIO_SYSCALL_ERROR = 13,
	TAPIO_CGROUP_CREATED = 14,
	TAPIO_CGROUP_REMOVED = 15,
	TAPIO_CGROUP_ATTACHED = 16,
	TAPIO_CGROUP_EMPTY = 17,
	TAPIO_PROCESS_HANG = 18,
	TAPIO_LOAD = 19,
};

/* Words that the slots of a kind take. */
enum tapio_slot_words {
	TAPIO_PROCESS_FORK_WORDS = 3,
	TAPIO_PROCESS_EXEC_WORDS = 3,
	TAPIO_PROCESS_EXIT_WORDS = 5,
	TAPIO_OOM_VICTIM_WORDS = 9,
	TAPIO_SIGNAL_WORDS = 10,
	TAPIO_TCP_CONNECT_WORDS = 8,
	TAPIO_TCP_LISTEN_WORDS = 4,
	TAPIO_TCP_RESET_RECEIVED_WORDS = 7,
	TAPIO_TCP_RESET_SENT_WORDS = 8,
	TAPIO_TCP_RETRANSMIT_WORDS = 7,
	TAPIO_BLOCK_ERROR_WORDS = 5,
	TAPIO_BLOCK_LATENCY_WORDS = 5,
	TAPIO_SYSCALL_ERROR_WORDS = 5,
	TAPIO_CGROUP_CREATED_WORDS = 2,
	TAPIO_CGROUP_REMOVED_WORDS = 2,
	TAPIO_CGROUP_ATTACHED_WORDS = 2,
	TAPIO_CGROUP_EMPTY_WORDS = 2,
	TAPIO_PROCESS_HANG_WORDS = 2,
	TAPIO_LOAD_WORDS = 2,
};

/* Pins the record of a kind to its number of words. */
#define TAPIO_RECORD(kind, record) \
	_Static_assert(sizeof(struct record) == sizeof(struct tapio_header) + kind##_WORDS * 8, #record)

#endif
