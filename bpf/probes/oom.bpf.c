/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The victim of the OOM killer, with what it held. Where the tracepoint gives only a pid, the task is
 * the one that this CPU has just sent the kernel's SIGKILL (the kernel holds the victim's lock from the
 * one to the other), or the current one, which the kernel marks when it is exiting anyway.
 */
#include "lib/owner.h"
#include "lib/signal.h"
#include "probes/oom.h"

#define MM_FILEPAGES 0
#define MM_ANONPAGES 1
#define MM_SHMEMPAGES 3

/*
 * Pages of a kind. The counter of newer kernels is off by what single CPUs have not added yet. Read by
 * helper: the verifier of 6.1 does not see through an array of a typedef.
 */
#define oom_kib(mm, kind)                                                                   \
	({                                                                                  \
		struct mm_struct___atomic *atomic = (void *)mm;                             \
		__s64 pages = bpf_core_field_exists(atomic->rss_stat.count)                 \
				      ? BPF_CORE_READ(atomic, rss_stat.count[kind].counter) \
				      : BPF_CORE_READ(mm, rss_stat[kind].count);            \
		pages > 0 ? (__u64)pages *settings.page_kib : 0;                            \
	})

static __always_inline void oom_describe(struct tapio_oom_victim *record, struct task_struct *task)
{
	struct mm_struct *mm = task->mm;

	tapio_own_task(&record->header, task);
	tapio_comm(record->comm, task);
	record->uid = task->real_cred->uid.val;
	record->oom_score_adj = (__s64)task->signal->oom_score_adj;
	record->total_vm_kib = mm ? mm->total_vm * settings.page_kib : 0;
	record->pgtables_kib = mm ? (__u64)mm->pgtables_bytes.counter / 1024 : 0;
	record->anon_rss_kib = mm ? oom_kib(mm, MM_ANONPAGES) : 0;
	record->file_rss_kib = mm ? oom_kib(mm, MM_FILEPAGES) : 0;
	record->shmem_rss_kib = mm ? oom_kib(mm, MM_SHMEMPAGES) : 0;
}

struct oom_killed {
	__u64 pid;
	struct tapio_oom_victim victim;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct oom_killed);
} oom_last SEC(".maps");

SEC("?tp_btf/signal_generate")
int oom_signal(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[2];
	struct oom_killed *last;
	__u32 key = 0;

	if ((int)ctx[0] != SIGKILL || ctx[1] != TAPIO_SIGNAL_KERNEL)
		return 0;
	last = bpf_map_lookup_elem(&oom_last, &key);
	if (!last)
		return 0;
	last->pid = task->pid;
	oom_describe(&last->victim, task);
	return 0;
}

static __always_inline void oom_describe_pid(struct tapio_oom_victim *record, __u64 pid)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct oom_killed *last;
	__u32 key = 0;

	last = bpf_map_lookup_elem(&oom_last, &key);
	if (last && last->pid == pid) {
		record->header.cgroup = last->victim.header.cgroup;
		record->header.start_ns = last->victim.header.start_ns;
		record->header.tgid = last->victim.header.tgid;
		__builtin_memcpy(record->comm, last->victim.comm, TAPIO_OOM_VICTIM_WORDS * 8);
	} else if (task->pid == pid) {
		oom_describe(record, task);
	} else {
		tapio_own_cgroup(&record->header, 0);
		record->header.tgid = pid;
		__builtin_memset(record->comm, 0, TAPIO_OOM_VICTIM_WORDS * 8);
	}
}

SEC("?tp_btf/mark_victim")
int oom_mark_victim(__u64 *ctx)
{
	struct tapio_here here = tapio_here();
	struct tapio_oom_victim *record;

	record = tapio_reserve(&here, TAPIO_OOM_VICTIM, sizeof(*record), TAPIO_URGENT);
	if (!record)
		return 0;
	if (settings.victim_is_task)
		oom_describe(record, (void *)ctx[0]);
	else
		oom_describe_pid(record, ctx[0]);
	tapio_submit(&here, record, TAPIO_URGENT);
	return 0;
}
