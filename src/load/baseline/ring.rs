//! Baseline (a): the same record through one shared ring, read as libbpf's documentation does it - epoll, default
//! wake-up, a callback per record. It counts and checks the order and does nothing else, which flatters it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libbpf_rs::{Link, MapCore, MapFlags, Object, ObjectBuilder, RingBuffer, RingBufferBuilder};
use zerocopy::FromBytes;

use super::Consumed;
use crate::event::HEADER_WORDS;
use crate::load::LoadError;

/// Words of one record.
pub const RECORD_WORDS: usize = HEADER_WORDS + 2;

static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/baseline.bpf.o"));

/// The loaded and attached baseline.
#[derive(Debug)]
pub struct Baseline {
    object: Object,
    _link: Link,
}

impl Baseline {
    /// Loads and attaches it.
    ///
    /// # Errors
    /// Of libbpf: no rights, no BTF, no such hook.
    pub fn attach() -> Result<Self, LoadError> {
        // A copy on the heap is aligned as ELF needs; the bytes in the binary need not be.
        let object = OBJECT.to_vec();
        let object = ObjectBuilder::default().name("baseline")?.open_memory(&object)?.load()?;
        let link = object
            .progs_mut()
            .find(|program| program.name() == "baseline_sys_enter")
            .ok_or_else(|| LoadError::process("baseline", "its object has no program"))?
            .attach()?;
        Ok(Self { object, _link: link })
    }

    /// The ring, each record shown to `take`; a negative result ends the pass behind that record.
    ///
    /// # Errors
    /// Of libbpf.
    pub fn ring<'take>(
        &self,
        mut take: impl FnMut(&[u64; RECORD_WORDS]) -> i32 + 'take,
    ) -> Result<RingBuffer<'take>, LoadError> {
        let map = self
            .object
            .maps()
            .find(|map| map.name() == "baseline_ring")
            .ok_or_else(|| LoadError::process("baseline", "its object has no ring"))?;
        let mut builder = RingBufferBuilder::new();
        builder.add(&map, move |bytes| {
            // The ring aligns to 8 bytes, so this reads in place.
            <[u64; RECORD_WORDS]>::ref_from_bytes(bytes).map_or(0, &mut take)
        })?;
        Ok(builder.build()?)
    }

    /// Events produced and lost so far, all CPUs.
    ///
    /// # Errors
    /// Of libbpf.
    pub fn counters(&self) -> Result<[u64; 2], LoadError> {
        let map = self
            .object
            .maps()
            .find(|map| map.name() == "baseline_counters")
            .ok_or_else(|| LoadError::process("baseline", "its object has no counters"))?;
        let mut sums = [0; 2];
        for (key, sum) in (0_u32..).zip(&mut sums) {
            let values = map.lookup_percpu(&key.to_ne_bytes(), MapFlags::ANY)?.unwrap_or_default();
            *sum = values
                .iter()
                .filter_map(|value| Some(u64::from_ne_bytes(value.first_chunk().copied()?)))
                .sum();
        }
        Ok(sums)
    }
}

/// How long a poll may sleep before it looks whether standard input has ended.
pub const POLL: Duration = Duration::from_millis(100);

/// `tapio-load baseline ring`: consumes until standard input ends.
///
/// # Errors
/// [`Baseline::attach`]'s.
pub fn run() -> Result<Consumed, LoadError> {
    let baseline = Baseline::attach()?;
    let delivered = AtomicU64::new(0);
    let ring = baseline.ring(|record| {
        delivered.fetch_add(u64::from(record[HEADER_WORDS] != 0), Ordering::Relaxed);
        0
    })?;
    super::ready()?;
    let cpu = super::cpu_s();
    let ended = super::until_stdin_ends();
    while !ended.load(Ordering::Relaxed) {
        ring.poll(POLL)?;
    }
    ring.consume()?;
    let [produced, lost] = baseline.counters()?;
    Ok(Consumed { produced, lost, delivered: delivered.load(Ordering::Relaxed), cpu_s: super::cpu_s() - cpu })
}
