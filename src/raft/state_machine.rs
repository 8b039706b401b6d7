//! openraft's state machine: hands committed entries to the layer above, in order.
//!
//! Owns: nothing durable. What is applied is durable when the engine's checkpoint says so; the applied id given to
//! openraft at start is the checkpoint's. Applying never fails; an error comes from reading the log or from a snapshot that
//! cannot be taken over, and ends the group. Affinity: shard-local.

use std::io;
use std::rc::Rc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use openraft::EntryPayload as Kind;
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};

use super::leadership::Standing;
use super::proposal::Answer;
use super::runtime::oneshot;
use super::snapshot::{Marker, meta_of};
use super::type_config::{CommittedLeader, LogId, Proposed, SnapshotMeta, StoredMembership, Types, entry_id, log_id};

/// The state machine of one lane.
pub(crate) struct StateMachine {
    standing: Rc<Standing>,
    /// Was a snapshot marker built or a snapshot installed since start?
    marked: bool,
    /// Dropped with the state machine: nothing is applied afterwards.
    _alive: oneshot::Sender<()>,
}

impl StateMachine {
    pub(crate) fn new(standing: Rc<Standing>, alive: oneshot::Sender<()>) -> Self {
        Self { standing, marked: false, _alive: alive }
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = Bytes;
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

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, state: Bytes) -> Result<(), io::Error> {
        if let Some(at) = &meta.last_log_id {
            let installed = self.standing.install(entry_id(at), meta.last_membership.clone(), state);
            installed.map_err(io::Error::other)?;
            self.marked = true;
        }
        Ok(())
    }

    /// Made on demand, of what is applied now: it is asked for when a follower needs it, between two entries.
    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<CommittedLeader, u64, (), Bytes>>, io::Error> {
        if !self.marked {
            return Ok(None);
        }
        let meta = meta_of(&self.standing);
        Ok(Some(Snapshot { meta, snapshot: self.standing.snapshot() }))
    }
}
