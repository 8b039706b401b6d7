//! One life of the broker: shards composed as `src/node/shard_main.rs` composes them, without sockets, on one thread.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use tidewater::archival::run::{Cadence, start_with};
use tidewater::controller::ask::{ControllerRequest, TopicError, TopicSpec};
use tidewater::controller::brokers::BrokerAddress;
use tidewater::controller::client::ControllerHandle;
use tidewater::controller::features::CLUSTER_MAX;
use tidewater::controller::image::{ClusterImage, TopicImage};
use tidewater::controller::peers::PeerCalls;
use tidewater::controller::reconcile::{self, Reconcile};
use tidewater::controller::service::{Controller, ControllerOptions};
use tidewater::controller::state::Surroundings;
use tidewater::copies::origin::OriginParts;
use tidewater::copies::shard::{CopyParts, CopyShard};
use tidewater::group::{Coordinator, GroupRequest, GroupRouter, GroupSettings};
use tidewater::node::lanes::Lanes;
use tidewater::partition::message::{PartitionRequest, PartitionStatus};
use tidewater::partition::router::Router;
use tidewater::partition::shard::{DescribeExtra, Local, PartitionShard};
use tidewater::partition::state::lane::DataLane;
use tidewater::partition::state::replica::Replica;
use tidewater::raft::LaneFatal;
use tidewater::rpc::{RpcError, Service};
use tidewater::shard::mesh::{Inbox, Mesh};
use tidewater_storage::engine::{Engine, EngineConfig};
use tidewater_storage::env::Env;
use tidewater_storage::journal::JournalConfig;
use tidewater_storage::model::{NodeId, PartitionId, ShardId};
use tidewater_tiering::archive::ArchiveConfig;
use tidewater_tiering::fetch::{FetchConfig, RemoteReader};
use tidewater_tiering::store::{ObjectStore, RetryPolicy, Retrying, SimSleeper};
use tokio::sync::watch;

use crate::lanes::{seat, source};
use crate::world::{self, World};
use crate::{bucket, table};

/// The broker while it serves.
pub(crate) struct Node {
    pub(crate) env: Env,
    pub(crate) shards: Vec<Shard>,
    pub(crate) mesh: Mesh<PartitionRequest>,
    /// Shard 0's.
    pub(crate) controller: ControllerHandle,
    /// Shard 0's.
    pub(crate) groups: GroupRouter,
    /// Shard 0's, where [`World::has_copies`].
    pub(crate) copies: Option<CopyShard>,
}

/// One of its shards.
pub(crate) struct Shard {
    pub(crate) partitions: Rc<PartitionShard>,
    pub(crate) engine: Engine,
}

/// Why a broker does not come up.
pub(crate) type NoStart = String;

/// Other brokers, of which there are none. With them, as in production, the controller tells who leads its lane, and
/// its leader keeps the bucket's catalogue up to date.
struct NoPeers;

impl PeerCalls for NoPeers {
    fn call(&self, to: NodeId, _: Service, _: Bytes, _: Duration) -> LocalBoxFuture<'static, Result<Bytes, RpcError>> {
        let (broker, why) = (to.to_string(), "there is no other broker".to_owned());
        Box::pin(std::future::ready(Err(RpcError::Unreachable { broker, why })))
    }

    fn connected(&self) -> BTreeSet<NodeId> {
        BTreeSet::new()
    }

    fn is_connected_at(&self, _: NodeId, _: &(String, u16)) -> bool {
        false
    }

    fn changed(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// Adds nothing to a partition's status.
pub(crate) struct Nothing;

impl DescribeExtra for Nothing {
    fn describe(&self, _: &Replica, _: &mut PartitionStatus) {}
}

/// Small everything, so that files roll, checkpoints come and memory is short within a run. A tight journal is short,
/// too: it fills up within a few lives, and a start finds it under pressure.
pub(crate) fn engine_config(env: &Env, tight: bool) -> EngineConfig {
    EngineConfig {
        journal: JournalConfig {
            first_file_bytes: 32 << 10,
            file_bytes: if tight { 128 << 10 } else { 256 << 10 },
            capacity_bytes: if tight { 640 << 10 } else { 4 << 20 },
            memory_bytes: 64 << 10,
            ..JournalConfig::default()
        },
        recent_bytes: 96 << 10,
        write_back_bytes: 16 << 10,
        open_files: 3,
        open_indexes: 2,
        checkpoint_interval: Duration::from_millis(50 + env.rng.below(3_000)),
        checkpoint_bytes: if tight { 120 << 10 } else { 800 << 10 },
        ..EngineConfig::default()
    }
}

/// Everything often enough to happen in a run; the grace still outlasts a late write and a reader's longest read.
pub(crate) fn cadence() -> Cadence {
    let archive = ArchiveConfig {
        bundle_bytes_max: 48 << 10,
        part_bytes_min: 12 << 10,
        part_bytes_eager: 24 << 10,
        waiting_bytes_max: 96 << 10,
        object_bytes_max: 256 << 10,
        gather_bundles: 6,
        gather_after: Duration::from_secs(3),
        gather_row_bytes_max: 16 << 10,
        publish_interval: Duration::from_millis(700),
        delete_grace: Duration::from_secs(8),
        retention_interval: Duration::from_secs(1),
        sweep_interval: Duration::from_secs(4),
        scrub_interval: Duration::from_secs(5),
        scrub_bytes: 64 << 10,
        pending_max: (usize::MAX, usize::MAX),
        tick: Duration::from_millis(100),
        housekeeping_interval: Duration::from_millis(500),
        backoff: (Duration::from_millis(200), Duration::from_secs(2)),
        short_of_space: (Duration::from_secs(8), Duration::from_millis(700)),
    };
    Cadence { archive, retention_interval: Duration::from_millis(400), ..Cadence::default() }
}

/// One mesh per layer, and the ends of them.
struct Meshes {
    partitions: Mesh<PartitionRequest>,
    controller: Mesh<ControllerRequest>,
    reconcile: Mesh<Reconcile>,
    groups: Mesh<GroupRequest>,
}

struct Inboxes {
    partitions: Vec<Inbox<PartitionRequest>>,
    controller: Vec<Inbox<ControllerRequest>>,
    reconcile: Vec<Inbox<Reconcile>>,
    groups: Vec<Inbox<GroupRequest>>,
}

fn meshes(shards: u16) -> (Meshes, Inboxes) {
    let (partitions, partition_inboxes) = Mesh::new(shards, 4096);
    let (controller, controller_inboxes) = Mesh::new(1, 256);
    let (reconcile, reconcile_inboxes) = Mesh::new(shards, 16);
    let (groups, group_inboxes) = Mesh::new(shards, 256);
    let inboxes = Inboxes {
        partitions: partition_inboxes,
        controller: controller_inboxes,
        reconcile: reconcile_inboxes,
        groups: group_inboxes,
    };
    (Meshes { partitions, controller, reconcile, groups }, inboxes)
}

impl Node {
    /// Recovers and starts everything, in production's order.
    pub(crate) async fn start(env: Env, world: &Rc<World>) -> Result<Rc<Self>, NoStart> {
        let count = world.plan.shards;
        let (meshes, mut inboxes) = meshes(count);
        let placeholder = Arc::new(ClusterImage { revision: 0, ..world.image() });
        let (images, images_seen) = watch::channel(Arc::clone(&placeholder));
        let mut opened = Vec::new();
        for here in 0..count {
            let here = ShardId(here);
            let dir = PathBuf::from(format!("/node/shard-{here}"));
            let config = engine_config(&env, world.plan.has("tight-journal"));
            let (engine, recovered) =
                Engine::open(env.clone(), dir, config).await.map_err(|error| error.to_string())?;
            let seat = seat(world, here);
            let lanes = Lanes::recover(&env, &seat, &engine, recovered).map_err(|error| error.to_string())?;
            engine.set_source(source(&lanes, world));
            engine.start();
            opened.push((seat, engine, lanes));
        }
        // No client asks a shard before all of them serve, as the real one's status channel sees to.
        for (_, _, lanes) in &opened {
            let obituaries = world.obituaries();
            let on_death = move |fatal: LaneFatal| obituaries.note(fatal.to_string());
            lanes.start_groups(on_death).await.map_err(|error| error.to_string())?;
        }
        let store = retrying(&env, world);
        let (mut shards, mut controller_handle, mut group_router, mut lane_0) = (Vec::new(), None, None, None);
        let mut copies = None;
        for (seat, engine, lanes) in opened {
            let here = seat.here;
            let controller = ControllerHandle::new(Arc::clone(&placeholder), meshes.controller.clone());
            let partitions = Rc::clone(&lanes.partitions);
            let remote = remote(&env, here, &store).await?;
            partitions.set_remote(Rc::clone(&remote));
            drop(env.tasks.spawn("partition inbox", Rc::clone(&partitions).drain(inboxes.partitions.remove(0))));
            reconcile::serve(&env, &partitions, &controller, inboxes.reconcile.remove(0));
            let local = Rc::new(Local(Rc::clone(&partitions)));
            let router = Router::new(here, local, meshes.partitions.clone());
            let for_copies = router.clone();
            let settings = GroupSettings { initial_rebalance_delay_ms: 0, ..GroupSettings::default() };
            let coordinator =
                Coordinator::new(env.clone(), router, controller.clone(), Rc::clone(&partitions) as _, settings);
            coordinator.serve(inboxes.groups.remove(0));
            if here == ShardId(0) {
                group_router = Some(GroupRouter::new(here, coordinator, meshes.groups.clone(), controller.clone()));
                controller_handle = Some(controller.clone());
                lane_0.clone_from(&lanes.controller);
            }
            let tier = bucket::open(&env, world, &store);
            let cadence = Cadence { cut_interval: world.cut_interval.get(), ..cadence() };
            start_with(&env, &partitions, &engine, &controller, &tier, &remote, cadence);
            if world.has_copies.get() {
                let origins = OriginParts { env: env.clone(), remote, tier, side: world::side() };
                let partitions = Rc::clone(&partitions);
                let shard = CopyShard::start(CopyParts { origins, controller, partitions, router: for_copies });
                copies.get_or_insert(shard);
            }
            shards.push(Shard { partitions, engine });
        }
        let (controller, groups) = (controller_handle.expect("shard 0"), group_router.expect("shard 0"));
        let lane = lane_0.expect("shard 0 has the controller's lane");
        let options = controller_options(world, &placeholder, count);
        let (reconcile, handle) = (meshes.reconcile.clone(), controller.clone());
        let peers = world.has_catalogue.get().then(|| Rc::new(NoPeers) as _);
        let service = Controller::new(env.clone(), lane, options, peers, reconcile, handle, Some(images));
        drop(env.tasks.spawn("controller", Rc::new(service).run(inboxes.controller.remove(0))));
        while controller.image().revision == 0 {
            env.tasks.sleep(Duration::from_millis(1)).await;
        }
        let node = Rc::new(Self { env, shards, mesh: meshes.partitions, controller, groups, copies });
        node.make_topic(world).await?;
        if world.plan.has("table") {
            table::keep(&node, world, &store, images_seen);
        }
        Ok(node)
    }

    /// The run's topic is made in the broker's first life, and is there in all others once it was.
    async fn make_topic(&self, world: &World) -> Result<(), NoStart> {
        loop {
            if let Some(topic) = self.controller.image().topic(world.topic_name()) {
                world.topic_is(topic);
                return Ok(());
            }
            let spec = TopicSpec {
                name: world.topic_name().to_owned(),
                partitions: Some(world.plan.partitions),
                replication_factor: -1,
                assignments: Vec::new(),
                configs: world.overrides.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect(),
                validate_only: false,
                internal: false,
                copy: None,
            };
            match self.controller.create_topic(spec).await {
                Ok(_) | Err(TopicError::Exists(_) | TopicError::Unavailable) => {}
                Err(error) => return Err(format!("the topic is refused: {error}")),
            }
            self.env.tasks.sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn lanes(&self) -> Vec<Rc<DataLane>> {
        self.shards.iter().flat_map(|shard| shard.partitions.lanes()).collect()
    }

    /// A partition, wherever it is.
    pub(crate) fn replica(&self, id: PartitionId) -> Option<Rc<Replica>> {
        self.shards.iter().find_map(|shard| shard.partitions.replica(id))
    }

    /// All partitions of a topic.
    pub(crate) fn replicas(&self, topic: &TopicImage) -> Vec<Rc<Replica>> {
        topic.partitions.iter().filter_map(|partition| self.replica(partition.id)).collect()
    }

    /// What a partition says of itself.
    pub(crate) fn describe(&self, id: PartitionId) -> Option<PartitionStatus> {
        self.shards.iter().find_map(|shard| shard.partitions.describe(id))
    }

    /// Lets go of what holds on to itself, after the node was killed.
    pub(crate) fn forget(&self) {
        for shard in &self.shards {
            shard.partitions.set_extra(Rc::new(Nothing));
        }
    }
}

/// A cluster of one, with a data lane for each shard.
pub(crate) fn controller_options(world: &World, placeholder: &ClusterImage, shards: u16) -> ControllerOptions {
    let broker = placeholder.broker().clone();
    let address =
        BrokerAddress { endpoints: broker.endpoints.clone(), rpc: None, rack: None, shards, level: CLUSTER_MAX };
    ControllerOptions {
        voters: vec![world.replica()],
        around: Surroundings { cluster_name: placeholder.cluster_name.clone(), broker, shards },
        cluster: world.cluster(),
        founders: Vec::new(),
        data_lanes: u32::from(shards),
        birth: world.cluster(),
        address,
        num_partitions: 1,
    }
}

/// The bucket as the broker uses it: with retries, and with its defect, if it has one.
fn retrying(env: &Env, world: &World) -> Arc<dyn ObjectStore> {
    let policy = RetryPolicy { attempts_max: 3, ..RetryPolicy::default() };
    let store: Arc<dyn ObjectStore> = Arc::new(Retrying::new(world.store(), policy, Arc::new(SimSleeper::new(env))));
    match world.plan.defect {
        Some(defect) => defect.spoil_store(env, store),
        None if world.is_blind_to_cuts.get() => bucket::without_cuts(store),
        None => store,
    }
}

async fn remote(env: &Env, here: ShardId, store: &Arc<dyn ObjectStore>) -> Result<Rc<RemoteReader>, NoStart> {
    let mut fetch = FetchConfig::new(PathBuf::from(format!("/node/cache-{here}")), 512 << 10);
    fetch.chunk_bytes = 16 << 10;
    let remote = RemoteReader::open(env.clone(), Arc::clone(store), fetch).await;
    remote.map(Rc::new).map_err(|error| format!("the cache does not open: {error}"))
}
