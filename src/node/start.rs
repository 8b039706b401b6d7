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
use super::cores::default_shards;
use super::error::StartError;
use super::identity::{DataDir, Identity, Notes};
use super::join::{self, Joining};
use super::lanes::Seat;
use super::on_executor::on_executor;
use super::preflight;
use super::reshard;
use super::shard_main::{self, Inboxes, Meshes, ShardStart};
use super::side::Side;
use super::sockets;
use super::status::ShardStatus;
use crate::admin::{self, AdminPort, StartStage};
use crate::archival::run::{Opening, Tier};
use crate::config::node::NodeConfig;
use crate::controller::brokers::{BrokerAddress, Endpoint, Registration};
use crate::controller::features::CLUSTER_MAX;
use crate::controller::image::{BrokerImage, ClusterImage};
use crate::controller::state::kafka_id;
use crate::kafka::limits::ACCEPTED_MAX;
use crate::lakehouse::{self, TableStates};
use crate::limits::{BUCKET_RESTART_PATIENCE, BUCKET_START_PATIENCE, MESH_INBOX_MAX};
use crate::net::http::HttpPort;
use crate::net::listen::Bound;
use crate::net::placement::Placement;
use crate::rpc::{self, Rpc, RpcMember, RpcNode, RpcOptions};
use crate::schema_http;
use crate::schema_registry::{RegistryMeshes, SchemaRegistry};
use crate::shard::executor;
use crate::shard::mesh::Mesh;

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

/// The identity of this data directory. A fresh one gets its birth id, and without `--seed` a new cluster.
fn identify(data: &DataDir, config: &NodeConfig) -> Result<Identity, StartError> {
    let bad = |why: String| StartError::DataDir { path: data.path.clone(), why };
    let cores = std::thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX));
    let Some(identity) = data.identity()? else {
        let shards = config.shards.unwrap_or_else(|| default_shards(cores));
        let birth = Uuid::new_v4();
        let identity = if config.seeds.is_empty() {
            if let Some(node) = config.replace {
                return Err(bad(format!("--replace {node} needs --seed with the addresses of brokers of the cluster")));
            }
            Identity { birth, ..Identity::newborn(Uuid::new_v4(), &config.cluster_name, shards) }
        } else {
            Identity::unassigned(birth, &config.cluster_name, shards)
        };
        data.make_first(identity.shards)?;
        data.write(&identity)?;
        return Ok(identity);
    };
    if identity.cluster_name != config.cluster_name {
        return Err(bad(format!(
            "it holds the cluster {:?} and --cluster-name asks for {:?}: a cluster cannot be renamed",
            identity.cluster_name, config.cluster_name
        )));
    }
    if let Some(node) = config.replace.filter(|node| identity.is_member() && identity.node != *node) {
        return Err(bad(format!(
            "it is node {} of a cluster, and --replace {node} is for a start with an empty data directory; start it \
             without --replace, or choose another directory with --data-dir",
            identity.node
        )));
    }
    if identity.restoring.is_some() {
        return Err(bad(format!(
            "a restore that prepares it is not complete: run tidewater restore --from {} again with this --data-dir",
            config.bucket
        )));
    }
    data.check_shards(&identity)?;
    if !identity.birth.is_nil() {
        return Ok(identity);
    }
    // Written by a version that knew no other broker.
    let identity = Identity { birth: Uuid::new_v4(), ..identity };
    data.write(&identity)?;
    Ok(identity)
}

/// Brings a data directory that belongs to no cluster into that of `--seed`. Also returns the Kafka socket if its port
/// had to be known for that.
fn enter_cluster(
    data: &DataDir,
    identity: Identity,
    config: &NodeConfig,
    stage: &StartStage,
) -> Result<(Identity, Option<Bound>), StartError> {
    if identity.is_member() {
        check_seeds(&identity, config)?;
        return Ok((identity, None));
    }
    if config.seeds.is_empty() {
        let why = "this data directory was started with --seed before and is in no cluster yet: give --seed again, or \
                   choose an empty directory for a cluster of one";
        return Err(StartError::Cluster(why.to_owned()));
    }
    if config.bucket_is_embedded {
        let why = "the brokers of a cluster share one bucket, and without --bucket each has its own: give every broker \
                   the same --bucket";
        return Err(StartError::Cluster(why.to_owned()));
    }
    // Clients are refused until there is a cluster; but a port that the system chooses has to be known to it.
    let held =
        if config.kafka_addr.port() == 0 { Some(sockets::bind("--kafka-addr", config.kafka_addr)?) } else { None };
    let kafka = held.as_ref().map_or(config.kafka_addr, Bound::addr);
    let socket = sockets::bind("--rpc-addr", config.rpc_addr)?.listen()?;
    let address = address_of(config, kafka, socket.addr(), identity.shards);
    let registration =
        Registration { birth: identity.birth, node: None, replaces: config.replace.map(NodeId), address };
    let joining = Joining { identity, seeds: config.seeds.clone(), registration };
    let (node, dir, stage) = (rpc_node(config, &joining.identity)?, data.path.clone(), stage.clone());
    let joined = on_executor(ShardId(0), move |env| async move {
        let rpc = Rpc::new(&env, &node);
        let (arrivals, inboxes) = Mesh::new(1, MESH_INBOX_MAX);
        inboxes.into_iter().for_each(|inbox| rpc.serve_connections(inbox));
        let accepting = rpc::accept(env.clone(), socket.into_listener(), arrivals, node);
        let accepting = env.tasks.spawn("accept brokers", accepting);
        let joined = Box::pin(join::run(&env, &rpc, &dir, &joining, &stage)).await;
        accepting.cancel();
        rpc.stop();
        Ok(joined)
    });
    Ok((joined?.wait()??, held))
}

/// Asks the seeds of a member whether they are in the same cluster.
fn check_seeds(identity: &Identity, config: &NodeConfig) -> Result<(), StartError> {
    if config.seeds.is_empty() {
        return Ok(());
    }
    let options = RpcOptions::load(config, identity.birth).map_err(|error| StartError::Cluster(error.to_string()))?;
    let address = address_of(config, config.kafka_addr, config.rpc_addr, identity.shards);
    let me = join::hello(identity, &config.seeds, &address);
    let (identity, seeds) = (identity.clone(), config.seeds.clone());
    let checked = on_executor(ShardId(0), move |env| async move {
        let rpc = Rpc::new(&env, &RpcNode::new(options));
        let checked = join::check(&env, &rpc, &identity, &me, &seeds).await;
        rpc.stop();
        Ok(checked)
    });
    checked?.wait()?.map_err(StartError::Cluster)
}

/// How other brokers and clients reach this broker.
pub(super) fn address_of(config: &NodeConfig, kafka: SocketAddr, rpc: SocketAddr, shards: u16) -> BrokerAddress {
    let (host, port) = config.advertised.clone().unwrap_or_else(|| (kafka.ip().to_string(), kafka.port()));
    let rpc = config.advertised_rpc.clone().unwrap_or_else(|| (rpc.ip().to_string(), rpc.port()));
    BrokerAddress {
        endpoints: vec![Endpoint::plain(&host, port)],
        rpc: Some(rpc),
        rack: config.rack.clone(),
        shards,
        level: CLUSTER_MAX,
    }
}

fn rpc_node(config: &NodeConfig, identity: &Identity) -> Result<RpcNode, StartError> {
    let options = RpcOptions::load(config, identity.birth).map_err(|error| StartError::Cluster(error.to_string()))?;
    let node = RpcNode::new(options);
    if identity.is_member() {
        node.set_member(RpcMember {
            cluster: identity.cluster,
            node: NodeId(identity.node),
            incarnation: ReplicaIncarnation(identity.incarnation),
            feature: 0,
        });
    }
    Ok(node)
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

/// Starts a shard on its own thread, pinned to a core.
fn spawn_shard(start: ShardStart, inboxes: Inboxes) -> Result<JoinHandle<()>, StartError> {
    let (here, status) = (start.seat.here, start.status.clone());
    let run = move || async move {
        if let Err(failure) = shard_main::run(start, inboxes).await {
            let _ = status.send(ShardStatus::Failed(failure));
        }
    };
    executor::spawn(here, run).map_err(|e| StartError::System { what: "a thread for a shard", why: e.to_string() })
}

/// Waits until every shard serves, without a limit, and logs every `patience` how many do.
/// `opened` is called when all have opened their directories.
fn await_serving(
    statuses: &flume::Receiver<ShardStatus>,
    shards: u16,
    patience: Duration,
    stage: &StartStage,
    opened: impl FnOnce(),
) -> Result<(), StartError> {
    let (mut recovered, mut serving, mut waited) = (0_u16, 0_u16, Duration::ZERO);
    let mut opened = Some(opened);
    stage.set(format!("{shards} shards read their checkpoints and journals"));
    while serving < shards {
        match statuses.recv_timeout(patience) {
            Ok(ShardStatus::Serving(_)) => serving += 1,
            Ok(ShardStatus::Recovered(shard)) => {
                recovered += 1;
                tracing::debug!(%shard, "recovered");
                if recovered < shards {
                    stage.set(format!("{recovered} of {shards} shards have read their checkpoints and journals"));
                }
                if let Some(opened) = opened.take_if(|_| recovered == shards) {
                    opened();
                }
            }
            Ok(ShardStatus::Failed(failure)) => {
                return Err(StartError::Shard { shard: failure.shard.0, why: failure.why });
            }
            Err(flume::RecvTimeoutError::Timeout) => {
                waited += patience;
                tracing::warn!(
                    ?waited,
                    shards,
                    recovered,
                    serving,
                    "the start takes long: a large journal is read, or the cluster has no quorum; it continues"
                );
            }
            Err(flume::RecvTimeoutError::Disconnected) => {
                return Err(StartError::Shard {
                    shard: serving,
                    why: "it ended while starting; see the log above".into(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::status::ShardFailure;

    fn stage() -> StartStage {
        StartStage::new("starting")
    }

    #[test]
    fn a_start_that_lasts_is_waited_for() {
        let (sender, statuses) = flume::bounded(4);
        let begun = std::cell::Cell::new(false);
        let shard = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(60));
            sender.send(ShardStatus::Recovered(ShardId(0))).expect("is heard");
            std::thread::sleep(Duration::from_millis(60));
            sender.send(ShardStatus::Serving(ShardId(0))).expect("is heard");
        });
        await_serving(&statuses, 1, Duration::from_millis(10), &stage(), || begun.set(true))
            .expect("late is not never");
        assert!(begun.get(), "all have opened their directories");
        shard.join().expect("ends");
    }

    #[test]
    fn a_start_that_failed_is_not_waited_for() {
        let (sender, statuses) = flume::bounded(4);
        let why = "its journal is damaged".to_owned();
        sender.send(ShardStatus::Failed(ShardFailure { shard: ShardId(1), why })).expect("room");
        let failed = await_serving(&statuses, 2, Duration::from_secs(9), &stage(), || {}).expect_err("it failed");
        assert!(matches!(failed, StartError::Shard { shard: 1, .. }), "{failed}");
        drop(sender);
        let ended = await_serving(&statuses, 2, Duration::from_secs(9), &stage(), || {}).expect_err("it ended");
        assert!(ended.to_string().contains("ended while starting"), "{ended}");
    }
}
