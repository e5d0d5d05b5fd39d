//! The event model: the only description of what travels from a source to the server.
//!
//! An event is a run of 8-byte words: a [`Header`], the slots of its [`Kind`], and for some kinds a
//! text padded with NULs. BPF programs write exactly these words (`bpf/lib/event.h`), queues carry
//! them, and the batch builder copies them into columns. Nothing is allocated for an event.
//!
//! Invariants:
//! - `Header::words` is the length of the whole event and is checked once, by [`Event::parse`].
//! - [`KINDS`] is the one table of kinds: C, proto and Rust are tested against it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Words in a header.
pub const HEADER_WORDS: usize = size_of::<Header>() / 8;

/// Longest event in words (4 KiB): longer texts are cut by the source, which says so in the flags.
pub const EVENT_WORDS_MAX: usize = 512;

/// Set in [`Header::cgroup`] when the id belongs to the v1 memory hierarchy, whose ids overlap those of v2.
pub const CGROUP_V1: u64 = 1 << 62;

/// Set in [`Header::flags`] when the text fills its record, so that more of it may be missing.
pub const TEXT_CUT: u8 = 1;

/// What every event starts with. The layout is `struct tapio_header` of `bpf/lib/event.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Header {
    /// `CLOCK_BOOTTIME`, nanoseconds.
    pub time_ns: u64,
    /// Kernfs id of the owner's cgroup, with [`CGROUP_V1`] set where it is one of the v1 memory
    /// hierarchy; 0 when there is none.
    pub cgroup: u64,
    /// `CLOCK_BOOTTIME` at which the process started, nanoseconds; 0 when no process owns the event.
    pub start_ns: u64,
    /// Thread group id; 0 when no process owns the event.
    pub tgid: u32,
    /// Low half of the producer's counter. A gap is a lost event.
    pub sequence: u32,
    /// A [`Kind`] as a number.
    pub kind: u16,
    /// Length of the event in words, header included.
    pub words: u16,
    /// The ring or reader that the event came through: for eBPF `cpu * 2`, plus 1 for the urgent ring.
    pub producer: u16,
    /// A [`Source`] as a number.
    pub source: u8,
    /// [`TEXT_CUT`], or zero.
    pub flags: u8,
}

/// Where events come from: one per collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Source {
    /// The kernel, through BPF rings.
    Ebpf = 0,
    /// The systemd journal.
    Journald = 1,
    /// The systemd manager, over D-Bus.
    Systemd = 2,
    /// The Kubernetes API.
    Kubernetes = 3,
}

impl Source {
    /// All sources, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Ebpf, Self::Journald, Self::Systemd, Self::Kubernetes];

    /// The name of the collector, as in flags, metrics and `status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Journald => "journald",
            Self::Systemd => "systemd",
            Self::Kubernetes => "kubernetes",
        }
    }

    /// The source with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

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
}

impl Form {
    /// Words a slot of this form takes.
    #[must_use]
    pub const fn words(self) -> usize {
        match self {
            Self::Unsigned | Self::Signed | Self::Nanoseconds => 1,
            Self::Address | Self::Chars => 2,
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
    /// The probe that produces it.
    pub probe: &'static str,
    /// Its values, in the order of their words.
    pub slots: &'static [Slot],
    /// What the text after the slots is, if the kind has one.
    pub text: Option<&'static str>,
    /// What is lost with it.
    pub severity: Severity,
}

impl KindInfo {
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
const HAS_TEXT: [bool; 128] = {
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

/// Why some words are not an event. The reader counts it and goes on behind the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Shorter than a header, or than the header says.
    #[error("record of {have} words is shorter than the {need} it needs")]
    Short {
        /// Words there are.
        have: usize,
        /// Words it needs.
        need: usize,
    },
    /// A kind or source that this build does not know.
    #[error("unknown kind {0}")]
    UnknownKind(u16),
    /// A source that this build does not know.
    #[error("unknown source {0}")]
    UnknownSource(u8),
}

/// A borrowed event.
#[derive(Debug, Clone, Copy)]
pub struct Event<'words> {
    words: &'words [u64],
    header: &'words Header,
    slot_words: usize,
}

impl<'words> Event<'words> {
    /// Reads the event at the start of `words`; [`Self::words`] says how many were used.
    ///
    /// # Errors
    /// [`ParseError`] when `words` does not start with a whole event of a known kind.
    #[inline]
    pub fn parse(words: &'words [u64]) -> Result<Self, ParseError> {
        let Ok((header, _)) = Header::ref_from_prefix(words.as_bytes()) else {
            return Err(ParseError::Short { have: words.len(), need: HEADER_WORDS });
        };
        let slot_words = SLOT_WORDS.get(usize::from(header.kind)).map_or(0, |&words| usize::from(words));
        if slot_words == 0 {
            return Err(ParseError::UnknownKind(header.kind));
        }
        if header.source > Source::Kubernetes as u8 {
            return Err(ParseError::UnknownSource(header.source));
        }
        let need = usize::from(header.words).max(HEADER_WORDS + slot_words);
        match words.get(..usize::from(header.words)) {
            Some(words) if words.len() == need => Ok(Self { words, header, slot_words }),
            _ => Err(ParseError::Short { have: words.len(), need }),
        }
    }

    /// The header.
    #[must_use]
    #[inline]
    pub fn header(&self) -> &'words Header {
        self.header
    }

    /// The whole event.
    #[must_use]
    #[inline]
    pub fn words(&self) -> &'words [u64] {
        self.words
    }

    /// The row of its kind.
    #[must_use]
    pub fn info(&self) -> &'static KindInfo {
        &KINDS[usize::from(self.header.kind) - 1]
    }

    /// The words of its slots.
    #[must_use]
    #[inline]
    pub fn slots(&self) -> &'words [u64] {
        &self.words[HEADER_WORDS..HEADER_WORDS + self.slot_words]
    }

    /// Whether its kind has a text.
    #[must_use]
    #[inline]
    pub fn has_text(&self) -> bool {
        HAS_TEXT[usize::from(self.header.kind)]
    }

    /// The text without its padding; empty when there is none. Bytes, since a kernel path need not be UTF-8.
    #[must_use]
    pub fn text(&self) -> &'words [u8] {
        let bytes = self.words[HEADER_WORDS + self.slot_words..].as_bytes();
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        &bytes[..end]
    }
}

/// The text of a two-word `Chars` slot.
#[must_use]
pub fn chars(words: &[u64]) -> String {
    let bytes = words.as_bytes();
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// The key that chooses the shard and names the owning entity within a boot: the cgroup's id where one
/// owns the event, else a hash of the process identity. Top bit set for processes, so the two never meet.
#[must_use]
#[inline]
pub fn trace_key(header: &Header) -> u64 {
    // Id 1 is the root of a hierarchy: it owns nothing, the process itself does.
    if header.cgroup & !CGROUP_V1 > 1 {
        header.cgroup & !(1 << 63)
    } else {
        process_key(header.tgid, header.start_ns)
    }
}

/// The trace key of a process.
#[must_use]
#[inline]
pub fn process_key(tgid: u32, start_ns: u64) -> u64 {
    mix(start_ns ^ (u64::from(tgid) << 40)) | 1 << 63
}

/// A 64-bit finaliser (the constants are those of SplitMix64).
#[must_use]
#[inline]
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The span id of an event, derived from its id, so that it is the same wherever and whenever it is made.
/// Never 0.
#[must_use]
pub fn span_id(boot_id: [u8; 16], source: Source, producer: u16, sequence: u64) -> u64 {
    let boot = u128::from_le_bytes(boot_id);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the boot id")]
    let (low, high) = (boot as u64, (boot >> 64) as u64);
    let origin = u64::from(producer) << 8 | u64::from(source as u8);
    mix(mix(mix(low).wrapping_add(high)).wrapping_add(origin) ^ mix(sequence)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the table of kinds is read back by number and name.
    /// Guarantees: numbers have no gaps and fit the one-byte column, names are unique, every kind has a slot.
    #[test]
    fn kinds_are_dense_and_unique() {
        for (index, info) in KINDS.iter().enumerate() {
            assert_eq!(info.kind as usize, index + 1, "{} breaks the order", info.name);
            assert!(index + 1 < 128);
            assert!(info.slot_words() > 0, "{} has no slot", info.name);
            assert_eq!(Kind::from_name(info.name), Some(info.kind), "{} is not unique", info.name);
        }
    }

    /// Scenario: events cut short, of unknown kind and source.
    /// Guarantees: each is an error that says what is wrong, none a panic.
    #[test]
    fn parse_rejects_what_is_not_an_event() {
        let header = Header { kind: Kind::Load as u16, words: 7, ..Header::default() };
        let mut words = [0; 7];
        words[..5].copy_from_slice(<[u64]>::ref_from_bytes(header.as_bytes()).expect("aligned"));
        assert_eq!(Event::parse(&words).expect("whole").slots().len(), 2);
        assert_eq!(Event::parse(&words[..6]).err(), Some(ParseError::Short { have: 6, need: 7 }));
        assert_eq!(Event::parse(&words[..4]).err(), Some(ParseError::Short { have: 4, need: 5 }));
        words[4] = 120;
        assert_eq!(Event::parse(&words).err(), Some(ParseError::UnknownKind(120)));
    }

    /// Scenario: the ids of many events that differ in one part only.
    /// Guarantees: no two have the same span id, none is 0, and the derivation does not change.
    #[test]
    fn span_ids_are_distinct_and_stable() {
        let mut seen = std::collections::BTreeSet::new();
        for sequence in 0..1000 {
            for producer in 0..8 {
                for source in Source::ALL {
                    for boot in 0..2 {
                        assert!(seen.insert(span_id([boot; 16], source, producer, sequence)));
                    }
                }
            }
        }
        assert!(!seen.contains(&0));
        assert_eq!(span_id([7; 16], Source::Ebpf, 3, 41), 13_778_857_913_931_334_801);
    }
}
