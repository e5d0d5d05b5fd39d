//! Ordinary life: nothing of it is a failure.

use tapio::explain::Incident;

use super::expected::EVERYTHING;
use super::host::Rig;
use super::inside::Agent;
use super::measured;
use super::replay::is_of_others;

/// An incident in a line.
fn line(incident: &Incident) -> String {
    let (root, state) = (&incident.root_cause, incident.state.name());
    format!("{} {} ({state}): {}\n", incident.started_at, incident.title, root.summary)
}

/// Scenario: packages that come and go, builds, jobs of timers, restarts and reloads on request, loud logs, load; for
/// `TAPIO_SOAK_SECONDS`, or long enough for each of it twice.
/// Guarantees: nothing is an incident, and nothing was lost; every revision there was is printed.
#[test]
fn live_ordinary_life_is_no_incident() {
    const NAME: &str = "live_ordinary_life_is_no_incident";
    let Some(rig) = Rig::get(NAME) else { return };
    let seconds: u32 = std::env::var("TAPIO_SOAK_SECONDS").map_or(50, |value| {
        value.parse().unwrap_or_else(|_| panic!("TAPIO_SOAK_SECONDS={value}: not a number of seconds"))
    });
    rig.provoke(NAME, "reset");
    let folder = tempfile::tempdir().unwrap();
    let output = "/var/lib/tapio-soak";
    rig.text(&["rm", "-f", output]);
    let to_file = format!("--output={output}");
    let flags = [&EVERYTHING[..], &[&to_file]].concat();
    let agent = Agent::start(rig, folder.path(), &["ebpf", "journald", "systemd", "sampler"], &flags);
    let Some(said) = rig.provoke_within(seconds + 240, NAME, &format!("ordinary {seconds}")) else { return };
    std::thread::sleep(std::time::Duration::from_secs(5));
    let row = agent.stop();
    let revisions = std::fs::read_to_string(rig.path(output)).unwrap();
    let incidents: Vec<Incident> =
        revisions.lines().map(|line| serde_json::from_str(line).expect("an incident")).collect();
    let rounds = said.lines("did").next().unwrap().field("rounds").to_owned();
    let (others, incidents): (Vec<_>, Vec<_>) = incidents.into_iter().partition(is_of_others);
    let [list, of_others] = [&incidents, &others].map(|list| list.iter().map(line).collect::<String>());
    let counts = format!("{} events, {} revisions of incidents", row["events"], incidents.len());
    let beside = format!("{} of others on the same kernel", others.len());
    measured(NAME, &format!("{seconds} s, {rounds} rounds, {counts}\n{list}{beside}\n{of_others}"));
    assert!(incidents.is_empty(), "{list}");
}
