//! Lanes: Raft groups that carry one partition or many, over openraft.
//!
//! Owns: replication and election of a lane, its log store over the shard's journal, the moment a replica may serve.
//! Does not own: what entries mean ([`Apply`], given by the layers above), where state is durable (the engine's
//! checkpoint), connections between brokers ([`network::PeerTransport`]). openraft hides here: none of its types is
//! named outside this folder, and its version is pinned with `=` because its alphas change their API every week.
//!
//! Affinity: shard-local. A lane never leaves its shard.
//!
//! A replica is a broker and an incarnation ([`tidewater_storage::model::ReplicaId`]): the same broker without its disk
//! is another replica, and requests from or to the former one are refused.
//!
//! Ordering: entries are applied in log order, each once per recovery; answers come in log order. Retries: a proposal
//! that finds the leader's lease ended waits for one confirmation of its leadership ([`Lane::confirm`]).
//! Crash: an acknowledged entry is in the journals of a majority, and is applied again after the checkpoint.

use bytes::Bytes;
use tidewater_storage::journal::Payload;
use tidewater_storage::model::{EntryId, Term};

mod codec;
mod lane;
mod leadership;
mod log_store;
#[cfg(test)]
mod memory_log;
pub mod network;
#[doc(hidden)]
pub mod outside;
mod proposal;
mod runtime;
mod settings;
mod snapshot;
mod state_machine;
mod status;
mod type_config;

pub use codec::CodecError;
pub use lane::members::{LaneMembership, MembershipError, ReplicaProgress, sole_voter};
pub use lane::purging::LogHold;
pub use lane::transfer::TransferError;
pub use lane::{Lane, LaneError, LaneFatal, LaneOptions, Leadership};
pub use proposal::{Answer, Proposal, ProposeError};
pub use settings::{LEASE, PROPOSALS_MAX};
pub use status::{LaneStatus, NotUnderstood};

/// The state that a lane's entries build, given by the layer above.
///
/// Everything is called on the lane's shard, from its tasks, with nothing of the lane borrowed: an implementation may
/// call the [`Lane`] back, and must not block. `apply` is deterministic and never fails: what an entry cannot do is
/// part of its answer, the same on every replica.
pub trait Apply {
    /// Applies a proposed entry. The answer travels to the proposer if it waits on this replica.
    fn apply(&self, id: EntryId, payload: &Payload) -> Answer;

    /// An entry without content was applied: a new leader's first, or a membership.
    fn applied_blank(&self, id: EntryId);

    /// The membership as of the entry that is being applied, encoded: it belongs into every checkpoint from this entry
    /// on ([`LaneOptions::membership`]). Called before `applied_blank` of that entry, and never for what a checkpoint
    /// held already. A lane applies while it starts, before there is a [`Lane`] to ask.
    fn membership(&self, blob: Bytes);

    /// This replica leads `term`, and `ready_at`, the first entry of that term, is applied: it may serve and propose.
    fn leading(&self, term: Term, ready_at: EntryId);

    /// It leads no longer; `term` is the one it is in. Called only after `leading`, and before an entry of a later
    /// leader is applied.
    fn following(&self, term: Term);
}
