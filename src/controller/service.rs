//! The controller of this broker: what its applied state means for the shards, and the answers to requests.
//!
//! Every broker makes its image from its own copy of the controller's lane (`show`), and knows who leads each lane from
//! the brokers' reports (`leaders`). Requests are answered by the broker that leads the controller's lane: plan →
//! propose → image → the lanes' leaders follow → reply; a broker that does not lead it asks the one that does (`ask`).
//! Queued requests are handled together, one change per topic at a time: creating a thousand topics costs a few syncs
//! and a few images.
//!
//! Shard-local, on shard 0.

mod ask;
mod duties;
mod leading;
mod serve;
mod show;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use futures::channel::oneshot;
use tidewater_storage::env::Env;
use tidewater_storage::model::{NodeId, ReplicaId, ShardId};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::ask::{Answered, Ask, AskError, ControllerRequest};
use super::brokers::BrokerAddress;
use super::client::ControllerHandle;
use super::command::Founder;
use super::image::ClusterImage;
use super::lane::ControllerLane;
use super::leaders::{LaneReport, Leaders};
use super::peers::PeerCalls;
use super::reconcile::Reconcile;
use super::state::Surroundings;
use crate::shard::mesh::{Inbox, Mesh};

/// What the controller of a broker is started with.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    pub around: Surroundings,
    /// The id of the cluster, if it has none yet.
    pub cluster: Uuid,
    /// The brokers that form it, if it has none yet; empty: this one alone.
    pub founders: Vec<Founder>,
    /// The first voters of the controller's lane.
    pub voters: Vec<ReplicaId>,
    /// The data lanes that this broker runs without a lane table; 0 in a cluster that several brokers have formed.
    pub data_lanes: u32,
    /// The birth id of this data directory.
    pub birth: Uuid,
    /// How others reach this broker; it registers itself under a changed one.
    pub address: BrokerAddress,
    /// `num.partitions`.
    pub num_partitions: u32,
}

pub struct Controller {
    env: Env,
    lane: Rc<ControllerLane>,
    options: ControllerOptions,
    /// Other brokers; `None` in a cluster that takes none.
    peers: Option<Rc<dyn PeerCalls>>,
    shards: Mesh<Reconcile>,
    handle: ControllerHandle,
    /// Where the side runtime sees an image, once every shard has followed it.
    images: Option<watch::Sender<Arc<ClusterImage>>>,
    queue: RefCell<VecDeque<Queued>>,
    queued: tidewater_storage::env::Notify,
    /// Requests are being written: the next image waits for all of them.
    writing: Cell<bool>,
    written: Notify,
    /// The image made last: the next shares with it what did not change.
    last: RefCell<Option<Arc<ClusterImage>>>,
    /// The newest revision that every shard shows.
    shown: Cell<u64>,
    shown_moved: Notify,
    leaders: RefCell<Leaders>,
    leaders_moved: Notify,
    /// Brokers whose connection was lost a moment ago.
    lost: RefCell<BTreeSet<NodeId>>,
    /// The reports of this broker's shards.
    own: RefCell<BTreeMap<ShardId, Vec<LaneReport>>>,
    /// Grows with every change of `own`.
    own_changes: Cell<u64>,
    own_moved: Notify,
    /// What the leader of the controller's lane has to look after has changed.
    duties: Notify,
    /// The duties were done since this broker began to lead.
    settled: Cell<bool>,
    settled_moved: Notify,
}

/// A request that this broker answers, or refuses because it does not lead.
struct Queued {
    ask: Ask,
    again: bool,
    reply: oneshot::Sender<Result<Answered, AskError>>,
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Controller({:?})", self.lane)
    }
}

impl Controller {
    /// A controller over its lane. `handle` is shard 0's, so that it knows the newest image first.
    #[must_use]
    pub fn new(
        env: Env,
        lane: Rc<ControllerLane>,
        options: ControllerOptions,
        peers: Option<Rc<dyn PeerCalls>>,
        shards: Mesh<Reconcile>,
        handle: ControllerHandle,
        images: Option<watch::Sender<Arc<ClusterImage>>>,
    ) -> Self {
        Self {
            env,
            lane,
            options,
            peers,
            shards,
            handle,
            images,
            queue: RefCell::default(),
            queued: Default::default(),
            writing: Cell::default(),
            written: Notify::default(),
            last: RefCell::default(),
            shown: Cell::default(),
            shown_moved: Notify::default(),
            leaders: RefCell::default(),
            leaders_moved: Notify::default(),
            lost: RefCell::default(),
            own: RefCell::default(),
            own_changes: Cell::default(),
            own_moved: Notify::default(),
            duties: Notify::default(),
            settled: Cell::default(),
            settled_moved: Notify::default(),
        }
    }

    /// Runs until the mesh closes.
    pub async fn run(self: Rc<Self>, inbox: Inbox<ControllerRequest>) {
        let spawn = |name: &'static str, task: futures::future::LocalBoxFuture<'static, ()>| {
            drop(self.env.tasks.spawn(name, task));
        };
        let this = || Rc::clone(&self);
        spawn("controller duties", Box::pin(this().look_after()));
        spawn("controller images", Box::pin(this().show_images()));
        spawn("controller requests", Box::pin(this().serve_queue()));
        if self.peers.is_some() {
            spawn("leader reports", Box::pin(this().send_reports()));
            spawn("registration", Box::pin(this().keep_registered()));
            spawn("lost brokers", Box::pin(this().watch_peers()));
        }
        while let Some(request) = inbox.recv().await {
            match request {
                ControllerRequest::Ask { ask, patience, reply } => {
                    let this = this();
                    spawn("controller request", Box::pin(async move { reply.send(this.ask(ask, patience).await) }));
                }
                ControllerRequest::Serve { ask, again, reply } => {
                    let answer = self.enqueue(ask, again);
                    let answered = async move { reply.send(answer.await.unwrap_or(Err(AskError::NotLeader(None)))) };
                    spawn("controller answer", Box::pin(answered));
                }
                ControllerRequest::Lanes(shard, lanes) => self.take_own(shard, lanes).await,
                ControllerRequest::Leaders(report) => self.take(&report).await,
                ControllerRequest::See { revision, reply } => {
                    let this = this();
                    let seen = async move {
                        this.until_shown(revision).await;
                        reply.send(());
                    };
                    spawn("controller image wait", Box::pin(seen));
                }
            }
        }
    }

    fn enqueue(&self, ask: Ask, again: bool) -> oneshot::Receiver<Result<Answered, AskError>> {
        let (reply, answer) = oneshot::channel();
        self.queue.borrow_mut().push_back(Queued { ask, again, reply });
        self.queued.notify();
        answer
    }

    fn here(&self) -> NodeId {
        self.options.around.broker.id
    }

    /// Does the controller's lane need no other broker? Not so for a broker that joins: another one votes.
    fn is_alone(&self) -> bool {
        self.lane.status.raft().is_some_and(|raft| raft.membership().voters == [raft.me()])
    }
}
