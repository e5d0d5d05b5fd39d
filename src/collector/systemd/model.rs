//! What is known of the manager's units and jobs, and what is new in what it says.
//!
//! Pure: signals and readings go in, outputs come out.
//!
//! Invariants:
//! - Units and jobs are bounded by [`UNITS_MAX`] and [`JOBS_MAX`]; what is beyond is counted, or not tracked.

use std::collections::{HashMap, HashSet, VecDeque};

use super::known::Known;
use super::output::{Job, ManagerState, Output};
use super::unit::{Found, RunChange, StateChange};

/// Units that are remembered at most.
pub(super) const UNITS_MAX: usize = 65_536;

/// Jobs that are remembered at most.
pub(super) const JOBS_MAX: usize = 16_384;

#[derive(Debug)]
struct KnownJob {
    job: Job,
    /// Said already.
    is_said: bool,
    /// Its unit was up when it was queued.
    was_alive: bool,
    listing: u32,
}

/// Units that went soon after they were read, at most: with more, all are forgotten, and what was read of one that is
/// back at once may be said twice.
const AHEAD_MAX: usize = 4096;

/// A unit in the manager's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) unit: Box<str>,
    /// 0 for none.
    pub(super) job: u32,
    pub(super) job_kind: Box<str>,
}

/// The end of a job.
#[derive(Debug, Clone, Copy)]
pub(super) struct JobEnd<'signal> {
    pub(super) id: u32,
    pub(super) unit: &'signal str,
    /// Empty where nobody knows.
    pub(super) result: &'signal str,
    pub(super) at_ns: u64,
}

/// Everything that is known.
#[derive(Debug, Default)]
pub(super) struct Model {
    units: HashMap<Box<str>, Known>,
    jobs: HashMap<u32, KnownJob>,
    /// Of units that went, the time of what was read of them: a reading may show the unit as it is loaded anew, before
    /// it is announced that it went.
    ahead: HashMap<Box<str>, u64>,
    /// How many units have gone.
    gone: u64,
    listing: u32,
    refused: u64,
}

impl Model {
    /// Units and, among them, failed ones.
    pub(super) fn manager(&self, state: &'static str, cause: &'static str) -> Output {
        let failed = self.units.values().filter(|known| &*known.state.active == "failed").count() as u64;
        Output::Manager(ManagerState { state, cause, units: self.units.len() as u64, failed })
    }

    /// Takes the count of what was said of units that there was no room for.
    pub(super) fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    pub(super) fn knows(&self, unit: &str) -> bool {
        self.units.contains_key(unit)
    }

    /// How many units have gone: for [`Self::is_still`].
    pub(super) const fn gone(&self) -> u64 {
        self.gone
    }

    /// Whether a unit has not gone since so many had: what was asked of it then may be of another that had its name.
    pub(super) fn is_still(&self, unit: &str, gone: u64) -> bool {
        self.units.get(unit).is_some_and(|known| known.gone_before <= gone)
    }

    /// Whether limits and relations of a known unit were not read yet.
    pub(super) fn lacks_reading(&self, unit: &str) -> bool {
        self.units.get(unit).is_some_and(|known| known.digest.is_none())
    }

    /// Whether a unit is up, coming up or going down.
    pub(super) fn is_alive(&self, unit: &str) -> bool {
        let state = |known: &Known| !matches!(&*known.state.active, "" | "inactive" | "failed");
        self.units.get(unit).is_some_and(state)
    }

    fn entry(&mut self, unit: &str) -> Option<&mut Known> {
        if !self.units.contains_key(unit) {
            if self.units.len() >= UNITS_MAX {
                self.refused += 1;
                return None;
            }
            let ahead_us = self.ahead.remove(unit).unwrap_or(0);
            let mut known = Known::new(unit, self.listing);
            (known.ahead_us, known.gone_before) = (ahead_us, self.gone);
            self.units.insert(unit.into(), known);
        }
        self.units.get_mut(unit)
    }

    /// The manager loaded a unit, in a state that is not known yet.
    pub(super) fn add(&mut self, unit: &str) {
        let _full = self.entry(unit);
    }

    /// The properties of the unit's type changed; those of all units follow.
    pub(super) fn run(&mut self, unit: &str, change: &RunChange) {
        if let Some(known) = self.entry(unit) {
            known.run(change);
        }
    }

    /// The properties of all units changed.
    pub(super) fn state(&mut self, unit: &str, change: &StateChange, out: &mut VecDeque<Output>) {
        if let Some(known) = self.entry(unit) {
            known.change(change, false, out);
        }
    }

    /// The manager forgot a unit.
    pub(super) fn remove(&mut self, unit: &str, out: &mut VecDeque<Output>) {
        if let Some(known) = self.units.remove(unit) {
            self.gone += 1;
            let ahead_us = known.read_ahead_us();
            if ahead_us > 0 {
                if self.ahead.len() >= AHEAD_MAX {
                    self.ahead.clear();
                }
                self.ahead.insert(unit.into(), ahead_us);
            }
            out.push_back(Output::Removed { unit: unit.into(), invocation: known.state.invocation });
        }
    }

    /// Everything of a unit was read. A state that is older than what is known is left out; and so is one that is newer
    /// as long as its announcement may be on its way, which is when this is not `settled`.
    pub(super) fn found(&mut self, unit: &str, found: &Found, settled: bool, out: &mut VecDeque<Output>) {
        let Some(known) = self.entry(unit) else { return };
        if !known.is_known || (settled && found.state.changed_us >= Some(known.state.changed_us)) {
            known.run(&found.run);
            known.change(&found.state, true, out);
        }
        known.read(found, out);
    }

    /// A list of all units is asked for: what becomes known from now on may not be in it.
    pub(super) fn list(&mut self) {
        self.listing = self.listing.wrapping_add(1);
    }

    /// Compares what is known with the last list that was asked for. Readings of its units come first.
    pub(super) fn reconcile(&mut self, listed: &[Listed], at_ns: u64, out: &mut VecDeque<Output>) {
        let units: HashSet<&str> = listed.iter().map(|listed| &*listed.unit).collect();
        let jobs: HashSet<u32> = listed.iter().map(|listed| listed.job).collect();
        let listing = self.listing;
        let absent =
            self.units.iter().filter(|(unit, known)| known.listing != listing && !units.contains(&***unit));
        let mut gone: Vec<Box<str>> = absent.map(|(unit, _)| unit.clone()).collect();
        gone.sort_unstable();
        for unit in gone {
            self.remove(&unit, out);
        }
        let mut ended: Vec<u32> = self
            .jobs
            .iter()
            .filter(|(id, job)| job.listing != listing && !jobs.contains(id))
            .map(|(id, _)| *id)
            .collect();
        ended.sort_unstable();
        for id in ended {
            self.job_removed(JobEnd { id, unit: "", result: "", at_ns }, out);
        }
        for listed in listed.iter().filter(|listed| listed.job != 0) {
            if !self.jobs.contains_key(&listed.job) && self.job_new(listed.job, &listed.unit, at_ns, out) {
                self.job_kind(listed.job, &listed.job_kind, out);
            }
        }
    }

    fn job(&self, id: u32, unit: &str, at_ns: u64) -> Job {
        let invocation = self.units.get(unit).map_or([0; 16], |known| known.state.invocation);
        Job { id, unit: unit.into(), kind: Box::default(), result: None, at_ns, invocation }
    }

    /// A job was queued. True if it is said once its type is known, which the caller finds out.
    pub(super) fn job_new(&mut self, id: u32, unit: &str, at_ns: u64, out: &mut VecDeque<Output>) -> bool {
        if self.jobs.contains_key(&id) {
            return false;
        }
        let job = self.job(id, unit, at_ns);
        if self.jobs.len() >= JOBS_MAX {
            out.push_back(Output::Job(job));
            return false;
        }
        let was_alive = self.is_alive(unit);
        self.jobs.insert(id, KnownJob { job, is_said: false, was_alive, listing: self.listing });
        true
    }

    /// The type of a job is known, or cannot be known and is empty.
    pub(super) fn job_kind(&mut self, id: u32, kind: &str, out: &mut VecDeque<Output>) {
        if let Some(known) = self.jobs.get_mut(&id).filter(|known| !known.is_said) {
            known.is_said = true;
            known.job.kind = kind.into();
            out.push_back(Output::Job(known.job.clone()));
        }
    }

    /// A job ended.
    pub(super) fn job_removed(&mut self, end: JobEnd<'_>, out: &mut VecDeque<Output>) {
        let JobEnd { id, unit, result, at_ns } = end;
        // Over before it could be asked for: only a stop, done, leaves a unit down that was up.
        let was_alive = self.jobs.get(&id).is_some_and(|known| known.was_alive);
        let is_stop = was_alive && result == "done" && !self.is_alive(unit);
        self.job_kind(id, if is_stop { "stop" } else { "" }, out);
        let mut job = match self.jobs.remove(&id) {
            Some(known) => known.job,
            None => self.job(id, unit, at_ns),
        };
        if let Some(known) = self.units.get(&job.unit) {
            job.invocation = known.state.invocation;
        }
        (job.result, job.at_ns) = (Some(result.into()), at_ns);
        out.push_back(Output::Job(job));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::collector::systemd::unit::Limits;

    const STATES: [(&str, &str); 4] =
        [("active", "success"), ("failed", "exit-code"), ("inactive", "success"), ("activating", "signal")];

    /// One transition of a unit, and what is heard of it.
    #[derive(Debug, Clone)]
    struct Step {
        state: usize,
        announced: usize,
        read: bool,
    }

    fn step() -> impl Strategy<Value = Step> {
        (0..STATES.len(), 0..3_usize, any::<bool>()).prop_map(|(state, announced, read)| Step {
            state,
            announced,
            read,
        })
    }

    fn found(step: &Step, time: u64) -> Found {
        let (active, result) = STATES[step.state];
        let limits = Limits {
            numbers: [0; 9],
            restart: Box::default(),
            oom_policy: Box::default(),
            fragment_path: Box::default(),
            cgroup: Box::default(),
        };
        Found {
            state: StateChange {
                active: Some(active.into()),
                sub: Some(time.to_string().into()),
                changed_us: Some(time),
                ..StateChange::default()
            },
            run: RunChange { result: Some(result.into()), ..RunChange::default() },
            limits,
            relations: Vec::new(),
        }
    }

    fn times(out: &VecDeque<Output>) -> Vec<u64> {
        let time = |output: &Output| match output {
            Output::State(state) => Some(state.changed_us),
            _ => None,
        };
        out.iter().filter_map(time).collect()
    }

    proptest! {
        /// Scenario: a unit goes from state to state; each transition is announced once, twice or not at all, and the
        /// unit is read now and then.
        /// Guarantees: what was announced or could be read is said exactly once, in order, and nothing else is.
        #[test]
        fn a_transition_is_said_once(steps in prop::collection::vec(step(), 1..40)) {
            let (mut model, mut out) = (Model::default(), VecDeque::new());
            let mut expected = Vec::new();
            for (step, time) in steps.iter().zip((10..).step_by(10)) {
                let found = found(step, time);
                for _ in 0..step.announced {
                    model.run("a.service", &found.run);
                    model.state("a.service", &found.state, &mut out);
                }
                if step.read {
                    model.found("a.service", &found, true, &mut out);
                }
                if step.announced > 0 || step.read {
                    expected.push(time);
                }
            }
            prop_assert_eq!(times(&out), expected);
        }

        /// Scenario: the same, but a reading of the last state overtakes all announcements but some; the last of these
        /// comes again.
        /// Guarantees: what was said before, or by the reading, is not said again; what it hid is said once.
        #[test]
        fn a_reading_that_overtakes_hides_nothing(steps in prop::collection::vec(step(), 2..20), heard in 0..20_usize) {
            let (mut model, mut out) = (Model::default(), VecDeque::new());
            let all: Vec<Found> = steps.iter().zip((10..).step_by(10)).map(|(step, time)| found(step, time)).collect();
            let heard = heard.min(all.len() - 1);
            for found in &all[..heard] {
                model.state("a.service", &found.state, &mut out);
            }
            if let Some(last) = all.last() {
                model.found("a.service", last, true, &mut out);
            }
            for found in &all[heard.saturating_sub(1)..] {
                model.state("a.service", &found.state, &mut out);
                model.state("a.service", &found.state, &mut out);
            }
            let mut said = times(&out);
            said.sort_unstable();
            let expected: Vec<u64> = (10..).step_by(10).take(steps.len()).collect();
            prop_assert_eq!(said, expected);
        }
    }

    /// Scenario: a unit is asked for; before the answer comes it goes and is loaded anew; another unit goes, too.
    /// Guarantees: it is not the one that was asked for, the others are.
    #[test]
    fn a_unit_that_came_back_is_another() {
        let (mut model, mut out) = (Model::default(), VecDeque::new());
        ["back.service", "stays.service", "goes.service"].iter().for_each(|unit| model.add(unit));
        let asked = model.gone();
        model.remove("goes.service", &mut out);
        assert!(model.is_still("back.service", asked) && model.is_still("stays.service", asked));
        model.remove("back.service", &mut out);
        model.add("back.service");
        assert!(!model.is_still("back.service", asked) && model.is_still("stays.service", asked));
        assert!(model.is_still("back.service", model.gone()) && !model.is_still("goes.service", asked));
    }

    /// Scenario: a reading shows that a unit ran and ended, before that is announced.
    /// Guarantees: what its time stamps betrayed is not said again.
    #[test]
    fn what_a_reading_betrays_is_said_once() {
        let (mut model, mut out) = (Model::default(), VecDeque::new());
        let step = |state| Step { state, announced: 1, read: true };
        model.state("a.service", &found(&step(2), 10).state, &mut out);
        let mut read = found(&step(2), 40);
        read.state.inactive_exit_us = Some(20);
        read.state.active_enter_us = Some(30);
        model.found("a.service", &read, true, &mut out);
        for (state, time) in [(2, 10), (3, 20), (0, 30), (2, 40)] {
            model.state("a.service", &found(&step(state), time).state, &mut out);
        }
        assert_eq!(times(&out), [10, 20, 30, 40]);
    }

    /// Scenario: a unit is read while it runs for the third time; only then it is announced that it ran, went, was loaded
    /// anew and ran twice more.
    /// Guarantees: each state is said once.
    #[test]
    fn a_reading_that_overtakes_a_removal_is_said_once() {
        let (mut model, mut out) = (Model::default(), VecDeque::new());
        let read = found(&Step { state: 3, announced: 0, read: true }, 50);
        model.add("a.service");
        model.found("a.service", &read, false, &mut out);
        for time in [10, 30, 50] {
            for state in [3, 2] {
                let step = Step { state, announced: 1, read: false };
                model.state("a.service", &found(&step, time + 5 * u64::from(state == 2)).state, &mut out);
            }
            model.remove("a.service", &mut out);
            model.add("a.service");
        }
        let mut said = times(&out);
        said.sort_unstable();
        assert_eq!(said, [10, 15, 30, 35, 50, 55]);
    }

    /// Scenario: between two announcements a unit began, became active and ended; or ended and began anew; or was active
    /// at once.
    /// Guarantees: the time stamps tell, with the invocation and the result of the run that ended.
    #[test]
    fn time_stamps_tell_what_was_merged() {
        let (mut model, mut out) = (Model::default(), VecDeque::new());
        let change = |active: &str, id, times: [u64; 4]| StateChange {
            active: Some(active.into()),
            sub: Some("sub".into()),
            invocation: Some([id; 16]),
            changed_us: Some(times[0]),
            inactive_exit_us: Some(times[1]),
            active_enter_us: Some(times[2]),
            inactive_enter_us: Some(times[3]),
            ..StateChange::default()
        };
        let result = |result: &str| RunChange { result: Some(result.into()), ..RunChange::default() };
        model.state("a.service", &change("inactive", 1, [10, 5, 6, 10]), &mut out);
        // It ran from 20 to 22, all before anybody looked, and is cleaning up since.
        model.run("a.service", &result("signal"));
        model.state("a.service", &change("failed", 2, [25, 20, 21, 25]), &mut out);
        // It failed at 30 and was started at 31.
        model.run("a.service", &result("success"));
        model.state("a.service", &change("active", 3, [32, 31, 32, 30]), &mut out);
        // It ended in peace; later it was active at once, for a moment, between two announcements.
        model.state("a.service", &change("inactive", 3, [42, 31, 32, 42]), &mut out);
        model.state("a.service", &change("inactive", 4, [51, 50, 50, 51]), &mut out);
        let told: Vec<String> = out
            .iter()
            .map(|output| match output {
                Output::State(state) => format!(
                    "{} {}>{} {} {}",
                    state.changed_us, state.active_before, state.active, state.result, state.invocation[0]
                ),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [
            "10 >inactive  1",
            "20 inactive>activating  2",
            "21 activating>active  2",
            "25 active>failed signal 2",
            "30 failed>inactive  2",
            "31 inactive>activating  3",
            "32 activating>active success 3",
            "42 active>inactive success 3",
            "50 inactive>active  4",
            "51 active>inactive success 4",
        ];
        assert_eq!(told, expected);
    }

    /// Scenario: more units and jobs than may be remembered.
    /// Guarantees: those beyond are counted, or said without being remembered.
    #[test]
    fn units_and_jobs_are_bounded() {
        let (mut model, mut out) = (Model::default(), VecDeque::new());
        (0..UNITS_MAX + 7).for_each(|number| model.add(&format!("{number}.service")));
        assert_eq!((model.units.len(), model.take_refused(), model.take_refused()), (UNITS_MAX, 7, 0));
        let jobs = u32::try_from(JOBS_MAX).expect("small");
        let waits = (0..jobs + 7).filter(|id| model.job_new(*id, "0.service", 1, &mut out)).count();
        assert_eq!((waits, out.len()), (JOBS_MAX, 7));
    }

    /// Scenario: a job that ends before its type is known: its unit was up and is down, or was down all the time.
    /// Guarantees: the first was a stop; nobody knows about the other.
    #[test]
    fn a_quick_stop_is_known_by_what_it_did() {
        let (mut model, mut out) = (Model::default(), VecDeque::new());
        let change = |active: &str, time| StateChange {
            active: Some(active.into()),
            changed_us: Some(time),
            ..StateChange::default()
        };
        let end = JobEnd { id: 1, unit: "a.service", result: "done", at_ns: 9 };
        model.state("a.service", &change("active", 1), &mut out);
        model.job_new(1, "a.service", 5, &mut out);
        model.state("a.service", &change("inactive", 2), &mut out);
        model.job_removed(end, &mut out);
        model.job_new(2, "a.service", 6, &mut out);
        model.job_removed(JobEnd { id: 2, ..end }, &mut out);
        let kinds: Vec<&str> = out
            .iter()
            .filter_map(|output| match output {
                Output::Job(job) => Some(&*job.kind),
                _ => None,
            })
            .collect();
        assert_eq!(kinds, ["stop", "stop", "", ""]);
    }
}
