//! The journald collector: what journald stores, as events.
//!
//! `journal` reads the files. `subject` says whom an entry is about, `meaning` what its id stands for, `kernel` what a
//! line of the kernel says, `secrets` and `pattern` what of a message may leave the host; `record` puts them together.
//! `position` keeps where reading goes on, `feed` is one journal, `worker` the thread that reads them all.
//!
//! Invariants:
//! - Every entry from the first start on is sent at least once, under the same id each time; what is missing is a gap.
//! - A position is kept only once everything before it is stored by the server.
//! - No file is written but the positions; no child process, no wake-up from journald: files are polled.

mod feed;
pub mod journal;
mod kernel;
mod meaning;
mod missing;
mod own;
mod pattern;
mod position;
mod record;
mod said;
mod secrets;
mod subject;
mod times;
mod worker;

use super::{CollectorInfo, Context, Unavailable};
use crate::config::Settings;
use crate::engine::worker::Worker;
use crate::event::Source;

/// This collector.
pub const INFO: CollectorInfo = CollectorInfo { source: Source::Journald, thread: "journal", open };

/// The journals that the settings ask for: this host's or a directory, and namespaces.
fn sources(settings: &Settings) -> Vec<journal::Source> {
    let first = settings.journal_directory.clone().map_or(journal::Source::Host, journal::Source::Directory);
    let namespaces = settings.journal_namespace.iter().cloned().map(journal::Source::Namespace);
    std::iter::once(first).chain(namespaces).collect()
}

fn open(context: Context) -> Result<Box<dyn Worker>, Unavailable> {
    let sources = sources(&context.live.load());
    let mut why = String::new();
    for source in &sources {
        match journal::Reader::open(source.clone()) {
            Ok(_) => return Ok(Box::new(worker::JournalWorker::new(context, sources))),
            Err(error) => why = error.to_string(),
        }
    }
    Err(Unavailable(format!("{why}; --journal-directory says where it is")))
}
