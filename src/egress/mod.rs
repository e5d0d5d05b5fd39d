//! Everything outbound: batches, the stream to tapio-server.

pub mod batch;
pub mod otlp;
pub mod stream;
pub mod window;
