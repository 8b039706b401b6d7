//! One life of a broker in a cluster: engine, data lanes with voters on other brokers, proposers, archivers, the
//! coordinator of groups.
//!
//! Composed by hand, as `src/node` composes them; the lanes follow the simulation's controller ([`super::images`]), not
//! the one that a broker may run besides.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use tidewater::archival::run::{Archives, Opening, Tier, start_with};
use tidewater::controller::ask::ControllerRequest;
use tidewater::controller::client::ControllerHandle;
use tidewater::controller::image::ClusterImage;
use tidewater::controller::reconcile::{self, Reconcile};
use tidewater::group::GroupRouter;
use tidewater::limits::PRODUCER_ID_EXPIRATION_MS;
use tidewater::node::lanes::{Lanes, Seat};
use tidewater::node::lost_leaders::{self, Connections};
use tidewater::node::replicas::Replicas;
use tidewater::node::source::ShardSource;
use tidewater::partition::message::PartitionRequest;
use tidewater::partition::shard::PartitionShard;
use tidewater::raft::LaneFatal;
use tidewater::rebuild::{CopyError, CopyOptions, RebuildSource, copy};
use tidewater::shard::mesh::{Inbox, Mesh};
use tidewater_storage::engine::{CheckpointSource, Engine, EngineError, LaneCheckpoint, PartitionCheckpoint};
use tidewater_storage::env::Env;
use tidewater_storage::model::{EntryId, LaneId, NodeId, PartitionId, ShardId, Term};
use tidewater_tiering::bucket::{Bucket, Claim};
use tidewater_tiering::fetch::{FetchConfig, RemoteReader};
use tidewater_tiering::keys::{ClusterName, Nonce};
use tidewater_tiering::store::{ObjectStore, RetryPolicy, Retrying, SimSleeper};

use super::controllers::{self, Control};
use super::groups;
use super::record::Witness;
use super::wire::{Calls, Transport, Wire, node_id};
use super::world::{Cluster, Obituaries};
use crate::node::{Nothing, cadence, engine_config};

const HERE: ShardId = ShardId(0);
/// Room for what a replica that was away for seconds catches up from.
const JOURNAL_BYTES: u64 = 24 << 20;
/// How soon a broker notices that a connection has broken.
const CONNECTIONS_SEEN: Duration = Duration::from_millis(20);

/// A broker while it serves.
pub(crate) struct Broker {
    pub(crate) engine: Engine,
    pub(crate) partitions: Rc<PartitionShard>,
    pub(crate) mesh: Mesh<PartitionRequest>,
    pub(crate) groups: GroupRouter,
    pub(crate) control: Option<Control>,
    _archives: Option<Archives>,
}

impl Broker {
    /// Recovers and starts everything. Serving does not wait for leadership.
    pub(crate) async fn start(env: Env, cluster: &Rc<Cluster>, node: u32) -> Result<Rc<Self>, String> {
        let mut config = engine_config(&env, false);
        config.journal.capacity_bytes = JOURNAL_BYTES;
        let opened = Engine::open(env.clone(), PathBuf::from("/node/shard-0"), config).await;
        let (engine, recovered) = opened.map_err(|error| error.to_string())?;
        let lanes = Lanes::recover(&env, &seat(cluster, node), &engine, recovered);
        let lanes = Rc::new(lanes.map_err(|error| error.to_string())?);
        let partitions = Rc::clone(&lanes.partitions);
        engine.set_source(Rc::new(Source { inner: lanes.source(), obituaries: cluster.obituaries(node) }));
        engine.start();
        let source = RebuildSource::new(&env, &engine, Rc::clone(&lanes) as _);
        let wire = Wire::start(cluster, &env, node, &lanes, source);
        lanes.set_transport(Rc::new(Transport(Rc::clone(&wire))));
        let record = Rc::clone(&cluster.record);
        lanes.set_witness(Rc::new(move |lane| {
            Rc::new(Witness { node, lane: Rc::clone(lane), record: Rc::clone(&record) })
        }));
        let image = cluster.slot(node).known.image(cluster, node);
        lanes.ensure(&image.lanes, on_death(cluster, node)).await.map_err(|error| error.to_string())?;
        let weak = Rc::downgrade(cluster);
        let rebuilds = rebuild(env.clone(), weak, node, engine.clone(), Rc::clone(&lanes), Rc::clone(&wire));
        drop(env.tasks.spawn("rebuilds", rebuilds));
        let (mesh, mut inboxes) = Mesh::new(1, 4096);
        drop(env.tasks.spawn("partition inbox", Rc::clone(&partitions).drain(inboxes.remove(0))));
        let placeholder = ClusterImage { revision: 0, ..(*image).clone() };
        let controller = follow_images(&env, cluster, node, &lanes, Arc::new(placeholder));
        let peers = || Peers { env: env.clone(), wire: Rc::clone(&wire), cluster: Rc::downgrade(cluster), me: node };
        if cluster.plan.keepers {
            drop(Replicas::start(&env, &lanes, &controller));
            lost_leaders::watch(&env, &lanes, &controller, Rc::new(peers()));
        }
        let control = if cluster.plan.controllers {
            Some(controllers::start(&env, cluster, node, &lanes, peers(), &image).await?)
        } else {
            None
        };
        let groups = groups::coordinate(&env, HERE, &partitions, &mesh, &controller);
        let archives = archive(&env, cluster, node, &partitions, &engine, &controller).await?;
        Ok(Rc::new(Self { engine, partitions, mesh, groups, control, _archives: archives }))
    }

    /// The term in which it leads a lane and serves.
    pub(crate) fn leads(&self, lane: LaneId) -> Option<Term> {
        self.partitions.lane(lane)?.status.leading()
    }

    /// Lets go of what holds on to itself, after the broker was killed.
    pub(crate) fn forget(&self) {
        self.partitions.set_extra(Rc::new(Nothing));
    }
}

fn seat(cluster: &Cluster, node: u32) -> Seat {
    Seat {
        here: HERE,
        shards: 1,
        lanes: cluster.plan.lanes,
        node: node_id(node),
        incarnation: cluster.replica(node).incarnation,
        home: cluster.home(),
        forget_producers_after_ms: PRODUCER_ID_EXPIRATION_MS,
    }
}

fn on_death(cluster: &Rc<Cluster>, node: u32) -> impl Fn(LaneFatal) + 'static {
    let obituaries = cluster.obituaries(node);
    move |fatal| obituaries.note(fatal.to_string())
}

/// Rebuilds lanes that cannot catch up, as `node::rebuilds` does; the leader is asked as the simulation knows it, and
/// while it knows none, every other broker in turn.
async fn rebuild(env: Env, cluster: Weak<Cluster>, node: u32, engine: Engine, lanes: Rc<Lanes>, wire: Rc<Wire>) {
    for look in 0.. {
        env.tasks.sleep(Duration::from_millis(100 + env.rng.below(200))).await;
        for lane in lanes.to_rebuild() {
            let Some(me) = lanes.begin_rebuild(lane).await else { continue };
            let Some(cluster) = cluster.upgrade() else { return };
            let others: Vec<u32> = cluster.plan.all_nodes().filter(|other| *other != node).collect();
            let known = cluster.leader(lane).map(|(leader, ..)| leader).filter(|leader| *leader != node);
            let leader = known.unwrap_or_else(|| others[look % others.len()]);
            let calls = Calls { wire: Rc::clone(&wire), to: leader };
            let progress = Rc::default();
            let copied = copy(&env, &engine, CopyOptions { lane, me, calls: &calls, progress }).await;
            let failed = match copied {
                Ok(copied) => {
                    let done = lanes.end_rebuild(&copied, &calls, on_death(&cluster, node)).await;
                    cluster.note(format!("node {node} has lane {lane} rebuilt from node {leader}: {done:?}"));
                    done.err().map(|error| error.to_string())
                }
                Err(CopyError::Engine(error)) => Some(error.to_string()),
                Err(error) => {
                    cluster.note(format!("node {node} tries again to rebuild lane {lane}: {error}"));
                    None
                }
            };
            if let Some(why) = failed {
                return cluster.obituaries(node).note(format!("a rebuild failed: {why}"));
            }
        }
    }
}

/// Hands every new image of the topics to the shard, and answers nothing of what the shard reports: clients here find
/// leaders by themselves.
fn follow_images(
    env: &Env,
    cluster: &Rc<Cluster>,
    node: u32,
    lanes: &Rc<Lanes>,
    placeholder: Arc<ClusterImage>,
) -> ControllerHandle {
    let (requests, mut inboxes) = Mesh::new(1, 64);
    let unanswered: Inbox<ControllerRequest> = inboxes.remove(0);
    drop(env.tasks.spawn("unanswered", async move { while unanswered.recv().await.is_some() {} }));
    let controller = ControllerHandle::new(placeholder, requests);
    let (reconcile, mut inboxes) = Mesh::new(1, 16);
    let starting = Rc::clone(lanes);
    let obituaries = cluster.obituaries(node);
    // An image that is older than a replacement gives the broker nothing to run; the next one does.
    let prepare: reconcile::Prepare = Rc::new(move |image: Arc<ClusterImage>| {
        let (lanes, obituaries) = (Rc::clone(&starting), obituaries.clone());
        Box::pin(async move {
            let dies = obituaries.clone();
            if let Err(why) = lanes.ensure(&image.lanes, move |fatal| dies.note(fatal.to_string())).await {
                obituaries.note(why.to_string());
            }
        })
    });
    reconcile::serve_with(env, &lanes.partitions, &controller, inboxes.remove(0), prepare);
    let (cluster, follower) = (Rc::downgrade(cluster), env.clone());
    drop(env.tasks.spawn("follow images", async move {
        let mut followed = 0;
        loop {
            follower.tasks.sleep(Duration::from_millis(5 + follower.rng.below(20))).await;
            let Some(cluster) = cluster.upgrade() else { return };
            let image = cluster.slot(node).known.image(&cluster, node);
            drop(cluster);
            if image.revision > followed {
                followed = image.revision;
                let _ = reconcile.call(HERE, |reply| Reconcile::Image { image, reply }).await;
            }
        }
    }));
    controller
}

/// Connections with the brokers that live: the kernel closes those of a process that ends, and not those that are cut.
pub(crate) struct Peers {
    pub(crate) env: Env,
    pub(crate) wire: Rc<Wire>,
    cluster: Weak<Cluster>,
    me: u32,
}

impl Connections for Peers {
    fn connected(&self) -> BTreeSet<NodeId> {
        let Some(cluster) = self.cluster.upgrade() else { return BTreeSet::new() };
        cluster.plan.all_nodes().filter(|node| *node != self.me && cluster.is_alive(*node)).map(node_id).collect()
    }

    fn changed(&self) -> LocalBoxFuture<'_, ()> {
        let before = self.connected();
        Box::pin(async move {
            while self.connected() == before {
                self.env.tasks.sleep(CONNECTIONS_SEEN).await;
            }
        })
    }
}

/// Opens the bucket and starts archivers and retention; none in a run without an archive.
async fn archive(
    env: &Env,
    cluster: &Cluster,
    node: u32,
    partitions: &Rc<PartitionShard>,
    engine: &Engine,
    controller: &ControllerHandle,
) -> Result<Option<Archives>, String> {
    let policy = RetryPolicy { attempts_max: 3, ..RetryPolicy::default() };
    let store = cluster.bucket.store_for(node);
    let store: Arc<dyn ObjectStore> = Arc::new(Retrying::new(store, policy, Arc::new(SimSleeper::new(env))));
    let mut fetch = FetchConfig::new(PathBuf::from("/node/cache"), 512 << 10);
    fetch.chunk_bytes = 16 << 10;
    let remote = RemoteReader::open(env.clone(), Arc::clone(&store), fetch).await;
    let remote = Rc::new(remote.map_err(|error| format!("the cache does not open: {error}"))?);
    partitions.set_remote(Rc::clone(&remote));
    if !cluster.plan.has("archive") {
        return Ok(None);
    }
    let (home, name) = (cluster.home(), ClusterName::new(crate::world::NAME).expect("legal"));
    let (tier, opening) = Tier::over(Arc::clone(&store), home, name.clone());
    let claim = Claim { cluster: home.cluster, epoch: home.epoch, name, confirmed: false };
    let opener = env.clone();
    drop(env.tasks.spawn("bucket opening", async move {
        loop {
            let nonce = Nonce(opener.rng.next_u64());
            match Bucket::open(Arc::clone(&store), &claim, nonce, opener.clock.wall()).await {
                Ok(bucket) => {
                    opening.send_replace(Opening::Open(bucket));
                    return;
                }
                Err(error) if error.disposition().passes() => opener.tasks.sleep(Duration::from_millis(500)).await,
                Err(error) => panic!("the bucket is refused: {error}"),
            }
        }
    }));
    Ok(Some(start_with(env, partitions, engine, controller, &tier, &remote, cadence())))
}

/// The shard's own source; instead of aborting the process the world gets a report.
struct Source {
    inner: Rc<ShardSource>,
    obituaries: Obituaries,
}

impl CheckpointSource for Source {
    fn lane(&self, lane: LaneId) -> Option<LaneCheckpoint> {
        self.inner.lane(lane)
    }

    fn partition(&self, partition: PartitionId) -> Option<PartitionCheckpoint> {
        self.inner.partition(partition)
    }

    fn checkpointed(&self, lane: LaneId, applied: EntryId) {
        self.inner.checkpointed(lane, applied);
    }

    fn failed(&self, error: &EngineError) {
        self.obituaries.note(format!("the storage engine failed: {error}"));
    }
}
