//! Failing system calls, and block requests through a loop device.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tapio::collector::ebpf::Counter;
use tapio::event::Kind;

use super::recorder::{Recorder, of, options, root, run};
use crate::skipped;

/// A tmpfs of a few KiB, unmounted at the end.
struct Tiny {
    folder: tempfile::TempDir,
}

impl Tiny {
    fn mount(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let size = format!("size={size}");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tapio-test", path]).status();
        assert!(status.unwrap().success());
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _best_effort = Command::new("umount").arg(self.folder.path()).status();
    }
}

/// Scenario: a full file system, no file descriptor left, a port that is taken, and many failures of no
/// interest.
/// Guarantees: ENOSPC, EMFILE and EADDRINUSE come with the call's number and the process; ENOENT does not
/// come.
#[test]
fn live_errnos_of_exhaustion() {
    if !root("live_errnos_of_exhaustion") {
        return;
    }
    let tiny = Tiny::mount("8k");
    let mut recorder = Recorder::start(&options(&["errno"]));
    File::create(tiny.path("file")).unwrap().write_all(&[1; 64 << 10]).unwrap_err();
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
    std::net::TcpListener::bind(listener.local_addr().unwrap()).unwrap_err();
    File::open("/nonexistent").unwrap_err();
    let shell = run("/bin/sh", &["-c", "ulimit -n 3; : </dev/null"]);
    let events = recorder.stop();

    let own: Vec<(u64, u64)> = of(&events, Kind::SyscallError, std::process::id())
        .iter()
        .map(|event| (event.number("errno"), event.number("syscall")))
        .collect();
    #[cfg(target_arch = "x86_64")]
    assert_eq!(own, [(28, 1), (98, 49)], "write and bind");
    #[cfg(not(target_arch = "x86_64"))]
    assert_eq!(own.iter().map(|(errno, _)| *errno).collect::<Vec<_>>(), [28, 98]);
    let of_shell = of(&events, Kind::SyscallError, shell);
    assert!(
        of_shell.iter().any(|event| event.number("errno") == 24 && event.chars("comm") == "sh"),
        "{of_shell:?}"
    );
    assert!(of_shell.iter().all(|event| event.header.producer % 2 == 1));
}

/// Scenario: the same failure nine times at once with a budget of two a second, and once more later.
/// Guarantees: two are streamed, seven counted, and the next event says that seven were held back before it.
#[test]
fn live_errnos_have_a_budget() {
    if !root("live_errnos_have_a_budget") {
        return;
    }
    let mut wanted = options(&["errno"]);
    wanted.filters.errnos_per_second = 2;
    let mut recorder = Recorder::start(&wanted);
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = listener.local_addr().unwrap();
    for _ in 0..9 {
        std::net::TcpListener::bind(taken).unwrap_err();
    }
    std::thread::sleep(Duration::from_millis(1100));
    std::net::TcpListener::bind(taken).unwrap_err();
    let events = recorder.stop();
    let own = of(&events, Kind::SyscallError, std::process::id());
    assert!(own.iter().all(|event| event.number("errno") == 98));
    let suppressed: Vec<u64> = own.iter().map(|event| event.number("suppressed")).collect();
    assert_eq!(suppressed, [0, 0, 7]);
    assert_eq!(recorder.loaded.cpus.total(Counter::ErrnosSuppressed), 7);
}

/// A loop device over a file; `None` with the reason where there is none.
struct Loop {
    device: String,
}

impl Loop {
    fn over(file: &Path) -> Result<Self, String> {
        let output = Command::new("losetup").args(["-f", "--show"]).arg(file).output();
        let output = output.map_err(|error| format!("no losetup: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(Self { device: String::from_utf8_lossy(&output.stdout).trim().to_owned() })
    }

    /// Major << 20 | minor.
    fn number(&self) -> u64 {
        let name = self.device.trim_start_matches("/dev/");
        let text = std::fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap();
        let (major, minor) = text.trim().split_once(':').unwrap();
        major.parse::<u64>().unwrap() << 20 | minor.parse::<u64>().unwrap()
    }

    fn dd(&self, arguments: &[&str]) -> bool {
        Command::new("dd").args(arguments).output().unwrap().status.success()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _best_effort = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

/// Scenario: 8 KiB are read past the cache from a loop device, with a threshold of one nanosecond.
/// Guarantees: each request is an event with device, sector, size, operation and a latency; with a threshold
/// that nothing reaches there is none, and all are counted as fast.
#[test]
fn live_block_latency() {
    if !root("live_block_latency") {
        return;
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[7; 1 << 20]).unwrap();
    let device = match Loop::over(file.path()) {
        Ok(device) => device,
        Err(reason) => return skipped("live_block_latency", &reason),
    };
    let read =
        [&*format!("if={}", device.device), "of=/dev/null", "bs=8k", "skip=3", "count=1", "iflag=direct"];

    let mut wanted = options(&["block"]);
    wanted.filters.block_latency = Duration::from_nanos(1);
    let mut recorder = Recorder::start(&wanted);
    assert!(device.dd(&read));
    let events = recorder.stop();
    let slow: Vec<_> = events
        .iter()
        .filter(|event| event.kind == Kind::BlockLatency && event.number("device") == device.number())
        .filter(|event| event.number("sector") == 48 && event.number("operation") == 0)
        .collect();
    assert_eq!(slow.len(), 1, "{events:?}");
    assert_eq!(slow[0].number("bytes"), 8192);
    assert!((1_000..10_000_000_000).contains(&slow[0].number("latency_ns")));

    wanted.filters.block_latency = Duration::from_secs(3600);
    let mut recorder = Recorder::start(&wanted);
    assert!(device.dd(&read));
    let events = recorder.stop();
    assert!(events.iter().all(|event| event.kind != Kind::BlockLatency));
    assert!(recorder.loaded.cpus.total(Counter::BlockFast) > 0);
}

/// Scenario: a loop device whose sparse file has no room on its full tmpfs is written to.
/// Guarantees: the failed request is an event with device, sector, size, operation and an errno, in the
/// urgent lane.
#[test]
fn live_block_error() {
    if !root("live_block_error") {
        return;
    }
    let tiny = Tiny::mount("64k");
    let backing = tiny.path("backing");
    File::create(&backing).unwrap().set_len(1 << 20).unwrap();
    File::create(tiny.path("filler")).unwrap().write_all(&[1; 128 << 10]).unwrap_err();
    let device = match Loop::over(&backing) {
        Ok(device) => device,
        Err(reason) => return skipped("live_block_error", &reason),
    };
    let mut recorder = Recorder::start(&options(&["block"]));
    let to = format!("of={}", device.device);
    assert!(!device.dd(&["if=/dev/zero", &to, "bs=256k", "seek=1", "count=1", "oflag=direct"]));
    let events = recorder.stop();
    let failed: Vec<_> = events
        .iter()
        .filter(|event| event.kind == Kind::BlockError && event.number("device") == device.number())
        .collect();
    assert!(!failed.is_empty());
    for event in failed {
        assert_eq!((event.number("operation"), event.header.producer % 2), (1, 1));
        // Older loop devices say EIO whatever the reason.
        assert!([5, 28].contains(&event.number("errno")), "{event:?}");
        assert!((512..1024).contains(&event.number("sector")) && event.number("bytes") > 0, "{event:?}");
    }
}

/// A kernel setting, put back at the end.
struct Setting {
    path: &'static str,
    before: String,
}

impl Setting {
    fn set(path: &'static str, value: &str) -> std::io::Result<Self> {
        let before = std::fs::read_to_string(path)?;
        let setting = Self { path, before };
        std::fs::write(path, value)?;
        Ok(setting)
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _best_effort = std::fs::write(self.path, self.before.trim());
    }
}

/// Scenario: a file system is frozen under a writer, with a watchdog of one second.
/// Guarantees: the watchdog's finding is an event of the writer, by name, in the urgent lane.
#[test]
fn live_hang_of_a_writer() {
    const NAME: &str = "live_hang_of_a_writer";
    if !root(NAME) {
        return;
    }
    let watchdog = match Setting::set("/proc/sys/kernel/hung_task_timeout_secs", "1") {
        Ok(setting) => setting,
        Err(error) => return skipped(NAME, &format!("no watchdog of hung tasks: {error}")),
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(16 << 20).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let succeeds = |program: &str, arguments: &[&std::ffi::OsStr]| {
        Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    let (image, mount) = (file.path().as_os_str(), folder.path().as_os_str());
    let mounted = succeeds("mkfs.ext4", &["-q".as_ref(), image])
        && succeeds("mount", &["-o".as_ref(), "loop".as_ref(), image, mount]);
    if !mounted {
        return skipped(NAME, "an ext4 image cannot be made and mounted");
    }
    let mut recorder = Recorder::start(&options(&["hang"]));
    assert!(succeeds("fsfreeze", &["-f".as_ref(), mount]));
    let target = folder.path().join("file");
    let mut writer = Command::new("dd")
        .args(["if=/dev/zero", &format!("of={}", target.display()), "bs=1", "count=1"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // The watchdog wants to find it asleep twice, a period apart.
    std::thread::sleep(Duration::from_millis(3500));
    assert!(succeeds("fsfreeze", &["-u".as_ref(), mount]));
    writer.wait().unwrap();
    assert!(succeeds("umount", &[mount]));
    drop(watchdog);
    let events = recorder.stop();
    let hangs = of(&events, Kind::ProcessHang, writer.id());
    assert!(!hangs.is_empty(), "{events:?}");
    assert_eq!((hangs[0].chars("comm"), hangs[0].header.producer % 2), ("dd".to_owned(), 1));
}
