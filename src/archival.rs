//! Archiving on this broker: a lane as `tiering`'s archiver sees it, and who starts and stops archivers.
//!
//! Owns: [`tidewater_tiering::archive::LaneHost`] over a data lane, and one archiver per led lane. Does not own: what
//! is archived when (`tiering::archive`). An idle partition costs none of this anything: what happens to one is listed
//! (`partition::state::dirty`), what ages waits in a queue by time. Shard-local.

mod catalogue;
pub mod cuts;
mod holds;
pub mod host;
mod peers;
mod retain;
pub mod root;
pub mod run;
mod successor;
#[cfg(test)]
mod tests;

use tidewater_storage::model::LaneId;

use crate::controller::image::ClusterImage;
use crate::controller::leaders::Leaders;

/// Does this broker lead the controller's lane, as far as it knows? The only broker of a cluster without a lane table
/// does.
pub(crate) fn leads_controller(image: &ClusterImage, leaders: &Leaders) -> bool {
    image.lanes.is_empty() || leaders.of(LaneId::CONTROLLER).is_some_and(|leader| leader.node == image.here)
}
