//! The table of probes: one row for each file of `bpf/probes/`.

use super::kernel::Kernel;

/// Which kernels need a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// All; where its tracepoint is not there, something is missing.
    Always,
    /// Those that have its tracepoint; on others another program of the probe does its work.
    WherePresent,
    /// Those whose tracepoint of this name does not give a task as its first argument.
    UnlessTask(&'static str),
}

/// One BPF program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// Its function in the BPF object: `<probe>_<hook>`.
    pub name: &'static str,
    /// The tracepoint that it attaches to.
    pub tracepoint: &'static str,
    /// The types of the leading arguments that it reads, behind pointers; empty where any will do.
    pub arguments: &'static [&'static str],
    /// Which kernels need it.
    pub used: Use,
}

/// A group of programs for one kind of signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// The name in `probes_off`, `status` and `doctor`.
    pub name: &'static str,
    /// Its programs. Each is optional: the others run without it.
    pub programs: &'static [Program],
    /// Fields that it cannot do without, as (struct, field).
    pub needs: &'static [(&'static str, &'static str)],
    /// What it cannot see where a tracepoint has fewer arguments, as (tracepoint, arguments, what).
    pub limits: &'static [(&'static str, usize, &'static str)],
    /// What it is for.
    pub doc: &'static str,
}

const fn program(
    name: &'static str,
    tracepoint: &'static str,
    arguments: &'static [&'static str],
) -> Program {
    Program { name, tracepoint, arguments, used: Use::Always }
}

/// Every probe.
pub const PROBES: &[Probe] = &[
    Probe {
        name: "block",
        programs: &[
            program("block_issue", "block_rq_issue", &["request"]),
            program("block_requeue", "block_rq_requeue", &["request"]),
            program("block_complete", "block_rq_complete", &["request", "", ""]),
            Program {
                used: Use::WherePresent,
                ..program("block_error", "block_rq_error", &["request", "blk_status_t", ""])
            },
        ],
        needs: &[("request", "__sector"), ("request_queue", "disk")],
        limits: &[],
        doc: "block requests that failed, or took longer than the threshold",
    },
    Probe {
        name: "cgroup",
        programs: &[
            program("cgroup_mkdir", "cgroup_mkdir", &["cgroup", ""]),
            program("cgroup_rmdir", "cgroup_rmdir", &["cgroup", ""]),
            program("cgroup_attach_task", "cgroup_attach_task", &["cgroup", "", "task_struct", ""]),
            program("cgroup_notify_populated", "cgroup_notify_populated", &["cgroup", "", ""]),
        ],
        needs: &[("cgroup", "kn"), ("cgroup_root", "hierarchy_id")],
        limits: &[],
        doc: "cgroups made, removed and left empty, and processes that move into one",
    },
    Probe {
        name: ERRNO,
        programs: &[program("errno_sys_exit", "sys_exit", &["pt_regs", ""])],
        needs: &[],
        limits: &[],
        doc: "system calls that failed for want of a resource, within a budget for each cgroup and errno",
    },
    Probe {
        name: "hang",
        programs: &[program("hang_process", "sched_process_hang", &["task_struct"])],
        needs: &[],
        limits: &[],
        doc: "tasks that the kernel's watchdog found asleep for too long",
    },
    Probe {
        name: LOAD,
        programs: &[program("load_sys_enter", "sys_enter", &["pt_regs", ""])],
        needs: &[],
        limits: &[],
        doc: "an event for each getpgid(2), to measure with; off unless asked for",
    },
    Probe {
        name: "net",
        programs: &[
            program("net_state", "inet_sock_set_state", &["sock", "", ""]),
            program("net_reset_received", "tcp_receive_reset", &["sock"]),
            program("net_reset_sent", "tcp_send_reset", &["sock", "sk_buff"]),
            program("net_retransmit", "tcp_retransmit_skb", &["sock"]),
        ],
        needs: &[("sock", "sk_protocol")],
        // The argument came with the tracing of resets that no socket sends, in 6.10.
        limits: &[(
            "tcp_send_reset",
            3,
            "this kernel does not trace the resets of ports that nobody listens on",
        )],
        doc: "TCP connects with their result, listeners, resets and retransmits",
    },
    Probe {
        name: "oom",
        programs: &[
            program("oom_mark_victim", "mark_victim", &[""]),
            Program {
                used: Use::UnlessTask("mark_victim"),
                ..program("oom_signal", "signal_generate", &["", "", "task_struct"])
            },
        ],
        needs: &[],
        limits: &[],
        doc: "victims of the OOM killer, with what they held",
    },
    Probe {
        name: "process",
        programs: &[
            program("process_fork", "sched_process_fork", &["task_struct", "task_struct"]),
            program("process_exec", "sched_process_exec", &["task_struct", "", "linux_binprm"]),
            program("process_exit", "sched_process_exit", &["task_struct"]),
        ],
        needs: &[],
        limits: &[],
        doc: "processes that start, become another program, and end, with status and signal",
    },
    Probe {
        name: "reclaim",
        programs: &[
            program("reclaim_memcg", "mm_vmscan_memcg_reclaim_begin", &[]),
            program("reclaim_direct", "mm_vmscan_direct_reclaim_begin", &[]),
        ],
        needs: &[],
        limits: &[],
        doc: "memory pressure before anything is killed; counted, never streamed",
    },
    Probe {
        name: "signal",
        programs: &[program("signal_generate", "signal_generate", &["", "", "task_struct", "", ""])],
        needs: &[],
        limits: &[],
        doc: "signals that end or dump a process, with their sender",
    },
];

/// The bench-only probe.
pub(super) const LOAD: &str = "load";

/// The one that every system call pays for.
pub(super) const ERRNO: &str = "errno";

impl Probe {
    /// Why this kernel cannot run the probe at all; `None` when it can.
    pub(super) fn lacks(&self, kernel: &Kernel) -> Option<String> {
        let (name, field) = self.needs.iter().find(|(name, field)| !kernel.has_field(name, field))?;
        Some(format!("this kernel has no field {field} in struct {name}"))
    }

    /// What the probe cannot see on this kernel.
    pub(super) fn limits(&self, kernel: &Kernel) -> impl Iterator<Item = &'static str> {
        let fewer = |tracepoint, wanted| {
            kernel.tracepoint(tracepoint).is_some_and(|arguments: Vec<String>| arguments.len() < wanted)
        };
        self.limits.iter().filter(move |limit| fewer(limit.0, limit.1)).map(|limit| limit.2)
    }
}

impl Program {
    /// Whether this kernel has a use for the program.
    pub(super) fn is_used(&self, kernel: &Kernel) -> bool {
        match self.used {
            Use::Always => true,
            Use::WherePresent => kernel.tracepoint(self.tracepoint).is_some(),
            Use::UnlessTask(tracepoint) => !kernel.gives_task(tracepoint),
        }
    }

    /// Why this kernel cannot run the program; `None` when it can.
    pub(super) fn lacks(&self, kernel: &Kernel) -> Option<String> {
        let Some(arguments) = kernel.tracepoint(self.tracepoint) else {
            return Some(format!("this kernel has no tracepoint {}", self.tracepoint));
        };
        let fits = |(index, &wanted): (usize, &&str)| {
            arguments.get(index).is_some_and(|found| wanted.is_empty() || found == wanted)
        };
        (!self.arguments.iter().enumerate().all(fits)).then(|| {
            format!("tracepoint {} has other arguments here: {}", self.tracepoint, arguments.join(", "))
        })
    }
}
