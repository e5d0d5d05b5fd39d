/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef TAPIO_LOAD_H
#define TAPIO_LOAD_H

struct tapio_load {
	struct tapio_header header;
	__u64 number;
	__u64 value;
};

TAPIO_RECORD(TAPIO_LOAD, tapio_load);

#endif
