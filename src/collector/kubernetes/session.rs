//! The watches of one cluster, for as long as the agent runs.
//!
//! Invariants:
//! - Every agent watches its own node; what concerns the whole cluster is watched by the holder of the Lease, or by
//!   those that are told to.
//! - A position is kept on disk only when everything before it is stored by the server.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::answer::Selection;
use super::connect::{Connected, Found};
use super::elect::{Candidate, Held};
use super::failure::{Backoff, Failure};
use super::hub::Hub;
use super::position::{Place, Saved, Saving};
use super::resource::{CLUSTER, EVENTS, NODES, PODS};
use super::watch::{Stream, Watch};
use crate::collector::stretches::Advice;
use crate::config::ClusterScope;

/// How often positions are looked after.
const KEEP_PERIOD: Duration = Duration::from_secs(2);

/// How often it is looked whether a change is still being sent.
const SETTLE_PERIOD: Duration = Duration::from_millis(100);

/// What the complaint about the Lease is called.
const LEASE_WATCH: &str = "the Lease";

/// See the head of this file.
pub(super) struct Session<'hub, 'run> {
    hub: &'hub Hub<'run>,
    own: Vec<RefCell<Stream>>,
    cluster: Vec<RefCell<Stream>>,
    place: Place,
}

fn watches_of(node: &str) -> (Vec<RefCell<Stream>>, Vec<RefCell<Stream>>) {
    let stream = |name: &str, selection, quiet| RefCell::new(Stream::new(name, selection, quiet));
    let own = vec![
        // Containers of Events are looked up in the pods, which come first for that.
        stream("pods", Selection::new(&PODS, format!("spec.nodeName={node}")), false),
        stream("nodes", Selection::new(&NODES, format!("metadata.name={node}")), false),
        stream("events", Selection::new(&EVENTS, ""), false),
    ];
    let mut cluster = vec![
        stream("pods without a node", Selection::new(&PODS, "spec.nodeName="), true),
        stream("other nodes", Selection::new(&NODES, format!("metadata.name!={node}")), false),
    ];
    cluster
        .extend(CLUSTER.iter().map(|resource| stream(resource.plural, Selection::new(resource, ""), false)));
    (own, cluster)
}

impl<'hub, 'run> Session<'hub, 'run> {
    /// The watches, at the positions that were kept.
    pub(super) fn new(hub: &'hub Hub<'run>, place: Place) -> Self {
        let (own, cluster) = watches_of(&hub.node);
        let session = Self { hub, own, cluster, place };
        match session.place.load() {
            Ok(saved) => session.restore(saved),
            Err(reason) => tracing::warn!("kubernetes: {reason}"),
        }
        session
    }

    fn restore(&self, mut saved: BTreeMap<String, Saved>) {
        for stream in self.streams() {
            let mut stream = stream.borrow_mut();
            let Some(saved) = saved.remove(&stream.name) else { continue };
            stream.tracker.known_mut().restore(saved.known, &mut self.hub.memory.borrow_mut());
            stream.tracker.seen_up_to(&saved.position);
            stream.position = saved.position;
        }
    }

    fn streams(&self) -> impl Iterator<Item = &RefCell<Stream>> {
        self.own.iter().chain(&self.cluster)
    }

    /// Watches until something was lost on the way and has to be read again.
    pub(super) async fn run(&self, scope: ClusterScope, identity: &str) {
        let cluster = async {
            match scope {
                ClusterScope::Node => {}
                ClusterScope::All => self.watch_cluster().await,
                ClusterScope::Elect if matches!(self.hub.found, Found::Home(_)) => {
                    tracing::info!(
                        "kubernetes: only this node is watched, since the cluster comes from the user's own kubeconfig: \
                         name it with --kubeconfig to take part in the election, or use --k8s-scope all"
                    );
                }
                ClusterScope::Elect => self.stand(identity).await,
            }
        };
        let own = join_all(self.own.iter().map(|stream| self.watch(stream)));
        tokio::select! {
            () = async { tokio::join!(own, cluster, self.hub.say_complaints()); } => {}
            () = self.keep_positions() => {}
        }
    }

    async fn watch(&self, stream: &RefCell<Stream>) {
        let Some(pods) = self.own.first() else { return };
        Watch { hub: self.hub, stream, pods }.run().await;
    }

    async fn watch_cluster(&self) {
        self.hub.everything.set(true);
        join_all(self.cluster.iter().map(|stream| self.watch(stream))).await;
    }

    /// Stands for election for ever.
    async fn stand(&self, identity: &str) {
        let mut candidate = Candidate::new(identity.to_owned());
        let mut backoff = Backoff::default();
        self.hub.expect_watch();
        loop {
            let failure = match self.stand_once(&mut candidate).await {
                Ok(()) => {
                    self.hub.report(LEASE_WATCH, None);
                    Failure::Ended
                }
                Err(failure) => {
                    self.hub.report(LEASE_WATCH, Some(&failure));
                    failure
                }
            };
            sleep(backoff.after(&failure)).await;
            if failure == Failure::Ended {
                backoff.reset();
            }
        }
    }

    async fn stand_once(&self, candidate: &mut Candidate) -> Result<(), Failure> {
        let connected =
            self.hub.connected().await.map_err(|error| Failure::Unauthorized(error.to_string()))?;
        match candidate.stand(&connected).await? {
            Held::Other => {
                self.hub.report(LEASE_WATCH, None);
                candidate.wait(&connected).await
            }
            Held::Own { taken_over } => {
                self.hub.report(LEASE_WATCH, None);
                self.lead(candidate, &connected, taken_over).await;
                Ok(())
            }
        }
    }

    /// Watches the cluster for as long as the Lease is held.
    async fn lead(&self, candidate: &mut Candidate, connected: &Connected, taken_over: bool) {
        tracing::info!("kubernetes: this agent watches the whole cluster");
        if taken_over {
            self.hub.gap("cluster", "takeover", "", 0).await;
        }
        tokio::select! {
            () = candidate.hold(connected) => {}
            () = self.watch_cluster() => {}
        }
        self.hub.everything.set(false);
        tracing::info!("kubernetes: this agent watches its own node only: another holds the Lease");
        for stream in &self.cluster {
            let mut stream = stream.borrow_mut();
            self.hub.forget_watch(&stream.name);
            // What another agent sees from now on is not known here.
            stream.start_over("takeover");
        }
    }

    /// Gives up what others may want.
    pub(super) async fn give_back(&self, identity: &str) {
        if let Ok(connected) = self.hub.connected().await {
            let mut candidate = Candidate::new(identity.to_owned());
            if let Ok(true) = candidate.look(&connected).await {
                candidate.give_back(&connected).await;
            }
        }
    }

    /// Keeps positions for ever, as soon as everything before them is stored by the server. Returns when the agent has
    /// to go back to what was kept last, since something was lost on the way.
    async fn keep_positions(&self) {
        let mut written = 0;
        let mut seen = Vec::new();
        loop {
            sleep(KEEP_PERIOD).await;
            // Who waits to send does not settle while nothing is sent.
            while !self.hub.is_held_back() && !self.streams().all(|stream| stream.borrow().is_settled) {
                sleep(SETTLE_PERIOD).await;
            }
            let positions: Vec<String> =
                self.streams().map(|stream| stream.borrow().position.clone()).collect();
            if positions != seen {
                self.hub.moved();
                seen = positions;
            }
            let advice = self.hub.advise(|| {
                written += 1;
                if let Err(error) = self.write(written) {
                    self.hub.note(&format!("positions cannot be kept: {error}"));
                }
                written
            });
            match advice {
                Advice::ReadOn | Advice::HoldBack => {}
                Advice::Keep(number) => {
                    if let Err(error) = self.place.keep(number) {
                        self.hub.note(&format!("positions cannot be kept: {error}"));
                    }
                }
                Advice::GoBack(_) => return,
            }
        }
    }

    fn write(&self, number: u64) -> std::io::Result<()> {
        let streams: Vec<_> = self.streams().map(RefCell::borrow).collect();
        let mut watches = BTreeMap::new();
        for stream in streams.iter().filter(|stream| !stream.position.is_empty()) {
            let known = stream.tracker.known().iter().collect();
            watches.insert(stream.name.as_str(), Saving { position: &stream.position, known });
        }
        self.place.write(number, &watches)
    }
}
