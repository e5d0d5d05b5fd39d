//! Looks for many words in a text at once, whatever their case.
//!
//! Invariants:
//! - One look at each byte, however many words there are.
//! - The words are ASCII; other bytes of a text match nothing.

use std::collections::VecDeque;

/// Words at most: each is a bit.
pub(super) const WORDS_MAX: usize = 128;

/// Finds words; an automaton with one step a byte.
#[derive(Debug)]
pub(super) struct Scanner {
    /// The column of each byte in the table; 0 for bytes that are in no word.
    class: [u8; 256],
    classes: usize,
    /// By state and class.
    next: Vec<u16>,
    /// The words that end in each state.
    found: Vec<u128>,
}

impl Scanner {
    /// Reads the words. Those beyond [`WORDS_MAX`] are not looked for; a test of the tables keeps them below.
    pub(super) fn new<'word>(words: impl Iterator<Item = &'word str>) -> Self {
        let words: Vec<Vec<u8>> =
            words.take(WORDS_MAX).map(|word| word.to_ascii_lowercase().into()).collect();
        let mut class = [0_u8; 256];
        let mut classes = 1_u8;
        for &byte in words.iter().flatten() {
            if class[usize::from(byte)] == 0 {
                class[usize::from(byte)] = classes;
                class[usize::from(byte.to_ascii_uppercase())] = classes;
                classes += 1;
            }
        }
        let classes = usize::from(classes);
        let mut scanner = Self { class, classes, next: vec![0; classes], found: vec![0] };
        for (bit, word) in words.iter().enumerate() {
            scanner.add(bit, word);
        }
        scanner.complete();
        scanner
    }

    fn add(&mut self, bit: usize, word: &[u8]) {
        let mut state = 0;
        for &byte in word {
            let at = state * self.classes + usize::from(self.class[usize::from(byte)]);
            if self.next[at] == 0 {
                self.next[at] = u16::try_from(self.found.len()).unwrap_or(0);
                self.next.resize(self.next.len() + self.classes, 0);
                self.found.push(0);
            }
            state = usize::from(self.next[at]);
        }
        self.found[state] |= 1 << bit;
    }

    /// Turns the tree into an automaton: where it has no branch, it goes on from the longest suffix that is one.
    fn complete(&mut self) {
        let mut fail = vec![0; self.found.len()];
        let mut queue = VecDeque::from([0]);
        while let Some(state) = queue.pop_front() {
            for class in 0..self.classes {
                let at = state * self.classes + class;
                let child = usize::from(self.next[at]);
                let fallback = if state == 0 { 0 } else { self.next[fail[state] * self.classes + class] };
                if child == 0 {
                    self.next[at] = fallback;
                } else {
                    fail[child] = usize::from(fallback);
                    self.found[child] |= self.found[usize::from(fallback)];
                    queue.push_back(child);
                }
            }
        }
    }

    /// The words that are in the text, as a bit set.
    pub(super) fn scan(&self, text: &[u8]) -> u128 {
        let mut state = 0;
        let mut found = 0;
        for &byte in text {
            let class = usize::from(self.class[usize::from(byte)]);
            state = usize::from(self.next[state * self.classes + class]);
            found |= self.found[state];
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: words that overlap and contain each other, in texts of every case.
    /// Guarantees: exactly the words that a plain search finds.
    #[test]
    fn finds_what_a_plain_search_finds() {
        let words = ["she", "he", "hers", "error", "no space left", "space", "o s", "rs"];
        let scanner = Scanner::new(words.into_iter());
        for text in
            ["ushers", "SHERS", "no spacE left", "no spac", "", "hhhe", "err\u{e4}or error", "xxno sp"]
        {
            let lower = text.to_ascii_lowercase();
            let expected = words.iter().enumerate().filter(|(_, word)| lower.contains(**word));
            let expected = expected.fold(0, |set, (bit, _)| set | 1_u128 << bit);
            assert_eq!(scanner.scan(text.as_bytes()), expected, "{text}");
        }
    }
}
