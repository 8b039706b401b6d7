//! A request of this broker goes to the broker that leads the controller's lane: here, or another one.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use tidewater_storage::env::Mono;
use tidewater_storage::model::{NodeId, TopicId};

use super::Controller;
use crate::controller::ask::{Answered, Ask, AskError, PeerAsk, TopicError};
use crate::rpc::{RpcError, Service};

/// After a try that found no leader; twice as long each time, up to the second.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// How long one broker is waited for: a frozen one may have lost the lead by then.
const TRY_PATIENCE: Duration = Duration::from_secs(5);

/// What one try came to.
enum Tried {
    Answered(Result<Answered, TopicError>),
    /// Nothing was done; the broker that was asked knows this leader.
    NotLeader(Option<NodeId>),
    /// It is not known whether it was done.
    Unknown,
}

impl Controller {
    /// Has a request answered, by whichever broker leads the controller's lane; tries until it is, or `patience` is
    /// used up.
    pub(super) async fn ask(&self, ask: Ask, patience: Duration) -> Result<Answered, TopicError> {
        let ask = match ask {
            Ask::Create { spec, id: None } => Ask::Create { spec, id: Some(TopicId(self.env.rng.uuid())) },
            other => other,
        };
        let deadline = self.env.clock.now() + patience;
        let (mut again, mut hint, mut pause) = (false, None, PAUSE_FIRST);
        loop {
            match self.try_once(&ask, again, hint.take(), deadline).await {
                Tried::Answered(answer) => return answer,
                Tried::NotLeader(leader) => hint = leader.filter(|leader| *leader != self.here()),
                Tried::Unknown => again = true,
            }
            let left = deadline.since(self.env.clock.now());
            if left.is_zero() {
                return Err(if again { TopicError::TimedOut } else { TopicError::Unavailable });
            }
            let led = self.lane.leadership.notified();
            let sleep = self.env.tasks.sleep(pause.min(left));
            select(pin!(led), pin!(sleep)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn try_once(&self, ask: &Ask, again: bool, hint: Option<NodeId>, deadline: Mono) -> Tried {
        let left = deadline.since(self.env.clock.now());
        if self.lane.status.leading().is_some() {
            let answer = self.enqueue(ask.clone(), again);
            let pause = self.env.tasks.sleep(left);
            return match select(answer, pin!(pause)).await {
                Either::Left((Ok(Ok(answered)), _)) => Tried::Answered(Ok(answered)),
                Either::Left((Ok(Err(AskError::Final(error))), _)) => Tried::Answered(Err(error)),
                Either::Left((Ok(Err(AskError::NotLeader(leader))), _)) => Tried::NotLeader(leader),
                Either::Left((Ok(Err(AskError::Unknown)) | Err(_), _)) | Either::Right(_) => Tried::Unknown,
            };
        }
        let known = self.lane.status.raft().and_then(|raft| raft.leadership().leader);
        let leader = hint.or(known).filter(|leader| *leader != self.here());
        let (Some(peers), Some(leader)) = (&self.peers, leader) else { return Tried::NotLeader(None) };
        let body = PeerAsk { ask: ask.clone(), again };
        let body = serde_json::to_vec(&body).expect("maps, numbers and strings serialise into memory");
        match peers.call(leader, Service::Controller, Bytes::from(body), TRY_PATIENCE.min(left)).await {
            Ok(answer) => match serde_json::from_slice::<Result<Answered, AskError>>(&answer) {
                Ok(Ok(answered)) => Tried::Answered(Ok(answered)),
                Ok(Err(AskError::Final(error))) => Tried::Answered(Err(error)),
                Ok(Err(AskError::NotLeader(leader))) => Tried::NotLeader(leader),
                Ok(Err(AskError::Unknown)) => Tried::Unknown,
                Err(error) => {
                    tracing::warn!(%error, %leader, "the controller's answer cannot be read; is the broker of another version?");
                    Tried::Unknown
                }
            },
            Err(RpcError::Lost { .. } | RpcError::TimedOut { .. }) => Tried::Unknown,
            Err(error) => {
                tracing::debug!(%error, %leader, "the leader of the controller's lane cannot be asked");
                Tried::NotLeader(None)
            }
        }
    }
}
