/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the kernel passes in place of a siginfo pointer (include/linux/sched/signal.h). */
#ifndef TAPIO_SIGNALS_H
#define TAPIO_SIGNALS_H

#define TAPIO_SIGNAL_NOINFO 0 /* from a process */
#define TAPIO_SIGNAL_KERNEL 1 /* from the kernel */

#define SIGKILL 9
#define SI_USER 0
#define SI_KERNEL 128

#endif
