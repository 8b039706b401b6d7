//! Which sinks run: one task per topic with `iceberg.mode`, started and stopped as the cluster's image says.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use tidewater_iceberg::catalog::ObjectStoreCatalog;
use tidewater_iceberg::files::TableFiles;
use tidewater_iceberg::location::Warehouse;
use tidewater_iceberg::names::Names;
use tidewater_iceberg::sink::SinkConfig;
use tidewater_storage::model::TopicId;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::drive::{MaintenanceTask, SinkSettings, Stop, keep};
use super::left_over::LeftOver;
use super::reader::MeshReader;
use super::states::TableStates;
use crate::archival::run::Tier;
use crate::catalog_http;
use crate::config::topic::IcebergMode;
use crate::controller::image::{ClusterImage, TopicImage};
use crate::limits::TABLE_TURNS_AT_ONCE;
use crate::net::http::HttpPort;
use crate::partition::message::PartitionRequest;
use crate::shard::mesh::Mesh;

/// Starts the catalog's port and the sinks. Returns whether the port is served.
///
/// # Errors
/// No table location can be made of the bucket's URL.
pub fn start(
    tier: &Tier,
    images: watch::Receiver<Arc<ClusterImage>>,
    partitions: Mesh<PartitionRequest>,
    states: TableStates,
    handle: &Handle,
    port: HttpPort,
) -> Result<bool, String> {
    let prefix = tier.name.warehouse_prefix();
    let warehouse = Warehouse::new(&tier.url, &prefix).map_err(|e| e.to_string())?;
    let files = TableFiles::new(Arc::clone(&tier.store), warehouse);
    // No configuration is sent with tables: DuckDB takes an endpoint without keys for a secret of the table, and
    // prefers it to the user's own.
    let catalog = Arc::new(ObjectStoreCatalog::new(files, Names::random(), HashMap::new()));
    let served = Arc::clone(&catalog);
    handle.spawn(async move {
        let served = match port.into_tokio() {
            Ok((listener, guard)) => catalog_http::serve(listener, guard, served, std::future::pending()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::error!(%error, "the catalog port is not served any more");
        }
    });
    let log = Arc::new(MeshReader { images: images.clone(), partitions });
    let lineage = u64::from(tier.home.epoch.0);
    handle.spawn(LeftOver::new(Arc::clone(&catalog), lineage).watch(images.clone(), states.clone()));
    handle.spawn(follow(
        Sinks {
            catalog,
            log,
            states,
            lineage,
            running: HashMap::new(),
            stopping: HashSet::new(),
            tasks: JoinSet::new(),
            turns: Arc::new(Semaphore::new(TABLE_TURNS_AT_ONCE)),
        },
        images,
    ));
    Ok(true)
}

struct Sinks {
    catalog: Arc<ObjectStoreCatalog>,
    log: Arc<MeshReader>,
    states: TableStates,
    /// The lineage epoch: the high half of the fencing epoch.
    lineage: u64,
    running: HashMap<TopicId, Sink>,
    /// Stopped, and in its last turn or dropping its table.
    stopping: HashSet<TopicId>,
    tasks: JoinSet<TopicId>,
    turns: Arc<Semaphore>,
}

struct Sink {
    topic: Arc<TopicImage>,
    settings: watch::Sender<SinkSettings>,
    stop: watch::Sender<Stop>,
}

async fn follow(mut sinks: Sinks, mut images: watch::Receiver<Arc<ClusterImage>>) {
    loop {
        let image = Arc::clone(&images.borrow_and_update());
        if image.revision > 0 {
            sinks.reconcile(&image);
        }
        tokio::select! {
            changed = images.changed() => if changed.is_err() { return },
            Some(ended) = sinks.tasks.join_next() => if let Ok(topic) = ended { sinks.ended(topic) },
        }
    }
}

impl Sinks {
    /// Starts and stops without waiting for any of them: a turn may take minutes when the bucket is slow.
    fn reconcile(&mut self, image: &ClusterImage) {
        let wanted: BTreeMap<TopicId, &Arc<TopicImage>> = image
            .topics
            .values()
            .filter(|topic| topic.config.iceberg_mode == IcebergMode::KeyValue)
            .map(|topic| (topic.id, topic))
            .collect();
        let gone: Vec<TopicId> = self.running.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        for id in gone {
            self.stop(id, image);
        }
        for (id, topic) in wanted {
            match self.running.get_mut(&id) {
                Some(sink) => {
                    // An idle sink sleeps: only a change that concerns it wakes it.
                    let settings = SinkSettings::of(topic);
                    let grown = sink.topic.partitions.len() != topic.partitions.len();
                    sink.settings.send_if_modified(|held| std::mem::replace(held, settings) != settings || grown);
                    sink.topic = Arc::clone(topic);
                }
                // `ended` brings us here again.
                None if self.stopping.contains(&id) => {}
                // After a start of the broker, an image may come before its lanes are led. A fencing epoch made of that
                // would be lower than the one in the table, and the table would be paused until the next start.
                None if topic.partitions.iter().any(|p| p.leader_epoch.0 < 1) => {}
                None => self.start(image, topic),
            }
        }
    }

    fn start(&mut self, image: &ClusterImage, topic: &Arc<TopicImage>) {
        // The lane's term grows with every start of the broker, the lineage epoch with every restore; so does this.
        let term = topic.partitions.iter().map(|p| p.leader_epoch.0.max(0) as u64).max().unwrap_or_default();
        let (settings, seen) = watch::channel(SinkSettings::of(topic));
        let (stop, stopped) = watch::channel(Stop::Not);
        let task = MaintenanceTask {
            config: SinkConfig::new(image.cluster, topic.name.clone(), topic.id, (self.lineage << 32) | term),
            catalog: Arc::clone(&self.catalog),
            log: Arc::clone(&self.log),
            states: self.states.clone(),
            turns: Arc::clone(&self.turns),
            settings: seen,
            stopped,
        };
        self.tasks.spawn(keep(task));
        self.running.insert(topic.id, Sink { topic: Arc::clone(topic), settings, stop });
    }

    fn stop(&mut self, id: TopicId, image: &ClusterImage) {
        let Some(sink) = self.running.remove(&id) else { return };
        let deleted = image.topic_by_id(id).is_none();
        let drops = deleted && sink.topic.config.iceberg_delete;
        sink.stop.send_replace(if drops { Stop::AndDrop } else { Stop::Now });
        self.stopping.insert(id);
    }

    fn ended(&mut self, topic: TopicId) {
        self.stopping.remove(&topic);
    }
}
