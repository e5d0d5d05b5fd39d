//! The text of events that have several: `NAME=value` lines.
//!
//! A value keeps to its line: a newline is written `\n`, a backslash `\\`, and NUL, which ends a text, `\0`. Names are
//! those of the journal where it has one.
//!
//! Invariants:
//! - What [`push`] wrote, [`Fields`] reads back, except for a last line that was cut.
//! - Names come from this file, one constant for each.

use std::borrow::Cow;

macro_rules! names {
    ($( $(#[doc = $doc:literal])+ $name:ident = $text:literal; )+) => {
        $( $(#[doc = $doc])+ pub const $name: &str = $text; )+

        /// Every name of a field.
        pub const NAMES: &[&str] = &[$($text),+];
    };
}

names! {
    /// The unit that the event is about.
    UNIT = "UNIT";
    /// The uid of the user whose manager has the unit; absent for the system's.
    USER = "USER";
    /// The invocation of the unit, as 32 hexadecimal digits, where a slot does not say it.
    INVOCATION_ID = "INVOCATION_ID";
    /// The text for people: a log message, a reason in words.
    MESSAGE = "MESSAGE";
    /// What `MESSAGE` is without its numbers, ids and names: the same for messages of one origin.
    PATTERN = "PATTERN";
    /// How an entry came to the journal.
    TRANSPORT = "TRANSPORT";
    /// The name of the program that logged.
    IDENTIFIER = "IDENTIFIER";
    /// The process that logged, or that an entry is about, if it is not the event's.
    PID = "PID";
    /// The path of a cgroup, from its root.
    CGROUP = "CGROUP";
    /// An executable.
    EXE = "EXE";
    /// A command name.
    COMM = "COMM";
    /// Why something is missing: `rate_limit`, `kernel_missed`, `reconnect`, `overflow`, what a reader of journal files
    /// met: `journal_cursor_gone`, `journal_vacuumed` and others, or of a watch: `expired`, `too_large`, `unreadable`,
    /// `takeover`.
    CAUSE = "CAUSE";
    /// What an entry of the journal means, where its `MESSAGE_ID` or the kernel's words say so: `unit_failed`.
    MEANING = "MEANING";
    /// The result that a unit failed or ended with.
    UNIT_RESULT = "UNIT_RESULT";
    /// How a process of a unit ended: `exited`, `killed`, `dumped`.
    EXIT_CODE = "EXIT_CODE";
    /// The status that a process exited with, or the signal that killed it, as the manager writes it.
    EXIT_STATUS = "EXIT_STATUS";
    /// Which command of a unit a process was: `ExecStart`.
    COMMAND = "COMMAND";
    /// The number of a job of the manager.
    JOB_ID = "JOB_ID";
    /// How often a unit was restarted automatically.
    N_RESTARTS = "N_RESTARTS";
    /// CPU time that a run of a unit used, nanoseconds.
    CPU_USAGE_NSEC = "CPU_USAGE_NSEC";
    /// What could not be executed.
    EXECUTABLE = "EXECUTABLE";
    /// The error number that a program logged with its message.
    ERRNO = "ERRNO";
    /// The signal that a process dumped core for.
    COREDUMP_SIGNAL = "COREDUMP_SIGNAL";
    /// Its name.
    COREDUMP_SIGNAL_NAME = "COREDUMP_SIGNAL_NAME";
    /// The executable that dumped core.
    COREDUMP_EXE = "COREDUMP_EXE";
    /// The command name of what dumped core.
    COREDUMP_COMM = "COREDUMP_COMM";
    /// The process that dumped core.
    COREDUMP_PID = "COREDUMP_PID";
    /// Where the core is kept.
    COREDUMP_FILENAME = "COREDUMP_FILENAME";
    /// A W3C trace id that a program logged with its message: 32 hexadecimal digits.
    TRACE_ID = "TRACE_ID";
    /// The span within it: 16 hexadecimal digits.
    SPAN_ID = "SPAN_ID";
    /// Whose limit the kernel's out-of-memory killer enforced: `memcg`, `none`, `cpuset`, `memory_policy`.
    CONSTRAINT = "CONSTRAINT";
    /// The cgroup whose limit was reached.
    LIMIT_CGROUP = "LIMIT_CGROUP";
    /// Anonymous memory of a process, KiB.
    ANON_RSS_KIB = "ANON_RSS_KIB";
    /// A disk, partition or file system by the kernel's name: `sda1`.
    DEVICE = "DEVICE";
    /// A sector of it.
    SECTOR = "SECTOR";
    /// A network interface.
    INTERFACE = "INTERFACE";
    /// A port of TCP or UDP.
    PORT = "PORT";
    /// How long something has lasted, seconds.
    SECONDS = "SECONDS";
    /// A user, by number.
    UID = "UID";
    /// A CPU by number.
    CPU = "CPU";
    /// What was tried: `READ`, `WRITE`.
    OPERATION = "OPERATION";
    /// The shared object that a fault was in.
    LIBRARY = "LIBRARY";
    /// What a unit job is for: `start`, `stop`, `restart`.
    JOB_TYPE = "JOB_TYPE";
    /// How a unit job ended: `done`, `failed`, `dependency`, `timeout`, `canceled`, `skipped`.
    JOB_RESULT = "JOB_RESULT";
    /// Whether a unit's file could be used.
    LOAD_STATE = "LOAD_STATE";
    /// The state of a unit before the change.
    ACTIVE_STATE_BEFORE = "ACTIVE_STATE_BEFORE";
    /// The state of a unit.
    ACTIVE_STATE = "ACTIVE_STATE";
    /// The finer state of a unit.
    SUB_STATE = "SUB_STATE";
    /// How the last run of a unit ended, in the words of systemd.
    RESULT = "RESULT";
    /// The result that `RESULT` replaced within one failure: `start-limit-hit` hides it.
    RESULT_BEFORE = "RESULT_BEFORE";
    /// What a unit says of itself.
    STATUS_TEXT = "STATUS_TEXT";
    /// A relation between units, by the name of its property: `Requires`, `BoundBy`.
    RELATION = "RELATION";
    /// Names of units, separated by spaces.
    UNITS = "UNITS";
    /// When a unit is restarted by itself.
    RESTART = "RESTART";
    /// What a unit does when the kernel kills one of its processes for memory.
    OOM_POLICY = "OOM_POLICY";
    /// The file of a unit.
    FRAGMENT_PATH = "FRAGMENT_PATH";
    /// The state of a manager: `running`, `reloading`, `reloaded`, `lost`, `resynced`, `started`; or of a container:
    /// `waiting`, `running`, `terminated`.
    STATE = "STATE";
    /// A mount point.
    MOUNT = "MOUNT";
    /// The file of a certificate.
    FILE = "FILE";
    /// The type of a file system.
    FILESYSTEM = "FILESYSTEM";
    /// The namespace of a Kubernetes object.
    NAMESPACE = "NAMESPACE";
    /// The name of a pod.
    POD = "POD";
    /// The uid of a pod.
    POD_UID = "POD_UID";
    /// The name of a container within its pod.
    CONTAINER = "CONTAINER";
    /// The id of a container, without the runtime's scheme.
    CONTAINER_ID = "CONTAINER_ID";
    /// What a container is besides an ordinary one: `init`, `ephemeral`.
    CONTAINER_TYPE = "CONTAINER_TYPE";
    /// An image reference.
    IMAGE = "IMAGE";
    /// The name of a node.
    NODE = "NODE";
    /// One word for what happened, in the words of the source.
    REASON = "REASON";
    /// The phase of a pod.
    PHASE = "PHASE";
    /// A Kubernetes object: `Kind/namespace/name`, or `Kind/name` without a namespace.
    OBJECT = "OBJECT";
    /// Its uid.
    OBJECT_UID = "OBJECT_UID";
    /// The workload that an object belongs to, written as `OBJECT`.
    OWNER = "OWNER";
    /// The revision of a workload that an object belongs to: the hash of its pod template.
    REVISION = "REVISION";
    /// What changed: paths of fields, separated by spaces; `new` and `deleted` for the object itself.
    CHANGED = "CHANGED";
    /// The fields of an object that others are compared with: their values by path, as JSON. All of them when the object
    /// is new, later those that changed. Long ones come in the parts that the slots say.
    SPEC = "SPEC";
    /// The type of a Kubernetes Event: `Normal`, `Warning`.
    TYPE = "TYPE";
    /// Who reported a Kubernetes Event.
    COMPONENT = "COMPONENT";
    /// The type of a condition; with `STATUS`.
    CONDITION = "CONDITION";
    /// `True`, `False` or `Unknown`.
    STATUS = "STATUS";
    /// IP addresses, separated by spaces.
    ADDRESSES = "ADDRESSES";
    /// Host names or addresses with ports, separated by spaces.
    PORTS = "PORTS";
    /// Names of the pods behind a service that are ready, separated by spaces.
    PODS = "PODS";
    /// Names of the pods behind a service that are not ready, separated by spaces.
    PODS_NOT_READY = "PODS_NOT_READY";
    /// The kind of Kubernetes object that a watch is for.
    RESOURCE = "RESOURCE";
}

/// Appends one field to a text.
pub fn push(text: &mut Vec<u8>, name: &str, value: &[u8]) {
    if !text.is_empty() {
        text.push(b'\n');
    }
    text.extend_from_slice(name.as_bytes());
    text.push(b'=');
    for &byte in value {
        match byte {
            b'\n' => text.extend_from_slice(b"\\n"),
            b'\\' => text.extend_from_slice(b"\\\\"),
            0 => text.extend_from_slice(b"\\0"),
            _ => text.push(byte),
        }
    }
}

/// The fields of a text, in order. Lines without `=` are passed over.
#[derive(Debug, Clone)]
pub struct Fields<'text> {
    rest: &'text [u8],
}

impl<'text> Fields<'text> {
    /// The fields of this text.
    #[must_use]
    pub fn new(text: &'text [u8]) -> Self {
        Self { rest: text }
    }

    /// The value of the first field with this name; empty when there is none.
    #[must_use]
    pub fn get(&self, name: &str) -> Cow<'text, str> {
        self.clone().find(|(found, _)| *found == name).map_or(Cow::Borrowed(""), |(_, value)| value)
    }
}

impl<'text> Iterator for Fields<'text> {
    type Item = (&'text str, Cow<'text, str>);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let end = self.rest.iter().position(|&byte| byte == b'\n').unwrap_or(self.rest.len());
            let line = &self.rest[..end];
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            let Some(equals) = line.iter().position(|&byte| byte == b'=') else { continue };
            let Ok(name) = str::from_utf8(&line[..equals]) else { continue };
            return Some((name, unescape(&line[equals + 1..])));
        }
        None
    }
}

fn unescape(value: &[u8]) -> Cow<'_, str> {
    if !value.contains(&b'\\') {
        return String::from_utf8_lossy(value);
    }
    let mut plain = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'\\' {
            plain.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'n') => plain.push(b'\n'),
            Some(b'0') => plain.push(0),
            Some(&other) => plain.push(other),
            None => {}
        }
    }
    Cow::Owned(String::from_utf8_lossy(&plain).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: values with every byte that means something here, empty ones, and a cut last line.
    /// Guarantees: what was pushed is read back in order; what was cut is passed over.
    #[test]
    fn fields_come_back() {
        let values = ["plain", "", "two\nlines", "back\\slash \\n", "nul\0", "a=b", "\u{e4}"];
        let mut text = Vec::new();
        for value in values {
            push(&mut text, MESSAGE, value.as_bytes());
        }
        assert_eq!(text.iter().filter(|&&byte| byte == 0).count(), 0);
        text.extend_from_slice(b"\nCUT");
        let read: Vec<_> = Fields::new(&text).map(|(name, value)| (name, value.into_owned())).collect();
        let expected: Vec<_> = values.iter().map(|value| (MESSAGE, (*value).to_owned())).collect();
        assert_eq!(read, expected);
        assert_eq!(Fields::new(&text).get(UNIT), "");
    }

    /// Scenario: the table of names.
    /// Guarantees: no name is there twice, and each is what a journal field may be called.
    #[test]
    fn names_are_unique() {
        let unique: std::collections::BTreeSet<_> = NAMES.iter().collect();
        assert_eq!(unique.len(), NAMES.len());
        assert!(NAMES.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')));
    }
}
