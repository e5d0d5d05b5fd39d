//! Journal files written by systemd-journal-remote from records in the export format.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const REMOTE: &str = "/lib/systemd/systemd-journal-remote";

/// What of the tools is not here.
pub(super) fn missing_tool() -> Option<&'static str> {
    if !Path::new(REMOTE).exists() {
        return Some("systemd-journal-remote");
    }
    let found = |tool: &str| {
        std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|path| path.join(tool).exists()))
    };
    ["journalctl", "xz"].into_iter().find(|tool| !found(tool))
}

/// One entry in the export format.
#[derive(Debug, Clone)]
pub(super) struct Record(Vec<u8>);

impl Record {
    pub(super) fn new(realtime_us: u64, monotonic_us: u64, boot: u128) -> Self {
        let mut head = String::new();
        write!(head, "__REALTIME_TIMESTAMP={realtime_us}\n__MONOTONIC_TIMESTAMP={monotonic_us}\n")
            .expect("a string");
        writeln!(head, "_BOOT_ID={boot:032x}").expect("a string");
        Self(head.into_bytes())
    }

    pub(super) fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.0.extend_from_slice(format!("{name}={value}\n").as_bytes());
        self
    }

    pub(super) fn binary(&mut self, name: &str, value: &[u8]) -> &mut Self {
        self.0.extend_from_slice(format!("{name}\n").as_bytes());
        self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
        self
    }

    fn bytes(&self) -> Vec<u8> {
        [&self.0[..], b"\n"].concat()
    }
}

/// How a file is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writer {
    pub(super) compact: bool,
    pub(super) keyed: bool,
    /// With ZSTD; others are put in afterwards by [`compress`].
    pub(super) compress: bool,
}

impl Writer {
    /// Starts writing a file; records go to the standard input.
    pub(super) fn start(self, path: &Path) -> Child {
        let flag = |set: bool| if set { "1" } else { "0" };
        Command::new(REMOTE)
            .arg(format!("--output={}", path.display()))
            .arg(format!("--compress={}", self.compress))
            .arg("-")
            .env("SYSTEMD_JOURNAL_COMPACT", flag(self.compact))
            .env("SYSTEMD_JOURNAL_KEYED_HASH", flag(self.keyed))
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("systemd-journal-remote starts")
    }

    pub(super) fn write(self, path: &Path, records: &[Record]) {
        let mut child = self.start(path);
        let mut input = child.stdin.take().expect("piped");
        send(&mut input, records);
        drop(input);
        assert!(child.wait().expect("it ends").success(), "systemd-journal-remote wrote {}", path.display());
    }
}

pub(super) fn send(input: &mut impl std::io::Write, records: &[Record]) {
    let all: Vec<u8> = records.iter().flat_map(Record::bytes).collect();
    input.write_all(&all).expect("systemd-journal-remote reads");
}

/// What older versions of systemd compress with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Xz,
    Lz4,
}

/// Compresses the long fields of a file in place, as a writer of that compression would have stored them: flags and
/// size of the object, and what the header says the file needs. Returns how many.
pub(super) fn compress(path: &Path, compression: Compression) -> usize {
    let mut file = std::fs::read(path).expect("readable");
    let word = |file: &[u8], at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("eight"));
    let flag = match compression {
        Compression::Xz => 1_u8,
        Compression::Lz4 => 2,
    };
    let payload = if file[12] & 16 != 0 { 72 } else { 64 };
    let (mut at, last) = (word(&file, 88), word(&file, 136));
    let mut count = 0;
    while at <= last {
        let start = usize::try_from(at).expect("small");
        let size = word(&file, start + 8);
        let end = start + usize::try_from(size).expect("small");
        at = (at + size).next_multiple_of(8);
        if file[start] != 1 || end - start < payload + 512 {
            continue;
        }
        let packed = match compression {
            Compression::Xz => xz(&file[start + payload..end]),
            Compression::Lz4 => lz4(&file[start + payload..end]),
        };
        assert!(packed.len() < end - start - payload, "long fields of these tests become shorter");
        let shorter = payload + packed.len();
        file[start + payload..start + shorter].copy_from_slice(&packed);
        file[start + shorter..end].fill(0);
        file[start + 1] = flag;
        file[start + 8..start + 16].copy_from_slice(&(shorter as u64).to_le_bytes());
        count += 1;
    }
    file[12] |= flag;
    std::fs::write(path, file).expect("writable");
    count
}

fn lz4(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], &lz4_flex::block::compress(bytes)].concat()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("xz")
        .args(["--format=xz", "--check=none", "--stdout"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("xz starts");
    child.stdin.take().expect("piped").write_all(bytes).expect("xz reads");
    child.wait_with_output().expect("xz ends").stdout
}
