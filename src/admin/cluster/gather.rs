//! Asks all brokers about themselves, and hands the leadership of a lane over. On shard 0, for the admin port and for
//! protocol handlers of every shard; other brokers ask over `Service::Status`.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{LocalBoxFuture, join_all};
use serde::{Deserialize, Serialize};
use tidewater_storage::env::Env;
use tidewater_storage::model::{LaneId, NodeId, ShardId};

use super::facts::{BrokerFacts, ClusterFacts, PeerFacts, SupersededFacts};
use crate::admin::report::ReportRequest;
use crate::controller::client::{CONTROLLER_SHARD, ControllerHandle};
use crate::controller::state::shard_of;
use crate::rpc::{PeerState, Refusal, Rpc, RpcError, Service};
use crate::shard::mesh::Mesh;

/// How long another broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the new leader may take to lead.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at who leads.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Transfers of a lane for one order.
const TRIES: usize = 4;
/// Between two of them: an election that another replica won has ended.
const AGAIN: Duration = Duration::from_millis(500);

/// Why a lane was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    #[error("there is no lane {0}; GET /v1/cluster/lanes lists the lanes")]
    UnknownLane(LaneId),
    #[error("lane {0} has no leader that could hand it over; tidewater cluster health says why")]
    NoLeader(LaneId),
    #[error("broker {1} has no replica of lane {0} that votes; its replicas are on {2}")]
    NotAReplica(LaneId, NodeId, String),
    #[error("broker {1} leads lane {0} already")]
    Already(LaneId, NodeId),
    /// The leader did not, or the new one did not come to lead in time; the text says why.
    #[error("lane {lane} was not handed over: {why}")]
    Failed { lane: LaneId, why: String },
}

/// Asks all brokers and changes the leaders of lanes, from any shard. Node-wide, cheap to clone.
#[derive(Clone)]
pub struct ClusterOperator {
    reports: Mesh<ReportRequest>,
}

impl fmt::Debug for ClusterOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterOperator")
    }
}

impl ClusterOperator {
    #[must_use]
    pub fn new(reports: Mesh<ReportRequest>) -> Self {
        Self { reports }
    }

    /// What all brokers say about themselves; `None` while this broker stops.
    pub async fn facts(&self) -> Option<ClusterFacts> {
        self.reports.call(CONTROLLER_SHARD, ReportRequest::Cluster).await.ok()
    }

    /// Hands the lane to the replica on `to`, on whichever broker it is led; returns once that one leads.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub async fn transfer(&self, lane: LaneId, to: NodeId) -> Result<(), TransferError> {
        let asked = self.reports.call(CONTROLLER_SHARD, |reply| ReportRequest::Transfer(lane, to, reply)).await;
        asked.unwrap_or_else(|_| Err(TransferError::Failed { lane, why: "the broker is stopping".to_owned() }))
    }
}

/// Which brokers this one reaches. A message.
#[derive(Clone, Debug)]
pub struct Reach {
    /// The registered ones.
    pub brokers: usize,
    /// This one among them.
    pub reached: usize,
    /// In words, those that are not reached, and why.
    pub away: Vec<String>,
}

/// A question of another broker. JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StatusAsk {
    Facts,
    /// Hand over a lane that the asked broker leads.
    HandOver {
        lane: u32,
        to: i32,
    },
}

/// Asks the shards of this broker, and other brokers. Shard-local, cheap to clone.
#[derive(Clone)]
pub struct Gatherer {
    pub env: Env,
    pub controller: ControllerHandle,
    pub reports: Mesh<ReportRequest>,
    /// `None` in a broker that has no port for others.
    pub rpc: Option<Rpc>,
}

impl fmt::Debug for Gatherer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gatherer")
    }
}

impl Gatherer {
    /// Answers other brokers whose connections are on this shard.
    pub fn serve_peers(&self) {
        let Some(rpc) = &self.rpc else { return };
        let here = self.clone();
        rpc.serve(
            Service::Status,
            Rc::new(move |_, body| -> LocalBoxFuture<'static, Result<Bytes, Refusal>> {
                let here = here.clone();
                Box::pin(async move { here.answer(&body).await })
            }),
        );
    }

    async fn answer(&self, body: &[u8]) -> Result<Bytes, Refusal> {
        let ask: StatusAsk = serde_json::from_slice(body)
            .map_err(|error| Refusal(format!("a question that this version does not know: {error}")))?;
        match ask {
            StatusAsk::Facts => {
                let facts = serde_json::to_vec(&self.own().await);
                facts.map(Bytes::from).map_err(|error| Refusal(error.to_string()))
            }
            StatusAsk::HandOver { lane, to } => {
                let done = self.hand_over(LaneId(lane), NodeId(to)).await;
                done.map(|()| Bytes::from_static(b"{}")).map_err(|error| Refusal(error.to_string()))
            }
        }
    }

    /// The registered brokers, and which of them have a connection from here.
    #[must_use]
    pub fn reach(&self) -> Reach {
        let image = self.controller.image();
        let peers = self.rpc.iter().flat_map(Rpc::peers);
        let (connected, away): (Vec<_>, Vec<_>) =
            peers.filter(|peer| image.brokers.contains_key(&peer.node)).partition(|peer| peer.connected);
        Reach {
            brokers: image.brokers.len(),
            reached: connected.len() + 1,
            away: away.iter().filter_map(PeerState::away).collect(),
        }
    }

    /// This broker.
    pub async fn own(&self) -> BrokerFacts {
        let shards = (0..self.reports.shards()).map(|n| self.reports.call(ShardId(n), ReportRequest::Facts));
        let mut facts = BrokerFacts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: self.controller.image().revision,
            ..BrokerFacts::default()
        };
        for shard in join_all(shards).await.into_iter().flatten() {
            facts.connections += shard.connections;
            facts.lanes.extend(shard.lanes);
            facts.replicas.add(shard.replicas);
            facts.copies.extend(shard.copies);
            if let Some(rebuild) = shard.rebuild {
                facts.rebuild.get_or_insert_default().add(rebuild);
            }
            // Of the node; every shard reports the same.
            facts.superseded = shard.superseded.map(|end| SupersededFacts { own: end.own.0, next: end.next.0 });
            facts.bucket_gone = shard.bucket_gone;
            facts.cuts_failing = shard.cuts_failing;
            facts.disk_used_bytes = shard.disk.total();
            facts.disk_limit_bytes = shard.disk.limit;
            facts.disk_admissible_bytes = shard.disk.admissible();
        }
        facts.lanes.sort_unstable_by_key(|lane| lane.lane);
        facts.peers = self
            .rpc
            .iter()
            .flat_map(Rpc::peers)
            .map(|peer| PeerFacts {
                node: peer.node.0,
                connected: peer.connected,
                since_ms: peer.since_ms,
                rtt_us: peer.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
                refused: peer.refused,
            })
            .collect();
        facts
    }

    pub async fn cluster(&self) -> ClusterFacts {
        let (image, leaders) = (self.controller.image(), self.controller.leaders());
        let ask = serde_json::to_vec(&StatusAsk::Facts).map(Bytes::from).expect("an enum serialises into memory");
        let asked = image.brokers.keys().map(|id| {
            let ask = ask.clone();
            let here = image.here;
            async move {
                if *id == here {
                    return (*id, Ok(self.own().await));
                }
                let answer = self.call(*id, ask, PATIENCE).await.map_err(|error| error.to_string());
                let facts = answer.and_then(|json| serde_json::from_slice(&json).map_err(|error| error.to_string()));
                (*id, facts)
            }
        });
        let brokers: BTreeMap<_, _> = join_all(asked).await.into_iter().collect();
        ClusterFacts { image, leaders, brokers }
    }

    async fn call(&self, to: NodeId, ask: Bytes, timeout: Duration) -> Result<Bytes, RpcError> {
        match &self.rpc {
            Some(rpc) => rpc.call(to, Service::Status, ask, timeout).await,
            None => {
                let why = "this broker has no port for other brokers".to_owned();
                Err(RpcError::Unreachable { broker: to.to_string(), why })
            }
        }
    }

    /// Has the leader of a lane hand it over, and waits until the other broker is known to lead. What a busy moment
    /// prevents, such as an election that the replica did not win in time or a transfer that is under way already, is
    /// tried again.
    pub async fn transfer(&self, lane: LaneId, to: NodeId) -> Result<(), TransferError> {
        let mut done = self.transfer_once(lane, to).await;
        for _ in 1..TRIES {
            if !matches!(done, Err(TransferError::Failed { .. } | TransferError::NoLeader(_))) {
                break;
            }
            self.env.tasks.sleep(AGAIN).await;
            done = match self.transfer_once(lane, to).await {
                // It came to lead after all.
                Err(TransferError::Already(..)) => Ok(()),
                done => done,
            };
        }
        done
    }

    async fn transfer_once(&self, lane: LaneId, to: NodeId) -> Result<(), TransferError> {
        let image = self.controller.image();
        if !image.lanes.contains_key(&lane) {
            return Err(TransferError::UnknownLane(lane));
        }
        let replicas = image.replicas(lane);
        if !replicas.contains(&to) {
            let on: Vec<String> = replicas.iter().map(ToString::to_string).collect();
            return Err(TransferError::NotAReplica(lane, to, on.join(", ")));
        }
        let leader = self.controller.leaders().of(lane).map(|led| led.node).ok_or(TransferError::NoLeader(lane))?;
        if leader == to {
            return Err(TransferError::Already(lane, to));
        }
        let failed = |why: String| TransferError::Failed { lane, why };
        if leader == image.here {
            self.hand_over(lane, to).await?;
        } else {
            let ask = serde_json::to_vec(&StatusAsk::HandOver { lane: lane.0, to: to.0 });
            let ask = ask.map_err(|error| failed(error.to_string()))?;
            self.call(leader, ask.into(), TRANSFER_PATIENCE).await.map_err(|error| failed(error.to_string()))?;
        }
        let until = self.env.clock.now() + TRANSFER_PATIENCE;
        while self.controller.leaders().of(lane).is_none_or(|led| led.node != to) {
            if until.since(self.env.clock.now()).is_zero() {
                return Err(failed(format!("broker {to} does not lead it within {TRANSFER_PATIENCE:?}")));
            }
            self.env.tasks.sleep(LOOK_PAUSE).await;
        }
        Ok(())
    }

    /// Hands over a lane that this broker leads.
    async fn hand_over(&self, lane: LaneId, to: NodeId) -> Result<(), TransferError> {
        let shard = if lane == LaneId::CONTROLLER { CONTROLLER_SHARD } else { shard_of(lane, self.reports.shards()) };
        let asked = self.reports.call(shard, |reply| ReportRequest::HandOver(lane, to, reply)).await;
        asked.unwrap_or_else(|_| Err(TransferError::Failed { lane, why: "the broker is stopping".to_owned() }))
    }
}
