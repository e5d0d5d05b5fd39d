//! Shapes of real paths, and paths that nobody makes.

use proptest::prelude::*;

use super::*;

const ID: &str = "4b1f0c2d9e8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c";
const ID2: &str = "00ff11ee22dd33cc44bb55aa66997788f0e1d2c3b4a5968778695a4b3c2d1e0f";
const UID: &str = "2b5f1c7e-8d3a-4e6f-9a0b-1c2d3e4f5a6b";

/// Path with {I}, {J} (container ids), {U}, {_U} (pod uid) and {S} (a static pod's), then what it means in short:
/// kind unit manager slice container runtime pod, `-` for nothing.
const SHAPES: &[(&str, &str)] = &[
    // systemd, the same on v1, v2 and hybrid hierarchies.
    ("/", "node - s - - ? -"),
    ("", "node - s - - ? -"),
    ("/init.scope", "unit init.scope s - - ? -"),
    ("/system.slice", "unit system.slice s system.slice - ? -"),
    ("/system.slice/nginx.service", "unit nginx.service s system.slice - ? -"),
    ("/system.slice/nginx.service/", "unit nginx.service s system.slice - ? -"),
    ("/system.slice/web.service/workers/3", "unit web.service s system.slice - ? -"),
    (
        "/system.slice/system-getty.slice/getty@tty1.service",
        "unit getty@tty1.service s system-getty.slice - ? -",
    ),
    (
        "/system.slice/system-serial\\x2dgetty.slice/serial-getty@ttyS0.service",
        "unit serial-getty@ttyS0.service s system-serial\\x2dgetty.slice - ? -",
    ),
    (
        "/system.slice/dev-disk-by\\x2dlabel-swap.swap",
        "unit dev-disk-by\\x2dlabel-swap.swap s system.slice - ? -",
    ),
    ("/system.slice/var-lib-docker.mount", "unit var-lib-docker.mount s system.slice - ? -"),
    ("/system.slice/dbus.socket", "unit dbus.socket s system.slice - ? -"),
    (
        "/system.slice/run-r0123456789abcdef0123456789abcdef.scope",
        "unit run-r0123456789abcdef0123456789abcdef.scope s system.slice - ? -",
    ),
    ("/system.slice/run-u42.service", "unit run-u42.service s system.slice - ? -"),
    ("/system.slice/systemd-udevd.service/udev", "unit systemd-udevd.service s system.slice - ? -"),
    ("/_cgroup.service", "unit cgroup.service s - - ? -"),
    ("/system.slice/_memory.service", "unit memory.service s system.slice - ? -"),
    ("/a.slice/a-b.slice/a-b-c.slice/deep.service", "unit deep.service s a-b-c.slice - ? -"),
    ("/user.slice", "unit user.slice s user.slice - ? -"),
    ("/user.slice/user-1000.slice/session-3.scope", "unit session-3.scope s user-1000.slice - ? -"),
    ("/user.slice/user-1000.slice/user@1000.service", "unit user@1000.service s user-1000.slice - ? -"),
    (
        "/user.slice/user-1000.slice/user@1000.service/init.scope",
        "unit init.scope u1000 user-1000.slice - ? -",
    ),
    ("/user.slice/user-1000.slice/user@1000.service/app.slice", "unit app.slice u1000 app.slice - ? -"),
    (
        "/user.slice/user-1000.slice/user@1000.service/app.slice/y.service",
        "unit y.service u1000 app.slice - ? -",
    ),
    (
        "/user.slice/user-0.slice/user@0.service/app.slice/app-gnome-firefox-2211.scope",
        "unit app-gnome-firefox-2211.scope u0 app.slice - ? -",
    ),
    ("/user.slice/user-1000.slice/user@x.service/app.slice/y.service", "unit y.service n app.slice - ? -"),
    // No units: names that look like one.
    ("/system.slice/foo@.service", "unit system.slice s system.slice - ? -"),
    ("/.service", "cgroup - s - - ? -"),
    ("/batch", "cgroup - s - - ? -"),
    ("/batch/job.service", "unit job.service n - - ? -"),
    ("/process_api/82deb7e66dcf929b4e85dc39664ec43b", "cgroup - s - - ? -"),
    ("/with space.service", "cgroup - s - - ? -"),
    // A cgroup namespace seen from below.
    ("/../../system.slice/ssh.service", "unit ssh.service s system.slice - ? -"),
    // Kubernetes with the systemd driver: containerd, cri-o, dockershim.
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_U}.slice/cri-containerd-{I}.scope",
        "container cri-containerd-{I}.scope s kubepods-burstable-pod{_U}.slice {I} containerd {U}",
    ),
    (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{_U}.slice/cri-containerd-{I}.scope",
        "container cri-containerd-{I}.scope s kubepods-besteffort-pod{_U}.slice {I} containerd {U}",
    ),
    (
        "/kubepods.slice/kubepods-pod{_U}.slice/cri-containerd-{I}.scope",
        "container cri-containerd-{I}.scope s kubepods-pod{_U}.slice {I} containerd {U}",
    ),
    (
        "/kubepods.slice/kubepods-pod{S}.slice/cri-containerd-{I}.scope",
        "container cri-containerd-{I}.scope s kubepods-pod{S}.slice {I} containerd {S}",
    ),
    ("/kubepods.slice/kubepods-pod{_U}.slice", "pod kubepods-pod{_U}.slice s kubepods-pod{_U}.slice - ? {U}"),
    (
        "/kubepods.slice/kubepods-burstable.slice",
        "unit kubepods-burstable.slice s kubepods-burstable.slice - ? -",
    ),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_U}.slice/crio-{I}.scope",
        "container crio-{I}.scope s kubepods-burstable-pod{_U}.slice {I} crio {U}",
    ),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_U}.slice/crio-{I}.scope/container",
        "container crio-{I}.scope s kubepods-burstable-pod{_U}.slice {I} crio {U}",
    ),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_U}.slice/crio-conmon-{I}.scope",
        "pod crio-conmon-{I}.scope s kubepods-burstable-pod{_U}.slice - ? {U}",
    ),
    ("/system.slice/crio-conmon-{I}.scope", "unit crio-conmon-{I}.scope s system.slice - ? -"),
    ("/system.slice/crio-{I}.scope", "container crio-{I}.scope s system.slice {I} crio -"),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_U}.slice/docker-{I}.scope",
        "container docker-{I}.scope s kubepods-burstable-pod{_U}.slice {I} docker {U}",
    ),
    // Kubernetes with the cgroupfs driver.
    ("/kubepods/burstable/pod{U}/{I}", "container - s - {I} ? {U}"),
    ("/kubepods/besteffort/pod{U}/{I}", "container - s - {I} ? {U}"),
    ("/kubepods/pod{U}/{I}", "container - s - {I} ? {U}"),
    ("/kubepods/pod{S}/{I}", "container - s - {I} ? {S}"),
    ("/kubepods/pod{U}", "pod - s - - ? {U}"),
    ("/kubepods/burstable/pod{U}/crio-{I}", "container - s - {I} crio {U}"),
    ("/kubepods/burstable/pod{U}/crio-conmon-{I}", "pod - s - - ? {U}"),
    ("/kubepods/burstable", "cgroup - s - - ? -"),
    (
        "/system.slice/containerd.service/kubepods-burstable-pod{_U}.slice:cri-containerd:{I}",
        "container containerd.service s system.slice {I} containerd {U}",
    ),
    ("/kubepods-besteffort-pod{_U}.slice:cri-containerd:{I}", "container - s - {I} containerd {U}"),
    ("/kubepods/podcast/x", "cgroup - s - - ? -"),
    // Docker, containerd alone, nerdctl, podman.
    ("/docker/{I}", "container - s - {I} docker -"),
    ("/system.slice/docker-{I}.scope", "container docker-{I}.scope s system.slice {I} docker -"),
    ("/system.slice/docker-{I}.scope/init", "container docker-{I}.scope s system.slice {I} docker -"),
    ("/system.slice/docker.service", "unit docker.service s system.slice - ? -"),
    ("/system.slice:docker:{I}", "container - s - {I} docker -"),
    ("/docker/{I}/system.slice/nginx.service", "container nginx.service n system.slice {I} docker -"),
    ("/docker/{I}/init.scope", "container init.scope n - {I} docker -"),
    ("/docker/{I}/docker/{J}", "container - s - {J} docker -"),
    ("/system.slice/docker-{I}.scope/docker/{J}", "container docker-{I}.scope s system.slice {J} docker -"),
    ("/docker/buildkit/k8u2mzq0xxk4y6gk4nqj2f0wz", "cgroup - s - - ? -"),
    ("/default/{I}", "container - s - {I} containerd -"),
    ("/system.slice/nerdctl-{I}.scope", "container nerdctl-{I}.scope s system.slice {I} containerd -"),
    ("/machine.slice/libpod-{I}.scope", "container libpod-{I}.scope s machine.slice {I} podman -"),
    ("/machine.slice/libpod-{I}.scope/container", "container libpod-{I}.scope s machine.slice {I} podman -"),
    ("/machine.slice/libpod-conmon-{I}.scope", "unit libpod-conmon-{I}.scope s machine.slice - ? -"),
    ("/libpod_parent/libpod-{I}", "container - s - {I} podman -"),
    ("/libpod_parent/{I}", "container - s - {I} podman -"),
    ("/libpod_parent/conmon", "cgroup - s - - ? -"),
    (
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{I}.scope/container",
        "container libpod-{I}.scope u1000 user.slice {I} podman -",
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_{J}.slice/libpod-{I}.scope",
        "container libpod-{I}.scope u1000 user-libpod_pod_{J}.slice {I} podman -",
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-{I}.scope",
        "unit libpod-conmon-{I}.scope u1000 user.slice - ? -",
    ),
    ("/system.slice/web.service/libpod-payload-{I}", "container web.service s system.slice {I} podman -"),
    ("/system.slice/web.service/runtime", "unit web.service s system.slice - ? -"),
    (
        "/machine.slice/libpod-{I}.scope/system.slice/sshd.service",
        "container sshd.service n system.slice {I} podman -",
    ),
    // Machines.
    (
        "/machine.slice/systemd-nspawn@deb.service/payload/system.slice/ssh.service",
        "unit ssh.service n system.slice - ? -",
    ),
    (
        "/machine.slice/systemd-nspawn@deb.service/supervisor",
        "unit systemd-nspawn@deb.service s machine.slice - ? -",
    ),
    ("/machine.slice/systemd-nspawn@deb.service/payload/init.scope", "unit init.scope n machine.slice - ? -"),
    ("/machine.slice/machine-deb.scope/payload", "unit machine-deb.scope s machine.slice - ? -"),
    (
        "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/emulator",
        "unit machine-qemu\\x2d1\\x2dvm.scope s machine.slice - ? -",
    ),
    // A cluster whose nodes are containers (kind), with docker on both drivers outside.
    (
        "/docker/{I}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
         kubelet-kubepods-burstable-pod{_U}.slice/cri-containerd-{J}.scope",
        "container cri-containerd-{J}.scope n kubelet-kubepods-burstable-pod{_U}.slice {J} containerd {U}",
    ),
    (
        "/system.slice/docker-{I}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{_U}.slice",
        "pod kubelet-kubepods-pod{_U}.slice n kubelet-kubepods-pod{_U}.slice - ? {U}",
    ),
    ("/docker/{I}/kubelet/kubepods/besteffort/pod{U}/{J}", "container - s - {J} ? {U}"),
    (
        "/system.slice/docker-{I}.scope/kubelet.slice/kubelet.service",
        "container kubelet.service n kubelet.slice {I} docker -",
    ),
    ("/kubepods/burstable/pod{U}/{I}/docker/{J}", "container - s - {J} docker {U}"),
    // LXC, LXD, Proxmox, ECS, and a runtime that nobody told us about.
    ("/lxc.payload.web/system.slice/nginx.service", "container nginx.service n system.slice web lxc -"),
    ("/lxc.payload.web", "container - s - web lxc -"),
    ("/lxc.payload/web/init.scope", "container init.scope n - web lxc -"),
    ("/lxc.monitor.web", "cgroup - s - - ? -"),
    ("/lxc/101/ns/system.slice/cron.service", "container cron.service n system.slice 101 lxc -"),
    ("/lxc/web", "container - s - web lxc -"),
    ("/ecs/0f1e2d3c4b5a69788796a5b4c3d2e1f0/{I}", "container - s - {I} ecs -"),
    (
        "/ecs/0f1e2d3c4b5a69788796a5b4c3d2e1f0/0f1e2d3c4b5a69788796a5b4c3d2e1f0-1234567890",
        "container - s - 0f1e2d3c4b5a69788796a5b4c3d2e1f0-1234567890 ecs -",
    ),
    ("/system.slice/newruntime-{I}.scope", "container newruntime-{I}.scope s system.slice {I} ? -"),
    // A mount unit with a container id in its name, and an id that is too short or none.
    (
        "/system.slice/var-lib-docker-containers-{I}-mounts-shm.mount",
        "unit var-lib-docker-containers-{I}-mounts-shm.mount s system.slice - ? -",
    ),
    ("/system.slice/docker-abc.scope", "unit docker-abc.scope s system.slice - ? -"),
    ("/system.slice/docker-volumes.scope", "unit docker-volumes.scope s system.slice - ? -"),
];

fn fill(template: &str) -> String {
    template
        .replace("{I}", ID)
        .replace("{J}", ID2)
        .replace("{U}", UID)
        .replace("{_U}", &UID.replace('-', "_"))
        .replace("{S}", "0a1b2c3d4e5f60718293a4b5c6d7e8f9")
}

fn short(found: &CgroupPath<'_>) -> String {
    let kind = format!("{:?}", found.kind).to_lowercase();
    let manager = match found.manager {
        Manager::System => "s".to_owned(),
        Manager::User(uid) => format!("u{uid}"),
        Manager::Nested => "n".to_owned(),
    };
    let runtime = match found.runtime {
        Runtime::Unknown => "?".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    };
    let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let [unit, slice, container, pod] =
        [found.unit, found.slice, found.container_id, &found.pod_uid].map(or_none);
    format!("{kind} {unit} {manager} {slice} {container} {runtime} {pod}")
}

/// Scenario: paths as systemd, Kubernetes and the container runtimes make them.
/// Guarantees: unit, manager, slice, container, runtime and pod of each are what their makers mean.
#[test]
fn real_paths_mean_what_their_makers_say() {
    assert!(SHAPES.len() >= 60);
    let mut wrong = Vec::new();
    for (path, expected) in SHAPES {
        let (path, expected) = (fill(path), fill(expected));
        let got = short(&parse(&path));
        if got != expected {
            wrong.push(format!("{path}\n     got {got}\nexpected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Scenario: a process of a unit runs in a cgroup below the unit's own.
/// Guarantees: the unit's own cgroup, which carries the invocation id, is found.
#[test]
fn the_cgroup_of_the_unit_is_found() {
    for (path, unit) in [
        ("/system.slice/web.service/workers/3", "/system.slice/web.service"),
        ("/system.slice/web.service", "/system.slice/web.service"),
        ("//system.slice//web.service/x", "//system.slice//web.service"),
        ("/system.slice/x/y", "/system.slice"),
        ("/x/y", ""),
    ] {
        assert_eq!(parse(path).unit_path, unit);
    }
}

/// A path of components that real paths are made of, shuffled, and of noise.
fn any_path() -> impl Strategy<Value = String> {
    let known: Vec<String> = SHAPES
        .iter()
        .flat_map(|(path, _)| fill(path).split('/').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let component =
        prop_oneof![4 => prop::sample::select(known), 1 => "\\PC{0,40}", 1 => "[a-z0-9@:._-]{0,80}"];
    prop::collection::vec(component, 0..12).prop_map(|parts| format!("/{}", parts.join("/")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Scenario: any text, and any mix of real components, is read.
    /// Guarantees: no panic; all that is found is in the path; the kind agrees with what was found.
    #[test]
    fn any_path_is_read(path in prop_oneof![any_path(), ".{0,200}"]) {
        let found = parse(&path);
        prop_assert_eq!(&found, &parse(&path));
        for part in [found.unit, found.slice, found.container_id] {
            prop_assert!(path.contains(part));
        }
        prop_assert!(path.starts_with(found.unit_path) && found.unit_path.ends_with(found.unit));
        let kind = if !found.container_id.is_empty() {
            EntityKind::Container
        } else if !found.pod_uid.is_empty() {
            EntityKind::Pod
        } else if !found.unit.is_empty() {
            EntityKind::Unit
        } else if path.split('/').all(|part| matches!(part, "" | "." | "..")) {
            EntityKind::Node
        } else {
            EntityKind::Cgroup
        };
        prop_assert_eq!(found.kind, kind);
    }

    /// Scenario: a process makes a cgroup of its own below any other, and slashes are doubled.
    /// Guarantees: it stays in the same unit, container and pod.
    #[test]
    fn ordinary_children_belong_to_their_parent(path in any_path(), child in "[a-z]{1,8}") {
        let parent = parse(&path);
        // What is directly below lxc is a container whatever its name.
        let last = path.split('/').rfind(|part| !matches!(*part, "" | "." | ".."));
        let below_lxc = last.is_some_and(|last| matches!(last.trim_start_matches('_'), "lxc" | "lxc.payload"));
        prop_assume!(last.is_some() && !below_lxc);
        let below = format!("{}//{child}/", path.replace('/', "//"));
        let found = parse(&below);
        prop_assert_eq!(short(&found), short(&parent));
    }
}
