//! One round of samples, and what is kept between rounds.
//!
//! Invariants:
//! - At most [`CGROUPS_MAX`] cgroups are sampled and [`FAST_MAX`] of them more often; what is beyond is counted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::certificates;
use super::cgroup::{Cgroup, Descriptors, SENT_AFTER, Tools};
use super::files::Usage;
use super::filesystems::{self, Space};
use super::host::{self, Host};
use super::layout::{Controller, Layout, is_own};
use super::procs::Proc;
use super::tree::Tree;
use crate::clock;
use crate::config::Certificate;
use crate::event::{CGROUP_V1, EventBuilder, Kind, Source, fields};

/// Cgroups that are sampled.
pub(super) const CGROUPS_MAX: usize = 4096;

/// Cgroups that are sampled more often.
pub(super) const FAST_MAX: usize = 32;

/// Descriptors that are left for others, and the most that are kept open.
const DESCRIPTORS_LEFT: u64 = 512;
const DESCRIPTORS_MAX: u64 = 16_384;

/// What takes an event.
pub(super) type Send<'round> = dyn FnMut(&mut EventBuilder) + 'round;

/// Everything that is kept between rounds.
#[derive(Debug)]
pub(super) struct Round {
    proc_root: PathBuf,
    layout: Layout,
    trees: Vec<(Controller, Tree)>,
    cgroups: BTreeMap<String, Cgroup>,
    /// Paths of those that are pressing.
    pressing: Vec<String>,
    beyond: usize,
    proc: Proc,
    host: Host,
    host_sent: Option<(u64, [u64; host::SLOTS])>,
    spaces: BTreeMap<(u64, PathBuf), (u64, Space)>,
    /// When each was sent, or could not be read.
    certificates: BTreeMap<Certificate, u64>,
    descriptors: Descriptors,
    buffer: Vec<u8>,
}

/// Whether what was sent at a time has to be said again.
fn is_due(at: u64, now: u64) -> bool {
    Duration::from_nanos(now.saturating_sub(at)) >= SENT_AFTER
}

/// Places for open files: what this process may have, but for what others need.
fn places() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let spare = limit.map_or(DESCRIPTORS_MAX, |limit| limit.saturating_sub(DESCRIPTORS_LEFT) / 2);
    usize::try_from(spare.min(DESCRIPTORS_MAX)).unwrap_or(0)
}

impl Round {
    /// Nothing sampled yet; `proc` is `/proc` outside tests.
    pub(super) fn new(proc: &Path) -> Self {
        let mountinfo = std::fs::read_to_string(proc.join("self/mountinfo")).unwrap_or_default();
        let layout = Layout::parse(&mountinfo);
        // Where units and containers are: v2, and on hosts with v1 controllers the one that every container has.
        let roots = [Controller::Unified, Controller::Memory];
        let tree = |controller| Some((controller, Tree::new(layout.point(controller)?)));
        Self {
            trees: roots.into_iter().filter_map(tree).collect(),
            layout,
            cgroups: BTreeMap::new(),
            pressing: Vec::new(),
            beyond: 0,
            proc: Proc::new(proc),
            host: Host::new(proc),
            host_sent: None,
            spaces: BTreeMap::new(),
            certificates: BTreeMap::new(),
            descriptors: Descriptors(places()),
            buffer: Vec::new(),
            proc_root: proc.to_owned(),
        }
    }

    /// Units, containers and pods in the last round for which there was no room.
    pub(super) fn beyond(&self) -> usize {
        self.beyond
    }

    /// Whether there is anything for [`Self::fast`].
    pub(super) fn has_pressing(&self) -> bool {
        !self.pressing.is_empty()
    }

    /// Samples everything.
    pub(super) fn whole(&mut self, now: u64, event: &mut EventBuilder, send: &mut Send<'_>) {
        self.find();
        let paths: Vec<String> = self.cgroups.keys().cloned().collect();
        self.pressing.clear();
        self.sample(now, paths, event, send);
        self.node(now, event, send);
        self.filesystems(now, event, send);
    }

    /// Samples the cgroups that are pressing.
    pub(super) fn fast(&mut self, now: u64, event: &mut EventBuilder, send: &mut Send<'_>) {
        let paths = std::mem::take(&mut self.pressing);
        self.sample(now, paths, event, send);
    }

    /// Looks which cgroups there are.
    fn find(&mut self) {
        let mut found: BTreeMap<&str, u64> = BTreeMap::new();
        self.beyond = 0;
        for (_, tree) in &mut self.trees {
            tree.look();
            self.beyond += tree.beyond;
        }
        for (controller, tree) in &self.trees {
            let flag = if *controller == Controller::Unified { 0 } else { CGROUP_V1 };
            for (path, inode) in tree.directories() {
                // The v2 hierarchy first: its ids are those of the events of processes that are in it.
                found.entry(path).or_insert(inode | flag);
            }
        }
        let descriptors = &mut self.descriptors;
        let cgroups = std::mem::take(&mut self.cgroups);
        for (path, cgroup) in cgroups {
            if found.get(path.as_str()) == Some(&cgroup.id) {
                self.cgroups.insert(path, cgroup);
            } else {
                cgroup.close(descriptors);
            }
        }
        for (path, id) in found {
            if self.cgroups.contains_key(path) || !is_own(path) {
                continue;
            }
            if self.cgroups.len() >= CGROUPS_MAX {
                self.beyond += 1;
                continue;
            }
            self.cgroups.insert(path.to_owned(), Cgroup::new(path, id));
        }
    }

    fn sample(&mut self, now: u64, paths: Vec<String>, event: &mut EventBuilder, send: &mut Send<'_>) {
        for path in paths {
            let Some(cgroup) = self.cgroups.get_mut(&path) else { continue };
            let mut tools = Tools {
                layout: &self.layout,
                proc: &self.proc,
                descriptors: &mut self.descriptors,
                buffer: &mut self.buffer,
            };
            let Some(sample) = cgroup.sample(now, &mut tools) else {
                // Gone, or empty of everything that can be read: the next round finds out which.
                if let Some(gone) = self.cgroups.remove(&path) {
                    gone.close(&mut self.descriptors);
                }
                continue;
            };
            if let Some(usage) = sample.news {
                put(event, now, cgroup.id, &usage);
                send(event);
            }
            if sample.pressing && self.pressing.len() < FAST_MAX {
                self.pressing.push(path);
            }
        }
    }

    fn node(&mut self, now: u64, event: &mut EventBuilder, send: &mut Send<'_>) {
        let usage = self.host.sample();
        let old = self.host_sent.is_none_or(|(at, sent)| is_due(at, now) || host::is_news(&sent, &usage));
        if old {
            event.start(Source::Sampler, Kind::NodeUsage, now);
            for value in usage {
                event.slot(value);
            }
            send(event);
            self.host_sent = Some((now, usage));
        }
    }

    fn filesystems(&mut self, now: u64, event: &mut EventBuilder, send: &mut Send<'_>) {
        let mountinfo = std::fs::read_to_string(self.proc_root.join("self/mountinfo")).unwrap_or_default();
        let mut spaces = BTreeMap::new();
        for filesystem in filesystems::filesystems(&mountinfo) {
            let Some(space) = filesystems::space(&filesystem.point) else { continue };
            let key = (filesystem.device, filesystem.point);
            let sent = self.spaces.remove(&key);
            let kept = sent.filter(|(at, sent)| !is_due(*at, now) && !filesystems::is_news(sent, &space));
            if kept.is_none() {
                event.start(Source::Sampler, Kind::FilesystemUsage, now);
                event.slot(filesystem.device).slot(space.bytes).slot(space.available_bytes);
                event.slot(space.inodes).slot(space.free_inodes).slot(u64::from(space.read_only));
                event.field(fields::MOUNT, &key.1.to_string_lossy());
                event.field(fields::FILESYSTEM, &filesystem.kind);
                if !filesystem.name.is_empty() {
                    event.field(fields::DEVICE, &filesystem.name);
                }
                send(event);
            }
            spaces.insert(key, kept.unwrap_or((now, space)));
        }
        self.spaces = spaces;
    }
}

impl Round {
    /// Says when the certificates of these files end. Those that cannot be read are said in the log once.
    pub(super) fn certificates(
        &mut self,
        now: u64,
        wanted: &[Certificate],
        event: &mut EventBuilder,
        send: &mut Send<'_>,
    ) {
        self.certificates.retain(|known, _| wanted.contains(known));
        for certificate in wanted {
            let known = self.certificates.get(certificate).copied();
            if known.is_some_and(|at| !is_due(at, now)) {
                continue;
            }
            self.certificates.insert(certificate.clone(), now);
            let Certificate { path, unit } = certificate;
            match certificates::not_after(path) {
                Ok(end) => {
                    event.start(Source::Sampler, Kind::CertificateEnd, now);
                    event.slot(end).slot(clock::unix_ns() / 1_000_000_000);
                    event.field(fields::FILE, &path.to_string_lossy()).field(fields::UNIT, unit);
                    send(event);
                }
                Err(error) if known.is_none() => {
                    tracing::warn!("cannot tell when {} ends: {error}; check --certificates", path.display());
                }
                Err(_) => {}
            }
        }
    }
}

fn put(event: &mut EventBuilder, now: u64, cgroup: u64, usage: &Usage) {
    event.start(Source::Sampler, Kind::CgroupUsage, now).cgroup = cgroup;
    for value in usage.0 {
        event.slot(value);
    }
}

#[cfg(test)]
mod tests;
