//! Which agent watches the cluster: the one that holds the Lease.
//!
//! Invariants:
//! - Two agents never both believe that they hold it, as long as clocks run at about the same pace: a holder gives up
//!   before others may take over, and what they compare are times of their own.
//! - Agents that do not hold it ask nothing: they watch it.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::PostParams;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::answer::Selection;
use super::connect::Connected;
use super::failure::Failure;
use super::frames::{Frame, Lines};
use super::resource::LEASES;

/// The name of the Lease.
pub(super) const LEASE: &str = "tapio-collector";

/// How long a Lease holds, and how often it is renewed.
const DURATION: Duration = Duration::from_secs(60);
const RENEW_PERIOD: Duration = Duration::from_secs(20);

/// A holder that could not renew for this long gives up.
const GIVE_UP: Duration = Duration::from_secs(45);

/// Longest wait for one answer about the Lease.
const ASK_LONGEST: Duration = Duration::from_secs(10);

/// How the Lease is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Held {
    /// By this agent: made or renewed, or taken over from another.
    Own {
        /// Another agent held it before, and nobody watched since.
        taken_over: bool,
    },
    /// By another agent.
    Other,
}

/// One agent that stands for election.
#[derive(Debug)]
pub(super) struct Candidate {
    /// What the Lease is held by.
    identity: String,
    /// The Lease as it was seen last.
    seen: Option<Lease>,
    /// Since when nobody renewed it, on our clock.
    still_since: Instant,
}

impl Candidate {
    pub(super) fn new(identity: String) -> Self {
        Self { identity, seen: None, still_since: Instant::now() }
    }

    fn api(connected: &Connected) -> Api<Lease> {
        Api::namespaced(connected.client.clone(), &connected.namespace)
    }

    fn is_own(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(&self.identity)
    }

    /// Looks at the Lease, and takes it where nobody holds it.
    pub(super) async fn stand(&mut self, connected: &Connected) -> Result<Held, Failure> {
        let api = Self::api(connected);
        let found = within(api.get_opt(LEASE)).await?;
        let Some(found) = found else {
            let lease = self.mine(None);
            self.seen = Some(within(api.create(&PostParams::default(), &lease)).await?);
            return Ok(Held::Own { taken_over: false });
        };
        if self.is_own(&found) {
            return self.take(connected, found, false).await;
        }
        self.see(found.clone());
        let holder = found.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        if holder.is_empty() {
            return self.take(connected, found, true).await;
        }
        if self.still_since.elapsed() >= lasts(&found) {
            return self.take(connected, found, true).await;
        }
        Ok(Held::Other)
    }

    /// Notes when the Lease was renewed.
    fn see(&mut self, lease: Lease) {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        if self.seen.as_ref().map(version) != Some(version(&lease)) {
            self.still_since = Instant::now();
        }
        self.seen = Some(lease);
    }

    /// Writes the Lease as ours. Another who writes at the same time wins or loses as a whole.
    async fn take(&mut self, connected: &Connected, lease: Lease, taken_over: bool) -> Result<Held, Failure> {
        let mine = self.mine(Some(&lease));
        match within(Self::api(connected).replace(LEASE, &PostParams::default(), &mine)).await {
            Ok(lease) => {
                self.seen = Some(lease);
                Ok(Held::Own { taken_over })
            }
            Err(Failure::Server { code: 409, .. }) => Ok(Held::Other),
            Err(failure) => Err(failure),
        }
    }

    fn mine(&self, before: Option<&Lease>) -> Lease {
        let mut lease = before.cloned().unwrap_or_default();
        lease.metadata.name = Some(LEASE.into());
        lease.metadata.managed_fields = None;
        let spec = lease.spec.get_or_insert_default();
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(now());
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        spec.renew_time = Some(now);
        lease
    }

    /// Renews the Lease until that fails for too long, or another has it.
    pub(super) async fn hold(&mut self, connected: &Connected) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < GIVE_UP {
            sleep(if renewed.elapsed() < RENEW_PERIOD { RENEW_PERIOD } else { ASK_LONGEST / 4 }).await;
            let Some(lease) = self.seen.clone() else { return };
            match self.take(connected, lease, false).await {
                Ok(Held::Own { .. }) => renewed = Instant::now(),
                Ok(Held::Other) => return,
                Err(failure) => tracing::debug!("kubernetes: the Lease is not renewed: {failure}"),
            }
        }
    }

    /// Whether this agent holds the Lease.
    pub(super) async fn look(&mut self, connected: &Connected) -> Result<bool, Failure> {
        self.seen = within(Self::api(connected).get_opt(LEASE)).await?;
        Ok(self.seen.as_ref().is_some_and(|lease| self.is_own(lease)))
    }

    /// Gives the Lease back, so that others need not wait.
    pub(super) async fn give_back(&mut self, connected: &Connected) {
        let Some(mut lease) = self.seen.take().filter(|lease| self.is_own(lease)) else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
        }
        let (api, parameters) = (Self::api(connected), PostParams::default());
        let request = api.replace(LEASE, &parameters, &lease);
        // Whoever waits for it will wait a little longer then.
        let _failed = timeout(Duration::from_secs(1), request).await;
    }

    /// Waits until the holder lets go of the Lease or does not renew it.
    pub(super) async fn wait(&mut self, connected: &Connected) -> Result<(), Failure> {
        let Some(lease) = &self.seen else { return Ok(()) };
        let lasts = lasts(lease);
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let mut selection = Selection::new(&LEASES, format!("metadata.name={LEASE}"));
        selection.namespace.clone_from(&connected.namespace);
        let mut answer = selection.watch(connected, &version, 0).await?;
        let mut lines = Lines::default();
        loop {
            let Ok(part) = timeout_at(self.still_since + lasts, answer.part()).await else { return Ok(()) };
            let Some(part) = part? else { return Ok(()) };
            lines.push(part);
            while let Some(line) = lines.next() {
                let Frame::Whole(line) = line else { continue };
                if is_let_go(line) {
                    return Ok(());
                }
                if line.starts_with(br#"{"type":"MODIFIED""#) {
                    self.still_since = Instant::now();
                }
            }
        }
    }
}

/// The Lease was deleted or given back, or the server has to be asked anew.
fn is_let_go(line: &[u8]) -> bool {
    let is = |text: &str| memchr::memmem::find(line, text.as_bytes()).is_some();
    is(r#"{"type":"DELETED""#) || is(r#"{"type":"ERROR""#) || is(r#""holderIdentity":"""#)
}

fn lasts(lease: &Lease) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0).clamp(5, 600))
}

/// The present as `kube` writes times.
fn now() -> k8s_openapi::jiff::Timestamp {
    k8s_openapi::jiff::Timestamp::now()
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    let answer = timeout(ASK_LONGEST, request).await;
    let answer = answer.map_err(|_| Failure::Unreachable(format!("no answer within {ASK_LONGEST:?}")))?;
    answer.map_err(|error| match &error {
        kube::Error::Api(status) => Failure::of_status(status.code, &status.message, None),
        _ => Failure::of(&error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: lines of the watch of a Lease.
    /// Guarantees: only what may make the Lease free ends the wait.
    #[test]
    fn a_free_lease_is_noticed() {
        let renewal = br#"{"type":"MODIFIED","object":{"spec":{"holderIdentity":"other"}}}"#;
        assert!(!is_let_go(renewal));
        assert!(is_let_go(br#"{"type":"MODIFIED","object":{"spec":{"holderIdentity":""}}}"#));
        assert!(is_let_go(br#"{"type":"DELETED","object":{}}"#));
        assert!(is_let_go(br#"{"type":"ERROR","object":{"code":410}}"#));
    }
}
