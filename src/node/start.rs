//! Start and stop: preflight → data directory → side runtime, admin port → cluster → bucket → sockets → shards →
//! catalog; stop in reverse. The admin port says for what the start waits, until the shards serve.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::StartError;
use super::identity::DataDir;
use super::preflight;
use super::side::Side;
use super::sockets;
use crate::admin::{self, AdminPort, StartStage};
use crate::config::node::NodeConfig;
use crate::controller::state::kafka_id;
use crate::lakehouse::{self, TableStates};
use crate::net::http::HttpPort;
use crate::net::sign_counts::SignCounts;
use crate::schema_http;

mod entry;
mod ground;
mod serving;
mod shards;

pub(super) use entry::address_of;
use ground::Ground;
use shards::Shards;

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
    /// Taken by the one that waits for them.
    signals: Option<Signals>,
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
    let mut running = start(config)?;
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
    let stage = StartStage::new("the data directory is being read");
    let admin_socket = sockets::bind("--admin-addr", config.admin_addr)?;
    let admin = admin_socket.addr();
    let admin_port = AdminPort::open(stage.clone(), sockets::http(admin_socket.listen()?, &config), &side.handle());
    let (ground, held) = Ground::prepare(config, data, side, stage)?;

    let config = &ground.config;
    let bound = match held {
        Some(bound) => bound,
        None => sockets::bind("--kafka-addr", config.kafka_addr)?,
    };
    let rpc_socket = sockets::bind_rpc(config, &ground.identity)?;
    let catalog_socket = sockets::bind("--catalog-addr", config.catalog_addr)?;
    let schema_socket = sockets::bind_schemas(config)?;
    let (kafka, catalog, schemas) = (bound.addr(), catalog_socket.addr(), schema_socket.addr());
    let address = address_of(config, kafka, rpc_socket.addr(), ground.identity.shards);
    ground.budgets.watch(config, &ground.tier, &ground.side);
    let shards = Shards::start(&ground, rpc_socket, address)?;
    shards.await_serving(&ground)?;
    // Only now: a client that gets a connection gets answers, from all shards.
    shards.open_kafka(bound.listen()?)?;

    let tables = TableStates::default();
    let signs = Arc::<SignCounts>::default();
    let services = services(&ground, &shards, &tables, &signs);
    let handle = ground.side.handle();
    schema_http::start(shards.registry.clone(), sockets::http(schema_socket.listen()?, config), &handle);
    let port = HttpPort { tokens, signs, ..sockets::http(catalog_socket.listen()?, config) };
    let with_tables = start_tables(&ground, &shards, tables, port)?;
    let catalog = with_tables.then_some(catalog);
    // Earlier, a start that waits for the bucket could not be ended by a signal.
    let signals = Signals::listen(&ground.side.handle());
    // Last: from now on the broker says that it is ready, which is true of each of its ports.
    admin_port.serve(services);
    let (shards, stops) = shards.into_threads();
    let Ground { identity, side, data, .. } = ground;
    let cluster_id = kafka_id(identity.cluster);
    Ok(Running { kafka, admin, catalog, schemas, cluster_id, shards, stops, side, signals, _data: data })
}

/// What the admin port shows and changes.
fn services(ground: &Ground, shards: &Shards, tables: &TableStates, signs: &Arc<SignCounts>) -> admin::Services {
    admin::Services {
        partitions: shards.meshes.partitions.clone(),
        groups: shards.meshes.groups.clone(),
        reports: shards.meshes.reports.clone(),
        queues: shards.meshes.queues(),
        images: shards.images.clone(),
        tier: ground.tier.clone(),
        tables: tables.clone(),
        signs: Arc::clone(signs),
        replicas: admin::Replicas { published: shards.sources.clone(), side: ground.side.handle() },
        registry: shards.registry.clone(),
    }
}

/// Starts the tables and their catalog. False: this build has none.
fn start_tables(ground: &Ground, shards: &Shards, tables: TableStates, port: HttpPort) -> Result<bool, StartError> {
    let asked = (shards.meshes.partitions.clone(), shards.meshes.controller.clone(), shards.registry.clone());
    let (images, sources) = (shards.images.clone(), shards.sources.clone());
    let port = (port, ground.config.external_catalog.as_ref());
    lakehouse::start(&ground.tier, images, sources, asked, tables, (&ground.side.handle(), &ground.side.tables()), port)
        .map_err(StartError::Tables)
}

/// SIGTERM and SIGINT. From the time they are listened to, they no longer end the process by themselves.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// `None` if the system does not let this process listen.
    fn listen(side: &Handle) -> Option<Self> {
        let _entered = side.enter();
        let (terminate, interrupt) = (signal(SignalKind::terminate()).ok()?, signal(SignalKind::interrupt()).ok()?);
        Some(Self { terminate, interrupt })
    }
}

impl Running {
    fn wait_for_signal(&mut self) {
        let signals = self.signals.take();
        self.side.handle().block_on(async {
            let Some(Signals { mut terminate, mut interrupt }) = signals else {
                tracing::error!(
                    "cannot listen for signals; stop the process with SIGKILL, nothing acknowledged is lost"
                );
                return std::future::pending().await;
            };
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
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
