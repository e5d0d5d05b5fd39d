/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* An event for every getpgid(2), to measure the path of all events at any rate. Never on by default. */
#include "lib/owner.h"
#include "lib/syscall.h"
#include "probes/load.h"

SEC("?tp_btf/sys_enter")
int load_sys_enter(__u64 *ctx)
{
	struct tapio_load *record;
	struct tapio_here here;

	if (ctx[1] != settings.load_syscall)
		return 0;
	here = tapio_here();
	record = tapio_reserve(&here, TAPIO_LOAD, sizeof(*record), TAPIO_BULK);
	if (!record)
		return 0;
	tapio_own_task(&record->header, bpf_get_current_task_btf());
	record->number = ctx[1];
	record->value = tapio_syscall_first((void *)ctx[0]);
	tapio_submit(&here, record, TAPIO_BULK);
	return 0;
}
