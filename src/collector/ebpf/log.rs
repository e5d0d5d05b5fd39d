//! What libbpf says while it loads: kept, to tell which program the verifier refused and why.
//!
//! Invariants:
//! - The text is bounded: of a long one the end is kept, where the reason stands.
//! - libbpf's printing is global: one capture at a time, and it is restored afterwards.

use std::sync::{Mutex, MutexGuard, PoisonError};

use libbpf_rs::{PrintCallback, PrintLevel, get_print, set_print};

const TEXT_BYTES_MAX: usize = 256 << 10;

static CAPTURING: Mutex<()> = Mutex::new(());
static TEXT: Mutex<String> = Mutex::new(String::new());

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep(_: PrintLevel, message: String) {
    let mut text = locked(&TEXT);
    text.push_str(&message);
    if let Some(excess) = text.len().checked_sub(TEXT_BYTES_MAX) {
        let cut = text.ceil_char_boundary(excess);
        text.drain(..cut);
    }
}

/// Keeps what libbpf says until it is dropped.
pub(super) struct Capture {
    before: Option<(PrintLevel, PrintCallback)>,
    _one: MutexGuard<'static, ()>,
}

impl Capture {
    /// Starts keeping.
    pub(super) fn start() -> Self {
        let one = locked(&CAPTURING);
        locked(&TEXT).clear();
        let before = get_print();
        set_print(Some((PrintLevel::Info, keep)));
        Self { before, _one: one }
    }

    /// What was said since the last take.
    pub(super) fn take(&self) -> String {
        std::mem::take(&mut locked(&TEXT))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        set_print(self.before);
    }
}

/// A program that the kernel did not take.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The program.
    pub(super) program: String,
    /// The verifier's last word on it, or the error.
    pub(super) reason: String,
}

/// Finds in libbpf's words which program failed to load and why.
pub(super) fn refusal(text: &str) -> Option<Refusal> {
    let failed =
        text.lines().find(|line| line.starts_with("libbpf: prog '") && line.contains("load failed"))?;
    let (program, error) = failed.strip_prefix("libbpf: prog '")?.split_once("': ")?;
    let log = text
        .split_once("-- BEGIN PROG LOAD LOG --")
        .and_then(|(_, rest)| rest.split_once("-- END PROG LOAD LOG --"));
    let last = log.and_then(|(log, _)| {
        log.lines().map(str::trim).rfind(|line| {
            !line.is_empty() && !line.starts_with("processed ") && !line.starts_with("libbpf: prog '")
        })
    });
    Some(Refusal { program: program.to_owned(), reason: last.unwrap_or(error).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: libbpf's words for a program that reads a bad pointer, and for one refused without a log.
    /// Guarantees: the program is named and the reason is the verifier's last sentence, not its statistics.
    #[test]
    fn refusal_names_program_and_reason() {
        let text = "libbpf: prog 'net_state': BPF program load failed: Permission denied\n\
                    libbpf: prog 'net_state': -- BEGIN PROG LOAD LOG --\n\
                    0: R1=ctx() R10=fp0\n\
                    ; return 0;\n\
                    R1 invalid mem access 'scalar'\n\
                    processed 3 insns (limit 1000000)\n\
                    -- END PROG LOAD LOG --\n\
                    libbpf: prog 'net_state': failed to load: -13\n";
        let found = refusal(text).expect("a refusal");
        assert_eq!((&*found.program, &*found.reason), ("net_state", "R1 invalid mem access 'scalar'"));
        let found = refusal("libbpf: prog 'x': BPF program load failed: Operation not permitted\n");
        assert_eq!(found.expect("a refusal").reason, "BPF program load failed: Operation not permitted");
        assert_eq!(refusal("libbpf: failed to find BTF\n"), None);
    }

    /// Scenario: more is said than is kept.
    /// Guarantees: the end is kept, within the bound.
    #[test]
    fn text_is_bounded() {
        let capture = Capture::start();
        for _ in 0..3 {
            keep(PrintLevel::Warn, "x".repeat(TEXT_BYTES_MAX / 2));
        }
        keep(PrintLevel::Warn, "the end".into());
        let text = capture.take();
        assert!(text.len() <= TEXT_BYTES_MAX && text.ends_with("the end"));
    }
}
