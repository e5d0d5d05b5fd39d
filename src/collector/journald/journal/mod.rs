//! A reader of journal files, without libsystemd: any directory of them, merged into one order, as they grow.
//!
//! What is damaged is left out, counted and named as a [`Gap`]; the reader goes on behind it.
//!
//! Invariants:
//! - Every offset found in a file is checked before it is followed: alignment, bounds, kind and size of the object.
//! - Work is linear in the size of a file, whatever is written in it: nothing is visited twice.
//! - No file is ever written, locked or waited for; one that shrinks under the reader costs what was cut off.

mod cursor;
mod directory;
mod file;
mod files;
mod gap;
mod inflate;
mod layout;
mod order;
mod place;
mod reader;
#[cfg(test)]
pub(super) mod sample;
#[cfg(test)]
mod tests;
mod values;

pub use cursor::Cursor;
pub use gap::{Cause, Gap};
pub use reader::{Entry, Error, Fields, Position, Reader, Seek, Source};
