//! Other clusters' buckets as topics here: sources are followed as the controller says, their partitions are served by
//! the shards of this broker.
//!
//! In the order of what is learned: [`sources`] (shard 0) reads the root and the catalogue of every source and
//! publishes what it finds ([`published`], node-wide); [`shard`] (every shard) follows the lanes that are this shard's
//! and serves their partitions; [`facts`] is what a broker says about both; [`prove`] looks at a bucket before it is
//! followed; `tables` reads the tables of followed topics from the source's bucket. Which broker follows a lane:
//! `controller::followed`. Following itself: `tidewater_read_replica`.

pub mod facts;
pub mod prove;
pub mod published;
pub mod shard;
pub mod sources;
#[cfg(feature = "lakehouse")]
pub mod tables;
