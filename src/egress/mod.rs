//! Everything outbound: batches, the stream to tapio-server.

pub mod batch;
mod group;
pub mod otlp;
pub mod stream;
pub mod tls;
pub mod window;
