//! `status`: asks the running agent and prints what it says, for people or for machines.

use std::path::Path;
use std::time::Duration;

use super::client::{self, ClientError};
use super::table::columns;
use super::{Request, Snapshot, print};
use crate::health::{ProbeState, State};
use crate::ledger::LedgerRow;

/// Asks the agent and prints its answer.
///
/// # Errors
/// [`ClientError`] when there is none, or when it cannot be printed.
pub fn run(socket: &Path, json: bool) -> Result<(), ClientError> {
    let line = client::ask(socket, &Request::Status)?;
    let failed = |source: std::io::Error| ClientError::Io { path: socket.to_owned(), source };
    if json {
        // As the agent said it: what this build does not know is for somebody who does.
        return print(&format!("{line}\n")).map_err(failed);
    }
    let snapshot: Snapshot = serde_json::from_str(&line)
        .map_err(|error| ClientError::Answer { path: socket.to_owned(), answer: error.to_string() })?;
    print(&text(&snapshot)).map_err(failed)
}

/// A snapshot as a person reads it.
#[must_use]
pub fn text(snapshot: &Snapshot) -> String {
    let sections =
        [head(snapshot), collectors(snapshot), ledger(snapshot), egress(snapshot), inside(snapshot)];
    sections.into_iter().filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n")
}

fn cells<const N: usize>(row: [&str; N]) -> Vec<String> {
    row.into_iter().map(str::to_owned).collect()
}

fn head(snapshot: &Snapshot) -> String {
    let up = humantime::format_duration(Duration::from_secs(
        Duration::try_from_secs_f64(snapshot.uptime_s).map_or(0, |up| up.as_secs()),
    ));
    let ledger = if snapshot.ledger_closed { "closed" } else { "OPEN: a sum below does not agree" };
    format!(
        "tapio-collector {}, up {up}\n{} events read, {} lost, {} incidents open, ledger {ledger}\n",
        snapshot.version, snapshot.events_total, snapshot.events_lost, snapshot.incidents_open,
    )
}

const fn state_name(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Degraded => "degraded",
        State::Disabled => "disabled",
        State::Failed => "failed",
    }
}

const fn probe_state_name(state: ProbeState) -> &'static str {
    match state {
        ProbeState::Attached => "attached",
        ProbeState::Missing => "missing",
        ProbeState::Refused => "refused",
    }
}

fn collectors(snapshot: &Snapshot) -> String {
    let mut rows = vec![cells(["COLLECTOR", "STATE", "EVENTS", "WHY"])];
    for (name, collector) in &snapshot.collectors {
        let state = state_name(collector.health.state);
        rows.push(cells([name, state, &collector.events.to_string(), &collector.health.reason]));
        for (probe, health) in &collector.health.probes {
            rows.push(cells([&format!("  {probe}"), probe_state_name(health.state), "", &health.reason]));
        }
    }
    columns(&rows)
}

/// One column a source, so that the sums read from top to bottom.
fn ledger(snapshot: &Snapshot) -> String {
    let used = |row: &&LedgerRow| row.produced > 0 || row.drained > 0 || row.source == "ebpf";
    let sources: Vec<&LedgerRow> = snapshot.ledger.iter().filter(used).collect();
    if sources.is_empty() {
        return String::new();
    }
    let line = |name: &str, value: &dyn Fn(&LedgerRow) -> String| {
        std::iter::once(name.to_owned()).chain(sources.iter().map(|row| value(row))).collect::<Vec<_>>()
    };
    let mut rows = vec![
        line("LEDGER", &|row| row.source.clone()),
        line("produced", &|row| row.produced.to_string()),
        line("  lost in a ring", &|row| row.ring_lost.to_string()),
        line("  in a ring", &|row| row.queued.to_string()),
        line("drained", &|row| row.drained.to_string()),
    ];
    rows.extend(by_reason(&sources, "shed", |row| &row.shed));
    rows.extend([
        line("  on the way to a batch", &|row| row.batching.to_string()),
        line("enriched", &|row| row.enriched.to_string()),
    ]);
    rows.extend(by_reason(&sources, "dropped", |row| &row.dropped));
    rows.extend([
        line("  in flight", &|row| row.in_flight.to_string()),
        line("  spooled", &|row| row.spooled.to_string()),
        line("acked", &|row| row.acked.to_string()),
    ]);
    if sources.iter().any(|row| row.unaccounted() != 0) {
        rows.push(line("UNACCOUNTED FOR", &|row| row.unaccounted().to_string()));
    }
    columns(&rows)
}

type Reasons = std::collections::BTreeMap<String, u64>;

/// A line for each reason that any source has.
fn by_reason(sources: &[&LedgerRow], what: &str, of: impl Fn(&LedgerRow) -> &Reasons) -> Vec<Vec<String>> {
    let reasons: std::collections::BTreeSet<&String> =
        sources.iter().flat_map(|row| of(row).keys()).collect();
    let line = |reason: &String| {
        let counts = sources.iter().map(|row| of(row).get(reason).copied().unwrap_or(0).to_string());
        std::iter::once(format!("  {what}: {}", reason.replace('_', " "))).chain(counts).collect()
    };
    reasons.into_iter().map(line).collect()
}

fn egress(snapshot: &Snapshot) -> String {
    let egress = &snapshot.egress;
    let state = match (egress.connected, egress.stalled_reason.as_str(), egress.last_error.as_str()) {
        (true, "", _) => "connected".to_owned(),
        (true, reason, _) => format!("connected, but it stores nothing: {reason}"),
        (false, _, "") => "not connected yet".to_owned(),
        (false, _, error) => format!("not connected: {error}"),
    };
    let mut text = format!(
        "Server {}: {state}\n{} batches unacked, {} bytes; {} connections so far\n",
        egress.server, egress.unacked_batches, egress.unacked_bytes, egress.connections,
    );
    if snapshot.otlp.failed > 0 {
        let otlp = &snapshot.otlp;
        text.push_str(&format!(
            "OTLP: {} exports failed, {} arrived; {}\n",
            otlp.failed, otlp.exported, otlp.last_error
        ));
    }
    text
}

fn inside(snapshot: &Snapshot) -> String {
    let (latency, entities, rings) = (&snapshot.latency, &snapshot.entities, &snapshot.rings);
    let mut text = format!(
        "From event to batch: p50 {:.0} us, p99 {:.0} us ({} samples)\n\
         Fullest ring: {}.{} % since the last look, {}.{} % since the start\n\
         Entities: {} live, {} gone, {} evicted, {} questions without answer\n\
         Memory: {} KiB\n",
        latency.p50_us,
        latency.p99_us,
        latency.samples,
        rings.fill_permille / 10,
        rings.fill_permille % 10,
        rings.fill_permille_max / 10,
        rings.fill_permille_max % 10,
        entities.live,
        entities.gone,
        entities.evicted,
        entities.lookup_failures,
        snapshot.memory_bytes / 1024,
    );
    let counted = snapshot.kernel.iter().filter(|(_, count)| **count > 0);
    let counted: Vec<String> =
        counted.map(|(name, count)| format!("{} {count}", name.replace('_', " "))).collect();
    if !counted.is_empty() {
        text.push_str(&format!("Counted in the kernel, not sent: {}\n", counted.join(", ")));
    }
    if snapshot.errno_blind.total_ms > 0 {
        let blind = &snapshot.errno_blind;
        text.push_str(&format!(
            "Not looked for failed system calls: {:.0} % of the last minute, {} ms in all\n",
            blind.last_minute * 100.0,
            blind.total_ms
        ));
    }
    let recorder = &snapshot.recorder;
    if *recorder != super::snapshot::Recorder::default() {
        text.push_str(&format!(
            "Recorder: {} batches written, {} passed over, {} dropped; {} incidents cut out, {} not; {} disks failed\n",
            recorder.written,
            recorder.passed_over,
            recorder.dropped,
            recorder.cuts,
            recorder.cuts_refused,
            recorder.failed
        ));
    }
    if snapshot.workers.replaced > 0 {
        text.push_str(&format!(
            "Workers replaced: {}; last {}\n",
            snapshot.workers.replaced, snapshot.workers.last_panic
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::snapshot::Collector;
    use crate::health::{CollectorHealth, ProbeHealth};

    /// Scenario: an agent that lost events, whose server is away and whose sums do not agree.
    /// Guarantees: each of the three is in the text, with its number and its reason.
    #[test]
    fn what_is_wrong_is_in_the_text() {
        let mut health = CollectorHealth::new(State::Degraded, "not attached: net");
        let reason = "this kernel has no tracepoint x".to_owned();
        health.probes.insert("net".into(), ProbeHealth { state: ProbeState::Missing, reason });
        let row = LedgerRow {
            source: "ebpf".into(),
            produced: 100,
            ring_lost: 7,
            drained: 93,
            enriched: 93,
            shed: [("queue_full".to_owned(), 4)].into(),
            acked: 80,
            ..LedgerRow::default()
        };
        let mut snapshot = Snapshot { ledger: vec![row], events_lost: 11, ..Snapshot::default() };
        snapshot.collectors.insert("ebpf".into(), Collector { health, events: 93 });
        snapshot.egress.last_error = "connection refused".into();
        let text = text(&snapshot);
        for part in [
            "11 lost",
            "ledger OPEN",
            "ebpf       degraded      93  not attached: net",
            "  net      missing           this kernel has no tracepoint x",
            "  lost in a ring            7",
            "  shed: queue full          4",
            "UNACCOUNTED FOR            13",
            "not connected: connection refused",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }
}
