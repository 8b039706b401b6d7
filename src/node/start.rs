//! Start and stop: preflight → data directory → side runtime, admin port → cluster → bucket → sockets → shards →
//! catalog; stop in reverse. The admin port says for what the start waits, until the shards serve.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tidewater_storage::engine::EngineConfig;
use tidewater_storage::model::{NodeId, ReplicaIncarnation, ShardId};
use tidewater_tiering::keys::{ClusterId, ClusterName, Home, LineageEpoch};
use uuid::Uuid;

use super::budgets::Budgets;
use super::error::StartError;
use super::identity::{DataDir, Identity, Notes};
use super::lanes::Seat;
use super::preflight;
use super::reshard;
use super::shard_main::{Inboxes, Meshes, ShardStart};
use super::side::Side;
use super::sockets;
use crate::admin::{self, AdminPort, StartStage};
use crate::archival::run::{Opening, Tier};
use crate::config::node::NodeConfig;
use crate::controller::brokers::BrokerAddress;
use crate::controller::image::{BrokerImage, ClusterImage};
use crate::controller::state::kafka_id;
use crate::kafka::limits::ACCEPTED_MAX;
use crate::lakehouse::{self, TableStates};
use crate::limits::{BUCKET_RESTART_PATIENCE, BUCKET_START_PATIENCE, MESH_INBOX_MAX};
use crate::net::http::HttpPort;
use crate::net::placement::Placement;
use crate::schema_http;
use crate::schema_registry::{RegistryMeshes, SchemaRegistry};
use crate::shard::mesh::Mesh;

mod entry;
mod serving;

pub(super) use entry::address_of;
use entry::{enter_cluster, identify, rpc_node};
use serving::{await_serving, spawn_shard};

/// Between log lines of a long start, which has no time limit: a large journal takes long.
const START_PATIENCE: Duration = Duration::from_secs(120);

/// A running broker.
pub struct Running {
    pub kafka: SocketAddr,
    pub admin: SocketAddr,
    /// The Iceberg catalog; `None` without the lakehouse.
    pub catalog: Option<SocketAddr>,
    /// The Schema Registry.
    pub schemas: SocketAddr,
    /// The cluster's id as Kafka prints it.
    pub cluster_id: String,
    shards: Vec<JoinHandle<()>>,
    stops: Vec<flume::Sender<()>>,
    side: Side,
    _data: DataDir,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Running(kafka {}, {} shards)", self.kafka, self.shards.len())
    }
}

/// Runs a broker until SIGTERM or SIGINT.
///
/// # Errors
/// Why it did not start.
pub fn serve(config: NodeConfig) -> Result<(), StartError> {
    for warning in config.exposure_warnings() {
        tracing::warn!("{warning}");
    }
    let running = start(config)?;
    tracing::info!(
        kafka = %running.kafka, admin = %running.admin, catalog = ?running.catalog, schemas = %running.schemas,
        cluster = %running.cluster_id,
        "tidewater is ready"
    );
    running.wait_for_signal();
    tracing::info!("stopping");
    running.stop();
    Ok(())
}

/// Starts a broker and returns once it serves.
///
/// # Errors
/// Nothing is left running.
pub fn start(config: NodeConfig) -> Result<Running, StartError> {
    let checks = preflight::machine(&config.data_dir);
    let unfit = preflight::failures(&checks);
    if !unfit.is_empty() {
        return Err(StartError::Unfit(unfit));
    }
    preflight::open_files();
    let tokens = sockets::tokens(&config)?;
    let data = DataDir::lock(&config.data_dir)?;
    let side = Side::start()?;
    let handle = side.handle();
    let stage = StartStage::new("the data directory is being read");
    let admin_socket = sockets::bind("--admin-addr", config.admin_addr)?;
    let admin = admin_socket.addr();
    let admin_port = AdminPort::open(stage.clone(), sockets::http(admin_socket.listen()?, &config), &handle);
    let identity = identify(&data, &config)?;
    stage.set("the seeds are being asked for the cluster");
    let (identity, held) = enter_cluster(&data, identity, &config, &stage)?;
    stage.set("the data directory is being laid out");
    let home = Home { cluster: ClusterId(identity.cluster), epoch: LineageEpoch(identity.epoch) };
    let budgets = Budgets::of(&config)?;
    let (identity, engine) = lay_out(&data, identity, &config, &budgets, home)?;
    let config = Arc::new(config);
    let notes = Arc::new(Notes::new(&data, identity.clone()));
    // The founders make the bucket's root; one that joined finds it, or waits.
    let has_joined = !identity.is_alone() && identity.founders.is_empty();
    stage.set("the bucket is being opened");
    let tier = open_tier(&config, &notes, identity.rooted || has_joined, home, &side)?;

    let bound = match held {
        Some(bound) => bound,
        None => sockets::bind("--kafka-addr", config.kafka_addr)?,
    };
    let rpc_socket = sockets::bind_rpc(&config, &identity)?;
    let catalog_socket = sockets::bind("--catalog-addr", config.catalog_addr)?;
    let schema_socket = sockets::bind_schemas(&config)?;
    let (kafka, catalog, schemas) = (bound.addr(), catalog_socket.addr(), schema_socket.addr());
    let address = address_of(&config, kafka, rpc_socket.addr(), identity.shards);
    let rpc = rpc_node(&config, &identity)?;
    let image = placeholder_image(&identity, &address);
    let cluster_id = image.cluster_id.clone();

    let (meshes, inboxes) = meshes(identity.shards);
    assert_eq!(inboxes.len(), usize::from(identity.shards), "each shard has its inboxes");
    let placement = Placement::new(identity.shards);
    let (registry_calls, registry_inboxes) = Mesh::new(1, MESH_INBOX_MAX);
    let mut registry_inbox = registry_inboxes.into_iter().next();
    let (status_sender, statuses) = flume::bounded(usize::from(identity.shards) * 4);
    budgets.watch(&config, &tier, &side);
    let (image_sender, images) = tokio::sync::watch::channel(Arc::clone(&image));
    let mut image_sender = Some(image_sender);
    let registry_meshes = RegistryMeshes {
        partitions: meshes.partitions.clone(),
        controller: meshes.controller.clone(),
        peers: registry_calls,
    };
    let registry = SchemaRegistry::new(registry_meshes, images.clone(), tier.leaders(), handle.clone());
    let (source_sender, sources) = tokio::sync::watch::channel(Arc::default());
    let mut source_sender = Some(source_sender);
    let (mut threads, mut stops) = (Vec::new(), Vec::new());
    let mut rpc_socket = Some(rpc_socket);
    let (open_kafka, kafka_opens) = flume::bounded(1);
    let mut kafka_opens = Some(kafka_opens);
    for (n, inboxes) in (0..identity.shards).zip(inboxes) {
        let (stop_sender, stop) = flume::bounded(1);
        stops.push(stop_sender);
        let start = ShardStart {
            seat: Seat {
                here: ShardId(n),
                shards: identity.shards,
                lanes: identity.lanes,
                node: NodeId(identity.node),
                incarnation: ReplicaIncarnation(identity.incarnation),
                home,
                forget_producers_after_ms: config.producer_id_expiration_ms,
            },
            identity: identity.clone(),
            address: address.clone(),
            notes: Arc::clone(&notes),
            rpc: rpc.clone(),
            rpc_socket: rpc_socket.take(),
            dir: data.shard(identity.layout, n),
            cache_dir: data.path.join("cache").join(format!("shard-{n}")),
            seed: Uuid::new_v4().as_u64_pair().0,
            engine: engine.clone(),
            cache_bytes: budgets.cache / u64::from(identity.shards),
            config: Arc::clone(&config),
            tier: tier.clone(),
            side: side.handle(),
            image: Arc::clone(&image),
            images: image_sender.take(),
            sources: sources.clone(),
            sources_out: source_sender.take(),
            registry: registry.clone(),
            registry_calls: registry_inbox.take(),
            meshes: meshes.clone(),
            placement: placement.clone(),
            kafka_opens: kafka_opens.take(),
            status: status_sender.clone(),
            stage: stage.clone(),
            stop,
        };
        threads.push(spawn_shard(start, inboxes)?);
    }
    drop(status_sender);
    let note = |change: fn(&mut Identity)| {
        if let Err(error) = notes.note(change) {
            tracing::warn!(%error, "the data directory could not note how far its start is");
        }
    };
    // From here on a shard's directory holds votes, whether or not there is a cluster yet.
    await_serving(&statuses, identity.shards, START_PATIENCE, &stage, || note(|identity| identity.begun = true))?;
    note(|identity| identity.formed = true);
    // Only now: a client that gets a connection gets answers, from all shards.
    if open_kafka.send(bound.listen()?).is_err() {
        return Err(StartError::Shard { shard: 0, why: "it ended while starting; see the log above".into() });
    }

    let tables = TableStates::default();
    let services = admin::Services {
        partitions: meshes.partitions.clone(),
        groups: meshes.groups.clone(),
        reports: meshes.reports.clone(),
        queues: meshes.queues(),
        images: images.clone(),
        tier: tier.clone(),
        tables: tables.clone(),
        replicas: admin::Replicas { published: sources.clone(), side: handle.clone() },
        registry: registry.clone(),
    };
    admin_port.serve(services);
    schema_http::start(registry.clone(), sockets::http(schema_socket.listen()?, &config), &handle);
    let asked = (meshes.partitions, meshes.controller, registry);
    let port = HttpPort { tokens, ..sockets::http(catalog_socket.listen()?, &config) };
    let with_tables = lakehouse::start(&tier, images, sources, asked, tables, &handle, port)
        .map_err(|why| StartError::Bucket { url: config.bucket.clone(), why })?;
    let catalog = with_tables.then_some(catalog);
    Ok(Running { kafka, admin, catalog, schemas, cluster_id, shards: threads, stops, side, _data: data })
}

impl Running {
    fn wait_for_signal(&self) {
        self.side.handle().block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
                tracing::error!(
                    "cannot listen for signals; stop the process with SIGKILL, nothing acknowledged is lost"
                );
                return std::future::pending().await;
            };
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        });
    }

    /// Stops: connections finish their requests, a checkpoint is taken, the shards end.
    pub fn stop(self) {
        drop(self.stops);
        for shard in self.shards {
            if shard.join().is_err() {
                tracing::error!("a shard panicked while stopping; the next start recovers from its journal");
            }
        }
        self.side.stop();
    }
}

/// Gives the data directory the number of shards of the settings; returns the identity and the engine settings of each
/// shard. Runs before anything else writes `node.json`.
fn lay_out(
    data: &DataDir,
    identity: Identity,
    config: &NodeConfig,
    budgets: &Budgets,
    home: Home,
) -> Result<(Identity, EngineConfig), StartError> {
    let forget_producers_after_ms = config.producer_id_expiration_ms;
    let (shards, node, lanes) = (identity.shards, NodeId(identity.node), identity.lanes);
    let incarnation = ReplicaIncarnation(identity.incarnation);
    let seat = |here| Seat { here, shards, lanes, node, incarnation, home, forget_producers_after_ms };
    let mut engine = EngineConfig { segments: Some(data.path.clone()), ..EngineConfig::default() };
    let identity = match config.shards.filter(|want| *want != shards) {
        // With its own budget: the start that follows counts the same files again.
        Some(want) => reshard::run(data, &identity, want, &engine, seat)?,
        None => identity,
    };
    data.remove_other_layouts(identity.layout)?;
    engine.open_files = preflight::segment_files(identity.shards);
    engine.budget = budgets.disk.clone();
    Ok((identity, engine))
}

/// Opens the store and waits a short time for the cluster's root in it. A bucket of another cluster stops the start;
/// one that does not answer does not.
fn open_tier(
    config: &NodeConfig,
    notes: &Arc<Notes>,
    rooted: bool,
    home: Home,
    side: &Side,
) -> Result<Tier, StartError> {
    let bad = |why: String| StartError::Bucket { url: config.bucket.clone(), why };
    let name = ClusterName::new(&config.cluster_name).map_err(|e| bad(e.to_string()))?;
    let notes = Arc::clone(notes);
    let note = move || {
        if let Err(error) = notes.note(|identity| identity.rooted = true) {
            tracing::warn!(%error, "the data directory could not note that its bucket was opened");
        }
    };
    let handle = side.handle();
    let tier = Tier::open(&config.bucket, home, name, rooted, &handle, note).map_err(|e| bad(e.to_string()))?;
    let patience = if rooted { BUCKET_RESTART_PATIENCE } else { BUCKET_START_PATIENCE };
    match handle.block_on(tier.wait_opened(patience)) {
        Opening::Refused(why) => Err(bad(why)),
        Opening::Open(_) | Opening::Waiting(_) => Ok(tier),
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
