//! Endpoint slices: how many endpoints of a service are ready, over all of its slices.
//!
//! Invariants:
//! - A change of a slice that leaves the sums of its service as they were is no event.

use super::draft::{Draft, number};
use super::known::Detail;
use super::object::{Endpoint, EndpointSlice, text};
use crate::event::{Kind, fields};

/// Endpoints whose addresses and pods are named at most: those that changed matter, and they are few.
const NAMED_MAX: usize = 32;

/// Ready and not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) ready: u32,
    pub(super) not_ready: u32,
}

impl Counts {
    /// With these, too.
    #[must_use]
    pub(super) fn plus(self, detail: &Detail) -> Self {
        let Detail::Endpoints(_, ready, not_ready) = detail else { return self };
        Self { ready: self.ready + ready, not_ready: self.not_ready + not_ready }
    }
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

/// What the slice counts.
pub(super) fn counts(slice: &EndpointSlice) -> Counts {
    let mut counts = Counts::default();
    for endpoint in slice.endpoints.iter().flatten() {
        // Each endpoint of a slice is one; its addresses are the same thing twice.
        if is_ready(endpoint) {
            counts.ready = counts.ready.saturating_add(1);
        } else {
            counts.not_ready = counts.not_ready.saturating_add(1);
        }
    }
    counts
}

/// The event about a service whose sums changed. Without a slice it was deleted.
pub(super) fn draft(
    slice: Option<&EndpointSlice>,
    [uid, version]: [&str; 2],
    [namespace, service]: [&str; 2],
    [before, after]: [Counts; 2],
) -> Draft {
    let path = super::api_events::path("Service", namespace, service);
    let draft = Draft::new(Kind::EndpointsReady, fields::OBJECT, path, number(uid, version, "endpoints"))
        .slot(after.ready.into())
        .slot(after.not_ready.into())
        .slot(before.ready.into())
        .field(fields::NAMESPACE, namespace);
    let Some(slice) = slice else { return draft };
    let named = |ready: bool, of: fn(&Endpoint) -> Vec<&str>| -> String {
        let endpoints = slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint) == ready);
        endpoints.flat_map(of).filter(|name| !name.is_empty()).take(NAMED_MAX).collect::<Vec<_>>().join(" ")
    };
    let pods = |endpoint| {
        named(endpoint, |endpoint| vec![text(endpoint.target_ref.as_ref().and_then(|pod| pod.name.as_ref()))])
    };
    let ports = slice
        .ports
        .iter()
        .flatten()
        .map(|port| format!("{}/{}", port.port.unwrap_or(0), port.protocol.as_deref().unwrap_or("TCP")));
    let ports: Vec<String> = ports.collect();
    draft
        .field(
            fields::ADDRESSES,
            &named(true, |endpoint| endpoint.addresses.iter().flatten().map(String::as_str).collect()),
        )
        .field(fields::PORTS, &ports.join(" "))
        .field(fields::PODS, &pods(true))
        .field(fields::PODS_NOT_READY, &pods(false))
}
