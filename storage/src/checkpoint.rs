//! The checkpoint of a shard: small records by key (shard, lane, partition), which become durable together.
//!
//! Owns: immutable checkpoint pages, the root that names them in two alternating slots, which blocks are free. Does not
//! own: what the records say (`engine`, the layers above), when a checkpoint is taken, what may be released afterwards.
//! Shard-local.
//!
//! **Crash behaviour.** A commit writes pages to blocks that no valid root names, syncs, writes the slot of the *older*
//! root, syncs. Torn or lost writes up to then leave the other slot and its pages unchanged. **Errors.** A failed write
//! leaves the store unchanged and may be tried again; after a failed sync the store must not be used. If a page is
//! damaged, the next commit writes all records from memory. A start that finds a damaged page opens the root before,
//! whose pages are still there, if the journal reaches back to it.
//!
//! Invariants: C1 the slot of generation g is g mod 2. C2 no page is written to a block that the root in either slot
//! names. C3 once the store was made, at least one slot is valid; otherwise opening reports damage.

mod error;
pub mod page;
pub mod root;
mod space;
mod store;

#[cfg(test)]
mod tests;

pub use error::CheckpointError;
pub use page::Key;
pub use root::{PageRef, Root};
pub use store::{CheckpointStore, CheckpointWritten};
