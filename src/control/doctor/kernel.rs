//! What the kernel offers to the ebpf collector: version, BTF, privilege, memory, mounts, probes.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::{Check, State};
use crate::collector::ebpf::{self, LoadError, Options};
use crate::config::{Settings, Switch};
use crate::event::Source;
use crate::health::{ProbeHealth, ProbeState};

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// The oldest kernel that this was tried on.
const TRIED: (u32, u32) = (6, 1);

/// From here on the kernel counts BPF memory by cgroup, not against RLIMIT_MEMLOCK.
const MEMLOCK_UNTIL: (u32, u32) = (5, 11);

pub(super) fn examine(settings: &Settings) -> Vec<Check> {
    if settings.collectors[Source::Ebpf as usize] == Switch::Off {
        let what = [
            "no other collector is in this version: nothing is left to collect",
            "leave out --enable-ebpf=false",
        ];
        return vec![Check::bad(State::Problem, "collector ebpf", "switched off", what)];
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let version = version(&release);
    let mut checks = vec![kernel(&release, version), btf(), capabilities(), memlock(version)];
    checks.extend(mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()));
    checks.extend(probes(settings));
    checks
}

/// The first two numbers of a release such as `6.1.0-37-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kernel(release: &str, version: Option<(u32, u32)>) -> Check {
    let found = format!("Linux {release}");
    if version.is_some_and(|version| version >= TRIED) {
        return Check::ok("kernel", found);
    }
    let why = format!("this program was tried on Linux {}.{} and later", TRIED.0, TRIED.1);
    Check::bad(State::Warning, "kernel", found, [&why, "look at the probes below; what they say counts"])
}

fn btf() -> Check {
    match fs::File::open(BTF) {
        Ok(_) => Check::ok("BTF", BTF),
        Err(error) => Check::bad(
            State::Problem,
            "BTF",
            format!("{BTF}: {error}"),
            [
                "without its own types no program fits this kernel",
                "run a kernel with CONFIG_DEBUG_INFO_BTF=y, and mount /sys",
            ],
        ),
    }
}

fn capabilities() -> Check {
    let lacking = match ebpf::lacking() {
        Ok(lacking) => lacking,
        Err(error) => {
            let what = ["what this process may do cannot be told", "mount /proc"];
            return Check::bad(State::Problem, "capabilities", error.to_string(), what);
        }
    };
    if lacking.is_empty() {
        return Check::ok("capabilities", "may load BPF programs");
    }
    let remedy = "run as root, or grant them: `setcap cap_bpf,cap_perfmon+ep` on the binary, \
                  or `AmbientCapabilities=CAP_BPF CAP_PERFMON` in its unit";
    let found = format!("lacking {}", lacking.join(" and "));
    Check::bad(State::Problem, "capabilities", found, ["loading BPF programs needs them", remedy])
}

fn memlock(version: Option<(u32, u32)>) -> Check {
    if version.is_none_or(|version| version >= MEMLOCK_UNTIL) {
        return Check::ok("memlock", "not used by this kernel for BPF memory");
    }
    match getrlimit(Resource::Memlock).current {
        None => Check::ok("memlock", "unlimited"),
        Some(bytes) => Check::bad(
            State::Warning,
            "memlock",
            format!("{} KiB", bytes / 1024),
            ["the rings may not fit", "start with `ulimit -l unlimited` or LimitMEMLOCK=infinity"],
        ),
    }
}

/// Rows for the file systems; from the text of `/proc/self/mountinfo`.
fn mounts(mountinfo: &str) -> Vec<Check> {
    let of = |wanted: &str| -> Vec<&str> {
        let mounts = mountinfo.lines().filter_map(|line| {
            let (mount, source) = line.split_once(" - ")?;
            (source.split(' ').next()? == wanted).then(|| mount.split(' ').nth(4))?
        });
        mounts.collect()
    };
    let unneeded = |name: &str, kind: &str| match of(kind).first() {
        Some(at) => Check::ok(name, *at),
        None => Check::ok(name, "not mounted, and not needed"),
    };
    let (v2, v1) = (of("cgroup2"), of("cgroup"));
    let cgroup = match (v2.first(), v1.first()) {
        (Some(at), None) => Check::ok("cgroup", format!("version 2 at {at}")),
        (Some(at), Some(_)) => Check::ok("cgroup", format!("hybrid; version 2 at {at}")),
        (None, Some(at)) => Check::ok("cgroup", format!("version 1, first at {at}")),
        (None, None) => Check::bad(
            State::Warning,
            "cgroup",
            "not mounted",
            ["events cannot be tied to units and containers", "mount -t cgroup2 none /sys/fs/cgroup"],
        ),
    };
    vec![unneeded("tracefs", "tracefs"), unneeded("bpffs", "bpf"), cgroup]
}

fn probes(settings: &Settings) -> Vec<Check> {
    match ebpf::probe_report(&Options::from(settings)) {
        Ok(probes) => {
            let none = probes.values().all(|probe| probe.state != ProbeState::Attached);
            let mut checks: Vec<Check> =
                probes.iter().map(|(name, health)| probe(name, health, settings)).collect();
            if none {
                let what = ["there would be nothing to read", "see the probes above"];
                checks.push(Check::bad(State::Problem, "probes", "none can run", what));
            }
            checks
        }
        // These have rows of their own.
        Err(LoadError::Privilege { .. } | LoadError::NoBtf { .. }) => Vec::new(),
        Err(error) => {
            let what = ["no probe can run", "the message says what helps"];
            vec![Check::bad(State::Problem, "probes", error.to_string(), what)]
        }
    }
}

fn probe(name: &str, health: &ProbeHealth, settings: &Settings) -> Check {
    let check = format!("probe {name}");
    match health.state {
        ProbeState::Attached if health.reason.is_empty() => Check::ok(check, "usable"),
        ProbeState::Missing if settings.is_probe_off(name) => Check::ok(check, health.reason.clone()),
        state => {
            let found = match state {
                ProbeState::Attached => "usable",
                ProbeState::Missing => "missing",
                ProbeState::Refused => "refused by the kernel",
            };
            let why = format!("its events will be missing: {}", health.reason);
            Check::bad(
                State::Warning,
                check,
                found,
                [&why, "another kernel; the other probes run without it"],
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: releases of distributions, and one that is none.
    /// Guarantees: the first two numbers, or nothing.
    #[test]
    fn releases_have_versions() {
        assert_eq!(version("6.1.0-37-amd64"), Some((6, 1)));
        assert_eq!(version("5.15.167.4-microsoft-standard-WSL2"), Some((5, 15)));
        assert_eq!(version("unknown"), None);
    }

    /// Scenario: mounts of a hybrid host, and none at all.
    /// Guarantees: what is mounted is found by its type; a missing cgroup mount is a warning, the others are not.
    #[test]
    fn mounts_are_found_by_type() {
        let hybrid = "30 24 0:26 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n\
                      31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      35 20 0:7 / /sys/kernel/tracing rw shared:9 - tracefs tracefs rw\n";
        let checks = mounts(hybrid);
        assert_eq!(checks[0], Check::ok("tracefs", "/sys/kernel/tracing"));
        assert_eq!(checks[1].state, State::Ok);
        assert_eq!(checks[2], Check::ok("cgroup", "hybrid; version 2 at /sys/fs/cgroup/unified"));
        let states: Vec<State> = mounts("").iter().map(|check| check.state).collect();
        assert_eq!(states, [State::Ok, State::Ok, State::Warning]);
    }
}
