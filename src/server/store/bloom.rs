//! Which entities a segment may be about, in 64 KiB.
//!
//! Invariants:
//! - What was added is found: "no" is certain, "maybe" is not.
//! - Hashes are the same in every build, since filters are kept in files.

use zerocopy::IntoBytes;

use crate::event::mix;
use crate::proto::Entity;

const WORDS: usize = 8192;

/// Bits set for a hash.
const PROBES: u64 = 4;

/// Bytes of a filter.
pub(super) const BLOOM_BYTES: usize = WORDS * 8;

/// A Bloom filter of hashes.
#[derive(Debug, Clone)]
pub(in crate::server) struct Bloom {
    words: Vec<u64>,
}

impl Default for Bloom {
    fn default() -> Self {
        Self { words: vec![0; WORDS] }
    }
}

impl Bloom {
    /// The filter with these bytes, if they are as many as one has.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        let whole = rest.is_empty() && words.len() == WORDS;
        whole.then(|| Self { words: words.iter().map(|word| u64::from_le_bytes(*word)).collect() })
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn bits(hash: u64) -> impl Iterator<Item = (usize, u64)> {
        let step = mix(hash) | 1;
        (0..PROBES).map(move |probe| {
            let bit = hash.wrapping_add(probe.wrapping_mul(step)) % (WORDS as u64 * 64);
            (usize::try_from(bit / 64).unwrap_or(0), 1 << (bit % 64))
        })
    }

    pub(super) fn add(&mut self, hash: u64) {
        for (word, bit) in Self::bits(hash) {
            self.words[word] |= bit;
        }
    }

    /// Adds all that an entity can be asked for by.
    pub(super) fn add_entity(&mut self, entity: &Entity) {
        self.add(key_hash(entity.key));
        if let Ok(trace_id) = <[u8; 16]>::try_from(entity.trace_id.as_ref()) {
            self.add(trace_hash(trace_id));
        }
        for name in names(entity) {
            self.add(name_hash(name));
        }
    }

    /// Whether the hash may have been added.
    pub(in crate::server) fn may_have(&self, hash: u64) -> bool {
        Self::bits(hash).all(|(word, bit)| self.words[word] & bit != 0)
    }
}

/// The names that an entity has.
pub(in crate::server) fn names(entity: &Entity) -> impl Iterator<Item = &str> {
    let names = [&entity.name, &entity.unit, &entity.container_id, &entity.pod_uid];
    names.into_iter().map(String::as_str).filter(|name| !name.is_empty())
}

/// The hash of an entity's key.
pub(in crate::server) fn key_hash(key: u64) -> u64 {
    mix(key ^ 0x6b65_7900)
}

/// The hash of a trace id.
pub(in crate::server) fn trace_hash(trace_id: [u8; 16]) -> u64 {
    bytes_hash(0x7472_6163, &trace_id)
}

/// The hash of a name.
pub(in crate::server) fn name_hash(name: &str) -> u64 {
    bytes_hash(0x6e61_6d65, name.as_bytes())
}

fn bytes_hash(seed: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let hash =
        words.iter().fold(seed ^ bytes.len() as u64, |hash, word| mix(hash ^ u64::from_le_bytes(*word)));
    let mut last = 0_u64;
    last.as_mut_bytes()[..rest.len()].copy_from_slice(rest);
    mix(hash ^ u64::from_le(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a filter of 20,000 entities, asked for them and for as many others, before and after a round trip.
    /// Guarantees: each that was added is found; of the others fewer than one in fifty.
    #[test]
    fn what_was_added_is_found() {
        let mut bloom = Bloom::default();
        for key in 0..20_000 {
            bloom.add_entity(&Entity { key, name: format!("unit-{key}.service"), ..Entity::default() });
        }
        let bloom = Bloom::from_bytes(&bloom.to_bytes()).expect("whole");
        assert!((0..20_000).all(|key| bloom.may_have(key_hash(key))));
        assert!((0..20_000).all(|key| bloom.may_have(name_hash(&format!("unit-{key}.service")))));
        let wrong = (20_000..40_000).filter(|&key| bloom.may_have(key_hash(key))).count();
        assert!(wrong < 400, "{wrong} of 20000");
        assert!(Bloom::from_bytes(&[0; 8]).is_none());
    }
}
