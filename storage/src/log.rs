//! One partition's log on this disk: committed batches, readable at once from memory, later from segment files.
//!
//! The parts, in the order a batch passes through them:
//!
//! - `handle`: [`PartitionLog`], the synchronous calls `append`, `trim`, `reset`; reports changes to the engine
//!   (`shared`).
//! - `state`: the log's state and all decisions, pure: recent batches, segments, when one closes, what to write next.
//! - `memory`: how many bytes of recent batches the shard holds, and which of them may be evicted.
//! - `write_back`: the I/O of writing: blocks, closed segments with their index files, syncs.
//! - `persist`: the log's record in the checkpoint.
//! - `read`: [`PartitionLog::read`] chooses memory or disk run by run; `run_cache` keeps the last runs; `time_lookup`
//!   searches by timestamp. (The choice between this log and the bucket is the partition layer's.)
//! - [`retention`]: which segments may be removed, a pure function.
//!
//! Does not own: what is committed (Raft), the log start that clients see (the partition layer), when a checkpoint is
//! taken (`engine`), offsets below the local start (`tiering`). Shard-local.
//!
//! **Ordering.** `append`, `trim`, `reset` are synchronous: a read that begins afterwards sees them. **Durability.**
//! Until a checkpoint names it, a batch is durable in the journal only, and is appended again after a crash; appending
//! a batch again changes nothing. **Cancellation.** A dropped read has no effect; the next write-back continues a
//! dropped one. **Errors.** Damage is an error with file, position, expected and found checksum; it ends that read, not
//! the log.
//!
//! Invariants: L1 segments are contiguous; `start` is the start of the first and `end` the end of the last. L2 recent
//! batches are contiguous and end at `end`; what lies below them is in files or in a segment's tail. L3 a block below
//! `flushed` is never written again while this log exists. L4 every read from disk is checked against its run's sum.

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
