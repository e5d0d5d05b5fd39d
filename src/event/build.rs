//! Events of sources that are not BPF programs: put together from a kind, numbers and texts.
//!
//! Invariants:
//! - What [`EventBuilder::finish`] returns, [`super::Event::parse`] accepts, whatever was put in.
//! - A text that is too long is cut between two characters, and [`super::TEXT_CUT`] says so.

use zerocopy::IntoBytes;

use super::{EVENT_WORDS_MAX, HEADER_WORDS, Header, Kind, Source, TEXT_CUT, fields, named_key};

/// A text is cut to this many bytes.
pub const TEXT_BYTES_MAX: usize = 3 << 10;

/// Collects one event at a time; its buffers are used again.
#[derive(Debug, Default)]
pub struct EventBuilder {
    header: Header,
    slots: Vec<u64>,
    text: Vec<u8>,
    words: Vec<u64>,
}

impl EventBuilder {
    /// Starts an event, forgetting the one before. The caller fills in whose it is.
    pub fn start(&mut self, source: Source, kind: Kind, time_ns: u64) -> &mut Header {
        self.header = Header { time_ns, kind: kind as u16, source: source as u8, ..Header::default() };
        self.slots.clear();
        self.text.clear();
        &mut self.header
    }

    /// The header of the event, to fill in.
    pub fn header(&mut self) -> &mut Header {
        &mut self.header
    }

    /// The next slot.
    pub fn slot(&mut self, value: u64) -> &mut Self {
        self.slots.push(value);
        self
    }

    /// The next slot of [`super::Form::Id`].
    pub fn id(&mut self, id: [u8; 16]) -> &mut Self {
        let value = u128::from_be_bytes(id);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        self.slots.extend([(value >> 64) as u64, value as u64]);
        self
    }

    /// Says whose event it is, by what is unique on this host: the `field` is `UNIT`, `CONTAINER_ID`, `POD_UID`,
    /// `NODE` or `OBJECT`, and becomes the first of the text. Call it before any [`Self::field`].
    pub fn owner(&mut self, field: &str, name: &str) -> &mut Self {
        debug_assert!(self.text.is_empty());
        self.header.cgroup = named_key(field, name);
        self.field(field, name)
    }

    /// As [`Self::owner`], for a unit of the manager of the user with this uid.
    pub fn user_unit(&mut self, unit: &str, uid: u32) -> &mut Self {
        self.owner(fields::UNIT, unit);
        self.header.cgroup = named_key(fields::USER, &format!("{uid} {unit}"));
        self.field(fields::USER, &uid.to_string())
    }

    /// One more field of the text. An empty value is left out.
    pub fn field(&mut self, name: &str, value: &str) -> &mut Self {
        self.field_bytes(name, value.as_bytes())
    }

    /// As [`Self::field`], for what may not be UTF-8.
    pub fn field_bytes(&mut self, name: &str, value: &[u8]) -> &mut Self {
        if !value.is_empty() && self.text.len() < TEXT_BYTES_MAX {
            fields::push(&mut self.text, name, value);
        }
        self
    }

    /// The words of the event. Slots that were not given are 0, those beyond the kind's are left out.
    pub fn finish(&mut self) -> &[u64] {
        let info = Kind::info_of(self.header.kind);
        self.slots.resize(info.map_or(0, super::KindInfo::slot_words), 0);
        if info.is_none_or(|info| info.text.is_none()) {
            self.text.clear();
        }
        if self.text.len() > TEXT_BYTES_MAX {
            self.header.flags |= TEXT_CUT;
            let mut end = TEXT_BYTES_MAX;
            // A byte that continues a character does not start the part that is left out.
            while end > 0 && self.text[end] & 0xc0 == 0x80 {
                end -= 1;
            }
            self.text.truncate(end);
        }
        let words = HEADER_WORDS + self.slots.len() + self.text.len().div_ceil(8);
        debug_assert!(words <= EVENT_WORDS_MAX);
        self.header.words = u16::try_from(words).unwrap_or(0);
        self.words.clear();
        self.words.resize(words, 0);
        let (head, rest) = self.words.split_at_mut(HEADER_WORDS);
        head.as_mut_bytes().copy_from_slice(self.header.as_bytes());
        let (slots, text) = rest.split_at_mut(self.slots.len());
        slots.copy_from_slice(&self.slots);
        text.as_mut_bytes()[..self.text.len()].copy_from_slice(&self.text);
        &self.words
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Event, Fields};
    use super::*;

    /// Scenario: an event of every kind, without a slot, with too many, and with a text that is too long.
    /// Guarantees: each is an event, a long text is cut between characters and says so.
    #[test]
    fn whatever_is_built_is_an_event() {
        let mut builder = EventBuilder::default();
        for info in super::super::KINDS {
            builder.start(Source::Journald, info.kind, 7).cgroup = 9;
            assert_eq!(Event::parse(builder.finish()).expect("an event").text(), b"");

            builder.start(Source::Journald, info.kind, 7);
            for value in 0..40 {
                builder.slot(value);
            }
            builder.field(fields::UNIT, "a.service").field(fields::MESSAGE, &"\u{e4}".repeat(TEXT_BYTES_MAX));
            let words = builder.finish();
            let event = Event::parse(words).expect("an event");
            assert_eq!(event.slots().len(), info.slot_words());
            assert_eq!(event.has_text(), event.header().flags == TEXT_CUT);
            if event.has_text() {
                assert_eq!(Fields::new(event.text()).get(fields::UNIT), "a.service");
                assert!(str::from_utf8(event.text()).is_ok());
            }
        }
    }

    /// Scenario: a 128-bit id in a slot.
    /// Guarantees: its digits are those of the two words in order.
    #[test]
    fn ids_keep_their_digits() {
        let mut builder = EventBuilder::default();
        builder.start(Source::Systemd, Kind::UnitRemoved, 1);
        let id = 0x0123_4567_89ab_cdef_0011_2233_4455_6677_u128;
        builder.id(id.to_be_bytes());
        let event = Event::parse(builder.finish()).expect("an event");
        assert_eq!(event.slots(), [0x0123_4567_89ab_cdef, 0x0011_2233_4455_6677]);
    }
}
