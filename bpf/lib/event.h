/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The record: what a probe writes into a ring, and the only layout that user space decodes.
 * A record is a header of five 8-byte words, the slots of its kind, and for some kinds a text,
 * NUL-padded to whole words. Kinds, slots and texts are described in src/event.rs (KINDS).
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

#endif
