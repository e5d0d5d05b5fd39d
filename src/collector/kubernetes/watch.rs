//! One watch: a list, then every change after it, for as long as the agent runs.
//!
//! Invariants:
//! - The position moves only behind events that were sent: what breaks off is asked for again.
//! - A list that replaces a position is compared with what is known and makes a gap, since what was between is lost.
//! - While a change is being sent, [`Stream::is_settled`] is false: what is known is then ahead of the position.

use std::cell::RefCell;
use std::time::Duration;

use tokio::time::Instant;

use super::answer::{Answer, Selection};
use super::connect::Connected;
use super::failure::{Backoff, Class, Failure};
use super::frames::{Frame, Items, Lines};
use super::hub::Hub;
use super::object::{ListMeta, Meta, Status, text};
use super::resource::Role;
use super::tracker::{Change, Scene, Tracker};
use crate::clock;

/// A watch that worked for this long has recovered.
const RECOVERED: Duration = Duration::from_secs(5);

/// Objects of one list at most.
const LIST_OBJECTS_MAX: u64 = 1_000_000;

/// Bytes without an object after which an answer counts as one that never ends. Servers send at most 3 MiB at once.
const IDLE_BYTES_MAX: usize = 64 << 20;

/// What a page counts for beside its bytes, so that pages without objects come to an end, too.
const PAGE_BYTES: usize = 64 << 10;

/// How often leases are looked at.
const LEASE_PERIOD: Duration = Duration::from_secs(5);

/// A list went on after so many objects.
fn endless(objects: u64) -> Failure {
    Failure::Garbled(format!(
        "the list does not end: {objects} objects so far, {LIST_OBJECTS_MAX} are the most, {IDLE_BYTES_MAX} bytes without one"
    ))
}

/// A watch and what it knows.
#[derive(Debug)]
pub(super) struct Stream {
    /// What it is called in messages and in the file of positions.
    pub(super) name: String,
    /// What it asks for.
    pub(super) selection: Selection,
    /// What it knows.
    pub(super) tracker: Tracker,
    /// The version up to which everything was sent; empty before the first list.
    pub(super) position: String,
    /// See the head of this file.
    pub(super) is_settled: bool,
    /// Why there is no position although there was one.
    gap: Option<&'static str>,
}

impl Stream {
    pub(super) fn new(name: &str, selection: Selection, leaves_quietly: bool) -> Self {
        let tracker = Tracker::new(selection.resource, leaves_quietly);
        let name = name.to_owned();
        Self { name, selection, tracker, position: String::new(), is_settled: true, gap: None }
    }

    /// Starts with a list, which will make a gap if there was a position.
    pub(super) fn start_over(&mut self, cause: &'static str) {
        if !self.position.is_empty() {
            self.position.clear();
            self.gap = Some(cause);
        }
    }
}

/// A watch at work.
pub(super) struct Watch<'watch, 'run> {
    pub(super) hub: &'watch Hub<'run>,
    pub(super) stream: &'watch RefCell<Stream>,
    /// The watch of this node's pods, which knows their containers.
    pub(super) pods: &'watch RefCell<Stream>,
}

impl Watch<'_, '_> {
    /// Watches for ever.
    pub(super) async fn run(&self) {
        let name = self.stream.borrow().name.clone();
        let mut backoff = Backoff::default();
        self.hub.expect_watch();
        loop {
            let started = Instant::now();
            let failure = match self.once(&name).await {
                Ok(()) => Failure::Ended,
                Err(failure) => failure,
            };
            if started.elapsed() > RECOVERED {
                backoff.reset();
            }
            match &failure {
                Failure::Expired => self.stream.borrow_mut().start_over("expired"),
                Failure::Unauthorized(_) | Failure::Certificate(_) => self.hub.reconnect(),
                _ => {}
            }
            // What breaks off once is ordinary life: a server that restarts, a proxy that is replaced.
            if failure.class() != Some(Class::Torn) || backoff.failures() > 1 {
                self.hub.report(&name, Some(&failure));
            }
            tracing::debug!("kubernetes: {name}: {failure}");
            // A watch that ends as announced goes on at once, unless it does so again and again.
            if failure != Failure::Ended || started.elapsed() < RECOVERED {
                tokio::time::sleep(backoff.after(&failure)).await;
            }
        }
    }

    async fn once(&self, name: &str) -> Result<(), Failure> {
        let connected =
            self.hub.connected().await.map_err(|error| Failure::Unauthorized(error.to_string()))?;
        if self.stream.borrow().position.is_empty() {
            let _permit = self.hub.listing.acquire().await;
            self.list(&connected).await?;
        }
        let (selection, position) = {
            let stream = self.stream.borrow();
            (stream.selection.clone(), stream.position.clone())
        };
        let answer = selection.watch(&connected, &position, clock::boot_ns()).await?;
        self.hub.report(name, None);
        self.follow(answer).await
    }

    /// Reads the whole list, page by page and object by object.
    async fn list(&self, connected: &Connected) -> Result<(), Failure> {
        let selection = {
            let mut stream = self.stream.borrow_mut();
            stream.tracker.begin_list();
            stream.selection.clone()
        };
        let mut next = None;
        let (mut objects, mut idle) = (0, 0);
        let version = loop {
            let mut answer = selection.list(connected, next.take()).await?;
            let mut items = Items::default();
            idle += PAGE_BYTES;
            while let Some(part) = answer.part().await? {
                idle += part.len();
                items.push(part);
                while let Some(item) = items.next() {
                    objects += 1;
                    idle = 0;
                    self.take_item(&item).await;
                }
                if objects > LIST_OBJECTS_MAX || idle > IDLE_BYTES_MAX {
                    return Err(endless(objects));
                }
            }
            let meta = items.finish().ok_or_else(|| Failure::Torn("the list is not complete".into()))?;
            let meta: ListMeta =
                serde_json::from_slice(meta).map_err(|error| Failure::Garbled(format!("a list: {error}")))?;
            match meta.next.filter(|next| !next.is_empty()) {
                Some(more) => next = Some(more),
                None => break meta.resource_version.unwrap_or_default(),
            }
        };
        if version.is_empty() {
            return Err(Failure::Garbled("a list without a version".into()));
        }
        self.end_list(&version).await;
        Ok(())
    }

    async fn end_list(&self, version: &str) {
        let drafts = self.with_scene(|tracker, scene| tracker.end_list(version, scene));
        self.hub.send(&drafts).await;
        let (name, gap) = {
            let stream = self.stream.borrow();
            (stream.name.clone(), stream.gap)
        };
        if let Some(cause) = gap {
            self.hub.gap(&name, cause, version, 0).await;
        }
        let mut stream = self.stream.borrow_mut();
        stream.gap = None;
        stream.position = version.to_owned();
        stream.is_settled = true;
    }

    async fn take_item(&self, item: &Frame<'_>) {
        let Frame::Whole(object) = item else { return self.lost("too_large").await };
        match self.with_scene(|tracker, scene| tracker.take(Change::Listed, object, scene)) {
            Ok(drafts) => self.hub.send(&drafts).await,
            Err(error) => {
                tracing::debug!("kubernetes: an object of a list: {error}");
                self.lost("unreadable").await;
            }
        }
    }

    /// Reads changes until the answer ends.
    async fn follow(&self, mut answer: Answer) -> Result<(), Failure> {
        let (mut lines, mut idle) = (Lines::default(), 0);
        let has_leases = self.stream.borrow().selection.resource.role == Role::Lease;
        self.stream.borrow_mut().tracker.renew_leases(now_unix_s());
        let mut leases = tokio::time::interval(LEASE_PERIOD);
        leases.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let part = tokio::select! {
                part = answer.part() => part?,
                _ = leases.tick(), if has_leases => {
                    let overdue = self.stream.borrow_mut().tracker.overdue(now_unix_s());
                    self.hub.send(&overdue).await;
                    continue;
                }
            };
            let Some(part) = part else { return Ok(()) };
            idle += part.len();
            if idle > IDLE_BYTES_MAX {
                return Err(Failure::Garbled(format!("a line does not end within {IDLE_BYTES_MAX} bytes")));
            }
            lines.push(part);
            while let Some(line) = lines.next() {
                idle = 0;
                match line {
                    Frame::Whole(b"") => {}
                    Frame::Whole(line) => self.take_line(line).await?,
                    Frame::TooLarge => self.lost("too_large").await,
                }
            }
        }
    }

    async fn take_line(&self, line: &[u8]) -> Result<(), Failure> {
        let (kind, object) = split(line).ok_or_else(|| Failure::Garbled("a line of a watch".into()))?;
        let change = match kind {
            "ADDED" | "MODIFIED" => Change::Changed,
            "DELETED" => Change::Deleted,
            "BOOKMARK" => {
                let version = version_of(object);
                let mut stream = self.stream.borrow_mut();
                if !version.is_empty() && !is_older(&version, &stream.position) {
                    stream.tracker.seen_up_to(&version);
                    stream.position = version;
                }
                return Ok(());
            }
            "ERROR" => {
                let status: Status = serde_json::from_slice(object).unwrap_or_default();
                let message = status.message.as_deref().unwrap_or_default();
                let is_expired = matches!(status.reason.as_deref(), Some("Expired" | "Gone"));
                let code = if is_expired { 410 } else { status.code.unwrap_or(500) };
                return Err(Failure::of_status(code, message, None));
            }
            _ => return Ok(()),
        };
        self.stream.borrow_mut().is_settled = false;
        match self.with_scene(|tracker, scene| tracker.take(change, object, scene)) {
            Ok(drafts) => self.hub.send(&drafts).await,
            Err(error) => {
                tracing::debug!("kubernetes: an object of a watch: {error}");
                self.lost("unreadable").await;
            }
        }
        let version = version_of(object);
        let mut stream = self.stream.borrow_mut();
        stream.is_settled = true;
        if !version.is_empty() && !is_older(&version, &stream.position) {
            stream.position = version;
        }
        Ok(())
    }

    /// An object came that could not be used.
    async fn lost(&self, cause: &'static str) {
        let (name, position) = {
            let stream = self.stream.borrow();
            (stream.name.clone(), stream.position.clone())
        };
        let what = if cause == "too_large" {
            format!(
                "an object of {name} is larger than {} bytes and is passed over",
                super::frames::OBJECT_BYTES_MAX
            )
        } else {
            format!("an object of {name} is not what the API says and is passed over")
        };
        self.hub.note(&what);
        self.hub.gap(&name, cause, &position, 1).await;
    }

    fn with_scene<R>(&self, look: impl FnOnce(&mut Tracker, &mut Scene<'_>) -> R) -> R {
        // The watch of the pods does not need itself.
        let pods = |pod: &str, container: &str| -> Option<String> {
            self.pods.try_borrow().ok()?.tracker.container_id(pod, container)
        };
        let mut stream = self.stream.borrow_mut();
        let mut memory = self.hub.memory.borrow_mut();
        let refused = memory.refused;
        let mut scene = Scene {
            node: &self.hub.node,
            everything: self.hub.everything.get(),
            now_unix_s: now_unix_s(),
            since_unix_s: self.hub.since_unix_s,
            memory: &mut memory,
            pods: &pods,
        };
        let result = look(&mut stream.tracker, &mut scene);
        if memory.refused > refused {
            self.hub.refused();
        }
        result
    }
}

fn now_unix_s() -> u64 {
    clock::unix_ns() / 1_000_000_000
}

fn is_older(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version < than,
        _ => false,
    }
}

fn version_of(object: &[u8]) -> String {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Versioned {
        metadata: Meta,
    }
    let versioned: Versioned = serde_json::from_slice(object).unwrap_or_default();
    text(versioned.metadata.resource_version.as_ref()).to_owned()
}

/// The type and the object of a line, as API servers write it: `{"type":"ADDED","object":{...}}`. An error may come
/// without that frame.
fn split(line: &[u8]) -> Option<(&str, &[u8])> {
    let line = line.trim_ascii();
    let rest = line.strip_prefix(br#"{"type":""#);
    let Some(rest) = rest else {
        let status: Status = serde_json::from_slice(line).ok()?;
        return status.code.map(|_| ("ERROR", line));
    };
    let end = memchr::memchr(b'"', rest)?;
    let (kind, rest) = rest.split_at(end);
    let object = rest.strip_prefix(br#"","object":"#)?.strip_suffix(b"}")?;
    Some((str::from_utf8(kind).ok()?, object))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: lines as API servers write them, a bare error, and what is neither.
    /// Guarantees: the object is the exact part of the line; what is not understood is said.
    #[test]
    fn lines_are_split() {
        let line = br#"{"type":"ADDED","object":{"a":{"b":"}"}}}"#;
        assert_eq!(split(line), Some(("ADDED", &br#"{"a":{"b":"}"}}"#[..])));
        let bare = br#"{"kind":"Status","code":410}"#;
        assert_eq!(split(bare), Some(("ERROR", &bare[..])));
        for odd in [&b"{}"[..], b"<html>", br#"{"type":"ADDED"}"#, b"\xff"] {
            assert_eq!(split(odd), None);
        }
        assert_eq!(version_of(br#"{"metadata":{"resourceVersion":"17"}}"#), "17");
        assert!(is_older("9", "10") && !is_older("b", "a"));
    }
}
