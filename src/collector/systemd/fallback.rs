//! Follows the manager's records in the journal for as long as there is no way to ask it.
//!
//! Invariants:
//! - Records of other boots are passed over: their times mean nothing here.
//! - What is missing from the journal is said as a loss.

use std::time::Duration;

use tokio::time::Instant;

use super::rebuild::{Rebuild, Record};
use super::session::Kept;
use crate::collector::Stop;
use crate::collector::journald::journal::{Position, Reader, Source};

/// How often it is looked for new records. The bus would tell by itself; a file does not.
const PAUSE: Duration = Duration::from_millis(100);

/// How often it is looked for new files.
const REFRESH: Duration = Duration::from_secs(1);

/// The journal, and what it said so far.
#[derive(Debug)]
pub(super) struct Fallback {
    reader: Reader,
    rebuild: Rebuild,
    boot_id: [u8; 16],
    refreshed: Instant,
}

impl Fallback {
    /// Stands at the end of the host's journal; `None` where there is none.
    pub(super) fn open(boot_id: [u8; 16]) -> Option<Self> {
        Self::at(Source::Host, boot_id)
    }

    pub(super) fn at(source: Source, boot_id: [u8; 16]) -> Option<Self> {
        let mut reader = Reader::open(source).ok()?;
        reader.seek(Position::Tail).ok()?;
        Some(Self { reader, rebuild: Rebuild::default(), boot_id, refreshed: Instant::now() })
    }

    /// Follows until this time; true if the agent ends.
    pub(super) async fn follow(&mut self, kept: &mut Kept, until: Instant, stop: &mut Stop) -> bool {
        while Instant::now() < until {
            self.read(kept).await;
            tokio::select! {
                () = stop.wait() => return true,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        false
    }

    /// Says what is new.
    async fn read(&mut self, kept: &mut Kept) {
        if self.refreshed.elapsed() >= REFRESH {
            self.reader.refresh();
            self.refreshed = Instant::now();
        }
        while let Some(entry) = self.reader.next() {
            let mut record = Record::default();
            entry.fields().for_each(|(name, value)| record.field(name, value));
            if entry.boot_id == self.boot_id && entry.is_intact() {
                self.rebuild.record(&record, entry.monotonic_us, &mut kept.outputs);
            }
            if !kept.outputs.is_empty() {
                kept.flush().await;
            }
        }
        if !self.reader.take_gaps().is_empty() {
            let lost = kept.model.manager("lost", "removed");
            kept.outputs.push_back(lost);
            kept.flush().await;
        }
    }
}
