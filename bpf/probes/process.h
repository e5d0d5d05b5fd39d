/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef TAPIO_PROCESS_H
#define TAPIO_PROCESS_H

struct tapio_process_fork {
	struct tapio_header header;
	__u64 parent_pid;
	__u64 comm[2];
};

struct tapio_process_exec {
	struct tapio_header header;
	__u64 parent_pid;
	__u64 comm[2];
};

struct tapio_process_exit {
	struct tapio_header header;
	__u64 exit_code;
	__u64 signal;
	__u64 core_dumped;
	__u64 comm[2];
};

TAPIO_RECORD(TAPIO_PROCESS_FORK, tapio_process_fork);
TAPIO_RECORD(TAPIO_PROCESS_EXEC, tapio_process_exec);
TAPIO_RECORD(TAPIO_PROCESS_EXIT, tapio_process_exit);

#endif
