/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * So many events a second of one thing and cgroup; the rest is only counted. Two CPUs that begin a
 * second together may let a few more through: the bound is against floods, not exact.
 */
#ifndef TAPIO_BUDGET_H
#define TAPIO_BUDGET_H

#include "ring.h"

#define TAPIO_SECOND_NS 1000000000ULL

/* What a budget is for: an errno, or one of these. */
enum {
	TAPIO_BUDGET_RETRANSMIT = 1024,
	TAPIO_BUDGET_RESET_RECEIVED,
	TAPIO_BUDGET_RESET_SENT,
};

struct tapio_budget_key {
	__u64 cgroup;
	__u64 what;
};

struct tapio_budget {
	__u64 since_ns;
	__u32 used;
	__u32 suppressed; /* since the last event that was let through */
};

/* The least used entry makes room for a new one: its cgroup then starts with a full budget again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tapio_budget_key);
	__type(value, struct tapio_budget);
} budgets SEC(".maps");

/* Takes one from a budget; false when it is used up. `suppressed` gets what was held back before. */
static __always_inline bool tapio_take(__u64 cgroup, __u64 what, __u32 per_second, __u32 *suppressed)
{
	struct tapio_budget_key key = { .cgroup = cgroup, .what = what };
	__u64 now = bpf_ktime_get_boot_ns();
	struct tapio_budget *budget = bpf_map_lookup_elem(&budgets, &key);

	*suppressed = 0;
	if (!budget) {
		struct tapio_budget full = { .since_ns = now };

		bpf_map_update_elem(&budgets, &key, &full, BPF_NOEXIST);
		budget = bpf_map_lookup_elem(&budgets, &key);
		if (!budget)
			return true;
	}
	if (now - budget->since_ns >= TAPIO_SECOND_NS) {
		budget->since_ns = now;
		budget->used = 0;
	}
	if (__sync_fetch_and_add(&budget->used, 1) >= per_second) {
		__sync_fetch_and_add(&budget->suppressed, 1);
		return false;
	}
	*suppressed = __sync_lock_test_and_set(&budget->suppressed, 0);
	return true;
}

#endif
