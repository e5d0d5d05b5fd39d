//! Which samples are worth an event, and which cgroups are to be looked at more often.
//!
//! Invariants:
//! - Pure: two samples and the time between them decide.

use std::time::Duration;

use super::files::{ABSENT, Field, Usage};

/// Beside each other: what is used, and its limit.
pub(super) const LIMITED: [(Field, Field); 3] = [
    (Field::MemoryBytes, Field::MemoryLimitBytes),
    (Field::Tasks, Field::TasksLimit),
    (Field::OpenFiles, Field::OpenFilesLimit),
];

/// What goes up and down: worth an event when it has changed by a hundredth.
const GAUGES: [Field; 5] =
    [Field::MemoryBytes, Field::MemoryLimitBytes, Field::Tasks, Field::OpenFiles, Field::OpenFilesLimit];

/// Microseconds that pass: worth an event when a hundredth of the time since the last one was spent so.
const TIMES: [Field; 3] = [Field::CpuUs, Field::CpuThrottledUs, Field::MemoryStalledUs];

/// What happens seldom: worth an event each time.
const INCIDENTS: [Field; 2] = [Field::OomKills, Field::ForksRefused];

/// From this part of a limit on a cgroup is near it: four fifths.
const NEAR: (u128, u128) = (4, 5);

/// A limit that will be reached within this time, if it goes on like this, is near, too.
const AHEAD: Duration = Duration::from_secs(300);

/// Whether a gauge differs by a hundredth, or is there only once.
pub(super) fn moved(before: u64, now: u64) -> bool {
    before != now && (before == ABSENT || now == ABSENT || before.abs_diff(now) > before.max(now) / 100)
}

/// Whether a sample says something that the last one sent, so long ago, did not.
pub(super) fn is_news(sent: &Usage, now: &Usage, elapsed: Duration) -> bool {
    let hundredth = u64::try_from(elapsed.as_micros() / 100).unwrap_or(u64::MAX);
    let both = |field| (sent.get(field), now.get(field));
    let spent = |(before, now): (u64, u64)| {
        (before == ABSENT) != (now == ABSENT) || now.saturating_sub(before) > hundredth
    };
    GAUGES.into_iter().map(both).any(|(before, now)| moved(before, now))
        || TIMES.into_iter().map(both).any(spent)
        || INCIDENTS.into_iter().map(both).any(|(before, now)| before != now)
}

/// Whether something is near its limit, or will be soon.
pub(super) fn is_pressing(before: &Usage, now: &Usage, elapsed: Duration) -> bool {
    LIMITED.into_iter().any(|(used, limit)| {
        let (from, to, limit) = (before.get(used), now.get(used), now.get(limit));
        if to == ABSENT || limit == ABSENT {
            return false;
        }
        let (to, limit) = (u128::from(to), u128::from(limit));
        if to * NEAR.1 >= limit * NEAR.0 {
            return true;
        }
        // Half of the limit at least: every start looks like the way to a limit.
        if from == ABSENT || to * 2 < limit || u128::from(from) >= to {
            return false;
        }
        let grown = to - u128::from(from);
        (limit - to) * elapsed.as_millis() <= grown * AHEAD.as_millis()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn usage(fields: &[(Field, u64)]) -> Usage {
        let mut usage = Usage::default();
        for &(field, value) in fields {
            usage.set(field, value);
        }
        usage
    }

    /// Scenario: samples that differ by nothing, by less and more than a hundredth, in CPU time, in a kill, in a limit.
    /// Guarantees: only what says something new is news.
    #[test]
    fn small_changes_are_no_news() {
        let sent = usage(&[(Field::MemoryBytes, 10_000), (Field::CpuUs, 500), (Field::OomKills, 0)]);
        let with = |field, value| {
            let mut now = sent;
            now.set(field, value);
            is_news(&sent, &now, SECOND * 10)
        };
        assert!(!is_news(&sent, &sent, SECOND));
        assert!(
            !with(Field::MemoryBytes, 10_100)
                && with(Field::MemoryBytes, 10_200)
                && with(Field::MemoryBytes, 9000)
        );
        assert!(!with(Field::CpuUs, 100_500) && with(Field::CpuUs, 100_501));
        assert!(
            with(Field::OomKills, 1) && with(Field::MemoryLimitBytes, 1) && with(Field::MemoryBytes, ABSENT)
        );
        // What is sent with others is no reason by itself.
        assert!(!with(Field::WrittenBytes, 1 << 40));
    }

    /// Scenario: memory at parts of its limit, still and growing; tasks at theirs; no limit.
    /// Guarantees: near is four fifths, or half with the rest used up within five minutes.
    #[test]
    fn what_is_near_its_limit_is_pressing() {
        let pressing = |from, to, limit| {
            let [before, now] =
                [from, to].map(|used| usage(&[(Field::MemoryBytes, used), (Field::MemoryLimitBytes, limit)]));
            is_pressing(&before, &now, SECOND * 10)
        };
        assert!(pressing(80, 80, 100) && pressing(90, 80, 100) && !pressing(79, 79, 100));
        assert!(pressing(58, 60, 100) && !pressing(599, 600, 1000) && !pressing(20, 40, 100));
        assert!(!pressing(1, 1 << 60, ABSENT) && pressing(0, 0, 0));
        let tasks = usage(&[(Field::Tasks, 95), (Field::TasksLimit, 100)]);
        assert!(is_pressing(&tasks, &tasks, SECOND));
    }
}
