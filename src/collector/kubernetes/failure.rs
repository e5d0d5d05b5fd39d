//! What can go wrong between this agent and the API server, what to do about it, and when to try again.
//!
//! Invariants:
//! - Whatever goes wrong, nothing is asked more often than [`Backoff`] allows.
//! - A message says what, why and what to do, and names no secret.

use std::error::Error;
use std::fmt::Write;
use std::time::Duration;

use crate::clock;
use crate::event::mix;

/// Why a watch or list ended. [`Failure::Expired`] starts over with a list, [`Failure::Ended`] goes on at once, all
/// others are tried again after a pause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The server closed the watch as announced.
    #[error("the watch ended")]
    Ended,
    /// The server does not know the version any more from which on changes are wanted.
    #[error("the version is too old")]
    Expired,
    /// 403.
    #[error("not allowed")]
    Forbidden,
    /// 401, or the credentials cannot be read.
    #[error("the credentials are not accepted: {0}")]
    Unauthorized(String),
    /// 404: this server has no such resource.
    #[error("not served")]
    NotServed,
    /// 429 or 503 with the time to wait.
    #[error("the server is busy ({code})")]
    Busy {
        /// As in HTTP.
        code: u16,
        /// How long it wants to be left alone.
        wait: Duration,
    },
    /// Any other answer that is none.
    #[error("the server answers {code}: {message}")]
    Server {
        /// As in HTTP.
        code: u16,
        /// What it says.
        message: String,
    },
    /// The server's certificate is not trusted, or ours is not.
    #[error("{0}")]
    Certificate(String),
    /// There is no connection.
    #[error("{0}")]
    Unreachable(String),
    /// The answer broke off, or nothing came for too long.
    #[error("the answer broke off: {0}")]
    Torn(String),
    /// What came is not what the API says.
    #[error("the answer is not understood: {0}")]
    Garbled(String),
}

/// Failures that are one complaint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// See [`Failure::Unauthorized`].
    Unauthorized,
    /// See [`Failure::Certificate`].
    Certificate,
    /// See [`Failure::Unreachable`].
    Unreachable,
    /// See [`Failure::Forbidden`].
    Forbidden,
    /// See [`Failure::NotServed`].
    NotServed,
    /// The server answers, and not with what was asked for.
    Server,
    /// See [`Failure::Torn`].
    Torn,
}

impl Failure {
    /// What a failed request means.
    #[must_use]
    pub(super) fn of(error: &kube::Error) -> Self {
        let text = chain(error);
        if matches!(error, kube::Error::Auth(_)) {
            return Self::Unauthorized(text);
        }
        if text.contains("certificate") || text.contains("CertificateRequired") {
            return Self::Certificate(text);
        }
        Self::Unreachable(text)
    }

    /// What a status of HTTP, or one inside an answer, means. `wait` is what the server asks for.
    #[must_use]
    pub(super) fn of_status(code: u16, message: &str, wait: Option<Duration>) -> Self {
        match code {
            410 => Self::Expired,
            401 => Self::Unauthorized(bounded(message)),
            403 => Self::Forbidden,
            404..=406 => Self::NotServed,
            // A server that was restarted with an older store does not know our version yet, or never will.
            504 if message.contains("Too large resource version") => Self::Expired,
            429 | 503 => Self::Busy { code, wait: wait.unwrap_or_default() },
            _ => Self::Server { code, message: bounded(message) },
        }
    }

    /// The complaint that it makes; none for what is part of ordinary life.
    #[must_use]
    pub(super) fn class(&self) -> Option<Class> {
        match self {
            Self::Ended | Self::Expired => None,
            Self::Forbidden => Some(Class::Forbidden),
            Self::Unauthorized(_) => Some(Class::Unauthorized),
            Self::NotServed => Some(Class::NotServed),
            Self::Busy { .. } | Self::Server { .. } | Self::Garbled(_) => Some(Class::Server),
            Self::Certificate(_) => Some(Class::Certificate),
            Self::Unreachable(_) => Some(Class::Unreachable),
            Self::Torn(_) => Some(Class::Torn),
        }
    }

    /// The least time before it is worth trying again.
    fn least(&self) -> Duration {
        match self {
            // A person has to change something first.
            Self::Forbidden => Duration::from_secs(30),
            Self::NotServed => Duration::from_secs(120),
            Self::Busy { wait, .. } => (*wait).min(PAUSE_LONGEST * 2),
            _ => Duration::ZERO,
        }
    }
}

/// What a complaint says: what, why, and what to do.
#[must_use]
pub(super) fn complaint(class: Class, server: &str, streams: &[&str], why: &str) -> String {
    let names = streams.join(", ");
    match class {
        Class::Unauthorized => format!(
            "the API server at {server} does not accept this agent's credentials: {why}; they are read again before each \
             further attempt: renew the token, or name another kubeconfig with --kubeconfig"
        ),
        Class::Certificate => format!(
            "no trust between this agent and the API server at {server}: {why}; check certificate-authority and \
             client-certificate of the kubeconfig"
        ),
        Class::Unreachable => {
            format!("cannot reach the API server at {server}: {why}; trying again, less and less often")
        }
        Class::Forbidden => format!(
            "this agent may not list and watch {names} (403); bind it to a role that may: \
             src/collector/kubernetes/rbac.yaml"
        ),
        Class::NotServed => format!("the API server at {server} does not serve {names}; doing without"),
        Class::Server => {
            format!("the API server at {server} does not serve {names} now: {why}; trying again")
        }
        Class::Torn => {
            format!("answers of the API server at {server} break off: {names}: {why}; trying again")
        }
    }
}

/// Longest text of a server's that is passed on.
const TEXT_BYTES_MAX: usize = 300;

/// One line, and not too long.
fn bounded(text: &str) -> String {
    let mut line = text.trim().replace(['\n', '\r'], " ");
    if line.len() > TEXT_BYTES_MAX {
        let mut end = TEXT_BYTES_MAX;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
    }
    line
}

/// An error and its causes, each once.
fn chain(error: &dyn Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    for _ in 0..8 {
        let Some(error) = next else { break };
        let said = error.to_string();
        if !text.contains(&said) {
            let separator = if text.is_empty() { "" } else { ": " };
            let _infallible = write!(text, "{separator}{said}");
        }
        next = error.source();
    }
    bounded(&text)
}

/// The first pause, and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(400);
const PAUSE_LONGEST: Duration = Duration::from_secs(60);

/// Pauses that double from failure to failure, each cut by up to a half at random, so that many agents do not come
/// back in step.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    seed: u64,
}

impl Backoff {
    /// How long to pause after this failure.
    pub(super) fn after(&mut self, failure: &Failure) -> Duration {
        let pause = PAUSE_FIRST.saturating_mul(1 << self.failures.min(16)).min(PAUSE_LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.seed = mix(self.seed ^ clock::boot_ns());
        let pause = pause.max(failure.least());
        pause.mul_f64(1.0 - f64::from(u32::try_from(self.seed >> 33).unwrap_or(0)) / f64::from(u32::MAX))
    }

    /// It works again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// How often it failed in a row.
    #[must_use]
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a hundred failures in a row, then it works.
    /// Guarantees: pauses grow to a bound and differ, a server's own wish is kept, success starts over.
    #[test]
    fn pauses_grow_and_differ() {
        let mut backoff = Backoff::default();
        let failure = Failure::Unreachable("x".into());
        let pauses: Vec<Duration> = (0..100).map(|_| backoff.after(&failure)).collect();
        assert!(pauses[0] <= PAUSE_FIRST && pauses[0] >= PAUSE_FIRST / 2);
        assert!(pauses.iter().all(|&pause| pause <= PAUSE_LONGEST));
        assert!(pauses[50..].iter().all(|&pause| pause >= PAUSE_LONGEST / 2));
        let distinct: std::collections::BTreeSet<_> = pauses[50..].iter().collect();
        assert!(distinct.len() > 40);
        let busy = Failure::Busy { code: 429, wait: Duration::from_secs(90) };
        backoff.reset();
        assert!(backoff.after(&busy) >= Duration::from_secs(45));
        assert!(backoff.after(&failure) <= PAUSE_FIRST * 2);
    }

    /// Scenario: the statuses an API server answers with.
    /// Guarantees: each leads to what helps, and texts are one bounded line.
    #[test]
    fn statuses_are_told_apart() {
        assert_eq!(Failure::of_status(410, "x", None), Failure::Expired);
        let future = "Too large resource version: 9, current: 3";
        assert_eq!(Failure::of_status(504, future, None), Failure::Expired);
        assert_eq!(Failure::of_status(403, "x", None), Failure::Forbidden);
        let long = "a\n".repeat(1000);
        let Failure::Server { message, .. } = Failure::of_status(500, &long, None) else { panic!("a 500") };
        assert!(message.len() <= TEXT_BYTES_MAX && !message.contains('\n'));
    }
}
