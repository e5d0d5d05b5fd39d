/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Signals that end or dump a process. The owner is the target; the sender is whoever ran on this CPU,
 * which is the process that called kill(2), or for a fault the target itself, or for the OOM killer
 * (code SI_KERNEL) the process whose allocation found no memory.
 */
#include "lib/owner.h"
#include "lib/signal.h"
#include "probes/signal.h"

SEC("?tp_btf/signal_generate")
int signal_generate(__u64 *ctx)
{
	__u32 signal = ctx[0];
	struct task_struct *target = (void *)ctx[2];
	struct task_struct *sender;
	struct tapio_signal *record;
	struct tapio_here here;
	int code = SI_USER;

	if (signal > 63 || !(settings.signal_bits >> signal & 1))
		return 0;
	if (ctx[1] == TAPIO_SIGNAL_KERNEL)
		code = SI_KERNEL;
	else if (ctx[1] != TAPIO_SIGNAL_NOINFO)
		code = BPF_CORE_READ((struct kernel_siginfo *)ctx[1], si_code);
	here = tapio_here();
	record = tapio_reserve(&here, TAPIO_SIGNAL, sizeof(*record), TAPIO_URGENT);
	if (!record)
		return 0;
	sender = bpf_get_current_task_btf();
	tapio_own_task(&record->header, target);
	record->signal = signal;
	record->code = (__s64)code;
	record->group = (__u32)ctx[3];
	record->result = (__u32)ctx[4];
	record->sender_pid = sender->tgid;
	record->sender_start_ns = tapio_start(sender);
	record->sender_cgroup = tapio_task_cgroup(sender);
	record->sender_uid = (__u32)bpf_get_current_uid_gid();
	tapio_comm(record->sender_comm, sender);
	tapio_submit(&here, record, TAPIO_URGENT);
	return 0;
}
