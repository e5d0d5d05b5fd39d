/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef TAPIO_HANG_H
#define TAPIO_HANG_H

struct tapio_process_hang {
	struct tapio_header header;
	__u64 comm[2];
};

TAPIO_RECORD(TAPIO_PROCESS_HANG, tapio_process_hang);

#endif
