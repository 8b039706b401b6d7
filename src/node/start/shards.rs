//! The shards of a start: what they share, their threads, and the wait until all of them serve.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tidewater_storage::model::{NodeId, ReplicaIncarnation, ShardId};
use tokio::sync::watch;
use uuid::Uuid;

use super::entry::rpc_node;
use super::ground::Ground;
use super::serving::{await_serving, spawn_shard};
use crate::controller::brokers::BrokerAddress;
use crate::controller::image::{BrokerImage, ClusterImage};
use crate::controller::state::kafka_id;
use crate::kafka::limits::ACCEPTED_MAX;
use crate::limits::MESH_INBOX_MAX;
use crate::net::listen::{Bound, Listening};
use crate::net::placement::Placement;
use crate::node::error::StartError;
use crate::node::identity::Identity;
use crate::node::shard_main::{Inboxes, Meshes, ShardStart};
use crate::node::status::ShardStatus;
use crate::replica::published::{Publisher, Subscriber};
use crate::schema_registry::peers::PeerCall;
use crate::schema_registry::{RegistryMeshes, SchemaRegistry};
use crate::shard::mesh::{Inbox, Mesh};

/// Between log lines of a long start, which has no time limit: a large journal takes long.
const START_PATIENCE: Duration = Duration::from_secs(120);

/// The threads of the shards, and the ways to them.
pub(super) struct Shards {
    pub(super) meshes: Meshes,
    pub(super) images: watch::Receiver<Arc<ClusterImage>>,
    pub(super) sources: Subscriber,
    pub(super) registry: SchemaRegistry,
    threads: Vec<JoinHandle<()>>,
    stops: Vec<flume::Sender<()>>,
    statuses: flume::Receiver<ShardStatus>,
    kafka_opens: flume::Sender<Listening>,
}

/// What one of the shards has for all, the first.
#[derive(Default)]
struct OfFirst {
    rpc_socket: Option<Bound>,
    images: Option<watch::Sender<Arc<ClusterImage>>>,
    sources: Option<Publisher>,
    registry_calls: Option<Inbox<PeerCall>>,
    kafka_opens: Option<flume::Receiver<Listening>>,
}

impl Shards {
    /// Starts their threads, which open the directories and go on by themselves.
    pub(super) fn start(ground: &Ground, rpc_socket: Bound, address: BrokerAddress) -> Result<Self, StartError> {
        let count = ground.identity.shards;
        let image = placeholder_image(&ground.identity, &address);
        let (meshes, inboxes) = meshes(count);
        assert_eq!(inboxes.len(), usize::from(count), "each shard has its inboxes");
        let (image_sender, images) = watch::channel(Arc::clone(&image));
        let (source_sender, sources) = watch::channel(Arc::default());
        let (peers, calls) = Mesh::new(1, MESH_INBOX_MAX);
        let (partitions, controller) = (meshes.partitions.clone(), meshes.controller.clone());
        let asked = RegistryMeshes { partitions, controller, peers };
        let registry = SchemaRegistry::new(asked, images.clone(), ground.tier.leaders(), ground.side.handle());
        let (status, statuses) = flume::bounded(usize::from(count) * 4);
        let (open_kafka, kafka_opens) = flume::bounded(1);
        let mut of_first = OfFirst {
            rpc_socket: Some(rpc_socket),
            images: Some(image_sender),
            sources: Some(source_sender),
            registry_calls: calls.into_iter().next(),
            kafka_opens: Some(kafka_opens),
        };
        let (rpc, placement) = (rpc_node(&ground.config, &ground.identity)?, Placement::new(count));
        let (mut threads, mut stops) = (Vec::new(), Vec::new());
        for (n, inboxes) in (0..count).zip(inboxes) {
            let (stop_sender, stop) = flume::bounded(1);
            stops.push(stop_sender);
            let of_first = std::mem::take(&mut of_first);
            let start = ShardStart {
                seat: ground.seat(ShardId(n)),
                identity: ground.identity.clone(),
                address: address.clone(),
                notes: Arc::clone(&ground.notes),
                rpc: rpc.clone(),
                rpc_socket: of_first.rpc_socket,
                dir: ground.data.shard(ground.identity.layout, n),
                cache_dir: ground.data.path.join("cache").join(format!("shard-{n}")),
                seed: Uuid::new_v4().as_u64_pair().0,
                engine: ground.engine.clone(),
                cache_bytes: ground.budgets.cache / u64::from(count),
                config: Arc::clone(&ground.config),
                tier: ground.tier.clone(),
                side: ground.side.handle(),
                image: Arc::clone(&image),
                images: of_first.images,
                sources: sources.clone(),
                sources_out: of_first.sources,
                registry: registry.clone(),
                registry_calls: of_first.registry_calls,
                meshes: meshes.clone(),
                placement: placement.clone(),
                kafka_opens: of_first.kafka_opens,
                status: status.clone(),
                stage: ground.stage.clone(),
                stop,
            };
            threads.push(spawn_shard(start, inboxes)?);
        }
        Ok(Self { meshes, images, sources, registry, threads, stops, statuses, kafka_opens: open_kafka })
    }

    /// Waits until every shard serves.
    pub(super) fn await_serving(&self, ground: &Ground) -> Result<(), StartError> {
        // Once they are open, a shard's directory holds votes, whether or not there is a cluster yet.
        let opened = || ground.note(|identity| identity.begun = true);
        await_serving(&self.statuses, ground.identity.shards, START_PATIENCE, &ground.stage, opened)?;
        ground.note(|identity| identity.formed = true);
        Ok(())
    }

    /// Brings the shards the socket for clients.
    pub(super) fn open_kafka(&self, socket: Listening) -> Result<(), StartError> {
        let ended = |_| StartError::Shard { shard: 0, why: "it ended while starting; see the log above".into() };
        self.kafka_opens.send(socket).map_err(ended)
    }

    /// The threads, and what ends them when it is dropped.
    pub(super) fn into_threads(self) -> (Vec<JoinHandle<()>>, Vec<flume::Sender<()>>) {
        (self.threads, self.stops)
    }
}

/// The image of a shard before the controller's first one; clients are not served yet.
fn placeholder_image(identity: &Identity, address: &BrokerAddress) -> Arc<ClusterImage> {
    let here = NodeId(identity.node);
    let own = BrokerImage {
        id: here,
        birth: identity.birth,
        endpoints: address.endpoints.clone(),
        rpc: address.rpc.clone(),
        rack: address.rack.clone(),
        incarnation: ReplicaIncarnation(identity.incarnation),
    };
    Arc::new(ClusterImage {
        cluster: identity.cluster,
        cluster_id: kafka_id(identity.cluster),
        cluster_name: identity.cluster_name.clone(),
        here,
        brokers: Arc::new([(here, own)].into()),
        lanes: Arc::default(),
        features: Arc::default(),
        sources: Arc::default(),
        followed: Arc::default(),
        lineage: None,
        topics: std::collections::BTreeMap::new(),
        names: std::collections::HashMap::new(),
        revision: 0,
    })
}

fn meshes(shards: u16) -> (Meshes, Vec<Inboxes>) {
    let (partitions, partition_inboxes) = Mesh::new(shards, MESH_INBOX_MAX);
    let (controller, controller_inboxes) = Mesh::new(shards, MESH_INBOX_MAX);
    let (reconcile, reconcile_inboxes) = Mesh::new(shards, MESH_INBOX_MAX);
    let (groups, group_inboxes) = Mesh::new(shards, MESH_INBOX_MAX);
    let (arrivals, arrival_inboxes) = Mesh::new(shards, ACCEPTED_MAX);
    let (reports, report_inboxes) = Mesh::new(shards, MESH_INBOX_MAX);
    let (raft, raft_inboxes) = Mesh::new(shards, MESH_INBOX_MAX);
    let (peers, peer_inboxes) = Mesh::new(shards, MESH_INBOX_MAX);
    let inboxes = partition_inboxes
        .into_iter()
        .zip(controller_inboxes)
        .zip(reconcile_inboxes)
        .zip(group_inboxes)
        .zip(arrival_inboxes)
        .zip(report_inboxes)
        .zip(raft_inboxes.into_iter().zip(peer_inboxes))
        .map(|((((((partitions, controller), reconcile), groups), arrivals), reports), (raft, peers))| Inboxes {
            partitions,
            controller,
            reconcile,
            groups,
            arrivals,
            reports,
            raft,
            peers,
        })
        .collect();
    (Meshes { partitions, controller, reconcile, groups, arrivals, reports, raft, peers }, inboxes)
}
