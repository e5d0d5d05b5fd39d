//! What programs say in their logs: the words that name a failure, and the last errors before one.
//!
//! Invariants:
//! - [`PHRASES`] is the one table of words; a message means what the first row in it says that matches.
//! - A statement of one owner is told again after [`AGAIN_NS`]; errors of one owner are bounded in a window.

use std::sync::Arc;

use super::Detector;
use super::bounded::{Bounded, Throttle};
use super::fact::{Fact, FactKind, KeyKind};
use super::scan::Scanner;
use super::seen::{Seen, with_text};
use super::text;
use crate::event::fields;

/// Statements told apart, at most.
const STATEMENTS_MAX: usize = 4096;

/// The same statement of the same owner is told again after this time.
const AGAIN_NS: u64 = 10_000_000_000;

/// Errors of one owner in a window: more say nothing new.
const ERRORS: u32 = 6;
const ERRORS_WINDOW_NS: u64 = 10_000_000_000;

/// Journal priorities up to this one are errors, whatever they say.
const PRIORITY_ERROR: u64 = 3;

/// What a phrase means: a fact of a kind, with a word for its reason.
#[derive(Debug, Clone, Copy)]
pub(super) struct Phrase {
    /// In lower case.
    pub(super) words: &'static str,
    /// What it says.
    pub(super) kind: FactKind,
    /// Why, in one word; empty for none.
    pub(super) reason: &'static str,
}

const fn phrase(words: &'static str, kind: FactKind, reason: &'static str) -> Phrase {
    Phrase { words, kind, reason }
}

use FactKind::{
    BadConfig, CertificateExpired, ConnectionRefused, ConnectionTimeout, DnsFailure, FdExhausted, LogError,
    PortConflict,
};

/// What programs say, the more telling first.
pub(super) const PHRASES: &[Phrase] = &[
    phrase("too many open files", FdExhausted, ""),
    phrase("address already in use", PortConflict, ""),
    phrase("eaddrinuse", PortConflict, ""),
    phrase("certificate has expired", CertificateExpired, "expired"),
    phrase("certificate is not yet valid", CertificateExpired, "not_yet_valid"),
    phrase("certificate expired", CertificateExpired, "expired"),
    phrase("no such host", DnsFailure, "not_found"),
    phrase("name or service not known", DnsFailure, "not_found"),
    phrase("temporary failure in name resolution", DnsFailure, "no_answer"),
    phrase("could not resolve host", DnsFailure, "not_found"),
    phrase("eai_again", DnsFailure, "no_answer"),
    phrase("enotfound", DnsFailure, "not_found"),
    phrase("server misbehaving", DnsFailure, "server"),
    phrase("connection refused", ConnectionRefused, ""),
    phrase("econnrefused", ConnectionRefused, ""),
    phrase("i/o timeout", ConnectionTimeout, ""),
    phrase("connection timed out", ConnectionTimeout, ""),
    phrase("etimedout", ConnectionTimeout, ""),
    phrase("no route to host", ConnectionTimeout, "no_route"),
    phrase("unknown option", BadConfig, ""),
    phrase("unrecognized option", BadConfig, ""),
    phrase("unrecognized argument", BadConfig, ""),
    phrase("unexpected argument", BadConfig, ""),
    phrase("invalid option", BadConfig, ""),
    phrase("unknown directive", BadConfig, ""),
    phrase("unknown flag", BadConfig, ""),
    phrase("unknown key", BadConfig, ""),
    phrase("unknown field", BadConfig, ""),
    phrase("unknown parameter", BadConfig, ""),
    phrase("parse error", BadConfig, ""),
    phrase("error parsing", BadConfig, ""),
    phrase("failed to parse", BadConfig, ""),
    phrase("could not parse", BadConfig, ""),
    phrase("cannot parse", BadConfig, ""),
    phrase("syntax error", BadConfig, ""),
    phrase("invalid config", BadConfig, ""),
    phrase("bad config", BadConfig, ""),
    phrase("configuration error", BadConfig, ""),
    phrase("config error", BadConfig, ""),
    phrase("error in config", BadConfig, ""),
    phrase("invalid value for", BadConfig, ""),
    phrase("missing required", BadConfig, ""),
    phrase("bad configuration option", BadConfig, ""),
    phrase("panicked at", LogError, "panic"),
    phrase("panic:", LogError, "panic"),
    phrase("assertion", LogError, "assertion"),
    phrase("fatal error", LogError, "fatal"),
    phrase("out of memory", LogError, "memory"),
    phrase("cannot allocate memory", LogError, "memory"),
    phrase("resource temporarily unavailable", LogError, "resources"),
    phrase("read-only file system", LogError, "read_only"),
    phrase("input/output error", LogError, "io"),
    phrase("permission denied", LogError, "permission"),
    phrase("pleg is not healthy", LogError, "runtime"),
    phrase("container runtime is down", LogError, "runtime"),
    phrase("apply request took too long", LogError, "slow_disk"),
    phrase("unauthorized", LogError, "unauthorized"),
    phrase("token is expired", LogError, "token"),
    phrase("context deadline exceeded", LogError, "deadline"),
    phrase("deadline exceeded", LogError, "deadline"),
    phrase("fatal", LogError, ""),
    phrase("traceback (most recent call last)", LogError, "exception"),
    phrase("exception", LogError, "exception"),
    phrase("error", LogError, ""),
    phrase("failed", LogError, ""),
    phrase("cannot", LogError, ""),
];

/// Who logs without being a program that fails: the manager, the kernel, the keepers of sessions, this agent.
const OTHERS: [&str; 8] = [
    "systemd",
    "systemd-oomd",
    "systemd-logind",
    "systemd-coredump",
    "systemd-journald",
    "kernel",
    "sudo",
    "tapio-collector",
];

/// The meaning of entries that a kubelet wrote about a container or a pod: not their own words, and the API says the same.
const OF_KUBELET: &str = "kubelet_says";

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct App {
    scanner: Arc<Scanner>,
    told: Throttle<(u64, u8, String)>,
    errors: Bounded<u64, (u64, u32)>,
}

impl Default for App {
    fn default() -> Self {
        Self {
            scanner: Arc::new(Scanner::new(PHRASES.iter().map(|phrase| phrase.words))),
            told: Throttle::new(STATEMENTS_MAX, AGAIN_NS),
            errors: Bounded::new(STATEMENTS_MAX),
        }
    }
}

impl Detector for App {
    fn event(&mut self, seen: &Seen<'_>, out: &mut Vec<Fact>) {
        let identifier = seen.field(fields::IDENTIFIER);
        if seen.field(fields::TRANSPORT) == "kernel"
            || OTHERS.contains(&&*identifier)
            || seen.field(fields::MEANING) == OF_KUBELET
        {
            return;
        }
        let message = seen.field(fields::MESSAGE);
        let priority = seen.number("priority");
        match self.phrase_of(message.as_bytes()) {
            Some(phrase) if phrase.kind != LogError && is_of_pull(&message) => {
                out.extend(self.error(seen, "image_pull", &message));
            }
            Some(phrase) if phrase.kind != LogError => self.statement(seen, phrase, &message, out),
            Some(phrase) => out.extend(self.error(seen, phrase.reason, &message)),
            None if priority <= PRIORITY_ERROR => out.extend(self.error(seen, "", &message)),
            None => {}
        }
    }

    fn evicted(&self) -> u64 {
        self.told.evicted() + self.errors.evicted()
    }
}

impl App {
    /// The most telling phrase in a message.
    fn phrase_of(&self, message: &[u8]) -> Option<&'static Phrase> {
        let found = self.scanner.scan(message);
        PHRASES.get(usize::try_from(found.trailing_zeros()).ok()?)
    }

    fn statement(&mut self, seen: &Seen<'_>, phrase: &Phrase, message: &str, out: &mut Vec<Fact>) {
        let end_point = text::end_point(message);
        let port = end_point.as_ref().map(|(_, port)| *port).or_else(|| text::port(message));
        let about = port.map(|port| port.to_string()).unwrap_or_default();
        let (kind, reason) = meant(phrase, message, port);
        let key = (seen.owner.key, kind as u8, about);
        let Some(count) = self.told.pass(key, seen.time_ns()) else { return };
        let mut fact = with_text(seen.fact(kind), "text", message).with("count", count);
        fact = with_text(fact, "reason", reason);
        if let Some(port) = port {
            let address = end_point.map_or_else(|| "*".to_owned(), |(address, _)| address);
            let here = address == "*" || is_loopback(&address) || kind == PortConflict;
            fact = fact.with("port", u64::from(port)).key(KeyKind::Socket, format!("{address}:{port}"));
            if here {
                fact = fact.key(KeyKind::Socket, format!("*:{port}"));
            }
            if address != "*" {
                fact = fact.with("address", &*address);
            }
            if !here {
                fact = fact.key(KeyKind::Socket, format!("{address}:*"));
            }
        }
        if kind == DnsFailure {
            fact = fact.with("role", "dns");
            if let Some(host) = text::until(message, "lookup ", &[' ', ':']) {
                fact = with_text(fact, "host", host);
            }
            if let Some(server) =
                text::until(message, " on ", &[':', ' ']).filter(|server| server.contains('.'))
            {
                fact = with_text(fact, "server", server);
            }
        }
        if kind == BadConfig
            && let Some(file) = text::path(message)
        {
            fact = with_text(fact, "file", file);
        }
        out.push(fact);
    }

    fn error(&mut self, seen: &Seen<'_>, reason: &str, message: &str) -> Option<Fact> {
        let now = seen.time_ns();
        let (since_ns, count) = self.errors.entry(seen.owner.key, || (now, 0));
        if now >= since_ns.saturating_add(ERRORS_WINDOW_NS) {
            (*since_ns, *count) = (now, 0);
        }
        *count += 1;
        if *count > ERRORS {
            return None;
        }
        let fact = with_text(seen.fact(LogError), "text", message).with("priority", seen.number("priority"));
        Some(with_text(with_text(fact, "reason", reason), "pattern", &seen.field(fields::PATTERN)))
    }
}

/// What a phrase means where it stands: a resolver that cannot be reached is a name that is not resolved.
fn meant(phrase: &Phrase, message: &str, port: Option<u16>) -> (FactKind, &'static str) {
    let of_names = port == Some(53) || message.contains("lookup ");
    match phrase.kind {
        ConnectionRefused | ConnectionTimeout if of_names => (DnsFailure, "no_answer"),
        kind => (kind, phrase.reason),
    }
}

/// Whether kubelet or runtime tell of an image that they could not pull: what went wrong is then about the registry that the
/// pod names, and the API says it of the pod. It is no evidence of its own against the host's names or connections.
fn is_of_pull(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["pullimage", "errimagepull", "failed to pull", "trying next host"]
        .iter()
        .any(|words| message.contains(words))
}

fn is_loopback(address: &str) -> bool {
    address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the table of phrases.
    /// Guarantees: lower case, unique, none hides a later one that contains it, and there is a bit for each.
    #[test]
    fn phrases_are_in_order() {
        assert!(PHRASES.len() <= super::super::scan::WORDS_MAX);
        for (index, phrase) in PHRASES.iter().enumerate() {
            assert_eq!(phrase.words, phrase.words.to_ascii_lowercase());
            for later in &PHRASES[index + 1..] {
                let hidden = later.words.contains(phrase.words);
                assert!(!hidden || later.kind == phrase.kind, "{} hides {}", phrase.words, later.words);
            }
        }
    }

    /// Scenario: refusals by a resolver, and by others.
    /// Guarantees: those of the resolver are about names.
    #[test]
    fn resolvers_answer_for_names() {
        let app = App::default();
        for (line, port, expected) in [
            ("lookup db on 127.0.0.53:53: read udp: connection refused", Some(53), DnsFailure),
            ("lookup db: i/o timeout", None, DnsFailure),
            ("dial tcp 10.0.0.5:5432: connection refused", Some(5432), ConnectionRefused),
        ] {
            let phrase = app.phrase_of(line.as_bytes()).expect("a phrase");
            assert_eq!(meant(phrase, line, port).0, expected, "{line}");
        }
    }

    /// Scenario: lines of a kubelet and of containerd about an image whose registry has no address, and one of a program.
    /// Guarantees: those about the image are told apart.
    #[test]
    fn pulls_are_of_pods() {
        let quoted = "failed to pull and unpack image \\\"r.invalid/none:1\\\": dial tcp: lookup r.invalid: no such host";
        for (line, expected) in [
            (
                format!(
                    "E1129 log.go:32] \"PullImage from image service failed\" err=\"rpc error: {quoted}\""
                ),
                true,
            ),
            (
                format!(
                    "time=\"x\" level=error msg=\"PullImage \\\"r.invalid/none:1\\\" failed\" error=\"{quoted}\""
                ),
                true,
            ),
            (
                "time=\"x\" level=info msg=\"trying next host\" error=\"lookup r.invalid: no such host\""
                    .into(),
                true,
            ),
            ("dial tcp: lookup db.shop on 10.96.0.10:53: no such host".into(), false),
        ] {
            assert_eq!(is_of_pull(&line), expected, "{line}");
        }
    }

    /// Scenario: lines of real programs.
    /// Guarantees: each means what a person would say, at most one thing.
    #[test]
    fn lines_of_programs() {
        let app = App::default();
        for (line, expected) in [
            ("accept4() failed (24: Too many open files)", Some(FdExhausted)),
            ("bind() to 0.0.0.0:80 failed (98: Address already in use)", Some(PortConflict)),
            ("nginx: [emerg] unknown directive \"servr\" in /etc/nginx/nginx.conf:12", Some(BadConfig)),
            ("dial tcp: lookup db.shop on 10.96.0.10:53: no such host", Some(DnsFailure)),
            ("dial tcp 10.0.0.5:5432: connect: connection refused", Some(ConnectionRefused)),
            ("x509: certificate has expired or is not yet valid", Some(CertificateExpired)),
            ("read tcp 10.0.0.1:33->10.0.0.2:80: i/o timeout", Some(ConnectionTimeout)),
            ("thread 'main' panicked at src/main.rs:3", Some(LogError)),
            ("started in 20 ms", None),
        ] {
            assert_eq!(app.phrase_of(line.as_bytes()).map(|phrase| phrase.kind), expected, "{line}");
        }
    }
}
