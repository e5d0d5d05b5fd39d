//! Whether the wall clock was set, by how it and the clock since boot went apart.
//!
//! systemd says so only where it logs at debug level, and who set the clock may say nothing at all.
//!
//! Invariants:
//! - What a time service corrects by letting the clock run faster or slower is no step.

/// Between two looks a clock that is slewed goes apart by less: 0.5 ms a second, by the kernel's bound.
const STEP_NS: u64 = 100_000_000;

/// What was seen last.
#[derive(Debug, Default)]
pub(super) struct Wall {
    /// When, and Unix nanoseconds at boot as they were then.
    last: Option<(u64, u64)>,
}

impl Wall {
    /// Looks at the clocks; says by how much the wall clock was set since the last look, and when that was.
    pub(super) fn look(&mut self, now_ns: u64, boot_unix_ns: u64) -> Option<(i64, u64)> {
        let (since_ns, before) = self.last.replace((now_ns, boot_unix_ns))?;
        if before.abs_diff(boot_unix_ns) < STEP_NS {
            return None;
        }
        Some((boot_unix_ns.wrapping_sub(before).cast_signed(), since_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a clock that is slewed, set ahead, and set back.
    /// Guarantees: each step once, with its sign and the look before; slewing is none.
    #[test]
    fn steps_are_told_from_slewing() {
        const DAY_NS: u64 = 86_400_000_000_000;
        let mut wall = Wall::default();
        assert_eq!(wall.look(1, DAY_NS), None);
        assert_eq!(wall.look(2, DAY_NS + 5_000_000), None);
        assert_eq!(wall.look(3, 2 * DAY_NS), Some((DAY_NS.cast_signed() - 5_000_000, 2)));
        assert_eq!(wall.look(4, 2 * DAY_NS), None);
        assert_eq!(wall.look(5, DAY_NS), Some((-DAY_NS.cast_signed(), 4)));
    }
}
