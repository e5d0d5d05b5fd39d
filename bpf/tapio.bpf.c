/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * All probes in one object, so that they share rings, counters and one load. Every program is in a
 * "?" section: off until src/collector/ebpf/probes.rs asks for it.
 */
#include "probes/block.bpf.c"
#include "probes/cgroup.bpf.c"
#include "probes/errno.bpf.c"
#include "probes/hang.bpf.c"
#include "probes/load.bpf.c"
#include "probes/net.bpf.c"
#include "probes/oom.bpf.c"
#include "probes/process.bpf.c"
#include "probes/reclaim.bpf.c"
#include "probes/signal.bpf.c"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
