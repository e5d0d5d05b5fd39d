/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Memory pressure before anything is killed: dozens of times for one OOM, so counted and never streamed. */
#include "lib/ring.h"

SEC("?tp_btf/mm_vmscan_memcg_reclaim_begin")
int reclaim_memcg(__u64 *ctx)
{
	tapio_count(TAPIO_RECLAIM_MEMCG);
	return 0;
}

SEC("?tp_btf/mm_vmscan_direct_reclaim_begin")
int reclaim_direct(__u64 *ctx)
{
	tapio_count(TAPIO_RECLAIM_DIRECT);
	return 0;
}
