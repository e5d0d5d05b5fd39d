/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The rings, and the one way into them: tapio_here, tapio_reserve, fill the slots, tapio_submit.
 *
 * A sequence number is taken before the reserve, so a record that finds no space leaves a gap that
 * user space sees, beside the count of lost records. Programs may interrupt each other on a CPU,
 * hence the atomic adds.
 */
#ifndef TAPIO_RING_H
#define TAPIO_RING_H

#include "core.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "cpu.h"
#include "event.h"
#include "settings.h"

struct tapio_ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
};

/* By CPU. User space makes the rings; a CPU that was offline at that time shares another's. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct tapio_ring);
} bulk_rings SEC(".maps");

struct tapio_ring urgent_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct tapio_cpu);
} cpus SEC(".maps");

/* Where a program runs: the CPU and its words. */
struct tapio_here {
	struct tapio_cpu *words;
	__u32 cpu;
};

static __always_inline struct tapio_here tapio_here(void)
{
	struct tapio_here here = { .cpu = bpf_get_smp_processor_id() };

	here.words = bpf_map_lookup_elem(&cpus, &here.cpu);
	return here;
}

static __always_inline void tapio_count(enum tapio_counter counter)
{
	struct tapio_here here = tapio_here();

	if (here.words)
		__sync_fetch_and_add(&here.words->counters[counter], 1);
}

/* Space for a record of `bytes` (a constant), its header filled but for the owner; NULL when it is lost. */
static __always_inline void *tapio_reserve(struct tapio_here *here, enum tapio_kind kind, __u32 bytes,
					   enum tapio_lane lane)
{
	struct tapio_header *header = NULL;
	__u32 sequence;
	void *ring;

	if (!here->words)
		return NULL;
	sequence = __sync_fetch_and_add(&here->words->sequence[lane], 1);
	ring = lane == TAPIO_URGENT ? &urgent_ring : bpf_map_lookup_elem(&bulk_rings, &here->cpu);
	if (ring)
		header = bpf_ringbuf_reserve(ring, bytes, 0);
	if (!header) {
		__sync_fetch_and_add(&here->words->lost[lane], 1);
		return NULL;
	}
	header->time_ns = bpf_ktime_get_boot_ns();
	header->sequence = sequence;
	header->kind = kind;
	header->words = bytes / 8;
	header->producer = here->cpu * 2 + lane;
	header->source = 0;
	header->flags = 0;
	return header;
}

/*
 * An urgent record always wakes its reader. A bulk record leaves that to the kernel, which wakes a
 * reader that has caught up, unless the reader said that it comes by a timer.
 */
static __always_inline void tapio_submit(struct tapio_here *here, void *record, enum tapio_lane lane)
{
	__u64 flags = lane == TAPIO_BULK && here->words->awake ? BPF_RB_NO_WAKEUP : 0;

	bpf_ringbuf_submit(record, flags);
}

#endif
