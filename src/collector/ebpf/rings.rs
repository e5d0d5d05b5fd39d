//! How the ring memory is split, and the creation of the rings.
//!
//! Invariants:
//! - All rings together never exceed the limit, whatever the number of CPUs.
//! - Each ring is a power of two of at least a page, as the kernel demands.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// The sizes of the rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingPlan {
    /// Data bytes of each CPU's bulk ring.
    pub bulk_bytes: u64,
    /// Data bytes of the urgent ring.
    pub urgent_bytes: u64,
}

/// The limit is too small. Stop: the configuration must change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "ring_bytes is {ring_bytes}, too small for a ring of one page on each of {cpus} CPUs and an urgent ring; \
     set it to at least {least}"
)]
pub struct RingPlanError {
    /// The limit.
    pub ring_bytes: u64,
    /// CPUs that need a ring.
    pub cpus: u64,
    /// The least limit that works here.
    pub least: u64,
}

/// The largest ring the kernel's 32-bit size field takes.
const RING_BYTES_MAX: u64 = 1 << 31;

fn floor_power_of_two(value: u64) -> u64 {
    value.checked_ilog2().map_or(0, |bits| 1 << bits)
}

fn urgent_bytes(ring_bytes: u64, page: u64) -> u64 {
    floor_power_of_two(ring_bytes / 16).clamp(page, RING_BYTES_MAX)
}

impl RingPlan {
    /// Splits `ring_bytes`: a sixteenth for the urgent ring, the rest evenly over `cpus` bulk rings,
    /// each rounded down to a power of two.
    ///
    /// # Errors
    /// [`RingPlanError`] when that leaves less than a page for a ring.
    pub fn new(ring_bytes: u64, cpus: u64, page: u64) -> Result<Self, RingPlanError> {
        let urgent_bytes = urgent_bytes(ring_bytes, page);
        let bulk_bytes = ring_bytes.saturating_sub(urgent_bytes) / cpus.max(1);
        if bulk_bytes < page {
            return Err(RingPlanError { ring_bytes, cpus, least: least(cpus, page) });
        }
        Ok(Self { bulk_bytes: floor_power_of_two(bulk_bytes).min(RING_BYTES_MAX), urgent_bytes })
    }
}

/// The least limit that gives each of `cpus` a page.
fn least(cpus: u64, page: u64) -> u64 {
    let sizes = (0..32).map(|bits| (cpus + (1 << bits)) * page);
    // The urgent ring grows with the limit: the first size whose urgent ring leaves the pages for the others.
    sizes.into_iter().find(|&size| size - urgent_bytes(size, page) >= cpus * page).unwrap_or(u64::MAX)
}

/// Reads a CPU list of sysfs, such as `0-3,8`.
#[must_use]
pub(super) fn parse_cpu_list(text: &str) -> BTreeSet<u32> {
    text.trim().split(',').filter_map(parse_range).flatten().collect()
}

fn parse_range(text: &str) -> Option<RangeInclusive<u32>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    /// Scenario: every number of CPUs up to 512 with limits from one page to 4 GiB.
    /// Guarantees: the sum stays within the limit, sizes are powers of two of whole pages, and no CPU could
    /// have twice as much.
    #[test]
    fn split_stays_within_the_limit() {
        for cpus in 1..=512 {
            for bits in 12..=32 {
                for ring_bytes in [1_u64 << bits, (1 << bits) + 12_345] {
                    let Ok(plan) = RingPlan::new(ring_bytes, cpus, PAGE) else { continue };
                    assert!(plan.urgent_bytes + cpus * plan.bulk_bytes <= ring_bytes);
                    assert!(plan.bulk_bytes.is_power_of_two() && plan.bulk_bytes >= PAGE);
                    assert!(plan.urgent_bytes.is_power_of_two() && plan.urgent_bytes >= PAGE);
                    assert!(
                        plan.urgent_bytes + cpus * plan.bulk_bytes * 2 > ring_bytes
                            || plan.bulk_bytes == RING_BYTES_MAX
                    );
                }
            }
        }
    }

    /// Scenario: limits of 0 and of one byte below the least that the error names.
    /// Guarantees: both are refused, the named least is accepted.
    #[test]
    fn error_names_the_least_limit() {
        for cpus in 1..=2048 {
            let error = RingPlan::new(0, cpus, PAGE).expect_err("nothing to split");
            assert!(RingPlan::new(error.least, cpus, PAGE).is_ok(), "{error}");
            assert!(RingPlan::new(error.least - 1, cpus, PAGE).is_err(), "{error}");
        }
    }

    /// Scenario: CPU lists as the kernel writes them.
    /// Guarantees: ranges and single CPUs are read.
    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpu_list("0-2,5\n"), BTreeSet::from([0, 1, 2, 5]));
        assert_eq!(parse_cpu_list("0\n"), BTreeSet::from([0]));
        assert_eq!(parse_cpu_list("\n"), BTreeSet::new());
    }
}
