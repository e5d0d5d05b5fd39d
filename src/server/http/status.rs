//! The server's state as JSON and as metrics.
//!
//! Invariants:
//! - Both show the same numbers, taken from the places that count them.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::event::Source;
use crate::proto::{LedgerReport, LedgerRow};
use crate::server::agents::AgentReport;
use crate::server::book::{Entry, Id};
use crate::server::counters::Counter;
use crate::server::ingest::Ingest;
use crate::server::query::time;
use crate::server::store::catalogue::CatalogueReport;

/// A time as JSON; null for none.
fn moment(unix_ns: u64) -> Value {
    if unix_ns == 0 { Value::Null } else { time::format(unix_ns).into() }
}

fn by_source(numbers: &[u64; Source::ALL.len()]) -> BTreeMap<&'static str, u64> {
    Source::ALL.iter().zip(numbers).map(|(source, &number)| (source.name(), number)).collect()
}

/// `GET /api/v1/status`.
pub(super) fn status(ingest: &Ingest, uptime_s: f64) -> Value {
    let counters: BTreeMap<&str, u64> =
        Counter::ALL.iter().map(|&counter| (counter.name(), ingest.counters().get(counter))).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": uptime_s,
        "streams_open": ingest.streams_open(),
        "counters": counters,
        "store": store(ingest),
        "agents": agents(ingest),
    })
}

fn store(ingest: &Ingest) -> Value {
    let store = ingest.store();
    let report = store.catalogue().map(|catalogue| catalogue.report()).unwrap_or_default();
    json!({
        "kind": if store.catalogue().is_some() { "segments" } else { "null" },
        "bytes": report.bytes,
        "segments": report.segments,
        "batches": report.batches,
        "events": report.events,
        "oldest_time": moment(report.oldest_unix_ns),
        "corrupt_spots": report.corrupt,
        "deleted_segments": report.deleted_segments,
        "deleted_events": report.deleted_events,
        "truncated_bytes": report.truncated_bytes,
        "syncs": report.syncs,
        "stalls": report.stalls,
        "stalled_reason": *store.stalled().borrow(),
        "queued_bytes": store.queued_bytes(),
    })
}

/// What is stored of every agent, and what is known of those that are or were connected.
fn agents(ingest: &Ingest) -> Vec<Value> {
    let entries = ingest.store().book().agents().clone();
    let reports = ingest.agents().reports();
    let mut ids: Vec<Id> = entries.keys().chain(reports.keys()).copied().collect();
    ids.sort_unstable();
    ids.dedup();
    let none = Entry::default();
    ids.into_iter().map(|id| agent(id, entries.get(&id).unwrap_or(&none), reports.get(&id))).collect()
}

fn agent(id: Id, entry: &Entry, report: Option<&AgentReport>) -> Value {
    let sender = report.map(|report| &report.sender);
    let producer = |(&(source, producer), tally): (&(u8, u16), &crate::server::book::Tally)| {
        json!({
            "source": Source::from_number(source).map(Source::name),
            "producer": producer,
            "first": tally.first,
            "last": tally.last,
            "events": tally.events,
            "lost": tally.lost(),
        })
    };
    json!({
        "agent": id.to_string(),
        "host": sender.map_or(&*entry.host, |sender| &*sender.host),
        "version": sender.map_or(&*entry.version, |sender| &*sender.version),
        "boot_id": sender.map_or(entry.boot, |sender| sender.boot).to_string(),
        "epoch": sender.map_or(entry.epoch, |sender| sender.epoch),
        "connected": report.is_some_and(|report| report.connected),
        "acked_sequence": report.map_or(entry.sequence, |report| report.stored),
        "accepted_sequence": report.map_or(entry.sequence, |report| report.accepted),
        "batches": entry.batches,
        "events": entry.events,
        "bytes": entry.bytes,
        "newest_time": moment(entry.newest_unix_ns),
        "lost": by_source(&entry.lost()),
        "untracked_events": entry.untracked,
        "producers": entry.tallies.iter().map(producer).collect::<Vec<_>>(),
        "ledger": report.and_then(|report| report.ledger.as_ref()).map(ledger),
    })
}

fn ledger(report: &LedgerReport) -> Value {
    json!({ "boot_ns": report.time_ns, "rows": report.rows.iter().map(ledger_row).collect::<Vec<_>>() })
}

fn ledger_row(row: &LedgerRow) -> Value {
    let source = u8::try_from(row.source).ok().and_then(Source::from_number);
    json!({
        "source": source.map(Source::name),
        "produced": row.produced,
        "ring_lost": row.ring_lost,
        "drained": row.drained,
        "shed": row.shed,
        "enriched": row.enriched,
        "acked": row.acked,
        "spooled": row.spooled,
        "in_flight": row.in_flight,
        "dropped": row.dropped,
    })
}

/// `GET /api/v1/ledger`: the newest ledger of each agent that sent one.
pub(super) fn ledgers(ingest: &Ingest) -> Value {
    let reports = ingest.agents().reports();
    let rows = reports.iter().filter_map(|(id, report)| {
        let sent = report.ledger.as_ref()?;
        let mut value = ledger(sent);
        value["agent"] = id.to_string().into();
        value["host"] = (*report.sender.host).into();
        Some(value)
    });
    rows.collect::<Vec<_>>().into()
}

/// `GET /metrics`, in the text format of Prometheus.
pub(super) fn metrics(ingest: &Ingest) -> String {
    let mut text = String::new();
    for &counter in Counter::ALL {
        let name = format!("{}_total", counter.name());
        metric(&mut text, (&name, "counter", counter.help().trim()), ingest.counters().get(counter));
    }
    metric(&mut text, ("streams_open", "gauge", "Streams that are open."), ingest.streams_open() as u64);
    let stalled = u64::from(!ingest.store().stalled().borrow().is_empty());
    metric(&mut text, ("stalled", "gauge", "1 while the store cannot store."), stalled);
    let queued = ingest.store().queued_bytes() as u64;
    metric(&mut text, ("queued_bytes", "gauge", "Bytes of batches that wait for the disk."), queued);
    if let Some(catalogue) = ingest.store().catalogue() {
        store_metrics(&mut text, &catalogue.report());
    }
    let book = ingest.store().book().agents().clone();
    let mut lost = [0; Source::ALL.len()];
    for entry in book.values() {
        for (sum, one) in lost.iter_mut().zip(entry.lost()) {
            *sum += one;
        }
    }
    describe(&mut text, ("lost_events", "gauge", "Events that gaps in the sequence numbers prove lost."));
    for (source, lost) in by_source(&lost) {
        write_line(&mut text, &format!("tapio_server_lost_events{{source=\"{source}\"}}"), lost);
    }
    text
}

fn store_metrics(text: &mut String, report: &CatalogueReport) {
    metric(text, ("store_bytes", "gauge", "Bytes of the segments."), report.bytes);
    metric(text, ("store_segments", "gauge", "Segments."), report.segments);
    metric(text, ("store_events", "gauge", "Events in the segments."), report.events);
    metric(text, ("store_corrupt_spots", "gauge", "Damaged spots in the segments."), report.corrupt);
    let deleted = "Events deleted with the oldest segments, for room.";
    metric(text, ("store_deleted_events_total", "counter", deleted), report.deleted_events);
    metric(text, ("store_syncs_total", "counter", "Syncs to the disk."), report.syncs);
    metric(text, ("store_stalls_total", "counter", "Times that storing stopped."), report.stalls);
}

fn describe(text: &mut String, (name, kind, help): (&str, &str, &str)) {
    // Writing to a string does not fail.
    let _ok = writeln!(text, "# HELP tapio_server_{name} {help}\n# TYPE tapio_server_{name} {kind}");
}

fn write_line(text: &mut String, name: &str, value: u64) {
    // Writing to a string does not fail.
    let _ok = writeln!(text, "{name} {value}");
}

fn metric(text: &mut String, described: (&str, &str, &str), value: u64) {
    describe(text, described);
    write_line(text, &format!("tapio_server_{}", described.0), value);
}
