//! Where accepted batches go.
//!
//! Invariants:
//! - [`Agent::mark_stored`] is called for a batch only when it is stored.
//! - The book changes with the store, under its lock, in the store's order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::agents::Agent;
use super::book::{BatchMark, Book, Sender};

/// A batch on its way to the store.
#[derive(Debug)]
pub struct Accepted {
    /// To tell when it is stored.
    pub agent: Arc<Agent>,
    /// What it is.
    pub mark: BatchMark,
    /// Its bytes as received.
    pub raw: Bytes,
}

/// The book, shared by the store that writes it and those who read it.
pub(super) type SharedBook = Arc<Mutex<Book>>;

/// Where batches go.
#[derive(Debug)]
pub enum Store {
    /// Nowhere: a batch counts as stored as soon as it is accepted.
    Null(NullStore),
}

/// Keeps nothing but the book.
#[derive(Debug)]
pub struct NullStore {
    book: SharedBook,
    stalled: watch::Sender<String>,
}

/// A place in the store.
#[derive(Debug)]
pub enum Place<'store> {
    /// In the null store.
    Null(&'store NullStore),
}

impl Store {
    /// A store that keeps nothing.
    #[must_use]
    pub fn null() -> Self {
        Self::Null(NullStore { book: SharedBook::default(), stalled: watch::Sender::new(String::new()) })
    }

    /// What is stored.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        let Self::Null(store) = self;
        locked(&store.book)
    }

    /// Notes the names of an agent.
    pub fn note_sender(&self, sender: &Sender) {
        self.book().note_sender(sender);
    }

    /// Waits for a place for a batch of so many bytes; `None` when the store has stopped.
    pub async fn reserve(&self, _bytes: usize) -> Option<Place<'_>> {
        let Self::Null(store) = self;
        Some(Place::Null(store))
    }

    /// Why the store cannot store now; empty while it can.
    #[must_use]
    pub fn stalled(&self) -> watch::Receiver<String> {
        let Self::Null(store) = self;
        store.stalled.subscribe()
    }
}

impl Place<'_> {
    /// Puts the batch there.
    pub fn put(self, accepted: Accepted) {
        let Self::Null(store) = self;
        locked(&store.book).note_batch(&accepted.mark);
        accepted.agent.mark_stored(accepted.mark.epoch, accepted.mark.sequence);
    }
}

fn locked(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    // A panic cannot leave the book half written in a way that the next batch does not repair.
    book.lock().unwrap_or_else(PoisonError::into_inner)
}
