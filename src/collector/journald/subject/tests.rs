//! Tests of whom an entry is about, and of who may say so.

use super::*;

const INVOCATION: &str = "0123456789abcdef0123456789abcdef";
const FAILED: &str = "d9b373ed55a64feb8242e02dbe79a49c";
const CONTAINER: &str = "8d2f31d6a9a1f6a1c2b3d4e5f60718293a4b5c6d7e8f90123456789abcdef012";

/// The subject in short: owner, run, process, meaning.
fn read(fields: &[(&'static str, &str)]) -> String {
    let said = Said::of(fields);
    let subject = of(&said);
    let owner = match &subject.owner {
        Owner::Node => "node".to_owned(),
        Owner::Unit(name, None) => name.clone(),
        Owner::Unit(name, Some(uid)) => format!("{uid}:{name}"),
        Owner::Container(id) => format!("container {}", id.get(..4).unwrap_or_default()),
        Owner::Pod(uid) => format!("pod {uid}"),
    };
    let run = if subject.invocation == 0 { "" } else { " run" };
    let pid = subject.pid.map(|pid| format!(" [{pid}]")).unwrap_or_default();
    let line = subject.line.map(|line| line.meaning);
    let meaning = subject.meaning.map(|meaning| meaning.name).or(line).map(|name| format!(" {name}"));
    owner + run + &pid + &meaning.unwrap_or_default()
}

/// Scenario: entries of services, users, containers, pods and of no unit.
/// Guarantees: each is its writer's, with the run where journald knows it.
#[test]
fn an_entry_is_its_writers() {
    let service = [
        ("_PID", "7"),
        ("_UID", "33"),
        ("_SYSTEMD_CGROUP", "/system.slice/a.service"),
        ("_SYSTEMD_UNIT", "a.service"),
        ("_SYSTEMD_INVOCATION_ID", INVOCATION),
    ];
    assert_eq!(read(&service), "a.service run [7]");
    assert_eq!(read(&service[3..]), "a.service run");
    let user = [
        ("_PID", "8"),
        ("_UID", "1000"),
        ("_SYSTEMD_UNIT", "user@1000.service"),
        ("_SYSTEMD_USER_UNIT", "b.service"),
        ("_SYSTEMD_INVOCATION_ID", INVOCATION),
        ("_SYSTEMD_CGROUP", "/user.slice/user-1000.slice/user@1000.service/app.slice/b.service"),
    ];
    assert_eq!(read(&user), "1000:b.service [8]");
    assert_eq!(read(&user[..5]), "1000:b.service [8]");
    let docker = format!("/system.slice/docker-{CONTAINER}.scope");
    let scope = [("_PID", "9"), ("_SYSTEMD_CGROUP", &*docker), ("_SYSTEMD_UNIT", "docker-8d2f.scope")];
    assert_eq!(read(&scope), "container 8d2f [9]");
    let cri = format!(
        "/kubepods.slice/kubepods-pod11111111_2222_3333_4444_555555555555.slice/cri-containerd-{CONTAINER}.scope"
    );
    assert_eq!(read(&[("_SYSTEMD_CGROUP", &*cri)]), "container 8d2f");
    assert_eq!(read(&[("_PID", "5"), ("_UID", "0")]), "node [5]");
    assert_eq!(read(&[]), "node");
}

/// Scenario: what the managers say about units, and the same words from a program.
/// Guarantees: the unit is the subject, with its run and the meaning; a program speaks only for itself.
#[test]
fn managers_speak_of_units() {
    let said = [
        ("UNIT", "a.service"),
        ("INVOCATION_ID", INVOCATION),
        ("MESSAGE_ID", FAILED),
        ("_PID", "1"),
        ("_SYSTEMD_UNIT", "init.scope"),
    ];
    assert_eq!(read(&said), "a.service run unit_failed");
    let forged =
        [said[0], said[1], said[2], ("_PID", "66"), ("_UID", "33"), ("_SYSTEMD_UNIT", "evil.service")];
    assert_eq!(read(&forged), "evil.service [66]");
    let user = [
        ("USER_UNIT", "b.service"),
        ("USER_INVOCATION_ID", INVOCATION),
        ("MESSAGE_ID", FAILED),
        ("_PID", "900"),
        ("_UID", "1000"),
        ("_COMM", "systemd"),
        ("_SYSTEMD_USER_UNIT", "init.scope"),
    ];
    assert_eq!(read(&user), "1000:b.service run unit_failed");
    assert_eq!(read(&[("_PID", "1"), ("_SYSTEMD_UNIT", "init.scope")]), "init.scope [1]");
}

/// Scenario: a core dump of a service, of a container, of nobody's process; and a forged one.
/// Guarantees: it is about what dumped core, and its process.
#[test]
fn core_dumps_are_about_their_process() {
    let dump = [
        ("MESSAGE_ID", "fc2e22bc6ee647b6b90729ab34a250b1"),
        ("COREDUMP_PID", "77"),
        ("COREDUMP_UNIT", "a.service"),
        ("_UID", "0"),
        ("_PID", "80"),
        ("_SYSTEMD_UNIT", "systemd-coredump@1-2-0.service"),
    ];
    assert_eq!(read(&dump), "a.service [77] core_dumped");
    let cgroup = format!("/system.slice/docker-{CONTAINER}.scope");
    let inside = [dump[0], dump[1], dump[3], ("COREDUMP_CGROUP", &*cgroup)];
    assert_eq!(read(&inside), "container 8d2f [77] core_dumped");
    assert_eq!(read(&[dump[0], dump[1], dump[3]]), "node [77] core_dumped");
    let forged =
        [dump[0], dump[1], dump[2], ("_UID", "33"), ("_PID", "80"), ("_SYSTEMD_UNIT", "evil.service")];
    assert_eq!(read(&forged), "evil.service [80]");
}

/// Scenario: journald's notes about a service, a runtime's entries for a container, with and without the right.
/// Guarantees: the object is the subject only where the sender may speak of it.
#[test]
fn objects_and_containers_are_subjects() {
    let dropped = [
        ("MESSAGE_ID", "a596d6fe7bfa4994828e72309e95d61e"),
        ("_TRANSPORT", "driver"),
        ("_PID", "40"),
        ("_SYSTEMD_UNIT", "systemd-journald.service"),
        ("OBJECT_PID", "7"),
        ("OBJECT_SYSTEMD_UNIT", "a.service"),
        ("OBJECT_SYSTEMD_INVOCATION_ID", INVOCATION),
    ];
    assert_eq!(read(&dropped), "a.service run [7] messages_dropped");
    let docker =
        [("CONTAINER_ID_FULL", CONTAINER), ("_UID", "0"), ("_PID", "5"), ("_SYSTEMD_UNIT", "docker.service")];
    assert_eq!(read(&docker), "container 8d2f");
    let forged =
        [docker[0], ("_UID", "33"), ("OBJECT_SYSTEMD_UNIT", "a.service"), ("_SYSTEMD_UNIT", "evil.service")];
    assert_eq!(read(&forged), "evil.service");
}

/// Scenario: lines of the kernel, with and without a cgroup; one that a program wrote into the kernel's log.
/// Guarantees: the cgroup's owner is the subject, else the node; a program's line means nothing.
#[test]
fn kernel_lines_are_the_nodes() {
    let kernel = |message| [("_TRANSPORT", "kernel"), ("SYSLOG_FACILITY", "0"), ("MESSAGE", message)];
    let oom = "oom-kill:constraint=CONSTRAINT_MEMCG,x=y,oom_memcg=/system.slice/a.service,\
        task_memcg=/system.slice/a.service,task=py,pid=7,uid=33";
    assert_eq!(read(&kernel(oom)), "a.service [7] oom_kill");
    let host = "oom-kill:constraint=CONSTRAINT_NONE,x=y,global_oom,task_memcg=/system.slice/a.service,task=py,pid=7,uid=3";
    assert_eq!(read(&kernel(host)), "node [7] oom_kill");
    let pod = "oom-kill:constraint=CONSTRAINT_MEMCG,x=y,oom_memcg=/kubepods/burstable/pod11111111-2222-3333-4444-555555555555,\
        task_memcg=/kubepods/burstable/pod11111111-2222-3333-4444-555555555555/";
    let pod = format!("{pod}{CONTAINER},task=py,pid=7,uid=33");
    assert_eq!(read(&kernel(&pod)), "container 8d2f [7] oom_kill");
    let fork = "cgroup: fork rejected by pids controller in /system.slice/f.service";
    assert_eq!(read(&kernel(fork)), "f.service fork_refused");
    assert_eq!(read(&kernel("crash[77]: segfault at 0 ip 0 sp 0 error 6 in c[1+1]")), "node [77] segfault");
    assert_eq!(read(&kernel("usb 1-1: new device")), "node");
    let program = [("_TRANSPORT", "kernel"), ("SYSLOG_FACILITY", "1"), ("MESSAGE", oom)];
    assert_eq!(read(&program), "node");
}

/// Scenario: lines of a kubelet on a container, on a pod and on neither; the same of programs that are none, and of one
/// whose error quotes such a line.
/// Guarantees: a container or pod is the subject only where the kubelet's own key names it.
#[test]
fn the_kubelet_speaks_of_containers() {
    const UID: &str = "f801fa24-a997-4204-bfb7-1fa9f57198d8";
    let said = |comm: &str, uid: &str, message: &str| {
        read(&[
            ("_PID", "7"),
            ("_UID", uid),
            ("_COMM", comm),
            ("_SYSTEMD_UNIT", "k.service"),
            ("MESSAGE", message),
        ])
    };
    let removed = format!("I1129 scope.go:118] \"RemoveContainer\" containerID=\"{CONTAINER}\"");
    let killed =
        format!("I1129 x.go:1] \"Killing\" podUID=\"{UID}\" containerID=\"containerd://{CONTAINER}\" n=1");
    let skipped =
        format!("E1129 pod_workers.go:1338] \"Error\" err=\"no\" pod=\"shop/loop\" podUID=\"{UID}\"");
    let quoted = format!("E1129 x.go:1] \"Error\" err=\"containerID=\\\"{CONTAINER}\\\"\"");
    for (comm, uid, message, expected) in [
        ("kubelet", "0", &*removed, "container 8d2f kubelet_says".to_owned()),
        ("k3s-server", "0", &*killed, "container 8d2f kubelet_says".to_owned()),
        ("kubelet", "0", &*skipped, format!("pod {UID} kubelet_says")),
        ("kubelet", "0", &*quoted, "k.service [7]".to_owned()),
        (
            "kubelet",
            "0",
            "I1129 x.go:1] \"Odd\" containerID=\"8d2f\" podUID=\"../x\"",
            "k.service [7]".to_owned(),
        ),
        ("kubelet", "1000", &*removed, "k.service [7]".to_owned()),
        ("sh", "0", &*removed, "k.service [7]".to_owned()),
    ] {
        assert_eq!(said(comm, uid, message), expected, "{comm} {message}");
    }
}
