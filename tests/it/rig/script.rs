//! What a script of `tests/rigs/provoke` says that it did: lines of a word and `NAME=value` pairs.

use std::collections::BTreeMap;

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) word: String,
    fields: BTreeMap<String, String>,
}

impl Line {
    /// A field that the line must have.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }
}

/// All lines of one run.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    lines: Vec<Line>,
}

impl Said {
    pub(crate) fn read(text: &str) -> Self {
        let lines = text.lines().map(|line| {
            let mut words = line.split(' ');
            let word = words.next().unwrap_or_default().to_owned();
            let fields = words.map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or_else(|| panic!("{pair:?} in {line:?}"));
                (name.to_owned(), value.to_owned())
            });
            Line { word, fields: fields.collect() }
        });
        Self { lines: lines.collect() }
    }

    /// Whether it is from the beginning to the end of this script.
    pub(crate) fn is_whole(&self, script: &str) -> bool {
        let [first, .., last] = &*self.lines else { return false };
        let named = |line: &Line, word| line.word == word && line.field("script") == script;
        named(first, "begin") && named(last, "end")
    }

    /// The lines with this word.
    pub(crate) fn lines(&self, word: &str) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.word == word)
    }
}
