//! Kills for want of memory: the victims, and whose limit it was.
//!
//! The kernel's log line says which cgroup's limit was hit and where the victim was; the record of the victim says what
//! it used. They are joined by the process id.
//!
//! Invariants:
//! - Without the log line nobody knows whose limit it was, and nothing here guesses.

use super::Detector;
use super::bounded::Bounded;
use super::fact::{Fact, FactKind, KeyKind};
use super::seen::{Seen, subject_of, with_path, with_text};
use super::text::{number_after, until};
use crate::event::{Kind, fields};

/// Victims whose cgroup is remembered for the line behind, at most.
const VICTIMS_MAX: usize = 1024;

/// The line that follows is of the same kill within this time.
const SAME_KILL_NS: u64 = 2_000_000_000;

/// What `oom-kill:` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OomLine {
    /// `memcg`, `none`, `cpuset` or `memory_policy`.
    pub(super) constraint: String,
    /// The cgroup whose limit was hit; empty if it was none's.
    pub(super) limit_of: String,
    /// The cgroup of the victim.
    pub(super) victim_cgroup: String,
    /// The victim's command.
    pub(super) task: String,
    /// The victim.
    pub(super) pid: u32,
    /// Its user.
    pub(super) uid: u64,
}

/// Reads a line of the kernel's log.
pub(super) fn parse(line: &str) -> Option<OomLine> {
    let rest = super::text::after(line, "oom-kill:")?;
    let value = |name| until(rest, name, &[',']).unwrap_or_default();
    let constraint = value("constraint=CONSTRAINT_").to_ascii_lowercase();
    let pid = number_after(rest, ",pid=").and_then(|pid| u32::try_from(pid).ok())?;
    (!constraint.is_empty()).then(|| OomLine {
        constraint,
        limit_of: value("oom_memcg=").to_owned(),
        victim_cgroup: value("task_memcg=").to_owned(),
        task: value(",task=").to_owned(),
        pid,
        uid: number_after(rest, ",uid=").unwrap_or(0),
    })
}

/// See the module.
#[derive(Debug)]
pub(super) struct Oom {
    victims: Bounded<u32, (u64, String)>,
}

impl Default for Oom {
    fn default() -> Self {
        Self { victims: Bounded::new(VICTIMS_MAX) }
    }
}

impl Detector for Oom {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        if seen.kind() == Kind::OomVictim {
            let fact = seen.fact(FactKind::OomVictim).with("comm", seen.chars("comm"));
            let fact = fact.with("pid", u64::from(seen.pid())).with("uid", seen.number("uid"));
            out.push(fact.with("anon_rss_kib", seen.number("anon_rss_kib")).with("by", "kernel"));
        } else if seen.field(fields::TRANSPORT) == "kernel" {
            let line = seen.field(fields::MESSAGE);
            if let Some(oom) = parse(&line) {
                out.push(self.limit(seen, &oom, &line));
            } else if line.contains("ut of memory: Killed process ") {
                out.extend(self.killed(seen, &line));
            }
        }
    }

    fn evicted(&self) -> u64 {
        self.victims.evicted()
    }
}

impl Oom {
    fn limit(&mut self, seen: &Seen<'_>, oom: &OomLine, line: &str) -> Fact {
        self.victims.insert(oom.pid, (seen.time_ns(), oom.victim_cgroup.clone()));
        let is_limit = oom.constraint == "memcg" && !oom.limit_of.is_empty();
        let fact = if is_limit {
            with_path(seen.bare(FactKind::MemoryLimitHit, subject_of(&oom.limit_of)), &oom.limit_of)
        } else {
            seen.bare(FactKind::NodeMemoryExhausted, seen.node())
        };
        let victim = if oom.victim_cgroup.is_empty() {
            format!("process {}[{}]", oom.task, oom.pid)
        } else {
            subject_of(&oom.victim_cgroup).to_string()
        };
        let fact = with_path(fact, &oom.victim_cgroup).key(KeyKind::Pid, oom.pid.to_string());
        let fact = fact.with("constraint", &*oom.constraint).with("victim", victim).with("comm", &*oom.task);
        let fact = fact.with("pid", u64::from(oom.pid)).with("uid", oom.uid);
        let fact = with_text(with_text(fact, "limit_of", &oom.limit_of), "victim_cgroup", &oom.victim_cgroup);
        with_text(fact, "text", line)
    }

    /// `[Memory cgroup o|O]ut of memory: Killed process PID (COMM) total-vm:..kB, anon-rss:..kB, ...`
    fn killed(&mut self, seen: &Seen<'_>, line: &str) -> Option<Fact> {
        let pid = u32::try_from(number_after(line, "Killed process ")?).ok()?;
        let comm = until(line, " (", &[')']).unwrap_or_default();
        let known =
            self.victims.get(&pid).filter(|(at, _)| seen.time_ns() <= at.saturating_add(SAME_KILL_NS));
        let path = known.map(|(_, path)| path.clone()).unwrap_or_default();
        let subject = if path.is_empty() || path == "/" {
            super::Subject::new("process", format!("{comm}[{pid}]"))
        } else {
            subject_of(&path)
        };
        let fact =
            with_path(seen.bare(FactKind::OomVictim, subject), &path).key(KeyKind::Pid, pid.to_string());
        let fact = fact.with("pid", u64::from(pid)).with("comm", comm).with("by", "kernel");
        Some(fact.with("anon_rss_kib", number_after(line, "anon-rss:").unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the lines of kernels 5.10 to 6.18 for a container, a unit, a pod and the whole host; other lines.
    /// Guarantees: constraint, both cgroups and the victim; nothing for other lines.
    #[test]
    fn lines_of_the_oom_killer() {
        let unit = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,\
            oom_memcg=/system.slice/leak.service,task_memcg=/system.slice/leak.service,task=python3,pid=4167,uid=33";
        let oom = parse(unit).expect("a line of the OOM killer");
        assert_eq!((oom.constraint.as_str(), oom.pid, oom.uid), ("memcg", 4167, 33));
        assert_eq!(oom.limit_of, oom.victim_cgroup);
        assert_eq!((oom.limit_of.as_str(), oom.task.as_str()), ("/system.slice/leak.service", "python3"));

        let host = "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=x,mems_allowed=0,global_oom,\
            task_memcg=/system.slice/big.service,task=java,pid=9,uid=0";
        let oom = parse(host).expect("a line of the OOM killer");
        assert_eq!((oom.constraint.as_str(), oom.limit_of.as_str()), ("none", ""));
        assert_eq!(oom.victim_cgroup, "/system.slice/big.service");
        for line in
            ["oom-kill:", "oom_reaper: reaped process 4167", "oom-kill:constraint=CONSTRAINT_MEMCG,pid=x"]
        {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
