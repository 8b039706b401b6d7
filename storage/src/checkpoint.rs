//! The checkpoint of a shard: small records by key (lane, partition), the newest of each durable together at one moment.
//!
//! Owns: immutable pages, the root that names them in two alternating slots, which blocks may be used again. Does not
//! own: what the records say (`engine`, the layers above), when one is taken, what may be released afterwards.
//! Shard-local.
//!
//! **Crash behaviour.** A commit writes pages to blocks that no valid root names, syncs, writes the slot of the *older*
//! root, syncs. Torn or lost writes up to that point leave the other slot and all its pages as they were. **Errors.** A
//! failed write leaves the store as it was and may be tried again; after a failed sync the store must be given up. A page that
//! has rotted is written anew from memory, with all others; a start that finds one goes on from the root before, whose pages
//! are still there, where the journal reaches back to it.
//!
//! Invariants: C1 the slot of generation g is g mod 2. C2 no page is written to a block that the root in either slot
//! names. C3 once the store was made, at least one slot is valid: anything else is damage and is told.

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
