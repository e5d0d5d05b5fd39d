//! The agents that send now: which batch is next, and how far each is stored.
//!
//! Invariants:
//! - At most one stream of an agent may add batches: the newest. Older ones are told to end.
//! - A batch is accepted once; the ack of a repeated one waits until its first copy is stored.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::book::{AGENTS_MAX, Book, Id, Sender};
use crate::proto::LedgerReport;

/// How far an agent is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stored {
    /// The numbering.
    pub epoch: u64,
    /// Every batch of it up to this one is stored.
    pub sequence: u64,
}

/// What becomes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the next one.
    Accept,
    /// It was accepted before.
    Duplicate,
    /// It is the first of its stream and later than the next one: batches that were acked once are not here any
    /// more (another data directory, or a store that keeps nothing). Accepted; this many are not here.
    Forgotten(u64),
}

/// Why a batch or greeting is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusedError {
    /// Batches are missing in between. Reconnect and resend.
    #[error("batch {sequence} follows batch {last}: those in between are missing; reconnect and resend from {}", last + 1)]
    Gap {
        /// The batch.
        sequence: u64,
        /// The last one accepted.
        last: u64,
    },
    /// Batches are numbered from 1. Stop.
    #[error("a batch has the number 0; batches are numbered from 1")]
    Zero,
    /// A newer stream of this agent is open. Stop.
    #[error("another stream of this agent has taken over; are there two agents with one id?")]
    Superseded,
    /// The agent sent under a later epoch before. Stop.
    #[error(
        "epoch {epoch} is over: this agent has sent under epoch {latest} before; are there two agents with one id?"
    )]
    OldEpoch {
        /// The epoch of the greeting.
        epoch: u64,
        /// The latest that is known.
        latest: u64,
    },
    /// Too many agents. Wait.
    #[error("{AGENTS_MAX} agents are connected: there is no place for another one")]
    TooMany,
}

#[derive(Debug)]
struct Live {
    sender: Sender,
    /// Every batch of the epoch up to this one is stored or on its way there.
    accepted: u64,
    /// Counts streams; the newest one has this number.
    stream: u64,
    /// Streams that are open.
    open: u32,
    /// A batch was accepted on the newest stream.
    begun: bool,
    ledger: Option<LedgerReport>,
}

/// One agent.
#[derive(Debug)]
pub struct Agent {
    live: Mutex<Live>,
    stored: watch::Sender<Stored>,
}

/// What `status` shows of an agent that is or was connected.
#[derive(Debug, Clone)]
pub struct AgentReport {
    /// Who.
    pub sender: Sender,
    /// Every batch up to this one is stored or on its way.
    pub accepted: u64,
    /// Every batch up to this one is stored.
    pub stored: u64,
    /// A stream is open.
    pub connected: bool,
    /// The newest ledger it sent.
    pub ledger: Option<LedgerReport>,
}

impl Agent {
    fn live(&self) -> std::sync::MutexGuard<'_, Live> {
        // No critical section can panic half way through a change.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it is stored, now and later.
    #[must_use]
    pub fn stored(&self) -> watch::Receiver<Stored> {
        self.stored.subscribe()
    }

    /// Notes that every batch up to this one is stored.
    pub fn mark_stored(&self, epoch: u64, sequence: u64) {
        self.stored.send_if_modified(|stored| {
            // Late news of an epoch that is over must not touch the one that followed it.
            let news = stored.epoch == epoch && stored.sequence < sequence;
            if news {
                stored.sequence = sequence;
            }
            news
        });
    }

    /// Every batch up to this one is stored or on its way.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.live().accepted
    }

    fn report(&self) -> AgentReport {
        let live = self.live();
        AgentReport {
            sender: live.sender.clone(),
            accepted: live.accepted,
            stored: self.stored.borrow().sequence,
            connected: live.open > 0,
            ledger: live.ledger.clone(),
        }
    }

    fn begin(self: &Arc<Self>, sender: Sender) -> Result<Session, RefusedError> {
        let mut live = self.live();
        let (epoch, latest) = (sender.epoch, live.sender.epoch);
        if epoch < latest {
            return Err(RefusedError::OldEpoch { epoch, latest });
        }
        if epoch > latest {
            live.accepted = 0;
            self.stored.send_replace(Stored { epoch, sequence: 0 });
        }
        live.sender = sender.clone();
        live.stream += 1;
        live.open += 1;
        live.begun = false;
        Ok(Session { agent: Arc::clone(self), stream: live.stream, sender })
    }
}

/// One open stream of an agent.
#[derive(Debug)]
pub struct Session {
    agent: Arc<Agent>,
    stream: u64,
    sender: Sender,
}

impl Session {
    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &Arc<Agent> {
        &self.agent
    }

    /// Who is sending.
    #[must_use]
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// Decides on a batch; calls `store` with an accepted one before any other batch of the agent is looked at.
    ///
    /// # Errors
    /// [`RefusedError`]: the stream is of no use any more.
    pub fn accept(&self, sequence: u64, store: impl FnOnce()) -> Result<Verdict, RefusedError> {
        let mut live = self.agent.live();
        if live.stream != self.stream {
            return Err(RefusedError::Superseded);
        }
        let last = live.accepted;
        let verdict = match sequence {
            0 => return Err(RefusedError::Zero),
            _ if sequence <= last => return Ok(Verdict::Duplicate),
            _ if sequence == last + 1 => Verdict::Accept,
            // The agent holds all that is unacked and sends the oldest first.
            _ if !live.begun => Verdict::Forgotten(sequence - last - 1),
            _ => return Err(RefusedError::Gap { sequence, last }),
        };
        live.begun = true;
        live.accepted = sequence;
        store();
        Ok(verdict)
    }

    /// Keeps the newest ledger.
    pub fn note_ledger(&self, report: LedgerReport) {
        self.agent.live().ledger = Some(report);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.agent.live().open -= 1;
    }
}

/// All agents that are or were connected.
#[derive(Debug, Default)]
pub struct Agents {
    agents: Mutex<BTreeMap<Id, Arc<Agent>>>,
}

impl Agents {
    /// The agents of a book, none of them connected.
    #[must_use]
    pub fn new(book: &Book) -> Self {
        let agent = |(&id, entry): (&Id, &super::book::Entry)| {
            let sender = Sender {
                agent: id,
                boot: entry.boot,
                epoch: entry.epoch,
                host: Arc::clone(&entry.host),
                version: Arc::clone(&entry.version),
            };
            (id, new_agent(sender, entry.sequence))
        };
        Self { agents: Mutex::new(book.agents().iter().map(agent).collect()) }
    }

    fn agents(&self) -> std::sync::MutexGuard<'_, BTreeMap<Id, Arc<Agent>>> {
        // No critical section can panic half way through a change.
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream of an agent.
    ///
    /// # Errors
    /// [`RefusedError`] for an epoch that is over, or when there is no place.
    pub fn greet(&self, sender: Sender) -> Result<Session, RefusedError> {
        let mut agents = self.agents();
        if agents.len() >= AGENTS_MAX && !agents.contains_key(&sender.agent) {
            let absent = agents.iter().find(|(_, agent)| agent.live().open == 0).map(|(&id, _)| id);
            agents.remove(&absent.ok_or(RefusedError::TooMany)?);
        }
        let agent = agents.entry(sender.agent).or_insert_with(|| new_agent(sender.clone(), 0));
        agent.begin(sender)
    }

    /// Every agent, by id.
    #[must_use]
    pub fn reports(&self) -> BTreeMap<Id, AgentReport> {
        self.agents().iter().map(|(&id, agent)| (id, agent.report())).collect()
    }
}

fn new_agent(sender: Sender, sequence: u64) -> Arc<Agent> {
    let stored = watch::Sender::new(Stored { epoch: sender.epoch, sequence });
    let live = Live { sender, accepted: sequence, stream: 0, open: 0, begun: false, ledger: None };
    Arc::new(Agent { live: Mutex::new(live), stored })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(epoch: u64) -> Sender {
        Sender { agent: Id([1; 16]), boot: Id([2; 16]), epoch, host: "h".into(), version: "1".into() }
    }

    /// Scenario: batches in order, again, with a gap, number 0, and a second stream of the same agent.
    /// Guarantees: each is accepted once; a gap and the old stream are refused; the store sees accepted ones only.
    #[test]
    fn batches_are_accepted_once() {
        let agents = Agents::default();
        let first = agents.greet(sender(1)).expect("new");
        let mut stored = Vec::new();
        assert_eq!(first.accept(1, || stored.push(1)), Ok(Verdict::Accept));
        assert_eq!(first.accept(2, || stored.push(2)), Ok(Verdict::Accept));
        assert_eq!(first.accept(1, || stored.push(1)), Ok(Verdict::Duplicate));
        assert_eq!(first.accept(4, || stored.push(4)), Err(RefusedError::Gap { sequence: 4, last: 2 }));
        assert_eq!(first.accept(0, || stored.push(0)), Err(RefusedError::Zero));
        let second = agents.greet(sender(1)).expect("reconnect");
        assert_eq!(first.accept(3, || stored.push(3)), Err(RefusedError::Superseded));
        assert_eq!(second.accept(2, || stored.push(2)), Ok(Verdict::Duplicate));
        assert_eq!(second.accept(3, || stored.push(3)), Ok(Verdict::Accept));
        assert_eq!(stored, [1, 2, 3]);
    }

    /// Scenario: the server knows nothing of an agent that is at batch 7.
    /// Guarantees: its first batch is accepted and what is not here is counted; a later gap is refused.
    #[test]
    fn a_lost_position_does_not_lock_an_agent_out() {
        let agents = Agents::default();
        let session = agents.greet(sender(1)).expect("new");
        assert_eq!(session.accept(7, || {}), Ok(Verdict::Forgotten(6)));
        assert_eq!(session.accept(9, || {}), Err(RefusedError::Gap { sequence: 9, last: 7 }));
    }

    /// Scenario: a new epoch while a batch of the old one is still on its way to the disk, then the old epoch again.
    /// Guarantees: news of the old epoch does not ack the new one's batches; the old epoch is refused.
    #[test]
    fn epochs_do_not_mix() {
        let agents = Agents::default();
        let old = agents.greet(sender(1)).expect("new");
        assert_eq!(old.accept(1, || {}), Ok(Verdict::Accept));
        let new = agents.greet(sender(2)).expect("later");
        old.agent().mark_stored(1, 1);
        assert_eq!(*new.agent().stored().borrow(), Stored { epoch: 2, sequence: 0 });
        assert_eq!(new.accept(1, || {}), Ok(Verdict::Accept));
        assert_eq!(agents.greet(sender(1)).err(), Some(RefusedError::OldEpoch { epoch: 1, latest: 2 }));
    }
}
