//! From events to facts: detectors, each a pure state machine over the events of its kinds.
//!
//! `fact` is what they make, `details` names what facts may carry, `seen` is an event with its owner as they see it.
//! One [`Detectors`] looks at the events of the whole host: what one owner does explains another.
//!
//! Invariants:
//! - A detector does no I/O and asks no clock: time is that of the events.
//! - What it remembers is bounded, and what had to make room is counted.
//! - [`DETECTORS`] is the one table: a detector without a row does not run, one without a word on what it does fails a
//!   test.

mod app;
mod bounded;
pub mod certificates;
mod claims;
mod clock;
mod compare;
mod containers;
mod deaths;
mod details;
mod devices;
mod disks;
mod errnos;
mod fact;
mod gaps;
mod gauges;
mod hindsight;
mod kernel;
mod messages;
mod names;
mod net;
mod objects;
mod oom;
mod ports;
mod relations;
mod scan;
mod seen;
mod space;
mod specs;
mod text;
mod units;

pub use details::{COMMON_DETAILS, DETAILS, is_detail};
pub use fact::{
    EVENTS_MAX, EventId, FACT_KINDS, Fact, FactKind, FactKindInfo, KEYS_MAX, Key, KeyKind, Role, Subject,
    Value,
};
pub use gaps::ledger_gap;
pub use hindsight::{Hindsight, News, Shown};
pub use seen::Seen;

use crate::entity::Entity;
use crate::event::{Event, Kind};
use devices::Devices;
use ports::Ports;

/// A copy of a detector, whatever it is.
pub trait Copied {
    /// With all that it remembers.
    fn copied(&self) -> Box<dyn Detector>;
}

impl<D: Detector + Clone + 'static> Copied for D {
    fn copied(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn Detector> {
    fn clone(&self) -> Self {
        (**self).copied()
    }
}

/// A state machine that makes facts of the events of some kinds.
pub trait Detector: Copied + Send + std::fmt::Debug {
    /// Looks at an event of one of its kinds.
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>);

    /// Says what it held back until now.
    fn tick(&mut self, now_ns: u64, out: &mut Vec<Fact>) {
        let _ = (now_ns, out);
    }

    /// What it forgot because there was more than it has room for.
    fn evicted(&self) -> u64 {
        0
    }
}

/// One row of [`DETECTORS`].
#[derive(Debug, Clone, Copy)]
pub struct DetectorInfo {
    /// The name of its file.
    pub name: &'static str,
    /// What it finds, in one sentence without its full stop.
    pub doc: &'static str,
    /// The kinds that it looks at: bit N for the kind with number N.
    pub kinds: u128,
    /// Makes one that has seen nothing.
    pub make: fn() -> Box<dyn Detector>,
}

const fn set(kinds: &[Kind]) -> u128 {
    let mut set = 0;
    let mut index = 0;
    while index < kinds.len() {
        set |= 1 << kinds[index] as u32;
        index += 1;
    }
    set
}

fn make<D: Detector + Default + 'static>() -> Box<dyn Detector> {
    Box::new(D::default())
}

macro_rules! detectors {
    ($( $file:ident :: $detector:ident, [$($kind:ident),+], $doc:literal; )+) => {
        /// Every detector.
        pub const DETECTORS: &[DetectorInfo] = &[$( DetectorInfo {
            name: stringify!($file), doc: $doc, kinds: set(&[$(Kind::$kind),+]), make: make::<$file::$detector>,
        } ),+];
    };
}

detectors! {
    deaths::Deaths, [Signal, ProcessExit, CgroupEmpty, CgroupCreated, CgroupAttached],
        "crashes, aborts, and kills with who sent them";
    oom::Oom, [OomVictim, LogRecord, CgroupUsage, UnitLimits], "victims of the OOM killer, and whose memory limit was hit";
    net::Net, [TcpListen, TcpConnect, TcpResetSent, TcpRetransmit],
        "listeners, refused and unanswered connections, storms of retransmits";
    space::Space, [SyscallError, FilesystemUsage, LogRecord], "file systems and quotas that are full, and who failed of it";
    errnos::Errnos, [SyscallError, BlockError, LogRecord], "limits on files, tasks and ports that system calls ran into";
    disks::Disks, [BlockError, BlockLatency, FilesystemUsage, LogRecord],
        "block devices that fail or are slow, file systems that became read-only";
    kernel::Kernel, [LogRecord, ProcessHang, Signal], "what the kernel's log says of tasks, links, ports and processors";
    messages::Messages, [LogRecord], "entries of systemd in the journal: failures, restarts, clocks, core dumps";
    app::App, [LogRecord], "words in the logs of programs that name a failure, and their last errors";
    units::Units, [UnitState, UnitJob], "states and jobs of units";
    relations::Relations, [UnitRelations, UnitLimits], "what units need of each other, and what they may use";
    containers::Containers, [ContainerState, PodState], "containers and pods as the API shows them";
    objects::Objects, [ObjectEvent, ObjectChange, EndpointsReady, NodeCondition],
        "Events, workloads, endpoints and nodes of the API";
    compare::Compare, [ObjectEvent, ObjectChange, EndpointsReady, PodState, ContainerState, TcpConnect],
        "objects of the API that do not fit each other";
    gauges::Gauges, [CgroupUsage, FilesystemUsage, NodeUsage], "trends of limited resources, throttling, refused forks";
    certificates::Certificates, [CertificateEnd], "certificates that end soon, or did";
    clock::Clock, [ClockStep], "steps of the wall clock";
    gaps::Gaps, [LogGap, WatchGap, ManagerState], "what sources missed";
}

/// The kinds that any detector looks at: bit N for the kind with number N.
pub const WATCHED: u128 = {
    let mut kinds = 0;
    let mut index = 0;
    while index < DETECTORS.len() {
        kinds |= DETECTORS[index].kinds;
        index += 1;
    }
    kinds
};

/// Whether a detector can make anything of this event; costs a few loads. For those that pass events on.
#[must_use]
#[inline]
pub fn is_watched(event: &Event<'_>) -> bool {
    let kind = event.header().kind;
    // What happened before this boot explains nothing in it.
    if WATCHED >> (kind & 127) & 1 == 0 || event.header().time_ns >> 63 == 1 {
        return false;
    }
    let slots = event.slots();
    match event.info().kind {
        // Ends in order and connections that succeed are most of a host's life.
        Kind::ProcessExit => slots.iter().take(2).any(|&word| word != 0),
        Kind::TcpConnect => event.slot("result_errno").is_some_and(|words| words.first() != Some(&0)),
        _ => true,
    }
}

/// All detectors of a host. They take events as they come: [`Hindsight`] shows them in order.
#[derive(Debug, Clone)]
pub struct Detectors {
    host: String,
    /// See [`Seen::above`].
    above: [String; 2],
    devices: Devices,
    ports: Ports,
    detectors: Vec<(u128, Box<dyn Detector>)>,
}

impl Detectors {
    /// Detectors that have seen nothing, of the host of this name.
    #[must_use]
    pub fn new(host: &str) -> Self {
        let detectors = DETECTORS.iter().map(|info| (info.kinds, (info.make)())).collect();
        Self {
            host: host.to_owned(),
            above: Default::default(),
            devices: Devices::default(),
            ports: Ports::default(),
            detectors,
        }
    }

    /// The name of the host.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Looks at one event that [`is_watched`], by its name, and appends what it says.
    pub fn event(&mut self, event: &Event<'_>, owner: &Entity, id: EventId, out: &mut Vec<Fact>) {
        let Self { host, above, devices, ports, detectors } = self;
        if let Some((v1, found)) = seen::above(event, owner) {
            above[usize::from(v1)] = found;
        }
        let seen = Seen { event: *event, owner, id, host, above };
        devices.learn(&seen);
        ports.learn(&seen);
        let first = out.len();
        let bit = 1 << (event.header().kind & 127);
        for (_, detector) in detectors.iter_mut().filter(|(kinds, _)| kinds & bit != 0) {
            detector.event(&seen, out);
        }
        for fact in out.iter_mut().skip(first) {
            devices.complete(fact);
            ports.complete(fact);
        }
    }

    /// Appends what was held back until now, `CLOCK_BOOTTIME` nanoseconds.
    pub fn tick(&mut self, now_ns: u64, out: &mut Vec<Fact>) {
        let first = out.len();
        for (_, detector) in &mut self.detectors {
            detector.tick(now_ns, out);
        }
        for fact in out.iter_mut().skip(first) {
            self.devices.complete(fact);
            self.ports.complete(fact);
        }
    }

    /// What all of them forgot because there was more than they have room for.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.detectors.iter().map(|(_, detector)| detector.evicted()).sum::<u64>()
            + self.devices.evicted()
            + self.ports.evicted()
    }
}

#[cfg(test)]
mod tests;
