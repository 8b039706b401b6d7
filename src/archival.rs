//! Archiving on this broker: a lane as `tiering`'s archiver sees it, and who starts and stops archivers.
//!
//! Owns: [`tidewater_tiering::archive::LaneHost`] over a data lane, and one archiver per led lane. Does not own: what is
//! archived when (`tiering::archive`). Shard-local.

pub mod host;
pub mod run;
