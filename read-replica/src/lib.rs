//! Another cluster's bucket as read-only partitions here. The cluster whose bucket is followed is the *source*.
//!
//! Owns: asking the source's bucket at the right moments, what is served meanwhile, reading partitions with one more
//! look when an object is gone. Does not own: what an answer means (`tidewater_tiering::follow`), which broker follows
//! which lane, Kafka's answers. Nothing is ever written to the source's bucket. Reasons: `DESIGN.md`.
//!
//! 1. [`Source`] follows root and catalogue: the home that is served, the topics that match, their lanes. One per
//!    broker.
//! 2. [`LaneFollower`] follows one lane: its manifest, then bundle after bundle. It tells its listener what changed.
//! 3. [`PartitionReader`] is one partition of a followed lane: its ends, its leader epochs, its records.
//!
//! All are shard-local and cheap to clone. Someone spawns `run` of 1 and 2; dropping or cancelling it at any await is
//! safe.

mod config;
mod error;
mod lane;
mod partition;
mod pattern;
mod source;
mod status;

pub use config::ReplicaConfig;
pub use error::ReplicaError;
pub use lane::{LaneFollower, LaneParts};
pub use partition::PartitionReader;
pub use pattern::{PatternError, TopicPattern};
pub use source::{Source, SourceParts, SourceState, SourceStatus};
pub use status::{LaneStatus, Requests, WaitsFor};

#[cfg(test)]
mod tests;
