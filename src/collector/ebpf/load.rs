//! Loading and attaching.
//!
//! Order: privilege, BTF, ring sizes, needs of each probe, load (again without each program that the
//! verifier refuses), rings, attach. Rings come before attach: the first event finds its ring.
//!
//! Invariants:
//! - Loading is tried at most once more than there are programs.
//! - After [`load`], what is held are mapped rings, mapped counters and one link a program: no map is looked
//!   up again, so the process may give up its privileges.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use libbpf_rs::{Map, MapCore, MapFlags, MapHandle, MapType, Object, ObjectBuilder, OpenObject, libbpf_sys};
use zerocopy::IntoBytes;

use super::attach::{Attached, attach};
use super::cpus::CpuWords;
use super::kernel::{Kernel, lacking_capabilities, read_text, v1_memory_hierarchy};
use super::log::{Capture, refusal};
use super::options::Options;
use super::rings::{RingPlan, RingPlanError, parse_cpu_list};
use super::settings::Constants;
use super::states::States;
use crate::health::ProbeHealth;
use crate::sys::Ring;

/// The compiled programs.
const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tapio.bpf.o"));

/// Why there are no kernel events. Stop, except where a variant says otherwise: the other collectors go on.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The process may not load BPF programs. Skip the collector until it is started with the privilege.
    #[error(
        "loading BPF programs needs {lacking} (or CAP_SYS_ADMIN before Linux 5.8): run as root, or grant it with \
         `setcap cap_bpf,cap_perfmon+ep` on the binary or `AmbientCapabilities=CAP_BPF CAP_PERFMON` in the unit"
    )]
    Privilege {
        /// The capabilities that are lacking.
        lacking: String,
    },
    /// The kernel does not describe its types. Skip the collector: only another kernel helps.
    #[error(
        "this kernel has no BTF ({reason}): run a kernel with CONFIG_DEBUG_INFO_BTF=y, \
         which shows as /sys/kernel/btf/vmlinux"
    )]
    NoBtf {
        /// What reading it said.
        reason: String,
    },
    /// The limit of the ring memory does not fit this machine.
    #[error(transparent)]
    Rings(#[from] RingPlanError),
    /// A file of `/proc` or `/sys`, or a mapping, failed.
    #[error("cannot set up the BPF rings: {0}")]
    Io(#[from] std::io::Error),
    /// The kernel refused the object as a whole.
    #[error("the kernel refused to {action}: {reason}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// What it said.
        reason: String,
    },
    /// No probe could be attached: there is nothing to read.
    #[error("no probe can run on this kernel: {reasons}")]
    NoProbe {
        /// Each probe with its reason.
        reasons: String,
    },
}

/// What runs in the kernel. Dropping it detaches everything.
pub struct Loaded {
    /// The bulk ring of each CPU, with the CPU.
    pub bulk: Vec<(u32, Ring)>,
    /// The ring for what may never be displaced.
    pub urgent: Ring,
    /// The counters of each CPU.
    pub cpus: Arc<CpuWords>,
    /// How each probe of [`PROBES`](super::PROBES) is.
    pub probes: BTreeMap<String, ProbeHealth>,
    /// The sizes of the rings.
    pub plan: RingPlan,
    /// What keeps the programs attached.
    pub attached: Attached,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Loaded")
            .field("plan", &self.plan)
            .field("probes", &self.probes)
            .field("attached", &self.attached)
            .finish_non_exhaustive()
    }
}

impl Loaded {
    /// Parts what is read (the bulk rings and the urgent one) from what keeps the programs attached.
    #[must_use]
    pub fn split(self) -> (Vec<(u32, Ring)>, Ring, Attached) {
        (self.bulk, self.urgent, self.attached)
    }

    /// Detaches every program. What is in the rings stays, to be read to the end.
    pub fn detach(&mut self) {
        self.attached = Attached::default();
    }
}

/// Loads and attaches every probe that this kernel can run.
///
/// # Errors
/// [`LoadError`], when nothing at all can run.
pub fn load(options: &Options) -> Result<Loaded, LoadError> {
    let lacking = lacking_capabilities(&read_text("/proc/self/status")?);
    if !lacking.is_empty() {
        return Err(LoadError::Privilege { lacking: lacking.join(" and ") });
    }
    let kernel = Kernel::read().map_err(|error| LoadError::NoBtf { reason: error.to_string() })?;
    let cpus = CpuSet::read()?;
    let plan =
        RingPlan::new(options.ring_bytes, cpus.online.len() as u64, rustix::param::page_size() as u64)?;
    let v1_memory = v1_memory_hierarchy(&read_text("/proc/cgroups").unwrap_or_default());
    let constants = Constants::new(options, &kernel, v1_memory);

    let mut states = States::plan(options, &kernel);
    let object = load_object(&mut states, &constants, &cpus, plan)?;
    let bulk = make_rings(&object, &cpus, plan)?;
    let urgent =
        Ring::map(map(&object, "urgent_ring")?.as_fd().try_clone_to_owned()?, bytes(plan.urgent_bytes)?)?;
    let words = CpuWords::map(map(&object, "cpus")?.as_fd(), cpus.possible as usize)?;
    let attached = attach(&object, &mut states);
    let probes = states.health();
    if attached.is_empty() {
        return Err(no_probe(&probes));
    }
    Ok(Loaded { bulk, urgent, cpus: Arc::new(words), probes, plan, attached })
}

/// How each probe would be here. As far as this process may, the programs are given to the verifier and let
/// go again; none is attached. Without the privilege, what the kernel has must do.
///
/// # Errors
/// [`LoadError`] for what concerns all probes, other than the privilege.
pub fn probe_report(options: &Options) -> Result<BTreeMap<String, ProbeHealth>, LoadError> {
    let kernel = Kernel::read().map_err(|error| LoadError::NoBtf { reason: error.to_string() })?;
    let cpus = CpuSet::read()?;
    let page = rustix::param::page_size() as u64;
    let plan = RingPlan::new(options.ring_bytes, cpus.online.len() as u64, page)?;
    let mut states = States::plan(options, &kernel);
    if lacking_capabilities(&read_text("/proc/self/status")?).is_empty() {
        let v1_memory = v1_memory_hierarchy(&read_text("/proc/cgroups").unwrap_or_default());
        load_object(&mut states, &Constants::new(options, &kernel, v1_memory), &cpus, plan)?;
    }
    Ok(states.health())
}

/// The capabilities that loading needs and this process lacks.
///
/// # Errors
/// When `/proc` does not say.
pub fn lacking() -> std::io::Result<Vec<&'static str>> {
    Ok(lacking_capabilities(&read_text("/proc/self/status")?))
}

fn no_probe(probes: &BTreeMap<String, ProbeHealth>) -> LoadError {
    let reasons: Vec<String> =
        probes.iter().map(|(name, health)| format!("{name}: {}", health.reason)).collect();
    LoadError::NoProbe { reasons: reasons.join("; ") }
}

/// The CPUs of this machine.
struct CpuSet {
    online: BTreeSet<u32>,
    /// One more than the highest number that a CPU can have.
    possible: u32,
}

impl CpuSet {
    fn read() -> Result<Self, LoadError> {
        let online = parse_cpu_list(&read_text("/sys/devices/system/cpu/online")?);
        let possible = parse_cpu_list(&read_text("/sys/devices/system/cpu/possible")?);
        let highest = possible.union(&online).max().copied().unwrap_or(0);
        Ok(Self { online, possible: highest + 1 })
    }
}

/// Loads the object; again without each program that the kernel refuses.
fn load_object(
    states: &mut States,
    constants: &Constants,
    cpus: &CpuSet,
    plan: RingPlan,
) -> Result<Object, LoadError> {
    let capture = Capture::start();
    loop {
        let error = match open(states, constants, cpus, plan).and_then(OpenObject::load) {
            Ok(object) => return Ok(object),
            Err(error) => error,
        };
        let text = capture.take();
        // Each round refuses one more program, so there are at most as many rounds as programs.
        match refusal(&text) {
            Some(refusal) if states.refuse(&refusal.program, &refusal.reason) => {}
            _ => return Err(refused_object(&error, &text)),
        }
    }
}

fn open(
    states: &States,
    constants: &Constants,
    cpus: &CpuSet,
    plan: RingPlan,
) -> Result<OpenObject, libbpf_rs::Error> {
    let mut object = ObjectBuilder::default().name("tapio")?.open_memory(OBJECT)?;
    for mut program in object.progs_mut() {
        let wanted = program.name().to_str().is_some_and(|name| states.wants(name));
        program.set_autoload(wanted);
    }
    for mut map in object.maps_mut() {
        match map.name().to_str() {
            Some("cpus" | "bulk_rings") => map.set_max_entries(cpus.possible)?,
            Some("urgent_ring") => {
                map.set_max_entries(u32::try_from(plan.urgent_bytes).unwrap_or(u32::MAX))?
            }
            Some(".rodata.settings") => map.set_initial_value(constants.as_bytes())?,
            _ => {}
        }
    }
    Ok(object)
}

/// What is left to say when no single program is to blame.
fn refused_object(error: &libbpf_rs::Error, text: &str) -> LoadError {
    if error.kind() == libbpf_rs::ErrorKind::PermissionDenied {
        return LoadError::Privilege {
            lacking: "CAP_BPF and CAP_PERFMON in the initial user namespace".into(),
        };
    }
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    LoadError::Kernel { action: "load the BPF object", reason: format!("{error:#}: {last}") }
}

fn map<'object>(object: &'object Object, name: &str) -> Result<Map<'object>, LoadError> {
    object.maps().find(|map| map.name() == name).ok_or_else(|| LoadError::Kernel {
        action: "load the BPF object",
        reason: format!("it has no map {name}"),
    })
}

fn bytes(size: u64) -> Result<usize, std::io::Error> {
    usize::try_from(size).map_err(std::io::Error::other)
}

/// Makes a bulk ring for each CPU that is online. One that comes online later shares the first one's:
/// rings take several writers, so its events are slower and not lost.
fn make_rings(object: &Object, cpus: &CpuSet, plan: RingPlan) -> Result<Vec<(u32, Ring)>, LoadError> {
    let outer = map(object, "bulk_rings")?;
    let failed = |error: libbpf_rs::Error| LoadError::Kernel {
        action: "make the rings",
        reason: format!("{error:#}"),
    };
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as u64,
        ..Default::default()
    };
    let size = u32::try_from(plan.bulk_bytes).unwrap_or(u32::MAX);
    let mut rings = Vec::with_capacity(cpus.online.len());
    for &cpu in &cpus.online {
        let name = format!("tapio_{cpu}");
        let inner = MapHandle::create(MapType::RingBuf, Some(name), 0, 0, size, &options).map_err(failed)?;
        let fd = inner.as_fd().as_raw_fd().to_ne_bytes();
        if rings.is_empty() {
            for offline in (0..cpus.possible).filter(|cpu| !cpus.online.contains(cpu)) {
                outer.update(&offline.to_ne_bytes(), &fd, MapFlags::ANY).map_err(failed)?;
            }
        }
        outer.update(&cpu.to_ne_bytes(), &fd, MapFlags::ANY).map_err(failed)?;
        rings.push((cpu, Ring::map(inner.as_fd().try_clone_to_owned()?, bytes(plan.bulk_bytes)?)?));
    }
    Ok(rings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    /// Scenario: this kernel is told that it is an older one: tracepoints with fewer arguments, errors as
    /// errnos.
    /// Guarantees: the verifier takes what those kernels would run, so that nothing rots unseen.
    #[test]
    fn live_older_paths_load() {
        if !rustix::process::geteuid().is_root() {
            let line = "\nSKIPPED live_older_paths_load: loading BPF programs needs root\n";
            std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).expect("open");
            return;
        }
        let options = Options { load_probe: true, ..Options::from(&Settings::default()) };
        let kernel = Kernel::read().expect("has BTF");
        let constants = Constants {
            exit_has_group_dead: 0,
            victim_is_task: 0,
            reset_has_reason: 0,
            block_status: 0,
            block_error_by_complete: 1,
            v1_memory: 1,
            ..Constants::new(&options, &kernel, Some(4))
        };
        let mut states = States::everything();
        let cpus = CpuSet::read().expect("sysfs");
        let plan = RingPlan::new(1 << 20, 2, rustix::param::page_size() as u64).expect("fits");
        let object = load_object(&mut states, &constants, &cpus, plan).expect("loads");
        assert_eq!(states.health(), States::everything().health(), "something was refused");
        assert!(object.progs().all(|program| program.autoload()));
    }
}
