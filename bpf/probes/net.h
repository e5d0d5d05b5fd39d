/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef TAPIO_NET_H
#define TAPIO_NET_H

struct tapio_tcp_connect {
	struct tapio_header header;
	__u64 source_address[2];
	__u64 destination_address[2];
	__u64 source_port;
	__u64 destination_port;
	__u64 result_errno;
	__u64 duration_ns;
};

struct tapio_tcp_listen {
	struct tapio_header header;
	__u64 address[2];
	__u64 port;
	__u64 listening;
};

struct tapio_tcp_reset_received {
	struct tapio_header header;
	__u64 source_address[2];
	__u64 destination_address[2];
	__u64 source_port;
	__u64 destination_port;
	__u64 state;
};

struct tapio_tcp_reset_sent {
	struct tapio_header header;
	__u64 source_address[2];
	__u64 destination_address[2];
	__u64 source_port;
	__u64 destination_port;
	__u64 state;
	__u64 reason;
};

struct tapio_tcp_retransmit {
	struct tapio_header header;
	__u64 source_address[2];
	__u64 destination_address[2];
	__u64 source_port;
	__u64 destination_port;
	__u64 state;
};

TAPIO_RECORD(TAPIO_TCP_CONNECT, tapio_tcp_connect);
TAPIO_RECORD(TAPIO_TCP_LISTEN, tapio_tcp_listen);
TAPIO_RECORD(TAPIO_TCP_RESET_RECEIVED, tapio_tcp_reset_received);
TAPIO_RECORD(TAPIO_TCP_RESET_SENT, tapio_tcp_reset_sent);
TAPIO_RECORD(TAPIO_TCP_RETRANSMIT, tapio_tcp_retransmit);

#endif
