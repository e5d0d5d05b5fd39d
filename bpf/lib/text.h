/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Records with a text: put together in a scratch record of this CPU, since a reserve needs a constant
 * size, and copied into the ring as long as they are. One scratch record a kind: a program never
 * interrupts itself.
 */
#ifndef TAPIO_TEXT_H
#define TAPIO_TEXT_H

#include "ring.h"

#define TAPIO_TEXT_BYTES 512
#define TAPIO_SLOT_BYTES 24

struct tapio_text_record {
	struct tapio_header header;
	__u8 data[TAPIO_SLOT_BYTES + TAPIO_TEXT_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 32); /* by kind */
	__type(key, __u32);
	__type(value, struct tapio_text_record);
} texts SEC(".maps");

/* A scratch record for `kind`, its header filled but for the owner and the length. */
static __always_inline void *tapio_text_begin(struct tapio_here *here, enum tapio_kind kind, enum tapio_lane lane)
{
	__u32 key = kind;
	struct tapio_header *header = bpf_map_lookup_elem(&texts, &key);

	if (!header || !here->words)
		return NULL;
	header->time_ns = bpf_ktime_get_boot_ns();
	header->sequence = __sync_fetch_and_add(&here->words->sequence[lane], 1);
	header->kind = kind;
	header->producer = here->cpu * 2 + lane;
	header->source = 0;
	header->flags = 0;
	return header;
}

/* Appends the kernel string `text` behind `slots` bytes of slots (a constant), and hands the record over. */
static __always_inline void tapio_text_submit(struct tapio_here *here, struct tapio_text_record *record,
					      __u32 slots, const char *text, enum tapio_lane lane)
{
	__u64 *last;
	__s64 read;
	__u32 length = 0;
	__u64 flags = 0;
	void *ring;

	read = bpf_probe_read_kernel_str(&record->data[slots], TAPIO_TEXT_BYTES, text);
	if (read > 1)
		length = read - 1; /* without the NUL */
	if (length >= TAPIO_TEXT_BYTES - 1) {
		length = TAPIO_TEXT_BYTES - 1;
		record->header.flags |= TAPIO_TEXT_CUT;
	}
	/* The last word of the text is padded with NULs, not with what an earlier record left. */
	if (length & 7) {
		last = (__u64 *)&record->data[slots + (length & (TAPIO_TEXT_BYTES - 8))];
		*last &= (1ULL << (length & 7) * 8) - 1;
	}
	length = (length + 7) & ~7U;
	if (length > TAPIO_TEXT_BYTES)
		length = TAPIO_TEXT_BYTES;
	record->header.words = (sizeof(struct tapio_header) + slots + length) / 8;
	ring = lane == TAPIO_URGENT ? &urgent_ring : bpf_map_lookup_elem(&bulk_rings, &here->cpu);
	if (lane == TAPIO_BULK && here->words->awake)
		flags = BPF_RB_NO_WAKEUP;
	if (!ring || bpf_ringbuf_output(ring, record, sizeof(struct tapio_header) + slots + length, flags))
		__sync_fetch_and_add(&here->words->lost[lane], 1);
}

#endif
