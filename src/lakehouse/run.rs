//! Which sinks run: one task per topic with `iceberg.mode`, started and stopped as the cluster's image says.

use std::collections::{BTreeMap, HashMap};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tidewater_iceberg::catalog::ObjectStoreCatalog;
use tidewater_iceberg::files::TableFiles;
use tidewater_iceberg::location::Warehouse;
use tidewater_iceberg::names::Names;
use tidewater_iceberg::sink::{Outcome, SinkConfig, SinkStatus, TableSink};
use tidewater_storage::model::{Offset, TimestampMs, TopicId};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::reader::MeshReader;
use super::states::{TableState, TableStates};
use crate::archival::run::Tier;
use crate::catalog_http;
use crate::config::topic::IcebergMode;
use crate::controller::image::{ClusterImage, TopicImage};
use crate::limits::TABLE_TURNS_AT_ONCE;
use crate::partition::message::PartitionRequest;
use crate::shard::mesh::Mesh;

/// How long a sink whose topic has grown gives the archive before it looks again.
const IDLE_LOOK: Duration = Duration::from_millis(500);
/// A sink whose topic does not grow looks again after this long all the same: its table may have been changed by others.
const QUIET_LOOK: Duration = Duration::from_secs(600);
/// First and longest pause after a failed turn.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How often a paused sink looks whether somebody has cleared the way.
const PAUSED_LOOK: Duration = Duration::from_secs(10);

/// Starts the catalog's port and the sinks. True: the port is served.
///
/// # Errors
/// The bucket's URL is none that a table location can be made of.
pub fn start(
    tier: &Tier,
    images: watch::Receiver<Arc<ClusterImage>>,
    partitions: Mesh<PartitionRequest>,
    states: TableStates,
    handle: &Handle,
    socket: TcpListener,
) -> Result<bool, String> {
    let prefix = tier.name.warehouse_prefix();
    let warehouse = Warehouse::new(&tier.url, &prefix).map_err(|e| e.to_string())?;
    let files = TableFiles::new(Arc::clone(&tier.store), warehouse);
    // Nothing is handed out with tables: DuckDB takes an endpoint without keys for a secret of the table and lets it
    // shadow the user's own.
    let catalog = Arc::new(ObjectStoreCatalog::new(files, Names::random(), HashMap::new()));
    let served = Arc::clone(&catalog);
    handle.spawn(async move {
        let listener = socket.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(socket));
        let served = match listener {
            Ok(listener) => catalog_http::serve(listener, served, std::future::pending()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::error!(%error, "the catalog port is not served any more");
        }
    });
    let log = Arc::new(MeshReader { images: images.clone(), partitions });
    let lineage = u64::from(tier.home.epoch.0);
    handle.spawn(follow(
        Sinks {
            catalog,
            log,
            states,
            lineage,
            running: HashMap::new(),
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
    turns: Arc<Semaphore>,
}

struct Sink {
    topic: Arc<TopicImage>,
    lag: watch::Sender<u64>,
    task: JoinHandle<TableSink>,
    stop: watch::Sender<bool>,
}

async fn follow(mut sinks: Sinks, mut images: watch::Receiver<Arc<ClusterImage>>) {
    loop {
        let image = Arc::clone(&images.borrow_and_update());
        if image.revision > 0 {
            sinks.reconcile(&image).await;
        }
        if images.changed().await.is_err() {
            return;
        }
    }
}

impl Sinks {
    async fn reconcile(&mut self, image: &ClusterImage) {
        let wanted: BTreeMap<TopicId, &Arc<TopicImage>> = image
            .topics
            .values()
            .filter(|topic| topic.config.iceberg_mode == IcebergMode::KeyValue)
            .map(|topic| (topic.id, topic))
            .collect();
        let gone: Vec<TopicId> = self.running.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        for id in gone {
            self.stop(id, image).await;
        }
        for (id, topic) in wanted {
            match self.running.get_mut(&id) {
                Some(sink) => {
                    // A sink that is left alone sleeps: only what concerns it wakes it.
                    let lag = topic.config.iceberg_target_lag_ms;
                    let grown = sink.topic.partitions.len() != topic.partitions.len();
                    sink.lag.send_if_modified(|held| std::mem::replace(held, lag) != lag || grown);
                    sink.topic = Arc::clone(topic);
                }
                // After a start of the broker, an image may come before its lanes are led. A fence made of that would be
                // lower than the one in the table, and the table would stand still until the next start.
                None if topic.partitions.iter().any(|p| p.leader_epoch.0 < 1) => {}
                None => self.start(image, topic),
            }
        }
    }

    fn start(&mut self, image: &ClusterImage, topic: &Arc<TopicImage>) {
        // The lane's term grows with every start of the broker, the lineage epoch with every restore; so does the fence.
        let term = topic.partitions.iter().map(|p| p.leader_epoch.0.max(0) as u64).max().unwrap_or_default();
        let config = SinkConfig::new(image.cluster, topic.name.clone(), topic.id, (self.lineage << 32) | term);
        let sink = TableSink::new(config, Arc::clone(&self.catalog) as _, Arc::clone(&self.log) as _, Names::random());
        let (lag, lag_seen) = watch::channel(topic.config.iceberg_target_lag_ms);
        let (stop, stopped) = watch::channel(false);
        let growth = Growth { log: Arc::clone(&self.log), topic: topic.id };
        let turns = Arc::clone(&self.turns);
        let task = tokio::spawn(drive(sink, growth, self.states.clone(), turns, lag_seen, stopped));
        self.running.insert(topic.id, Sink { topic: Arc::clone(topic), lag, task, stop });
    }

    async fn stop(&mut self, id: TopicId, image: &ClusterImage) {
        let Some(sink) = self.running.remove(&id) else { return };
        sink.stop.send_replace(true);
        let Ok(mut ended) = sink.task.await else { return };
        self.states.remove(id);
        let deleted = image.topic_by_id(id).is_none();
        if deleted
            && sink.topic.config.iceberg_delete
            && let Err(error) = ended.drop_table().await
        {
            tracing::warn!(topic = %sink.topic.name, %error, "the table of a deleted topic could not be deleted; drop it by hand");
        }
    }
}

/// Turns of one sink until it is told to stop.
async fn drive(
    mut sink: TableSink,
    growth: Growth,
    states: TableStates,
    turns: Arc<Semaphore>,
    mut lag: watch::Receiver<u64>,
    mut stopped: watch::Receiver<bool>,
) -> TableSink {
    let mut backoff = BACKOFF.0;
    let mut unreadable = 0;
    while !*stopped.borrow() {
        sink.set_target_lag_ms(i64::try_from(*lag.borrow_and_update()).unwrap_or(i64::MAX));
        let now = wall();
        let outcome = {
            let _turn = turns.acquire().await;
            sink.run_once(now).await
        };
        states.set(growth.topic, state_of(sink.status()));
        let bad = &sink.status().unreadable;
        if bad.len() > unreadable {
            tracing::warn!(table = %sink.status().table, partitions = ?bad, "partitions of a table could not be brought up to date, will be tried again");
        }
        unreadable = bad.len();
        let pause = match &outcome {
            Outcome::Idle => IDLE_LOOK,
            Outcome::Wait { until } => Duration::from_millis(u64::try_from(until.since_ms(now)).unwrap_or_default()),
            Outcome::Committed { more: true, .. } | Outcome::Again => Duration::ZERO,
            Outcome::Committed { .. } => IDLE_LOOK,
            Outcome::Paused(reason) => {
                tracing::warn!(table = %sink.status().table, %reason, "a table stands still");
                PAUSED_LOOK
            }
            Outcome::Failed(error) => {
                tracing::warn!(table = %sink.status().table, %error, ?backoff, "a table could not be brought up to date, will be tried again");
                backoff
            }
        };
        backoff = if matches!(outcome, Outcome::Failed(_)) { (backoff * 2).min(BACKOFF.1) } else { BACKOFF.0 };
        let quiet = matches!(outcome, Outcome::Idle).then(|| growth.past(sink.status()));
        let rest = async move {
            if let Some(grown) = quiet {
                grown.await;
            }
            tokio::time::sleep(pause).await;
        };
        tokio::select! {
            () = rest => {}
            _ = stopped.changed() => {}
            _ = lag.changed() => {}
        }
    }
    sink
}

/// Tells a sink that its topic has grown: until then it does nothing.
struct Growth {
    log: Arc<MeshReader>,
    topic: TopicId,
}

impl Growth {
    /// Waits until there is a record past what the table has, archived or not.
    fn past(&self, status: &SinkStatus) -> impl Future<Output = ()> + use<> {
        let at: BTreeMap<i32, Offset> = status.partitions.iter().map(|(n, held)| (n.0, held.table)).collect();
        let (log, topic) = (Arc::clone(&self.log), self.topic);
        async move { log.grown(topic, &at, QUIET_LOOK).await }
    }
}

fn state_of(status: &SinkStatus) -> TableState {
    let mut skipped: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for range in &status.skipped {
        let text = format!("[{}, {}): {}", range.start, range.end, range.reason);
        skipped.entry(range.partition).or_default().push(text);
    }
    TableState {
        table: status.table.to_string(),
        partitions: status.partitions.iter().map(|(n, p)| (n.0, (p.table.get(), p.lag))).collect(),
        skipped,
        unreadable: status.unreadable.iter().map(|(n, why)| (n.0, why.clone())).collect(),
        paused: status.paused.as_ref().map(ToString::to_string).or_else(|| status.error.clone()),
        rows: status.rows,
        commits: status.commits,
    }
}

/// The side runtime's wall clock: sinks take the time as an argument, this is where it comes from.
#[allow(clippy::disallowed_methods, reason = "outside the shards")]
fn wall() -> TimestampMs {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    TimestampMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
