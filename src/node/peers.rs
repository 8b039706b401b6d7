//! What a shard answers to other brokers and how it knows them: requests to replicas are handed to the shard that runs
//! the lane, hellos and registrations of brokers are answered, addresses come from the controller's images.
//! Shard-local.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{Either, LocalBoxFuture, select};
use tidewater_storage::env::Env;
use tidewater_storage::model::{LaneId, NodeId, ReplicaId, ReplicaIncarnation, ShardId};
use tidewater_tiering::keys::LineageEpoch;

use super::forming::{Hello, node_at};
use super::identity::{Identity, KnownBroker, Notes};
use super::join::{self, JoinRequest, Registered};
use super::lanes::Lanes;
use super::moved::{self, Moved};
use crate::controller::ask::TopicError;
use crate::controller::brokers::{BrokerAddress, Registration};
use crate::controller::client::ControllerHandle;
use crate::controller::features;
use crate::controller::image::ClusterImage;
use crate::controller::state::shard_of;
use crate::raft::network::{PeerError, PeerReply, PeerRequest};
use crate::rebuild::{self, RebuildSource};
use crate::rpc::{PeerAddress, Refusal, Rpc, RpcMember, RpcNode, Service};
use crate::shard::mesh::{Inbox, Mesh, Reply};

/// A request of another broker for another shard of this one. A message.
#[derive(Debug)]
pub(super) enum PeerMessage {
    /// To a replica.
    Raft {
        lane: LaneId,
        to: ReplicaId,
        from: ReplicaId,
        request: PeerRequest,
        reply: Reply<Result<PeerReply, PeerError>>,
    },
    /// Of a replica that is rebuilt.
    Rebuild { body: Bytes, reply: Reply<Result<Bytes, String>> },
}

pub(super) type PeerMesh = Mesh<PeerMessage>;

/// The shard that answers a request of a replica that is rebuilt.
pub(super) fn shard_of_rebuild(body: &Bytes, shards: u16) -> Result<ShardId, Refusal> {
    let lane = rebuild::lane_of(body).ok_or_else(|| Refusal("the request cannot be read".to_owned()))?;
    Ok(shard_of(lane, shards))
}

/// Answers requests to replicas of this broker, whichever shard they arrive on.
pub(super) fn serve_raft(rpc: &Rpc, lanes: &Rc<Lanes>, mesh: &PeerMesh) {
    let (here, shards, mesh, own) = (lanes.here(), lanes.shards(), mesh.clone(), Rc::clone(lanes));
    rpc.serve_raft(Rc::new(move |lane, to, from, request| {
        let (mesh, own) = (mesh.clone(), Rc::clone(&own));
        Box::pin(async move {
            let shard = shard_of(lane, shards);
            if shard == here {
                return own.handle(lane, to, from, request).await;
            }
            let ask = |reply| PeerMessage::Raft { lane, to, from, request, reply };
            let answered = mesh.call(shard, ask).await;
            answered.unwrap_or(Err(PeerError::NotRunning { replica: to, lane }))
        })
    }));
}

/// Answers what arrives for this shard on the others.
pub(super) fn serve_inbox(env: &Env, lanes: &Rc<Lanes>, source: &Rc<RebuildSource>, inbox: Inbox<PeerMessage>) {
    let (lanes, source, tasks) = (Rc::clone(lanes), Rc::clone(source), env.clone());
    env.tasks.spawn("peer inbox", async move {
        while let Some(message) = inbox.recv().await {
            let (lanes, source) = (Rc::clone(&lanes), Rc::clone(&source));
            let answered: LocalBoxFuture<'static, ()> = match message {
                PeerMessage::Raft { lane, to, from, request, reply } => {
                    Box::pin(async move { reply.send(lanes.handle(lane, to, from, request).await) })
                }
                PeerMessage::Rebuild { body, reply } => Box::pin(async move { reply.send(source.answer(&body).await) }),
            };
            tasks.tasks.spawn("peer request", answered);
        }
    });
}

/// Answers brokers that form a cluster or join one.
pub(super) fn serve_join(
    rpc: &Rpc,
    notes: &Arc<Notes>,
    seeds: &[String],
    address: &BrokerAddress,
    controller: &ControllerHandle,
) {
    let (notes, seeds, address, controller) = (Arc::clone(notes), seeds.to_vec(), address.clone(), controller.clone());
    rpc.serve(
        Service::Join,
        Rc::new(move |_, body| {
            let (notes, controller) = (Arc::clone(&notes), controller.clone());
            let hello = join::hello(&notes.now(), &seeds, &address);
            Box::pin(async move {
                match join::parse(&body)? {
                    JoinRequest::Hello(_) => Ok(join::json(&hello)),
                    JoinRequest::Register(registration) => Ok(join::json(&register(&controller, registration).await)),
                }
            })
        }),
    );
}

async fn register(controller: &ControllerHandle, registration: Registration) -> Registered {
    let image = controller.image();
    if image.revision == 0 {
        return Registered::Later("the cluster is not formed yet".to_owned());
    }
    match controller.register(registration).await {
        Ok(registered) => Registered::As {
            cluster: image.cluster,
            node: registered.node,
            incarnation: registered.incarnation,
            known: known(&image, registered.node),
            epoch: image.lineage.as_ref().map_or(LineageEpoch::FIRST.0, |lineage| lineage.epoch),
        },
        Err(error @ (TopicError::Unavailable | TopicError::TimedOut)) => Registered::Later(error.to_string()),
        Err(error) => Registered::Refused(error.to_string()),
    }
}

/// The other brokers, for one that joins.
fn known(image: &ClusterImage, joins: NodeId) -> Vec<KnownBroker> {
    let others = image.brokers.values().filter(|broker| broker.id != joins);
    others
        .filter_map(|broker| {
            let (node, birth, incarnation) = (broker.id.0, broker.birth, broker.incarnation.0);
            Some(KnownBroker { node, birth, incarnation, rpc: broker.rpc.clone()? })
        })
        .collect()
}

/// The brokers that this one knows before the controller's first image.
pub(super) fn of_identity(identity: &Identity) -> Vec<PeerAddress> {
    let known = identity.known.iter().map(|broker| {
        let (host, port) = broker.rpc.clone();
        let birth = (!broker.birth.is_nil()).then_some((broker.birth, ReplicaIncarnation(broker.incarnation)));
        PeerAddress { node: NodeId(broker.node), host, port, birth }
    });
    let founders = identity.founders.iter().enumerate();
    let founders = founders.filter_map(|(position, founder)| {
        let (host, port) = founder.address.rpc.clone()?;
        let birth = Some((founder.birth, ReplicaIncarnation(0)));
        Some(PeerAddress { node: node_at(position), host, port, birth })
    });
    founders.chain(known).collect()
}

/// The brokers of an image; founders that have not registered yet as they were at the founding.
pub(super) fn of_image(image: &ClusterImage, founders: &[PeerAddress]) -> Vec<PeerAddress> {
    let registered = image.brokers.values().filter(|broker| !broker.birth.is_nil()).filter_map(|broker| {
        let (host, port) = broker.rpc.clone()?;
        Some(PeerAddress { node: broker.id, host, port, birth: Some((broker.birth, broker.incarnation)) })
    });
    let mut peers: Vec<PeerAddress> = registered.collect();
    let missing = |founder: &&PeerAddress| {
        founder.node != image.here && image.brokers.get(&founder.node).is_none_or(|broker| broker.birth.is_nil())
    };
    peers.extend(founders.iter().filter(missing).cloned());
    peers
}

/// Keeps the connections to the brokers of the newest image, and looks for those that moved.
pub(super) fn follow_addresses(
    env: &Env,
    rpc: &Rpc,
    node: &RpcNode,
    controller: &ControllerHandle,
    identity: &Identity,
    me: Hello,
) {
    let founders = of_identity(identity);
    rpc.set_peers(founders.clone());
    let (env, rpc, node, controller) = (env.clone(), rpc.clone(), node.clone(), controller.clone());
    let (cluster, tasks) = (identity.cluster, env.tasks.clone());
    tasks.spawn("peer addresses", async move {
        let (mut seen, mut known, mut shown) = (0, founders.clone(), founders.clone());
        let mut moved = Moved::default();
        loop {
            let newer = controller.image_after(seen);
            // Without seeds there is no one to ask.
            let image = match me.seeds.is_empty() {
                true => Some(newer.await),
                false => match select(pin!(newer), pin!(env.tasks.sleep(moved::ASK_EVERY))).await {
                    Either::Left((image, _)) => Some(image),
                    Either::Right(_) => None,
                },
            };
            if let Some(image) = image {
                seen = image.revision;
                let level = image.features.get(features::CLUSTER).copied().unwrap_or_default();
                if let Some(member) = node.member().filter(|member| member.feature != level) {
                    node.set_member(RpcMember { feature: level, ..member });
                }
                known = of_image(&image, &founders);
            } else if moved::misses(&rpc.peers()) {
                moved.take(cluster, &known, &moved::ask(&rpc, &me, &me.seeds).await);
            }
            let peers = moved.apply(&known);
            if peers != shown {
                rpc.set_peers(peers.clone());
                shown = peers;
            }
        }
    });
}

/// Whether another data directory has taken this broker's node id; what to do.
pub(super) fn superseded(image: &ClusterImage, identity: &Identity) -> Option<String> {
    let here = NodeId(identity.node);
    let broker = image.brokers.get(&here)?;
    let replaced =
        !broker.birth.is_nil() && broker.birth != identity.birth && broker.incarnation.0 > identity.incarnation;
    replaced.then(|| {
        format!(
            "another data directory has taken the place of node {here} (--replace {here}): this one is of no use any more; \
             to run a broker here again, start with an empty data directory"
        )
    })
}
