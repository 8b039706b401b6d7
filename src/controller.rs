//! The cluster's own state: topics, ids, settings, placement, producer id blocks. One Raft lane (lane 0) on shard 0.
//!
//! Commands (`command`) are applied by a pure function (`apply`) to the state (`state`); every change yields a new
//! [`image::ClusterImage`], which all shards receive and reconcile their lanes with. Handlers on any shard use
//! [`client::ControllerHandle`].

pub mod client;
pub mod image;
