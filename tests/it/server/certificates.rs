//! Certificates of tests, made by openssl, and clients that trust some of them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

fn openssl(dir: &Path, args: &[&str]) -> Result<(), String> {
    let output =
        Command::new("openssl").args(args).current_dir(dir).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Makes a CA: `NAME.pem` and `NAME.key`.
pub(super) fn make_ca(dir: &Path, name: &str) -> Result<(), String> {
    let (keyout, out) = (format!("{name}.key"), format!("{name}.pem"));
    let ca = ["req", "-x509", "-days", "2", "-subj", "/CN=test-ca", "-keyout", &keyout, "-out", &out];
    openssl(dir, &[&ca[..], &KEY].concat())
}

/// Makes a certificate of localhost that a CA signed, valid for so many days; for 0, expired once a second is over.
pub(super) fn make_certificate(dir: &Path, name: &str, ca: &str, days: &str) -> Result<(), String> {
    let [keyout, request, out] = ["key", "csr", "pem"].map(|end| format!("{name}.{end}"));
    let (ca_cert, ca_key) = (format!("{ca}.pem"), format!("{ca}.key"));
    let ask = ["req", "-subj", "/CN=localhost", "-keyout", &keyout, "-out", &request];
    openssl(dir, &[&ask[..], &KEY].concat())?;
    let extensions = "subjectAltName=DNS:localhost\nbasicConstraints=critical,CA:FALSE\n";
    std::fs::write(dir.join("extensions"), extensions).map_err(|error| error.to_string())?;
    let signed = ["x509", "-req", "-in", &request, "-CA", &ca_cert, "-CAkey", &ca_key, "-CAcreateserial"];
    openssl(dir, &[&signed[..], &["-days", days, "-extfile", "extensions", "-out", &out]].concat())?;
    if days == "0" {
        std::thread::sleep(Duration::from_millis(1100));
    }
    Ok(())
}

/// A CA, a server's certificate and a client's.
pub(super) fn make_all(dir: &Path) -> Result<(), String> {
    make_ca(dir, "ca")?;
    make_certificate(dir, "server", "ca", "2")?;
    make_certificate(dir, "client", "ca", "2")
}

/// Paths of PEM files in a folder.
#[derive(Debug)]
pub(super) struct Pems(pub(super) PathBuf);

impl Pems {
    pub(super) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.join(name)).unwrap()
    }

    /// The flags of a server with this certificate.
    pub(super) fn server_flags(&self, name: &str) -> [String; 4] {
        let [cert, key] = ["pem", "key"].map(|end| self.path(&format!("{name}.{end}")));
        ["--tls-cert".into(), cert, "--tls-key".into(), key]
    }

    /// A client that trusts one CA.
    pub(super) fn trusting(&self, ca: &str) -> ClientTlsConfig {
        let ca = Certificate::from_pem(self.read(&format!("{ca}.pem")));
        ClientTlsConfig::new().ca_certificate(ca).domain_name("localhost")
    }

    /// The identity of a client.
    pub(super) fn identity(&self, name: &str) -> Identity {
        Identity::from_pem(self.read(&format!("{name}.pem")), self.read(&format!("{name}.key")))
    }
}

/// Connects to a port of localhost; with TLS if it is given.
pub(super) async fn connect(port: u16, tls: Option<ClientTlsConfig>) -> Result<Channel, String> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut endpoint = Channel::from_shared(format!("{scheme}://localhost:{port}")).unwrap();
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls).unwrap();
    }
    endpoint.connect().await.map_err(|error| format!("{error:?}"))
}

/// Asks for the server's health.
pub(super) async fn check(channel: Channel) -> Result<(), String> {
    let health = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    health.map(|_| ()).map_err(|status| status.to_string())
}
