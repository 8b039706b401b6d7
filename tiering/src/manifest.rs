//! Manifests: where every archived offset of a partition lies, and what a lane has put into the bucket.
//!
//! Owns: the replicated state ([`LaneManifest`], [`PartitionManifest`]), the commands that change it, the pure
//! transition, its invariants, its codecs, what is published of it in the bucket, root and catalogue. Does not own:
//! when to archive, gather or delete, nor any I/O. Everything is a *message* or pure.
//!
//! Lane and partition state are checkpointed apart and may be *as of* different log indexes. Therefore each applies
//! its own share of a command, decides from its own state alone, and skips what it already covers (`changed`).

mod apply;
mod catalogue;
mod codec;
mod command;
mod copied;
mod invariants;
mod lane;
mod objects;
mod page;
mod partition;
mod publish;
mod published;
mod root;
mod row;
mod spill;

pub use apply::{Applied, Rejected, apply};
pub use catalogue::{Catalogue, CataloguePartition, CatalogueTopic, UnarchivedTopic, UnarchivedTopics};
pub use command::{
    Bundled, BundledEnd, Command, Deleted, NewObject, NewRow, Published, Quarantine, Replaced, Spilled, Trimmed,
    Unfolded,
};
pub use copied::{CatalogueCopy, CopyOrigin, CopyPartition};
pub use invariants::{Violation, check_lane, check_lane_step, check_partition, check_partition_step};
pub(crate) use lane::is_manifest_page;
pub use lane::{Grace, LaneManifest, Live, Pending, Publication, is_shared};
pub use objects::{LaneObject, LaneObjectState, ObjectPageRef, decode_objects, take_objects};
pub use page::{PageRef, PublishedLane, decode_page, decode_page_unchecked};
pub use partition::{Covering, PartitionManifest, Quarantined};
pub use publish::{PublishPlan, PublishRequest, plan_publish};
pub use published::{LEADER_EPOCHS_MAX, LogFacts, PENDING_PUBLISHED_MAX, PublishedPartition};
pub use root::{PointerError, Root};
pub(crate) use root::{from_json, to_json};
pub use row::{Row, Source};
pub use spill::{SpillPage, SpillRow, decode_spill, encode_spill, plan_spill};
