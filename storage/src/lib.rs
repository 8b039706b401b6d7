//! Bytes on this machine.

pub mod env;
pub mod model;
