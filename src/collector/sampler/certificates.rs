//! When certificates end, by the files that the settings name.
//!
//! Invariants:
//! - Of a chain the one that ends first counts: with it the chain is of no use.
//! - At most [`BYTES_MAX`] of a file are read, and only of a regular one: nothing waits for who writes into a pipe. What cannot be read is said once for each file.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::UNIX_EPOCH;

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

/// Bytes of a file.
const BYTES_MAX: u64 = 1 << 20;

/// Why a file says nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    /// It cannot be read.
    #[error("{0}")]
    Read(#[from] std::io::Error),
    /// A pipe or a device, which could have its reader wait.
    #[error("it is no regular file")]
    Special,
    /// What is in it.
    #[error("it has no certificate in PEM form")]
    None,
}

/// When the first certificate of a file ends, Unix seconds.
pub(super) fn not_after(path: &Path) -> Result<u64, CertificateError> {
    let mut bytes = Vec::new();
    if !std::fs::metadata(path)?.is_file() {
        return Err(CertificateError::Special);
    }
    File::open(path)?.take(BYTES_MAX).read_to_end(&mut bytes)?;
    let ends = CertificateDer::pem_slice_iter(&bytes).flatten().filter_map(|der| end_of(&der));
    ends.min().ok_or(CertificateError::None)
}

/// The end of a certificate: `Certificate` is a sequence whose first part is a sequence of version, serial number,
/// algorithm, issuer, and validity, which is a sequence of two times (RFC 5280).
fn end_of(der: &[u8]) -> Option<u64> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let inside = |(tag, content, _): (u8, _, _)| (tag == SEQUENCE).then_some(content);
    let mut rest = inside(element(inside(element(der)?)?)?)?;
    let (tag, _, behind) = element(rest)?;
    if tag == VERSION {
        rest = behind;
    }
    for _ in ["serial number", "algorithm", "issuer"] {
        rest = element(rest)?.2;
    }
    let (_, _, after_begin) = element(inside(element(rest)?)?)?;
    let (tag, end, _) = element(after_begin)?;
    unix_s(tag, std::str::from_utf8(end).ok()?)
}

/// The first element: its tag, its content, and what is behind it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDhhmmssZ`, where years below 50 are of this century, or `YYYYMMDDhhmmssZ`.
fn unix_s(tag: u8, text: &str) -> Option<u64> {
    let text = match (tag, text.get(..2)?) {
        (0x17, year) if year < "50" => format!("20{text}"),
        (0x17, _) => format!("19{text}"),
        (0x18, _) => text.to_owned(),
        _ => return None,
    };
    let part = |from: usize, to: usize| text.get(from..to);
    let (date, time) =
        ((part(0, 4)?, part(4, 6)?, part(6, 8)?), (part(8, 10)?, part(10, 12)?, part(12, 14)?));
    let written = format!("{}-{}-{}T{}:{}:{}Z", date.0, date.1, date.2, time.0, time.1, time.2);
    let at = humantime::parse_rfc3339(&written).ok()?;
    // What ended before 1970 is as past as what ended then.
    Some(at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate as openssl makes it: its end, days from now. Nothing, and said, where there is no openssl.
    fn make(folder: &Path, name: &str, days: &str) -> Option<std::path::PathBuf> {
        let (key, file) = (folder.join("key"), folder.join(name));
        let output = std::process::Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-subj", "/CN=test", "-days", days, "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&file)
            .output();
        let Ok(output) = output else {
            // The harness captures the print macros.
            let line = "\nSKIPPED sampler::certificates: there is no openssl\n";
            std::io::Write::write_all(&mut std::io::stderr().lock(), line.as_bytes()).expect("it is open");
            return None;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(file)
    }

    /// Scenario: certificates of openssl for 10 and 90 days, both in one file, a key, an empty file, none.
    /// Guarantees: the end is that of openssl to the minute, of both the sooner; the others say what is wrong.
    #[test]
    fn ends_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let Some(soon) = make(folder.path(), "soon.pem", "10") else { return };
        let late = make(folder.path(), "late.pem", "90").expect("made");
        let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
        for (file, days) in [(&soon, 10), (&late, 90)] {
            let end = not_after(file).expect("a certificate");
            assert!((now + days * 86_400).abs_diff(end) < 60, "{end}");
        }
        let both = folder.path().join("both.pem");
        let text = [&late, &soon].map(|file| std::fs::read_to_string(file).expect("there")).concat();
        std::fs::write(&both, text).expect("written");
        assert_eq!(not_after(&both).ok(), not_after(&soon).ok());
        assert!(not_after(&folder.path().join("key")).is_err());
        assert!(matches!(not_after(Path::new("/dev/null")), Err(CertificateError::Special)));
        let missing = not_after(Path::new("/no/such/file")).expect_err("missing");
        assert!(missing.to_string().contains("No such file"), "{missing}");
    }

    /// Scenario: times of both forms and centuries, and what is none; a certificate that is cut off at every byte.
    /// Guarantees: seconds since 1970, or nothing; never a panic.
    #[test]
    fn times_have_two_forms() {
        assert_eq!(unix_s(0x17, "240102030405Z"), Some(1_704_164_645));
        assert_eq!(unix_s(0x18, "20600102030405Z"), Some(2_840_238_245));
        assert_eq!(unix_s(0x17, "991231235959Z"), Some(946_684_799));
        assert_eq!(unix_s(0x17, "x"), None);
        assert_eq!(unix_s(0x05, "240102030405Z"), None);
        let folder = tempfile::tempdir().expect("a folder");
        let Some(file) = make(folder.path(), "one.pem", "1") else { return };
        let der = CertificateDer::from_pem_file(file).expect("one");
        assert!(end_of(&der).is_some());
        for end in 0..der.len() {
            assert_eq!(end_of(&der[..end]), None, "{end}");
        }
    }
}
