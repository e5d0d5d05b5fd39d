//! What this kernel has, by its own BTF: tracepoints, their arguments, fields, hierarchies, capabilities.

use std::io;

use libbpf_rs::btf::types::{Composite, FuncProto, Typedef};
use libbpf_rs::btf::{Btf, BtfType};

const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// The types of the running kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    btf: Btf<'static>,
}

impl Kernel {
    /// Reads the BTF of the running kernel.
    ///
    /// # Errors
    /// Of libbpf, when there is none.
    pub(super) fn read() -> Result<Self, libbpf_rs::Error> {
        Ok(Self { btf: Btf::from_vmlinux()? })
    }

    /// The types of a tracepoint's arguments, by name; `None` when the kernel has no such tracepoint.
    pub(super) fn tracepoint(&self, name: &str) -> Option<Vec<String>> {
        let typedef = self.btf.type_by_name::<Typedef<'_>>(&format!("btf_trace_{name}"))?;
        let proto = FuncProto::try_from(typedef.next_type()?.next_type()?).ok()?;
        // The first argument is the tracing program's own.
        let arguments = proto.iter().skip(1);
        Some(arguments.filter_map(|argument| self.btf.type_by_id(argument.ty)).map(type_name).collect())
    }

    /// Whether a tracepoint's first argument is a task.
    pub(super) fn gives_task(&self, tracepoint: &str) -> bool {
        self.tracepoint(tracepoint)
            .is_some_and(|arguments| arguments.first().is_some_and(|name| name == "task_struct"))
    }

    /// Whether a struct or union of the kernel has a field.
    pub(super) fn has_field(&self, name: &str, field: &str) -> bool {
        self.btf.type_by_kind::<Composite<'_>>().any(|composite| {
            composite.name().is_some_and(|found| found == name)
                && composite.iter().any(|member| member.name.is_some_and(|found| found == field))
        })
    }
}

/// The name of a type behind its pointers and qualifiers; empty for one without a name.
fn type_name(mut ty: BtfType<'_>) -> String {
    loop {
        if let Some(name) = ty.name() {
            return name.to_string_lossy().into_owned();
        }
        match ty.next_type() {
            Some(next) => ty = next,
            None => return String::new(),
        }
    }
}

/// The hierarchy id of the memory controller where it is on a v1 hierarchy, from the text of `/proc/cgroups`.
pub(super) fn v1_memory_hierarchy(cgroups: &str) -> Option<u32> {
    let line = cgroups.lines().find(|line| line.split_whitespace().next() == Some("memory"))?;
    let hierarchy = line.split_whitespace().nth(1)?.parse().ok()?;
    // 0 is the default hierarchy, or none.
    (hierarchy != 0).then_some(hierarchy)
}

/// The capabilities that loading needs and this process lacks, from the text of `/proc/self/status`.
pub(super) fn lacking_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let has = |capability: u32| effective >> capability & 1 == 1;
    if has(CAP_SYS_ADMIN) {
        return Vec::new();
    }
    let needs = [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")];
    needs.into_iter().filter(|&(capability, _)| !has(capability)).map(|(_, name)| name).collect()
}

/// The text of a file of `/proc` or `/sys`.
pub(super) fn read_text(path: &str) -> io::Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {path}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: capability masks of root, of CAP_BPF alone, of CAP_BPF with CAP_PERFMON, of nobody.
    /// Guarantees: exactly what is lacking is named; CAP_SYS_ADMIN stands for both.
    #[test]
    fn capabilities_are_named() {
        let lacking = |mask: u64| lacking_capabilities(&format!("Name:\tx\nCapEff:\t{mask:016x}\n"));
        assert!(lacking(0x1ff_ffff_ffff).is_empty());
        assert!(lacking(1 << CAP_SYS_ADMIN).is_empty());
        assert!(lacking(1 << CAP_BPF | 1 << CAP_PERFMON).is_empty());
        assert_eq!(lacking(1 << CAP_BPF), ["CAP_PERFMON"]);
        assert_eq!(lacking(0), ["CAP_BPF", "CAP_PERFMON"]);
    }

    /// Scenario: `/proc/cgroups` of a hybrid host, of a pure v2 host, of a kernel without the controller.
    /// Guarantees: only a v1 hierarchy is named.
    #[test]
    fn memory_hierarchy_is_found() {
        let header = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n";
        assert_eq!(v1_memory_hierarchy(&format!("{header}cpu\t1\t1\t1\nmemory\t4\t25\t1\n")), Some(4));
        assert_eq!(v1_memory_hierarchy(&format!("{header}memory\t0\t25\t1\n")), None);
        assert_eq!(v1_memory_hierarchy(header), None);
    }
}
