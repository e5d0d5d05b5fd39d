/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The life of cgroups, in the hierarchies that own events: the default one and the v1 one of the memory
 * controller. The owner is the cgroup; for an attach also the process that moved.
 */
#include "lib/owner.h"
#include "lib/text.h"
#include "probes/cgroup.h"

/* All four records are alike. */
static __always_inline int cgroup_event(enum tapio_kind kind, struct cgroup *cgroup, const char *path,
					struct task_struct *task)
{
	__u32 hierarchy = cgroup->root->hierarchy_id;
	__u64 id = cgroup->kn->id;
	struct tapio_cgroup_created *record;
	struct tapio_here here;

	if (hierarchy) {
		if (!settings.v1_memory || hierarchy != settings.v1_memory_hierarchy)
			return 0;
		id |= TAPIO_CGROUP_V1;
	}
	here = tapio_here();
	record = tapio_text_begin(&here, kind, TAPIO_BULK);
	if (!record)
		return 0;
	tapio_own_cgroup(&record->header, id);
	if (task) {
		record->header.start_ns = tapio_start(task);
		record->header.tgid = task->tgid;
	}
	record->hierarchy = hierarchy;
	record->level = cgroup->level;
	tapio_text_submit(&here, (void *)record, TAPIO_CGROUP_CREATED_WORDS * 8, path, TAPIO_BULK);
	return 0;
}

SEC("?tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_mkdir, struct cgroup *cgroup, const char *path)
{
	return cgroup_event(TAPIO_CGROUP_CREATED, cgroup, path, NULL);
}

SEC("?tp_btf/cgroup_rmdir")
int BPF_PROG(cgroup_rmdir, struct cgroup *cgroup, const char *path)
{
	return cgroup_event(TAPIO_CGROUP_REMOVED, cgroup, path, NULL);
}

/* A single thread that moves, which v1 allows, is no event. */
SEC("?tp_btf/cgroup_attach_task")
int BPF_PROG(cgroup_attach_task, struct cgroup *cgroup, const char *path, struct task_struct *task, bool group)
{
	if (!group && task->pid != task->tgid)
		return 0;
	return cgroup_event(TAPIO_CGROUP_ATTACHED, cgroup, path, task);
}

SEC("?tp_btf/cgroup_notify_populated")
int BPF_PROG(cgroup_notify_populated, struct cgroup *cgroup, const char *path, int populated)
{
	if (populated)
		return 0;
	return cgroup_event(TAPIO_CGROUP_EMPTY, cgroup, path, NULL);
}
