//! Cuts what the API server sends into objects, without holding more than one of them.
//!
//! A watch is a line for each change; a list is one JSON object, whose `items` are cut out as they arrive.
//!
//! Invariants:
//! - No buffer grows beyond [`OBJECT_BYTES_MAX`], whatever is sent; what is larger is skipped and counted.
//! - What is cut off in the middle is never shown.

use bytes::Bytes;

/// The largest object that is read. Servers store 1.5 MiB at most unless they are told otherwise.
pub(super) const OBJECT_BYTES_MAX: usize = 2 << 20;

/// A buffer that has grown beyond this is given back after use.
const BUFFER_KEPT: usize = 64 << 10;

/// What was cut out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'bytes> {
    /// A whole object or line.
    Whole(&'bytes [u8]),
    /// There was one that is too large to be read.
    TooLarge,
}

/// A part of an object that arrived before its end.
#[derive(Debug, Default)]
struct Carry {
    bytes: Vec<u8>,
    too_large: bool,
}

impl Carry {
    fn push(&mut self, bytes: &[u8]) {
        self.too_large |= self.bytes.len() + bytes.len() > OBJECT_BYTES_MAX;
        if self.too_large {
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    fn clear(&mut self) {
        self.too_large = false;
        self.bytes.clear();
        if self.bytes.capacity() > BUFFER_KEPT {
            self.bytes = Vec::new();
        }
    }

    fn frame(&self) -> Frame<'_> {
        if self.too_large { Frame::TooLarge } else { Frame::Whole(&self.bytes) }
    }
}

/// Cuts a watch into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    chunk: Bytes,
    carry: Carry,
    is_shown: bool,
}

impl Lines {
    /// Takes what arrived; [`Self::next`] must have shown everything before.
    pub(super) fn push(&mut self, chunk: Bytes) {
        self.chunk = chunk;
    }

    /// The next line; none until more arrives.
    pub(super) fn next(&mut self) -> Option<Frame<'_>> {
        if std::mem::take(&mut self.is_shown) {
            self.carry.clear();
        }
        let Some(end) = memchr::memchr(b'\n', &self.chunk) else {
            self.carry.push(&self.chunk);
            self.chunk = Bytes::new();
            return None;
        };
        let line = self.chunk.split_to(end + 1);
        self.carry.push(&line[..end]);
        self.is_shown = true;
        Some(self.carry.frame())
    }
}

/// Cuts a list into its items and its `metadata`.
#[derive(Debug, Default)]
pub(super) struct Items {
    chunk: Bytes,
    carry: Carry,
    is_shown: bool,
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// The last string directly in the list, which names the value that follows.
    key: Vec<u8>,
    part: Part,
    /// How deep the object starts that is being cut out; 0 while none is.
    cut_from: u32,
    metadata: Vec<u8>,
    finished: bool,
}

/// The value directly in the list that is being read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Part {
    #[default]
    Other,
    Metadata,
    Items,
}

/// The longest key that means something.
const KEY_BYTES_MAX: usize = 16;

impl Items {
    /// Takes what arrived; [`Self::next`] must have shown everything before.
    pub(super) fn push(&mut self, chunk: Bytes) {
        self.chunk = chunk;
    }

    /// The next item; none until more arrives.
    pub(super) fn next(&mut self) -> Option<Frame<'_>> {
        if std::mem::take(&mut self.is_shown) {
            self.carry.clear();
        }
        let chunk = std::mem::take(&mut self.chunk);
        // Where the object that is being cut out starts in this chunk.
        let mut from = 0;
        for (at, &byte) in chunk.iter().enumerate() {
            let was_cutting = self.cut_from > 0;
            let closed = self.step(byte);
            if !was_cutting && self.cut_from > 0 {
                from = at;
            }
            if closed {
                self.carry.push(&chunk[from..=at]);
                if self.part == Part::Metadata {
                    self.metadata = std::mem::take(&mut self.carry.bytes);
                    self.carry.clear();
                    continue;
                }
                self.chunk = chunk.slice(at + 1..);
                self.is_shown = true;
                return Some(self.carry.frame());
            }
        }
        if self.cut_from > 0 {
            self.carry.push(&chunk[from..]);
        }
        None
    }

    /// Takes one byte; true when it ends the object that is being cut out.
    fn step(&mut self, byte: u8) -> bool {
        if self.in_string {
            self.step_in_string(byte);
            return false;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if self.depth == 1 {
                    self.key.clear();
                }
            }
            b':' if self.depth == 1 => {
                self.part = match self.key.as_slice() {
                    b"items" => Part::Items,
                    b"metadata" => Part::Metadata,
                    _ => Part::Other,
                };
            }
            b'{' | b'[' => self.open(byte),
            b'}' | b']' => return self.close(),
            _ => {}
        }
        false
    }

    fn step_in_string(&mut self, byte: u8) {
        if self.escaped {
            self.escaped = false;
        } else if byte == b'\\' {
            self.escaped = true;
        } else if byte == b'"' {
            self.in_string = false;
        } else if self.depth == 1 && self.key.len() < KEY_BYTES_MAX {
            self.key.push(byte);
        }
    }

    fn open(&mut self, byte: u8) {
        self.depth = self.depth.saturating_add(1);
        let starts = match self.part {
            Part::Items => self.depth == 3,
            Part::Metadata => self.depth == 2,
            Part::Other => false,
        };
        if starts && byte == b'{' {
            self.cut_from = self.depth;
        }
    }

    fn close(&mut self) -> bool {
        let closed = self.cut_from > 0 && self.depth == self.cut_from;
        if closed {
            self.cut_from = 0;
        }
        self.depth = self.depth.saturating_sub(1);
        self.finished |= self.depth == 0;
        closed
    }

    /// The `metadata` of the list, empty if there was none; nothing while the list has not ended.
    #[must_use]
    pub(super) fn finish(&self) -> Option<&[u8]> {
        self.finished.then_some(&self.metadata[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(frame: &Frame<'_>) -> String {
        match frame {
            Frame::Whole(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Frame::TooLarge => "too large".into(),
        }
    }

    fn items(text: &[u8], step: usize) -> (Vec<String>, Option<String>) {
        let mut list = Items::default();
        let mut found = Vec::new();
        for chunk in text.chunks(step) {
            list.push(Bytes::copy_from_slice(chunk));
            while let Some(frame) = list.next() {
                found.push(owned(&frame));
            }
        }
        (found, list.finish().map(|metadata| String::from_utf8_lossy(metadata).into_owned()))
    }

    fn lines(text: &[u8], step: usize) -> Vec<String> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for chunk in text.chunks(step) {
            lines.push(Bytes::copy_from_slice(chunk));
            while let Some(frame) = lines.next() {
                found.push(owned(&frame));
            }
        }
        found
    }

    /// Scenario: a list with everything that could confuse the cut, in chunks of every size.
    /// Guarantees: exactly its items come out, wherever the chunks end.
    #[test]
    fn items_are_cut_wherever_chunks_end() {
        let text = br#"{"kind":"PodList","metadata":{"resourceVersion":"7","continue":"{\"a\":[\\"},
            "odd":{"items":[{"no":1}]},"items":[{"a":"}]\"{"},{"b":[{"c":{}},[]]} ,{}],"x":"items"}"#;
        let expected =
            vec![r#"{"a":"}]\"{"}"#.to_owned(), r#"{"b":[{"c":{}},[]]}"#.to_owned(), "{}".to_owned()];
        let metadata = r#"{"resourceVersion":"7","continue":"{\"a\":[\\"}"#.to_owned();
        for step in 1..=text.len() {
            assert_eq!(items(text, step), (expected.clone(), Some(metadata.clone())), "chunks of {step}");
        }
    }

    /// Scenario: lists without items, cut off in the middle, and no JSON at all.
    /// Guarantees: nothing is shown that is not whole, and an end that is missing is noticed.
    #[test]
    fn a_torn_list_does_not_finish() {
        assert_eq!(items(br#"{"items":null,"metadata":{}}"#, 5), (vec![], Some("{}".into())));
        let text = br#"{"metadata":{"resourceVersion":"7"},"items":[{"a":1},{"b":"2"}]}"#;
        for end in 1..text.len() {
            let (found, metadata) = items(&text[..end], 3);
            assert_eq!(metadata, None, "cut at {end}");
            assert!(found.iter().all(|item| item == r#"{"a":1}"# || item == r#"{"b":"2"}"#));
        }
        assert_eq!(items(b"upstream connect error]]]", 4).0, Vec::<String>::new());
    }

    /// Scenario: lines over several chunks, several in one, empty ones, and an end without newline.
    /// Guarantees: whole lines in order; the torn one is not shown.
    #[test]
    fn lines_are_cut_wherever_chunks_end() {
        let text = b"{\"a\":1}\n\n{\"b\":\"\\n\"}\ntorn";
        for step in 1..=text.len() {
            assert_eq!(lines(text, step), ["{\"a\":1}", "", "{\"b\":\"\\n\"}"], "chunks of {step}");
        }
    }

    /// Scenario: an object beyond the bound between two small ones, in a watch and in a list.
    /// Guarantees: it is named, not held, and its neighbours are shown.
    #[test]
    fn what_is_too_large_is_passed_over() {
        let large = "x".repeat(OBJECT_BYTES_MAX + 1);
        let text = format!("1\n{large}\n2\n");
        assert_eq!(lines(text.as_bytes(), 60_000), ["1", "too large", "2"]);
        let text = format!(r#"{{"items":[{{"a":1}},{{"a":"{large}"}},{{"a":2}}]}}"#);
        let (found, metadata) = items(text.as_bytes(), 60_000);
        assert_eq!(found, [r#"{"a":1}"#, "too large", r#"{"a":2}"#]);
        assert_eq!(metadata, Some(String::new()));
        let mut lines = Lines::default();
        for _ in 0..100 {
            lines.push(Bytes::from(vec![b'x'; 1 << 20]));
            assert_eq!(lines.next(), None);
            assert!(lines.carry.bytes.capacity() <= OBJECT_BYTES_MAX * 2);
        }
    }
}
