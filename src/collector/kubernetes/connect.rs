//! Finds the cluster: a kubeconfig, or the service account of the pod that this agent runs in.
//!
//! Invariants:
//! - Credentials are read from their files each time a client is made, so that renewed ones are found.
//! - Nothing is found by chance: a cluster of the user's own kubeconfig is watched, never written to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::failure::Failure;
use crate::config::Settings;

/// Where a service account's token is in a pod.
const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Where the cluster is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// In these files, which somebody named.
    Named(Vec<PathBuf>),
    /// In the kubeconfig of the user.
    Home(PathBuf),
    /// By the service account of this pod.
    Pod,
}

/// Why there is no cluster to watch. It is looked for again every now and then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoCluster {
    /// Nothing says where it is.
    #[error("no kubeconfig and not in a cluster")]
    Nowhere,
    /// What says so cannot be used.
    #[error("{0}")]
    Unusable(String),
}

/// A client and what it talks to.
#[derive(Clone)]
pub(super) struct Connected {
    /// The client.
    pub(super) client: Client,
    /// The address of the API server.
    pub(super) server: String,
    /// The namespace that is ours.
    pub(super) namespace: String,
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Connected").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Looks where the cluster could be, without asking it.
///
/// # Errors
/// [`NoCluster`].
pub(super) fn find(settings: &Settings) -> Result<Found, NoCluster> {
    find_in(
        &settings.kubeconfig,
        std::env::var_os("HOME").map(PathBuf::from).as_deref(),
        Path::new(POD_TOKEN),
    )
}

fn find_in(kubeconfig: &str, home: Option<&Path>, token: &Path) -> Result<Found, NoCluster> {
    if !kubeconfig.is_empty() {
        let files: Vec<PathBuf> =
            kubeconfig.split(':').filter(|file| !file.is_empty()).map(PathBuf::from).collect();
        return match files.iter().find(|file| file.exists()) {
            Some(_) => Ok(Found::Named(files)),
            None => Err(NoCluster::Unusable(format!("there is no kubeconfig {kubeconfig}"))),
        };
    }
    let own = home.map(|home| home.join(".kube/config")).filter(|file| file.exists());
    if let Some(file) = own {
        return Ok(Found::Home(file));
    }
    if token.exists() { Ok(Found::Pod) } else { Err(NoCluster::Nowhere) }
}

/// Makes a client.
///
/// # Errors
/// [`NoCluster::Unusable`].
pub(super) async fn connect(found: &Found, settings: &Settings) -> Result<Connected, NoCluster> {
    let unusable = |what: &str, error: &dyn std::error::Error| {
        NoCluster::Unusable(format!("{what}: {error}; see --kubeconfig and --context"))
    };
    let mut config = match found {
        Found::Pod => {
            Config::incluster().map_err(|error| unusable("the service account of this pod", &error))?
        }
        Found::Named(files) => from_files(files, &settings.context).await?,
        Found::Home(file) => from_files(std::slice::from_ref(file), &settings.context).await?,
    };
    config.connect_timeout = Some(CONNECT_LONGEST);
    // Pauses and their reasons are ours.
    config.default_retry = false;
    let (server, namespace) = (config.cluster_url.to_string(), config.default_namespace.clone());
    let client = Client::try_from(config).map_err(|error| match Failure::of(&error) {
        Failure::Unauthorized(why) => NoCluster::Unusable(format!("the credentials cannot be read: {why}")),
        _ => unusable("the kubeconfig", &error),
    })?;
    Ok(Connected { client, server: server.trim_end_matches('/').to_owned(), namespace })
}

/// Longest time to make a connection.
const CONNECT_LONGEST: Duration = Duration::from_secs(10);

async fn from_files(files: &[PathBuf], context: &str) -> Result<Config, NoCluster> {
    let unusable = |error: kube::config::KubeconfigError, what: String| {
        NoCluster::Unusable(format!("kubeconfig {what}: {error}; see --kubeconfig and --context"))
    };
    let mut merged: Option<Kubeconfig> = None;
    for file in files.iter().filter(|file| file.exists()) {
        let shown = file.display().to_string();
        let next = Kubeconfig::read_from(file).map_err(|error| unusable(error, shown.clone()))?;
        merged = Some(match merged {
            Some(before) => before.merge(next).map_err(|error| unusable(error, shown))?,
            None => next,
        });
    }
    let shown = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(":");
    let Some(kubeconfig) = merged else { return Err(NoCluster::Nowhere) };
    let options = KubeConfigOptions {
        context: (!context.is_empty()).then(|| context.to_owned()),
        ..KubeConfigOptions::default()
    };
    Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| unusable(error, shown))
}

/// The name of this node: the setting, or the host's name as the kubelet writes it.
#[must_use]
pub(super) fn node_name(settings: &Settings) -> String {
    if !settings.node_name.is_empty() {
        return settings.node_name.clone();
    }
    rustix::system::uname().nodename().to_string_lossy().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: hosts with none, one and several of the places where a cluster can be named.
    /// Guarantees: what was named goes first, and nothing is a clear reason.
    #[test]
    fn clusters_are_found_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(&path, "x").expect("written");
            path
        };
        let nowhere = folder.path().join("nowhere");
        let nothing = find_in("", Some(&nowhere), &nowhere).expect_err("nothing");
        assert_eq!(nothing.to_string(), "no kubeconfig and not in a cluster");
        assert!(matches!(find_in("/no/such/file", None, &nowhere), Err(NoCluster::Unusable(_))));
        let token = file("token");
        assert_eq!(find_in("", Some(&nowhere), &token), Ok(Found::Pod));
        let home = file("home/.kube/config");
        assert_eq!(find_in("", Some(&folder.path().join("home")), &token), Ok(Found::Home(home)));
        let named = file("named");
        let both = format!("/no/such/file:{}", named.display());
        let files = vec![PathBuf::from("/no/such/file"), named];
        assert_eq!(find_in(&both, Some(&folder.path().join("home")), &token), Ok(Found::Named(files)));
    }
}
