//! Entries as journalctl exports them and as the reader reads them, in one form.

use std::path::Path;
use std::process::Command;

use tapio::collector::journald::journal::{Gap, Position, Reader, Seek, Source};

/// An entry: where it stands, and its fields in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) cursor: String,
    pub(super) realtime_us: u64,
    pub(super) monotonic_us: u64,
    pub(super) boot: String,
    pub(super) fields: Vec<(String, Vec<u8>)>,
}

/// What journalctl exports of a directory.
pub(super) fn by_journalctl(directory: &Path) -> Vec<Told> {
    journalctl(directory, &[])
}

/// The same with more arguments.
pub(super) fn journalctl(directory: &Path, arguments: &[&str]) -> Vec<Told> {
    let output = Command::new("journalctl")
        .args(["--quiet", "--no-pager", "--output=export"])
        .arg(format!("--directory={}", directory.display()))
        .args(arguments)
        .output()
        .expect("journalctl runs");
    let (all, complete) = parse(&output.stdout);
    assert!(complete || !output.status.success(), "what ends well ends with an entry");
    all
}

/// Reads the export format; whether it ends with an entry. Damage may stop journalctl inside of one.
fn parse(mut bytes: &[u8]) -> (Vec<Told>, bool) {
    let mut all = Vec::new();
    let mut fields: Vec<(String, Vec<u8>)> = Vec::new();
    while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        bytes = rest;
        if line.is_empty() {
            all.push(told(std::mem::take(&mut fields)));
            continue;
        }
        let name = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("a name");
        if let Some(equals) = line.iter().position(|&byte| byte == b'=') {
            fields.push((name(&line[..equals]), line[equals + 1..].to_vec()));
        } else {
            let (length, rest) = bytes.split_first_chunk().expect("a length");
            let length = usize::try_from(u64::from_le_bytes(*length)).expect("it is in memory");
            fields.push((name(line), rest[..length].to_vec()));
            bytes = &rest[length + 1..];
        }
    }
    (all, fields.is_empty() && bytes.is_empty())
}

/// Takes what journalctl adds from the fields.
fn told(fields: Vec<(String, Vec<u8>)>) -> Told {
    let (added, fields): (Vec<_>, Vec<_>) = fields.into_iter().partition(|(name, _)| {
        let added = ["__CURSOR", "__REALTIME_TIMESTAMP", "__MONOTONIC_TIMESTAMP", "_BOOT_ID"];
        added.contains(&name.as_str()) || name.starts_with("__SEQNUM")
    });
    let get = |name: &str| {
        let (_, value) = added.iter().find(|(added, _)| added == name).expect("journalctl adds it");
        String::from_utf8(value.clone()).expect("text")
    };
    Told {
        cursor: get("__CURSOR"),
        realtime_us: get("__REALTIME_TIMESTAMP").parse().expect("a number"),
        monotonic_us: get("__MONOTONIC_TIMESTAMP").parse().expect("a number"),
        boot: get("_BOOT_ID"),
        fields,
    }
}

/// journalctl prints no fields whose names break the rules for names.
fn is_name(name: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    matches!(name.first(), Some(first) if !first.is_ascii_digit())
        && name.len() <= 64
        && name.iter().all(allowed)
}

/// What the reader delivers from here on, until there is nothing more.
pub(super) fn read(reader: &mut Reader) -> Vec<Told> {
    let mut all = Vec::new();
    while let Some(entry) = reader.next() {
        let fields = entry.fields().filter(|(name, _)| is_name(name) && *name != b"_BOOT_ID");
        all.push(Told {
            cursor: entry.cursor().to_string(),
            realtime_us: entry.realtime_us,
            monotonic_us: entry.monotonic_us,
            boot: format!("{:032x}", u128::from_be_bytes(entry.boot_id)),
            fields: fields
                .map(|(name, value)| (String::from_utf8_lossy(name).into(), value.to_vec()))
                .collect(),
        });
    }
    all
}

pub(super) fn open(directory: &Path) -> Reader {
    Reader::open(Source::Directory(directory.into())).expect("the directory exists")
}

/// All that the reader delivers of a directory, and its gaps.
pub(super) fn by_reader(directory: &Path) -> (Vec<Told>, Vec<Gap>) {
    let mut reader = open(directory);
    let all = read(&mut reader);
    (all, reader.take_gaps())
}

/// What is behind a cursor that exists.
pub(super) fn from_cursor(directory: &Path, cursor: &str) -> Vec<Told> {
    let mut reader = open(directory);
    let found = reader.seek(Position::Cursor(cursor.parse().expect("a cursor")));
    assert_eq!(found.expect("sought"), Seek::Exact);
    read(&mut reader)
}

/// What is from a time on.
pub(super) fn from_time(directory: &Path, realtime_us: u64) -> Vec<Told> {
    let mut reader = open(directory);
    reader.seek(Position::RealtimeUs(realtime_us)).expect("sought");
    read(&mut reader)
}

/// Fails at the first entry that differs, naming the field.
pub(super) fn assert_same(name: &str, ours: &[Told], told: &[Told]) {
    for (index, (ours, told)) in ours.iter().zip(told).enumerate() {
        for (ours, told) in ours.fields.iter().zip(&told.fields) {
            assert!(ours == told, "{name}: entry {index}: {} is not {}", describe(ours), describe(told));
        }
        assert_eq!(ours, told, "{name}: entry {index}");
    }
    assert_eq!(ours.len(), told.len(), "{name}: entries");
}

fn describe((name, value): &(String, Vec<u8>)) -> String {
    format!("{name} of {} bytes: {:?}", value.len(), String::from_utf8_lossy(&value[..value.len().min(80)]))
}
