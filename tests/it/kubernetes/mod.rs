//! The kubernetes collector, from the API server to the events: beside a fake that lies on demand, and a real one.

/// An engine with nothing but this collector.
mod agent;
/// What is asked for, and is no failure.
mod asked;
/// Pods for a real node, each of which fails in a way of its own.
mod cluster;
/// Two agents and one Lease.
mod elect;
/// An API server that tears, stalls and lies.
mod fake;
/// Faults that a real API server does not produce on demand.
mod faults;
/// What the kernel, the journal and the API say of one container, and the verdicts on it.
mod joined;
/// What it costs.
mod memory;
/// Ordinary life at the fake, and the place in time over restarts.
mod place;
/// A real API server, restarted, compacted, with RBAC.
mod plane;
/// Pods that run nowhere, by the hundred, at a real API server.
mod played;
/// The agent and the server as programs beside a real node.
mod programs;
/// A rollout that goes wrong, and a node that is lost.
mod rollout;
