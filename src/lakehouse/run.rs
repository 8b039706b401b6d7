//! Which sinks run: one task per topic with `iceberg.mode`, on the broker that leads the lane of the topic's partition
//! 0, started and ended as the cluster's image and the leaders say.
//!
//! The committer of a table thus moves with that lane. Its fencing epoch carries the lane's term, so every later
//! committer has a greater one, and the table refuses the commits of earlier ones. Nothing is handed over: the next
//! committer goes on from the offsets that the table holds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use tidewater_iceberg::catalog::{Catalog, NamespaceIdent, ObjectStoreCatalog, RestCatalog, TableIdent};
use tidewater_iceberg::commit::orphans::SweepLock;
use tidewater_iceberg::files::TableFiles;
use tidewater_iceberg::location::Warehouse;
use tidewater_iceberg::mode::{KeyMode, TableMode};
use tidewater_iceberg::names::Names;
use tidewater_iceberg::partition::spec::PartitionChoice;
use tidewater_iceberg::registry::SchemaSource;
use tidewater_iceberg::schema::system::SystemLayout;
use tidewater_iceberg::sink::{RestoredEnds, SinkConfig};
use tidewater_iceberg::sort::choice::SortChoice;
use tidewater_storage::model::{Offset, PartitionIndex, Term, TopicId};
use tidewater_tiering::store::S3Signer;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::drive::{MaintenanceTask, SinkSettings, Stop, keep};
use super::external;
use super::left_over::LeftOver;
use super::reader::MeshReader;
use super::schemas::RegistrySchemas;
use super::states::TableStates;
use crate::archival::run::Tier;
use crate::catalog_http::{self, ServedCatalog, Signing};
use crate::config::node::ExternalCatalog;
use crate::config::topic::{self, IcebergMode};
use crate::controller::ask::ControllerRequest;
use crate::controller::image::{ClusterImage, TopicImage};
use crate::controller::leaders::Leaders;
use crate::controller::lineage::Lineage;
use crate::limits::{COMPACTIONS_AT_ONCE, TABLE_TURNS_AT_ONCE};
use crate::net::http::HttpPort;
use crate::partition::message::PartitionRequest;
use crate::replica::published::Subscriber;
use crate::replica::tables::FollowedTables;
use crate::schema_registry::SchemaRegistry;
use crate::shard::mesh::Mesh;

/// Starts the catalog's port and the sinks. Returns whether the port is served. With an external catalog the port only
/// says where that is.
///
/// # Errors
/// No table location can be made of the bucket's URL, or the external catalog's settings are not legal.
pub fn start(
    tier: &Tier,
    images: watch::Receiver<Arc<ClusterImage>>,
    sources: Subscriber,
    (partitions, controller, registry): (Mesh<PartitionRequest>, Mesh<ControllerRequest>, SchemaRegistry),
    states: TableStates,
    (side, tables): (&Handle, &Handle),
    (port, external): (HttpPort, Option<&ExternalCatalog>),
) -> Result<bool, String> {
    let prefix = tier.name.warehouse_prefix();
    let warehouse = Warehouse::new(&tier.url, &prefix).map_err(|e| e.to_string())?;
    let files = TableFiles::new(Arc::clone(&tier.store), warehouse);
    let lineage = u64::from(tier.home.epoch.0);
    let catalog: Arc<dyn Catalog> = match external {
        Some(external) => {
            let catalog = RestCatalog::new(&external::rest_settings(external), files, Names::random());
            let catalog = catalog.map_err(|error| format!("--iceberg-catalog-uri: {error}"))?;
            point_elsewhere(external.uri.clone(), side, port);
            Arc::new(catalog)
        }
        None => {
            // No configuration is sent with tables unasked: DuckDB takes an endpoint without keys for a secret of the
            // table, and prefers it to the user's own.
            let catalog = Arc::new(ObjectStoreCatalog::new(files, Names::random(), HashMap::new()));
            let followed = FollowedTables::new(images.clone(), sources);
            serve(tier, ServedCatalog::new(Arc::clone(&catalog), followed), side, port)?;
            // An external catalog may have thousands of tables of others, and is not looked through.
            let left_over = LeftOver::new(Arc::clone(&catalog), lineage);
            tables.spawn(left_over.watch(images.clone(), tier.leaders(), controller.clone(), states.clone()));
            catalog
        }
    };
    let log = Arc::new(MeshReader { images: images.clone(), partitions, away: Arc::default() });
    tables.spawn(follow(
        Sinks {
            catalog,
            schemas: Arc::new(RegistrySchemas::new(registry)),
            log,
            states,
            controller,
            lineage,
            running: HashMap::new(),
            stopping: HashSet::new(),
            tasks: JoinSet::new(),
            turns: Arc::new(Semaphore::new(TABLE_TURNS_AT_ONCE)),
            compactions: Arc::new(Semaphore::new(COMPACTIONS_AT_ONCE)),
        },
        images,
        tier.leaders(),
    ));
    Ok(true)
}

/// Serves the built-in catalog.
fn serve(tier: &Tier, served: ServedCatalog, handle: &Handle, port: HttpPort) -> Result<(), String> {
    let signer = if port.signs_for_callers() { S3Signer::open(&tier.url).map_err(|e| e.to_string())? } else { None };
    let served = match signer {
        Some(signer) => served.with_signing(Signing::new(signer, Arc::clone(&port.signs))),
        None => served,
    };
    let served = Arc::new(served);
    handle.spawn(async move {
        let tokens = port.tokens.clone();
        let served = match port.into_tokio() {
            Ok((listener, guard)) => catalog_http::serve(listener, guard, tokens, served, std::future::pending()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::error!(%error, "the catalog port is not served any more");
        }
    });
    Ok(())
}

/// Serves the port of the built-in catalog with where the external one is.
fn point_elsewhere(uri: String, handle: &Handle, port: HttpPort) {
    tracing::info!(%uri, "tables are in an external catalog; the built-in one is not served");
    handle.spawn(async move {
        let served = match port.into_tokio() {
            Ok((listener, guard)) => catalog_http::serve_elsewhere(listener, guard, &uri).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::error!(%error, "the catalog port is not served any more");
        }
    });
}

/// Where the topic's log began to go on after the cluster's restore; `None` if the topic is younger. Partitions of
/// which nothing came back are left out: the table may be all that is left of them.
fn restored_ends(lineage: &Lineage, topic: TopicId) -> Option<RestoredEnds> {
    let ends = (0..).map(PartitionIndex).zip(lineage.ends.get(&topic)?.iter().copied());
    Some(RestoredEnds { lineage: lineage.epoch, ends: ends.filter(|(_, end)| *end > Offset::ZERO).collect() })
}

/// The fencing epoch of a table's committer: the lineage epoch (high half), then a set bit and the term in which the
/// committer leads the lane of partition 0. Versions that knew one broker wrote the greatest term of all the topic's
/// lanes without that bit; no such epoch is above one of these.
fn fencing_epoch(lineage: u64, term: Term) -> u64 {
    const BY_LANE_OF_PARTITION_0: u64 = 1 << 31;
    assert!(term.0 < BY_LANE_OF_PARTITION_0 && lineage <= u64::from(u32::MAX), "term {} has 31 bits", term.0);
    (lineage << 32) | BY_LANE_OF_PARTITION_0 | term.0
}

/// The term in which this broker commits to the topic's table; `None` if it does not.
fn committing(image: &ClusterImage, leaders: &Leaders, topic: &TopicImage) -> Option<Term> {
    let leader = leaders.of(topic.partition(0)?.lane)?;
    // In its first term a lane has applied an entry before it serves: term 0 leads nothing.
    (leader.node == image.here && leader.term > Term(0)).then_some(leader.term)
}

/// What a topic's sink is made with: it is stopped, and another one started, when this changes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TableSpec {
    table: TableIdent,
    mode: TableMode,
    key: KeyMode,
    layout: SystemLayout,
    partition: PartitionChoice,
    sort: SortChoice,
    properties: BTreeMap<String, String>,
}

impl TableSpec {
    /// `None` without a table.
    fn of(topic: &TopicImage) -> Option<Self> {
        let (mode, properties) = (table_mode(topic)?, topic.config.iceberg_table_properties.clone());
        let partition = match PartitionChoice::parse(&topic.config.iceberg_partition_spec) {
            Ok(partition) => partition,
            Err(why) => unreachable!("the value of iceberg.partition.spec passed its check: {why}"),
        };
        let sort = match SortChoice::parse(&topic.config.iceberg_sort_order) {
            Ok(sort) => sort,
            Err(why) => unreachable!("the value of iceberg.sort.order passed its check: {why}"),
        };
        let layout = match topic.config.iceberg_layout {
            topic::Layout::Struct => SystemLayout::Struct,
            topic::Layout::Flat => SystemLayout::Flat,
        };
        Some(Self { table: table_of(topic), mode, key: key_mode(topic), layout, partition, sort, properties })
    }
}

/// Where a topic's table lies, or would lie.
pub(super) fn table_of(topic: &TopicImage) -> TableIdent {
    let table = topic.config.table_of(&topic.name);
    TableIdent::new(NamespaceIdent::new(table.namespace.to_owned()), table.name.to_owned())
}

/// How the records of a topic become rows; `None` without a table.
fn table_mode(topic: &TopicImage) -> Option<TableMode> {
    Some(match &topic.config.iceberg_mode {
        IcebergMode::Disabled => return None,
        IcebergMode::KeyValue => TableMode::KeyValue,
        IcebergMode::ValueSchemaIdPrefix => TableMode::ValueSchemaIdPrefix,
        IcebergMode::ValueSchemaLatest { subject } => TableMode::ValueSchemaLatest {
            subject: subject.clone().unwrap_or_else(|| format!("{}-value", topic.name)).into(),
        },
        IcebergMode::Json if topic.config.iceberg_json_schema.is_empty() => TableMode::JsonFound,
        IcebergMode::Json => TableMode::Json { schema: topic.config.iceberg_json_schema.as_str().into() },
    })
}

/// What columns the keys of a topic have.
fn key_mode(topic: &TopicImage) -> KeyMode {
    match topic.config.iceberg_key_mode {
        topic::KeyMode::Binary => KeyMode::Binary,
        topic::KeyMode::Text => KeyMode::Text,
        topic::KeyMode::SchemaIdPrefix => KeyMode::SchemaIdPrefix,
    }
}

struct Sinks {
    catalog: Arc<dyn Catalog>,
    schemas: Arc<dyn SchemaSource>,
    log: Arc<MeshReader>,
    states: TableStates,
    controller: Mesh<ControllerRequest>,
    /// The lineage epoch: the high half of the fencing epoch.
    lineage: u64,
    running: HashMap<TopicId, Sink>,
    /// Stopped, and in its last turn or dropping its table.
    stopping: HashSet<TopicId>,
    tasks: JoinSet<TopicId>,
    turns: Arc<Semaphore>,
    compactions: Arc<Semaphore>,
}

struct Sink {
    topic: Arc<TopicImage>,
    /// The term of its fencing epoch.
    term: Term,
    spec: TableSpec,
    settings: watch::Sender<SinkSettings>,
    stop: watch::Sender<Stop>,
}

async fn follow(
    mut sinks: Sinks,
    mut images: watch::Receiver<Arc<ClusterImage>>,
    mut leaders: watch::Receiver<Arc<Leaders>>,
) {
    loop {
        let (image, led) = (Arc::clone(&images.borrow_and_update()), Arc::clone(&leaders.borrow_and_update()));
        if image.revision > 0 {
            sinks.reconcile(&image, &led);
        }
        tokio::select! {
            changed = images.changed() => if changed.is_err() { return },
            changed = leaders.changed() => if changed.is_err() { return },
            Some(ended) = sinks.tasks.join_next() => if let Ok(topic) = ended { sinks.ended(topic) },
        }
    }
}

impl Sinks {
    /// Starts and stops without waiting for any of them: a turn may take minutes when the bucket is slow.
    fn reconcile(&mut self, image: &ClusterImage, leaders: &Leaders) {
        let wanted: BTreeMap<TopicId, (&Arc<TopicImage>, Term, TableSpec)> = image
            .topics
            .values()
            .filter_map(|topic| {
                // Most topics of a broker have no table, or one that another broker commits to.
                let term = committing(image, leaders, topic)?;
                Some((topic.id, (topic, term, TableSpec::of(topic)?)))
            })
            .collect();
        let is_over = |id: &TopicId, sink: &Sink| {
            wanted.get(id).is_none_or(|(_, term, spec)| *term != sink.term || *spec != sink.spec)
        };
        let over: Vec<TopicId> =
            self.running.iter().filter(|(id, sink)| is_over(id, sink)).map(|(id, _)| *id).collect();
        for id in over {
            self.stop(id, image);
        }
        for (id, (topic, term, spec)) in wanted {
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
                None => self.start(image, topic, term, spec),
            }
        }
    }

    fn start(&mut self, image: &ClusterImage, topic: &Arc<TopicImage>, term: Term, spec: TableSpec) {
        let (settings, seen) = watch::channel(SinkSettings::of(topic));
        let (stop, stopped) = watch::channel(Stop::Not);
        let epoch = fencing_epoch(self.lineage, term);
        let task = MaintenanceTask {
            config: SinkConfig {
                table: spec.table.clone(),
                mode: spec.mode.clone(),
                key: spec.key,
                layout: spec.layout,
                partition: spec.partition.clone(),
                sort: spec.sort.clone(),
                properties: spec.properties.clone(),
                restored: image.lineage.as_deref().and_then(|lineage| restored_ends(lineage, topic.id)),
                ..SinkConfig::new(image.cluster, topic.name.clone(), topic.id, epoch)
            },
            catalog: Arc::clone(&self.catalog),
            schemas: Arc::clone(&self.schemas),
            log: Arc::clone(&self.log),
            states: self.states.clone(),
            controller: self.controller.clone(),
            turns: Arc::clone(&self.turns),
            compactions: Arc::clone(&self.compactions),
            sweep_lock: SweepLock::default(),
            settings: seen,
            stopped,
        };
        self.tasks.spawn(keep(task));
        self.running.insert(topic.id, Sink { topic: Arc::clone(topic), term, spec, settings, stop });
    }

    fn stop(&mut self, id: TopicId, image: &ClusterImage) {
        let Some(sink) = self.running.remove(&id) else { return };
        let stop = match image.topic_by_id(id) {
            None if sink.topic.config.iceberg_delete => Stop::AndDrop,
            // Another broker commits from now on, or this one in a later term or with other settings. What commits to
            // another table leaves this one behind.
            Some(topic) if TableSpec::of(topic).is_some_and(|spec| spec.table == sink.spec.table) => Stop::HandOver,
            _ => Stop::Now,
        };
        sink.stop.send_replace(stop);
        self.stopping.insert(id);
    }

    fn ended(&mut self, topic: TopicId) {
        self.stopping.remove(&topic);
    }
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::{LaneId, NodeId, TimestampMs};

    use super::*;
    use crate::controller::command::Command;
    use crate::controller::image::BrokerImage;
    use crate::controller::leaders::{LaneReport, LeaderReport};
    use crate::controller::state::{ControllerState, Surroundings};

    #[test]
    fn a_partition_of_which_nothing_came_back_takes_no_rows_out_of_its_table() {
        let topic = TopicId(uuid::Uuid::from_u128(5));
        let lineage = Lineage {
            epoch: 3,
            source: 2,
            restored: TimestampMs(1),
            hold_until: None,
            epoch_base: 0,
            ends: [(topic, vec![Offset::new(4), Offset::ZERO])].into(),
        };
        let ends = [(PartitionIndex(0), Offset::new(4))].into();
        assert_eq!(restored_ends(&lineage, topic), Some(RestoredEnds { lineage: 3, ends }));
        assert_eq!(restored_ends(&lineage, TopicId(uuid::Uuid::from_u128(6))), None, "it is younger");
    }

    #[test]
    fn every_later_committer_has_a_greater_epoch_than_all_before_it() {
        // What versions before wrote: the greatest term of any lane.
        let before =
            [(1, 5), (1, 90_000), (1, (1 << 31) - 1)].map(|(lineage, term): (u64, u64)| (lineage << 32) | term);
        let epochs =
            [(1, 1), (1, 2), (1, (1 << 31) - 1), (2, 1)].map(|(lineage, term)| fencing_epoch(lineage, Term(term)));
        assert!(before.iter().all(|old| *old < epochs[0]));
        assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
        assert!(epochs.iter().all(|epoch| epoch >> 32 <= 2), "the lineage stays readable");
    }

    #[test]
    fn only_the_leader_of_the_lane_of_partition_0_commits() {
        let mut state = ControllerState::default();
        state.apply(crate::controller::plan::genesis(uuid::Uuid::from_u128(7)));
        let name = tidewater_storage::model::TopicName::new("orders").expect("legal");
        let (id, lanes) = (TopicId(uuid::Uuid::from_u128(1)), vec![LaneId(2), LaneId(1)]);
        state.apply(Command::CreateTopic { name, id, lanes, overrides: BTreeMap::new(), epoch_base: 0, copy: None });
        let broker = BrokerImage::plain(NodeId(1), "localhost", 9092);
        let around = Surroundings { cluster_name: "tidewater".to_owned(), broker, shards: 1 };
        let image = state.image(&around, None);
        let topic = image.topic("orders").expect("made");
        let mut leaders = Leaders::default();
        let mut see = |lane, node, term| {
            let leader = Some(NodeId(node));
            let lane = LaneReport { lane: LaneId(lane), term: Term(term), leader, ..LaneReport::default() };
            leaders.see(&LeaderReport { from: NodeId(node), lanes: vec![lane], full: None });
            committing(&image, &leaders, topic)
        };
        assert_eq!(see(1, 1, 9), None, "the lane of partition 1");
        assert_eq!(see(2, 1, 4), Some(Term(4)));
        assert_eq!(see(2, 2, 5), None, "it moved");
        assert_eq!(see(2, 1, 6), Some(Term(6)), "and came back with a greater epoch");
    }

    #[test]
    fn a_topic_that_names_no_table_has_the_one_of_the_crate() {
        let mut topic =
            crate::kafka::handlers::fixture::image(&[("orders", 1)]).topics.into_values().next().expect("one");
        assert_eq!(table_of(&topic), SinkConfig::default_table(&topic.name));
        assert_eq!(TableSpec::of(&topic), None, "no mode");
        let config = Arc::make_mut(&mut Arc::make_mut(&mut topic).config);
        config.iceberg_mode = IcebergMode::KeyValue;
        config.iceberg_table = "lake.o".to_owned();
        let spec = TableSpec::of(&topic).expect("a table");
        assert_eq!(spec.table, TableIdent::from_strs(["lake", "o"]).expect("legal"));
    }
}
