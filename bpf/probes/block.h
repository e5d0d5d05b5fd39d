/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef TAPIO_BLOCK_H
#define TAPIO_BLOCK_H

struct tapio_block_error {
	struct tapio_header header;
	__u64 device; /* major << 20 | minor */
	__u64 sector;
	__u64 bytes;
	__u64 errno;
	__u64 operation;
};

struct tapio_block_latency {
	struct tapio_header header;
	__u64 device; /* major << 20 | minor */
	__u64 sector;
	__u64 bytes;
	__u64 latency_ns;
	__u64 operation;
};

TAPIO_RECORD(TAPIO_BLOCK_ERROR, tapio_block_error);
TAPIO_RECORD(TAPIO_BLOCK_LATENCY, tapio_block_latency);

#endif
