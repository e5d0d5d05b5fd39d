//! Loads probes, records what they say until told to stop, and checks the ledger of the rings.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::process::Command;

use tapio::clock::boot_ns;
use tapio::collector::ebpf::{Lane, Loaded, Options, PROBES, load};
use tapio::config::Settings;
use tapio::event::{Event, Form, Header, Kind, chars};

use crate::skipped;

/// An event out of a ring.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) header: Header,
    pub(super) kind: Kind,
    pub(super) text: String,
    slots: Vec<u64>,
}

impl Seen {
    fn slot(&self, name: &str) -> (&[u64], Form) {
        let mut at = 0;
        for slot in self.kind.info().slots {
            let words = slot.form.words();
            if slot.name == name {
                return (&self.slots[at..at + words], slot.form);
            }
            at += words;
        }
        panic!("{:?} has no slot {name}", self.kind)
    }

    /// A slot of one word.
    pub(super) fn number(&self, name: &str) -> u64 {
        self.slot(name).0[0]
    }

    /// A signed slot.
    pub(super) fn signed(&self, name: &str) -> i64 {
        assert_eq!(self.slot(name).1, Form::Signed);
        self.number(name).cast_signed()
    }

    /// A slot of text.
    pub(super) fn chars(&self, name: &str) -> String {
        chars(self.slot(name).0)
    }

    /// A slot with an address.
    pub(super) fn address(&self, name: &str) -> std::net::Ipv6Addr {
        let mut bytes = [0; 16];
        for (part, word) in bytes.chunks_mut(8).zip(self.slot(name).0) {
            part.copy_from_slice(&word.to_ne_bytes());
        }
        bytes.into()
    }
}

/// Probes that run.
pub(super) struct Recorder {
    pub(super) loaded: Loaded,
    since_ns: u64,
}

impl Recorder {
    pub(super) fn start(options: &Options) -> Self {
        let since_ns = boot_ns();
        let loaded = load(options).unwrap_or_else(|error| panic!("{error}"));
        Self { loaded, since_ns }
    }

    /// Detaches and reads everything.
    pub(super) fn stop(&mut self) -> Vec<Seen> {
        self.loaded.detach();
        let until_ns = boot_ns();
        let mut events = Vec::new();
        let Loaded { bulk, urgent, .. } = &mut self.loaded;
        for ring in bulk.iter_mut().map(|(_, ring)| ring).chain([urgent]) {
            ring.drain(|words| {
                let event = Event::parse(words).expect("a whole event");
                events.push(Seen {
                    header: *event.header(),
                    kind: event.info().kind,
                    text: String::from_utf8_lossy(event.text()).into_owned(),
                    slots: event.slots().to_vec(),
                });
                ControlFlow::Continue(())
            });
        }
        for event in &events {
            assert!((self.since_ns..=until_ns).contains(&event.header.time_ns), "{event:?}");
            assert_eq!(event.header.source, 0);
        }
        events.sort_by_key(|event| event.header.time_ns);
        events
    }

    /// Checks that made = read + lost for each CPU and lane, and that the gaps say the same. Returns what was
    /// lost.
    pub(super) fn assert_closed(&self, events: &[Seen]) -> u64 {
        let mut read: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
        for event in events {
            read.entry(event.header.producer).or_default().push(event.header.sequence);
        }
        let mut lost_total = 0;
        for cpu in 0..self.loaded.cpus.cpus() {
            for lane in [Lane::Bulk, Lane::Urgent] {
                let producer = u16::try_from(cpu * 2 + lane as usize).unwrap();
                let (made, lost) = (self.loaded.cpus.sequence(cpu, lane), self.loaded.cpus.lost(cpu, lane));
                let mut sequences = read.remove(&producer).unwrap_or_default();
                assert_eq!(made, sequences.len() as u64 + lost, "cpu {cpu} {lane:?}");
                sequences.sort_unstable();
                sequences.dedup();
                assert_eq!(
                    made,
                    sequences.len() as u64 + lost,
                    "cpu {cpu} {lane:?}: a sequence number came twice"
                );
                assert!(sequences.iter().all(|&sequence| u64::from(sequence) < made));
                lost_total += lost;
            }
        }
        assert!(read.is_empty(), "events of no producer");
        lost_total
    }
}

/// Options for these probes and no others.
pub(super) fn options(probes: &[&str]) -> Options {
    let off = PROBES.iter().map(|probe| probe.name).filter(|name| !probes.contains(name) && *name != "load");
    Options { probes_off: off.map(str::to_owned).collect(), ..Options::from(&Settings::default()) }
}

/// Whether this is root; says that the test is skipped where it is not.
pub(super) fn root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped(test, "loading BPF programs needs root");
    }
    root
}

/// Runs a program to its end and returns its pid.
pub(super) fn run(program: &str, arguments: &[&str]) -> u32 {
    let mut child = Command::new(program).args(arguments).spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

/// The events of one kind that a process owns.
pub(super) fn of(events: &[Seen], kind: Kind, pid: u32) -> Vec<&Seen> {
    events.iter().filter(|event| event.kind == kind && event.header.tgid == pid).collect()
}

/// The one event of a kind that a process owns.
pub(super) fn one(events: &[Seen], kind: Kind, pid: u32) -> &Seen {
    let found = of(events, kind, pid);
    assert_eq!(found.len(), 1, "{kind:?} of {pid}: {found:#?}");
    found[0]
}
