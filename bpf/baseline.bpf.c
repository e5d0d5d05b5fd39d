/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Bench only: the `load` probe's record through one shared ring with libbpf's default wake-up, which is
 * what the harness compares the agent's rings with. Nothing of the agent is used but the record's layout.
 */
#include "lib/core.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "lib/event.h"

#define SYS_GETPGID 121
#define KIND_LOAD 19

struct task_struct___baseline {
	int tgid;
	__u64 start_boottime;
} __attribute__((preserve_access_index));

struct baseline_record {
	struct tapio_header header;
	__u64 number;
	__u64 value;
};

_Static_assert(sizeof(struct baseline_record) == 56, "seven words");

struct {
	__uint(type, 27); /* BPF_MAP_TYPE_RINGBUF */
	__uint(max_entries, 32 << 20);
} baseline_ring SEC(".maps");

/* Per CPU: records produced, of those lost for want of space. */
struct {
	__uint(type, 6); /* BPF_MAP_TYPE_PERCPU_ARRAY */
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} baseline_counters SEC(".maps");

SEC("tp_btf/sys_enter")
int baseline_sys_enter(__u64 *ctx)
{
	struct task_struct___baseline *task;
	struct baseline_record *record;
	__u32 produced_key = 0, lost_key = 1;
	__u64 *produced, *lost;

	if (ctx[1] != SYS_GETPGID)
		return 0;
	produced = bpf_map_lookup_elem(&baseline_counters, &produced_key);
	lost = bpf_map_lookup_elem(&baseline_counters, &lost_key);
	if (!produced || !lost)
		return 0;
	*produced += 1;
	record = bpf_ringbuf_reserve(&baseline_ring, sizeof(*record), 0);
	if (!record) {
		*lost += 1;
		return 0;
	}
	task = (void *)bpf_get_current_task_btf();
	record->header.time_ns = bpf_ktime_get_boot_ns();
	record->header.cgroup = bpf_get_current_cgroup_id();
	record->header.start_ns = BPF_CORE_READ(task, start_boottime);
	record->header.tgid = BPF_CORE_READ(task, tgid);
	record->header.sequence = (__u32)*produced;
	record->header.kind = KIND_LOAD;
	record->header.words = sizeof(*record) / 8;
	record->header.producer = bpf_get_smp_processor_id() * 2;
	record->header.source = 0;
	record->header.flags = 0;
	record->number = ctx[1];
	record->value = 0;
	bpf_ringbuf_submit(record, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
