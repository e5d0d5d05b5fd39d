//! Small journal files made in memory, for tests: as journald lays them out, without the hash tables, which the reader
//! has no use for.

/// The boot of all entries.
pub(in super::super) const BOOT: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
/// When the first entry was written.
pub(in super::super) const START_US: u64 = 1_700_000_000_000_000;
const HEADER_BYTES: usize = 272;

/// A file that is being made.
pub(in super::super) struct Sample {
    pub(in super::super) bytes: Vec<u8>,
    compact: bool,
    /// Data objects by payload.
    data: std::collections::BTreeMap<Vec<u8>, usize>,
    /// The last array of the list: where it is, and how many of its items are used and there are.
    array: (usize, usize, usize),
    entries: u64,
}

impl Sample {
    pub(in super::super) fn new(compact: bool, seqnum_id: u8) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[..8].copy_from_slice(b"LPKSHHRH");
        bytes[12] = if compact { 16 + 4 } else { 4 };
        bytes[16] = 2;
        bytes[24..40].fill(0xf1);
        bytes[72..88].fill(seqnum_id);
        put(&mut bytes, 88, HEADER_BYTES);
        Self { bytes, compact, data: Default::default(), array: (0, 0, 0), entries: 0 }
    }

    /// A file with entries numbered from 1, each with some fields of its own and some that it shares.
    pub(in super::super) fn of(compact: bool, entries: u64) -> Self {
        let mut sample = Self::new(compact, 0xab);
        for number in 1..=entries {
            let own = format!("MESSAGE=entry {number}");
            let fields = [own.as_bytes(), b"_COMM=sample", if number % 2 == 0 { b"ODD=" } else { b"ODD=1" }];
            sample.entry(number, &fields);
        }
        sample
    }

    /// A file with entries of these numbers, which does not say that it is closed for good.
    pub(in super::super) fn numbered(numbers: std::ops::Range<u64>) -> Vec<u8> {
        let mut sample = Self::new(false, 0xab);
        for number in numbers {
            sample.entry(number, &[b"A=1"]);
        }
        sample.bytes[16] = 0;
        sample.bytes
    }

    fn object(&mut self, kind: u8, flags: u8, size: usize) -> usize {
        let start = self.bytes.len().next_multiple_of(8);
        self.bytes.resize(start + size.next_multiple_of(8), 0);
        self.bytes[start] = kind;
        self.bytes[start + 1] = flags;
        put(&mut self.bytes, start + 8, size);
        let arena = self.bytes.len() - HEADER_BYTES;
        put(&mut self.bytes, 96, arena);
        put(&mut self.bytes, 136, start);
        start
    }

    /// A data object, unless there is one.
    pub(in super::super) fn data(&mut self, flags: u8, payload: &[u8]) -> usize {
        if let Some(&known) = self.data.get(payload) {
            return known;
        }
        let head = if self.compact { 72 } else { 64 };
        let start = self.object(1, flags, head + payload.len());
        self.bytes[start + head..start + head + payload.len()].copy_from_slice(payload);
        // It has an entry: the one that it is made for.
        put(&mut self.bytes, start + 40, 8);
        put(&mut self.bytes, start + 56, 1);
        self.data.insert(payload.to_vec(), start);
        start
    }

    /// Appends an entry of this number with these fields.
    pub(in super::super) fn entry(&mut self, number: u64, fields: &[&[u8]]) -> usize {
        let items: Vec<usize> = fields.iter().map(|field| self.data(0, field)).collect();
        self.entry_of(number, &items)
    }

    /// The same with data objects that are there.
    pub(in super::super) fn entry_of(&mut self, number: u64, items: &[usize]) -> usize {
        let item = if self.compact { 4 } else { 16 };
        let start = self.object(3, 0, 64 + item * items.len());
        let head = [number, START_US + number * 1000, number * 1000];
        for (index, word) in head.into_iter().enumerate() {
            self.bytes[start + 16 + index * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        self.bytes[start + 40..start + 56].copy_from_slice(&BOOT.to_be_bytes());
        self.bytes[start + 56..start + 64].copy_from_slice(&(number * 77).to_le_bytes());
        for (index, offset) in items.iter().enumerate() {
            self.item(start + 64 + item * index, *offset);
        }
        self.list(start);
        start
    }

    fn item(&mut self, at: usize, offset: usize) {
        if self.compact {
            let offset = u32::try_from(offset).expect("samples are small");
            self.bytes[at..at + 4].copy_from_slice(&offset.to_le_bytes());
        } else {
            put(&mut self.bytes, at, offset);
        }
    }

    /// Lists an entry; each array has room for twice as many as the one before.
    fn list(&mut self, entry: usize) {
        let item = if self.compact { 4 } else { 8 };
        let (mut array, mut used, mut room) = self.array;
        if used == room {
            (used, room) = (0, (room * 2).max(2));
            let next = self.object(6, 0, 24 + item * room);
            let link = if array == 0 { 176 } else { array + 16 };
            put(&mut self.bytes, link, next);
            array = next;
        }
        self.item(array + 24 + used * item, entry);
        self.array = (array, used + 1, room);
        self.entries += 1;
        self.bytes[152..160].copy_from_slice(&self.entries.to_le_bytes());
    }
}

/// Writes a word.
pub(in super::super) fn put(bytes: &mut [u8], at: usize, value: usize) {
    bytes[at..at + 8].copy_from_slice(&(value as u64).to_le_bytes());
}
