//! Maps with a bound: what every detector keeps its state in.
//!
//! Invariants:
//! - Never more entries than the capacity: the least recently touched quarter goes first, and is counted.
//! - Iteration is in the order of the keys, never in that of a hash.
//! - A copy shares its entries until one of the two changes: looking back costs what changed since.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A map of at most so many entries.
#[derive(Debug, Clone)]
pub(super) struct Bounded<K, V> {
    entries: Arc<BTreeMap<K, (u64, V)>>,
    capacity: usize,
    touches: u64,
    evicted: u64,
}

impl<K: Ord + Clone, V: Clone> Bounded<K, V> {
    /// An empty map.
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: Arc::default(), capacity, touches: 0, evicted: 0 }
    }

    /// The value of a key, made if there is none.
    pub(super) fn entry(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            self.make_room();
        }
        self.touches += 1;
        let (touched, value) = Arc::make_mut(&mut self.entries).entry(key).or_insert_with(|| (0, make()));
        *touched = self.touches;
        value
    }

    /// Sets the value of a key.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            self.make_room();
        }
        self.touches += 1;
        Arc::make_mut(&mut self.entries).insert(key, (self.touches, value));
    }

    /// The value of a key, without using it.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        // Most of what is asked for is not there: no reason to part from a copy.
        if !self.entries.contains_key(key) {
            return None;
        }
        Arc::make_mut(&mut self.entries).remove(key).map(|(_, value)| value)
    }

    /// Keeps the entries for which this holds. Those that go are not counted: it was time.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        if !self.entries.is_empty() {
            Arc::make_mut(&mut self.entries).retain(|key, (_, value)| keep(key, value));
        }
    }

    /// All entries, by key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, (_, value))| (key, value))
    }

    /// Entries that had to make room.
    pub(super) const fn evicted(&self) -> u64 {
        self.evicted
    }

    fn make_room(&mut self) {
        let mut touches: Vec<u64> = self.entries.values().map(|(touched, _)| *touched).collect();
        let quarter = touches.len() / 4;
        let (_, limit, _) = touches.select_nth_unstable(quarter);
        let limit = *limit;
        let before = self.entries.len();
        Arc::make_mut(&mut self.entries).retain(|_, (touched, _)| *touched > limit);
        self.evicted += (before - self.entries.len()) as u64;
    }
}

/// Lets one statement of a kind through in so many nanoseconds, and counts the others.
#[derive(Debug, Clone)]
pub(super) struct Throttle<K> {
    last: Bounded<K, (u64, u64)>,
    gap_ns: u64,
}

impl<K: Ord + Clone> Throttle<K> {
    /// Nothing was let through yet.
    pub(super) fn new(capacity: usize, gap_ns: u64) -> Self {
        Self { last: Bounded::new(capacity), gap_ns }
    }

    /// How many this one stands for, itself included, if it may pass.
    pub(super) fn pass(&mut self, key: K, now_ns: u64) -> Option<u64> {
        let gap_ns = self.gap_ns;
        let mut fresh = false;
        let (last_ns, held) = self.last.entry(key, || {
            fresh = true;
            (now_ns, 0)
        });
        if !fresh && now_ns < last_ns.saturating_add(gap_ns) {
            *held += 1;
            return None;
        }
        *last_ns = now_ns;
        Some(std::mem::take(held) + 1)
    }

    /// Keys that had to make room.
    pub(super) const fn evicted(&self) -> u64 {
        self.last.evicted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: more keys than there is room for, one of them used all the time.
    /// Guarantees: the bound holds, the used one stays, those that went are counted.
    #[test]
    fn the_least_recently_used_go() {
        let mut map = Bounded::new(8);
        for key in 0..100_u32 {
            map.insert(key, key);
            assert_eq!(map.entry(0, || 7), &mut 0);
            assert!(map.iter().count() <= 8);
        }
        assert_eq!(map.evicted() + map.iter().count() as u64, 100);
    }

    /// Scenario: ten of a kind in a second, then one more, and another kind.
    /// Guarantees: the first passes at once, the next stands for those held back.
    #[test]
    fn a_burst_is_one_statement() {
        let mut throttle = Throttle::new(4, 1000);
        assert_eq!(throttle.pass('a', 0), Some(1));
        for now in 1..10 {
            assert_eq!(throttle.pass('a', now), None);
        }
        assert_eq!(throttle.pass('b', 9), Some(1));
        assert_eq!(throttle.pass('a', 1000), Some(10));
    }
}
