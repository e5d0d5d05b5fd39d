//! TLS to tapio-server: whom to trust, who this agent is, and what a refusal means for a person.
//!
//! Invariants:
//! - The files are read for each connection: a certificate that was renewed is used from the next one on.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{CertificateError, Error as RustlsError};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// The files of the settings; none of them: the roots of the system, and no certificate of one's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Whom to trust instead of the system's roots.
    pub ca: Option<PathBuf>,
    /// The agent's own certificate chain.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// Why there is no TLS. Wait and try again: the files may be on their way.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file cannot be read, or is not what it should be.
    #[error("{} {what}; mend it or change --{flag}", path.display())]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Only one half of the agent's identity is there.
    #[error("--tls-cert and --tls-key go together; give both or none")]
    Half,
}

impl Files {
    /// What the files say.
    ///
    /// # Errors
    /// [`FilesError`] names the file.
    pub fn config(&self) -> Result<ClientTlsConfig, FilesError> {
        let config = ClientTlsConfig::new();
        let config = match &self.ca {
            None => config.with_native_roots(),
            Some(path) => config.ca_certificate(Certificate::from_pem(certificates("tls-ca", path)?)),
        };
        match (&self.cert, &self.key) {
            (None, None) => Ok(config),
            (Some(cert), Some(key)) => {
                let (chain, private) = (certificates("tls-cert", cert)?, read("tls-key", key)?);
                PrivateKeyDer::from_pem_slice(&private)
                    .map_err(|error| bad("tls-key", key, format!("has no private key: {error}")))?;
                Ok(config.identity(Identity::from_pem(chain, private)))
            }
            _ => Err(FilesError::Half),
        }
    }
}

fn bad(flag: &'static str, path: &Path, what: String) -> FilesError {
    FilesError::File { flag, path: path.to_owned(), what }
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, FilesError> {
    std::fs::read(path).map_err(|error| bad(flag, path, format!("cannot be read: {error}")))
}

/// The text of a file that has certificates.
fn certificates(flag: &'static str, path: &Path) -> Result<Vec<u8>, FilesError> {
    let text = read(flag, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(text),
        Ok(_) => Err(bad(flag, path, "has no certificate".into())),
        Err(error) => Err(bad(flag, path, format!("is not PEM: {error}"))),
    }
}

/// What TLS has against a connection and what to do, if that is why it failed.
#[must_use]
pub fn refusal(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // An io::Error shows the causes of what it wraps, not the wrapped error itself.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let direct = error.downcast_ref::<RustlsError>();
        if let Some(found) = direct.or_else(|| wrapped.and_then(|wrapped| wrapped.downcast_ref())) {
            return Some(explain(found));
        }
        // On its way through HTTP/2 an error becomes text.
        if let Some((_, alert)) = error.to_string().split_once("received fatal alert: ") {
            return Some(explain_alert(alert));
        }
        cause = error.source();
    }
    None
}

fn explain(error: &RustlsError) -> String {
    use CertificateError as Bad;
    match error {
        RustlsError::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "its certificate has expired: renew it on the server, or set this host's clock right".into()
        }
        RustlsError::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "its certificate is not valid yet: set this host's clock right".into()
        }
        RustlsError::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "its certificate is signed by nobody whom this agent trusts: give the CA that signed it with --tls-ca"
                .into()
        }
        RustlsError::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "its certificate is for another name: use a name that it has in --server".into()
        }
        RustlsError::AlertReceived(alert) => explain_alert(&format!("{alert:?}")),
        RustlsError::InvalidMessage(_) => {
            format!("it does not speak TLS: is it meant to be plain text (--grpc-insecure)? ({error})")
        }
        other => other.to_string(),
    }
}

/// What the server said when it ended the connection: the name of an alert, maybe with more text behind it.
fn explain_alert(text: &str) -> String {
    let alert = text.split(|letter: char| !letter.is_ascii_alphanumeric()).next().unwrap_or_default();
    match alert {
        "CertificateRequired" => {
            "it wants to know who this agent is: give it a certificate with --tls-cert and --tls-key".into()
        }
        "UnknownCA" | "BadCertificate" | "CertificateExpired" | "CertificateUnknown" | "DecryptError" => {
            format!("it does not accept the certificate of --tls-cert ({alert})")
        }
        other => format!("it ended the handshake: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: files that are not there, are no certificates, or are only half of an identity.
    /// Guarantees: each is named with its flag.
    #[test]
    fn bad_files_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let (absent, text) = (folder.path().join("absent"), folder.path().join("text"));
        std::fs::write(&text, "no certificate").expect("writable");
        for (files, parts) in [
            (Files { ca: Some(absent.clone()), ..Files::default() }, ["absent cannot be read", "--tls-ca"]),
            (Files { ca: Some(text.clone()), ..Files::default() }, ["text has no certificate", "--tls-ca"]),
            (Files { cert: Some(absent), ..Files::default() }, ["--tls-cert and --tls-key", "both or none"]),
            (
                Files { cert: Some(text.clone()), key: Some(text), ..Files::default() },
                ["text has no certificate", "--tls-cert"],
            ),
        ] {
            let error = files.config().expect_err("no good").to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    /// Scenario: an error of TLS inside others, and one that has nothing to do with it.
    /// Guarantees: it is found and says what to do; the other is not taken for one.
    #[test]
    fn refusals_are_found() {
        let expired = RustlsError::InvalidCertificate(CertificateError::Expired);
        let outer = io::Error::new(io::ErrorKind::InvalidData, expired);
        assert!(refusal(&outer).expect("found").contains("renew it"));
        let text = io::Error::other("Io(Custom { \"received fatal alert: CertificateRequired\" })");
        assert!(refusal(&text).expect("found").contains("--tls-cert and --tls-key"));
        assert_eq!(refusal(&io::Error::from(io::ErrorKind::ConnectionRefused)), None);
    }
}
