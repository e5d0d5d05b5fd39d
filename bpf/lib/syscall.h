/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Where system calls keep their number and arguments: decided by the kernel's BTF, not by the build.
 * A 32-bit program on a 64-bit kernel has numbers of its own table.
 */
#ifndef TAPIO_SYSCALL_H
#define TAPIO_SYSCALL_H

#include "ring.h"

static __always_inline __s64 tapio_syscall_number(void *regs)
{
	struct pt_regs___x86 *x86 = regs;
	struct pt_regs___arm64 *arm64 = regs;

	if (bpf_core_field_exists(x86->orig_ax))
		return x86->orig_ax;
	if (bpf_core_field_exists(arm64->syscallno))
		return arm64->syscallno;
	return -1;
}

static __always_inline __u64 tapio_syscall_first(void *regs)
{
	struct pt_regs___x86 *x86 = regs;
	struct pt_regs___arm64 *arm64 = regs;

	if (bpf_core_field_exists(x86->di))
		return x86->di;
	if (bpf_core_field_exists(arm64->regs))
		return arm64->regs[0];
	return 0;
}

#endif
