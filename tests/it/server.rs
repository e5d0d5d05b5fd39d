//! tapio-server from outside: a gRPC client, a TCP socket, the program itself.

pub(crate) mod client;
mod disk;
mod ingest;
mod query;
mod start;
