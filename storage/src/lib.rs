//! Bytes on this machine.

pub mod model;
