//! What a message is without its numbers, ids and names: the same text for messages of one origin.
//!
//! Words are what stands between spaces and punctuation. A word with a digit in it becomes `#`, as does a long word of
//! hexadecimal digits; what is in quotes becomes `"*"`; what looks like a path, an address or a URL becomes `*`.
//!
//! Invariants:
//! - Pure, total, linear in the text; the result is cut at [`PATTERN_BYTES_MAX`].
//! - Nothing that differs from one message of an origin to the next is meant to survive: in doubt a word goes.

/// A pattern is no longer than this.
pub(super) const PATTERN_BYTES_MAX: usize = 256;

/// A word of hexadecimal digits alone is an id from this length on.
const HEX_WORD_MIN: usize = 8;

/// The pattern of a message.
pub(super) fn of(message: &str) -> String {
    let mut pattern = String::with_capacity(message.len().min(PATTERN_BYTES_MAX));
    let mut rest = message.trim();
    while !rest.is_empty() && pattern.len() < PATTERN_BYTES_MAX {
        let piece = next(rest);
        let (text, behind) = rest.split_at(piece.len());
        rest = behind;
        match piece {
            Piece::Space(_) => {
                if !pattern.ends_with(' ') {
                    pattern.push(' ');
                }
            }
            Piece::Plain(_) => pattern.push_str(text),
            Piece::Number(_) => push_once(&mut pattern, '#'),
            Piece::Name(_) => push_once(&mut pattern, '*'),
            Piece::Quoted(_) => pattern.push_str("\"*\""),
        }
    }
    let mut end = pattern.len().min(PATTERN_BYTES_MAX);
    while !pattern.is_char_boundary(end) {
        end -= 1;
    }
    pattern.truncate(end);
    pattern
}

/// Two of a kind in a row are one: their number may differ, too.
fn push_once(pattern: &mut String, mark: char) {
    if !pattern.ends_with(mark) {
        pattern.push(mark);
    }
}

/// The start of a text, by what becomes of it; its length in bytes.
enum Piece {
    Space(usize),
    Plain(usize),
    Number(usize),
    Name(usize),
    Quoted(usize),
}

impl Piece {
    fn len(&self) -> usize {
        match *self {
            Self::Space(len) | Self::Plain(len) | Self::Number(len) | Self::Name(len) | Self::Quoted(len) => {
                len
            }
        }
    }
}

fn next(text: &str) -> Piece {
    let Some(first) = text.chars().next() else { return Piece::Space(0) };
    if first.is_whitespace() {
        return Piece::Space(run(text, char::is_whitespace));
    }
    if matches!(first, '"' | '\'' | '`')
        && let Some(len) = quoted(text, first)
    {
        return Piece::Quoted(len);
    }
    let word =
        run(text, |c| !c.is_whitespace() && !matches!(c, '"' | '\'' | '`' | ',' | ';' | '(' | ')' | '='));
    if word == 0 {
        return Piece::Plain(first.len_utf8());
    }
    let whole = text.get(..word).unwrap_or_default();
    // A sign at the end belongs to the sentence.
    let word = whole.trim_end_matches(['.', ':', '!', '?', ']', '>', '}']);
    if word.is_empty() {
        return Piece::Plain(whole.len());
    }
    if is_name(word) { Piece::Name(word.len()) } else { plain_or_number(word) }
}

fn run(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

/// The length of a quotation that ends on the same line; an apostrophe is none.
fn quoted(text: &str, mark: char) -> Option<usize> {
    let inside = text.get(1..)?;
    let end = inside.find(mark)?;
    (!inside.get(..end)?.contains('\n')).then_some(end + 2)
}

/// A path, a URL, a host with dots, a mail address.
fn is_name(word: &str) -> bool {
    let path = word.contains('/') && word.len() > 1;
    let dotted = word.split('.').filter(|part| !part.is_empty()).count() > 2;
    path || word.contains('@')
        || word.contains("::") && word.bytes().any(|byte| byte.is_ascii_digit())
        || dotted
}

/// A word up to its first part with a digit; parts are what hyphens, colons and brackets separate.
fn plain_or_number(word: &str) -> Piece {
    let mut at = 0;
    for part in word.split_inclusive(|c: char| !c.is_alphanumeric() && c != '_') {
        let bare = part.trim_end_matches(|c: char| !c.is_alphanumeric() && c != '_');
        if is_number(bare) {
            if at > 0 {
                return Piece::Plain(at);
            }
            return Piece::Number(bare.len());
        }
        at += part.len();
    }
    Piece::Plain(word.len())
}

fn is_number(part: &str) -> bool {
    let digit = part.bytes().any(|byte| byte.is_ascii_digit());
    let hex = part.len() >= HEX_WORD_MIN && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    digit || hex
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Scenario: messages as programs write them.
    /// Guarantees: what differs between two of one origin is gone, the words of the origin stay.
    #[test]
    fn messages_have_patterns() {
        let cases = [
            ("Started Session 42 of User alice.", "Started Session # of User alice."),
            (
                "connect to 10.0.0.1:5432 failed: Connection refused",
                "connect to * failed: Connection refused",
            ),
            ("open(\"/var/lib/x.db\"): No space left on device", "open(\"*\"): No space left on device"),
            ("GET /api/v1/users?id=7 200 12ms", "GET *=# # #"),
            ("request 550e8400-e29b-41d4-a716-446655440000 done", "request #-#-#-#-# done"),
            ("worker[1234]: exit   status=1,\tpid=99", "worker[#]: exit status=#, pid=#"),
            ("hash deadbeefcafe of 'it'", "hash # of \"*\""),
            ("it's 3 o'clock", "it\"*\"clock"),
            ("panic at [fe80::1%eth0]:80!", "panic at *!"),
            ("", ""),
        ];
        for (message, pattern) in cases {
            assert_eq!(of(message), pattern, "{message}");
        }
    }

    proptest! {
        /// Scenario: any text.
        /// Guarantees: no panic, a bounded pattern, and one without a digit.
        #[test]
        fn any_text_has_a_pattern(text in ".{0,400}") {
            let pattern = of(&text);
            prop_assert!(pattern.len() <= PATTERN_BYTES_MAX);
            prop_assert!(!pattern.bytes().any(|byte| byte.is_ascii_digit()), "{}", pattern);
        }
    }
}
