/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef TAPIO_ERRNO_H
#define TAPIO_ERRNO_H

struct tapio_syscall_error {
	struct tapio_header header;
	__u64 syscall;
	__u64 errno;
	__u64 suppressed;
	__u64 comm[2];
};

TAPIO_RECORD(TAPIO_SYSCALL_ERROR, tapio_syscall_error);

#endif
