//! The collector against a manager that misbehaves on demand, over a real dbus-daemon.

mod agent;
mod fake;

use std::collections::{BTreeMap, HashMap};

use zbus::Variant;

use self::agent::{Agent, Seen};
use self::fake::{Bus, Fake, FakeUnit, Mood, Order, World};
use super::signal::UNIT_INTERFACE;
use crate::clock;
use crate::event::{Kind, fields};
use crate::health::State;
use crate::ledger::LedgerRow;

/// A text property.
fn text(value: &str) -> Variant<'static> {
    Variant::from(value.to_owned())
}

fn monotonic_us() -> u64 {
    let asleep_us = clock::boot_ns_of(0) / 1000;
    clock::boot_ns() / 1000 - asleep_us
}

/// Puts a unit into a state, as of now.
fn set(unit: &mut FakeUnit, active: &str, sub: &str, result: &str) {
    // Two changes never have the same time.
    let now = monotonic_us();
    let last = match unit.general.get("StateChangeTimestampMonotonic") {
        Some(Variant::U64(last)) => *last,
        _ => 0,
    };
    let now = now.max(last + 1);
    unit.general.insert("ActiveState", text(active));
    unit.general.insert("SubState", text(sub));
    unit.general.insert("LoadState", text("loaded"));
    unit.general.insert("StateChangeTimestampMonotonic", Variant::from(now));
    unit.special.insert("Result", text(result));
}

fn invocation(unit: &mut FakeUnit, byte: u8) {
    unit.general.insert("InvocationID", Variant::from(vec![byte; 16]));
}

fn service(active: &str, sub: &str) -> FakeUnit {
    let mut unit = FakeUnit::default();
    set(&mut unit, active, sub, "success");
    invocation(&mut unit, 1);
    for (name, value) in [("NRestarts", 0_u32), ("MainPID", 42)] {
        unit.special.insert(name, Variant::from(value));
    }
    for name in ["ExecMainCode", "ExecMainStatus"] {
        unit.special.insert(name, Variant::from(0_i32));
    }
    unit
}

/// Services `0.service`, `1.service`, ... that run.
fn services(count: usize) -> World {
    let unit = |number| (format!("{number}.service"), service("active", "running"));
    World { units: (0..count).map(unit).collect(), ..World::default() }
}

/// A folder, a bus in it and a manager on that; or the reason why not.
fn manager(test: &str, world: World) -> Option<(tempfile::TempDir, Bus, Fake)> {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let Some(bus) = Bus::start(folder.path()) else {
        use std::io::Write;
        let line = format!("\nSKIPPED {test}: there is no dbus-daemon\n");
        std::io::stderr().lock().write_all(line.as_bytes()).expect("the standard error is open");
        return None;
    };
    let fake = Fake::on_bus(&bus.address(), world);
    Some((folder, bus, fake))
}

/// Events that were lost before they had an owner.
fn lost(row: &LedgerRow) -> u64 {
    row.ring_lost + row.shed.values().sum::<u64>()
}

/// How often each change of a unit was said: by unit, time, states and result.
fn said(agent: &Agent) -> BTreeMap<(String, u64), usize> {
    let mut said = BTreeMap::new();
    for seen in agent.of(Kind::UnitState) {
        *said.entry((seen.state(), seen.slot("changed_us"))).or_default() += 1;
    }
    said
}

/// Scenario: two units are found; one fails, is announced twice, restarts itself and hits its start limit.
/// Guarantees: every change is said once, with result, exit code, process, restarts and invocation; the start limit
/// does not hide the result before it.
#[test]
fn a_failure_is_told_once_and_whole() {
    let Some((_folder, bus, fake)) = manager("a_failure_is_told_once_and_whole", services(2)) else { return };
    let agent = Agent::quick(&bus.address());
    agent.until("the list", |agent| agent.manager("running") == 1);
    assert_eq!(agent.states("0.service"), ["0.service >active/running success"]);
    assert_eq!(agent.health().map(|health| health.state), Some(State::Running));
    fake.change("1.service", |unit| {
        set(unit, "failed", "failed", "exit-code");
        unit.special.insert("ExecMainCode", Variant::from(1_i32));
        unit.special.insert("ExecMainStatus", Variant::from(-7_i32));
    });
    fake.announce("1.service");
    fake.change("1.service", |unit| {
        set(unit, "activating", "auto-restart", "exit-code");
        unit.special.insert("NRestarts", Variant::from(3_u32));
        invocation(unit, 2);
    });
    fake.change("1.service", |unit| set(unit, "failed", "failed", "start-limit-hit"));
    agent.until("the last change", |agent| agent.states("1.service").len() == 4);
    assert_eq!(
        agent.states("1.service")[1..],
        [
            "1.service active>failed/failed exit-code",
            "1.service failed>activating/auto-restart exit-code",
            "1.service activating>failed/failed start-limit-hit",
        ]
    );
    let states = agent.of(Kind::UnitState);
    let [first, second, third] = &states[2..] else { panic!("{states:?}") };
    assert_eq!((first.slot("exec_code"), first.slot("exec_status").cast_signed()), (1, -7));
    assert_eq!((first.slot("main_pid"), first.slot("snapshot"), second.slot("restarts")), (42, 0, 3));
    assert_eq!(first.id(), u128::from_be_bytes([1; 16]));
    assert_eq!(third.id(), u128::from_be_bytes([2; 16]));
    assert_eq!(first.owner.trace_id, [1; 16]);
    assert_eq!(third.owner.trace_id, [2; 16]);
    assert_eq!(third.field(fields::RESULT_BEFORE), "exit-code");
    assert!(said(&agent).values().all(|times| *times == 1));
    assert_eq!(lost(&agent.stop()), 0);
}

/// Scenario: a failed unit is started: the manager announces the new invocation and the result that is empty again
/// before it announces the new state.
/// Guarantees: nothing is said twice, and no failure without a result.
#[test]
fn a_start_after_a_failure_is_no_failure() {
    let test = "a_start_after_a_failure_is_no_failure";
    let Some((_folder, bus, fake)) = manager(test, services(1)) else { return };
    let agent = Agent::quick(&bus.address());
    agent.until("the list", |agent| agent.manager("running") == 1);
    fake.change("0.service", |unit| set(unit, "failed", "failed", "exit-code"));
    fake.change("0.service", |unit| {
        unit.special.insert("Result", text("success"));
        invocation(unit, 2);
    });
    fake.change("0.service", |unit| set(unit, "active", "running", "success"));
    agent.until("the start", |agent| agent.states("0.service").len() >= 3);
    assert_eq!(
        agent.states("0.service")[1..],
        ["0.service active>failed/failed exit-code", "0.service failed>active/running success"]
    );
    let ids: Vec<u128> = agent.of(Kind::UnitState).iter().map(|seen| seen.id() & 0xff).collect();
    assert_eq!(ids, [1, 1, 2]);
    agent.stop();
}

/// Scenario: 5,000 transitions of 500 units in one burst, some announced twice, with a job for each.
/// Guarantees: each is said exactly once, with its result, exit code and invocation, in order; nothing is lost.
#[test]
fn a_burst_is_told_whole() {
    const UNITS: usize = 500;
    const ROUNDS: usize = 10;
    let Some((_folder, bus, fake)) = manager("a_burst_is_told_whole", services(UNITS)) else { return };
    let agent = Agent::quick(&bus.address());
    agent.until("the list", |agent| agent.manager("running") == 1);
    let mut expected = Vec::new();
    for round in 0..ROUNDS {
        for number in 0..UNITS {
            let unit = format!("{number}.service");
            let (active, sub, result) = if round % 2 == 0 {
                ("failed", "failed", "exit-code")
            } else {
                ("active", "running", "success")
            };
            fake.change(&unit, |unit| {
                set(unit, active, sub, result);
                invocation(unit, u8::try_from(round / 2 + 1).expect("few"));
                let status = i32::try_from(round).expect("few");
                unit.special.insert("ExecMainStatus", Variant::from(status));
            });
            if number % 7 == 0 {
                fake.announce(&unit);
            }
            expected.push(format!("{unit} {active} {result} {round} {}", round / 2 + 1));
        }
    }
    let changes = |agent: &Agent| -> Vec<Seen> {
        agent.of(Kind::UnitState).into_iter().filter(|seen| seen.slot("snapshot") == 0).collect()
    };
    agent.until("the last change", |agent| changes(agent).len() >= UNITS * ROUNDS);
    let changes = changes(&agent);
    let told: Vec<String> = changes
        .iter()
        .map(|seen| {
            let [unit, active, result] =
                [fields::UNIT, fields::ACTIVE_STATE, fields::RESULT].map(|name| seen.field(name));
            format!("{unit} {active} {result} {} {}", seen.slot("exec_status"), seen.id() & 0xff)
        })
        .collect();
    assert_eq!(told, expected);
    assert_eq!(lost(&agent.stop()), 0);
}

/// Scenario: the same with a ring that is too small, and a manager that merges nothing.
/// Guarantees: what did not fit is in the ledger and said as a loss; after the comparison every unit's last state is
/// the manager's.
#[test]
fn an_overflow_is_counted_and_made_good() {
    const UNITS: usize = 200;
    let test = "an_overflow_is_counted_and_made_good";
    let Some((_folder, bus, fake)) = manager(test, services(UNITS)) else { return };
    let agent = Agent::narrow(&bus.address());
    agent.until("the list", |agent| agent.manager("running") == 1);
    for round in 0..50 {
        for number in 0..UNITS {
            let sub = if round % 2 == 0 { "exited" } else { "running" };
            fake.change(&format!("{number}.service"), |unit| set(unit, "active", sub, "success"));
        }
    }
    for number in 0..UNITS {
        fake.change(&format!("{number}.service"), |unit| set(unit, "failed", "failed", "signal"));
    }
    agent.until("a loss and its end", |agent| {
        let failed = |number| {
            agent.states(&format!("{number}.service")).last().is_some_and(|last| last.contains("failed"))
        };
        agent.manager("lost") > 0 && agent.manager("resynced") > 0 && (0..UNITS).all(failed)
    });
    assert!(said(&agent).values().all(|times| *times == 1));
    let row = agent.stop();
    assert!(row.ring_lost > 0, "{row:?}");
}

/// Scenario: the bus dies; while it is away a unit fails, another starts again; the bus and the manager come back.
/// Guarantees: the loss and its end are said, and what changed meanwhile; what did not change is not said again.
#[test]
fn a_bus_that_restarts_is_found_again() {
    let test = "a_bus_that_restarts_is_found_again";
    let Some((folder, bus, fake)) = manager(test, services(3)) else { return };
    let agent = Agent::quick(&bus.address());
    agent.until("the list", |agent| agent.manager("running") == 1);
    drop(bus);
    agent.until("the loss", |agent| agent.manager("lost") == 1);
    agent.until("the reason", |agent| agent.health().is_some_and(|health| health.state == State::Degraded));
    let mut units = std::mem::take(&mut fake.world().units);
    drop(fake);
    set(units.get_mut("0.service").expect("a unit"), "failed", "failed", "oom-kill");
    invocation(units.get_mut("1.service").expect("a unit"), 9);
    let now = monotonic_us();
    let started = units.get_mut("1.service").expect("a unit");
    started.general.insert("InactiveEnterTimestampMonotonic", Variant::from(now));
    started.general.insert("InactiveExitTimestampMonotonic", Variant::from(now + 1));
    started.general.insert("ActiveEnterTimestampMonotonic", Variant::from(now + 2));
    started.general.insert("StateChangeTimestampMonotonic", Variant::from(now + 2));
    units.remove("2.service");
    units.insert("new.service".into(), service("active", "running"));
    let bus = Bus::start(folder.path()).expect("it was there before");
    let _fake = Fake::on_bus(&bus.address(), World { units, ..World::default() });
    agent.until("the end of the loss", |agent| agent.manager("resynced") == 1);
    assert_eq!(
        agent.states("0.service"),
        ["0.service >active/running success", "0.service active>failed/failed oom-kill"]
    );
    assert_eq!(
        agent.states("1.service")[1..],
        [
            "1.service active>inactive/ ",
            "1.service inactive>activating/ ",
            "1.service activating>active/running success"
        ]
    );
    assert_eq!(agent.states("new.service"), ["new.service >active/running success"]);
    assert_eq!(agent.of(Kind::UnitRemoved).len(), 1);
    assert_eq!(agent.of(Kind::UnitRemoved)[0].field(fields::UNIT), "2.service");
    assert_eq!(agent.health().map(|health| health.state), Some(State::Running));
    agent.stop();
}

/// Scenario: a reload, which takes every unit down and up again, drops a relation and a unit, and changes a limit.
/// Guarantees: no state is said, since none changed; what did change is, and nothing else.
#[test]
fn a_reload_changes_only_what_it_changes() {
    let mut world = services(3);
    let unit = world.units.get_mut("0.service").expect("a unit");
    unit.general.insert("Requires", Variant::from(vec!["a.service", "b.service"]));
    unit.general.insert("After", Variant::from(vec!["a.service"]));
    unit.special.insert("MemoryMax", Variant::from(5_u64));
    let Some((_folder, bus, fake)) = manager("a_reload_changes_only_what_it_changes", world) else { return };
    let agent = Agent::quick(&bus.address());
    agent.until("the list", |agent| agent.manager("running") == 1);
    assert_eq!((agent.of(Kind::UnitRelations).len(), agent.of(Kind::UnitLimits).len()), (2, 3));
    let before = agent.of(Kind::UnitState).len();

    fake.order(Order::Reloading(true));
    for number in 0..3 {
        let unit = format!("{number}.service");
        fake.order(Order::UnitRemoved(unit.clone()));
        fake.order(Order::UnitNew(unit.clone()));
        let zero = HashMap::from([
            ("ActiveState", text("inactive")),
            ("SubState", text("dead")),
            ("StateChangeTimestampMonotonic", Variant::from(0_u64)),
        ]);
        fake.order(Order::Properties(unit, UNIT_INTERFACE, zero));
    }
    let mut world = fake.world();
    let unit = world.units.get_mut("0.service").expect("a unit");
    unit.general.insert("Requires", Variant::from(vec!["b.service"]));
    unit.general.insert("After", Variant::from(Vec::<&str>::new()));
    unit.special.insert("MemoryMax", Variant::from(6_u64));
    world.units.remove("2.service");
    drop(world);
    fake.order(Order::Reloading(false));
    agent.until("the end of the reload", |agent| agent.manager("resynced") == 1);
    assert_eq!((agent.manager("reloading"), agent.manager("reloaded")), (1, 1));
    assert_eq!(agent.of(Kind::UnitState).len(), before);
    let limits = agent.of(Kind::UnitLimits);
    assert_eq!((limits.len(), limits[3].slot("memory_max_bytes")), (4, 6));
    let relations: Vec<[String; 2]> = agent
        .of(Kind::UnitRelations)
        .iter()
        .skip(2)
        .map(|seen| [seen.field(fields::RELATION), seen.field(fields::UNITS)])
        .collect();
    assert_eq!(relations, [["Requires", "b.service"], ["After", ""]]);
    assert_eq!(agent.of(Kind::UnitRemoved).len(), 1);
    assert_eq!(lost(&agent.stop()), 0);
}

/// Scenario: a unit with 10,000 relations of one kind, and a name with every byte that paths escape.
/// Guarantees: the list comes in numbered parts that together are the list.
#[test]
fn long_lists_come_in_parts() {
    let names: Vec<String> = (0..10_000).map(|number| format!("{number}\\x2d@a:b.service")).collect();
    let mut world = services(1);
    let unit = world.units.get_mut("0.service").expect("a unit");
    unit.general.insert("After", Variant::from(names.clone()));
    let Some((_folder, bus, _fake)) = manager("long_lists_come_in_parts", world) else { return };
    let agent = Agent::quick(&bus.address());
    agent.until("the list", |agent| agent.manager("running") == 1);
    agent.until("the last part", |agent| {
        let parts = agent.of(Kind::UnitRelations);
        parts.first().is_some_and(|first| parts.len() as u64 == first.slot("parts"))
    });
    let parts = agent.of(Kind::UnitRelations);
    assert!(parts.len() > 10);
    let numbers: Vec<u64> = parts.iter().map(|part| part.slot("part")).collect();
    assert_eq!(numbers, (0..parts.len() as u64).collect::<Vec<_>>());
    let read: Vec<String> = parts
        .iter()
        .flat_map(|part| part.field(fields::UNITS).split(' ').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert_eq!(read, names);
    agent.stop();
}

/// Scenario: a manager that accepts questions and answers none, then one that answers nonsense, then a good one.
/// Guarantees: the collector says so and goes on trying, and in the end everything is there.
#[test]
fn a_manager_that_never_answers_is_given_up_and_tried_again() {
    let test = "a_manager_that_never_answers_is_given_up_and_tried_again";
    let world = World { mood: Mood::Mute, ..services(2) };
    let Some((_folder, bus, fake)) = manager(test, world) else { return };
    let agent = Agent::quick(&bus.address());
    agent.until("the reason", |agent| {
        agent.health().is_some_and(|health| health.reason.contains("Subscribe"))
    });
    fake.world().mood = Mood::Confused;
    agent.until("the other reason", |agent| {
        agent.health().is_some_and(|health| health.reason.contains("ListUnits"))
    });
    fake.world().mood = Mood::Good;
    agent.until("the list", |agent| agent.manager("running") == 1);
    assert_eq!(agent.health().map(|health| health.state), Some(State::Running));
    agent.stop();
}

/// Scenario: announcements with properties of other types and with bodies that are none, between good ones.
/// Guarantees: each is one counted message; the good ones are told.
#[test]
fn nonsense_is_counted() {
    let Some((_folder, bus, fake)) = manager("nonsense_is_counted", services(1)) else { return };
    let agent = Agent::quick(&bus.address());
    agent.until("the list", |agent| agent.manager("running") == 1);
    for member in ["UnitNew", "UnitRemoved", "JobNew", "JobRemoved", "Reloading", "Unheard"] {
        fake.order(Order::Nonsense(member));
    }
    let names = ["ActiveState", "SubState", "InvocationID", "StateChangeTimestampMonotonic"];
    for name in names {
        let wrong = HashMap::from([(name, Variant::from(vec![1.5_f64]))]);
        fake.order(Order::Properties("0.service".into(), UNIT_INTERFACE, wrong));
    }
    fake.order(Order::Properties(
        "0.service".into(),
        "org.freedesktop.systemd1.Service",
        HashMap::from([("Result", Variant::from(7_u32))]),
    ));
    fake.change("0.service", |unit| set(unit, "failed", "failed", "timeout"));
    agent.until("the good one", |agent| agent.states("0.service").len() == 2);
    // The change may be found by a question before what was announced earlier is read.
    agent.until("the nonsense", |agent| agent.malformed() >= 10);
    let row = agent.stop();
    assert_eq!((row.ring_lost, row.shed.get("malformed")), (0, Some(&10)));
}

/// Scenario: jobs: one whose type can be asked for, one that is over before, one found in the list.
/// Guarantees: each start and end is told once, with the type where it is known and the result.
#[test]
fn jobs_are_told_with_their_types() {
    let mut world = services(2);
    world.jobs.insert(5, ("1.service".into(), "restart"));
    let Some((_folder, bus, fake)) = manager("jobs_are_told_with_their_types", world) else { return };
    let agent = Agent::quick(&bus.address());
    agent.until("the list", |agent| agent.manager("running") == 1);
    fake.world().jobs.insert(7, ("0.service".into(), "stop"));
    fake.order(Order::JobNew(7, "0.service".into()));
    agent.until("the type", |agent| agent.of(Kind::UnitJob).len() == 2);
    fake.order(Order::JobRemoved(7, "0.service".into(), "done"));
    fake.order(Order::JobNew(8, "0.service".into()));
    fake.order(Order::JobRemoved(8, "0.service".into(), "dependency"));
    agent.until("the end", |agent| agent.of(Kind::UnitJob).len() == 5);
    let job = |seen: &Seen| {
        let [kind, result] = [fields::JOB_TYPE, fields::JOB_RESULT].map(|name| seen.field(name));
        format!("{} {} {kind} {result}", seen.slot("job_id"), seen.slot("finished"))
    };
    let jobs: Vec<String> = agent.of(Kind::UnitJob).iter().map(job).collect();
    assert_eq!(jobs, ["5 0 restart ", "7 0 stop ", "7 1 stop done", "8 0  ", "8 1  dependency"]);
    agent.stop();
}

/// Scenario: units come and go, each because somebody asks for it; one comes and stays; one comes and fails.
/// Guarantees: those that went are not asked for again and again; the others are read and told.
#[test]
fn new_units_are_read_once_they_stay() {
    let Some((_folder, bus, fake)) = manager("new_units_are_read_once_they_stay", services(1)) else {
        return;
    };
    let agent = Agent::quick(&bus.address());
    agent.until("the list", |agent| agent.manager("running") == 1);
    for _ in 0..200 {
        fake.order(Order::UnitNew("gone.service".into()));
        fake.order(Order::UnitRemoved("gone.service".into()));
    }
    let mut stays = service("inactive", "dead");
    stays.general.insert("OnFailure", Variant::from(vec!["alarm.service"]));
    fake.world().units.insert("stays.service".into(), stays);
    fake.order(Order::UnitNew("stays.service".into()));
    fake.world().units.insert("run-1.scope".into(), service("active", "running"));
    fake.order(Order::UnitNew("run-1.scope".into()));
    fake.change("run-1.scope", |unit| set(unit, "failed", "failed", "oom-kill"));
    agent.until("the unit that stays", |agent| agent.states("stays.service").len() == 1);
    agent.until("its relation", |agent| !agent.of(Kind::UnitRelations).is_empty());
    agent.until("the scope", |agent| !agent.states("run-1.scope").is_empty());
    assert_eq!(agent.states("run-1.scope"), ["run-1.scope >failed/failed oom-kill"]);
    assert_eq!(fake.world().asked.get("gone.service"), None);
    assert_eq!(fake.world().asked.get("stays.service"), Some(&2));
    agent.stop();
}

/// Scenario: no bus, but the manager's own socket.
/// Guarantees: the same as over a bus.
#[test]
fn the_managers_own_socket_will_do() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    std::fs::create_dir(folder.path().join("systemd")).expect("a folder");
    let socket = folder.path().join("systemd/private");
    let fake = Fake::on_socket(&socket, services(20));
    let agent = Agent::quick(&format!("unix:path={}", socket.display()));
    agent.until("the list", |agent| agent.manager("running") == 1);
    fake.change("3.service", |unit| set(unit, "failed", "failed", "watchdog"));
    agent.until("the change", |agent| agent.states("3.service").len() == 2);
    assert_eq!(agent.states("3.service")[1], "3.service active>failed/failed watchdog");
    assert_eq!(agent.of(Kind::UnitState).len(), 21);
    agent.stop();
}

/// Scenario: a bus without a manager, which comes later; then it leaves and another takes its place.
/// Guarantees: off with a reason, then running; the exchange is a loss that ends.
#[test]
fn a_manager_may_come_later() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let Some(bus) = Bus::start(folder.path()) else { return };
    let agent = Agent::quick(&bus.address());
    agent.until("the reason", |agent| {
        agent.health().is_some_and(|health| {
            health.state == State::Disabled && health.reason.contains("no manager has the name")
        })
    });
    let fake = Fake::on_bus(&bus.address(), services(1));
    agent.until("the list", |agent| agent.manager("running") == 1);
    drop(fake);
    agent.until("the loss", |agent| agent.manager("lost") == 1);
    let _fake = Fake::on_bus(&bus.address(), services(1));
    agent.until("the end of the loss", |agent| agent.manager("resynced") == 1);
    agent.stop();
}
