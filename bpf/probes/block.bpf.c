/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Block requests that failed or took too long, by the request's address. A request runs in whatever
 * context, so no process owns it: its cgroup is the one that the block layer charges, where that is of the
 * default hierarchy.
 */
#include "lib/owner.h"
#include "probes/block.h"

#define REQ_OP_MASK 0xff
/* The first operation that is a command of a driver (REQ_OP_DRV_IN): no sector, and errors are answers. */
#define REQ_OP_DRIVER 34

struct block_issued {
	__u64 at_ns;
	__u64 sector;
	__u32 bytes;
	__u32 requeued; /* handed back by the driver: the next issue is the same request */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct block_issued);
} block_requests SEC(".maps");

static __always_inline __u64 block_operation(struct request *request)
{
	return request->cmd_flags & REQ_OP_MASK;
}

static __always_inline __u64 block_device(struct request *request)
{
	struct gendisk *disk = request->q->disk;

	return (__u64)disk->major << 20 | disk->first_minor;
}

static __always_inline __u64 block_cgroup(struct request *request)
{
	struct bio *bio = request->bio;
	struct cgroup *cgroup;

	if (!bpf_core_field_exists(bio->bi_blkg))
		return 0;
	cgroup = bio->bi_blkg->blkcg->css.cgroup;
	return cgroup->root->hierarchy_id == 0 && cgroup->level > 0 ? cgroup->kn->id : 0;
}

SEC("?tp_btf/block_rq_issue")
int BPF_PROG(block_issue, struct request *request)
{
	struct block_issued issued = {
		.at_ns = bpf_ktime_get_boot_ns(),
		.sector = request->__sector,
		.bytes = request->__data_len,
	};
	struct block_issued *before;
	__u64 key = (__u64)request;

	if (block_operation(request) >= REQ_OP_DRIVER)
		return 0;
	before = bpf_map_lookup_elem(&block_requests, &key);
	if (before && before->requeued) {
		/* What its submitter waits counts from the first issue. */
		before->requeued = 0;
		return 0;
	}
	/* The completion of an earlier request at this address was not seen: its latency is not known. */
	if (before)
		tapio_count(TAPIO_BLOCK_AMBIGUOUS);
	if (bpf_map_update_elem(&block_requests, &key, &issued, BPF_ANY))
		tapio_count(TAPIO_BLOCK_MAP_FULL);
	return 0;
}

SEC("?tp_btf/block_rq_requeue")
int BPF_PROG(block_requeue, struct request *request)
{
	__u64 key = (__u64)request;
	struct block_issued *issued = bpf_map_lookup_elem(&block_requests, &key);

	if (issued)
		issued->requeued = 1;
	return 0;
}

static __always_inline void block_failed(struct request *request, __u64 errno, __u32 bytes)
{
	struct tapio_here here = tapio_here();
	struct tapio_block_error *record;

	record = tapio_reserve(&here, TAPIO_BLOCK_ERROR, sizeof(*record), TAPIO_URGENT);
	if (!record)
		return;
	tapio_own_cgroup(&record->header, block_cgroup(request));
	record->device = block_device(request);
	record->sector = request->__sector;
	record->bytes = bytes;
	record->errno = errno;
	record->operation = block_operation(request);
	tapio_submit(&here, record, TAPIO_URGENT);
}

static __always_inline void block_slow(struct request *request, struct block_issued *issued, __u64 latency_ns)
{
	struct tapio_here here = tapio_here();
	struct tapio_block_latency *record;

	record = tapio_reserve(&here, TAPIO_BLOCK_LATENCY, sizeof(*record), TAPIO_BULK);
	if (!record)
		return;
	tapio_own_cgroup(&record->header, block_cgroup(request));
	record->device = block_device(request);
	record->sector = issued->sector;
	record->bytes = issued->bytes;
	record->latency_ns = latency_ns;
	record->operation = block_operation(request);
	tapio_submit(&here, record, TAPIO_BULK);
}

#define EIO 5

static __always_inline __u64 block_errno(__u64 error)
{
	__u32 status = error & 0xff;

	if (!settings.block_status)
		return -(__s64)(__s32)error;
	if (status >= sizeof(settings.block_errnos) || !settings.block_errnos[status])
		return EIO;
	return settings.block_errnos[status];
}

SEC("?tp_btf/block_rq_complete")
int block_complete(__u64 *ctx)
{
	struct request *request = (void *)ctx[0];
	__u32 error = settings.block_status ? ctx[1] & 0xff : (__u32)ctx[1];
	__u32 bytes = ctx[2];
	__u64 key = (__u64)request;
	struct block_issued *issued;
	__u64 latency_ns;

	if (block_operation(request) >= REQ_OP_DRIVER)
		return 0;
	if (settings.block_error_by_complete && error)
		block_failed(request, block_errno(error), bytes);
	/* The kernel completes a request in parts; the last takes all that is left. */
	if (bytes < request->__data_len)
		return 0;
	issued = bpf_map_lookup_elem(&block_requests, &key);
	if (!issued) {
		tapio_count(TAPIO_BLOCK_UNMATCHED);
		return 0;
	}
	latency_ns = bpf_ktime_get_boot_ns() - issued->at_ns;
	if (latency_ns < settings.block_latency_ns)
		tapio_count(TAPIO_BLOCK_FAST);
	else
		block_slow(request, issued, latency_ns);
	bpf_map_delete_elem(&block_requests, &key);
	return 0;
}

/* What the kernel itself logs as an I/O error: without the attempts that were asked to be quiet. */
SEC("?tp_btf/block_rq_error")
int block_error(__u64 *ctx)
{
	block_failed((void *)ctx[0], block_errno(ctx[1]), ctx[2]);
	return 0;
}
