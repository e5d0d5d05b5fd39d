//! What lines of the kernel's log say, as fields.
//!
//! Invariants:
//! - Pure and total: any text is a line, most mean nothing.
//! - A line is known by words that only the kernel puts there, in their place: programs choose their command names.

use crate::event::fields;

/// A field of a line: one of [`fields`] and its value.
pub(super) type Field<'line> = (&'static str, &'line str);

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line<'line> {
    /// In `snake_case`.
    pub(super) meaning: &'static str,
    /// In the order of the line.
    pub(super) fields: Vec<Field<'line>>,
}

type Parse = for<'line> fn(&'line str) -> Option<Line<'line>>;

/// Each kind of line; the first that knows a line has it.
const LINES: &[Parse] = &[
    oom_kill,
    killed,
    segfault,
    trap,
    fork_refused,
    conntrack_full,
    read_only,
    filesystem_error,
    filesystem_shutdown,
    io_error,
    hung_task,
    soft_lockup,
    syn_flooding,
    network_watchdog,
    machine_check,
];

/// What the line says, if it is of a known kind.
pub(super) fn parse(line: &str) -> Option<Line<'_>> {
    LINES.iter().find_map(|parse| parse(line))
}

fn line<'line>(meaning: &'static str, fields: impl IntoIterator<Item = Field<'line>>) -> Option<Line<'line>> {
    let fields = fields.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    Some(Line { meaning, fields })
}

/// What is between two words.
fn between<'text>(text: &'text str, before: &str, after: &str) -> Option<&'text str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

/// The digits that the text starts with.
fn digits(text: &str) -> &str {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    text.get(..end).unwrap_or_default()
}

/// The digits behind a word; empty if there are none.
fn number<'text>(text: &'text str, before: &str) -> &'text str {
    text.split_once(before).map_or("", |(_, rest)| digits(rest))
}

/// `oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),...,oom_memcg=/a,task_memcg=/a/b,task=name,pid=1,uid=2`
fn oom_kill(text: &str) -> Option<Line<'_>> {
    let rest = text.strip_prefix("oom-kill:constraint=CONSTRAINT_")?;
    let value = |name: &str| between(rest, name, ",").unwrap_or_default();
    // The command name comes last but two, and may hold commas.
    let (before, uid) = rest.rsplit_once(",uid=")?;
    let (before, pid) = before.rsplit_once(",pid=")?;
    let task = before.split_once(",task=").map_or("", |(_, task)| task);
    let constraint = match rest.split(',').next().unwrap_or_default() {
        "MEMCG" => "memcg",
        "NONE" => "none",
        "CPUSET" => "cpuset",
        "MEMORY_POLICY" => "memory_policy",
        _ => return None,
    };
    line(
        "oom_kill",
        [
            (fields::CONSTRAINT, constraint),
            (fields::LIMIT_CGROUP, value(",oom_memcg=")),
            (fields::CGROUP, value(",task_memcg=")),
            (fields::COMM, task),
            (fields::PID, digits(pid)),
            (fields::UID, digits(uid)),
        ],
    )
}

/// `Memory cgroup out of memory: Killed process 12 (name) total-vm:..kB, anon-rss:34kB, ..., UID:0 ...`
fn killed(text: &str) -> Option<Line<'_>> {
    let memcg = text.strip_prefix("Memory cgroup out of memory: Killed process ");
    let rest = memcg.or_else(|| text.strip_prefix("Out of memory: Killed process "))?;
    let (pid, rest) = rest.split_once(" (")?;
    let (comm, rest) = rest.rsplit_once(") total-vm:")?;
    line(
        if memcg.is_some() { "oom_killed_in_cgroup" } else { "oom_killed" },
        [
            (fields::PID, digits(pid)),
            (fields::COMM, comm),
            (fields::ANON_RSS_KIB, number(rest, "anon-rss:")),
            (fields::UID, number(rest, "UID:")),
        ],
    )
}

/// `name[12]: segfault at 0 ip .. sp .. error 4 in libc.so.6[..]`
fn segfault(text: &str) -> Option<Line<'_>> {
    let (task, rest) = text.rsplit_once(": segfault at ")?;
    let (comm, pid) = task_and_pid(task)?;
    line("segfault", [(fields::COMM, comm), (fields::PID, pid), (fields::LIBRARY, library(rest))])
}

/// `traps: name[12] general protection fault ip:.. sp:.. error:0 in name[..]`; also `trap invalid opcode`.
fn trap(text: &str) -> Option<Line<'_>> {
    let rest = text.strip_prefix("traps: ")?;
    let (task, what) = rest.split_once("] ")?;
    let (comm, pid) = task.rsplit_once('[')?;
    let what = what.split(" ip:").next().unwrap_or_default();
    let known = !pid.is_empty() && digits(pid).len() == pid.len();
    known.then_some(())?;
    let reason = what.strip_prefix("trap ").unwrap_or(what);
    line(
        "trap",
        [
            (fields::COMM, comm),
            (fields::PID, pid),
            (fields::REASON, reason),
            (fields::LIBRARY, library(rest)),
        ],
    )
}

/// `name[12]` in parts; names may hold brackets.
fn task_and_pid(task: &str) -> Option<(&str, &str)> {
    let (comm, pid) = task.strip_suffix(']')?.rsplit_once('[')?;
    (!pid.is_empty() && digits(pid).len() == pid.len()).then_some((comm, pid))
}

/// The object in `.. in libc.so.6[7f..+1000]`.
fn library(rest: &str) -> &str {
    let behind = rest.rsplit_once(" in ").map_or("", |(_, behind)| behind);
    behind.split_once('[').map_or("", |(name, _)| name)
}

/// `cgroup: fork rejected by pids controller in /a/b`
fn fork_refused(text: &str) -> Option<Line<'_>> {
    let path = text.strip_prefix("cgroup: fork rejected by pids controller in ")?;
    line("fork_refused", [(fields::CGROUP, path.trim_end())])
}

/// `nf_conntrack: nf_conntrack: table full, dropping packet`
fn conntrack_full(text: &str) -> Option<Line<'_>> {
    let full = text.starts_with("nf_conntrack: ") && text.contains("table full, dropping packet");
    full.then_some(())?;
    line("conntrack_full", [])
}

/// `EXT4-fs (sda1): Remounting filesystem read-only`; BTRFS says `forced readonly`.
fn read_only(text: &str) -> Option<Line<'_>> {
    let says = text.contains("Remounting filesystem read-only") || text.ends_with("forced readonly");
    says.then_some(())?;
    line("read_only", [(fields::DEVICE, device(text))])
}

/// `EXT4-fs error (device sda1): function:12: ...`; XFS metadata corruption; BTRFS errors.
fn filesystem_error(text: &str) -> Option<Line<'_>> {
    let ext = text.starts_with("EXT4-fs error (device ") || text.starts_with("EXT2-fs error (device ");
    let xfs = text.starts_with("XFS (") && (text.contains("orruption") || text.contains("I/O error"));
    let btrfs = text.starts_with("BTRFS error (device ") || text.starts_with("BTRFS critical (device ");
    (ext || xfs || btrfs).then_some(())?;
    line("filesystem_error", [(fields::DEVICE, device(text))])
}

/// `XFS (sda1): Log I/O Error (0x2) detected at ... Shutting down filesystem.`
fn filesystem_shutdown(text: &str) -> Option<Line<'_>> {
    let xfs = text.starts_with("XFS (") && text.to_ascii_lowercase().contains("shutting down");
    xfs.then_some(())?;
    line("filesystem_shutdown", [(fields::DEVICE, device(text))])
}

/// The device in the first parentheses of a file system's line.
fn device(text: &str) -> &str {
    let inside = between(text, "(", ")").unwrap_or_default();
    let name = inside.strip_prefix("device ").unwrap_or(inside);
    name.split([':', ' ']).next().unwrap_or_default()
}

/// `blk_update_request: I/O error, dev sda, sector 12 op 0x0:(READ) flags ..`; `Buffer I/O error on dev sda1, ..`.
fn io_error(text: &str) -> Option<Line<'_>> {
    let before = ["", "blk_update_request: ", "critical medium error, ", "critical target error, "];
    let request = before.iter().find_map(|before| text.strip_prefix(before)?.strip_prefix("I/O error, dev "));
    let medium = [
        "critical medium error, dev ",
        "critical target error, dev ",
        "blk_update_request: critical medium error, dev ",
    ]
    .iter()
    .find_map(|before| text.strip_prefix(before));
    let buffer = text
        .strip_prefix("Buffer I/O error on dev ")
        .or_else(|| text.strip_prefix("Buffer I/O error on device "));
    let rest = request.or(medium).or(buffer)?;
    let operation = between(rest, ":(", ")").unwrap_or_default();
    let end = rest.find([',', ' ']).unwrap_or(rest.len());
    line(
        "io_error",
        [
            (fields::DEVICE, rest.get(..end).unwrap_or_default()),
            (fields::SECTOR, number(rest, "sector ")),
            (fields::OPERATION, operation),
        ],
    )
}

/// `INFO: task name:12 blocked for more than 120 seconds.`
fn hung_task(text: &str) -> Option<Line<'_>> {
    let rest = text.strip_prefix("INFO: task ")?;
    let (task, rest) = rest.rsplit_once(" blocked for more than ")?;
    let (comm, pid) = task.rsplit_once(':')?;
    line("hung_task", [(fields::COMM, comm), (fields::PID, digits(pid)), (fields::SECONDS, digits(rest))])
}

/// `watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [name:12]`
fn soft_lockup(text: &str) -> Option<Line<'_>> {
    let rest = text.strip_prefix("watchdog: ").unwrap_or(text).strip_prefix("BUG: soft lockup - CPU#")?;
    let task = rest.split_once('[').and_then(|(_, task)| task.strip_suffix(']')).unwrap_or_default();
    let (comm, pid) = task.rsplit_once(':').unwrap_or_default();
    line(
        "soft_lockup",
        [
            (fields::CPU, digits(rest)),
            (fields::SECONDS, number(rest, "stuck for ")),
            (fields::COMM, comm),
            (fields::PID, digits(pid)),
        ],
    )
}

/// `TCP: request_sock_TCP: Possible SYN flooding on port 80. Sending cookies. ..`; later kernels: `on port [::]:80.`
fn syn_flooding(text: &str) -> Option<Line<'_>> {
    let rest = text.split_once("Possible SYN flooding on port ").map(|(_, rest)| rest)?;
    text.contains("TCP: ").then_some(())?;
    let place = rest.split(". ").next().unwrap_or_default();
    let port = place.rsplit(':').next().unwrap_or_default();
    line("syn_flooding", [(fields::PORT, digits(port))])
}

/// `NETDEV WATCHDOG: eth0 (driver): transmit queue 0 timed out`
fn network_watchdog(text: &str) -> Option<Line<'_>> {
    let rest = text.split_once("NETDEV WATCHDOG: ").map(|(_, rest)| rest)?;
    let name = rest.split([' ', ':']).next().unwrap_or_default();
    line("network_watchdog", [(fields::INTERFACE, name)])
}

/// `mce: [Hardware Error]: CPU 1: Machine Check Exception: ..`
fn machine_check(text: &str) -> Option<Line<'_>> {
    let says =
        text.contains("Machine Check") && (text.starts_with("mce: ") || text.contains("[Hardware Error]"));
    says.then_some(())?;
    line("machine_check", [(fields::CPU, number(text, "CPU "))])
}

#[cfg(test)]
mod tests;
