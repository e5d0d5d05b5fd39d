//! How processes end: by a fault of their own, or by a signal, and then whose.
//!
//! The kernel says who sent a signal when it is generated, and how the process ended a little later; only both together
//! say that somebody's signal ended it.
//!
//! Invariants:
//! - Signals within one unit or container are its own affair, those to interactive sessions are people's.
//! - What the kernel itself sends (code `SI_KERNEL`) is no fact here: only the OOM killer's own record names a victim.

use super::Detector;
use super::bounded::Bounded;
use super::fact::{Fact, FactKind};
use super::seen::{Seen, with_path};
use crate::entity::cgroup;
use crate::entity::{EntityKind, Manager};
use crate::event::Kind;

/// Processes whose end is awaited, at most.
const PENDING_MAX: usize = 4096;

/// Cgroups whose paths are remembered, at most: those of senders.
const PATHS_MAX: usize = 8192;

/// A process that ends later than this after a signal did not end because of it.
const FATAL_NS: u64 = 30_000_000_000;

/// `SI_KERNEL`, and a fault's own codes are above 0, `tgkill` is below.
const SI_KERNEL: i64 = 0x80;

const SIGABRT: u64 = 6;
const SIGKILL: u64 = 9;
const SIGTERM: u64 = 15;

/// Signals that a processor or the kernel raises for what a program did.
const FAULTS: [u64; 6] = [4, 5, 7, 8, 11, 31];

/// Who sent a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// The process itself, by a fault or on purpose.
    Itself,
    /// The kernel: the OOM killer, or the end of a namespace.
    Kernel,
    /// systemd, of the host or of a user.
    Manager,
    /// systemd-oomd.
    Oomd,
    /// A container runtime or its shim.
    Runtime,
    /// A process of the same unit or container.
    Within,
    /// A person in a session, by shell or tool.
    Person,
    /// Another process.
    Other,
}

impl Sender {
    /// The word in details.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Itself => "self",
            Self::Kernel => "kernel",
            Self::Manager => "manager",
            Self::Oomd => "oomd",
            Self::Runtime => "runtime",
            Self::Within => "within",
            Self::Person => "person",
            Self::Other => "process",
        }
    }
}

/// What the kernel says of a signal and its sender.
#[derive(Debug, Clone, Copy)]
pub(super) struct SignalSent<'text> {
    /// The signal.
    pub(super) signal: u64,
    /// Its `si_code`.
    pub(super) code: i64,
    /// The receiver.
    pub(super) target_pid: u32,
    /// The sender.
    pub(super) sender_pid: u32,
    /// The sender's command.
    pub(super) comm: &'text str,
    /// The sender's cgroup; empty while it is not known.
    pub(super) path: &'text str,
    /// Whether sender and receiver are of one unit or container.
    pub(super) same_owner: bool,
}

/// Commands of container runtimes: exact, or with anything behind.
const RUNTIMES: [&str; 12] = [
    "runc",
    "crun",
    "youki",
    "containerd",
    "containerd-shim",
    "conmon",
    "dockerd",
    "docker-init",
    "kubelet",
    "crio",
    "podman",
    "nerdctl",
];

/// Commands by which people send signals.
const TOOLS: [&str; 17] = [
    "bash", "sh", "dash", "zsh", "fish", "ksh", "kill", "pkill", "killall", "skill", "htop", "top", "sudo",
    "ssh", "sshd", "ansible", "gdb",
];

/// Says who sent a signal.
pub(super) fn classify(sent: &SignalSent<'_>) -> Sender {
    if sent.code == SI_KERNEL && sent.signal == SIGKILL {
        return Sender::Kernel;
    }
    if sent.sender_pid == sent.target_pid {
        return Sender::Itself;
    }
    let comm = sent.comm;
    if sent.sender_pid == 1 || comm == "systemd" {
        return Sender::Manager;
    }
    // The kernel keeps 15 bytes of a command.
    if comm.starts_with("systemd-oomd") {
        return Sender::Oomd;
    }
    let runtime = |name: &&str| {
        comm.strip_prefix(*name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', ':']))
    };
    if RUNTIMES.iter().any(runtime) {
        return Sender::Runtime;
    }
    if sent.same_owner {
        return Sender::Within;
    }
    let tool = TOOLS.contains(&comm) || comm.starts_with("ansible");
    if tool || is_session(sent.path) { Sender::Person } else { Sender::Other }
}

/// Whether a cgroup is that of an interactive session.
fn is_session(path: &str) -> bool {
    let unit = cgroup::parse(path).unit;
    unit.starts_with("session-") && unit.ends_with(".scope")
}

/// A signal on its way.
#[derive(Debug, Clone)]
struct Pending {
    signal: u64,
    sender: Sender,
    time_ns: u64,
    /// What to say if it ends the process.
    fact: Option<Fact>,
}

/// What was learnt of the last process of a container that ended.
#[derive(Debug, Clone)]
struct LastExit {
    fact: Fact,
    time_ns: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Deaths {
    pending: Bounded<(u64, u32), Pending>,
    paths: Bounded<u64, String>,
    last_exits: Bounded<u64, LastExit>,
}

impl Default for Deaths {
    fn default() -> Self {
        Self {
            pending: Bounded::new(PENDING_MAX),
            paths: Bounded::new(PATHS_MAX),
            last_exits: Bounded::new(PENDING_MAX),
        }
    }
}

impl Detector for Deaths {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        match seen.kind() {
            Kind::Signal => self.signal(seen, out),
            Kind::ProcessExit => self.exit(seen, out),
            Kind::CgroupEmpty => self.emptied(seen, out),
            Kind::CgroupCreated | Kind::CgroupAttached => {
                // The owner's path is the one that this host's units have; the kernel's may start further up.
                let path = if seen.owner.cgroup_path.is_empty() {
                    String::from_utf8_lossy(seen.event.text()).into_owned()
                } else {
                    seen.owner.cgroup_path.clone()
                };
                self.paths.insert(seen.owner.key, path);
            }
            _ => {}
        }
    }

    fn evicted(&self) -> u64 {
        self.pending.evicted() + self.paths.evicted() + self.last_exits.evicted()
    }
}

impl Deaths {
    fn signal(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        // Ignored, already pending, or lost for want of memory: nobody ends of it.
        if seen.number("result") != 0 {
            return;
        }
        if !seen.owner.cgroup_path.is_empty() {
            self.paths.insert(seen.owner.key, seen.owner.cgroup_path.clone());
        }
        let comm = seen.chars("sender_comm");
        let sender_key = seen.number("sender_cgroup") & !(1 << 63);
        let path = self.paths.get(&sender_key).cloned().unwrap_or_default();
        let sent = SignalSent {
            signal: seen.number("signal"),
            code: seen.signed("code"),
            target_pid: seen.pid(),
            sender_pid: u32::try_from(seen.number("sender_pid")).unwrap_or(0),
            comm: &comm,
            path: &path,
            same_owner: is_same_owner(seen, sender_key, &path),
        };
        let sender = classify(&sent);
        let fact = |kind| {
            let fact = seen.fact(kind).with("signal", sent.signal).with("code", sent.code);
            let fact = fact.with("actor", sender.name()).with("sender_pid", u64::from(sent.sender_pid));
            let fact = fact.with("sender_uid", seen.number("sender_uid")).with("sender", &*comm);
            let unit = cgroup::parse(&path).unit;
            let fact = if unit.is_empty() { fact } else { fact.with("sender_unit", unit) };
            fact.with("group", seen.number("group")).with("pid", u64::from(seen.pid()))
        };
        let later = match sender {
            Sender::Manager => {
                out.push(fact(FactKind::ManagerKill));
                None
            }
            Sender::Runtime => {
                out.push(fact(FactKind::RuntimeKill));
                None
            }
            Sender::Oomd => {
                out.push(fact(FactKind::PressureKill));
                None
            }
            Sender::Person | Sender::Other if is_service(seen) => Some(fact(FactKind::ExternalKill)),
            Sender::Itself if sent.signal == SIGABRT => Some(fact(FactKind::Abort)),
            Sender::Itself if FAULTS.contains(&sent.signal) => Some(fact(FactKind::Crash)),
            Sender::Itself | Sender::Kernel | Sender::Within | Sender::Person | Sender::Other => None,
        };
        let pending = Pending { signal: sent.signal, sender, time_ns: seen.time_ns(), fact: later };
        self.pending.insert((seen.owner.key, seen.pid()), pending);
    }

    fn exit(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let (code, signal) = (seen.number("exit_code"), seen.number("signal"));
        let pending = self.pending.remove(&(seen.owner.key, seen.pid()));
        let pending = pending.filter(|sent| seen.time_ns() <= sent.time_ns.saturating_add(FATAL_NS));
        if code == 0 && signal == 0 {
            self.last_exits.remove(&seen.owner.key);
            return;
        }
        let ended_by = |sent: &Pending| signal == sent.signal || (signal == 0 && code == 128 + sent.signal);
        match pending {
            // Whoever catches a signal may still end because of it.
            Some(Pending { fact: Some(fact), sender: Sender::Person | Sender::Other, .. }) if signal == 0 => {
                out.push(complete(fact, seen));
            }
            Some(sent) if ended_by(&sent) => {
                if let Some(fact) = sent.fact.filter(|_| sent.sender != Sender::Itself || is_watched(seen)) {
                    out.push(complete(fact, seen));
                }
            }
            _ => {
                let kind = match signal {
                    SIGABRT => Some(FactKind::Abort),
                    signal if FAULTS.contains(&signal) => Some(FactKind::Crash),
                    _ => None,
                };
                if let Some(kind) = kind.filter(|_| is_watched(seen)) {
                    let fact = seen.fact(kind).with("signal", signal).with("actor", "unknown");
                    out.push(complete(fact.with("pid", u64::from(seen.pid())), seen));
                }
            }
        }
        self.remember_exit(seen, code, signal);
    }

    /// The last process of a container to end is the one that the container ends with.
    fn remember_exit(&mut self, seen: &Seen<'_>, code: u64, signal: u64) {
        let stopped = [SIGKILL, SIGTERM].iter().any(|&stop| signal == stop || code == 128 + stop);
        if seen.owner.kind != EntityKind::Container || stopped || signal != 0 {
            self.last_exits.remove(&seen.owner.key);
            return;
        }
        let fact = seen.fact(FactKind::ExitFailure).with("exit_code", code).with("main", true);
        let fact = fact.with("pid", u64::from(seen.pid())).with("comm", seen.chars("comm"));
        self.last_exits.insert(seen.owner.key, LastExit { fact, time_ns: seen.time_ns() });
    }

    fn emptied(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        if let Some(last) = self.last_exits.remove(&seen.owner.key)
            && seen.time_ns() < last.time_ns.saturating_add(FATAL_NS)
        {
            out.push(last.fact.event(seen.id));
        }
    }
}

/// Adds what the end says.
fn complete(fact: Fact, seen: &Seen<'_>) -> Fact {
    let fact =
        fact.event(seen.id).with("comm", seen.chars("comm")).with("exit_code", seen.number("exit_code"));
    let fact = fact.with("core", seen.number("core_dumped") != 0);
    with_path(fact, &seen.owner.cgroup_path)
}

/// Whether both ends are of one unit or container.
fn is_same_owner(seen: &Seen<'_>, sender_key: u64, sender_path: &str) -> bool {
    if sender_key == seen.owner.key {
        return true;
    }
    let (ours, theirs) = (cgroup::parse(&seen.owner.cgroup_path), cgroup::parse(sender_path));
    let container = !ours.container_id.is_empty() && ours.container_id == theirs.container_id;
    let named = !ours.unit.is_empty() && !ours.unit.ends_with(".slice");
    container || (named && theirs.container_id.is_empty() && ours.unit_path == theirs.unit_path)
}

/// Whether the owner is something that runs by itself: a service or a container, not a session.
fn is_service(seen: &Seen<'_>) -> bool {
    match seen.owner.kind {
        EntityKind::Container | EntityKind::Pod => true,
        EntityKind::Unit => is_service_unit(&seen.owner.unit) && seen.owner.manager != Manager::Nested,
        _ => false,
    }
}

fn is_service_unit(unit: &str) -> bool {
    let own = unit.starts_with("session-") || unit.starts_with("user@") || unit == "init.scope";
    !own && (unit.ends_with(".service") || unit.ends_with(".scope"))
}

/// Whether a crash there is anybody's business but that of a person at a terminal.
fn is_watched(seen: &Seen<'_>) -> bool {
    match seen.owner.kind {
        EntityKind::Unit => is_service_unit(&seen.owner.unit),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: SignalSent<'_> = SignalSent {
        signal: 9,
        code: 0,
        target_pid: 100,
        sender_pid: 200,
        comm: "worker",
        path: "",
        same_owner: false,
    };

    /// Scenario: signals as the kernel reports them for each known sender.
    /// Guarantees: the kernel's own outranks all, then the process itself, systemd, oomd, runtimes, its own unit, people.
    #[test]
    fn senders_are_told_apart() {
        let session = "/user.slice/user-0.slice/session-3.scope";
        for (sent, expected) in [
            (SignalSent { code: SI_KERNEL, comm: "stress", ..SENT }, Sender::Kernel),
            (SignalSent { code: 1, signal: 11, sender_pid: 100, ..SENT }, Sender::Itself),
            (SignalSent { code: -6, signal: 6, sender_pid: 100, ..SENT }, Sender::Itself),
            (SignalSent { signal: 6, sender_pid: 1, comm: "systemd", ..SENT }, Sender::Manager),
            (SignalSent { sender_pid: 900, comm: "systemd", ..SENT }, Sender::Manager),
            (SignalSent { comm: "systemd-oomd", ..SENT }, Sender::Oomd),
            (SignalSent { comm: "runc", ..SENT }, Sender::Runtime),
            (SignalSent { comm: "runc:[2:INIT]", ..SENT }, Sender::Runtime),
            (SignalSent { comm: "containerd-shim", ..SENT }, Sender::Runtime),
            (SignalSent { comm: "runcible", ..SENT }, Sender::Other),
            (SignalSent { same_owner: true, ..SENT }, Sender::Within),
            (SignalSent { comm: "bash", path: session, ..SENT }, Sender::Person),
            (SignalSent { comm: "python3", path: session, ..SENT }, Sender::Person),
            (SignalSent { comm: "pkill", ..SENT }, Sender::Person),
            (SENT, Sender::Other),
        ] {
            assert_eq!(classify(&sent), expected, "{sent:?}");
        }
    }

    /// Scenario: the units that signals can go to.
    /// Guarantees: sessions and managers of users are not services.
    #[test]
    fn sessions_are_not_services() {
        assert!(is_service_unit("nginx.service") && is_service_unit("run-u12.scope"));
        for unit in ["session-3.scope", "user@1000.service", "init.scope", "system.slice", ""] {
            assert!(!is_service_unit(unit), "{unit}");
        }
    }
}
