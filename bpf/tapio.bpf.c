/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * All probes in one object, so that they share rings, counters and one load. Every program is in a
 * "?" section: off until src/collector/ebpf/probes.rs asks for it.
 */
#include "probes/load.bpf.c"
#include "probes/process.bpf.c"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
