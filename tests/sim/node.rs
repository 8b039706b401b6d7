//! One life of the broker: a shard composed as `src/node/shard_main.rs` composes it, without sockets and controller.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidewater::archival::run::{Cadence, Opening, Tier, start_with};
use tidewater::controller::client::ControllerHandle;
use tidewater::node::source::ShardSource;
use tidewater::partition::command::{LaneCommand, LaneEntry};
use tidewater::partition::lane::{DataLane, RecoveredState, membership_of};
use tidewater::partition::message::{PartitionRequest, PartitionStatus};
use tidewater::partition::replica::Replica;
use tidewater::partition::shard::{DescribeExtra, PartitionShard};
use tidewater::raft::{Lane, LaneOptions};
use tidewater::shard::mesh::Mesh;
use tidewater_storage::engine::{Engine, EngineConfig, Recovered};
use tidewater_storage::env::Env;
use tidewater_storage::journal::JournalConfig;
use tidewater_storage::model::NodeId;
use tidewater_tiering::archive::ArchiveConfig;
use tidewater_tiering::bucket::{Bucket, Claim};
use tidewater_tiering::fetch::{FetchConfig, RemoteReader};
use tidewater_tiering::keys::{ClusterName, Nonce};
use tidewater_tiering::manifest::LaneManifest;
use tidewater_tiering::store::{ObjectStore, RetryPolicy, Retrying, SimSleeper};
use tokio::sync::watch;

use crate::table;
use crate::world::{LANE, NAME, SHARD, World};

/// The broker while it serves.
pub(crate) struct Node {
    pub(crate) env: Env,
    pub(crate) shard: Rc<PartitionShard>,
    pub(crate) lane: Rc<DataLane>,
    pub(crate) engine: Engine,
    /// The way in.
    pub(crate) mesh: Mesh<PartitionRequest>,
}

struct Nothing;

impl DescribeExtra for Nothing {
    fn describe(&self, _: &Replica, _: &mut PartitionStatus) {}
}

/// Small everything, so that files roll, checkpoints come and memory is short within a run.
fn engine_config(env: &Env) -> EngineConfig {
    EngineConfig {
        journal: JournalConfig {
            file_bytes: 256 << 10,
            capacity_bytes: 4 << 20,
            memory_bytes: 64 << 10,
            ..JournalConfig::default()
        },
        recent_bytes: 96 << 10,
        write_back_bytes: 16 << 10,
        open_files: 3,
        open_indexes: 2,
        checkpoint_interval: Duration::from_millis(50 + env.rng.below(3_000)),
        checkpoint_bytes: 800 << 10,
        ..EngineConfig::default()
    }
}

/// Everything often enough to happen in a run; the grace still outlasts a late write and a reader's longest read.
fn cadence() -> Cadence {
    let archive = ArchiveConfig {
        bundle_bytes_max: 48 << 10,
        bundle_bytes_eager: 24 << 10,
        object_bytes_max: 256 << 10,
        gather_bundles: 6,
        gather_after: Duration::from_secs(3),
        gather_row_bytes_max: 16 << 10,
        publish_interval: Duration::from_millis(700),
        delete_grace: Duration::from_secs(8),
        retention_interval: Duration::from_secs(1),
        sweep_interval: Duration::from_secs(4),
        tick: Duration::from_millis(100),
        housekeeping_interval: Duration::from_millis(500),
        backoff: (Duration::from_millis(200), Duration::from_secs(2)),
        pressed: (Duration::from_secs(8), Duration::from_millis(700)),
    };
    Cadence { archive, retention_interval: Duration::from_millis(400) }
}

impl Node {
    /// Recovers and starts everything, in production's order.
    pub(crate) async fn start(env: Env, world: &World) -> Rc<Self> {
        let opened = Engine::open(env.clone(), PathBuf::from("/node/shard-0"), engine_config(&env)).await;
        let (engine, recovered) = opened.unwrap_or_else(|error| panic!("the engine does not open: {error}"));
        let (lane, membership) = recover(&env, world, &engine, &recovered);
        let shard = Rc::new(PartitionShard::new(SHARD, env.clone()));
        engine.set_source(Rc::new(ShardSource { partitions: Rc::clone(&shard), controller: None }));
        engine.start();
        let options = LaneOptions::single(LANE, NodeId(0)).from_checkpoint(lane.applied(), membership);
        let raft = Lane::start(&env, engine.lane(LANE), Rc::clone(&lane) as _, options).await;
        let raft = raft.unwrap_or_else(|error| panic!("the lane does not start: {error}"));
        let watched = raft.clone();
        drop(env.tasks.spawn("lane watch", async move { panic!("{}", watched.fatal().await) }));
        lane.attach(raft);
        shard.add_lane(Rc::clone(&lane), engine.clone());
        while lane.leading().is_none() {
            lane.leadership_bell.heard().await;
        }

        let sleeper = Arc::new(SimSleeper::new(&env));
        let policy = RetryPolicy { attempts_max: 3, ..RetryPolicy::default() };
        let store: Arc<dyn ObjectStore> = Arc::new(Retrying::new(world.bucket.store(), policy, sleeper));
        let mut fetch = FetchConfig::new(PathBuf::from("/node/cache"), 512 << 10);
        fetch.chunk_bytes = 16 << 10;
        let remote = RemoteReader::open(env.clone(), Arc::clone(&store), fetch).await;
        let remote = Rc::new(remote.unwrap_or_else(|error| panic!("the cache does not open: {error}")));
        shard.set_remote(Rc::clone(&remote));
        let (mesh, mut inboxes) = Mesh::new(1, 4096);
        let inbox = inboxes.pop().expect("one shard");
        drop(env.tasks.spawn("partition inbox", Rc::clone(&shard).drain(inbox)));
        create_partitions(&lane, world).await;
        archive(&env, world, &shard, &engine, &store, &remote);
        table::keep(&env, world, &lane, &store, &mesh);
        Rc::new(Self { env, shard, lane, engine, mesh })
    }

    /// Lets go of what holds on to itself, after the node was killed.
    pub(crate) fn forget(&self) {
        self.shard.set_extra(Rc::new(Nothing));
    }
}

fn recover(env: &Env, world: &World, engine: &Engine, recovered: &Recovered) -> (Rc<DataLane>, Option<Bytes>) {
    let known = recovered.lanes.iter().find(|known| known.lane == LANE);
    let (applied, blob) = known.map_or((None, Bytes::new()), |known| (known.applied, known.state.clone()));
    let membership = membership_of(&blob);
    let replicas = recovered.partitions.iter().map(|found| {
        let log = engine.partition(found.id).expect("a recovered partition has its log");
        let replica = Replica::decode(found.id, LANE, &found.state, log).expect("its checkpoint decodes");
        (replica, found.as_of.1)
    });
    let state = RecoveredState { applied, blob, replicas: replicas.collect() };
    let fresh = LaneManifest::new(world.home(), LANE);
    let lane = DataLane::recover(LANE, env.clone(), engine.clone(), state, fresh);
    (Rc::new(lane.unwrap_or_else(|error| panic!("{error}"))), membership)
}

/// As the controller's reconciliation: what is not there is proposed, until it is.
async fn create_partitions(lane: &Rc<DataLane>, world: &World) {
    for partition in &world.topic.partitions {
        while lane.replica(partition.id).is_none() {
            let (topic, overrides) = (world.topic.name.clone(), world.topic.overrides.clone());
            let command = LaneCommand::Create { partition: partition.id, topic, overrides, epoch_base: 0 };
            if let Err(error) = lane.propose(LaneEntry::Command(command)).await {
                panic!("a single voter refuses a command: {error}");
            }
        }
    }
}

/// Opens the bucket as the side runtime does, and starts archiving and retention.
fn archive(
    env: &Env,
    world: &World,
    shard: &Rc<PartitionShard>,
    engine: &Engine,
    store: &Arc<dyn ObjectStore>,
    remote: &Rc<RemoteReader>,
) {
    let name = ClusterName::new(NAME).expect("legal");
    let (tier, told) = Tier::over(Arc::clone(store), world.home(), name.clone());
    let claim = Claim { cluster: world.home().cluster, epoch: world.home().epoch, name, confirmed: false };
    let (opener, store) = (env.clone(), Arc::clone(store));
    drop(env.tasks.spawn("bucket opening", async move {
        loop {
            let nonce = Nonce(opener.rng.next_u64());
            match Bucket::open(Arc::clone(&store), &claim, nonce, opener.clock.wall()).await {
                Ok(bucket) => {
                    told.send_replace(Opening::Open(bucket));
                    return;
                }
                Err(error) if error.is_retryable() => opener.tasks.sleep(Duration::from_millis(500)).await,
                Err(error) => panic!("the bucket is refused: {error}"),
            }
        }
    }));
    let (controller_mesh, _) = Mesh::new(1, 1);
    let controller = ControllerHandle::new(world.image(), controller_mesh);
    start_with(env, shard, engine, &controller, &tier, remote, cadence());
}

/// A watch that never changes.
pub(crate) fn fixed<T>(value: T) -> watch::Receiver<T> {
    watch::channel(value).1
}
