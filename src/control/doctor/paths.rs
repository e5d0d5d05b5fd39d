//! Files, sockets and directories: what the agent writes, and what other sources offer.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statvfs};

use super::{Check, State};
use crate::config::Settings;

const JOURNALS: [&str; 2] = ["/var/log/journal", "/run/log/journal"];
const BUS: &str = "/run/dbus/system_bus_socket";
const IN_CLUSTER: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Below this the state directory may fail to keep its few bytes while something else fills the disk.
const FREE_LEAST: u64 = 64 << 20;

pub(super) fn examine(settings: &Settings) -> Vec<Check> {
    vec![socket(&settings.socket), state_dir(&settings.state_dir), space(&settings.state_dir)]
}

/// What the collectors of later versions would read. Nothing of it is needed now.
pub(super) fn sources() -> Vec<Check> {
    let journals: Vec<&str> = JOURNALS.into_iter().filter(|path| fs::read_dir(path).is_ok()).collect();
    let journal =
        if journals.is_empty() { "none that this user can read".into() } else { journals.join(", ") };
    let bus = match UnixStream::connect(BUS) {
        Ok(_) => format!("{BUS} answers"),
        Err(error) => format!("{BUS}: {error}"),
    };
    let kube = kubeconfig().map_or_else(|| "none found".to_owned(), |path| path.display().to_string());
    let rows = [("journal", journal), ("D-Bus", bus), ("kubeconfig", kube)];
    rows.map(|(check, found)| Check::ok(check, format!("{found} (not read by this version)"))).into()
}

/// Where every program looks for it: these variables belong to Kubernetes, not to our settings.
fn kubeconfig() -> Option<PathBuf> {
    let named = std::env::var_os("KUBECONFIG").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    named.into_iter().chain(home).chain([PathBuf::from(IN_CLUSTER)]).find(|path| fs::File::open(path).is_ok())
}

/// The nearest part of a path that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|part| !part.as_os_str().is_empty() && part.exists()).unwrap_or(Path::new("."))
}

fn writable(directory: &Path) -> Result<(), String> {
    let nearest = existing(directory);
    access(nearest, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| format!("{}: {error}", nearest.display()))
}

fn socket(path: &Path) -> Check {
    let shown = path.display();
    match UnixStream::connect(path) {
        Ok(_) => return Check::ok("socket", format!("{shown}: an agent answers")),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let what = ["this user cannot ask it", "ask as the user that runs the agent"];
            return Check::bad(State::Warning, "socket", format!("{shown} belongs to another user"), what);
        }
        Err(_) => {}
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match writable(parent) {
        Ok(()) => Check::ok("socket", format!("{shown} can be made")),
        Err(reason) => {
            let what = ["`status` would not work", "name another --socket, where this user may write"];
            Check::bad(State::Warning, "socket", reason, what)
        }
    }
}

fn state_dir(path: &Path) -> Check {
    match writable(path) {
        Ok(()) if path.exists() && !path.is_dir() => {
            let what = ["the agent cannot keep its identity", "remove it, or name another --state-dir"];
            Check::bad(State::Warning, "state directory", format!("{} is no directory", path.display()), what)
        }
        Ok(()) => Check::ok("state directory", format!("{} can be written", path.display())),
        Err(reason) => {
            let what = ["the agent cannot keep its identity over restarts", "name another --state-dir"];
            Check::bad(State::Warning, "state directory", reason, what)
        }
    }
}

fn space(path: &Path) -> Check {
    let nearest = existing(path);
    match statvfs(nearest) {
        Ok(system) => {
            let free = system.f_bavail.saturating_mul(system.f_frsize);
            let found = format!("{} MiB free at {}", free >> 20, nearest.display());
            if free >= FREE_LEAST {
                return Check::ok("disk space", found);
            }
            Check::bad(State::Warning, "disk space", found, ["the state may not be kept", "make room"])
        }
        Err(error) => {
            let what = ["how much room there is cannot be told", "look at the file system"];
            Check::bad(State::Warning, "disk space", format!("{}: {error}", nearest.display()), what)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a socket path that can be made, one whose directory is a file, a state directory that is a file.
    /// Guarantees: the first is fine, the others are warnings; nothing is made.
    #[test]
    fn paths_are_looked_at_not_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let new = folder.path().join("a/b/c.sock");
        assert_eq!(socket(&new).state, State::Ok);
        assert!(!folder.path().join("a").exists());
        let file = folder.path().join("file");
        fs::write(&file, "").expect("written");
        assert_eq!(socket(&file.join("x.sock")).state, State::Warning);
        assert_eq!(state_dir(&file).state, State::Warning);
        assert_eq!(state_dir(folder.path()).state, State::Ok);
    }
}
