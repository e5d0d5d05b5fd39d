//! Certificates: read once, used by both ports.
//!
//! Invariants:
//! - With a client CA, nobody without a certificate of it gets through on either port.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tonic::transport::{Certificate, ServerTlsConfig};

use super::options::Options;
use super::serve::ServeError;

/// The server's certificate and key, checked.
#[derive(Debug)]
pub struct Identity {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
    rustls: Arc<rustls::ServerConfig>,
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

impl Identity {
    /// Reads the files that the options name; `None` when they name none.
    ///
    /// # Errors
    /// [`ServeError::Tls`] names the file that is no good.
    pub fn load(options: &Options) -> Result<Option<Self>, ServeError> {
        let (Some(cert), Some(key)) = (&options.tls_cert, &options.tls_key) else { return Ok(None) };
        let (cert, key) = (Pem::read(cert)?, Pem::read(key)?);
        let chain = cert.certificates()?;
        let private = PrivateKeyDer::from_pem_slice(&key.bytes)
            .map_err(|error| bad(key.path, format!("has no private key: {error}")))?;
        let client_ca = options.tls_client_ca.as_deref().map(Pem::read).transpose()?;

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
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
        let mut config = config.with_single_cert(chain, private).map_err(|error| {
            bad(cert.path, format!("does not go with the key in {}: {error}", key.path.display()))
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Some(Self {
            cert: cert.bytes,
            key: key.bytes,
            client_ca: client_ca.map(|ca| ca.bytes),
            rustls: Arc::new(config),
        }))
    }

    /// For the gRPC port.
    #[must_use]
    pub fn grpc(&self) -> ServerTlsConfig {
        let identity = tonic::transport::Identity::from_pem(&self.cert, &self.key);
        let config = ServerTlsConfig::new().identity(identity);
        match &self.client_ca {
            Some(ca) => config.client_ca_root(Certificate::from_pem(ca)),
            None => config,
        }
    }

    /// For the HTTP port.
    #[must_use]
    pub fn http(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.rustls)
    }
}
