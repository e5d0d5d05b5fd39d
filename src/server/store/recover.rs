//! Opens a store as the last run left it, however that run ended.
//!
//! Invariants:
//! - No state of the files needs a human: what is damaged is passed over and counted, what was being
//!   written when a crash came is cut off.
//! - Nothing that was acked is cut off: a damaged spot is the tail of a crash only if no frame behind it
//!   says that it was on the disk.
//! - Memory does not grow with the store: a segment is a few numbers.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::StoreError;
use super::catalogue::{Catalogue, Segment, path_of};
use super::frame::{FrameKind, SEGMENT_HEADER_BYTES};
use super::index::{Index, Summary, load_summary};
use super::reader::{Frame, Reader, Step};
use super::record;
use crate::server::book::{Book, Id, Sender};
use crate::server::decode::Columns;
use crate::server::message::RawBatch;

/// A store that was opened.
#[derive(Debug)]
pub(super) struct Recovered {
    /// The directory, locked against a second server.
    pub(super) lock: File,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) book: Book,
    /// The newest segment, if it can be continued.
    pub(super) open: Option<OpenSegment>,
    pub(super) next_id: u64,
}

/// A segment that takes frames.
#[derive(Debug)]
pub(super) struct OpenSegment {
    pub(super) file: File,
    pub(super) segment: Arc<Segment>,
    pub(super) salt: u32,
    pub(super) index: Index,
    /// Whose names are in it.
    pub(super) senders: HashMap<Id, Sender>,
}

/// Opens or makes the store in a directory.
pub(super) fn open(dir: &Path) -> Result<Recovered, StoreError> {
    let failed = |error| StoreError::Directory { path: dir.to_owned(), error };
    let lock = lock(dir)?;
    let ids = list(dir).map_err(failed)?;
    let catalogue = Arc::new(Catalogue::default());
    let next_id = ids.last().map_or(1, |last| last + 1);
    let Some((&newest, full)) = ids.split_last() else {
        return Ok(Recovered { lock, catalogue, book: Book::default(), open: None, next_id });
    };
    for &id in full {
        let segment = passed_over(sealed(dir, id), dir, id).map_err(failed)?;
        segment.seal();
        catalogue.add(Arc::new(segment));
    }
    let mut book = base(&catalogue);
    let reopened = reopen(dir, newest, &mut book, &catalogue);
    let open = match passed_over_newest(reopened, dir, newest).map_err(failed)? {
        Newest::Continues(open) => {
            catalogue.add(Arc::clone(&open.segment));
            Some(open)
        }
        Newest::Full(segment) => {
            segment.seal();
            catalogue.add(Arc::new(segment));
            None
        }
    };
    Ok(Recovered { lock, catalogue, book, open, next_id })
}

/// Makes the directory and keeps a second server out of it.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let failed = |error| StoreError::Directory { path: dir.to_owned(), error };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let lock = File::open(dir).map_err(failed)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        match error {
            rustix::io::Errno::WOULDBLOCK => StoreError::InUse(dir.to_owned()),
            other => failed(other.into()),
        }
    })?;
    // A new directory that its parents do not know is not there after a crash. Those that cannot be opened were
    // there before.
    let above = fs::canonicalize(dir).map_err(failed)?;
    for parent in above.ancestors().skip(1) {
        if let Err(error) = File::open(parent).and_then(|parent| parent.sync_all()) {
            tracing::debug!("{}: not synced: {error}", parent.display());
        }
    }
    Ok(lock)
}

/// A segment that cannot be read is no reason not to start, unless this is the wrong user.
fn passed_over(read: io::Result<Segment>, dir: &Path, id: u64) -> io::Result<Segment> {
    match read {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
            tracing::warn!("{}: passed over: {error}", path_of(dir, id).display());
            Ok(damaged(dir, id))
        }
        other => other,
    }
}

fn passed_over_newest(read: io::Result<Newest>, dir: &Path, id: u64) -> io::Result<Newest> {
    match read {
        Err(error) => passed_over(Err(error), dir, id).map(Newest::Full),
        read => read,
    }
}

/// A segment of which nothing is known.
fn damaged(dir: &Path, id: u64) -> Segment {
    let bytes = fs::metadata(path_of(dir, id)).map_or(0, |metadata| metadata.len());
    Segment::new(dir, id, bytes, Summary { corrupt: 1, ..Summary::default() })
}

/// What became of the newest segment.
enum Newest {
    /// It takes more.
    Continues(OpenSegment),
    /// It does not.
    Full(Segment),
}

/// The numbers of the segments in a directory, in order; leftovers of unfinished files are removed.
fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("tmp") => fs::remove_file(&path)?,
            Some("seg") => ids.extend(id_of(&path)),
            _ => {}
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

fn id_of(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok()
}

/// A full segment, with its numbers from its index or made again.
fn sealed(dir: &Path, id: u64) -> io::Result<Segment> {
    let path = path_of(dir, id);
    let bytes = fs::metadata(&path)?.len();
    if let Some(summary) = load_summary(&path, bytes) {
        return Ok(Segment::new(dir, id, bytes, summary));
    }
    let mut index = Index::default();
    match Reader::new(File::open(&path)?, bytes)? {
        Some(reader) => replay(reader, &mut Book::default(), &mut index),
        None => index.summary.corrupt = 1,
    }
    tracing::info!("{}: index made again, {} batches", path.display(), index.summary.batches);
    if let Err(error) = index.save(&path, bytes) {
        tracing::warn!("{}: index not saved: {error}; queries read the segment instead", path.display());
    }
    Ok(Segment::new(dir, id, bytes, index.summary))
}

/// The book as the full segments leave it: the newest one that starts with a good book, and all behind it.
fn base(catalogue: &Catalogue) -> Book {
    let segments = catalogue.segments();
    let mut book = Book::default();
    let mut first = 0;
    for (number, segment) in segments.iter().enumerate().rev() {
        let found = segment.reader().and_then(|reader| reader.map_or(Ok(None), first_book));
        if let Ok(Some(found)) = found {
            (book, first) = (found, number);
            break;
        }
    }
    for segment in segments.iter().skip(first) {
        if let Ok(Some(reader)) = segment.reader() {
            replay(reader, &mut book, &mut Index::default());
        }
    }
    book
}

/// The book at the start of a segment.
fn first_book(mut reader: Reader) -> io::Result<Option<Book>> {
    let Step::Frame(frame) = reader.next()? else { return Ok(None) };
    if frame.header.kind() != Some(FrameKind::Book) {
        return Ok(None);
    }
    Ok(reader.body(&frame)?.and_then(|body| record::decode_book(&body)))
}

/// Opens the newest segment: cuts its torn tail, reads it, and prepares it for more.
fn reopen(dir: &Path, id: u64, book: &mut Book, catalogue: &Catalogue) -> io::Result<Newest> {
    let path = path_of(dir, id);
    let bytes = fs::metadata(&path)?.len();
    let reader = |end| Reader::new(File::open(&path)?, end);
    let Some(whole) = reader(bytes)? else {
        // Its header goes to the disk before anything in it is acked.
        tracing::warn!("{}: its header is damaged; passed over", path.display());
        return Ok(Newest::Full(damaged(dir, id)));
    };
    let salt = whole.salt();
    let end = durable_end(whole)?;
    let found = reader(end)?.map_or(Ok(None), first_book)?;
    let has_book = found.is_some();
    if let Some(found) = found {
        *book = found;
    }
    let mut index = Index::default();
    if let Some(reader) = reader(end)? {
        replay(reader, book, &mut index);
    }
    let segment = Segment::new(dir, id, end, index.summary);
    match cut(&path, end, bytes, catalogue).filter(|_| has_book) {
        Some(file) => {
            let segment = Arc::new(segment);
            Ok(Newest::Continues(OpenSegment { file, segment, salt, index, senders: HashMap::new() }))
        }
        None => Ok(Newest::Full(segment)),
    }
}

/// Cuts the tail off; `None` when the file cannot be written, which makes it a full one.
fn cut(path: &Path, end: u64, bytes: u64, catalogue: &Catalogue) -> Option<File> {
    let cut = || {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if end < bytes {
            file.set_len(end)?;
            file.sync_all()?;
        }
        io::Result::Ok(file)
    };
    if end < bytes {
        tracing::warn!("{}: {} bytes of an unfinished write cut off", path.display(), bytes - end);
        catalogue.truncated_bytes.fetch_add(bytes - end, Ordering::Relaxed);
    }
    cut().inspect_err(|error| tracing::warn!("{}: cannot be continued: {error}", path.display())).ok()
}

/// Where the part ends that was on the disk for sure, or is whole.
fn durable_end(mut reader: Reader) -> io::Result<u64> {
    let mut end = SEGMENT_HEADER_BYTES as u64;
    let mut synced = 0;
    let mut holes: Vec<u64> = Vec::new();
    loop {
        match reader.next()? {
            Step::End => break,
            Step::Hole(at) => holes.push(at),
            Step::Frame(frame) => {
                synced = synced.max(u64::from(frame.header.synced.get()));
                holes.retain(|&hole| hole >= synced);
                if reader.body(&frame)?.is_some() {
                    end = frame.end();
                } else {
                    holes.push(frame.at);
                }
            }
        }
    }
    Ok(holes.first().map_or(end, |&hole| hole.min(end)))
}

/// Reads all frames of a segment, as far as the disk gives them, into the book and the index.
fn replay(mut reader: Reader, book: &mut Book, index: &mut Index) {
    if let Err(error) = replay_frames(&mut reader, book, index) {
        tracing::warn!("a segment is not read to its end: {error}");
        index.summary.corrupt += 1;
    }
}

fn replay_frames(reader: &mut Reader, book: &mut Book, index: &mut Index) -> io::Result<()> {
    loop {
        match reader.next()? {
            Step::End => return Ok(()),
            Step::Hole(_) => index.summary.corrupt += 1,
            Step::Frame(frame) => match reader.body(&frame)? {
                Some(body) => replay_frame(&frame, body, book, index),
                None => index.summary.corrupt += 1,
            },
        }
    }
}

fn replay_frame(frame: &Frame, body: Vec<u8>, book: &mut Book, index: &mut Index) {
    match frame.header.kind() {
        Some(FrameKind::Batch) => {
            let mut mark = frame.header.mark();
            let read = RawBatch::decode(body.into());
            // A batch of a newer version cannot be read here, but it was stored and acked.
            let columns = read.as_ref().ok().and_then(|read| Columns::check(&read.batch).ok());
            let entities = columns.map(|columns| {
                mark.spans = columns.spans().collect();
                columns.entities()
            });
            index.add(&mark, entities.unwrap_or_default());
            book.note_batch(&mark);
        }
        Some(FrameKind::Sender) => {
            if let Some((host, version)) = record::decode_sender(&body) {
                book.note_sender(&frame.header.sender(&host, &version));
            }
        }
        // The book of a segment was taken before its other frames were read. An unknown kind is of a newer version.
        Some(FrameKind::Book) | None => {}
    }
}
