//! The life of one shard, from recovery to stop, in this order: engine → lanes → other brokers → the controller's lane
//! (shard 0) → partitions → controller (shard 0) → the controller's first image, which starts the data lanes → groups →
//! Kafka → archiving and retention. It only starts these; no logic is here.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidewater_read_replica::ReplicaConfig;
use tidewater_storage::engine::{Engine, EngineConfig};
use tidewater_storage::env::{Deadlines, Env};
use tidewater_storage::model::{NodeId, ReplicaId, ReplicaIncarnation, ShardId};
use tidewater_tiering::fetch::{FetchConfig, RemoteReader};

use super::forming::{self, Hello};
use super::identity::{Identity, Notes};
use super::join;
use super::lanes::{self, Lanes, Seat};
use super::lost_leaders;
use super::peers::{self, PeerMessage};
use super::rebuilds::{self, Rebuilds};
use super::replicas::Replicas;
use super::status::{ShardFailure, ShardStatus};
use super::waiting;
use crate::admin::StartStage;
use crate::admin::cluster::{ClusterOperator, Gatherer};
use crate::admin::report::{ReportRequest, Reporter};
use crate::archival;
use crate::config::node::NodeConfig;
use crate::controller::ask::ControllerRequest;
use crate::controller::brokers::BrokerAddress;
use crate::controller::client::ControllerHandle;
use crate::controller::image::ClusterImage;
use crate::controller::reconcile::{self, Reconcile};
use crate::controller::service::{Controller, ControllerOptions};
use crate::controller::state::Surroundings;
use crate::copies::origin::OriginParts;
use crate::copies::shard::{CopyParts, CopyShard};
use crate::group::{Coordinator, GroupRequest, GroupRouter, GroupSettings};
use crate::kafka::metrics::KafkaMetrics;
use crate::kafka::{self, Arrival, Broker};
use crate::net::listen::{Bound, Listening};
use crate::net::placement::Placement;
use crate::partition::message::PartitionRequest;
use crate::partition::router::Router;
use crate::partition::shard::Local;
use crate::rebuild::RebuildProgress;
use crate::replica::published::{Publisher, Subscriber};
use crate::replica::shard::{ReplicaParts, ReplicaShard};
use crate::replica::sources::{self, SourcesParts};
use crate::rpc::{self, Rpc, RpcArrival, RpcNode};
use crate::schema_registry::peers::PeerCall;
use crate::schema_registry::{self, SchemaRegistry};
use crate::shard::mesh::{Depths, Inbox, Mesh};

/// The parts that a shard is started with. A message.
pub(super) struct ShardStart {
    pub seat: Seat,
    pub dir: PathBuf,
    pub cache_dir: PathBuf,
    pub seed: u64,
    pub engine: EngineConfig,
    pub cache_bytes: u64,
    pub config: Arc<NodeConfig>,
    pub identity: Identity,
    pub address: BrokerAddress,
    pub notes: Arc<Notes>,
    pub rpc: RpcNode,
    /// The socket for other brokers, on the shard that accepts.
    pub rpc_socket: Option<Bound>,
    pub tier: archival::run::Tier,
    pub side: tokio::runtime::Handle,
    pub image: Arc<ClusterImage>,
    /// Publishes images to the side runtime; shard 0 has it.
    pub images: Option<tokio::sync::watch::Sender<Arc<ClusterImage>>>,
    pub sources: Subscriber,
    /// Publishes what is known of sources; shard 0 has it.
    pub sources_out: Option<Publisher>,
    pub registry: SchemaRegistry,
    /// Calls of the registry to other brokers; shard 0 carries them.
    pub registry_calls: Option<Inbox<PeerCall>>,
    pub meshes: Meshes,
    pub placement: Placement,
    /// Brings the Kafka socket once every shard serves, to the shard that accepts.
    pub kafka_opens: Option<flume::Receiver<Listening>>,
    pub status: flume::Sender<ShardStatus>,
    pub stage: StartStage,
    pub stop: flume::Receiver<()>,
}

/// One mesh for each kind of message between shards.
#[derive(Clone)]
pub(super) struct Meshes {
    pub partitions: Mesh<PartitionRequest>,
    pub controller: Mesh<ControllerRequest>,
    pub reconcile: Mesh<Reconcile>,
    pub groups: Mesh<GroupRequest>,
    pub arrivals: Mesh<Arrival>,
    pub reports: Mesh<ReportRequest>,
    pub raft: Mesh<PeerMessage>,
    pub peers: Mesh<RpcArrival>,
}

impl Meshes {
    /// All meshes by name, for metrics.
    pub(super) fn queues(&self) -> Arc<[(&'static str, Arc<dyn Depths>)]> {
        let all: [(&'static str, Arc<dyn Depths>); 8] = [
            ("partitions", Arc::new(self.partitions.clone())),
            ("controller", Arc::new(self.controller.clone())),
            ("reconcile", Arc::new(self.reconcile.clone())),
            ("groups", Arc::new(self.groups.clone())),
            ("arrivals", Arc::new(self.arrivals.clone())),
            ("reports", Arc::new(self.reports.clone())),
            ("raft", Arc::new(self.raft.clone())),
            ("peers", Arc::new(self.peers.clone())),
        ];
        Arc::new(all)
    }
}

/// The receiving ends of [`Meshes`] on one shard.
pub(super) struct Inboxes {
    pub partitions: Inbox<PartitionRequest>,
    pub controller: Inbox<ControllerRequest>,
    pub reconcile: Inbox<Reconcile>,
    pub groups: Inbox<GroupRequest>,
    pub arrivals: Inbox<Arrival>,
    pub reports: Inbox<ReportRequest>,
    pub raft: Inbox<PeerMessage>,
    pub peers: Inbox<RpcArrival>,
}

/// What all steps after the recovery use.
struct Core {
    env: Env,
    here: ShardId,
    engine: Engine,
    lanes: Rc<Lanes>,
    controller: ControllerHandle,
    rpc: Rpc,
    /// Partitions in the checkpoint.
    recovered: usize,
}

impl Core {
    fn failed(&self, why: &impl std::fmt::Display) -> ShardFailure {
        ShardFailure::new(self.here, why)
    }
}

/// Runs a shard until `start.stop` closes.
pub(super) async fn run(mut start: ShardStart, inboxes: Inboxes) -> Result<(), ShardFailure> {
    let env = Env::real(start.seed);
    let begun = env.clock.now();
    // The cache lists its directory while checkpoint and journal are read.
    let remote = {
        let mut fetch = FetchConfig::new(start.cache_dir.clone(), start.cache_bytes);
        fetch.root = Some(start.tier.name.root_key());
        env.tasks.spawn("chunk cache", RemoteReader::open(env.clone(), Arc::clone(&start.tier.store), fetch))
    };
    let core = recover(env, &start).await?;
    let opened = core.env.clock.now();
    serve_brokers(&core, &mut start, inboxes.raft, inboxes.peers)?;
    core.lanes.start_controller(controller_voters(&start.identity), lanes::abort).await?;
    let led = core.env.clock.now();

    let Some(remote) = remote.await else { return Ok(()) };
    let remote = Rc::new(remote.map_err(|e| core.failed(&e))?);
    let serving = Rc::new(Cell::new(false));
    let rebuilds = serve_partitions(&core, &start, &remote, &serving, (inboxes.partitions, inboxes.reconcile));
    let local = Rc::new(Local(Rc::clone(&core.lanes.partitions)));
    let router = Router::new(core.here, local, start.meshes.partitions.clone());
    let coordinator = coordinator(&core, &start, &router);
    run_controller(&core, &mut start, inboxes.controller);
    let _ = start.status.send_async(ShardStatus::Recovered(core.here)).await;
    waiting::first_image(&core.env, &core.lanes, &core.controller, &core.rpc, &start.stage).await;
    // Other shards may have their image earlier; their requests stay in the inbox until this shard knows its topics.
    coordinator.serve(inboxes.groups);
    let (read, applied) = (opened.since(begun), led.since(opened));
    let (partitions, followed) = (core.recovered, core.env.clock.now().since(led));
    tracing::info!(shard = %core.here, partitions, ?read, ?applied, ?followed, "a shard has recovered");

    let broker = broker(&core, &start, router, coordinator);
    let (router, metrics) = (broker.router.clone(), Rc::clone(&broker.metrics));
    let server = serve_kafka(broker, &mut start, inboxes.arrivals);
    let reporter = serve_archive(&core, &start, remote, router, (metrics, server.clone(), rebuilds));
    core.env.tasks.spawn("reports", reporter.serve(inboxes.reports));
    let own = Replicas::start(&core.env, &core.lanes, &core.controller);
    lost_leaders::watch(&core.env, &core.lanes, &core.controller, Rc::new(core.rpc.clone()));
    serving.set(true);
    let _ = start.status.send_async(ShardStatus::Serving(core.here)).await;

    let _ = start.stop.recv_async().await;
    own.leave().await;
    server.stop().await;
    stop(core).await;
    Ok(())
}

/// Opens the engine. The lanes are as the checkpoint has them, and their groups do not run yet.
async fn recover(env: Env, start: &ShardStart) -> Result<Core, ShardFailure> {
    let here = start.seat.here;
    let opened = Engine::open(env.clone(), start.dir.clone(), start.engine.clone()).await;
    let (engine, recovered) = opened.map_err(|e| ShardFailure::new(here, &e))?;
    let partitions = recovered.partitions.len();
    let lanes = Rc::new(Lanes::recover(&env, &start.seat, &engine, recovered)?);
    engine.set_source(lanes.source());
    engine.start();
    let controller = ControllerHandle::new(Arc::clone(&start.image), start.meshes.controller.clone());
    let rpc = Rpc::new(&env, &start.rpc);
    rpc.set_shard(here);
    lanes.set_transport(rpc.transport());
    lanes.set_catch_up_bytes(start.config.catch_up_bytes);
    Ok(Core { env, here, engine, lanes, controller, rpc, recovered: partitions })
}

/// Answers other brokers, and finds them.
fn serve_brokers(
    core: &Core,
    start: &mut ShardStart,
    raft: Inbox<PeerMessage>,
    connections: Inbox<RpcArrival>,
) -> Result<(), ShardFailure> {
    let Core { env, engine, lanes, controller, rpc, .. } = core;
    let source = Rebuilds::source(env, engine, lanes);
    peers::serve_raft(rpc, lanes, &start.meshes.raft);
    rebuilds::serve(rpc, &source, lanes, &start.meshes.raft);
    peers::serve_inbox(env, lanes, &source, raft);
    peers::serve_join(rpc, &start.notes, &start.config.seeds, &start.address, controller);
    crate::controller::peers::serve(rpc, controller);
    schema_registry::peers::serve(rpc, &start.registry);
    if let Some(calls) = start.registry_calls.take() {
        schema_registry::peers::carry(env, rpc, calls);
    }
    // The seeds of this start, not those of the founding: brokers may have moved.
    let me = Hello { seeds: start.config.seeds.clone(), ..join::hello(&start.identity, &[], &start.address) };
    peers::follow_addresses(env, rpc, &start.rpc, controller, &start.identity, me);
    rpc.serve_connections(connections);
    if let Some(socket) = start.rpc_socket.take() {
        let listening = socket.listen().map_err(|e| core.failed(&e))?;
        let (listener, arrivals) = (listening.into_listener(), start.meshes.peers.clone());
        env.tasks.spawn("accept brokers", rpc::accept(env.clone(), listener, arrivals, start.rpc.clone()));
    }
    Ok(())
}

/// Answers other shards about this one's partitions, and lets the lanes follow the controller's images.
fn serve_partitions(
    core: &Core,
    start: &ShardStart,
    remote: &Rc<RemoteReader>,
    serving: &Rc<Cell<bool>>,
    (requests, images): (Inbox<PartitionRequest>, Inbox<Reconcile>),
) -> Rc<RebuildProgress> {
    let Core { env, engine, lanes, controller, rpc, .. } = core;
    lanes.partitions.set_remote(Rc::clone(remote));
    env.tasks.spawn("partition inbox", Rc::clone(&lanes.partitions).drain(requests));
    let rebuilds = Rebuilds::start(env, engine, lanes, rpc, controller);
    let prepare = prepare(lanes, &start.identity, &start.status, serving);
    reconcile::serve_with(env, &lanes.partitions, controller, images, prepare);
    rebuilds.progress()
}

fn coordinator(core: &Core, start: &ShardStart, router: &Router) -> Coordinator {
    let config = &start.config;
    let settings = GroupSettings {
        initial_rebalance_delay_ms: config.group_initial_rebalance_delay_ms,
        session_min_ms: config.group_min_session_timeout_ms,
        session_max_ms: config.group_max_session_timeout_ms,
        members_max: config.group_max_size,
        offsets_retention_ms: i64::try_from(config.offsets_retention_minutes.saturating_mul(60_000))
            .unwrap_or(i64::MAX),
        ..GroupSettings::default()
    };
    let leaders = Rc::clone(&core.lanes.partitions) as _;
    Coordinator::new(core.env.clone(), router.clone(), core.controller.clone(), leaders, settings)
}

/// What only shard 0 runs: the controller, and the discovery of sources.
fn run_controller(core: &Core, start: &mut ShardStart, requests: Inbox<ControllerRequest>) {
    let Core { env, lanes, controller, rpc, .. } = core;
    if let Some(lane) = lanes.controller.clone() {
        let options = controller_options(start);
        let (peers, shards) = (Some(Rc::new(rpc.clone()) as _), start.meshes.reconcile.clone());
        let images = start.images.take();
        let service = Controller::new(env.clone(), lane, options, peers, shards, controller.clone(), images);
        env.tasks.spawn("controller", Rc::new(service).run(requests));
    }
    if let Some(publisher) = start.sources_out.take() {
        sources::start(SourcesParts {
            env: env.clone(),
            controller: controller.clone(),
            peers: Some(Rc::new(rpc.clone()) as _),
            side: start.side.clone(),
            shards: start.seat.shards,
            config: ReplicaConfig::default(),
            publisher,
        });
    }
}

fn broker(core: &Core, start: &ShardStart, router: Router, coordinator: Coordinator) -> Rc<Broker> {
    let Core { env, controller, .. } = core;
    Rc::new(Broker {
        env: env.clone(),
        router,
        controller: controller.clone(),
        groups: GroupRouter::new(core.here, coordinator, start.meshes.groups.clone(), controller.clone()),
        cluster: ClusterOperator::new(start.meshes.reports.clone()),
        config: Arc::clone(&start.config),
        fetches: kafka::handlers::fetch::FetchSessions::default(),
        deadlines: Deadlines::new(env.clone()),
        recompressor: kafka::recompress::Recompressor::new(start.side.clone()),
        metrics: Rc::default(),
    })
}

/// Serves connections that are handed to this shard, and accepts them where the socket is.
fn serve_kafka(broker: Rc<Broker>, start: &mut ShardStart, arrivals: Inbox<Arrival>) -> kafka::Server {
    let env = broker.env.clone();
    let server = kafka::serve(broker, arrivals);
    if let Some(opens) = start.kafka_opens.take() {
        let (its, arrivals, placement) = (env.clone(), start.meshes.arrivals.clone(), start.placement.clone());
        let max = start.config.max_connections;
        env.tasks.spawn("accept", async move {
            let Ok(listening) = opens.recv_async().await else { return };
            kafka::accept(its, listening.into_listener(), arrivals, placement, max).await;
        });
    }
    server
}

/// Starts what reads and writes buckets: copies, followed topics, archiving with retention. Gives what reports on it.
fn serve_archive(
    core: &Core,
    start: &ShardStart,
    remote: Rc<RemoteReader>,
    router: Router,
    (kafka, server, rebuilds): (Rc<KafkaMetrics>, kafka::Server, Rc<RebuildProgress>),
) -> Reporter {
    let Core { env, engine, lanes, controller, rpc, .. } = core;
    let local = &lanes.partitions;
    let origins = OriginParts {
        env: env.clone(),
        remote: Rc::clone(&remote),
        tier: start.tier.clone(),
        side: start.side.clone(),
    };
    let (partitions, of_copies) = (Rc::clone(local), controller.clone());
    let copies = CopyShard::start(CopyParts { origins, controller: of_copies, partitions, router });
    let replicas = ReplicaShard::start(ReplicaParts {
        env: env.clone(),
        controller: controller.clone(),
        partitions: Rc::clone(local),
        remote: Rc::clone(&remote),
        shards: start.seat.shards,
        config: ReplicaConfig::default(),
        published: start.sources.clone(),
    });
    let cut_interval = Duration::from_millis(start.config.cut_interval_ms);
    let archives = archival::run::start(env, local, engine, controller, &start.tier, &remote, cut_interval);
    archives.join_peers(rpc, &start.meshes.partitions);
    Reporter {
        here: core.here,
        engine: engine.clone(),
        partitions: Rc::clone(local),
        kafka,
        server,
        remote,
        archives,
        controller_lane: lanes.controller.clone(),
        rebuilds,
        gatherer: Gatherer {
            env: env.clone(),
            controller: controller.clone(),
            reports: start.meshes.reports.clone(),
            rpc: Some(rpc.clone()),
        },
        replicas,
        copies,
    }
}

async fn stop(core: Core) {
    if let Err(error) = core.engine.checkpoint().await {
        tracing::warn!(
            shard = %core.here,
            %error,
            "the last checkpoint failed; the next start replays the journal instead"
        );
    }
    core.lanes.shutdown().await;
    core.rpc.stop();
    core.engine.close().await;
}

/// Starts the lanes that an image brings to this shard. A failure ends the start, or the process once it serves.
fn prepare(
    lanes: &Rc<Lanes>,
    identity: &Identity,
    status: &flume::Sender<ShardStatus>,
    serving: &Rc<Cell<bool>>,
) -> reconcile::Prepare {
    let (lanes, identity, status, serving) = (Rc::clone(lanes), identity.clone(), status.clone(), Rc::clone(serving));
    Rc::new(move |image: Arc<ClusterImage>| {
        let (lanes, status, serving) = (Rc::clone(&lanes), status.clone(), Rc::clone(&serving));
        if let Some(why) = peers::superseded(&image, &identity) {
            tracing::error!("{why}");
            std::process::abort();
        }
        Box::pin(async move {
            let Err(failure) = lanes.ensure(&image.lanes, lanes::abort).await else { return };
            if serving.get() {
                tracing::error!(error = %failure, "a lane could not be started; the broker stops, start it again");
                std::process::abort();
            }
            let _ = status.send_async(ShardStatus::Failed(failure)).await;
            std::future::pending::<()>().await;
        })
    })
}

/// The voters that the controller's lane begins with; none for a broker that joined the cluster later.
fn controller_voters(identity: &Identity) -> Vec<ReplicaId> {
    if identity.is_alone() {
        return vec![ReplicaId { node: NodeId(identity.node), incarnation: ReplicaIncarnation(identity.incarnation) }];
    }
    let founders = identity.founders.iter().take(forming::controller_voters(identity.founders.len()));
    founders.map(|founder| ReplicaId::first(founder.node)).collect()
}

fn controller_options(start: &ShardStart) -> ControllerOptions {
    let identity = &start.identity;
    ControllerOptions {
        around: Surroundings {
            cluster_name: start.image.cluster_name.clone(),
            broker: start.image.broker().clone(),
            shards: start.seat.shards,
        },
        cluster: identity.cluster,
        founders: identity.founders.clone(),
        voters: controller_voters(identity),
        data_lanes: if identity.is_alone() { start.seat.lanes } else { 0 },
        birth: identity.birth,
        address: start.address.clone(),
        num_partitions: start.config.num_partitions,
    }
}
