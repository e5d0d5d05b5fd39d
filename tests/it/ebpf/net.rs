//! TCP: connects, listeners, resets, retransmits.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with};
use tapio::event::Kind;

use super::recorder::{Recorder, Seen, of, options, root};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const SYN_SENT: u64 = 2;
const ESTABLISHED: u64 = 1;

/// A connect that succeeds.
pub(super) fn connect_once() {
    let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
    TcpStream::connect(listener.local_addr().unwrap()).unwrap();
}

/// The connects of this process to a port.
fn connects(events: &[Seen], port: u16) -> Vec<&Seen> {
    let own = of(events, Kind::TcpConnect, std::process::id());
    own.into_iter().filter(|event| event.number("destination_port") == u64::from(port)).collect()
}

fn with_port<'seen>(events: &'seen [Seen], kind: Kind, slot: &str, port: u16) -> Vec<&'seen Seen> {
    events.iter().filter(|event| event.kind == kind && event.number(slot) == u64::from(port)).collect()
}

/// An address as records have it.
fn wire(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Connects to a listener, closes it, connects again; gives the listener's address, the first connect's port
/// and the events.
fn connect_twice(recorder: &mut Recorder, loopback: IpAddr) -> std::io::Result<(SocketAddr, u16, Vec<Seen>)> {
    let listener = TcpListener::bind((loopback, 0))?;
    let address = listener.local_addr()?;
    let stream = TcpStream::connect(address)?;
    let from = stream.local_addr()?.port();
    drop((stream, listener));
    TcpStream::connect(address).unwrap_err();
    Ok((address, from, recorder.stop()))
}

/// Scenario: a listener is connected to, closed, and connected to again, over IPv4 and over IPv6.
/// Guarantees: listening and its end are events of this process; the first connect has result 0, the second
/// ECONNREFUSED; the reset that refused it says that nobody listens, with the port, though no process owns
/// it.
#[test]
fn live_connect_and_refusal() {
    const NAME: &str = "live_connect_and_refusal";
    if !root(NAME) {
        return;
    }
    for loopback in [IpAddr::from(LOOPBACK), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let mut recorder = Recorder::start(&options(&["net"]));
        match connect_twice(&mut recorder, loopback) {
            Ok((address, from, events)) => {
                let refused_from = assert_connects(&events, address, from);
                assert_listens(&events, address);
                if traces_refusals(NAME, &recorder) {
                    assert_refusal(&events, address, refused_from);
                }
            }
            Err(error) => crate::skipped(NAME, &format!("no {loopback}: {error}")),
        }
    }
}

/// Whether this kernel traces resets that no socket sends; says that it is skipped where not.
fn traces_refusals(test: &str, recorder: &Recorder) -> bool {
    let limits = &recorder.loaded.probes["net"].reason;
    if !limits.is_empty() {
        crate::skipped(test, limits);
    }
    limits.is_empty()
}

/// One connect succeeded, from that port; the other was refused, from the port returned.
fn assert_connects(events: &[Seen], address: SocketAddr, from: u16) -> u64 {
    let (connects, ip) = (connects(events, address.port()), wire(address.ip()));
    let results: Vec<u64> = connects.iter().map(|event| event.number("result_errno")).collect();
    assert_eq!(results, [0, 111]);
    for event in &connects {
        assert_eq!((event.address("source_address"), event.address("destination_address")), (ip, ip));
        assert!(event.header.start_ns > 0);
        assert!((1..5_000_000_000).contains(&event.number("duration_ns")));
    }
    assert_eq!(connects[0].number("source_port"), u64::from(from));
    connects[1].number("source_port")
}

fn assert_listens(events: &[Seen], address: SocketAddr) {
    let listens = with_port(events, Kind::TcpListen, "port", address.port());
    let listening: Vec<u64> = listens.iter().map(|event| event.number("listening")).collect();
    assert_eq!(listening, [1, 0]);
    assert!(listens.iter().all(|event| event.header.tgid == std::process::id()));
    assert!(listens.iter().all(|event| event.address("address") == wire(address.ip())));
}

fn assert_refusal(events: &[Seen], address: SocketAddr, refused_from: u64) {
    let resets = with_port(events, Kind::TcpResetSent, "source_port", address.port());
    let refusals: Vec<_> = resets.iter().filter(|event| event.number("reason") == 1).collect();
    assert_eq!(refusals.len(), 1, "{resets:?}");
    assert_eq!((refusals[0].address("source_address"), refusals[0].header.tgid), (wire(address.ip()), 0));
    assert_eq!(refusals[0].number("destination_port"), refused_from);
}

/// Scenario: one end of a connection closes with unread data, which resets it.
/// Guarantees: the end that was reset and the end that sent the reset are both events, with the state they
/// were in.
#[test]
fn live_reset_of_a_connection() {
    if !root("live_reset_of_a_connection") {
        return;
    }
    let mut recorder = Recorder::start(&options(&["net"]));
    let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect((LOOPBACK, port)).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    rustix::io::write(&client, b"never read").unwrap();
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    let mut bytes = Vec::new();
    server.read_to_end(&mut bytes).unwrap_err();
    let events = recorder.stop();
    let received = with_port(&events, Kind::TcpResetReceived, "source_port", port);
    assert_eq!(received.len(), 1, "{received:?}");
    assert_eq!(received[0].number("state"), ESTABLISHED);
    let sent = with_port(&events, Kind::TcpResetSent, "destination_port", port);
    if sent.is_empty() {
        // Older kernels trace only the resets that answer a segment.
        crate::skipped("live_reset_of_a_connection", "this kernel does not trace a reset by close");
        return;
    }
    assert_eq!(sent[0].number("source_port"), received[0].number("destination_port"));
    assert_ne!(sent[0].number("reason"), 1, "it is not that nobody listened");
}

/// Scenario: a listener whose queue is full does not answer; the SYN is sent again; the program gives up.
/// Guarantees: the retransmit is seen in SYN_SENT, and the connect ends as given up by this side, after the
/// time it took.
#[test]
fn live_connect_without_an_answer() {
    if !root("live_connect_without_an_answer") {
        return;
    }
    let mut recorder = Recorder::start(&options(&["net"]));
    let listener = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    bind(&listener, &SocketAddr::from((LOOPBACK, 0))).unwrap();
    listen(&listener, 0).unwrap();
    let address = SocketAddr::try_from(rustix::net::getsockname(&listener).unwrap()).unwrap();
    let mut waiting = Vec::new();
    for _ in 0..6 {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let client = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
        let _in_progress = connect(&client, &address);
        waiting.push(client);
    }
    std::thread::sleep(Duration::from_millis(1500));
    drop(waiting);
    let events = recorder.stop();
    let retransmits = with_port(&events, Kind::TcpRetransmit, "destination_port", address.port());
    assert!(retransmits.iter().any(|event| event.number("state") == SYN_SENT), "{retransmits:?}");
    let given_up: Vec<_> = connects(&events, address.port())
        .into_iter()
        .filter(|event| event.number("result_errno") == 125)
        .collect();
    assert!(!given_up.is_empty());
    assert!(given_up.iter().all(|event| event.number("duration_ns") > 1_000_000_000));
}

/// Scenario: hundreds of refused connects within a second, with a budget of 5 resets a second.
/// Guarantees: every connect is an event; of the resets only the budget is streamed and the rest is counted.
#[test]
fn live_resets_have_a_budget() {
    if !root("live_resets_have_a_budget") {
        return;
    }
    let mut wanted = options(&["net"]);
    wanted.filters.retransmits_per_second = 5;
    let mut recorder = Recorder::start(&wanted);
    let port = TcpListener::bind((LOOPBACK, 0)).unwrap().local_addr().unwrap().port();
    for _ in 0..200 {
        TcpStream::connect((LOOPBACK, port)).unwrap_err();
    }
    let events = recorder.stop();
    assert_eq!(connects(&events, port).len(), 200);
    if !traces_refusals("live_resets_have_a_budget", &recorder) {
        return;
    }
    let sent = with_port(&events, Kind::TcpResetSent, "source_port", port).len() as u64;
    let suppressed = recorder.loaded.cpus.total(tapio::collector::ebpf::Counter::ResetsSuppressed);
    assert!(sent >= 1 && sent + suppressed >= 200, "{sent} sent, {suppressed} suppressed");
    assert!(suppressed > 0);
}
