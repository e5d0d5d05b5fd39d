/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef TAPIO_CGROUP_H
#define TAPIO_CGROUP_H

struct tapio_cgroup_created {
	struct tapio_header header;
	__u64 hierarchy;
	__u64 level;
};

struct tapio_cgroup_removed {
	struct tapio_header header;
	__u64 hierarchy;
	__u64 level;
};

struct tapio_cgroup_attached {
	struct tapio_header header;
	__u64 hierarchy;
	__u64 level;
};

struct tapio_cgroup_empty {
	struct tapio_header header;
	__u64 hierarchy;
	__u64 level;
};

TAPIO_RECORD(TAPIO_CGROUP_CREATED, tapio_cgroup_created);
TAPIO_RECORD(TAPIO_CGROUP_REMOVED, tapio_cgroup_removed);
TAPIO_RECORD(TAPIO_CGROUP_ATTACHED, tapio_cgroup_attached);
TAPIO_RECORD(TAPIO_CGROUP_EMPTY, tapio_cgroup_empty);

#endif
