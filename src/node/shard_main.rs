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
use tidewater_storage::model::{NodeId, ReplicaId, ReplicaIncarnation};
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
use crate::partition::shard::{Local, PartitionShard};
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
    pub inboxes: Inboxes,
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

/// Runs a shard until `start.stop` closes.
pub(super) async fn run(start: ShardStart) -> Result<(), ShardFailure> {
    let env = Env::real(start.seed);
    let here = start.seat.here;
    let begun = env.clock.now();
    let options = controller_options(&start);
    // The cache lists its directory while checkpoint and journal are read.
    let mut fetch = FetchConfig::new(start.cache_dir.clone(), start.cache_bytes);
    fetch.root = Some(start.tier.name.root_key());
    let remote = env.tasks.spawn("chunk cache", RemoteReader::open(env.clone(), Arc::clone(&start.tier.store), fetch));
    let opened = Engine::open(env.clone(), start.dir.clone(), start.engine.clone()).await;
    let (engine, recovered) = opened.map_err(|e| ShardFailure::new(here, &e))?;
    let (opened, partitions) = (env.clock.now(), recovered.partitions.len());
    let lanes = Rc::new(Lanes::recover(&env, &start.seat, &engine, recovered)?);
    engine.set_source(lanes.source());
    engine.start();

    let controller = ControllerHandle::new(Arc::clone(&start.image), start.meshes.controller.clone());
    let rpc = Rpc::new(&env, &start.rpc);
    rpc.set_shard(here);
    lanes.set_transport(rpc.transport());
    lanes.set_catch_up_bytes(start.config.catch_up_bytes);
    let source = Rebuilds::source(&env, &engine, &lanes);
    peers::serve_raft(&rpc, &lanes, &start.meshes.raft);
    rebuilds::serve(&rpc, &source, &lanes, &start.meshes.raft);
    peers::serve_inbox(&env, &lanes, &source, start.inboxes.raft);
    peers::serve_join(&rpc, &start.notes, &start.config.seeds, &start.address, &controller);
    crate::controller::peers::serve(&rpc, &controller);
    schema_registry::peers::serve(&rpc, &start.registry);
    if let Some(calls) = start.registry_calls {
        schema_registry::peers::carry(&env, &rpc, calls);
    }
    // The seeds of this start, not those of the founding: brokers may have moved.
    let me = Hello { seeds: start.config.seeds.clone(), ..join::hello(&start.identity, &[], &start.address) };
    peers::follow_addresses(&env, &rpc, &start.rpc, &controller, &start.identity, me);
    rpc.serve_connections(start.inboxes.peers);
    if let Some(socket) = start.rpc_socket {
        let listening = socket.listen().map_err(|e| ShardFailure::new(here, &e))?;
        let (listener, arrivals) = (listening.into_listener(), start.meshes.peers.clone());
        env.tasks.spawn("accept brokers", rpc::accept(env.clone(), listener, arrivals, start.rpc.clone()));
    }
    lanes.start_controller(controller_voters(&start.identity), lanes::abort).await?;
    let led = env.clock.now();

    let Some(remote) = remote.await else { return Ok(()) };
    let remote = Rc::new(remote.map_err(|e| ShardFailure::new(here, &e))?);
    lanes.partitions.set_remote(Rc::clone(&remote));
    let local: Rc<PartitionShard> = Rc::clone(&lanes.partitions);
    env.tasks.spawn("partition inbox", Rc::clone(&local).drain(start.inboxes.partitions));
    let rebuilds = Rebuilds::start(&env, &engine, &lanes, &rpc, &controller);
    let serving = Rc::new(Cell::new(false));
    let prepare = prepare(&lanes, &start.identity, &start.status, &serving);
    reconcile::serve_with(&env, &local, &controller, start.inboxes.reconcile, prepare);

    let router = Router::new(here, Rc::new(Local(Rc::clone(&local))), start.meshes.partitions.clone());
    let settings = GroupSettings {
        initial_rebalance_delay_ms: start.config.group_initial_rebalance_delay_ms,
        session_min_ms: start.config.group_min_session_timeout_ms,
        session_max_ms: start.config.group_max_session_timeout_ms,
        members_max: start.config.group_max_size,
        offsets_retention_ms: i64::try_from(start.config.offsets_retention_minutes.saturating_mul(60_000))
            .unwrap_or(i64::MAX),
        ..GroupSettings::default()
    };
    let coordinator =
        Coordinator::new(env.clone(), router.clone(), controller.clone(), Rc::clone(&local) as _, settings);
    let groups = GroupRouter::new(here, coordinator.clone(), start.meshes.groups.clone(), controller.clone());

    if let Some(lane) = lanes.controller.clone() {
        let (peers, shards) = (Some(Rc::new(rpc.clone()) as _), start.meshes.reconcile.clone());
        let service = Controller::new(env.clone(), lane, options, peers, shards, controller.clone(), start.images);
        env.tasks.spawn("controller", Rc::new(service).run(start.inboxes.controller));
    }
    if let Some(publisher) = start.sources_out {
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
    let _ = start.status.send_async(ShardStatus::Recovered(here)).await;
    waiting::first_image(&env, &lanes, &controller, &rpc, &start.stage).await;
    // Other shards may have their image earlier; their requests stay in the inbox until this shard knows its topics.
    coordinator.serve(start.inboxes.groups);
    let (read, applied, followed) = (opened.since(begun), led.since(opened), env.clock.now().since(led));
    tracing::info!(shard = %here, partitions, ?read, ?applied, ?followed, "a shard has recovered");

    let metrics = Rc::new(KafkaMetrics::default());
    let copies = CopyShard::start(CopyParts {
        origins: OriginParts {
            env: env.clone(),
            remote: Rc::clone(&remote),
            tier: start.tier.clone(),
            side: start.side.clone(),
        },
        controller: controller.clone(),
        partitions: Rc::clone(&local),
        router: router.clone(),
    });
    let broker = Rc::new(Broker {
        env: env.clone(),
        router,
        controller: controller.clone(),
        groups,
        cluster: ClusterOperator::new(start.meshes.reports.clone()),
        config: Arc::clone(&start.config),
        fetches: kafka::handlers::fetch::FetchSessions::default(),
        deadlines: Deadlines::new(env.clone()),
        recompressor: kafka::recompress::Recompressor::new(start.side.clone()),
        metrics: Rc::clone(&metrics),
    });
    let server = kafka::serve(broker, start.inboxes.arrivals);
    if let Some(opens) = start.kafka_opens {
        let (its, arrivals, placement) = (env.clone(), start.meshes.arrivals.clone(), start.placement.clone());
        let max = start.config.max_connections;
        env.tasks.spawn("accept", async move {
            let Ok(listening) = opens.recv_async().await else { return };
            kafka::accept(its, listening.into_listener(), arrivals, placement, max).await;
        });
    }
    let replicas = ReplicaShard::start(ReplicaParts {
        env: env.clone(),
        controller: controller.clone(),
        partitions: Rc::clone(&local),
        remote: Rc::clone(&remote),
        shards: start.seat.shards,
        config: ReplicaConfig::default(),
        published: start.sources,
    });
    let archives = {
        let cut_interval = Duration::from_millis(start.config.cut_interval_ms);
        archival::run::start(&env, &local, &engine, &controller, &start.tier, &remote, cut_interval)
    };
    archives.join_peers(&rpc, &start.meshes.partitions);
    let reporter = Reporter {
        here,
        engine: engine.clone(),
        partitions: Rc::clone(&local),
        kafka: metrics,
        server: server.clone(),
        remote,
        archives,
        controller_lane: lanes.controller.clone(),
        rebuilds: rebuilds.progress(),
        gatherer: Gatherer {
            env: env.clone(),
            controller: controller.clone(),
            reports: start.meshes.reports.clone(),
            rpc: Some(rpc.clone()),
        },
        replicas,
        copies,
    };
    env.tasks.spawn("reports", reporter.serve(start.inboxes.reports));
    let own = Replicas::start(&env, &lanes, &controller);
    lost_leaders::watch(&env, &lanes, &controller, Rc::new(rpc.clone()));
    serving.set(true);
    let _ = start.status.send_async(ShardStatus::Serving(here)).await;

    let _ = start.stop.recv_async().await;
    own.leave().await;
    server.stop().await;
    if let Err(error) = engine.checkpoint().await {
        tracing::warn!(shard = %here, %error, "the last checkpoint failed; the next start replays the journal instead");
    }
    lanes.shutdown().await;
    rpc.stop();
    engine.close().await;
    Ok(())
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
