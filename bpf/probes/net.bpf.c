/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * TCP: connects with their result, listeners, resets, retransmits. State changes run in whatever
 * context, so the owner is saved where the process itself is at work: at SYN_SENT and at LISTEN.
 */
#include "lib/budget.h"
#include "lib/owner.h"
#include "lib/sock.h"
#include "probes/net.h"

#define EADDRNOTAVAIL 99
#define ECANCELED 125

struct net_socket {
	struct tapio_owner owner;
	__u64 since_ns;
};

/* Two maps: connects to a peer that does not answer leave the listeners their room. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct net_socket);
} net_connects SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct net_socket);
} net_listeners SEC(".maps");

static __always_inline void net_remember(void *map, __u64 key)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct net_socket socket = {
		.owner.cgroup = tapio_task_cgroup(task),
		.owner.start_ns = tapio_start(task),
		.owner.tgid = task->tgid,
		.since_ns = bpf_ktime_get_boot_ns(),
	};

	if (bpf_map_update_elem(map, &key, &socket, BPF_ANY))
		tapio_count(TAPIO_SOCKET_MAP_FULL);
}

static __always_inline void net_own(struct tapio_header *header, struct net_socket *socket)
{
	__u32 tgid = socket->owner.tgid;

	header->cgroup = socket->owner.cgroup;
	header->start_ns = socket->owner.start_ns;
	/* Not to be merged with a load from a task: the verifier wants one type of pointer for each load. */
	barrier_var(tgid);
	header->tgid = tgid;
}

/*
 * Why a connect failed. The socket has the error already: ECONNREFUSED by a reset, ETIMEDOUT without an
 * answer, EHOSTUNREACH and its like by ICMP. Without one the attempt ended on this side: no port was
 * free, or the program gave up before the peer answered.
 */
static __always_inline __u64 net_connect_errno(const struct sock *sk)
{
	if (sk->sk_err)
		return sk->sk_err;
	return tapio_source_port(sk) ? ECANCELED : EADDRNOTAVAIL;
}

static __always_inline void net_connect_ended(const struct sock *sk, int state)
{
	__u64 key = (__u64)sk;
	struct net_socket *socket = bpf_map_lookup_elem(&net_connects, &key);
	struct tapio_tcp_connect *record;
	struct tapio_here here;

	if (state != TCP_CLOSE && !settings.connect_success) {
		tapio_count(TAPIO_CONNECTS_FILTERED);
		goto forget;
	}
	here = tapio_here();
	record = tapio_reserve(&here, TAPIO_TCP_CONNECT, sizeof(*record), TAPIO_BULK);
	if (!record)
		goto forget;
	if (socket)
		net_own(&record->header, socket);
	else
		tapio_own_cgroup(&record->header, tapio_sock_cgroup(sk));
	tapio_connection(record->source_address, sk);
	record->result_errno = state == TCP_CLOSE ? net_connect_errno(sk) : 0;
	record->duration_ns = socket ? record->header.time_ns - socket->since_ns : 0;
	tapio_submit(&here, record, TAPIO_BULK);
forget:
	if (socket)
		bpf_map_delete_elem(&net_connects, &key);
}

static __always_inline void net_listen(const struct sock *sk, bool listening)
{
	__u64 key = (__u64)sk;
	struct net_socket *socket = bpf_map_lookup_elem(&net_listeners, &key);
	struct tapio_here here = tapio_here();
	struct tapio_tcp_listen *record;

	record = tapio_reserve(&here, TAPIO_TCP_LISTEN, sizeof(*record), TAPIO_BULK);
	if (record) {
		/* A listener from before: whoever closes it has it, if not made it. */
		if (socket)
			net_own(&record->header, socket);
		else
			tapio_own_task(&record->header, bpf_get_current_task_btf());
		tapio_source(record->address, sk);
		record->port = tapio_source_port(sk);
		record->listening = listening;
		tapio_submit(&here, record, TAPIO_BULK);
	}
	if (socket && !listening)
		bpf_map_delete_elem(&net_listeners, &key);
}

SEC("?tp_btf/inet_sock_set_state")
int BPF_PROG(net_state, const struct sock *sk, int before, int after)
{
	if (before != TCP_SYN_SENT && after != TCP_SYN_SENT && after != TCP_LISTEN &&
	    !(before == TCP_LISTEN && after == TCP_CLOSE))
		return 0;
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (after == TCP_SYN_SENT) {
		net_remember(&net_connects, (__u64)sk);
	} else if (before == TCP_SYN_SENT) {
		net_connect_ended(sk, after);
	} else if (after == TCP_LISTEN) {
		net_remember(&net_listeners, (__u64)sk);
		net_listen(sk, true);
	} else {
		net_listen(sk, false);
	}
	return 0;
}

/* A reset that answers a SYN is the result of that connect, which net_state reports. */
SEC("?tp_btf/tcp_receive_reset")
int BPF_PROG(net_reset_received, struct sock *sk)
{
	struct tapio_tcp_reset_received *record;
	struct tapio_here here;
	__u32 suppressed;
	__u64 cgroup;

	if (sk->__sk_common.skc_state == TCP_SYN_SENT)
		return 0;
	cgroup = tapio_sock_cgroup(sk);
	if (!tapio_take(cgroup, TAPIO_BUDGET_RESET_RECEIVED, settings.retransmits_per_second, &suppressed)) {
		tapio_count(TAPIO_RESETS_SUPPRESSED);
		return 0;
	}
	here = tapio_here();
	record = tapio_reserve(&here, TAPIO_TCP_RESET_RECEIVED, sizeof(*record), TAPIO_BULK);
	if (!record)
		return 0;
	tapio_own_cgroup(&record->header, cgroup);
	tapio_connection(record->source_address, sk);
	record->state = sk->__sk_common.skc_state;
	tapio_submit(&here, record, TAPIO_BULK);
	return 0;
}

/* Why a reset is sent, as event.rs has it: 1 when nobody listens, else the kernel's sk_rst_reason or 0. */
enum sk_rst_reason { SK_RST_REASON_NO_SOCKET = 1 };

#define NET_NO_SOCKET 1

static __always_inline __u64 net_reset_reason(__u64 *ctx)
{
	__u64 reason;

	if (!settings.reset_has_reason)
		return ctx[0] ? 0 : NET_NO_SOCKET;
	reason = (__u32)ctx[2];
	if (bpf_core_enum_value_exists(enum sk_rst_reason, SK_RST_REASON_NO_SOCKET) &&
	    reason == bpf_core_enum_value(enum sk_rst_reason, SK_RST_REASON_NO_SOCKET))
		return NET_NO_SOCKET;
	return reason;
}

SEC("?tp_btf/tcp_send_reset")
int net_reset_sent(__u64 *ctx)
{
	const struct sock *sk = (void *)ctx[0];
	const struct sk_buff *segment = (void *)ctx[1];
	struct tapio_tcp_reset_sent *record;
	struct tapio_here here;
	__u32 suppressed;
	bool full = sk && tapio_full_sock(sk);
	__u64 cgroup = 0;

	if (sk && full)
		cgroup = tapio_sock_cgroup(sk);
	if (!tapio_take(cgroup, TAPIO_BUDGET_RESET_SENT, settings.retransmits_per_second, &suppressed)) {
		tapio_count(TAPIO_RESETS_SUPPRESSED);
		return 0;
	}
	here = tapio_here();
	record = tapio_reserve(&here, TAPIO_TCP_RESET_SENT, sizeof(*record), TAPIO_BULK);
	if (!record)
		return 0;
	tapio_own_cgroup(&record->header, cgroup);
	if (segment)
		tapio_segment(record->source_address, segment);
	else if (sk)
		tapio_connection(record->source_address, sk);
	else
		__builtin_memset(record->source_address, 0, sizeof(struct tapio_connection));
	record->state = sk ? sk->__sk_common.skc_state : 0;
	record->reason = net_reset_reason(ctx);
	tapio_submit(&here, record, TAPIO_BULK);
	return 0;
}

/* A SYN that is sent again says that the peer does not answer, and there are few of them. */
SEC("?tp_btf/tcp_retransmit_skb")
int BPF_PROG(net_retransmit, const struct sock *sk)
{
	__u8 state = sk->__sk_common.skc_state;
	struct tapio_tcp_retransmit *record;
	struct tapio_here here;
	__u32 suppressed;
	__u64 cgroup;

	cgroup = tapio_sock_cgroup(sk);
	if (state != TCP_SYN_SENT &&
	    !tapio_take(cgroup, TAPIO_BUDGET_RETRANSMIT, settings.retransmits_per_second, &suppressed)) {
		tapio_count(TAPIO_RETRANSMITS_SUPPRESSED);
		return 0;
	}
	here = tapio_here();
	record = tapio_reserve(&here, TAPIO_TCP_RETRANSMIT, sizeof(*record), TAPIO_BULK);
	if (!record)
		return 0;
	tapio_own_cgroup(&record->header, cgroup);
	tapio_connection(record->source_address, sk);
	record->state = state;
	tapio_submit(&here, record, TAPIO_BULK);
	return 0;
}
