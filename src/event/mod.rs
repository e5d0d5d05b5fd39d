//! The event model: the only description of what travels from a source to the server.
//!
//! An event is a run of 8-byte words: a [`Header`], the slots of its [`Kind`], and for some kinds a
//! text padded with NULs. BPF programs write exactly these words (`bpf/lib/event.h`), queues carry
//! them, and the batch builder copies them into columns. Nothing is allocated for an event.
//!
//! Invariants:
//! - `Header::words` is the length of the whole event and is checked once, by [`Event::parse`].
//! - [`KINDS`] is the one table of kinds: C, proto and Rust are tested against it.
//! - The text of a kind is one string, or [`Fields`] where the table calls it `fields`.

mod build;
pub mod fields;
mod kinds;

pub use build::{EventBuilder, TEXT_BYTES_MAX};
pub use fields::Fields;
pub use kinds::{Form, KINDS, Kind, KindInfo, SLOT_WORDS, Severity, Slot};

use kinds::HAS_TEXT;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Words in a header.
pub const HEADER_WORDS: usize = size_of::<Header>() / 8;

/// Longest event in words (4 KiB): longer texts are cut by the source, which says so in the flags.
pub const EVENT_WORDS_MAX: usize = 512;

/// Set in [`Header::cgroup`] when the id belongs to the v1 memory hierarchy, whose ids overlap those of v2.
pub const CGROUP_V1: u64 = 1 << 62;

/// Set in [`Header::cgroup`] when the other bits are no id but [`named_key`] of what the event's text names:
/// a unit, a container, a pod or another object that no cgroup stands for here.
pub const NAMED: u64 = 1 << 61;

/// Set in [`Header::flags`] when the text fills its record, so that more of it may be missing.
pub const TEXT_CUT: u8 = 1;

/// What every event starts with. The layout is `struct tapio_header` of `bpf/lib/event.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Header {
    /// `CLOCK_BOOTTIME`, nanoseconds; see [`is_before_boot`].
    pub time_ns: u64,
    /// Kernfs id of the owner's cgroup, with [`CGROUP_V1`] set where it is one of the v1 memory
    /// hierarchy; or, with [`NAMED`], the key of a named owner; 0 when there is neither.
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
    /// [`TEXT_CUT`], [`STRETCH_ODD`] and [`COARSE_TIME`], or zero.
    pub flags: u8,
}

/// Set in [`Header::flags`] by sources that have a position, to tell two neighbouring stretches of their events
/// apart: the position behind a stretch is kept once all its events are settled.
pub const STRETCH_ODD: u8 = 2;

/// Set in [`Header::flags`] of what is read long after it happened: its time is good to a microsecond, so that a batch
/// of such events may span more time.
pub const COARSE_TIME: u8 = 4;

/// Whether a [`Header::time_ns`] is before this boot: then it is a negative number of nanoseconds, in two's complement.
#[must_use]
#[inline]
pub const fn is_before_boot(time_ns: u64) -> bool {
    time_ns >> 63 == 1
}

/// Where events come from: one per collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// Counters of the host that nobody announces: read now and then.
    Sampler = 4,
}

impl Source {
    /// All sources, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Ebpf, Self::Journald, Self::Systemd, Self::Kubernetes, Self::Sampler];

    /// The name of the collector, as in flags, metrics and `status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Journald => "journald",
            Self::Systemd => "systemd",
            Self::Kubernetes => "kubernetes",
            Self::Sampler => "sampler",
        }
    }

    /// Whether its events are counted, so that a missing number is a lost event. Where the source itself numbers what
    /// it has, there are numbers that make no event.
    #[must_use]
    pub const fn is_counted(self) -> bool {
        !matches!(self, Self::Journald | Self::Kubernetes)
    }

    /// The source with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
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
        if usize::from(header.source) >= Source::ALL.len() {
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

    /// The words of the slot with this name; none when its kind has no such slot.
    #[must_use]
    pub fn slot(&self, name: &str) -> Option<&'words [u64]> {
        let mut rest = self.slots();
        for slot in self.info().slots {
            let (words, behind) = rest.split_at_checked(slot.form.words())?;
            if slot.name == name {
                return Some(words);
            }
            rest = behind;
        }
        None
    }

    /// The fields of its text.
    #[must_use]
    pub fn fields(&self) -> Fields<'words> {
        Fields::new(self.text())
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

/// What [`Header::cgroup`] holds for an owner that is known by name: `kind` is the name of a field, `name` what is
/// unique among its kind on this host.
#[must_use]
pub fn named_key(kind: &str, name: &str) -> u64 {
    let mut key = mix(name.len() as u64);
    for part in [kind, name] {
        for chunk in part.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            key = mix(key ^ u64::from_le_bytes(word));
        }
    }
    key & (NAMED - 1) | NAMED
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
            assert_eq!(info.is_recorded(), Source::ALL.iter().all(|source| source.name() != info.probe));
            assert_eq!(info.is_numbered(), info.slots[0].name == "number" && info.kind != Kind::Load);
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
