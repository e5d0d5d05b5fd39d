/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#include "lib/core.h"
#include <bpf/bpf_helpers.h>
#include "lib/event.h"
char LICENSE[] SEC("license") = "Dual BSD/GPL";
