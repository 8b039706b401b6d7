//! Bytes on this machine.

pub mod budget;
pub mod checkpoint;
pub mod codec;
pub mod disposition;
pub mod engine;
pub mod env;
pub mod journal;
pub mod log;
pub mod metrics;
pub mod model;
#[doc(hidden)]
pub mod outside;
pub mod segment;
