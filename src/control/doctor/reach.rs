//! Whether the other ends answer.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::{Check, State};
use crate::config::{Settings, url};

/// Longest wait for one connection.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// Longest wait for a name and a connection to its addresses together.
const REACH_MAX: Duration = Duration::from_secs(3);

pub(super) fn examine(settings: &Settings) -> Vec<Check> {
    let server = reach(
        "server",
        &settings.server,
        settings.grpc_insecure,
        [
            "events wait in memory, then the oldest are dropped and counted",
            "start tapio-server, or name another --server",
        ],
    );
    let otlp = if settings.otel_disabled || settings.otel_metrics_interval.is_zero() {
        Check::ok("OTLP receiver", "not asked for")
    } else {
        reach(
            "OTLP receiver",
            &settings.otel_endpoint,
            settings.grpc_insecure,
            [
                "the agent's metrics will not arrive; nothing else suffers",
                "start a receiver, or name another --otel-endpoint",
            ],
        )
    };
    vec![server, otlp]
}

fn reach(check: &str, endpoint: &str, insecure: bool, about: [&str; 2]) -> Check {
    let url = url(endpoint, insecure);
    match connect(&url) {
        Ok(()) => Check::ok(check, format!("{endpoint} accepts connections")),
        Err(reason) => Check::bad(State::Warning, check, format!("{endpoint}: {reason}"), about),
    }
}

/// Connects to any address of the URL's host. A name server that does not answer is left behind with its thread.
fn connect(url: &str) -> Result<(), String> {
    let uri: tonic::transport::Uri = url.parse().map_err(|_| "not a URL".to_owned())?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let (sender, receiver) = sync_channel(1);
    let attempt = move || {
        let addresses = (host.as_str(), port).to_socket_addrs().map_err(|error| error.to_string())?;
        let mut last = Err("the name has no address".to_owned());
        for address in addresses {
            last = TcpStream::connect_timeout(&address, CONNECT_MAX)
                .map(drop)
                .map_err(|error| error.to_string());
            if last.is_ok() {
                break;
            }
        }
        last
    };
    let thread = std::thread::Builder::new().name("reach".into());
    // Nobody listens any more once the wait is over.
    let started = thread.spawn(move || drop(sender.send(attempt())));
    started.map_err(|error| error.to_string())?;
    receiver.recv_timeout(REACH_MAX).map_err(|_| format!("no answer within {REACH_MAX:?}"))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Scenario: a port that listens, then the same port closed.
    /// Guarantees: the one is reached, the other refused.
    #[test]
    fn ports_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        assert_eq!(connect(&url), Ok(()));
        drop(listener);
        assert!(connect(&url).expect_err("closed").contains("refused"));
    }
}
