//! What the server was asked to do: flags and environment, checked once.
//!
//! Invariants:
//! - Nothing listens beyond loopback in plain text.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// The smallest store: below, a segment would hold a handful of batches.
const STORE_BYTES_MIN: u64 = 64 << 20;

/// Receives events from tapio-collector, stores them, answers queries.
#[derive(Debug, Clone, Parser)]
#[command(name = "tapio-server", version, about, long_about = None)]
pub struct Options {
    /// Where agents connect (gRPC).
    #[arg(long, env = "TAPIO_GRPC_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:9090")]
    pub grpc_listen: SocketAddr,

    /// Where people and programs ask (HTTP).
    #[arg(long, env = "TAPIO_HTTP_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:9091")]
    pub http_listen: SocketAddr,

    /// Where events are kept.
    #[arg(long, env = "TAPIO_DATA_DIR", value_name = "PATH", default_value = "/var/lib/tapio-server")]
    pub data_dir: PathBuf,

    /// `segments` keeps events on the disk; `null` decodes, checks, acks and keeps nothing.
    #[arg(long, env = "TAPIO_STORE", value_name = "KIND", default_value = "segments")]
    pub store: StoreKind,

    /// Most bytes kept; beyond that the oldest segment is deleted. Suffixes K, M, G, T are powers of 1024.
    #[arg(long, env = "TAPIO_STORE_BYTES", value_name = "BYTES", default_value = "4G", value_parser = parse_bytes)]
    pub store_bytes: u64,

    /// Certificate chain, PEM: TLS on both ports. Needed beyond loopback.
    #[arg(long, env = "TAPIO_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the certificate, PEM.
    #[arg(long, env = "TAPIO_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Certificates, PEM, one of which must have signed the certificate of whoever connects, on both ports.
    #[arg(long, env = "TAPIO_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
}

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// On the disk.
    Segments,
    /// None.
    Null,
}

/// Why the options do not fit together. Stop: exit code 78.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Plain text beyond loopback.
    #[error(
        "--{flag} {address} is reachable from other hosts and needs TLS: give --tls-cert and --tls-key, or listen on \
         127.0.0.1"
    )]
    PlainText {
        /// Which flag.
        flag: &'static str,
        /// What it says.
        address: SocketAddr,
    },
    /// Two listeners on one address.
    #[error("--grpc-listen and --http-listen are both {0}: give two ports")]
    SameAddress(SocketAddr),
    /// Too small a store.
    #[error("--store-bytes {0} is too small: at least {STORE_BYTES_MIN}")]
    StoreBytes(u64),
}

impl Options {
    /// Checks what no single flag shows.
    ///
    /// # Errors
    /// [`OptionsError`] names the flag and what to do.
    pub fn check(&self) -> Result<(), OptionsError> {
        for (flag, address) in [("grpc-listen", self.grpc_listen), ("http-listen", self.http_listen)] {
            if !address.ip().to_canonical().is_loopback() && self.tls_cert.is_none() {
                return Err(OptionsError::PlainText { flag, address });
            }
        }
        if self.grpc_listen == self.http_listen && self.grpc_listen.port() != 0 {
            return Err(OptionsError::SameAddress(self.grpc_listen));
        }
        if self.store_bytes < STORE_BYTES_MIN {
            return Err(OptionsError::StoreBytes(self.store_bytes));
        }
        Ok(())
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("{text} is not a number of bytes, like 4G");
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    let suffix = suffix.to_ascii_uppercase();
    let unit = suffix.strip_suffix("IB").unwrap_or(&suffix);
    let shift = ["", "K", "M", "G", "T"].iter().position(|&known| known == unit).ok_or_else(bad)? * 10;
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> Options {
        Options::try_parse_from(["tapio-server"].iter().chain(args)).expect("parses")
    }

    /// Scenario: listening on every address, with and without a certificate, and on loopback of both families.
    /// Guarantees: plain text beyond loopback is refused by name; the rest is fine.
    #[test]
    fn plain_text_stays_on_loopback() {
        let error = options(&["--grpc-listen", "0.0.0.0:9090"]).check().expect_err("reachable");
        assert!(error.to_string().starts_with("--grpc-listen 0.0.0.0:9090 is reachable"), "{error}");
        assert!(options(&["--http-listen", "[::]:9091"]).check().is_err());
        let tls = ["--grpc-listen", "0.0.0.0:9090", "--tls-cert", "a", "--tls-key", "b"];
        assert_eq!(options(&tls).check(), Ok(()));
        assert_eq!(options(&["--grpc-listen", "[::1]:9090"]).check(), Ok(()));
        assert_eq!(options(&["--grpc-listen", "[::ffff:127.0.0.1]:9090"]).check(), Ok(()));
        assert!(Options::try_parse_from(["tapio-server", "--tls-cert", "a"]).is_err());
        assert!(options(&["--http-listen", "127.0.0.1:9090"]).check().is_err());
    }

    /// Scenario: sizes as people write them.
    /// Guarantees: powers of 1024; anything else is refused.
    #[test]
    fn sizes_are_read() {
        for (text, bytes) in
            [("4G", 4 << 30), ("512MiB", 512 << 20), ("100000000", 100_000_000), ("1t", 1 << 40)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes));
        }
        for text in ["", "G", "-1", "4X", "4 G", "1.5G", "99999999T", "4Gibb"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert!(options(&["--store-bytes", "1M"]).check().is_err());
    }
}
