/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Who owns an event: the identity of a process (tgid and start time of its leader) and its cgroup.
 * Plain pointer walks over trusted or BTF pointers: the kernel turns them into loads that cannot fault.
 */
#ifndef TAPIO_OWNER_H
#define TAPIO_OWNER_H

#include "ring.h"

struct tapio_owner {
	__u64 cgroup;
	__u64 start_ns;
	__u32 tgid;
};

/*
 * The cgroup of the default hierarchy, unless that is its root; then the one of the v1 memory
 * hierarchy, where there is such a hierarchy; 0 for the root of both.
 */
static __always_inline __u64 tapio_task_cgroup(struct task_struct *task)
{
	struct css_set *set = task->cgroups;
	struct cgroup *cgroup = set->dfl_cgrp;

	if (cgroup->level > 0)
		return cgroup->kn->id;
	if (settings.v1_memory) {
		cgroup = set->subsys[bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id)]->cgroup;
		if (cgroup->level > 0)
			return cgroup->kn->id | TAPIO_CGROUP_V1;
	}
	return 0;
}

static __always_inline __u64 tapio_start(struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;

	if (bpf_core_field_exists(leader->start_boottime))
		return leader->start_boottime;
	return ((struct task_struct___old *)leader)->real_start_time;
}

static __always_inline void tapio_own_task(struct tapio_header *header, struct task_struct *task)
{
	header->cgroup = tapio_task_cgroup(task);
	header->start_ns = tapio_start(task);
	header->tgid = task->tgid;
}

static __always_inline void tapio_own_cgroup(struct tapio_header *header, __u64 cgroup)
{
	header->cgroup = cgroup;
	header->start_ns = 0;
	header->tgid = 0;
}

/* The name of a task, two words. */
static __always_inline void tapio_comm(__u64 *words, struct task_struct *task)
{
	const __u64 *comm = (const __u64 *)task->comm;

	words[0] = comm[0];
	words[1] = comm[1];
}

#endif
