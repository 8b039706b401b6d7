//! What the applied entries of a lane's log have made: its partitions and the lane's own state.

pub mod apply;
pub mod codec;
pub mod command;
pub mod dirty;
#[cfg(test)]
pub(crate) mod golden;
pub mod lane;
pub mod lane_blob;
pub mod lane_events;
pub mod replica;
mod replicas;
