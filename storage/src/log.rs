//! One partition's log on this disk: committed batches, readable at once from memory, later from segment files.
//!
//! Owns: the order of segments, recent batches, what of them is written, reads over both, look-up by time, trimming.
//! Does not own: what is committed (Raft decides, the partition layer applies), the log start that clients see, when
//! a checkpoint is taken (`engine`), the bytes below the local start (`tiering`). Shard-local, `Rc` inside.
//!
//! **Ordering.** `append`, `trim`, `reset` are synchronous: a read that begins afterwards sees them. **Durability.**
//! None of its own: until a checkpoint has named it, a batch is durable in the journal, and is appended again after a
//! crash. Appending again what is already there changes nothing. **Cancellation.** A dropped read leaves nothing
//! behind; a dropped write-back is continued by the next. **Errors.** Corruption is told by file, position, expected
//! and found, and stops that read, not the log.
//!
//! Invariants: L1 segments are contiguous, `start` is the first one's start and `end` the last one's end. L2 recent
//! batches are contiguous and end at `end`; what lies below them is in files or in a segment's tail. L3 a block below
//! `flushed` is never written again while this log lives. L4 every disk read is checked against its run's sum.

mod error;
mod handle;
pub(crate) mod memory;
pub(crate) mod persist;
mod read;
pub mod retention;
mod run_cache;
#[cfg(test)]
pub(crate) mod sample;
mod settings;
pub(crate) mod shared;
pub(crate) mod state;
mod time_lookup;
pub(crate) mod write_back;

#[cfg(test)]
mod tests;

pub use error::{LogStateError, ReadError, WriteBackError};
pub use handle::{LogBounds, PartitionLog};
pub use read::LogRead;
pub use settings::LogSettings;
pub use time_lookup::TimedOffset;
