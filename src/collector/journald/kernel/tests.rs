//! Tests of the parser of kernel lines: every kind of line, and what only looks like one.

use super::*;

/// A line as meaning and `NAME=value` pairs.
fn read(line: &str) -> String {
    let Some(line) = parse(line) else { return String::new() };
    let fields = line.fields.iter().map(|(name, value)| format!(" {name}={value}"));
    line.meaning.to_owned() + &fields.collect::<String>()
}

/// Lines and what they say.
const LINES: &[(&str, &str)] = &[
    (
        "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,\
             oom_memcg=/system.slice/a.service,task_memcg=/system.slice/a.service/w,task=py,3,pid=4167,uid=33",
        "oom_kill CONSTRAINT=memcg LIMIT_CGROUP=/system.slice/a.service CGROUP=/system.slice/a.service/w \
             COMM=py,3 PID=4167 UID=33",
    ),
    (
        "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=x,mems_allowed=0,global_oom,\
             task_memcg=/system.slice/b.service,task=java,pid=9,uid=0",
        "oom_kill CONSTRAINT=none CGROUP=/system.slice/b.service COMM=java PID=9 UID=0",
    ),
    (
        "Memory cgroup out of memory: Killed process 4167 (a (b) c) total-vm:10kB, anon-rss:50176kB, \
             file-rss:4kB, shmem-rss:0kB, UID:33 pgtables:152kB oom_score_adj:0",
        "oom_killed_in_cgroup PID=4167 COMM=a (b) c ANON_RSS_KIB=50176 UID=33",
    ),
    (
        "Out of memory: Killed process 9 (java) total-vm:1kB, anon-rss:2kB, file-rss:0kB, shmem-rss:0kB, UID:0 x",
        "oom_killed PID=9 COMM=java ANON_RSS_KIB=2 UID=0",
    ),
    (
        "crash[77]: segfault at 0 ip 000055d0c0de1139 sp 00007ffd5 error 6 in crash[55d0c0de1000+1000] likely on CPU 1",
        "segfault COMM=crash PID=77 LIBRARY=crash",
    ),
    (
        "a[1][78]: segfault at 10 ip 00007f sp 00007f error 4 in libc.so.6[7f+1000]",
        "segfault COMM=a[1] PID=78 LIBRARY=libc.so.6",
    ),
    (
        "traps: prog[12] general protection fault ip:401 sp:7ff error:0 in prog[400000+1000]",
        "trap COMM=prog PID=12 REASON=general protection fault LIBRARY=prog",
    ),
    (
        "traps: prog[13] trap invalid opcode ip:401 sp:7ff error:0 in prog[400000+1000]",
        "trap COMM=prog PID=13 REASON=invalid opcode LIBRARY=prog",
    ),
    (
        "cgroup: fork rejected by pids controller in /system.slice/fork.service",
        "fork_refused CGROUP=/system.slice/fork.service",
    ),
    ("nf_conntrack: nf_conntrack: table full, dropping packet", "conntrack_full"),
    ("nf_conntrack: table full, dropping packet.", "conntrack_full"),
    (
        "EXT4-fs error (device sda1): ext4_lookup:1785: inode #2: comm ls: deleted inode referenced: 12",
        "filesystem_error DEVICE=sda1",
    ),
    ("EXT4-fs (sda1): Remounting filesystem read-only", "read_only DEVICE=sda1"),
    ("BTRFS info (device dm-0): forced readonly", "read_only DEVICE=dm-0"),
    ("BTRFS error (device dm-0: state EA): bdev errs", "filesystem_error DEVICE=dm-0"),
    ("XFS (dm-1): Metadata corruption detected at xfs_agf", "filesystem_error DEVICE=dm-1"),
    (
        "XFS (dm-1): Log I/O Error (0x2) detected at xlog. Shutting down filesystem.",
        "filesystem_shutdown DEVICE=dm-1",
    ),
    (
        "I/O error, dev sda, sector 2048 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 0",
        "io_error DEVICE=sda SECTOR=2048 OPERATION=READ",
    ),
    (
        "blk_update_request: I/O error, dev nvme0n1, sector 7 op 0x1:(WRITE) flags 0x0",
        "io_error DEVICE=nvme0n1 SECTOR=7 OPERATION=WRITE",
    ),
    ("critical medium error, dev sdb, sector 9 op 0x0:(READ)", "io_error DEVICE=sdb SECTOR=9 OPERATION=READ"),
    ("Buffer I/O error on dev sda1, logical block 0, async page read", "io_error DEVICE=sda1"),
    ("INFO: task a:b:413 blocked for more than 120 seconds.", "hung_task COMM=a:b PID=413 SECONDS=120"),
    (
        "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [kworker/1:2:99]",
        "soft_lockup CPU=1 SECONDS=22 COMM=kworker/1:2 PID=99",
    ),
    (
        "TCP: request_sock_TCP: Possible SYN flooding on port 8080. Sending cookies.  Check SNMP counters.",
        "syn_flooding PORT=8080",
    ),
    (
        "TCP: request_sock_TCP: Possible SYN flooding on port [::]:443. Sending cookies.",
        "syn_flooding PORT=443",
    ),
    ("NETDEV WATCHDOG: eth0 (e1000): transmit queue 0 timed out", "network_watchdog INTERFACE=eth0"),
    ("mce: [Hardware Error]: CPU 3: Machine Check Exception: 4 Bank 5", "machine_check CPU=3"),
];

/// Scenario: a line of each kind, in the words of kernels from 5.10 to 6.18.
/// Guarantees: its meaning and all its values.
#[test]
fn lines_of_the_kernel() {
    for (text, expected) in LINES {
        assert_eq!(read(text), *expected, "{text}");
    }
}

/// Scenario: ordinary lines, lines that quote the known ones, and lines that are cut anywhere.
/// Guarantees: the first two mean nothing; cut ones never panic.
#[test]
fn other_lines_mean_nothing() {
    for text in [
        "",
        "usb 1-1: new high-speed USB device number 2",
        "oom_reaper: reaped process 4167 (python3), now anon-rss:0kB",
        "oom-kill:constraint=CONSTRAINT_OTHER,task=a,pid=1,uid=0",
        "myprog: oom-kill:constraint=CONSTRAINT_MEMCG,task=a,pid=1,uid=0",
        "prog[12]: not a segfault",
        "prog[x]: segfault at 0 ip 0 sp 0 error 4",
        "EXT4-fs (sda1): mounted filesystem with ordered data mode",
    ] {
        assert_eq!(read(text), "", "{text}");
    }
    let long = "oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/a,task_memcg=/b,task=\u{e4},pid=1,uid=2";
    for (end, _) in long.char_indices() {
        let _ = parse(&long[..end]);
    }
}
