//! Which thread runs on which core: a pure function of the cores there are and the wishes.
//!
//! Invariants:
//! - Every thread gets a core that is in the given list.
//! - The agent shares few cores and leaves the first one, where interrupts and most services run,
//!   alone as long as there is a second.

/// Bulk rings that one drain thread reads at most. A pass over an idle ring costs two loads, one over
/// a busy ring is bounded by the rate that its core can produce.
const RINGS_PER_DRAIN: usize = 32;

/// Cores for one more shard thread. One shard enriches more events than eight cores make in ordinary life.
const CORES_PER_SHARD: usize = 8;

/// Shards at most: their number is a byte in the queues' names, and beyond it queues grow quadratically.
pub const SHARDS_MAX: usize = 64;

/// Where every thread goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Core of each drain thread.
    pub drains: Vec<usize>,
    /// Core of each shard thread.
    pub shards: Vec<usize>,
    /// Core of the egress thread.
    pub egress: usize,
}

/// Places the threads of an agent that reads `rings` bulk rings on `cores` (those it may use, sorted;
/// empty counts as core 0). `wished` cores, when any, replace the choice of cores; `shards` of 0 leaves the number to this function.
#[must_use]
pub fn place(cores: &[usize], rings: usize, wished: &[usize], shards: usize) -> Placement {
    let shards =
        if shards == 0 { cores.len().div_ceil(CORES_PER_SHARD) } else { shards }.clamp(1, SHARDS_MAX);
    let drains = rings.div_ceil(RINGS_PER_DRAIN).max(1);
    let pool = if wished.is_empty() { own_cores(cores, drains + shards) } else { wished.to_vec() };
    let core = |thread: usize| pool.get(thread % pool.len().max(1)).copied().unwrap_or(0);
    // Shards first: they work most. Drains follow, so that on a wide host a drain and its shard sit on
    // neighbours; on one or two cores all threads share one core and hand over within its cache.
    Placement {
        shards: (0..shards).map(core).collect(),
        drains: (shards..shards + drains).map(core).collect(),
        egress: core(shards + drains),
    }
}

/// The cores that the agent keeps to: the last ones, one for each hot thread but never more than a
/// quarter of the host.
fn own_cores(cores: &[usize], hot_threads: usize) -> Vec<usize> {
    let own = hot_threads.min(cores.len() / 4).max(1).min(cores.len());
    cores[cores.len() - own..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(count: usize) -> Vec<usize> {
        (0..count).collect()
    }

    /// Scenario: hosts from no known core to 256.
    /// Guarantees: each thread has a core of the list; small hosts use one, wide ones at most a quarter.
    #[test]
    fn every_thread_has_a_core() {
        for count in 0..=256 {
            let cores = numbered(count);
            let placement = place(&cores, count.max(1), &[], 0);
            let mut used: Vec<usize> = placement
                .drains
                .iter()
                .chain(&placement.shards)
                .chain([&placement.egress])
                .copied()
                .collect();
            used.sort_unstable();
            used.dedup();
            assert!(used.iter().all(|core| *core < count.max(1)), "{count}: {placement:?}");
            assert!(used.len() <= (count / 4).max(1), "{count}: {placement:?}");
        }
    }

    /// Scenario: one core, two cores, sixteen.
    /// Guarantees: exactly these placements.
    #[test]
    fn known_hosts() {
        let one = Placement { drains: vec![0], shards: vec![0], egress: 0 };
        assert_eq!(place(&numbered(1), 1, &[], 0), one);
        let two = Placement { drains: vec![1], shards: vec![1], egress: 1 };
        assert_eq!(place(&numbered(2), 2, &[], 0), two);
        let sixteen = Placement { shards: vec![13, 14], drains: vec![15], egress: 13 };
        assert_eq!(place(&numbered(16), 16, &[], 0), sixteen);
    }

    /// Scenario: the user names cores and a number of shards.
    /// Guarantees: both are kept, threads go round the named cores.
    #[test]
    fn wishes_are_kept() {
        let placement = place(&numbered(8), 8, &[2, 5], 3);
        assert_eq!(placement, Placement { shards: vec![2, 5, 2], drains: vec![5], egress: 2 });
    }
}
