//! A cluster restored from its bucket: the source's lanes are ended, and what they left begins a new lineage epoch.
//!
//! Owns: the steps in the bucket and their order ([`order`]), what the new epoch begins with ([`LaneSeed`]). Does not
//! own: the data directory that names the attempt, and the broker that begins in the new home (the broker's package).
//!
//! [`Restore::run`] reads every lane with `follow`, as a follower does, up to its end, which it makes the end for good;
//! plans the new home from that; writes it; makes the switch. No record is copied.

mod cut;
mod error;
mod freeze;
mod home;
pub mod order;
mod plan;
mod read;
mod report;
mod root;
mod run;
mod tail;
mod topic;

pub use error::RestoreError;
pub use freeze::LaneEnd;
pub(crate) use freeze::Lanes;
pub use home::{read_catalogue, read_lane};
pub use order::{Attempt, RestoreRefusal, begin};
pub use plan::{LaneSeed, SEED, epoch_base, first_producer_id};
pub use report::{CutReport, LaneReport, PartitionReport, Report, TopicReport};
pub use run::{Progress, Restore};
pub(crate) use tail::LaneTail;
pub use topic::{FoundTopic, TopicState};
