//! Between brokers: connections, their handshake, frames; the transport of every lane and the calls of all layers
//! above.
//!
//! In the order data passes through them: [`frame`] (bytes of a message), [`handshake`] (who the other side is), both
//! pure; `wire` (a socket, plain or TLS), `outbox` (frames waiting to be sent), `connection` (this shard's connections
//! to one peer), `server` (connections of peers to this shard), `peers` (what both know about a peer). Does not own:
//! what requests mean, which brokers there are ([`Rpc::set_peers`]), deadlines of Raft.
//!
//! Each shard has two connections to each peer: an urgent one (votes, heartbeats, small calls) and a bulk one (entries,
//! rebuilds, large calls). A connection carries requests in one direction and their answers in the other. Requests of
//! one connection are started in the order in which they were sent, and are answered in any order.
//!
//! Affinity: [`Rpc`] is shard-local; [`RpcNode`] is node-wide. Retries: none, except of connections. A request whose
//! connection broke may or may not have been carried out ([`RpcError::Lost`]).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use tidewater_storage::env::{Deadlines, Env};
use tidewater_storage::model::{LaneId, NodeId, ReplicaId, ReplicaIncarnation, ShardId};
use uuid::Uuid;

use crate::raft::network::{PeerError, PeerReply, PeerRequest, PeerTransport};

mod connection;
pub mod frame;
pub mod handshake;
pub(crate) mod limits;
mod link;
mod metrics;
mod options;
mod outbox;
mod peers;
mod resolve;
mod room;
mod server;
#[cfg(test)]
mod tests;
mod wire;

pub use metrics::{PeerCounts, RpcCounts};
pub use options::{RpcOptions, RpcOptionsError, Secret};
pub use peers::{FEATURE_MAX, RpcMember, RpcNode};
pub use server::{RpcArrival, accept};

/// What a call to another broker is about. The code is the one on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Service {
    /// Forming a cluster and joining one. The only service for a broker without a cluster.
    Join = 1,
    /// Requests to the leader of the controller's lane.
    Controller = 2,
    /// Reports of who leads which lane.
    Leaders = 3,
    Partition = 4,
    /// Copies of a lane's state.
    Rebuild = 5,
    Group = 6,
    Status = 7,
    /// Between schema registries: commands for the leader of `_schemas`.
    Schemas = 8,
}

impl Service {
    pub const ALL: [Self; 8] = [
        Self::Join,
        Self::Controller,
        Self::Leaders,
        Self::Partition,
        Self::Rebuild,
        Self::Group,
        Self::Status,
        Self::Schemas,
    ];

    /// `None` for a code of a newer version.
    #[must_use]
    pub fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.code() == code)
    }

    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Controller => "controller",
            Self::Leaders => "leaders",
            Self::Partition => "partition",
            Self::Rebuild => "rebuild",
            Self::Group => "group",
            Self::Status => "status",
            Self::Schemas => "schemas",
        }
    }
}

/// The broker on the other side of a connection, as its handshake showed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// `None`: it is not a member of a cluster yet.
    pub node: Option<NodeId>,
    /// The incarnation of its node id.
    pub incarnation: ReplicaIncarnation,
    /// Of its data directory.
    pub birth: Uuid,
    pub address: SocketAddr,
}

/// A broker of the cluster and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    pub node: NodeId,
    pub host: String,
    pub port: u16,
    /// The data directory that has the node id, and with which incarnation; `None` when it is not known yet. A
    /// connection from another directory with the same or an older incarnation is refused.
    pub birth: Option<(Uuid, ReplicaIncarnation)>,
}

/// What this shard knows about a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    pub node: NodeId,
    /// `host:port`.
    pub address: String,
    /// The urgent connection is open.
    pub connected: bool,
    /// For how long it has been so, in ms.
    pub since_ms: u64,
    /// Of small requests, the peer's work in it; a moving average. `None` before the first.
    pub rtt: Option<Duration>,
    /// Bytes of requests that are not answered.
    pub in_flight_bytes: u64,
    /// Why one of the two refuses the other, for the operator.
    pub refused: Option<String>,
    /// Why the last attempt to connect failed, or the connection broke; `None` while it is connected, and before.
    pub lost: Option<String>,
}

impl PeerState {
    /// In words, that it cannot be reached, since when and why; `None` while it is connected.
    #[must_use]
    pub fn away(&self) -> Option<String> {
        let Self { node, address, connected, since_ms, refused, lost, .. } = self;
        let seconds = since_ms / 1000;
        match (connected, refused, lost) {
            (true, ..) => None,
            (false, Some(why), _) => Some(format!("broker {node} at {address} refuses, or is refused ({why})")),
            (false, None, Some(why)) => {
                Some(format!("broker {node} at {address} has not answered for {seconds} s ({why})"))
            }
            (false, None, None) => Some(format!("broker {node} at {address} is being connected to")),
        }
    }
}

/// Why a handler does not carry out a request; a sentence for the operator or for the caller's own error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// The request was not sent.
    #[error("broker {broker} cannot be reached: {why}")]
    Unreachable { broker: String, why: String },
    /// The connection broke after the request was sent: it may have been carried out.
    #[error("the connection to broker {broker} broke before the answer came; the request may have been carried out")]
    Lost { broker: String },
    /// No answer in time: the request may have been carried out.
    #[error("broker {broker} did not answer in {after:?}")]
    TimedOut { broker: String, after: Duration },
    /// The broker or its handler refused.
    #[error("broker {broker} refused: {why}")]
    Refused { broker: String, why: String },
    /// The request is larger than a frame.
    #[error("a request of {bytes} bytes is larger than a frame ({max})")]
    TooLarge { bytes: usize, max: usize },
}

/// Carries out the requests of one service. It is first polled in the order in which requests of a connection came.
pub type ServiceHandler = Rc<dyn Fn(Peer, Bytes) -> LocalBoxFuture<'static, Result<Bytes, Refusal>>>;

/// Hands a request to a replica of this broker: lane, the replica it is for, the replica that sent it. The sender's
/// node is that of the connection; the request itself is not checked.
pub type RaftHandler =
    Rc<dyn Fn(LaneId, ReplicaId, ReplicaId, PeerRequest) -> LocalBoxFuture<'static, Result<PeerReply, PeerError>>>;

/// This shard's way to other brokers. Shard-local; cheap to clone.
#[derive(Clone)]
pub struct Rpc {
    shard: Rc<RpcShard>,
}

struct RpcShard {
    env: Env,
    here: Cell<ShardId>,
    node: RpcNode,
    deadlines: Deadlines,
    links: RefCell<BTreeMap<NodeId, link::PeerLinks>>,
    services: RefCell<BTreeMap<u8, ServiceHandler>>,
    raft: RefCell<Option<RaftHandler>>,
    changed: tokio::sync::Notify,
    server: server::ServerState,
    stopping: Cell<bool>,
}

impl fmt::Debug for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rpc({} peers)", self.shard.links.borrow().len())
    }
}

impl Rpc {
    /// Of one shard. Connects to no peer before [`Rpc::set_peers`].
    #[must_use]
    pub fn new(env: &Env, node: &RpcNode) -> Self {
        let shard = RpcShard {
            env: env.clone(),
            here: Cell::default(),
            node: node.clone(),
            deadlines: Deadlines::new(env.clone()),
            links: RefCell::default(),
            services: RefCell::default(),
            raft: RefCell::default(),
            changed: tokio::sync::Notify::new(),
            server: server::ServerState::default(),
            stopping: Cell::new(false),
        };
        Self { shard: Rc::new(shard) }
    }

    /// Says which shard this is, 0 if nothing does. A peer puts this shard's connections on its own shard of that
    /// number.
    pub fn set_shard(&self, shard: ShardId) {
        self.shard.here.set(shard);
    }

    /// Carries the requests of this shard's lanes.
    #[must_use]
    pub fn transport(&self) -> Rc<dyn PeerTransport> {
        Rc::new(link::Transport::new(self))
    }

    /// Asks a peer of [`Rpc::set_peers`]. Fails at once while the peer is known to be away.
    ///
    /// # Errors
    /// See [`RpcError`]; also for this broker's own node id.
    pub async fn call(&self, to: NodeId, kind: Service, body: Bytes, timeout: Duration) -> Result<Bytes, RpcError> {
        link::call(self, to, kind, body, timeout).await
    }

    /// Asks the broker at an address, over a connection of its own: before the cluster is known, or to join it.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn call_address(
        &self,
        host: &str,
        port: u16,
        kind: Service,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, RpcError> {
        Box::pin(connection::call_once(self, host, port, kind, body, timeout)).await
    }

    /// Answers requests of a service that arrive on this shard. Without a handler they are refused.
    pub fn serve(&self, kind: Service, handler: ServiceHandler) {
        self.shard.services.borrow_mut().insert(kind.code(), handler);
    }

    /// Answers requests to replicas that arrive on this shard.
    pub fn serve_raft(&self, handler: RaftHandler) {
        self.shard.raft.replace(Some(handler));
    }

    /// The brokers of the cluster, all of them; this broker's own entry is skipped. Connections to brokers that are not
    /// in the list any more, or have another address, are closed.
    pub fn set_peers(&self, peers: Vec<PeerAddress>) {
        link::set_peers(self, peers);
    }

    /// Every peer, by node id.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerState> {
        self.shard.links.borrow().values().map(link::PeerLinks::state).collect()
    }

    /// Resolves when a peer is connected, lost or refused after this call. To miss nothing, call it before the peers
    /// are looked at.
    pub fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.shard.changed.notified()
    }

    /// Peers that this shard has a connection to.
    #[must_use]
    pub fn connected(&self) -> BTreeSet<NodeId> {
        self.peers().into_iter().filter(|peer| peer.connected).map(|peer| peer.node).collect()
    }

    /// This shard's counters.
    #[must_use]
    pub fn counts(&self) -> RpcCounts {
        let peers = self.shard.links.borrow().values().map(link::PeerLinks::counts).collect();
        self.shard.server.counts(peers)
    }

    /// Ends all connections of this shard; calls that wait get [`RpcError::Lost`], later ones
    /// [`RpcError::Unreachable`]. Handlers that have begun are not interrupted; their answers are dropped.
    pub fn stop(&self) {
        self.shard.stopping.set(true);
        for links in self.shard.links.take().into_values() {
            links.stop();
        }
        self.shard.server.stop();
    }
}
