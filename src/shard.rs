//! The machine room: one pinned executor per core and the typed messages between them.

pub mod executor;
mod memory;
pub mod mesh;
