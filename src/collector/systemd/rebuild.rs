//! The same events from the manager's own journal records, where there is no way to ask it.
//!
//! The records say what happened to units that were started, stopped or failed, and with what result; they say nothing
//! of relations and limits, of units that rest, and of changes that the manager does not log.
//!
//! Invariants:
//! - Pure: the fields of a record go in, outputs come out, and what one record says of the next is remembered.
//! - Only what process 1 logged is believed.

use std::collections::{HashMap, VecDeque};

use super::output::{Job, Output, UnitState};
use crate::clock;

/// Units whose last records are remembered at most; at the bound all are forgotten, and told without a state before.
const UNITS_MAX: usize = 4096;

const STARTING: u128 = 0x7d49_58e8_42da_4a75_8f6c_1cdc_7b36_dcc5;
const STARTED: u128 = 0x39f5_3479_d3a0_45ac_8e11_7862_4823_1fbf;
const STOPPING: u128 = 0xde5b_426a_63be_47a7_b6ac_3eaa_c82e_2f6f;
const STOPPED: u128 = 0x9d1a_aa27_d601_40bd_9636_5438_aad2_0286;
const FAILED: u128 = 0xd9b3_73ed_55a6_4feb_8242_e02d_be79_a49c;
const SUCCEEDED: u128 = 0x7ad2_d189_f7e9_4e70_a38c_7813_5491_2448;
const EXITED: u128 = 0x98e3_2220_3f7a_4ed2_90d0_9fe0_3c09_fe15;
const RESTARTS: u128 = 0x5eb0_3494_b658_4870_a536_b337_2908_09b3;

/// The fields of a record that say something here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Record<'entry> {
    pub(super) pid: &'entry str,
    pub(super) unit: &'entry str,
    pub(super) message_id: &'entry str,
    pub(super) invocation: &'entry str,
    pub(super) result: &'entry str,
    pub(super) exit_code: &'entry str,
    pub(super) exit_status: &'entry str,
    pub(super) restarts: &'entry str,
    pub(super) job_id: &'entry str,
    pub(super) job_kind: &'entry str,
    pub(super) job_result: &'entry str,
}

impl<'entry> Record<'entry> {
    /// Takes in one field; fields that say nothing here are passed over.
    pub(super) fn field(&mut self, name: &[u8], value: &'entry [u8]) {
        let place = match name {
            b"_PID" => &mut self.pid,
            b"UNIT" => &mut self.unit,
            b"MESSAGE_ID" => &mut self.message_id,
            b"INVOCATION_ID" => &mut self.invocation,
            b"UNIT_RESULT" => &mut self.result,
            b"EXIT_CODE" => &mut self.exit_code,
            b"EXIT_STATUS" => &mut self.exit_status,
            b"N_RESTARTS" => &mut self.restarts,
            b"JOB_ID" => &mut self.job_id,
            b"JOB_TYPE" => &mut self.job_kind,
            b"JOB_RESULT" => &mut self.job_result,
            _ => return,
        };
        *place = str::from_utf8(value).unwrap_or_default();
    }
}

/// What the records said of units so far.
#[derive(Debug, Default)]
pub(super) struct Rebuild {
    units: HashMap<Box<str>, UnitState>,
}

impl Rebuild {
    /// What a record says; `monotonic_us` is when it was logged.
    pub(super) fn record(&mut self, record: &Record<'_>, monotonic_us: u64, out: &mut VecDeque<Output>) {
        let Ok(id) = u128::from_str_radix(record.message_id, 16) else { return };
        if record.pid != "1" || record.unit.is_empty() {
            return;
        }
        if self.units.len() >= UNITS_MAX && !self.units.contains_key(record.unit) {
            self.units.clear();
        }
        let known = self.units.entry(record.unit.into()).or_default();
        known.unit = record.unit.into();
        if let Ok(invocation) = u128::from_str_radix(record.invocation, 16) {
            known.invocation = invocation.to_be_bytes();
        }
        if let Ok(job) = record.job_id.parse() {
            out.push_back(Output::Job(Job {
                id: job,
                unit: record.unit.into(),
                kind: record.job_kind.into(),
                result: (!record.job_result.is_empty()).then(|| record.job_result.into()),
                at_ns: clock::boot_ns_of(monotonic_us),
                invocation: known.invocation,
            }));
        }
        let (active, sub) = match id {
            STARTING => ("activating", "start"),
            STARTED if record.job_result == "done" => ("active", ""),
            STOPPING => ("deactivating", "stop"),
            STOPPED if record.job_result == "done" => ("inactive", "dead"),
            SUCCEEDED => ("inactive", "dead"),
            FAILED => ("failed", "failed"),
            RESTARTS => ("activating", "auto-restart"),
            EXITED => {
                known.exec_code = match record.exit_code {
                    "exited" => 1,
                    "killed" => 2,
                    "dumped" => 3,
                    _ => 0,
                };
                known.exec_status = record.exit_status.parse().unwrap_or(0);
                return;
            }
            _ => return,
        };
        match id {
            STARTING => {
                (known.exec_code, known.exec_status) = (0, 0);
                known.result = "success".into();
            }
            FAILED => {
                let before = std::mem::replace(&mut known.result, record.result.into());
                let is_hidden = record.result == "start-limit-hit" && &*before != "success";
                known.result_before = if is_hidden { before } else { Box::default() };
            }
            SUCCEEDED => known.result = "success".into(),
            RESTARTS => known.restarts = record.restarts.parse().unwrap_or(known.restarts),
            _ => {}
        }
        if &*known.active == active && &*known.sub == sub {
            return;
        }
        known.active_before = std::mem::replace(&mut known.active, active.into());
        (known.sub, known.changed_us) = (sub.into(), monotonic_us);
        out.push_back(Output::State(Box::new(known.clone())));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rebuilt(records: &[&[(&str, &str)]]) -> Vec<String> {
        let (mut rebuild, mut out) = (Rebuild::default(), VecDeque::new());
        for (fields, time) in records.iter().zip(100..) {
            let mut record =
                Record { pid: "1", unit: "a.service", invocation: INVOCATION, ..Record::default() };
            fields.iter().for_each(|(name, value)| record.field(name.as_bytes(), value.as_bytes()));
            rebuild.record(&record, time, &mut out);
        }
        let told = out.iter().map(|output| match output {
            Output::State(state) => {
                assert_eq!(state.invocation, [0x11; 16]);
                format!(
                    "{} {}>{}/{} {}{} {} {} {}",
                    state.changed_us,
                    state.active_before,
                    state.active,
                    state.sub,
                    state.result,
                    state.result_before,
                    state.exec_code,
                    state.exec_status,
                    state.restarts
                )
            }
            Output::Job(job) => {
                format!("{} {} {}", job.id, job.kind, job.result.as_deref().unwrap_or("queued"))
            }
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    const INVOCATION: &str = "11111111111111111111111111111111";

    /// Scenario: the records of systemd 252 about a service that is started, is killed for memory, restarts itself and
    /// reaches its start limit; another process claims the same.
    /// Guarantees: the states, results, codes and jobs are those that the bus would have shown; the claim is nothing.
    #[test]
    fn records_become_states() {
        let exited: &[(&str, &str)] = &[
            ("MESSAGE_ID", "98e322203f7a4ed290d09fe03c09fe15"),
            ("EXIT_CODE", "killed"),
            ("EXIT_STATUS", "9"),
        ];
        let told = rebuilt(&[
            &[("MESSAGE_ID", "7d4958e842da4a758f6c1cdc7b36dcc5"), ("JOB_ID", "7"), ("JOB_TYPE", "start")],
            &[
                ("MESSAGE_ID", "39f53479d3a045ac8e11786248231fbf"),
                ("JOB_ID", "7"),
                ("JOB_TYPE", "start"),
                ("JOB_RESULT", "done"),
            ],
            exited,
            &[("MESSAGE_ID", "d9b373ed55a64feb8242e02dbe79a49c"), ("UNIT_RESULT", "oom-kill")],
            &[("MESSAGE_ID", "5eb03494b6584870a536b337290809b3"), ("N_RESTARTS", "4")],
            &[("MESSAGE_ID", "d9b373ed55a64feb8242e02dbe79a49c"), ("UNIT_RESULT", "start-limit-hit")],
            &[("MESSAGE_ID", "7d4958e842da4a758f6c1cdc7b36dcc5"), ("_PID", "4711")],
            &[("MESSAGE_ID", "nonsense")],
        ]);
        assert_eq!(
            told,
            [
                "7 start queued",
                "100 >activating/start success 0 0 0",
                "7 start done",
                "101 activating>active/ success 0 0 0",
                "103 active>failed/failed oom-kill 2 9 0",
                "104 failed>activating/auto-restart oom-kill 2 9 4",
                "105 activating>failed/failed start-limit-hitoom-kill 2 9 4",
            ]
        );
    }

    proptest! {
        /// Scenario: any fields with any values.
        /// Guarantees: no panic, and only one that names process 1, a unit and a known message says anything.
        #[test]
        fn any_record_is_answered(values in prop::collection::vec(any::<Vec<u8>>(), 11)) {
            let names = ["_PID", "UNIT", "MESSAGE_ID", "INVOCATION_ID", "UNIT_RESULT", "EXIT_CODE", "EXIT_STATUS",
                "N_RESTARTS", "JOB_ID", "JOB_TYPE", "JOB_RESULT"];
            let mut record = Record::default();
            names.iter().zip(&values).for_each(|(name, value)| record.field(name.as_bytes(), value));
            let mut out = VecDeque::new();
            Rebuild::default().record(&record, 1, &mut out);
            prop_assert!(out.is_empty() || record.pid == "1");
            record.pid = "1";
            record.message_id = "d9b373ed55a64feb8242e02dbe79a49c";
            Rebuild::default().record(&record, 1, &mut out);
        }
    }
}
