//! The cluster's own state: topics, ids, settings, placement, producer id blocks. One Raft lane (lane 0) on shard 0.
//!
//! Commands (`command`) are applied by a pure function (`state`) after a pure check (`plan`); every change yields a new
//! [`image::ClusterImage`], which all shards receive and reconcile their lanes with (`reconcile`). Handlers on any
//! shard use [`client::ControllerHandle`]; `service` is what answers them.

pub mod ask;
pub mod brokers;
pub mod client;
pub mod command;
pub mod copies;
pub mod features;
pub mod followed;
pub mod image;
pub mod lane;
pub mod lane_table;
pub mod leaders;
pub mod lineage;
pub mod peers;
pub mod placement;
pub mod plan;
pub mod reconcile;
pub mod service;
pub mod sources;
pub mod state;
