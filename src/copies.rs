//! Topics made as copies of archived topics: one topic restored from a bucket into this cluster, or forked within it.
//!
//! In the order of what happens: [`prepare`] (shard 0) finds the topic in the bucket and has the controller make a
//! topic with the same partitions, offsets and settings; the leaders of its lanes then copy the records ([`shard`],
//! every shard) from the bucket into the partitions' logs, a few topics at a time (`places`); [`facts`] is what a
//! broker says about that. What the controller keeps of a copy: `controller::copies`.
//!
//! 1. A partition of a copy begins at the first offset of its origin and takes nothing but the copy until it has
//!    reached the origin's end (`Replica::copying_until`, replicated). So offsets are the origin's, however often
//!    brokers are killed.
//! 2. How far a copy is follows from the end of the log alone. A leader goes on there, and the proposer refuses a batch
//!    that does not continue it.
//! 3. The copy names no object of the origin: what one of the two deletes, the other does not need.
//!
//! Why it is done by way of the log, and not with objects: `DESIGN.md`, "Copies of topics".

pub mod error;
pub mod facts;
pub mod origin;
mod places;
pub mod prepare;
pub mod shard;
