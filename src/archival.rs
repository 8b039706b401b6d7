//! Archiving on this broker: a lane as `tiering`'s archiver sees it, and who starts and stops archivers.
//!
//! Owns: [`tidewater_tiering::archive::LaneHost`] over a data lane, and one archiver per led lane. Does not own: what is
//! archived when (`tiering::archive`). An idle partition costs none of this anything: what happens to one is listed
//! (`partition::state::dirty`), what ages waits in a queue by time. Shard-local.

mod catalogue;
pub mod host;
mod retain;
pub mod run;
