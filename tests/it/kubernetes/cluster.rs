//! The pods that fail on a real node, each in a way of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::plane::Plane;
use super::programs::Programs;

pub(super) const PODS: &str = "/api/v1/namespaces/shop/pods";

/// Uses memory until it is killed.
const EATER: &str = "x=x; while :; do x=$x$x; done";

/// Makes a pod of the node whose one container is like this, with what else the pod needs.
fn run(plane: &Plane, name: &str, container: &Value, more: &Value) {
    let mut container = container.clone();
    container["name"] = json!("main");
    if container["image"].is_null() {
        container["image"] = json!("rig.local/busybox:1");
        container["imagePullPolicy"] = json!("Never");
    }
    let mut spec = json!({"nodeName": "rig", "hostNetwork": true, "automountServiceAccountToken": false,
        "containers": [container], "terminationGracePeriodSeconds": 1});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    plane.post(PODS, &json!({"metadata": {"name": name}, "spec": spec}));
}

fn shell(script: &str) -> Value {
    json!({"command": ["sh", "-c", script]})
}

fn with(mut container: Value, field: &str, value: Value) -> Value {
    container[field] = value;
    container
}

fn limited(container: Value) -> Value {
    with(container, "resources", json!({"limits": {"memory": "16Mi"}}))
}

/// Makes a pod for every way to fail, and one that is fine: over its memory limit, a child that is, a crash loop, a
/// liveness probe that fails, images that cannot be had for four reasons, a `ConfigMap` that is missing, and more in its
/// volume than fits.
pub(super) fn provoke(plane: &Plane, registry: &Registry) {
    let none = json!({});
    // Below its request, so that others are evicted first.
    run(plane, "fine", &limited(shell("sleep 1000")), &none);
    run(plane, "oom", &limited(shell(&format!("sleep 1; {EATER}"))), &none);
    run(plane, "child", &limited(shell(&format!("sleep 1; sh -c '{EATER}'; sleep 1000"))), &none);
    run(plane, "loop", &shell("sleep 0.2; exit 3"), &none);
    let probe = json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 2});
    run(plane, "probed", &with(shell("sleep 1000"), "livenessProbe", probe), &none);
    for (pod, image) in [
        ("pull", "registry.invalid/none:1".to_owned()),
        ("absent", format!("127.0.0.1:{}/absent/none:1", registry.port)),
        ("private", format!("127.0.0.1:{}/private/none:1", registry.port)),
        // Nobody vouches for the certificate of the API server, which serves as well as a registry's.
        ("untrusted", format!("registry.rig:{}/none:1", plane.port())),
    ] {
        run(plane, pod, &json!({"image": image}), &none);
    }
    let missing = json!([{"configMapRef": {"name": "missing"}}]);
    run(plane, "configured", &with(shell("sleep 1000"), "envFrom", missing), &none);
    let full = shell("sleep 1; dd if=/dev/zero of=/data/x bs=1M count=30; sleep 1000");
    let full = with(full, "volumeMounts", json!([{"name": "data", "mountPath": "/data"}]));
    run(plane, "full", &full, &json!({"volumes": [{"name": "data", "emptyDir": {"sizeLimit": "10Mi"}}]}));
}

/// Asks every pod but one to go, and waits until they are gone.
pub(super) fn leave_only(plane: &Plane, programs: &Programs, stays: &str) {
    let others = || {
        let pods = plane.get(PODS);
        let names =
            pods["items"].as_array().unwrap().iter().map(|pod| pod["metadata"]["name"].as_str().unwrap());
        names.filter(|name| *name != stays).map(str::to_owned).collect::<Vec<_>>()
    };
    others().iter().for_each(|name| plane.delete_gracefully(&format!("{PODS}/{name}")));
    programs.wait("the end of all others", |_| {
        let left = others();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

/// Makes a pod that uses most of the memory that the node gives to pods: above what it has to keep free, below what
/// the kernel would kill for.
pub(super) fn hog(plane: &Plane) {
    let script = "awk 'BEGIN { m = sprintf(\"%1048576s\", \"\"); for (i = 0; i < 530; i++) a[i] = m i; system(\"sleep 1000\") }'";
    run(plane, "hog", &shell(script), &json!({}));
}

/// The cgroup with the name of a container, wherever it is.
pub(super) fn cgroup_of(container_id: &str, folder: &Path) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if !path.is_dir() {
            return None;
        }
        let is_it = path.file_name().is_some_and(|name| name.to_string_lossy().contains(container_id));
        if is_it { Some(path) } else { cgroup_of(container_id, &path) }
    })
}

/// A registry that has nothing: it wants to know who asks for what is private, and ends with the process.
pub(super) struct Registry {
    port: u16,
}

impl Registry {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || listener.incoming().flatten().for_each(|client| refuse(&client)));
        Self { port }
    }
}

fn refuse(mut client: &TcpStream) {
    let _bounded = client.set_read_timeout(Some(Duration::from_secs(2)));
    let mut request = Vec::new();
    let mut part = [0; 4096];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < 1 << 16 {
        match client.read(&mut part) {
            Ok(len @ 1..) => request.extend_from_slice(&part[..len]),
            _ => return,
        }
    }
    let answer = if request.windows(9).any(|part| part == b"/private/") {
        "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"rig\""
    } else {
        "404 Not Found"
    };
    let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let _gone = client.write_all(answer.as_bytes());
}
