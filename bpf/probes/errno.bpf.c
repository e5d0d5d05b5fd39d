/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * System calls that failed for want of a resource. Every system call of the host comes by here: it is
 * counted in a word of its CPU, and the first comparison lets nearly all of them go. The count is not
 * atomic, since nothing else writes the word and the kernel never runs this program twice at a time
 * on a CPU.
 */
#include "lib/budget.h"
#include "lib/owner.h"
#include "lib/syscall.h"
#include "probes/errno.h"

#define ERRNO_LAST 133
#define EAGAIN 11

static __always_inline bool errno_wanted(__u64 errno)
{
	__u64 bits = settings.errno_bits[0];

	if (errno >= 128)
		return false;
	if (errno >= 64)
		bits = settings.errno_bits[1];
	return bits >> (errno & 63) & 1;
}

static __always_inline bool errno_fork(__s64 number)
{
	return number == settings.fork_syscalls[0] || number == settings.fork_syscalls[1] ||
	       number == settings.fork_syscalls[2] || number == settings.fork_syscalls[3];
}

SEC("?tp_btf/sys_exit")
int errno_sys_exit(__u64 *ctx)
{
	__u64 errno = -ctx[1];
	struct tapio_syscall_error *record;
	struct task_struct *task;
	struct tapio_here here;
	__u32 suppressed;
	__s64 number;

	/* What being looked at costs is the number of calls: user space leaves when it is too much. */
	here = tapio_here();
	if (here.words)
		here.words->calls++;
	/* Unsigned: also false for the results of calls that succeeded. */
	if (errno - 1 >= ERRNO_LAST)
		return 0;
	if (!errno_wanted(errno))
		return 0;
	number = tapio_syscall_number((void *)ctx[0]);
	if (errno == EAGAIN && !errno_fork(number))
		return 0;
	task = bpf_get_current_task_btf();
	if (!tapio_take(tapio_task_cgroup(task), errno, settings.errnos_per_second, &suppressed)) {
		tapio_count(TAPIO_ERRNOS_SUPPRESSED);
		return 0;
	}
	record = tapio_reserve(&here, TAPIO_SYSCALL_ERROR, sizeof(*record), TAPIO_URGENT);
	if (!record)
		return 0;
	tapio_own_task(&record->header, task);
	record->syscall = number;
	record->errno = errno;
	record->suppressed = suppressed;
	tapio_comm(record->comm, task);
	tapio_submit(&here, record, TAPIO_URGENT);
	return 0;
}
