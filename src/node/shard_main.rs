//! The life of one shard, from recovery to stop, in this order: engine → lanes → partitions → controller (shard 0) →
//! the controller's first image → groups → Kafka → archiving and retention. It only starts these; no logic is here.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use tidewater_storage::engine::{Engine, EngineConfig};
use tidewater_storage::env::{Deadlines, Env};
use tidewater_tiering::fetch::{FetchConfig, RemoteReader};

use super::lanes::{self, Lanes, Seat};
use super::status::{ShardFailure, ShardStatus};
use crate::admin::report::{ReportRequest, Reporter};
use crate::archival;
use crate::config::node::NodeConfig;
use crate::controller::client::{ControllerHandle, ControllerRequest};
use crate::controller::image::ClusterImage;
use crate::controller::lane::ControllerLane;
use crate::controller::plan::genesis;
use crate::controller::reconcile::{Follower, Reconcile};
use crate::controller::service::Controller;
use crate::controller::state::Surroundings;
use crate::group::{Coordinator, GroupRequest, GroupRouter, GroupSettings};
use crate::kafka::metrics::KafkaMetrics;
use crate::kafka::{self, Arrival, Broker};
use crate::net::listen::Bound;
use crate::net::placement::Placement;
use crate::partition::message::PartitionRequest;
use crate::partition::router::Router;
use crate::partition::shard::{Local, PartitionShard};
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
    pub tier: archival::run::Tier,
    pub side: tokio::runtime::Handle,
    pub image: Arc<ClusterImage>,
    /// Publishes images to the side runtime; shard 0 has it.
    pub images: Option<tokio::sync::watch::Sender<Arc<ClusterImage>>>,
    pub meshes: Meshes,
    pub inboxes: Inboxes,
    pub placement: Placement,
    /// The Kafka socket, on the shard that accepts.
    pub bound: Option<Bound>,
    pub status: flume::Sender<ShardStatus>,
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
}

impl Meshes {
    /// All meshes by name, for metrics.
    pub(super) fn queues(&self) -> Arc<[(&'static str, Arc<dyn Depths>)]> {
        let all: [(&'static str, Arc<dyn Depths>); 6] = [
            ("partitions", Arc::new(self.partitions.clone())),
            ("controller", Arc::new(self.controller.clone())),
            ("reconcile", Arc::new(self.reconcile.clone())),
            ("groups", Arc::new(self.groups.clone())),
            ("arrivals", Arc::new(self.arrivals.clone())),
            ("reports", Arc::new(self.reports.clone())),
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
}

/// Runs a shard until `start.stop` closes.
pub(super) async fn run(start: ShardStart) -> Result<(), ShardFailure> {
    let env = Env::real(start.seed);
    let here = start.seat.here;
    let begun = env.clock.now();
    // The cache lists its directory while checkpoint and journal are read.
    let mut fetch = FetchConfig::new(start.cache_dir.clone(), start.cache_bytes);
    fetch.root = Some(start.tier.name.root_key());
    let remote = env.tasks.spawn("chunk cache", RemoteReader::open(env.clone(), Arc::clone(&start.tier.store), fetch));
    let opened = Engine::open(env.clone(), start.dir.clone(), start.engine.clone()).await;
    let (engine, recovered) = opened.map_err(|e| ShardFailure::new(here, &e))?;
    let (opened, partitions) = (env.clock.now(), recovered.partitions.len());
    let lanes = Lanes::recover(&env, &start.seat, &engine, recovered)?;
    engine.set_source(lanes.source());
    engine.start();
    lanes.start_groups(&env, &start.seat, &engine, lanes::abort).await?;
    let led = env.clock.now();

    let controller = ControllerHandle::new(Arc::clone(&start.image), start.meshes.controller.clone());
    let Some(remote) = remote.await else { return Ok(()) };
    let remote = Rc::new(remote.map_err(|e| ShardFailure::new(here, &e))?);
    lanes.partitions.set_remote(Rc::clone(&remote));
    let local: Rc<PartitionShard> = Rc::clone(&lanes.partitions);
    env.tasks.spawn("partition inbox", Rc::clone(&local).drain(start.inboxes.partitions));
    follow_images(&env, &local, &controller, start.inboxes.reconcile);

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
    let coordinator = Coordinator::new(env.clone(), router.clone(), controller.clone(), settings);
    let groups = GroupRouter::new(here, coordinator.clone(), start.meshes.groups.clone(), controller.clone());

    if let Some(lane) = lanes.controller.clone() {
        start_controller(
            &env,
            lane,
            &start.config,
            &start.image,
            start.seat.shards,
            &start.meshes,
            (&controller, start.images),
            start.inboxes.controller,
        );
    }
    let _ = start.status.send_async(ShardStatus::Recovered(here)).await;
    wait_for_first_image(&env, &controller).await;
    // Other shards may have their image earlier; their requests stay in the inbox until this shard knows its topics.
    coordinator.serve(start.inboxes.groups);
    let (read, applied, followed) = (opened.since(begun), led.since(opened), env.clock.now().since(led));
    tracing::info!(shard = %here, partitions, ?read, ?applied, ?followed, "a shard has recovered");

    let metrics = Rc::new(KafkaMetrics::default());
    let broker = Rc::new(Broker {
        env: env.clone(),
        router,
        controller: controller.clone(),
        groups,
        config: Arc::clone(&start.config),
        fetches: kafka::handlers::fetch::FetchSessions::default(),
        deadlines: Deadlines::new(env.clone()),
        recompressor: kafka::recompress::Recompressor::new(start.side.clone()),
        metrics: Rc::clone(&metrics),
    });
    let server = kafka::serve(broker, start.inboxes.arrivals);
    if let Some(bound) = start.bound {
        let (arrivals, placement) = (start.meshes.arrivals.clone(), start.placement.clone());
        let max = start.config.max_connections;
        env.tasks.spawn("accept", kafka::accept(env.clone(), bound.into_listener(), arrivals, placement, max));
    }
    let archives = archival::run::start(&env, &local, &engine, &controller, &start.tier, &remote);
    let reporter = Reporter {
        here,
        engine: engine.clone(),
        partitions: Rc::clone(&local),
        kafka: metrics,
        server: server.clone(),
        remote,
        archives,
    };
    env.tasks.spawn("reports", reporter.serve(start.inboxes.reports));
    let _ = start.status.send_async(ShardStatus::Serving(here)).await;

    let _ = start.stop.recv_async().await;
    server.stop().await;
    if let Err(error) = engine.checkpoint().await {
        tracing::warn!(shard = %here, %error, "the last checkpoint failed; the next start replays the journal instead");
    }
    lanes.shutdown().await;
    engine.close().await;
    Ok(())
}

/// Follows the controller's images: reconcile, then show the image to clients, then answer.
fn follow_images(env: &Env, shard: &Rc<PartitionShard>, controller: &ControllerHandle, inbox: Inbox<Reconcile>) {
    let (mut follower, controller) = (Follower::new(Rc::clone(shard)), controller.clone());
    env.tasks.spawn("reconcile", async move {
        while let Some(Reconcile { image, reply }) = inbox.recv().await {
            let terms = follower.follow(&image).await;
            controller.set_image(image);
            reply.send(terms);
        }
    });
}

#[allow(clippy::too_many_arguments, reason = "the composition root hands over each part once")]
fn start_controller(
    env: &Env,
    lane: Rc<ControllerLane>,
    config: &NodeConfig,
    image: &ClusterImage,
    shards: u16,
    meshes: &Meshes,
    (handle, images): (&ControllerHandle, Option<tokio::sync::watch::Sender<Arc<ClusterImage>>>),
    inbox: Inbox<ControllerRequest>,
) {
    let around = Surroundings {
        cluster_name: image.cluster_name.clone(),
        broker: image.broker.clone(),
        shards,
        terms: std::collections::BTreeMap::new(),
    };
    let cluster = image.cluster;
    let service = Controller::new(
        env.clone(),
        Rc::clone(&lane),
        around,
        config.num_partitions,
        meshes.reconcile.clone(),
        handle.clone(),
        images,
    );
    let service = Rc::new(service);
    env.tasks.spawn("controller", async move {
        if lane.state().cluster.is_nil()
            && let Err(error) = lane.propose(&genesis(cluster)).await
        {
            tracing::error!(%error, "the first entry of the cluster could not be written; the broker stops, start it again");
            std::process::abort();
        }
        service.settle().await;
        service.run(inbox).await;
    });
}

/// Waits for the controller's first image; revision 0 is the placeholder a shard starts with.
async fn wait_for_first_image(env: &Env, controller: &ControllerHandle) {
    while controller.image().revision == 0 {
        env.tasks.sleep(std::time::Duration::from_millis(1)).await;
    }
}
