//! The controllers of the brokers, over lane 0, beside the data lanes: clients make and delete topics and take producer
//! ids at any broker. The topics of the data lanes stay those of [`super::images`]; these here have no records.
//!
//! What must hold: a change that was answered is there on every broker in the end; one that was refused as not made is
//! not; at an entry the state is the same on every broker; no producer id is given twice.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use tidewater::controller::ask::{TopicError, TopicSpec};
use tidewater::controller::brokers::{BrokerAddress, Endpoint};
use tidewater::controller::client::ControllerHandle;
use tidewater::controller::command::Founder;
use tidewater::controller::features::CLUSTER_MAX;
use tidewater::controller::image::{BrokerImage, ClusterImage};
use tidewater::controller::lane::ControllerLane;
use tidewater::controller::leaders::LaneReport;
use tidewater::controller::peers::PeerCalls;
use tidewater::controller::reconcile::Reconcile;
use tidewater::controller::service::{Controller, ControllerOptions};
use tidewater::controller::state::Surroundings;
use tidewater::node::lanes::Lanes;
use tidewater::node::lost_leaders::Connections;
use tidewater::rpc::{RpcError, Service};
use tidewater::shard::mesh::{Inbox, Mesh};
use tidewater_storage::env::Env;
use tidewater_storage::model::{EntryId, NodeId, Term, TopicId};
use uuid::Uuid;

use super::broker::{Broker, Peers};
use super::record::digest;
use super::wire::{node_id, replica};
use super::world::Cluster;
use crate::world::within;

/// A broker that was killed answers nothing.
const ANSWER_WITHIN: Duration = Duration::from_secs(12);
/// The topics of all administrators at the most: states are compared whole.
const TOPICS_MAX: u64 = 40;

/// The controller of one life of a broker.
pub(crate) struct Control {
    handle: ControllerHandle,
    pub(crate) lane: Rc<ControllerLane>,
}

/// Starts lane 0 and the controller over it. Its shard has no lanes: topics are made, and carried nowhere.
pub(crate) async fn start(
    env: &Env,
    cluster: &Rc<Cluster>,
    node: u32,
    lanes: &Rc<Lanes>,
    peers: Peers,
    image: &ClusterImage,
) -> Result<Control, String> {
    let voters: Vec<_> = cluster.plan.all_nodes().map(replica).collect();
    let obituaries = cluster.obituaries(node);
    let started = lanes.start_controller(voters.clone(), move |fatal| obituaries.note(fatal.to_string())).await;
    started.map_err(|error| error.to_string())?;
    let lane = Rc::clone(lanes.controller.as_ref().expect("every broker here runs shard 0"));
    let (requests, mut inboxes) = Mesh::new(1, 256);
    let (reconcile, mut reconciles) = Mesh::new(1, 64);
    let empty = ClusterImage { revision: 0, lanes: Arc::default(), topics: BTreeMap::new(), ..image.clone() };
    let handle = ControllerHandle::new(Arc::new(empty), requests);
    peers.wire.set_controller(handle.clone());
    drop(env.tasks.spawn("follow the controller", follow(node_id(node), handle.clone(), reconciles.remove(0))));
    let founders = cluster.plan.all_nodes().map(|node| Founder {
        node: node_id(node),
        birth: birth(node),
        address: address(node),
    });
    let options = ControllerOptions {
        around: Surroundings {
            cluster_name: image.cluster_name.clone(),
            broker: BrokerImage::plain(node_id(node), "sim", 9092),
            shards: 1,
        },
        cluster: image.cluster,
        founders: founders.collect(),
        voters,
        data_lanes: 0,
        birth: birth(node),
        address: address(node),
        num_partitions: 1,
    };
    let calls = Some(Rc::new(peers) as Rc<dyn PeerCalls>);
    let service = Controller::new(env.clone(), Rc::clone(&lane), options, calls, reconcile, handle.clone(), None);
    drop(env.tasks.spawn("controller", Rc::new(service).run(inboxes.remove(0))));
    Ok(Control { handle, lane })
}

/// Shows what the controller decides, and says that this broker leads the lanes of which it is the first replica.
async fn follow(here: NodeId, handle: ControllerHandle, requests: Inbox<Reconcile>) {
    while let Some(request) = requests.recv().await {
        match request {
            Reconcile::Image { image, reply } => {
                let own =
                    image.lanes.iter().filter(|(_, lane)| lane.replicas.first().is_some_and(|of| of.node == here));
                let led = own.map(|(lane, _)| LaneReport {
                    lane: *lane,
                    term: Term(1),
                    leader: Some(here),
                    in_sync: vec![here],
                    followed: image.revision,
                });
                let led = led.collect();
                handle.set_image(image);
                reply.send(led);
            }
            Reconcile::Leaders { leaders, reply } => {
                handle.set_leaders(leaders);
                reply.send(());
            }
        }
    }
}

fn birth(node: u32) -> Uuid {
    Uuid::from_u128(u128::from(node))
}

fn address(node: u32) -> BrokerAddress {
    BrokerAddress {
        endpoints: vec![Endpoint::plain("sim", 9092)],
        rpc: Some((format!("sim-{node}"), 33145)),
        rack: None,
        shards: 1,
        level: CLUSTER_MAX,
    }
}

impl PeerCalls for Peers {
    fn call(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<Bytes, RpcError>> {
        let (broker, node) = (to.to_string(), u32::try_from(to.0).expect("a broker's id"));
        let (env, asked) = (self.env.clone(), self.wire.call(node, service, body));
        Box::pin(async move {
            match within(&env, timeout, asked).await {
                Some(Some(Ok(answer))) => Ok(answer),
                Some(Some(Err(why))) => Err(RpcError::Refused { broker, why }),
                Some(None) => Err(RpcError::Lost { broker }),
                None => Err(RpcError::TimedOut { broker, after: timeout }),
            }
        })
    }

    fn connected(&self) -> BTreeSet<NodeId> {
        Connections::connected(self)
    }

    fn is_connected_at(&self, _: NodeId, _: &(String, u16)) -> bool {
        false
    }

    fn changed(&self) -> LocalBoxFuture<'_, ()> {
        Connections::changed(self)
    }
}

/// What is known of a topic by the answers that its client got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It may have been made.
    Asked,
    Made(TopicId),
    /// It may have been deleted.
    Doomed(TopicId),
    /// It was deleted, or never made.
    Absent,
}

/// What the administrators were answered, and what the brokers' states were.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    topics: RefCell<BTreeMap<String, Fate>>,
    producers: RefCell<BTreeSet<i64>>,
    /// Digest of the state right after an entry, and who was first there.
    states: RefCell<BTreeMap<EntryId, (u32, u64)>>,
}

impl Decisions {
    fn set(&self, topic: &str, fate: Fate) {
        self.topics.borrow_mut().insert(topic.to_owned(), fate);
    }

    /// Compares the state of every broker with what others had at the same entry.
    pub(crate) fn look(&self, cluster: &Cluster) {
        for (node, broker) in cluster.serving() {
            let Some(checkpoint) = broker.control.as_ref().and_then(|control| control.lane.checkpoint()) else {
                continue;
            };
            let now = digest(&checkpoint.state);
            let (first, known) = *self.states.borrow_mut().entry(checkpoint.applied).or_insert((node, now));
            let at = checkpoint.applied;
            assert!(known == now, "lane 0: after entry {at} nodes {node} and {first} have other states");
        }
    }

    /// When all brokers have applied the same: it is what clients were answered.
    pub(crate) fn at_rest(&self, cluster: &Cluster) {
        self.look(cluster);
        for (node, broker) in cluster.serving() {
            let Some(control) = &broker.control else { continue };
            let state = control.lane.state();
            for (name, fate) in self.topics.borrow().iter() {
                let found = state.topics.get(name.as_str()).map(|topic| topic.id);
                let is_right = match fate {
                    Fate::Asked => true,
                    Fate::Made(id) => found == Some(*id),
                    Fate::Doomed(id) => found.is_none_or(|found| found == *id),
                    Fate::Absent => found.is_none(),
                };
                assert!(is_right, "topic {name} is {fate:?} by its client's answers, and {found:?} on node {node}");
            }
        }
        let count = |fate: fn(&Fate) -> bool| self.topics.borrow().values().filter(|held| fate(held)).count();
        let (made, absent) = (count(|fate| matches!(fate, Fate::Made(_))), count(|fate| *fate == Fate::Absent));
        let producers = self.producers.borrow().len();
        cluster.note(format!("controllers agree: {made} topics, {absent} absent, {producers} producer ids"));
    }
}

/// Every broker has applied the same of lane 0.
pub(crate) fn level(cluster: &Cluster) -> bool {
    let serving = cluster.serving();
    let mut all = serving.iter().map(|(_, broker)| broker.control.as_ref()?.lane.status.applied());
    let first = all.next().flatten();
    first.is_some() && all.all(|other| other == first)
}

/// An administrator: makes and deletes topics of its own and takes producer ids, at any broker.
pub(crate) async fn administer(cluster: Rc<Cluster>, client: u32, is_over: impl Fn() -> bool) {
    let rng = cluster.clients.rng.clone();
    for n in 0.. {
        cluster.sleep_ms(20 + rng.below(300)).await;
        if is_over() {
            return;
        }
        let serving = cluster.serving();
        let at = usize::try_from(rng.below(serving.len().max(1) as u64)).expect("small");
        let Some((node, broker)) = serving.get(at) else { continue };
        let Some(control) = &broker.control else { continue };
        let handle = control.handle.within(Duration::from_millis(300 + rng.below(9_000)));
        let asked = Asked { cluster: &cluster, node: *node, broker: Rc::clone(broker), handle };
        match rng.below(5) {
            0 | 1 if n < TOPICS_MAX => asked.create(format!("t{client}-{n}")).await,
            2 | 3 => asked.delete(client).await,
            _ => asked.take_id().await,
        }
    }
}

/// One request to a broker.
struct Asked<'a> {
    cluster: &'a Rc<Cluster>,
    node: u32,
    broker: Rc<Broker>,
    handle: ControllerHandle,
}

impl Asked<'_> {
    /// The answer; `None` if it is not known whether the request was carried out.
    async fn answer<T>(&self, request: impl Future<Output = Result<T, TopicError>>) -> Option<Result<T, TopicError>> {
        let answer = within(&self.cluster.clients, ANSWER_WITHIN, request).await?;
        let lives = self.cluster.broker(self.node).is_some_and(|now| Rc::ptr_eq(&now, &self.broker));
        match answer {
            Err(TopicError::TimedOut) => None,
            // A broker that dies meanwhile says the same as one that could not ask.
            Err(TopicError::Unavailable) if !lives => None,
            answer => Some(answer),
        }
    }

    async fn create(&self, name: String) {
        let decisions = &self.cluster.decisions;
        decisions.set(&name, Fate::Asked);
        let spec = TopicSpec {
            name: name.clone(),
            partitions: Some(2),
            replication_factor: -1,
            assignments: Vec::new(),
            configs: Vec::new(),
            validate_only: false,
            internal: false,
            copy: None,
        };
        match self.answer(self.handle.create_topic(spec)).await {
            Some(Ok(topic)) => decisions.set(&name, Fate::Made(topic.id)),
            Some(Err(error)) => {
                self.cluster.note(format!("{name} is not made: {error}"));
                decisions.set(&name, Fate::Absent);
            }
            None => {}
        }
    }

    async fn delete(&self, client: u32) {
        let decisions = &self.cluster.decisions;
        let own = format!("t{client}-");
        let made = |(name, fate): (&String, &Fate)| match fate {
            Fate::Made(id) if name.starts_with(&own) => Some((name.clone(), *id)),
            _ => None,
        };
        let Some((name, id)) = decisions.topics.borrow().iter().find_map(made) else { return };
        decisions.set(&name, Fate::Doomed(id));
        match self.answer(self.handle.delete_topic_by_id(id)).await {
            Some(Ok(_)) => decisions.set(&name, Fate::Absent),
            // The broker's image does not have it yet, or its controller could not ask.
            Some(Err(TopicError::UnknownId(_) | TopicError::Unavailable)) => decisions.set(&name, Fate::Made(id)),
            // A try without an answer may have deleted it.
            Some(Err(TopicError::Unknown(_))) | None => {}
            Some(Err(error)) => panic!("{name} cannot be deleted: {error}"),
        }
    }

    async fn take_id(&self) {
        if let Some(Ok(id)) = self.answer(self.handle.producer_id()).await {
            let is_new = self.cluster.decisions.producers.borrow_mut().insert(id.0);
            assert!(is_new, "producer id {} was given before", id.0);
        }
    }
}
