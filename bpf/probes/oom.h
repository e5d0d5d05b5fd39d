/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef TAPIO_OOM_H
#define TAPIO_OOM_H

struct tapio_oom_victim {
	struct tapio_header header;
	__u64 comm[2];
	__u64 total_vm_kib;
	__u64 anon_rss_kib;
	__u64 file_rss_kib;
	__u64 shmem_rss_kib;
	__u64 pgtables_kib;
	__u64 uid;
	__u64 oom_score_adj;
};

TAPIO_RECORD(TAPIO_OOM_VICTIM, tapio_oom_victim);

#endif
