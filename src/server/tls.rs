//! Certificates: used by both ports, and read again when their files change.
//!
//! Invariants:
//! - With a client CA, nobody without a certificate of it gets through on either port.
//! - Files that are no good change nothing: the certificate in use stays, and the reason is said once for each change.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::options::Options;
use super::serve::ServeError;

/// The files are looked at this often at most, and only when somebody connects.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is spoken inside TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2, of agents.
    Grpc,
    /// HTTP/1.1, of people and scrapers.
    Http,
}

/// The files that the options name.
#[derive(Debug, Clone)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// What tells two states of a file apart: inode, size and time of the last change.
type Stamp = Option<(u64, u64, i64, i64)>;

#[derive(Debug)]
struct Current {
    stamps: [Stamp; 3],
    looked: Instant,
    grpc: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
}

/// The server's certificate and key, checked.
#[derive(Debug)]
pub struct Identity {
    files: Files,
    current: Mutex<Current>,
}

/// A file and what is in it.
struct Pem<'path> {
    path: &'path Path,
    bytes: Vec<u8>,
}

fn bad(path: &Path, what: impl ToString) -> ServeError {
    ServeError::Tls { path: PathBuf::from(path), what: what.to_string() }
}

impl<'path> Pem<'path> {
    fn read(path: &'path Path) -> Result<Self, ServeError> {
        let bytes = std::fs::read(path).map_err(|error| bad(path, error))?;
        Ok(Self { path, bytes })
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, ServeError> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        let certificates = read.map_err(|error| bad(self.path, format!("not PEM: {error}")))?;
        if certificates.is_empty() { Err(bad(self.path, "has no certificate")) } else { Ok(certificates) }
    }
}

impl Files {
    fn stamps(&self) -> [Stamp; 3] {
        [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()].map(|path| {
            let data = std::fs::metadata(path?).ok()?;
            Some((data.ino(), data.size(), data.mtime(), data.mtime_nsec()))
        })
    }

    /// What the files say, for both protocols.
    fn read(&self) -> Result<[Arc<ServerConfig>; 2], ServeError> {
        let (cert, key) = (Pem::read(&self.cert)?, Pem::read(&self.key)?);
        let chain = cert.certificates()?;
        let private = PrivateKeyDer::from_pem_slice(&key.bytes)
            .map_err(|error| bad(key.path, format!("has no private key: {error}")))?;
        let client_ca = self.client_ca.as_deref().map(Pem::read).transpose()?;

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(cert.path, error))?;
        let config = match &client_ca {
            None => config.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                for root in ca.certificates()? {
                    roots.add(root).map_err(|error| bad(ca.path, error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|error| bad(ca.path, error))?;
                config.with_client_cert_verifier(verifier)
            }
        };
        let config = config.with_single_cert(chain, private).map_err(|error| {
            bad(cert.path, format!("does not go with the key in {}: {error}", key.path.display()))
        })?;
        Ok([b"h2".to_vec(), b"http/1.1".to_vec()].map(|protocol| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol];
            Arc::new(config)
        }))
    }
}

impl Identity {
    /// Reads the files that the options name; `None` when they name none.
    ///
    /// # Errors
    /// [`ServeError::Tls`] names the file that is no good.
    pub fn load(options: &Options) -> Result<Option<Self>, ServeError> {
        let (Some(cert), Some(key)) = (options.tls_cert.clone(), options.tls_key.clone()) else {
            return Ok(None);
        };
        let files = Files { cert, key, client_ca: options.tls_client_ca.clone() };
        // Stamps first: what changes meanwhile is read again.
        let stamps = files.stamps();
        let [grpc, http] = files.read()?;
        Ok(Some(Self { files, current: Mutex::new(Current { stamps, looked: Instant::now(), grpc, http }) }))
    }

    /// What the next connection is answered with.
    #[must_use]
    pub fn config(&self, protocol: Protocol) -> Arc<ServerConfig> {
        // Every change is whole before the lock is given back.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= LOOK_EVERY {
            self.look(&mut current);
        }
        Arc::clone(match protocol {
            Protocol::Grpc => &current.grpc,
            Protocol::Http => &current.http,
        })
    }

    fn look(&self, current: &mut Current) {
        current.looked = Instant::now();
        let stamps = self.files.stamps();
        if stamps == current.stamps {
            return;
        }
        current.stamps = stamps;
        match self.files.read() {
            Ok([grpc, http]) => {
                (current.grpc, current.http) = (grpc, http);
                tracing::info!("new connections get the new certificate in {}", self.files.cert.display());
            }
            Err(error) => tracing::error!("{error}; the certificate in use stays"),
        }
    }
}
