/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef TAPIO_SIGNAL_PROBE_H
#define TAPIO_SIGNAL_PROBE_H

struct tapio_signal {
	struct tapio_header header;
	__u64 signal;
	__u64 code;
	__u64 group;
	__u64 result;
	__u64 sender_pid;
	__u64 sender_start_ns;
	__u64 sender_cgroup;
	__u64 sender_uid;
	__u64 sender_comm[2];
};

TAPIO_RECORD(TAPIO_SIGNAL, tapio_signal);

#endif
