//! Trace ids: the ids that the system has, else a hash of the boot and the identity.
//!
//! Invariants:
//! - The same identity in the same boot has the same trace id, in every shard and after every restart.
//! - No trace id is all zero, which W3C reserves.

use crate::event::mix;

/// What a hash is made of; the variants are told apart in the hash.
#[derive(Debug, Clone, Copy)]
pub(super) enum Identity<'text> {
    /// The host.
    Node,
    /// Thread group id and start.
    Process(u32, u64),
    /// The trace key of a cgroup.
    Cgroup(u64),
    /// Path of a unit's cgroup: a unit whose invocation id is not known.
    Unit(&'text str),
    /// A container whose id is not hexadecimal.
    Container(&'text str),
    /// Pod uid.
    Pod(&'text str),
    /// What names any other object.
    Object(&'text str),
}

/// The trace id of an identity that the system has no 128-bit id for.
pub(super) fn hashed(boot_id: &[u8; 16], identity: Identity<'_>) -> [u8; 16] {
    let mut hash = Hash128::default();
    hash.bytes(boot_id);
    match identity {
        Identity::Node => hash.word(1),
        Identity::Process(tgid, start_ns) => {
            hash.word(2);
            hash.word(u64::from(tgid));
            hash.word(start_ns);
        }
        Identity::Cgroup(key) => {
            hash.word(3);
            hash.word(key);
        }
        Identity::Unit(path) => hash.tagged(4, path),
        Identity::Container(id) => hash.tagged(5, id),
        Identity::Pod(uid) => hash.tagged(6, uid),
        Identity::Object(name) => hash.tagged(8, name),
    }
    hash.finish()
}

/// 128 bits of a text: for ids that are derived from other ids.
pub(super) fn of_text(tag: u64, text: &str) -> [u8; 16] {
    let mut hash = Hash128::default();
    hash.tagged(tag, text);
    hash.finish()
}

/// The first 16 bytes of a container id; none when it is not hexadecimal or shorter.
pub(super) fn of_container(id: &str) -> Option<[u8; 16]> {
    parse_hex(id.get(..32)?)
}

/// Exactly 32 hexadecimal digits. All zero is no id.
pub(super) fn parse_hex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let value = u128::from_str_radix(text, 16).ok()?;
    (value != 0).then(|| value.to_be_bytes())
}

/// Two lanes of the SplitMix64 finaliser. Not cryptographic: nobody gains by a collision of trace ids.
struct Hash128 {
    lanes: [u64; 2],
}

impl Default for Hash128 {
    fn default() -> Self {
        // Fractional digits of pi: any two different words would do.
        Self { lanes: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344] }
    }
}

impl Hash128 {
    fn word(&mut self, word: u64) {
        let [low, high] = self.lanes;
        self.lanes = [mix(low ^ word), mix(high.rotate_left(29).wrapping_add(word) ^ low)];
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    fn tagged(&mut self, tag: u64, text: &str) {
        self.word(tag);
        self.word(text.len() as u64);
        self.bytes(text.as_bytes());
    }

    fn finish(mut self) -> [u8; 16] {
        self.word(self.lanes[1]);
        let value = (u128::from(self.lanes[0]) << 64) | u128::from(self.lanes[1]);
        value.max(1).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: identities of every variant, in two boots.
    /// Guarantees: all their trace ids differ, and each is the same when asked twice.
    #[test]
    fn hashes_tell_identities_and_boots_apart() {
        let identities = [
            Identity::Node,
            Identity::Process(7, 8),
            Identity::Process(8, 7),
            Identity::Cgroup(7),
            Identity::Unit("/a"),
            Identity::Container("/a"),
            Identity::Pod("/a"),
            Identity::Pod("/a\0"),
        ];
        let all: Vec<_> = [[1; 16], [2; 16]]
            .iter()
            .flat_map(|boot| identities.iter().map(|&identity| hashed(boot, identity)))
            .collect();
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(all.first(), Some(&hashed(&[1; 16], Identity::Node)));
    }

    /// Scenario: ids of 64 digits, of 31, with a letter that is no digit, with a sign, all zero.
    /// Guarantees: only the first 16 bytes of a real id are taken.
    #[test]
    fn container_ids_give_their_first_half() {
        let id = "00112233445566778899aabbccddeeffffffffffffffffffffffffffffffffff";
        let half =
            [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
        assert_eq!(of_container(id), Some(half));
        assert_eq!(of_container(&id[..31]), None);
        assert_eq!(of_container("g0112233445566778899aabbccddeeff"), None);
        assert_eq!(of_container("+0112233445566778899aabbccddeeff"), None);
        assert_eq!(of_container(&"0".repeat(64)), None);
    }
}
