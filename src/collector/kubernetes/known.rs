//! What is remembered of the objects of one resource: just enough to see what changed.
//!
//! Invariants:
//! - Strings that many objects share are kept once, for as long as one of them is known.
//! - All that is remembered stays within [`KNOWN_BYTES_MAX`]: beyond it further objects are reported as they come and
//!   not remembered, and their number is counted.

use std::fmt;
use std::rc::Rc;

use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::draft::hash;

/// Bytes for everything that is remembered of all resources.
pub(super) const KNOWN_BYTES_MAX: usize = 6 << 20;

/// A string that others share.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Word(Rc<str>);

impl Word {
    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl Default for Word {
    fn default() -> Self {
        Self(Rc::from(""))
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Rc::from(<std::borrow::Cow<'de, str>>::deserialize(deserializer)?)))
    }
}

/// The shared strings, and the bytes that are remembered.
#[derive(Debug, Default)]
pub struct Memory {
    words: HashSet<Rc<str>>,
    /// Strings from which those that nobody uses are dropped.
    sweep_at: usize,
    bytes: usize,
    /// Objects that were not remembered.
    pub refused: u64,
}

impl Memory {
    /// The shared form of a text.
    pub fn word(&mut self, text: &str) -> Word {
        if let Some(word) = self.words.get(text) {
            return Word(Rc::clone(word));
        }
        if self.words.len() >= self.sweep_at {
            self.words.retain(|word| Rc::strong_count(word) > 1);
            self.sweep_at = (self.words.len() * 2).max(1024);
        }
        let word: Rc<str> = Rc::from(text);
        self.words.insert(Rc::clone(&word));
        Word(word)
    }

    /// Takes so many bytes of the budget; false when it is used up.
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.bytes + bytes <= KNOWN_BYTES_MAX;
        if fits {
            self.bytes += bytes;
        } else {
            self.refused += 1;
        }
        fits
    }

    fn give_back(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Bytes that are remembered.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Names an object for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key(u64, u64);

impl Key {
    /// The key of a uid.
    #[must_use]
    pub fn of(uid: &str) -> Self {
        let digits: String = uid.chars().filter(|&c| c != '-').collect();
        match u128::from_str_radix(&digits, 16) {
            Ok(value) if is_uuid(uid) =>
            {
                #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
                Self((value >> 64) as u64, value as u64)
            }
            _ => Self(hash(&[uid]), hash(&["uid", uid])),
        }
    }

    /// The uid, where it was written as usual.
    #[must_use]
    pub fn uuid(self) -> String {
        let (high, low) = (self.0, self.1);
        let (a, b, c) = (high >> 32, high >> 16 & 0xffff, high & 0xffff);
        format!("{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", low >> 48, low & 0xffff_ffff_ffff)
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// What is remembered of one object.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its version; 0 where versions are no numbers.
    pub version: u64,
    /// Its uid, where it is not written as usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub odd_uid: Option<Box<str>>,
    /// Its namespace.
    pub namespace: Word,
    /// Its name.
    pub name: Box<str>,
    /// The workload it belongs to.
    pub owner: Word,
    /// The revision of that workload.
    pub revision: Word,
    /// Of each row of the table.
    pub hashes: Box<[u32]>,
    /// What its role needs.
    pub detail: Detail,
    /// The last list that had it.
    #[serde(skip)]
    pub seen_in: u32,
}

/// What a role remembers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum Detail {
    /// Nothing more.
    #[default]
    None,
    /// A pod: its status, and its containers.
    Pod(u32, Box<[Container]>),
    /// A node: its conditions and taints, by name.
    Node(Box<[(Word, u32)]>),
    /// A slice of a service's endpoints: ready, not ready.
    Endpoints(Word, u32, u32),
    /// A lease: holder, last renewal in Unix seconds, duration in seconds, whether its end was said.
    Lease(Word, u64, u64, bool),
}

/// What is remembered of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// Its name.
    pub name: Word,
    /// The id of its present run, without the scheme.
    pub id: Box<str>,
    /// How often it was started again.
    pub restarts: u32,
    /// Its status.
    pub state: u32,
    /// The last end of a run that was said; 0 for none.
    pub ended: u64,
}

/// What a hash table needs beside the entry: a key and a pointer, twice where it is half empty, and the heap's own.
const SLOT_BYTES: usize = 64;

impl Entry {
    /// Its uid.
    #[must_use]
    pub fn uid(&self, key: Key) -> String {
        self.odd_uid.as_ref().map_or_else(|| key.uuid(), |uid| uid.to_string())
    }

    /// Bytes that it takes, shared strings left out.
    fn bytes(&self) -> usize {
        let detail = match &self.detail {
            Detail::Pod(_, containers) => {
                containers.iter().map(|container| size_of::<Container>() + container.id.len()).sum()
            }
            Detail::Node(conditions) => size_of_val(&**conditions),
            Detail::None | Detail::Endpoints(..) | Detail::Lease(..) => 0,
        };
        let texts = self.name.len() + self.odd_uid.as_ref().map_or(0, |uid| uid.len());
        SLOT_BYTES + size_of::<Self>() + texts + size_of_val(&*self.hashes) + detail
    }

    /// Makes its strings shared again, after it was read.
    fn share(&mut self, memory: &mut Memory) {
        for word in [&mut self.namespace, &mut self.owner, &mut self.revision] {
            *word = memory.word(word.text());
        }
        match &mut self.detail {
            Detail::Pod(_, containers) => {
                containers
                    .iter_mut()
                    .for_each(|container| container.name = memory.word(container.name.text()));
            }
            Detail::Node(conditions) => {
                conditions.iter_mut().for_each(|(name, _)| *name = memory.word(name.text()));
            }
            Detail::Endpoints(word, ..) | Detail::Lease(word, ..) => *word = memory.word(word.text()),
            Detail::None => {}
        }
    }
}

/// The objects of one resource.
#[derive(Debug, Default)]
pub struct Known {
    /// Boxed: half of the table is empty at worst, and entries are large.
    entries: HashMap<Key, Box<Entry>>,
}

impl Known {
    /// What is remembered of an object.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&Entry> {
        self.entries.get(&key).map(Box::as_ref)
    }

    /// As [`Self::get`], to change what takes no more bytes.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut Entry> {
        self.entries.get_mut(&key).map(Box::as_mut)
    }

    /// Remembers an object, or gives it up where there is no room.
    pub fn put(&mut self, key: Key, entry: Entry, memory: &mut Memory) {
        self.remove(key, memory);
        if memory.take(entry.bytes()) {
            self.entries.insert(key, Box::new(entry));
        }
    }

    /// Forgets an object.
    pub fn remove(&mut self, key: Key, memory: &mut Memory) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        memory.give_back(entry.bytes());
        Some(*entry)
    }

    /// The objects that the given list did not have, forgotten, in the order of their keys.
    pub fn sweep(&mut self, list: u32, memory: &mut Memory) -> Vec<(Key, Entry)> {
        let mut gone: Vec<(Key, Entry)> = self
            .entries
            .extract_if(|_, entry| entry.seen_in != list)
            .map(|(key, entry)| (key, *entry))
            .collect();
        gone.iter().for_each(|(_, entry)| memory.give_back(entry.bytes()));
        gone.sort_unstable_by_key(|(key, _)| *key);
        if self.entries.capacity() > 64 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to_fit();
        }
        gone
    }

    /// Every object.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &Entry)> {
        self.entries.iter().map(|(key, entry)| (*key, entry.as_ref()))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes what was read from a file.
    pub fn restore(&mut self, entries: Vec<(Key, Entry)>, memory: &mut Memory) {
        for (key, mut entry) in entries {
            entry.share(memory);
            self.put(key, entry, memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: uids as the API makes them, and others.
    /// Guarantees: the usual ones come back from their key, no two share one.
    #[test]
    fn uids_come_back() {
        let uid = "0f8fad5b-d9cb-469f-a165-70867728950e";
        assert_eq!(Key::of(uid).uuid(), uid);
        let others = ["", "abc", "0f8fad5bd9cb469fa16570867728950e", "0F8FAD5B-D9CB-469F-A165-70867728950E"];
        let keys: std::collections::BTreeSet<Key> =
            others.iter().chain([&uid]).map(|uid| Key::of(uid)).collect();
        assert_eq!(keys.len(), 5);
    }

    /// Scenario: more objects than the budget has room for, then some are removed.
    /// Guarantees: what is remembered stays within the budget, what is refused is counted, what is given back is free.
    #[test]
    fn memory_is_bounded() {
        let mut memory = Memory::default();
        let mut known = Known::default();
        for number in 0..60_000 {
            let name = format!("pod-{number}").into_boxed_str();
            let entry = Entry { name, namespace: memory.word("shop"), seen_in: 1, ..Entry::default() };
            known.put(Key::of(&number.to_string()), entry, &mut memory);
        }
        assert!(memory.bytes() <= KNOWN_BYTES_MAX);
        assert_eq!(known.len() as u64 + memory.refused, 60_000);
        assert!(memory.refused > 0);
        assert_eq!(known.sweep(2, &mut memory).len() as u64 + memory.refused, 60_000);
        assert_eq!((memory.bytes(), known.len()), (0, 0));
    }

    /// Scenario: many strings that are used once and dropped.
    /// Guarantees: they do not pile up.
    #[test]
    fn words_that_nobody_uses_are_dropped() {
        let mut memory = Memory::default();
        let kept = memory.word("kept");
        for number in 0..10_000 {
            memory.word(&number.to_string());
        }
        assert!(memory.words.len() <= 1025);
        assert!(Rc::ptr_eq(&kept.0, &memory.word("kept").0));
    }

    /// Scenario: an entry of each detail is written and read.
    /// Guarantees: it is the same afterwards.
    #[test]
    fn entries_survive_a_file() {
        let mut memory = Memory::default();
        let web = memory.word("web");
        let container =
            Container { name: web.clone(), id: "c1".into(), restarts: 2, state: 7, ended: u64::MAX };
        let details = [
            Detail::None,
            Detail::Pod(3, Box::new([container])),
            Detail::Node(Box::new([(web.clone(), 1)])),
            Detail::Endpoints(web.clone(), 1, 2),
            Detail::Lease(web, 1, 2, true),
        ];
        for detail in details {
            let entry = Entry { version: u64::MAX, hashes: Box::new([1, 2]), detail, ..Entry::default() };
            let text = serde_json::to_string(&entry).expect("written");
            assert_eq!(serde_json::from_str::<Entry>(&text).expect("read"), entry, "{text}");
        }
    }
}
