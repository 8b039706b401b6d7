//! openraft's state machine: hands committed entries to the layer above, in order.
//!
//! Owns: nothing durable. What is applied is durable when the engine's checkpoint says so; the applied id given to
//! openraft at start is the checkpoint's. Applying never fails; an error comes from reading the log, or from a
//! snapshot, which no replica of this broker sends, and ends the group. Affinity: shard-local.

use std::io;
use std::rc::Rc;

use futures::{Stream, StreamExt as _};
use openraft::EntryPayload as Kind;
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use tidewater_storage::model::EntryId;

use super::leadership::Standing;
use super::proposal::Answer;
use super::runtime::oneshot;
use super::snapshot::{Marker, meta_of};
use super::type_config::{CommittedLeader, LogId, Proposed, SnapshotMeta, StoredMembership, Types, entry_id, log_id};

/// The last entry that is purged from the lane's log.
pub(crate) type Purged = Rc<dyn Fn() -> Option<EntryId>>;

/// The state machine of one lane.
pub(crate) struct StateMachine {
    standing: Rc<Standing>,
    purged: Purged,
    /// Was a snapshot marker built since start?
    marked: bool,
    /// Dropped with the state machine: nothing is applied afterwards.
    _alive: oneshot::Sender<()>,
}

impl StateMachine {
    pub(crate) fn new(standing: Rc<Standing>, purged: Purged, alive: oneshot::Sender<()>) -> Self {
        Self { standing, purged, marked: false, _alive: alive }
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = ();
    type SnapshotBuilder = Marker;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.standing.applied().map(log_id), self.standing.membership()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let id = entry_id(&entry.log_id);
            let answer = match entry.payload {
                Kind::Normal(Proposed(payload)) => self.standing.apply(id, &payload),
                Kind::Blank => {
                    self.standing.apply_blank(id, None);
                    Answer::none()
                }
                Kind::Membership(membership) => {
                    self.standing.apply_blank(id, Some(membership));
                    Answer::none()
                }
            };
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Marker {
        self.marked = true;
        Marker::new(meta_of(&self.standing))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, (): ()) -> Result<(), io::Error> {
        let (lane, at) = (self.standing.lane(), &meta.last_log_id);
        Err(io::Error::other(format!(
            "lane {lane} was sent a snapshot up to {at:?}, which no replica sends or takes over"
        )))
    }

    /// Asked for when a replica lacks purged entries: the meta names the last of them, which the replica is asked for.
    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<CommittedLeader, u64, (), ()>>, io::Error> {
        if !self.marked {
            return Ok(None);
        }
        let meta =
            SnapshotMeta { last_log_id: (self.purged)().map(log_id), last_membership: self.standing.membership() };
        Ok(Some(Snapshot { meta, snapshot: () }))
    }
}
