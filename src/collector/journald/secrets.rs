//! Masks what looks like a secret in a text: passwords, keys and tokens become `***`.
//!
//! Known by their place: what follows a name such as `password=` or `"api_key":`, the password in a URL, what follows
//! `Bearer`. Known by their looks: keys of AWS and tokens with a vendor's prefix, JSON web tokens, private keys.
//!
//! Invariants:
//! - Pure and total; a text without a secret is returned as it is, without a copy.
//! - Ids that diagnosis needs are no secrets: bare hexadecimal digits stay, unless a name says that they are a key.

use std::borrow::Cow;
use std::ops::Range;

/// What stands for a secret.
const MASK: &str = "***";

/// Parts of names, in lower case without separators, whose values are secrets.
const NAMES: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "secretkey",
    "signingkey",
    "encryptionkey",
    "authorization",
    "credential",
    "sessionid",
    "cookie",
    "signature",
];

/// Names whose values are secrets only if they look like one: long, and digits of hexadecimal or base64.
const MAYBE: &[&str] = &["key", "auth", "sig", "hmac", "hash", "session", "sid", "jwt", "sas"];

/// Prefixes that vendors give their tokens, and how many characters follow at least.
const PREFIXES: &[(&str, usize)] = &[
    ("AKIA", 16),
    ("ASIA", 16),
    ("ghp_", 30),
    ("gho_", 30),
    ("ghs_", 30),
    ("ghu_", 30),
    ("github_pat_", 30),
    ("glpat-", 16),
    ("xoxb-", 10),
    ("xoxp-", 10),
    ("xoxa-", 10),
    ("sk_live_", 10),
    ("rk_live_", 10),
    ("AIza", 30),
    ("npm_", 30),
    ("dop_v1_", 30),
    ("hvs.", 20),
];

/// A value of this length may be a key.
const KEY_CHARS_MIN: usize = 20;

/// A longer word is no name.
const NAME_CHARS_MAX: usize = 64;

/// What follows `Bearer` and `Basic` is a secret from this length on, and not a word of a sentence.
const BEARER_CHARS_MIN: usize = 12;

/// The text with its secrets masked.
pub(super) fn mask(text: &str) -> Cow<'_, str> {
    let mut found: Vec<Range<usize>> = Vec::new();
    private_keys(text, &mut found);
    urls(text, &mut found);
    named(text, &mut found);
    words(text, &mut found);
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    found.sort_by_key(|range| (range.start, range.end));
    let mut masked = String::with_capacity(text.len());
    let mut at = 0;
    for range in found {
        if range.start < at {
            // It overlaps the one before: what sticks out is masked with it.
            at = at.max(range.end);
            continue;
        }
        masked.push_str(text.get(at..range.start).unwrap_or_default());
        masked.push_str(MASK);
        at = range.end;
    }
    masked.push_str(text.get(at..).unwrap_or_default());
    Cow::Owned(masked)
}

/// What a secret is made of.
fn is_secret_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '-' | '_' | '.' | '~')
}

fn is_word_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// `-----BEGIN .. PRIVATE KEY-----` and what follows.
fn private_keys(text: &str, found: &mut Vec<Range<usize>>) {
    const END: &str = "PRIVATE KEY-----";
    let mut from = 0;
    while let Some(at) = text.get(from..).and_then(|rest| rest.find("-----BEGIN ")) {
        let start = from + at;
        let Some(rest) = text.get(start..) else { return };
        let Some(name) = rest.find(END).filter(|&name| name < 64) else {
            from = start + 1;
            continue;
        };
        let body = start + name + END.len();
        let end =
            text.get(body..).and_then(|rest| rest.find(END)).map_or(text.len(), |end| body + end + END.len());
        found.push(body..end);
        from = end;
    }
}

/// `scheme://user:password@host`
fn urls(text: &str, found: &mut Vec<Range<usize>>) {
    for (at, _) in text.match_indices("://") {
        let start = at + 3;
        let rest = text.get(start..).unwrap_or_default();
        let end = rest
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\''))
            .unwrap_or(rest.len());
        let Some(host) = rest.get(..end).and_then(|authority| authority.rfind('@')) else { continue };
        if let Some(colon) = rest.get(..host).and_then(|user| user.find(':'))
            && colon + 1 < host
        {
            found.push(start + colon + 1..start + host);
        }
    }
}

/// `name=value`, `name: value`, `"name":"value"`, `Bearer value`.
fn named(text: &str, found: &mut Vec<Range<usize>>) {
    for (at, sign) in text.char_indices().filter(|(_, c)| matches!(c, '=' | ':')) {
        let before = text.get(..at).unwrap_or_default().trim_end_matches(['"', '\'', ' ']);
        let name_at = before.rfind(|c| !is_word_char(c)).map_or(0, |end| end + 1);
        let Some(name) = before.get(name_at..) else { continue };
        let bare = bare(name);
        let sure = NAMES.iter().any(|part| bare.contains(part));
        let maybe = !sure && MAYBE.iter().any(|part| bare.ends_with(part));
        if !sure && !maybe {
            continue;
        }
        let behind = at + sign.len_utf8();
        let Some(range) = value(text, behind) else { continue };
        let value = text.get(range.clone()).unwrap_or_default();
        if sure && !is_harmless(value) || maybe && looks_random(value) {
            found.push(range);
        }
    }
    for scheme in ["Bearer ", "bearer ", "Basic ", "basic "] {
        for (at, _) in text.match_indices(scheme) {
            let start = at + scheme.len();
            let len =
                text.get(start..).map_or(0, |rest| rest.find(|c| !is_secret_char(c)).unwrap_or(rest.len()));
            if len >= BEARER_CHARS_MIN {
                found.push(start..start + len);
            }
        }
    }
}

/// A name in lower case and without separators; empty if it is too long to be one.
fn bare(name: &str) -> String {
    let letters = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase());
    if name.len() > NAME_CHARS_MAX { String::new() } else { letters.collect() }
}

/// Where the value behind a sign is.
fn value(text: &str, behind: usize) -> Option<Range<usize>> {
    let rest = text.get(behind..)?;
    let start = behind + (rest.len() - rest.trim_start_matches(' ').len());
    let rest = text.get(start..)?;
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''));
    let (start, end) = match quote {
        Some(quote) => (start + 1, rest.get(1..)?.find(quote)),
        None => (
            start,
            rest.find(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '&' | ')' | '}' | ']' | '"')),
        ),
    };
    let end = end.map_or(text.len(), |end| start + end);
    (start < end).then_some(start..end)
}

/// Values that say that there is no secret, or that it is masked already; and schemes, whose value comes next.
fn is_harmless(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    matches!(
        lower.as_str(),
        "" | "true"
            | "false"
            | "null"
            | "none"
            | "nil"
            | "yes"
            | "no"
            | "(none)"
            | "<none>"
            | "empty"
            | "bearer"
            | "basic"
    ) || value.chars().all(|c| c == '*')
}

fn looks_random(value: &str) -> bool {
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    value.len() >= KEY_CHARS_MIN && value.chars().all(is_secret_char) && digits * 10 >= value.len()
}

/// Words that show what they are.
fn words(text: &str, found: &mut Vec<Range<usize>>) {
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        let inside = is_secret_char(c) && c != '=' && c != '/';
        match (start, inside) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                if text.get(from..at).is_some_and(is_token) {
                    found.push(from..at);
                }
                start = None;
            }
            _ => {}
        }
    }
}

fn is_token(word: &str) -> bool {
    let prefixed = |&(prefix, more): &(&str, usize)| {
        word.strip_prefix(prefix).is_some_and(|rest| rest.len() >= more && rest.is_ascii())
    };
    PREFIXES.iter().any(prefixed) || is_web_token(word)
}

/// `eyJ..` three times base64 with dots between.
fn is_web_token(word: &str) -> bool {
    word.starts_with("eyJ") && word.len() >= 30 && word.split('.').count() >= 3
}

#[cfg(test)]
mod tests;
