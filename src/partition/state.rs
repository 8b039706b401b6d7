//! What the applied entries of a lane's log have made: its partitions and the lane's own state.

pub mod codec;
pub mod command;
pub mod dirty;
pub mod event;
pub mod lane;
pub mod not_understood;
pub mod replica;
mod replicas;
