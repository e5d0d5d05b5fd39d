//! The table of kinds: everything that an event can be, and how its slots read.
//!
//! Invariants:
//! - Kinds of the ebpf collector come first; C, proto and this table are tested against each other.
//! - A kind whose first slot is called `number` brings its own sequence number, so that the id of an event that is
//!   read again after a restart is the same.
/// How bad it is to lose an event of a kind: shedding starts at the lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Ordinary life: forks, connects, load.
    Info,
    /// Something a diagnosis may need.
    Notice,
    /// Something failed.
    Error,
}

/// How a slot's words read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One word, unsigned.
    Unsigned,
    /// One word, two's complement.
    Signed,
    /// One word, nanoseconds.
    Nanoseconds,
    /// Two words: an IPv6 address in network order; IPv4 as v4-mapped.
    Address,
    /// Two words: 16 bytes of text, NUL-padded.
    Chars,
    /// Two words: a 128-bit id in the order of its hexadecimal digits; 0 when there is none.
    Id,
}

impl Form {
    /// Words a slot of this form takes.
    #[must_use]
    pub const fn words(self) -> usize {
        match self {
            Self::Unsigned | Self::Signed | Self::Nanoseconds => 1,
            Self::Address | Self::Chars | Self::Id => 2,
        }
    }
}

/// One kind-specific value of an event.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    /// `snake_case`, unit last.
    pub name: &'static str,
    /// How it reads.
    pub form: Form,
}

const fn slot(name: &'static str, form: Form) -> Slot {
    Slot { name, form }
}

/// One row of [`KINDS`].
#[derive(Debug, Clone, Copy)]
pub struct KindInfo {
    /// The kind.
    pub kind: Kind,
    /// `snake_case`, as in queries and JSON.
    pub name: &'static str,
    /// The probe that produces it; for collectors without probes, the collector.
    pub probe: &'static str,
    /// Its values, in the order of their words.
    pub slots: &'static [Slot],
    /// What the text after the slots is, if the kind has one.
    pub text: Option<&'static str>,
    /// What is lost with it.
    pub severity: Severity,
}

impl KindInfo {
    /// Whether BPF programs make it: then its probe is one of theirs, and `bpf/lib/event.h` has it too.
    #[must_use]
    pub const fn is_recorded(&self) -> bool {
        self.kind as u16 <= Kind::Load as u16
    }

    /// Whether its first slot is its sequence number.
    #[must_use]
    pub const fn is_numbered(&self) -> bool {
        // Compared by length and first letter, since this is evaluated at compile time: a test compares in full.
        !self.is_recorded() && self.slots[0].name.len() == 6 && self.slots[0].name.as_bytes()[0] == b'n'
    }

    /// Words that the slots take.
    #[must_use]
    pub const fn slot_words(&self) -> usize {
        let mut words = 0;
        let mut index = 0;
        while index < self.slots.len() {
            words += self.slots[index].form.words();
            index += 1;
        }
        words
    }
}

macro_rules! kinds {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal, $probe:literal, $severity:ident,
        [$($slot:literal: $form:ident),* $(,)?], $text:expr; )+) => {
        /// What happened. The numbers are those of `tapio.v1.Kind`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Kind { $( $(#[doc = $doc])+ $variant = $number, )+ }

        /// Every kind, in the order of the numbers, which start at 1 and have no gaps.
        pub const KINDS: &[KindInfo] = &[$( KindInfo {
            kind: Kind::$variant, name: $name, probe: $probe,
            slots: &[$(slot($slot, Form::$form)),*], text: $text, severity: Severity::$severity,
        } ),+];
    };
}

kinds! {
    /// A process was created; the owner is the child.
    ProcessFork = 1, "process_fork", "process", Info, ["parent_pid": Unsigned, "comm": Chars], None;
    /// A process image was replaced. The file name is as the program gave it: relative ones stay so.
    ProcessExec = 2, "process_exec", "process", Info, ["parent_pid": Unsigned, "comm": Chars], Some("filename");
    /// The last thread of a process is gone.
    ProcessExit = 3, "process_exit", "process", Error,
        ["exit_code": Unsigned, "signal": Unsigned, "core_dumped": Unsigned, "comm": Chars], None;
    /// The kernel chose a victim; the owner is the victim.
    OomVictim = 4, "oom_victim", "oom", Error,
        ["comm": Chars, "total_vm_kib": Unsigned, "anon_rss_kib": Unsigned, "file_rss_kib": Unsigned,
         "shmem_rss_kib": Unsigned, "pgtables_kib": Unsigned, "uid": Unsigned, "oom_score_adj": Signed], None;
    /// A signal that ends or dumps a process was generated; the owner is the target. The sender is the
    /// process that called kill(2); for a fault the target itself; for code 128 (`SI_KERNEL`) with signal 9
    /// whoever ran out of memory.
    Signal = 5, "signal", "signal", Error,
        ["signal": Unsigned, "code": Signed, "group": Unsigned, "result": Unsigned, "sender_pid": Unsigned,
         "sender_start_ns": Unsigned, "sender_cgroup": Unsigned, "sender_uid": Unsigned, "sender_comm": Chars], None;
    /// A TCP connection attempt ended; the owner is the process that called connect. The result is 0, or the
    /// socket's error (111 refused, 110 no answer, 113 unreachable), or 99 when no port was free, or 125 when
    /// this side gave up before an answer. A connect from before the start has duration 0 and at best its
    /// cgroup.
    TcpConnect = 6, "tcp_connect", "net", Info,
        ["source_address": Address, "destination_address": Address, "source_port": Unsigned,
         "destination_port": Unsigned, "result_errno": Unsigned, "duration_ns": Nanoseconds], None;
    /// A socket started (1) or stopped (0) listening; the owner is the process that made it listen. Port 0:
    /// not bound yet.
    TcpListen = 7, "tcp_listen", "net", Notice, ["address": Address, "port": Unsigned, "listening": Unsigned], None;
    /// A connection was reset by its peer. The source is this host's end; a cgroup may own it, no process
    /// does.
    TcpResetReceived = 8, "tcp_reset_received", "net", Notice,
        ["source_address": Address, "destination_address": Address, "source_port": Unsigned, "destination_port": Unsigned,
         "state": Unsigned], None;
    /// This host sent a reset; the source is its end. State 0: there is no socket. Reason 1: nobody listens
    /// on the source port; 0: the kernel does not say; others are the kernel's `sk_rst_reason`.
    TcpResetSent = 9, "tcp_reset_sent", "net", Notice,
        ["source_address": Address, "destination_address": Address, "source_port": Unsigned, "destination_port": Unsigned,
         "state": Unsigned, "reason": Unsigned], None;
    /// A segment was sent again. In state 2 (`SYN_SENT`) the peer does not answer at all.
    TcpRetransmit = 10, "tcp_retransmit", "net", Info,
        ["source_address": Address, "destination_address": Address, "source_port": Unsigned, "destination_port": Unsigned,
         "state": Unsigned], None;
    /// A block request failed. The device is `major << 20 | minor` of the whole disk, the operation a
    /// `REQ_OP_*` (0 read, 1 write, 2 flush, 3 discard); the owner is the v2 cgroup that pays for the
    /// request, if there is one.
    BlockError = 11, "block_error", "block", Error,
        ["device": Unsigned, "sector": Unsigned, "bytes": Unsigned, "errno": Unsigned, "operation": Unsigned], None;
    /// A block request took longer than the threshold, from its first issue to the driver. Slots as in
    /// [`Kind::BlockError`].
    BlockLatency = 12, "block_latency", "block", Notice,
        ["device": Unsigned, "sector": Unsigned, "bytes": Unsigned, "latency_ns": Nanoseconds, "operation": Unsigned], None;
    /// A system call failed for want of a resource. `suppressed`: how many of the same cgroup and errno were
    /// held back since the last event of theirs.
    SyscallError = 13, "syscall_error", "errno", Error,
        ["syscall": Unsigned, "errno": Unsigned, "suppressed": Unsigned, "comm": Chars], None;
    /// A cgroup was made; the owner is the new cgroup.
    CgroupCreated = 14, "cgroup_created", "cgroup", Notice, ["hierarchy": Unsigned, "level": Unsigned], Some("path");
    /// A cgroup was removed.
    CgroupRemoved = 15, "cgroup_removed", "cgroup", Notice, ["hierarchy": Unsigned, "level": Unsigned], Some("path");
    /// A process moved into a cgroup; the owner is the process, in the new cgroup.
    CgroupAttached = 16, "cgroup_attached", "cgroup", Info, ["hierarchy": Unsigned, "level": Unsigned], Some("path");
    /// A cgroup has no process left.
    CgroupEmpty = 17, "cgroup_empty", "cgroup", Notice, ["hierarchy": Unsigned, "level": Unsigned], Some("path");
    /// The kernel saw a task hang.
    ProcessHang = 18, "process_hang", "hang", Error, ["comm": Chars], None;
    /// One system call of the load generator.
    Load = 19, "load", "load", Info, ["number": Unsigned, "value": Unsigned], None;
    /// An entry of the journal. `number` is its seqnum: with the producer, which stands for the lineage of
    /// seqnums, it names the entry across restarts. The text has the entry's own fields and its subject.
    LogRecord = 20, "log_record", "journald", Notice,
        ["number": Unsigned, "priority": Unsigned, "message_id": Id, "invocation_id": Id, "realtime_us": Unsigned,
         "uid": Unsigned], Some("fields");
    /// Entries that are missing: dropped by journald, removed before they were read, or damaged. `lost` is 0 when
    /// nobody knows how many.
    LogGap = 21, "log_gap", "journald", Error, ["number": Unsigned, "lost": Unsigned], Some("fields");
    /// A unit changed its state. `changed_us` is the manager's own monotonic time of the change, which names
    /// it; `exec_code` is a `CLD_*`, `restarts` counts automatic ones. `snapshot` is 1 for a state that was found,
    /// not announced.
    UnitState = 22, "unit_state", "systemd", Error,
        ["changed_us": Unsigned, "invocation_id": Id, "main_pid": Unsigned, "exec_code": Unsigned,
         "exec_status": Signed, "restarts": Unsigned, "snapshot": Unsigned], Some("fields");
    /// A job was queued (0) or ended (1).
    UnitJob = 23, "unit_job", "systemd", Notice, ["job_id": Unsigned, "finished": Unsigned], Some("fields");
    /// What a unit may use and how it is restarted. A limit that is not set is 2^64 - 1.
    UnitLimits = 24, "unit_limits", "systemd", Info,
        ["memory_max_bytes": Unsigned, "memory_high_bytes": Unsigned, "tasks_max": Unsigned, "open_files_max": Unsigned,
         "start_limit_burst": Unsigned, "start_limit_interval_us": Unsigned, "restart_delay_us": Unsigned,
         "watchdog_us": Unsigned, "start_timeout_us": Unsigned], Some("fields");
    /// The units in one relation to a unit; long lists come in several parts, numbered from 0.
    UnitRelations = 25, "unit_relations", "systemd", Info, ["part": Unsigned, "parts": Unsigned], Some("fields");
    /// A unit is not loaded any more.
    UnitRemoved = 26, "unit_removed", "systemd", Info, ["invocation_id": Id], Some("fields");
    /// The manager itself: reloading, started up, lost or found again. Between a loss and the next `resynced` state
    /// changes may be missing.
    ManagerState = 27, "manager_state", "systemd", Notice, ["units": Unsigned, "failed_units": Unsigned], Some("fields");
    /// What a cgroup uses against its limits. A limit that is not set, and what this kernel does not say, is
    /// 2^64 - 1. Pressure is total stall time. `anon_bytes` is what processes have of their own: anonymous and shared
    /// memory, but not the page cache.
    CgroupUsage = 28, "cgroup_usage", "sampler", Info,
        ["memory_bytes": Unsigned, "memory_limit_bytes": Unsigned, "swap_bytes": Unsigned, "anon_bytes": Unsigned,
         "tasks": Unsigned, "tasks_limit": Unsigned, "open_files": Unsigned, "open_files_limit": Unsigned,
         "cpu_us": Unsigned, "cpu_periods": Unsigned, "cpu_throttled_periods": Unsigned, "cpu_throttled_us": Unsigned,
         "memory_stalled_us": Unsigned, "cpu_stalled_us": Unsigned, "io_stalled_us": Unsigned,
         "written_bytes": Unsigned, "oom_kills": Unsigned, "forks_refused": Unsigned], None;
    /// How full a file system is.
    FilesystemUsage = 29, "filesystem_usage", "sampler", Info,
        ["device": Unsigned, "bytes": Unsigned, "available_bytes": Unsigned, "inodes": Unsigned,
         "free_inodes": Unsigned, "read_only": Unsigned], Some("fields");
    /// What the host has left. What this kernel does not say is 2^64 - 1.
    NodeUsage = 30, "node_usage", "sampler", Info,
        ["memory_bytes": Unsigned, "available_bytes": Unsigned, "swap_bytes": Unsigned, "free_swap_bytes": Unsigned,
         "tasks": Unsigned, "tasks_limit": Unsigned, "open_files": Unsigned, "open_files_limit": Unsigned,
         "conntrack": Unsigned, "conntrack_limit": Unsigned, "memory_stalled_us": Unsigned,
         "cpu_stalled_us": Unsigned, "io_stalled_us": Unsigned], None;
    /// A container's status changed. `number` is a hash of the pod's uid, its resource version and the container.
    /// `terminated` is 1 for the end of a run, whose number is that of the run: it is said once. `restarts_before` is the
    /// count that was known until now: more than one less means runs that nobody saw.
    ContainerState = 31, "container_state", "kubernetes", Error,
        ["number": Unsigned, "restarts": Unsigned, "ready": Unsigned, "exit_code": Signed, "signal": Unsigned,
         "started_unix_s": Unsigned, "finished_unix_s": Unsigned, "terminated": Unsigned,
         "restarts_before": Unsigned], Some("fields");
    /// A pod's phase, reason, readiness or deletion changed.
    PodState = 32, "pod_state", "kubernetes", Notice,
        ["number": Unsigned, "ready": Unsigned, "deleted_unix_s": Unsigned, "grace_s": Unsigned], Some("fields");
    /// An Event of the Kubernetes API, or a repetition of one.
    ObjectEvent = 33, "object_event", "kubernetes", Notice,
        ["number": Unsigned, "count": Unsigned, "first_unix_s": Unsigned, "last_unix_s": Unsigned], Some("fields");
    /// A condition or taint of a node changed.
    NodeCondition = 34, "node_condition", "kubernetes", Error,
        ["number": Unsigned, "changed_unix_s": Unsigned], Some("fields");
    /// An object was made, changed or deleted; `desired` and `ready` are replicas, where it has some. Long `SPEC`s come in
    /// several parts, numbered from 0.
    ObjectChange = 35, "object_change", "kubernetes", Notice,
        ["number": Unsigned, "generation": Unsigned, "desired": Unsigned, "ready": Unsigned, "deleted": Unsigned,
         "part": Unsigned, "parts": Unsigned],
        Some("fields");
    /// How many endpoints of a service are ready, after and before a change.
    EndpointsReady = 36, "endpoints_ready", "kubernetes", Notice,
        ["number": Unsigned, "ready": Unsigned, "not_ready": Unsigned, "ready_before": Unsigned], Some("fields");
    /// Changes of a kind of object that may have been missed.
    WatchGap = 37, "watch_gap", "kubernetes", Error, ["number": Unsigned, "lost": Unsigned], Some("fields");
    /// When a certificate ends, by its file, and what the wall clock says now.
    CertificateEnd = 38, "certificate_end", "sampler", Info, ["expires_unix_s": Unsigned, "now_unix_s": Unsigned],
        Some("fields");
    /// The wall clock was set: by how much it went ahead, or back, since it was looked at last.
    ClockStep = 39, "clock_step", "sampler", Notice, ["step_ns": Signed, "since_ns": Nanoseconds], None;
}

/// Words that the slots of each kind take, by number; 0 for numbers without a kind.
pub const SLOT_WORDS: [u8; 128] = {
    let mut table = [0; 128];
    let mut index = 0;
    while index < KINDS.len() {
        #[expect(clippy::cast_possible_truncation, reason = "an event has fewer than 256 slot words")]
        let words = KINDS[index].slot_words() as u8;
        table[KINDS[index].kind as usize] = words;
        index += 1;
    }
    table
};

/// Whether each kind has a text, by number.
pub(super) const HAS_TEXT: [bool; 128] = {
    let mut table = [false; 128];
    let mut index = 0;
    while index < KINDS.len() {
        table[KINDS[index].kind as usize] = KINDS[index].text.is_some();
        index += 1;
    }
    table
};

impl Kind {
    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::info_of(number).map(|info| info.kind)
    }

    /// The row of the kind with this number.
    #[must_use]
    pub fn info_of(number: u16) -> Option<&'static KindInfo> {
        KINDS.get(usize::from(number).checked_sub(1)?)
    }

    /// The row of this kind.
    #[must_use]
    pub fn info(self) -> &'static KindInfo {
        &KINDS[self as usize - 1]
    }

    /// The kind with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        KINDS.iter().find(|info| info.name == name).map(|info| info.kind)
    }
}
