//! Single values: from the text that flags, variables and files carry, and back to it.
//!
//! Invariants:
//! - Every error is the second half of a sentence that starts with the setting: it says what would be right.
//! - What a writer here makes, its reader accepts as the same value.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{Certificate, Since};

/// Elements that a list may have.
const LIST_MAX: usize = 1024;

/// Longest path of a Unix socket: `sun_path` has 108 bytes, one of them the final NUL.
const SOCKET_PATH_MAX: usize = 107;

pub(super) type Read<T> = Result<T, String>;

pub(super) fn switch(text: &str) -> Read<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => Ok(true),
        "false" | "f" | "0" => Ok(false),
        _ => Err("must be true or false".into()),
    }
}

/// A whole number within bounds, both included.
pub(super) fn number<T>(text: &str, least: T, most: T) -> Read<T>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    match text.parse::<T>() {
        Ok(number) if (&least..=&most).contains(&&number) => Ok(number),
        _ => Err(format!("must be a whole number from {least} to {most}")),
    }
}

/// A time such as `250ms` or `1m 30s`, within bounds, both included.
pub(super) fn time(text: &str, least: Duration, most: Duration) -> Read<Duration> {
    match humantime::parse_duration(text) {
        Ok(time) if (least..=most).contains(&time) => Ok(time),
        _ => Err(format!(
            "must be a time from {} to {}, for example 1s or 250ms",
            written(least),
            written(most)
        )),
    }
}

/// Zero, or a time within bounds.
pub(super) fn time_or_never(text: &str, least: Duration, most: Duration) -> Read<Duration> {
    if matches!(humantime::parse_duration(text), Ok(Duration::ZERO)) {
        return Ok(Duration::ZERO);
    }
    time(text, least, most).map_err(|right| format!("{right}, or 0s for never"))
}

/// A part of 100, in thousandths.
pub(super) fn percent(text: &str) -> Read<u32> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let read = || {
        let thousandths = format!("{part:0<3}").parse::<u32>().ok()?;
        whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(thousandths)
    };
    match read() {
        Some(share) if digits(whole) && digits(part) && part.len() <= 3 && share <= 100_000 => Ok(share),
        _ => Err("must be a percentage from 0 to 100 with at most three decimals, for example 0.2".into()),
    }
}

/// The text of thousandths of a percent.
pub(super) fn written_percent(share: u32) -> String {
    let text = format!("{}.{:03}", share / 1000, share % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The text of a time.
pub(super) fn written(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// Units of bytes, largest first of each family.
const UNITS: [(&str, u64); 6] = [
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1000),
];

/// Bytes: a whole number, or one with a unit such as `16MiB`; within bounds, both included.
pub(super) fn bytes(text: &str, least: u64, most: u64) -> Read<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let unit = UNITS.iter().find_map(|(name, size)| Some((lower.strip_suffix(name)?, *size)));
    let (digits, size) = unit.unwrap_or_else(|| (lower.strip_suffix('b').unwrap_or(&lower), 1));
    match digits.trim_end().parse::<u64>().ok().and_then(|count| count.checked_mul(size)) {
        Some(bytes) if (least..=most).contains(&bytes) => Ok(bytes),
        _ => Err(format!(
            "must be a size from {} to {}, for example 16MiB",
            written_bytes(least),
            written_bytes(most)
        )),
    }
}

/// The text of a size: with the largest binary unit that leaves a whole number.
pub(super) fn written_bytes(bytes: u64) -> String {
    let unit = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)].into_iter();
    let mut fitting = unit.filter(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size));
    fitting.next().map_or_else(|| bytes.to_string(), |(name, size)| format!("{}{name}", bytes / size))
}

/// One of a few names.
pub(super) fn one_of<T: Copy>(text: &str, names: &[(&str, T)]) -> Read<T> {
    names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        format!("must be {}", names.join(" or "))
    })
}

/// Elements separated by commas; an empty text is an empty list.
pub(super) fn list<T>(text: &str, element: impl Fn(&str) -> Read<T>) -> Read<Vec<T>> {
    let elements = text.split(',').map(str::trim).filter(|element| !element.is_empty());
    let elements: Vec<T> = elements.map(element).collect::<Read<_>>()?;
    if elements.len() > LIST_MAX {
        return Err(format!("must have at most {LIST_MAX} elements"));
    }
    Ok(elements)
}

/// `key=value` pairs separated by commas, percent-encoded where they contain a comma or an equals sign.
pub(super) fn pairs(text: &str) -> Read<Vec<(String, String)>> {
    list(text, |element| {
        let pair = element.split_once('=').filter(|(key, _)| !key.trim().is_empty());
        let (key, value) = pair.ok_or("must be key=value pairs separated by commas")?;
        Ok((decoded(key.trim())?, decoded(value.trim())?))
    })
}

/// The text of pairs.
pub(super) fn written_pairs(pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> =
        pairs.iter().map(|(key, value)| format!("{}={}", encoded(key), encoded(value))).collect();
    pairs.join(",")
}

fn decoded(text: &str) -> Read<String> {
    let bad = || "must have two hexadecimal digits after each %".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).ok_or_else(bad)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| "must be UTF-8 after decoding".into())
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_graphic() && !matches!(byte, b'%' | b',' | b'=') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

/// A path that is not empty.
pub(super) fn path(text: &str) -> Read<PathBuf> {
    if text.is_empty() || text.contains('\0') { Err("must be a path".into()) } else { Ok(text.into()) }
}

/// A path, or an empty text for none.
pub(super) fn path_or_none(text: &str) -> Read<Option<PathBuf>> {
    if text.is_empty() { Ok(None) } else { path(text).map(Some) }
}

/// `FILE` or `UNIT:FILE`, where the file is given from the root.
pub(super) fn certificate(text: &str) -> Read<Certificate> {
    let (unit, file) = match text.find(":/") {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => ("", text),
    };
    if !file.starts_with('/') {
        return Err("must be [UNIT:]FILE, the file from the root on".into());
    }
    Ok(Certificate { path: path(file)?, unit: unit.to_owned() })
}

/// What can be the name of a file.
pub(super) fn file_name(text: &str) -> Read<String> {
    let fits = text.len() <= 128 && !text.starts_with('.') && !text.contains(['/', '\0']);
    if fits && !text.is_empty() { Ok(text.into()) } else { Err("must be names without slashes".into()) }
}

/// A time such as `2h`, or a point in time as in RFC 3339; an empty text is none.
pub(super) fn since(text: &str) -> Read<Option<Since>> {
    if text.is_empty() {
        return Ok(None);
    }
    let ago = humantime::parse_duration(text).map(Since::Ago);
    let at = || humantime::parse_rfc3339(text).map(Since::At);
    ago.or_else(|_| at())
        .map(Some)
        .map_err(|_| "must be a time such as 2h, or a point in time such as 2026-11-24T18:00:00Z".to_owned())
}

/// The text of that.
pub(super) fn written_since(since: Option<Since>) -> String {
    match since {
        None => String::new(),
        Some(Since::Ago(time)) => written(time),
        Some(Since::At(at)) => humantime::format_rfc3339(at).to_string(),
    }
}

/// Text that is not empty.
pub(super) fn text(text: &str) -> Read<String> {
    if text.trim().is_empty() { Err("must not be empty".into()) } else { Ok(text.into()) }
}

/// Any text, also none.
#[expect(clippy::unnecessary_wraps, reason = "the form that the table of settings needs")]
pub(super) fn text_or_nothing(text: &str) -> Read<String> {
    Ok(text.trim().into())
}

/// An address to listen at; an empty text is none.
pub(super) fn listen(text: &str) -> Read<Option<SocketAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| "must be address:port, for example 127.0.0.1:9464".into())
}

/// The path of a Unix socket.
pub(super) fn socket(text: &str) -> Read<PathBuf> {
    if text.len() > SOCKET_PATH_MAX {
        return Err(format!("must be a path of at most {SOCKET_PATH_MAX} bytes: it names a socket"));
    }
    path(text)
}

/// An address of a D-Bus bus, the path of a socket, or nothing.
pub(super) fn bus(text: &str) -> Read<String> {
    let is_address = text.split_once(':').is_some_and(|(transport, _)| {
        !transport.is_empty() && transport.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
    });
    if text.is_empty() || text.starts_with('/') || is_address {
        return Ok(text.into());
    }
    Err("must be an address such as unix:path=/run/dbus/system_bus_socket, or a path".into())
}

/// `host:port`, or a URL with scheme http or https.
pub(super) fn endpoint(text: &str) -> Read<String> {
    let right =
        || "must be host:port or a URL, for example localhost:9090 or https://tapio.example:9090".to_owned();
    let uri: tonic::transport::Uri = url(text, true).parse().map_err(|_| right())?;
    let has_scheme = text.contains("://");
    let known_scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    let named = uri.host().is_some_and(|host| !host.is_empty());
    // A URL has the port of its scheme; without a scheme a missing port is a slip.
    if known_scheme && named && (has_scheme || uri.port_u16().is_some()) {
        Ok(text.into())
    } else {
        Err(right())
    }
}

/// The URL of an endpoint: what has no scheme gets http where plain text is wanted, else https.
#[must_use]
pub fn url(endpoint: &str, insecure: bool) -> String {
    match endpoint {
        url if url.contains("://") => url.to_owned(),
        host if insecure => format!("http://{host}"),
        host => format!("https://{host}"),
    }
}

/// A level, or directives such as `info,tapio::egress=debug`.
pub(super) fn log_filter(text: &str) -> Read<String> {
    let right =
        "must be off, error, warn, info, debug or trace, or directives such as info,tapio::egress=debug";
    // Alone, a word that is no level would be taken as the name of a module that does not exist.
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let plain = !text.contains([',', '=']);
    let known = levels.iter().any(|level| text.eq_ignore_ascii_case(level));
    if (plain && !known) || tracing_subscriber::EnvFilter::try_new(text).is_err() {
        return Err(right.into());
    }
    Ok(text.into())
}

/// The name among `names` that `wrong` is probably meant to be.
pub(super) fn nearest<'name>(wrong: &str, names: impl Iterator<Item = &'name str>) -> Option<&'name str> {
    let limit = (wrong.len() / 3).max(1);
    names
        .map(|name| (distance(wrong, name), name))
        .filter(|(far, _)| *far <= limit)
        .min()
        .map(|(_, name)| name)
}

/// Insertions, deletions and replacements that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, byte_a) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, byte_b) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(byte_a != byte_b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: sizes with and without units, at and beyond the bounds.
    /// Guarantees: exactly those within are read; the error names the bounds as a person writes them.
    #[test]
    fn sizes_are_read_with_units() {
        let (least, most) = (64 << 10, 4 << 30);
        for (text, bytes_) in
            [("16MiB", 16 << 20), ("65536", 65536), ("64kib", 65536), ("4 GiB", 4 << 30), ("1MB", 1_000_000)]
        {
            assert_eq!(bytes(text, least, most), Ok(bytes_), "{text}");
            assert_eq!(
                bytes(&written_bytes(bytes_), least, most),
                Ok(bytes_),
                "{text} written and read again"
            );
        }
        for text in ["", "0", "65535", "5GiB", "16MiBs", "-1", "99999999999999999999GiB", "1.5MiB"] {
            let error = bytes(text, least, most).expect_err(text);
            assert_eq!(error, "must be a size from 64KiB to 4GiB, for example 16MiB", "{text}");
        }
    }

    /// Scenario: endpoints with and without scheme and port.
    /// Guarantees: what cannot be connected to is refused; a missing scheme follows the wish for plain text.
    #[test]
    fn endpoints_have_a_host_and_a_port() {
        for good in ["localhost:9090", "[::1]:9090", "http://a", "https://a:1/x", "10.0.0.1:1"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "localhost", ":9090", "a b:1", "ftp://a:1", "host:99999", "http://"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
        assert_eq!(url("a:1", true), "http://a:1");
        assert_eq!(url("a:1", false), "https://a:1");
        assert_eq!(url("https://a:1", true), "https://a:1");
    }

    /// Scenario: times ago, points in time, nothing, and texts that are neither.
    /// Guarantees: the first three are read and written so that they read the same; the rest is refused.
    #[test]
    fn times_in_the_past_are_read() {
        for text in ["2h", "1day 3s", "2026-11-24T18:00:00Z", ""] {
            let read = since(text).expect(text);
            assert_eq!(since(&written_since(read)), Ok(read), "{text}");
        }
        for bad in ["yesterday", "2", "2026-11-24", "-2h"] {
            assert!(since(bad).is_err(), "{bad}");
        }
        let now = std::time::UNIX_EPOCH + Duration::from_secs(10_000);
        assert_eq!(Since::Ago(Duration::from_secs(7_200)).unix_us(now), 2_800_000_000);
        assert_eq!(Since::Ago(Duration::from_secs(70_200)).unix_us(now), 0);
    }

    /// Scenario: pairs with percent-encoded separators.
    /// Guarantees: they are read, and written so that they read the same.
    #[test]
    fn pairs_survive_their_text() {
        let read = pairs("a=b, c%3D = d%2Ce%20f%C3%A9").expect("valid");
        assert_eq!(read, [("a".into(), "b".into()), ("c=".into(), "d,e f\u{e9}".into())]);
        assert_eq!(pairs(&written_pairs(&read)), Ok(read));
        for bad in ["a", "=b", "a=%", "a=%4", "a=%zz", "a=%ff"] {
            assert!(pairs(bad).is_err(), "{bad}");
        }
    }

    /// Scenario: log filters, one of them a misspelled level.
    /// Guarantees: the misspelling is not taken as the name of a module.
    #[test]
    fn log_filters_are_checked() {
        for good in ["info", "DEBUG", "off", "info,tapio::egress=debug"] {
            assert!(log_filter(good).is_ok(), "{good}");
        }
        for bad in ["inof", "", "tapio=loud", "=,="] {
            assert!(log_filter(bad).is_err(), "{bad}");
        }
    }

    /// Scenario: slips of one or two letters, and a word that is like nothing.
    /// Guarantees: the slips find their name, the other word finds none.
    #[test]
    fn slips_find_their_name() {
        let names = || ["server", "socket", "buffer_size"].into_iter();
        assert_eq!(nearest("sever", names()), Some("server"));
        assert_eq!(nearest("bufer_sice", names()), Some("buffer_size"));
        assert_eq!(nearest("colour", names()), None);
    }
}
