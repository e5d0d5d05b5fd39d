//! The table of probes: one row for each file of `bpf/probes/`.

use super::kernel::Kernel;

/// One BPF program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// Its function in the BPF object: `<probe>_<hook>`.
    pub name: &'static str,
    /// The tracepoint that it attaches to.
    pub tracepoint: &'static str,
    /// The types of the leading arguments that it reads, behind pointers; empty where any will do.
    pub arguments: &'static [&'static str],
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
    /// What it is for.
    pub doc: &'static str,
}

const fn program(name: &'static str, tracepoint: &'static str, arguments: &'static [&'static str]) -> Program {
    Program { name, tracepoint, arguments }
}

/// Every probe.
pub const PROBES: &[Probe] = &[
    Probe {
        name: "process",
        programs: &[
            program("process_fork", "sched_process_fork", &["task_struct", "task_struct"]),
            program("process_exec", "sched_process_exec", &["task_struct", "", "linux_binprm"]),
            program("process_exit", "sched_process_exit", &["task_struct"]),
        ],
        needs: &[],
        doc: "processes that start, become another program, and end, with status and signal",
    },
    Probe {
        name: LOAD,
        programs: &[program("load_sys_enter", "sys_enter", &["pt_regs", ""])],
        needs: &[],
        doc: "an event for each getpgid(2), to measure with; off unless asked for",
    },
];

/// The bench-only probe.
pub(super) const LOAD: &str = "load";

impl Probe {
    /// Why this kernel cannot run the probe at all; `None` when it can.
    pub(super) fn lacks(&self, kernel: &Kernel) -> Option<String> {
        let (name, field) = self.needs.iter().find(|(name, field)| !kernel.has_field(name, field))?;
        Some(format!("this kernel has no field {field} in struct {name}"))
    }
}

impl Program {
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
