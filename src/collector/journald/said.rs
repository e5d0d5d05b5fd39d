//! The fields of an entry that matter here, found in one pass.
//!
//! Invariants:
//! - Of a name that occurs more than once the first value counts.
//! - Fields whose names start with an underscore are journald's own: senders cannot set them.

macro_rules! names {
    ($( $variant:ident = $text:literal ),+ $(,)?) => {
        /// A field that matters here.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Name { $( $variant ),+ }

        const COUNT: usize = [$( $text ),+].len();

        fn find(name: &[u8]) -> Option<Name> {
            match str::from_utf8(name).ok()? {
                $( $text => Some(Name::$variant), )+
                _ => None,
            }
        }
    };
}

names! {
    Message = "MESSAGE",
    Priority = "PRIORITY",
    MessageId = "MESSAGE_ID",
    Transport = "_TRANSPORT",
    Pid = "_PID",
    Uid = "_UID",
    Comm = "_COMM",
    Exe = "_EXE",
    SystemdUnit = "_SYSTEMD_UNIT",
    SystemdUserUnit = "_SYSTEMD_USER_UNIT",
    SystemdOwnerUid = "_SYSTEMD_OWNER_UID",
    SystemdCgroup = "_SYSTEMD_CGROUP",
    SystemdInvocationId = "_SYSTEMD_INVOCATION_ID",
    SourceRealtime = "_SOURCE_REALTIME_TIMESTAMP",
    SourceMonotonic = "_SOURCE_MONOTONIC_TIMESTAMP",
    SyslogIdentifier = "SYSLOG_IDENTIFIER",
    SyslogFacility = "SYSLOG_FACILITY",
    Unit = "UNIT",
    UserUnit = "USER_UNIT",
    InvocationId = "INVOCATION_ID",
    UserInvocationId = "USER_INVOCATION_ID",
    ObjectPid = "OBJECT_PID",
    ObjectSystemdUnit = "OBJECT_SYSTEMD_UNIT",
    ObjectSystemdCgroup = "OBJECT_SYSTEMD_CGROUP",
    ObjectSystemdInvocationId = "OBJECT_SYSTEMD_INVOCATION_ID",
    UnitResult = "UNIT_RESULT",
    ExitCode = "EXIT_CODE",
    ExitStatus = "EXIT_STATUS",
    Command = "COMMAND",
    JobId = "JOB_ID",
    JobType = "JOB_TYPE",
    JobResult = "JOB_RESULT",
    NRestarts = "N_RESTARTS",
    NDropped = "N_DROPPED",
    CpuUsageNsec = "CPU_USAGE_NSEC",
    Executable = "EXECUTABLE",
    Errno = "ERRNO",
    CoredumpPid = "COREDUMP_PID",
    CoredumpUid = "COREDUMP_UID",
    CoredumpUnit = "COREDUMP_UNIT",
    CoredumpUserUnit = "COREDUMP_USER_UNIT",
    CoredumpOwnerUid = "COREDUMP_OWNER_UID",
    CoredumpCgroup = "COREDUMP_CGROUP",
    CoredumpSignal = "COREDUMP_SIGNAL",
    CoredumpSignalLabel = "COREDUMP_SIGNAL_NAME",
    CoredumpExe = "COREDUMP_EXE",
    CoredumpComm = "COREDUMP_COMM",
    CoredumpFilename = "COREDUMP_FILENAME",
    ContainerId = "CONTAINER_ID_FULL",
    Container = "CONTAINER_NAME",
    Image = "IMAGE_NAME",
    TraceId = "TRACE_ID",
    OtelTraceId = "OTEL_TRACE_ID",
    SpanId = "SPAN_ID",
    OtelSpanId = "OTEL_SPAN_ID",
    TraceParent = "TRACEPARENT",
}

/// What an entry says.
#[derive(Debug, Clone)]
pub(super) struct Said<'entry> {
    values: [&'entry [u8]; COUNT],
}

impl<'entry> Said<'entry> {
    /// What these fields say.
    pub(super) fn new(fields: impl Iterator<Item = (&'entry [u8], &'entry [u8])>) -> Self {
        let mut said = Self { values: [b""; COUNT] };
        for (name, value) in fields {
            if let Some(name) = find(name)
                && said.get(name).is_empty()
            {
                said.values[name as usize] = value;
            }
        }
        said
    }

    /// What these fields say, for tests.
    #[cfg(test)]
    pub(super) fn of(fields: &[(&'static str, &'entry str)]) -> Self {
        Self::new(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    /// The value of a field; empty if the entry has none.
    pub(super) fn get(&self, name: Name) -> &'entry [u8] {
        self.values[name as usize]
    }

    /// The value as a text; empty if there is none or it is not UTF-8.
    pub(super) fn text(&self, name: Name) -> &'entry str {
        str::from_utf8(self.get(name)).unwrap_or_default()
    }

    /// The value as a number.
    pub(super) fn number(&self, name: Name) -> Option<u64> {
        self.text(name).parse().ok()
    }

    /// The value as an id.
    pub(super) fn id(&self, name: Name) -> Option<u128> {
        let text = self.text(name);
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u128::from_str_radix(text, 16).ok())?
    }
}
