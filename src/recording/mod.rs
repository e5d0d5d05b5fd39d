//! Recordings: what the agent saw, kept in files, and what the engine makes of it afterwards.
//!
//! `frame` is the layout of a file, `writer` fills files while the agent runs: those of `--record`, the `ring` of the
//! flight recorder, and the incidents that `cuts` cuts out of it. `lines` reads events as lines of JSON, which people can
//! write by hand, `load` puts the events of files into order, `replay` shows them to the detectors and the causal engine.
//!
//! Invariants:
//! - A recording holds the batches as they go to the server; nothing is kept that the server does not get.
//! - The order of events within files means nothing: they are sorted by time and name, and what is there twice counts
//!   once. So the same events always say the same.
//! - Writing never holds up the path: what does not fit the queue or the rate is left out and counted.

mod cuts;
pub mod frame;
pub mod lines;
pub mod load;
pub mod replay;
mod ring;
pub mod writer;

pub use load::{LoadError, Moment, Recording, from_bytes, load};
pub use ring::flight_files;
pub use writer::{Cutter, Recorder, RecorderReport};
