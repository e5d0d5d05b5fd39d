//! One cgroup: its files, kept open where that is cheaper, and what was last seen and said of it.
//!
//! Invariants:
//! - At most as many files are kept open as [`Descriptors`] has places.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::change::{is_news, is_pressing};
use super::files::{FILES, Field, FileInfo, Usage};
use super::layout::{Controller, Layout, has_processes};
use super::procs::{Proc, Watched};

/// A cgroup is in an event at least this often.
pub(super) const SENT_AFTER: Duration = Duration::from_secs(60);

/// The longest file that is read whole; of a longer one the beginning counts.
const FILE_BYTES_MAX: usize = 16 << 10;

/// Places for files that stay open.
#[derive(Debug)]
pub(super) struct Descriptors(pub(super) usize);

/// Where a file is.
#[derive(Debug)]
enum Place {
    /// Not looked for yet, or read by name.
    Named,
    Open(File),
    /// Not there at the last full sample.
    Absent,
}

/// A cgroup that is sampled.
#[derive(Debug)]
pub(super) struct Cgroup {
    /// From the root of its hierarchies.
    path: String,
    /// As in the header of an event.
    pub(super) id: u64,
    places: Vec<Place>,
    processes: Vec<Watched>,
    usage: Usage,
    sampled_ns: u64,
    sent: Option<(u64, Usage)>,
}

/// What a sample came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    /// To be sent, or as good as the last one that was.
    pub(super) news: Option<Usage>,
    /// To be looked at more often.
    pub(super) pressing: bool,
}

/// What samples are taken with.
#[derive(Debug)]
pub(super) struct Tools<'round> {
    pub(super) layout: &'round Layout,
    pub(super) proc: &'round Proc,
    pub(super) descriptors: &'round mut Descriptors,
    pub(super) buffer: &'round mut Vec<u8>,
}

impl Cgroup {
    pub(super) fn new(path: &str, id: u64) -> Self {
        let places = FILES.iter().map(|_| Place::Named).collect();
        let path = path.to_owned();
        Self { path, id, places, processes: Vec::new(), usage: Usage::default(), sampled_ns: 0, sent: None }
    }

    /// Gives its places back.
    pub(super) fn close(self, descriptors: &mut Descriptors) {
        descriptors.0 += self.places.iter().filter(|place| matches!(place, Place::Open(_))).count();
    }

    /// Takes a sample; none when the cgroup is gone, or nothing can be read of it.
    pub(super) fn sample(&mut self, now_ns: u64, tools: &mut Tools<'_>) -> Option<Sample> {
        let since = |at: u64| Duration::from_nanos(now_ns.saturating_sub(at));
        let before = self.usage;
        let due = self.sent.is_none_or(|(at, _)| since(at) >= SENT_AFTER);
        if due {
            // What is not there any more is not to stay in the numbers.
            self.usage = Usage::default();
        }
        let mut read = self.read(true, due, tools);
        self.count_files(due, tools);
        let news = due || self.sent.is_none_or(|(at, sent)| is_news(&sent, &self.usage, since(at)));
        if news {
            read += self.read(false, true, tools);
        }
        if read == 0 {
            return None;
        }
        let pressing = is_pressing(&before, &self.usage, since(self.sampled_ns));
        self.sampled_ns = now_ns;
        if news {
            self.sent = Some((now_ns, self.usage));
        }
        Some(Sample { news: news.then_some(self.usage), pressing })
    }

    /// Reads the files of each sample, or the others; how many there were. Those that were absent are looked for again
    /// only now and then: controllers come and go.
    fn read(&mut self, each: bool, again: bool, tools: &mut Tools<'_>) -> usize {
        let mut count = 0;
        for (file, place) in FILES.iter().zip(&mut self.places) {
            if file.each != each || (matches!(place, Place::Absent) && !again) {
                continue;
            }
            let Some(point) = tools.layout.point(file.on) else { continue };
            match read(point, &self.path, file, place, tools) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&tools.buffer[..length]);
                    (file.read)(&text, &mut self.usage);
                    count += 1;
                }
                Err(_) => release(place, tools.descriptors),
            }
        }
        count
    }

    fn count_files(&mut self, due: bool, tools: &mut Tools<'_>) {
        if !has_processes(&self.path) {
            return;
        }
        if due {
            self.processes = self.find_processes(tools);
        }
        let Some((used, limit)) = tools.proc.fullest(&self.processes) else {
            // Who was watched is gone: others may be there at the next sample.
            self.processes = if due { Vec::new() } else { self.find_processes(tools) };
            return;
        };
        self.usage.set(Field::OpenFiles, used);
        self.usage.set(Field::OpenFilesLimit, limit);
    }

    fn find_processes(&self, tools: &Tools<'_>) -> Vec<Watched> {
        for controller in [Controller::Unified, Controller::Memory, Controller::Pids] {
            let Some(point) = tools.layout.point(controller) else { continue };
            let name = point.join(self.path.trim_start_matches('/')).join("cgroup.procs");
            let Ok(procs) = std::fs::read_to_string(name) else { continue };
            if !procs.is_empty() {
                return tools.proc.watch(&procs);
            }
        }
        Vec::new()
    }
}

fn release(place: &mut Place, descriptors: &mut Descriptors) {
    if matches!(place, Place::Open(_)) {
        descriptors.0 += 1;
    }
    *place = Place::Absent;
}

/// Reads a file into the buffer; its length.
fn read(
    point: &Path,
    path: &str,
    file: &FileInfo,
    place: &mut Place,
    tools: &mut Tools<'_>,
) -> io::Result<usize> {
    tools.buffer.resize(FILE_BYTES_MAX, 0);
    if let Place::Open(open) = place {
        return open.read_at(tools.buffer, 0);
    }
    let name = point.join(path.trim_start_matches('/')).join(file.name);
    let open = File::open(name)?;
    let length = open.read_at(tools.buffer, 0)?;
    *place = if file.each && tools.descriptors.0 > 0 {
        tools.descriptors.0 -= 1;
        Place::Open(open)
    } else {
        Place::Named
    };
    Ok(length)
}
