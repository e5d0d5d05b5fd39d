//! Kills for want of memory: the victims, and whose limit it was.
//!
//! The kernel's log line says which cgroup's limit was hit and where the victim was; the record of the victim says what
//! it used. They have the process id in common.
//!
//! Invariants:
//! - Without the log line nobody knows whose limit it was, and nothing here guesses.

use super::Detector;
use super::bounded::Bounded;
use super::fact::{Fact, FactKind, Subject};
use super::seen::{Seen, subject_of, with_path, with_text};
use crate::event::{Kind, fields};

/// Victims whose cgroup is remembered for the line behind, at most.
const VICTIMS_MAX: usize = 1024;

/// Cgroups whose limit is remembered, at most.
const LIMITS_MAX: usize = 8192;

/// A limit that is not set.
const NO_LIMIT: u64 = u64::MAX;

/// The line that follows is of the same kill within this time.
const SAME_KILL_NS: u64 = 2_000_000_000;

/// Whose memory was used up, by the kernel's constraint and the cgroup that it names.
pub(super) fn classify(constraint: &str, limit_of: &str) -> FactKind {
    match constraint {
        "memcg" if !limit_of.is_empty() => FactKind::MemoryLimitHit,
        _ => FactKind::NodeMemoryExhausted,
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Oom {
    victims: Bounded<String, (u64, String)>,
    /// By cgroup: its limit, bytes.
    limits: Bounded<String, u64>,
}

impl Default for Oom {
    fn default() -> Self {
        Self { victims: Bounded::new(VICTIMS_MAX), limits: Bounded::new(LIMITS_MAX) }
    }
}

impl Detector for Oom {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        match seen.kind() {
            Kind::CgroupUsage => {
                return self.learn(&seen.owner.cgroup_path, seen.number("memory_limit_bytes"));
            }
            Kind::UnitLimits => {
                return self.learn(&seen.field(fields::CGROUP), seen.number("memory_max_bytes"));
            }
            _ => {}
        }
        if seen.kind() == Kind::OomVictim {
            let fact = seen.fact(FactKind::OomVictim).with("comm", seen.chars("comm"));
            let fact = fact.with("pid", u64::from(seen.pid())).with("uid", seen.number("uid"));
            out.push(fact.with("anon_rss_kib", seen.number("anon_rss_kib")).with("by", "kernel"));
            return;
        }
        match &*seen.field(fields::MEANING) {
            "oom_kill" => out.push(self.limit(seen)),
            "oom_killed" | "oom_killed_in_cgroup" => out.push(self.killed(seen)),
            _ => {}
        }
    }

    fn evicted(&self) -> u64 {
        self.victims.evicted() + self.limits.evicted()
    }
}

impl Oom {
    fn learn(&mut self, path: &str, limit: u64) {
        if !path.is_empty() && limit != NO_LIMIT {
            self.limits.insert(path.to_owned(), limit);
        }
    }

    /// The line that says whose limit it was.
    fn limit(&mut self, seen: &Seen<'_>) -> Fact {
        let pid = pid_of(seen);
        let [limit_of, victim_cgroup] =
            [fields::LIMIT_CGROUP, fields::CGROUP].map(|name| seen.kernel_path(name));
        let constraint = seen.field(fields::CONSTRAINT);
        self.victims.insert(pid.clone(), (seen.time_ns(), victim_cgroup.to_string()));
        let fact = match classify(&constraint, &limit_of) {
            FactKind::MemoryLimitHit => {
                with_path(seen.fact_about(FactKind::MemoryLimitHit, subject_of(&limit_of)), &limit_of)
            }
            kind => seen.fact_about(kind, seen.node()),
        };
        let victim = if victim_cgroup.len() < 2 {
            format!("process {}[{pid}]", seen.field(fields::COMM))
        } else {
            subject_of(&victim_cgroup).to_string()
        };
        let fact = with_path(fact, &victim_cgroup).with("constraint", &*constraint).with("victim", victim);
        let fact = with_text(with_text(fact, "limit_of", &limit_of), "victim_cgroup", &victim_cgroup);
        let fact = match self.limits.get(&limit_of.to_string()) {
            Some(&limit) => fact.with("limit_bytes", limit),
            None => fact,
        };
        seen.with_message(with_victim(fact, seen))
    }

    /// The line that says what the victim used.
    fn killed(&mut self, seen: &Seen<'_>) -> Fact {
        let pid = pid_of(seen);
        let known =
            self.victims.get(&pid).filter(|(at, _)| seen.time_ns() <= at.saturating_add(SAME_KILL_NS));
        let path = known.map(|(_, path)| path.clone()).unwrap_or_default();
        let subject = if path.len() < 2 {
            Subject::new("process", format!("{}[{pid}]", seen.field(fields::COMM)))
        } else {
            subject_of(&path)
        };
        let fact = with_path(seen.fact_about(FactKind::OomVictim, subject), &path).with("by", "kernel");
        let rss: u64 = seen.field(fields::ANON_RSS_KIB).parse().unwrap_or(0);
        with_victim(fact, seen).with("anon_rss_kib", rss)
    }
}

/// The victim's process id: the event's own, or the one that it names.
fn pid_of(seen: &Seen<'_>) -> String {
    match seen.pid() {
        0 => seen.field(fields::PID).into_owned(),
        pid => pid.to_string(),
    }
}

fn with_victim(fact: Fact, seen: &Seen<'_>) -> Fact {
    let fact = with_text(fact, "comm", &seen.field(fields::COMM));
    match pid_of(seen).parse::<u64>() {
        Ok(pid) => fact.with("pid", pid),
        Err(_) => fact,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the constraints of the kernel.
    /// Guarantees: a limit is somebody's only where a cgroup is named; all else is the host's memory.
    #[test]
    fn limits_have_an_owner() {
        for (constraint, limit_of, expected) in [
            ("memcg", "/system.slice/a.service", FactKind::MemoryLimitHit),
            ("memcg", "", FactKind::NodeMemoryExhausted),
            ("none", "", FactKind::NodeMemoryExhausted),
            ("cpuset", "", FactKind::NodeMemoryExhausted),
        ] {
            assert_eq!(classify(constraint, limit_of), expected, "{constraint} {limit_of}");
        }
    }
}
