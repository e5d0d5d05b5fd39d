/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Reading sockets: addresses, ports, state, cgroup. Source is always this host's end. */
#ifndef TAPIO_SOCK_H
#define TAPIO_SOCK_H

#include "ring.h"
#include <bpf/bpf_endian.h>

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6

enum tapio_tcp_state {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT = 2,
	TCP_TIME_WAIT = 6,
	TCP_CLOSE = 7,
	TCP_LISTEN = 10,
	TCP_NEW_SYN_RECV = 12,
};

static __always_inline void tapio_address_v4(__u64 *words, __be32 address)
{
	__be32 *parts = (__be32 *)words;

	parts[0] = 0;
	parts[1] = 0;
	parts[2] = bpf_htonl(0xffff);
	parts[3] = address;
}

static __always_inline void tapio_source(__u64 *words, const struct sock *sk)
{
	const __u64 *v6 = (const __u64 *)&sk->__sk_common.skc_v6_rcv_saddr;

	if (sk->__sk_common.skc_family == AF_INET6 && bpf_core_field_exists(sk->__sk_common.skc_v6_rcv_saddr)) {
		words[0] = v6[0];
		words[1] = v6[1];
	} else {
		tapio_address_v4(words, sk->__sk_common.skc_rcv_saddr);
	}
}

static __always_inline void tapio_destination(__u64 *words, const struct sock *sk)
{
	const __u64 *v6 = (const __u64 *)&sk->__sk_common.skc_v6_daddr;

	if (sk->__sk_common.skc_family == AF_INET6 && bpf_core_field_exists(sk->__sk_common.skc_v6_daddr)) {
		words[0] = v6[0];
		words[1] = v6[1];
	} else {
		tapio_address_v4(words, sk->__sk_common.skc_daddr);
	}
}

/* This end's port; 0 before there is one. A socket that closes has given it back, but keeps a copy. */
static __always_inline __u16 tapio_source_port(const struct sock *sk)
{
	__u16 port = sk->__sk_common.skc_num;

	return port ? port : bpf_ntohs(BPF_CORE_READ((const struct inet_sock *)sk, inet_sport));
}

/* The four values that every kind of connection event starts with. */
struct tapio_connection {
	__u64 source_address[2];
	__u64 destination_address[2];
	__u64 source_port;
	__u64 destination_port;
};

static __always_inline void tapio_connection(__u64 *words, const struct sock *sk)
{
	struct tapio_connection *connection = (struct tapio_connection *)words;

	tapio_source(connection->source_address, sk);
	tapio_destination(connection->destination_address, sk);
	connection->source_port = tapio_source_port(sk);
	connection->destination_port = bpf_ntohs(sk->__sk_common.skc_dport);
}

/* Whether a socket is more than the stub of a connection that begins or has ended. */
static __always_inline bool tapio_full_sock(const struct sock *sk)
{
	__u8 state = sk->__sk_common.skc_state;

	return state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV;
}

/* The cgroup of a full socket, chosen as for tasks; the v1 one is known only where it limits TCP memory. */
static __always_inline __u64 tapio_sock_cgroup(const struct sock *sk)
{
	struct cgroup *cgroup;

	if (bpf_core_field_exists(sk->sk_cgrp_data.cgroup)) {
		cgroup = sk->sk_cgrp_data.cgroup;
		if (cgroup->level > 0)
			return cgroup->kn->id;
	}
	if (settings.v1_memory && bpf_core_field_exists(sk->sk_memcg)) {
		cgroup = sk->sk_memcg->css.cgroup;
		if (cgroup->level > 0)
			return cgroup->kn->id | TAPIO_CGROUP_V1;
	}
	return 0;
}

struct tapio_ipv4 {
	__u8 version_length;
	__u8 skipped[11];
	__be32 source;
	__be32 destination;
};

struct tapio_ipv6 {
	__u8 version;
	__u8 skipped[7];
	__u64 source[2];
	__u64 destination[2];
};

struct tapio_ports {
	__be16 source;
	__be16 destination;
};

/* The connection of a segment that came in: its destination is this host's end. */
static __always_inline void tapio_segment(__u64 *words, const struct sk_buff *segment)
{
	struct tapio_connection *connection = (struct tapio_connection *)words;
	const unsigned char *network = segment->head + segment->network_header;
	const unsigned char *transport = segment->head + segment->transport_header;
	struct tapio_ports ports = {};
	struct tapio_ipv4 v4 = {};
	struct tapio_ipv6 v6 = {};

	bpf_probe_read_kernel(&v4, sizeof(v4), network);
	if (v4.version_length >> 4 == 6) {
		bpf_probe_read_kernel(&v6, sizeof(v6), network);
		connection->source_address[0] = v6.destination[0];
		connection->source_address[1] = v6.destination[1];
		connection->destination_address[0] = v6.source[0];
		connection->destination_address[1] = v6.source[1];
	} else {
		tapio_address_v4(connection->source_address, v4.destination);
		tapio_address_v4(connection->destination_address, v4.source);
	}
	bpf_probe_read_kernel(&ports, sizeof(ports), transport);
	connection->source_port = bpf_ntohs(ports.destination);
	connection->destination_port = bpf_ntohs(ports.source);
}

#endif
