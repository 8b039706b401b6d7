//! Feature levels: what the cluster may write that older versions do not understand.
//!
//! A level is finalized by a command once every registered broker supports it, and is never lowered. A command kind
//! that came with a level is proposed only after that.

/// The cluster's own level, as `metadata.version` is Kafka's.
pub const CLUSTER: &str = "cluster.version";

/// Brokers register and lanes are in the lane table.
pub const LANE_TABLE: u16 = 1;

/// Sources are followed.
pub const REPLICAS: u16 = 2;

/// Cuts are made: every broker asks for them before it deletes from the bucket. They came with the same release as
/// sources.
pub const CUTS: u16 = REPLICAS;

/// Topics are made as copies of archived ones. They came with the same release, too.
pub const COPIES: u16 = REPLICAS;

/// The highest level of [`CLUSTER`] that this version supports.
pub const CLUSTER_MAX: u16 = REPLICAS;

const _: () = assert!(CLUSTER_MAX == crate::rpc::FEATURE_MAX, "the handshake between brokers names the same level");
