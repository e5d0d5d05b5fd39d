//! Reads Rust as far as the checks need it: which words are code, and which are comments or text.

/// The source with its comments and the contents of its literals blanked. Line breaks stay.
pub(super) fn code(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match (bytes[at], bytes.get(at + 1)) {
            (b'/', Some(b'/')) => find(bytes, at, b"\n"),
            (b'/', Some(b'*')) => block_comment(bytes, at),
            (b'"', _) => string(bytes, at),
            (b'r', Some(b'"' | b'#')) if !follows_word(bytes, at) => raw_string(bytes, at),
            (b'\'', _) => character(bytes, at),
            _ => at,
        };
        if end == at {
            out.push(char::from(bytes[at]));
            at += 1;
        } else {
            out.extend(bytes[at..end].iter().map(|&byte| if byte == b'\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// The words of a piece of code: identifiers and keywords.
pub(super) fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// Where `what` starts at or behind `from`; the end where it does not.
fn find(bytes: &[u8], from: usize, what: &[u8]) -> usize {
    bytes[from..]
        .windows(what.len())
        .position(|window| window == what)
        .map_or(bytes.len(), |found| from + found)
}

fn follows_word(bytes: &[u8], at: usize) -> bool {
    // The `b` of br"..." starts a word of its own, and its text may as well be read as an escaped one.
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_') && bytes[at - 1] != b'b'
}

fn block_comment(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'/', Some(b'*')) => (depth, at) = (depth + 1, at + 2),
            (b'*', Some(b'/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(bytes.len())
}

fn string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn raw_string(bytes: &[u8], start: usize) -> usize {
    let hashes = bytes[start + 1..].iter().take_while(|&&byte| byte == b'#').count();
    let open = start + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        // A raw identifier.
        return start;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    (find(bytes, open + 1, &close) + close.len()).min(bytes.len())
}

/// A character literal; a lifetime is not one.
fn character(bytes: &[u8], start: usize) -> usize {
    match (bytes.get(start + 1), bytes.get(start + 2)) {
        (Some(b'\\'), _) => (find(bytes, start + 3, b"'") + 1).min(bytes.len()),
        (Some(_), Some(b'\'')) => start + 3,
        _ => start,
    }
}

/// Scenario: code, comments, every sort of literal, a lifetime and a raw identifier, in one line each.
/// Guarantees: only the words of code are left, and the lines keep their numbers.
#[test]
fn only_code_is_left() {
    let cases = [
        ("let a = 1; // unsafe", "let a 1"),
        ("/* unsafe /* nested */ still */ let b", "let b"),
        (r#"let c = "unsafe \" unsafe";"#, "let c"),
        (r##"let d = r#"unsafe " unsafe"#;"##, "let d"),
        (r#"let e = br"unsafe";"#, "let e b"),
        ("let f: &'static str = g('\"', '\\'', unsafe_code);", "let f static str g unsafe_code"),
        ("r#unsafe()", "r unsafe"),
        ("unsafe { h() }", "unsafe h"),
    ];
    for (source, expected) in cases {
        assert_eq!(words(&code(source)).collect::<Vec<_>>().join(" "), expected, "{source}");
    }
    assert_eq!(code("/* a\nb */ c\n\"d\ne\" f").lines().count(), 4);
}
