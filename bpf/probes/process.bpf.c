/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Processes: fork, exec, exit. Threads are not events; the end of the last thread of a process is. */
#include "lib/owner.h"
#include "lib/text.h"
#include "probes/process.h"

#define SIGNAL_GROUP_EXIT 4

SEC("?tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *parent, struct task_struct *child)
{
	struct tapio_process_fork *record;
	struct tapio_here here;

	if (child->pid != child->tgid)
		return 0;
	if (!settings.forks) {
		tapio_count(TAPIO_FORKS_FILTERED);
		return 0;
	}
	here = tapio_here();
	record = tapio_reserve(&here, TAPIO_PROCESS_FORK, sizeof(*record), TAPIO_BULK);
	if (!record)
		return 0;
	tapio_own_task(&record->header, child);
	record->parent_pid = parent->tgid;
	tapio_comm(record->comm, child);
	tapio_submit(&here, record, TAPIO_BULK);
	return 0;
}

SEC("?tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task, int old_pid, struct linux_binprm *image)
{
	struct tapio_here here = tapio_here();
	struct tapio_process_exec *record = tapio_text_begin(&here, TAPIO_PROCESS_EXEC, TAPIO_BULK);

	if (!record)
		return 0;
	tapio_own_task(&record->header, task);
	record->parent_pid = task->real_parent->tgid;
	tapio_comm(record->comm, task);
	tapio_text_submit(&here, (void *)record, TAPIO_PROCESS_EXEC_WORDS * 8, image->filename, TAPIO_BULK);
	return 0;
}

/* Processes that are already reported, for kernels that do not say which thread was the last. */
struct process_identity {
	__u64 start_ns;
	__u64 tgid;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct process_identity);
	__type(value, __u8);
} exited SEC(".maps");

/* Two threads may both find that none lives: only the first reports. */
static __always_inline bool process_first_exit(struct task_struct *task)
{
	struct process_identity key = { .start_ns = tapio_start(task), .tgid = task->tgid };
	__u8 value = 1;

	return bpf_map_update_elem(&exited, &key, &value, BPF_NOEXIST) == 0;
}

static __always_inline int process_exited(struct task_struct *task)
{
	struct signal_struct *signal = task->signal;
	struct tapio_process_exit *record;
	enum tapio_lane lane = TAPIO_URGENT;
	struct tapio_here here;
	__u32 status;

	/* What wait(2) will tell the parent. */
	status = signal->flags & SIGNAL_GROUP_EXIT ? signal->group_exit_code : task->group_leader->exit_code;
	if (!status) {
		if (!settings.clean_exits) {
			tapio_count(TAPIO_EXITS_FILTERED);
			return 0;
		}
		lane = TAPIO_BULK;
	}
	here = tapio_here();
	record = tapio_reserve(&here, TAPIO_PROCESS_EXIT, sizeof(*record), lane);
	if (!record)
		return 0;
	tapio_own_task(&record->header, task);
	record->exit_code = (status >> 8) & 0xff;
	record->signal = status & 0x7f;
	record->core_dumped = (status >> 7) & 1;
	tapio_comm(record->comm, task->group_leader);
	tapio_submit(&here, record, lane);
	return 0;
}

SEC("?tp_btf/sched_process_exit")
int process_exit(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];

	if (settings.exit_has_group_dead) {
		if (!(ctx[1] & 0xff))
			return 0;
	} else if (task->signal->live.counter != 0 || !process_first_exit(task)) {
		return 0;
	}
	return process_exited(task);
}
