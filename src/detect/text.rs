//! Small parts of messages: numbers, quoted names, paths, end points.
//!
//! Invariants:
//! - Total: what is not there is `None`, never a guess.

use std::net::{IpAddr, Ipv6Addr};

use zerocopy::IntoBytes;

/// Longest text that a fact keeps.
pub(super) const TEXT_MAX: usize = 300;

/// What stands behind `mark`.
pub(super) fn after<'text>(text: &'text str, mark: &str) -> Option<&'text str> {
    text.find(mark).and_then(|at| text.get(at + mark.len()..))
}

/// What stands behind `mark`, up to the first of these characters or the end.
pub(super) fn until<'text>(text: &'text str, mark: &str, ends: &[char]) -> Option<&'text str> {
    after(text, mark)?.split(ends).next()
}

/// The digits right behind `mark`.
pub(super) fn number_after(text: &str, mark: &str) -> Option<u64> {
    let rest = after(text, mark)?;
    let end = rest.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

/// A text no longer than [`TEXT_MAX`], cut between characters.
pub(super) fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().trim_end().to_owned()
}

/// Words of a message, without the punctuation around them.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let around = |letter: char| "\"'`,;()<>".contains(letter);
    text.split(|letter: char| letter.is_whitespace() || "\"'`(),".contains(letter))
        .map(move |word| word.trim_matches(around).trim_end_matches(['.', ':']))
        .filter(|word| !word.is_empty())
}

/// The last end point that a message names: `address:port`, or `:port` for any address.
pub(super) fn end_point(text: &str) -> Option<(String, u16)> {
    let mut found = None;
    for word in words(text) {
        let word = word.rsplit("//").next().unwrap_or(word);
        let word = word.split('/').next().unwrap_or(word);
        let Some((address, port)) = word.rsplit_once(':') else { continue };
        let Ok(port) = port.parse::<u16>() else { continue };
        let address = address.trim_matches(['[', ']']);
        if address.is_empty() || address == "*" {
            found = Some(("*".to_owned(), port));
        } else if let Ok(ip) = address.parse::<IpAddr>() {
            found = Some((canonical(ip), port));
        } else if address == "localhost" {
            found = Some(("127.0.0.1".to_owned(), port));
        }
    }
    found
}

/// A port that a message names without an address: `port 8080`, or the last word that starts with a colon.
pub(super) fn port(text: &str) -> Option<u16> {
    let lower = text.to_ascii_lowercase();
    let named = number_after(&lower, "port ").or_else(|| number_after(&lower, "port="));
    named.and_then(|port| u16::try_from(port).ok()).filter(|&port| port > 0)
}

/// The first absolute path in a message.
pub(super) fn path(text: &str) -> Option<&str> {
    words(text).find(|word| word.len() > 1 && word.starts_with('/') && !word.starts_with("//"))
}

/// An address as people write it; `*` for any.
pub(super) fn canonical(address: IpAddr) -> String {
    let address = address.to_canonical();
    if address.is_unspecified() { "*".to_owned() } else { address.to_string() }
}

/// The address in a slot.
pub(super) fn slot_address(words: &[u64]) -> Option<IpAddr> {
    let octets = <[u8; 16]>::try_from(words.as_bytes()).ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: messages of real programs.
    /// Guarantees: the end point, port and path that a person would point at; none where there is none.
    #[test]
    fn parts_of_messages() {
        for (text, expected) in [
            ("dial tcp 10.0.0.5:5432: connect: connection refused", Some(("10.0.0.5", 5432))),
            ("bind() to 0.0.0.0:80 failed (98: Address already in use)", Some(("*", 80))),
            ("listen tcp :8080: bind: address already in use", Some(("*", 8080))),
            ("connect to [::1]:6379 failed", Some(("::1", 6379))),
            ("Get \"http://127.0.0.1:9000/healthz\": dial", Some(("127.0.0.1", 9000))),
            ("could not connect to localhost:5432", Some(("127.0.0.1", 5432))),
            ("12:30:05 nothing here", None),
            ("it broke", None),
        ] {
            let expected = expected.map(|(address, port)| (address.to_owned(), port));
            assert_eq!(end_point(text), expected, "{text}");
        }
        assert_eq!(port("could not bind port 8080"), Some(8080));
        assert_eq!(port("no such thing"), None);
        assert_eq!(path("open \"/var/lib/x/y.db\": no space left"), Some("/var/lib/x/y.db"));
        assert_eq!(path("no path"), None);
        assert_eq!(number_after("anon-rss:98304kB", "anon-rss:"), Some(98_304));
        assert_eq!(until("a=1,b=2,c=3", "b=", &[',']), Some("2"));
        assert_eq!(cut(&"\u{e4}".repeat(TEXT_MAX)).chars().count(), TEXT_MAX / 2);
    }
}
