//! The configuration file: TOML, read key by key against the table of settings.
//!
//! Invariants:
//! - A key that is not in the table is an error; nothing is ignored.
//! - Every problem has the line and column where a person must look.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::options::{Form, OPTIONS, Opt};
use super::values;

/// A place in the file, counted from 1; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Position {
    /// The place of a byte of the text.
    pub(super) fn of(text: &[u8], byte: usize) -> Self {
        let before = &text[..byte.min(text.len())];
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        Self {
            line: before.iter().filter(|&&byte| byte == b'\n').count() + 1,
            column: String::from_utf8_lossy(&before[line_start..]).chars().count() + 1,
        }
    }
}

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) at: Position,
    pub(super) what: String,
}

/// A setting of the file.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) option: &'static Opt,
    pub(super) text: String,
    pub(super) at: Position,
}

/// The settings of a file. Their texts are not checked yet.
pub(super) fn settings(bytes: &[u8]) -> Result<Vec<Found>, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|error| Problem {
        at: Position::of(bytes, error.valid_up_to()),
        what: "this is not UTF-8; save the file as UTF-8".into(),
    })?;
    let table = DeTable::parse(text).map_err(|error| Problem {
        at: Position::of(bytes, error.span().map_or(0, |span| span.start)),
        what: format!("this is not TOML: {}", error.message().replace('\n', "; ")),
    })?;
    let mut found = Vec::new();
    Walk { bytes, found: &mut found }.table("", table.get_ref())?;
    found.sort_by_key(|setting| (setting.at.line, setting.at.column));
    Ok(found)
}

struct Walk<'text> {
    bytes: &'text [u8],
    found: &'text mut Vec<Found>,
}

impl Walk<'_> {
    fn problem<T>(&self, byte: usize, what: String) -> Result<T, Problem> {
        Err(Problem { at: Position::of(self.bytes, byte), what })
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>) -> Result<(), Problem> {
        // In the order of the file: the first problem is the first that a reader meets.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name = format!("{prefix}{}", key.get_ref());
            let inner = format!("{name}.");
            let is_table = OPTIONS.iter().any(|option| option.key().starts_with(&inner));
            if let Some(option) = OPTIONS.iter().find(|option| option.key() == name) {
                self.setting(option, value)?;
            } else if let (true, DeValue::Table(table)) = (is_table, value.get_ref()) {
                self.table(&inner, table)?;
            } else if is_table {
                let what =
                    format!("{name} is a table: write [{name}] on a line of its own, its settings below it");
                return self.problem(value.span().start, what);
            } else {
                return self.problem(key.span().start, unknown(&name));
            }
        }
        Ok(())
    }

    fn setting(&mut self, option: &'static Opt, value: &Spanned<DeValue<'_>>) -> Result<(), Problem> {
        let start = value.span().start;
        match text_of(option.form, value.get_ref()) {
            Ok(text) => {
                self.found.push(Found { option, text, at: Position::of(self.bytes, start) });
                Ok(())
            }
            Err(right) => {
                let kind = value.get_ref().type_str();
                self.problem(start, format!("{} must be {right}, not of type {kind}", option.key()))
            }
        }
    }
}

/// Names the key that was probably meant.
fn unknown(name: &str) -> String {
    let keys: Vec<String> = OPTIONS.iter().filter(|option| !option.hidden).map(Opt::key).collect();
    let last = |key: &str| key.rsplit('.').next().unwrap_or(key).to_owned();
    let near = values::nearest(name, keys.iter().map(String::as_str));
    // The right key in the wrong table, or without its table, is the next likely slip.
    let elsewhere = || keys.iter().map(String::as_str).find(|key| last(key) == last(name));
    let by_flag = || OPTIONS.iter().find(|option| option.flag == name).map(Opt::key);
    let meant = near.or_else(elsewhere).map(str::to_owned).or_else(by_flag);
    match meant {
        Some(key) => format!("unknown key {name}; did you mean {key}?"),
        None => {
            format!("unknown key {name}; the keys are the flags of `tapio-collector --help`, in snake_case")
        }
    }
}

/// The text of a value of the right type; else what would be right.
fn text_of(form: Form, value: &DeValue<'_>) -> Result<String, &'static str> {
    match (form, value) {
        (Form::Switch, DeValue::Boolean(on)) => Ok(on.to_string()),
        (Form::Number | Form::Size | Form::Percent, DeValue::Integer(_)) => {
            integer(value).ok_or("a smaller number")
        }
        (Form::Percent, DeValue::Float(number)) => Ok(number.as_str().replace('_', "")),
        (Form::Size | Form::Time | Form::Text(_) | Form::List(_), DeValue::String(text)) => {
            Ok(text.to_string())
        }
        (Form::List(_), DeValue::Array(elements)) => {
            let right = "an array of texts without commas, or of whole numbers";
            let elements = elements.iter().map(|element| match element.get_ref() {
                DeValue::String(text) if !text.contains(',') => Ok(text.to_string()),
                number => integer(number).ok_or(right),
            });
            Ok(elements.collect::<Result<Vec<_>, _>>()?.join(","))
        }
        (Form::Switch, _) => Err("true or false"),
        (Form::Number, _) => Err("a whole number"),
        (Form::Size, _) => Err("a whole number of bytes or a text such as \"16MiB\""),
        (Form::Percent, _) => Err("a number"),
        (Form::Time, _) => Err("a text such as \"1s\""),
        (Form::Text(_), _) => Err("a text in quotes"),
        (Form::List(_), _) => Err("an array"),
    }
}

fn integer(value: &DeValue<'_>) -> Option<String> {
    let number = value.as_integer()?;
    let digits = number.as_str().replace('_', "");
    i128::from_str_radix(&digits, number.radix()).ok().map(|number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> (usize, usize, String) {
        let problem = settings(text.as_bytes()).expect_err(text);
        (problem.at.line, problem.at.column, problem.what)
    }

    /// Scenario: every form of value, in both tables.
    /// Guarantees: each is found with its text and its place, in the order of the file.
    #[test]
    fn values_are_found_with_their_place() {
        let text = "server = 'a:1'\nbuffer_size = 2_000\nring_bytes = 0x10000\n  probes_off = [\n 'net',\"oom\"]\n\
                    cores = [1, 2]\nenable_ebpf = true\n\n[filters]\nforks = false\n";
        let found: Vec<_> = settings(text.as_bytes()).expect("valid");
        let found: Vec<_> =
            found.iter().map(|f| (f.option.flag, f.text.as_str(), f.at.line, f.at.column)).collect();
        let expected = [
            ("server", "a:1", 1, 10),
            ("buffer-size", "2000", 2, 15),
            ("ring-bytes", "65536", 3, 14),
            ("probes-off", "net,oom", 4, 16),
            ("cores", "1,2", 6, 9),
            ("enable-ebpf", "true", 7, 15),
            ("filter-forks", "false", 10, 9),
        ];
        assert_eq!(found, expected);
    }

    /// Scenario: keys that do not exist, at the top and in a table.
    /// Guarantees: line, column and the key that was meant, or where the keys are listed.
    #[test]
    fn unknown_keys_are_placed_and_guessed() {
        assert_eq!(
            problem("\n\n  bufer_size = 1"),
            (3, 3, "unknown key bufer_size; did you mean buffer_size?".into())
        );
        assert_eq!(
            problem("[filters]\nfork = true").2,
            "unknown key filters.fork; did you mean filters.forks?"
        );
        assert_eq!(problem("forks = true").2, "unknown key forks; did you mean filters.forks?");
        assert_eq!(problem("buffer-size = 1").2, "unknown key buffer-size; did you mean buffer_size?");
        assert_eq!(
            problem("[filters]\nserver = 'a:1'").2,
            "unknown key filters.server; did you mean server?"
        );
        assert!(problem("[colours]\nred = 1").2.starts_with("unknown key colours; the keys are the flags"));
        assert_eq!(problem("filters = 1").0, 1);
    }

    /// Scenario: values of the wrong type, text that is no TOML, bytes that are no text.
    /// Guarantees: each is placed; a wide character counts as one column.
    #[test]
    fn what_cannot_be_read_is_placed() {
        let (line, column, what) = problem("server = 'a:1'\nbuffer_size = \"many\"");
        assert_eq!((line, column), (2, 15));
        assert_eq!(what, "buffer_size must be a whole number, not of type string");
        assert_eq!(problem("enable_ebpf = 1").2, "enable_ebpf must be true or false, not of type integer");
        assert_eq!(problem("cores = [1.5]").1, 9);
        let (line, _, what) = problem("server = 'a:1'\nbuffer_size 7");
        assert_eq!(line, 2);
        assert!(what.starts_with("this is not TOML: "), "{what}");
        assert_eq!(problem("server = 'a:1'\nserver = 'b:1'").0, 2);
        let (line, column, _) = problem("# \u{e9}\u{e9}\nstate_dir = '\u{e9}' x");
        assert_eq!((line, column), (2, 17));
        let bytes = settings(b"a\n\xff").expect_err("not UTF-8");
        assert_eq!(bytes.at, Position { line: 2, column: 1 });
    }
}
