//! tapio-server from outside: a gRPC client, a TCP socket, the program itself.

mod certificates;
pub(crate) mod client;
mod disk;
mod ingest;
mod query;
mod start;
mod stop;
mod tls;
mod unread;
