//! Points in time as text: RFC 3339, or Unix nanoseconds.
//!
//! Invariants:
//! - What is written can be read back without loss.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Unix nanoseconds as RFC 3339 in UTC, with nanoseconds.
pub(in crate::server) fn format(unix_ns: u64) -> String {
    humantime::format_rfc3339_nanos(UNIX_EPOCH + Duration::from_nanos(unix_ns)).to_string()
}

/// Reads Unix nanoseconds or RFC 3339 with any offset.
pub(in crate::server) fn parse(text: &str) -> Option<u64> {
    if !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit()) {
        return text.parse().ok();
    }
    let (local, offset_s) = split_offset(text)?;
    let local = humantime::parse_rfc3339_weak(local).ok()?;
    let since = local.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let ns = i128::try_from(since.as_nanos()).ok()? - i128::from(offset_s) * 1_000_000_000;
    u64::try_from(ns).ok()
}

/// Splits `...Z` or `...+HH:MM` into the local time and the offset in seconds. A plus that a URL turned into a
/// space counts as one.
fn split_offset(text: &str) -> Option<(&str, i64)> {
    if let Some(local) = text.strip_suffix(['Z', 'z']) {
        return Some((local, 0));
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let sign = match offset.as_bytes().first()? {
        b'+' | b' ' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let number = |text: &str, max: i64| {
        let digits = text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_digit());
        text.parse().ok().filter(|&number: &i64| digits && number <= max)
    };
    Some((local, sign * (number(hours, 23)? * 3600 + number(minutes, 59)? * 60)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: one point in time in every form, and texts that are none.
    /// Guarantees: the forms agree; the rest is refused.
    #[test]
    fn times_are_read_and_written() {
        let unix_ns = 1_700_000_000_123_456_789;
        assert_eq!(format(unix_ns), "2023-11-14T22:13:20.123456789Z");
        for text in [
            "1700000000123456789",
            "2023-11-14T22:13:20.123456789Z",
            "2023-11-15T00:13:20.123456789+02:00",
            "2023-11-15T00:13:20.123456789 02:00",
            "2023-11-14T18:43:20.123456789-03:30",
        ] {
            assert_eq!(parse(text), Some(unix_ns), "{text}");
        }
        for text in [
            "",
            "now",
            "-5",
            "2023-11-14",
            "2023-11-14T22:13:20+2:00",
            "2023-11-14T22:13:20",
            "99999999999999999999",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
