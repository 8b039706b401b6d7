//! What other replicas of the lane ask of this one.
//!
//! A request is for one replica, incarnation included, and from one. A replica that was replaced is not heard: it has
//! forgotten what it voted for, or does not know that it was. Affinity: shard-local.

use std::rc::Rc;

use openraft::errors::{Fatal, RaftError};
use openraft_rt::WatchReceiver as _;
use tidewater_storage::model::ReplicaId;

use super::{Inner, Lane, Raft};
use crate::raft::codec::CodecError;
use crate::raft::network::{self, AppendReply, PeerError, PeerReply, PeerRequest, Receiver};
use crate::raft::runtime::scope::scoped;
use crate::raft::type_config::{Types, entry_id, log_id, replica_id};

impl Lane {
    /// Answers a request of the replica `from` for the replica `to`.
    ///
    /// # Errors
    /// [`PeerError::OtherIncarnation`] if it is not for this replica or from one that was replaced,
    /// [`PeerError::NotRunning`] when the group has ended, [`PeerError::Nonsense`] for what no replica sends.
    pub async fn handle(&self, to: ReplicaId, from: ReplicaId, request: PeerRequest) -> Result<PeerReply, PeerError> {
        let inner = &self.inner;
        let (lane, me) = (inner.standing.lane(), inner.standing.me());
        if to != me {
            return Err(PeerError::OtherIncarnation { lane, asked: to, found: me });
        }
        if let Some(found) = inner.successor_of(from) {
            return Err(PeerError::OtherIncarnation { lane, asked: from, found });
        }
        let rebuild = matches!(request, PeerRequest::Rebuild { .. });
        let answered = scoped(inner.env.clone(), answer(inner, from, request)).await;
        if rebuild && answered == Ok(PeerReply::Append(AppendReply::Conflict)) {
            inner.standing.must_rebuild(me);
        }
        answered.map_err(|refused| match refused {
            Refused::Ended => PeerError::NotRunning { replica: me, lane },
            Refused::Unreadable(error) => {
                tracing::warn!(%lane, %from, %error, "a request of a peer is refused");
                PeerError::Nonsense { replica: me, lane }
            }
        })
    }

    /// As [`Lane::handle`], in a task of the answering node, so that killing either side does what it does between
    /// processes: for the transport within a process.
    pub(crate) async fn handle_apart(
        &self,
        to: ReplicaId,
        from: ReplicaId,
        request: PeerRequest,
    ) -> Result<PeerReply, PeerError> {
        let (lane, this) = (self.inner.standing.lane(), self.clone());
        let task = self.inner.env.tasks.spawn("raft-answer", async move { this.handle(to, from, request).await });
        task.await.unwrap_or(Err(PeerError::Unreachable { replica: to, lane }))
    }
}

impl Inner {
    /// A replica of the same broker, in the membership that counts here, that was assigned after `replica`.
    fn successor_of(&self, replica: ReplicaId) -> Option<ReplicaId> {
        let metrics = self.metrics.borrow_watched();
        let members = metrics.membership_config.membership();
        let replicas = members.nodes().map(|(id, ())| replica_id(*id));
        replicas.filter(|other| other.node == replica.node && other.incarnation > replica.incarnation).max()
    }
}

#[derive(PartialEq)]
enum Refused {
    Ended,
    Unreadable(CodecError),
}

impl<E: std::error::Error> From<RaftError<Types, E>> for Refused {
    fn from(_: RaftError<Types, E>) -> Self {
        Self::Ended
    }
}

impl From<Fatal<Types>> for Refused {
    fn from(_: Fatal<Types>) -> Self {
        Self::Ended
    }
}

impl From<CodecError> for Refused {
    fn from(error: CodecError) -> Self {
        Self::Unreadable(error)
    }
}

async fn answer(inner: &Rc<Inner>, from: ReplicaId, request: PeerRequest) -> Result<PeerReply, Refused> {
    use openraft::raft::{TransferLeaderRequest, VoteRequest};
    let raft: &Raft = &inner.raft;
    let committed = inner.metrics.borrow_watched().local_committed.as_ref().map(entry_id);
    let committed = committed.max(inner.standing.applied());
    let here = Receiver { committed, entry_bytes_max: inner.entry_bytes_max };
    request.check(from, here)?;
    match request {
        PeerRequest::Append { vote, previous, entries, committed } => {
            let arrived = inner.env.clock.now();
            let request = network::append_in(vote, previous, entries, committed)?;
            let answered = network::append_out(raft.append_entries(request).await?);
            // The answer may have waited for the disk; the sign of life has not.
            if !matches!(answered, PeerReply::Append(AppendReply::HigherVote(_))) {
                inner.heard(arrived);
            }
            Ok(answered)
        }
        PeerRequest::Rebuild { vote, at } => {
            // Answered once everything up to `at` is durable here, like any append.
            let request = network::append_in(vote, Some(at), Vec::new(), Some(at))?;
            Ok(network::append_out(raft.append_entries(request).await?))
        }
        PeerRequest::Vote { vote, last, transfer } => {
            let mut request = VoteRequest::new(network::vote_in(vote), last.map(log_id));
            request.leadership_transfer = transfer;
            Ok(network::vote_reply_out(&raft.vote(request).await?))
        }
        PeerRequest::PreVote { vote, last } => {
            let request = VoteRequest::new(network::vote_in(vote), last.map(log_id));
            Ok(network::vote_reply_out(&raft.pre_vote(request).await?))
        }
        PeerRequest::Transfer { from, to, last } => {
            let request = TransferLeaderRequest::new(network::vote_in(from), to.to_u64(), last.map(log_id));
            Ok(network::transfer_out(raft.handle_transfer_leader(request).await?))
        }
    }
}
