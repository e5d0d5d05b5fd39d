//! The kubernetes collector: what the API server says of this node and, for one agent, of the cluster.
//!
//! `connect` finds the cluster, `session` runs the watches, `watch` is one of them; `answer` and `frames` read what
//! comes, `tracker` compares it with what is `known` and makes `draft`s of events. `resource` is the table of what is
//! watched, `elect` decides who watches the cluster, `position` keeps the place in time, `failure` says what went
//! wrong and when to try again.
//!
//! Invariants:
//! - When nothing changes, nothing is asked beyond the watches; the holder of the Lease renews it three times a minute.
//! - Memory is bounded whatever the cluster sends: one object at a time, and a budget for what is remembered. An answer
//!   that does not end is given up.
//! - Events carry numbers made of the object and its version: what is read again after a restart is the same event.

mod answer;
mod api_events;
mod connect;
mod draft;
mod elect;
mod endpoints;
mod failure;
mod frames;
mod hub;
mod known;
mod leases;
mod nodes;
mod object;
mod pods;
mod position;
mod resource;
mod session;
mod shape;
mod tracker;
mod watch;

use std::time::Duration;

use tokio::time::sleep;

pub use draft::Draft;
pub use known::Memory;
pub use resource::{Resource, resources};
pub use tracker::{Change, Scene, Tracker};

use super::{CollectorInfo, Context, Unavailable};
use crate::config::Switch;
use crate::engine::worker::Worker;
use crate::event::Source;
use crate::health::{CollectorHealth, State};
use connect::{Found, NoCluster};
use hub::Hub;
use position::Place;
use session::Session;

/// The row in the table of collectors.
pub const INFO: CollectorInfo = CollectorInfo { source: Source::Kubernetes, thread: "kubernetes", open };

/// How often a cluster is looked for where there is none.
const LOOK_PERIOD: Duration = Duration::from_secs(30);

/// How long a stop may take to give the Lease back.
const STOP_LONGEST: Duration = Duration::from_secs(1);

fn open(context: Context) -> Result<Box<dyn Worker>, Unavailable> {
    let settings = context.live.load();
    if let Err(nowhere) = connect::find(&settings) {
        if settings.collectors[Source::Kubernetes as usize] == Switch::On {
            return Err(Unavailable(format!("{nowhere}; see --kubeconfig")));
        }
        context.health.set(Source::Kubernetes, CollectorHealth::new(State::Disabled, nowhere.to_string()));
    }
    drop(settings);
    Ok(Box::new(Kubernetes { context }))
}

/// The collector.
#[derive(Debug)]
struct Kubernetes {
    context: Context,
}

impl Worker for Kubernetes {
    fn run(&mut self) {
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(watch_until_stop(&mut self.context)),
            Err(error) => {
                let reason = format!("no event loop: {error}; raise the limit on open files");
                self.context.health.set(Source::Kubernetes, CollectorHealth::new(State::Failed, reason));
                while !self.context.stop.is_set() {
                    std::thread::park_timeout(LOOK_PERIOD);
                }
            }
        }
    }

    fn recover(&mut self) {
        // What was being sent is read again from the position that was kept.
        self.context.port.publish();
    }
}

async fn watch_until_stop(context: &mut Context) {
    let mut stop = context.stop.clone();
    let mut said = String::new();
    while !stop.is_set() {
        let found = match connect::find(&context.live.load()) {
            Ok(found) => found,
            Err(nowhere) => {
                say_disabled(context, &nowhere, &mut said);
                tokio::select! {
                    () = stop.wait() => return,
                    () = sleep(LOOK_PERIOD) => continue,
                }
            }
        };
        said.clear();
        watch(context, found).await;
    }
}

/// Says once that there is no cluster, and why.
fn say_disabled(context: &Context, nowhere: &NoCluster, said: &mut String) {
    let reason = nowhere.to_string();
    context.health.set(Source::Kubernetes, CollectorHealth::new(State::Disabled, reason.as_str()));
    if *said != reason {
        tracing::info!("kubernetes: disabled: {reason}; it is looked for again every {LOOK_PERIOD:?}");
        *said = reason;
    }
}

/// Watches the cluster until it is time to stop.
async fn watch(context: &mut Context, found: Found) {
    let mut stop = context.stop.clone();
    let settings = context.live.load_full();
    let node = connect::node_name(&settings);
    let state_dir = context.state_dir.clone();
    let identity = format!("{node}_{:016x}", draft::hash(&[&node, &format!("{:?}", context.boot_id)]));
    context.health.set(Source::Kubernetes, CollectorHealth::new(State::Degraded, "connecting"));
    let hub = Hub::new(context, found, node);
    let server = tokio::select! {
        () = stop.wait() => return,
        server = usable(&hub) => server,
    };
    let mut session = Session::new(&hub, Place::new(&state_dir, &server, &hub.node));
    loop {
        tokio::select! {
            () = stop.wait() => break,
            () = session.run(settings.k8s_scope, &identity) => {}
        }
        // What was lost on the way to the server is read again from the positions that were kept.
        hub.start_over();
        session = Session::new(&hub, Place::new(&state_dir, &server, &hub.node));
    }
    if hub.everything.get() && settings.k8s_scope == crate::config::ClusterScope::Elect {
        let _late = tokio::time::timeout(STOP_LONGEST, session.give_back(&identity)).await;
    }
}

/// Waits until the configuration of the cluster can be used, and returns the address of its API server.
async fn usable(hub: &Hub<'_>) -> String {
    loop {
        match hub.connected().await {
            Ok(connected) => return connected.server.clone(),
            Err(unusable) => hub.unusable(&unusable),
        }
        sleep(LOOK_PERIOD).await;
    }
}
