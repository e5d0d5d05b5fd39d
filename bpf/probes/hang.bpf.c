/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A task that the kernel's watchdog found asleep for too long. */
#include "lib/owner.h"
#include "probes/hang.h"

SEC("?tp_btf/sched_process_hang")
int BPF_PROG(hang_process, struct task_struct *task)
{
	struct tapio_here here = tapio_here();
	struct tapio_process_hang *record;

	record = tapio_reserve(&here, TAPIO_PROCESS_HANG, sizeof(*record), TAPIO_URGENT);
	if (!record)
		return 0;
	tapio_own_task(&record->header, task);
	tapio_comm(record->comm, task);
	tapio_submit(&here, record, TAPIO_URGENT);
	return 0;
}
