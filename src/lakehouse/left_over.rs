//! Drops tables that should have been dropped with their topic and were not: the broker was killed in between, or the
//! bucket could not be reached.
//!
//! The property `tidewater.delete-with-topic` marks such a table. It is dropped if its topic is not in the image any
//! more. Its rows may be nowhere else, so all of this must hold: seen in two looks in a row, this cluster, this lineage
//! epoch (after a restore a topic may be missing only because the restore went back past it), under its own name. Only
//! the broker that leads the controller's lane looks: the image of another may lag behind a topic that was just made.
//! One task on the side runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidewater_iceberg::catalog::{Catalog, CatalogError, Loaded, ObjectStoreCatalog, TableIdent};
use tidewater_iceberg::commit::{TableOwner, identity};
use tidewater_iceberg::sink::is_under_own_name;
use tokio::sync::watch;
use uuid::Uuid;

use super::run::table_of;
use super::states::TableStates;
use crate::archival::leads_controller;
use crate::controller::ask::{Answered, Ask, ControllerRequest};
use crate::controller::client::CONTROLLER_SHARD;
use crate::controller::image::ClusterImage;
use crate::controller::leaders::Leaders;
use crate::shard::mesh::Mesh;

/// The first look after a start, and the second after one that found something.
const SOON: Duration = Duration::from_secs(30);
/// Between looks otherwise: each costs a listing, and two gets for every table without a running sink.
const REGULAR: Duration = Duration::from_secs(600);

/// How long the controller may take to confirm that it leads, and this broker's image to follow.
const PATIENCE: Duration = Duration::from_secs(10);

/// An image that has every topic that was there when the call began; `None` if it cannot be had now. A broker that led
/// the controller's lane and was cut off since takes topics made meanwhile for deleted ones.
async fn confirmed(
    images: &mut watch::Receiver<Arc<ClusterImage>>,
    controller: &Mesh<ControllerRequest>,
) -> Option<Arc<ClusterImage>> {
    let image = Arc::clone(&images.borrow());
    if image.lanes.is_empty() {
        return Some(image);
    }
    let ask = |reply| ControllerRequest::Ask { ask: Ask::Quorum, patience: PATIENCE, reply };
    let Ok(Ok(Answered::Quorum(quorum))) = controller.call(CONTROLLER_SHARD, ask).await else { return None };
    let image = tokio::time::timeout(PATIENCE, images.wait_for(|image| image.revision >= quorum.revision)).await;
    Some(Arc::clone(&*image.ok()?.ok()?))
}

pub(super) struct LeftOver {
    catalog: Arc<ObjectStoreCatalog>,
    lineage: u64,
    /// What the previous look found: tables with Iceberg's id.
    suspects: BTreeMap<TableIdent, Uuid>,
}

impl LeftOver {
    /// For the tables of `catalog`, as seen by a cluster of this lineage epoch.
    pub(super) fn new(catalog: Arc<ObjectStoreCatalog>, lineage: u64) -> Self {
        Self { catalog, lineage, suspects: BTreeMap::new() }
    }

    /// Looks again and again; never returns.
    pub(super) async fn watch(
        mut self,
        mut images: watch::Receiver<Arc<ClusterImage>>,
        leaders: watch::Receiver<Arc<Leaders>>,
        controller: Mesh<ControllerRequest>,
        states: TableStates,
    ) {
        let mut pause = SOON;
        loop {
            tokio::time::sleep(pause).await;
            if !leads_controller(&images.borrow(), &leaders.borrow()) {
                self.suspects.clear();
                continue;
            }
            let Some(image) = confirmed(&mut images, &controller).await else { continue };
            if let Err(error) = self.look(&image, &states).await {
                tracing::info!(%error, "tables of deleted topics could not be looked for; tried again later");
            }
            pause = if self.suspects.is_empty() { REGULAR } else { SOON };
        }
    }

    /// One look at the tables, with an image that is not older than the look; drops what it finds for the second time.
    async fn look(&mut self, image: &ClusterImage, states: &TableStates) -> Result<(), CatalogError> {
        let before = std::mem::take(&mut self.suspects);
        if image.revision == 0 {
            return Ok(());
        }
        for (table, uuid) in self.find(image, states).await? {
            if before.get(&table) != Some(&uuid) {
                self.suspects.insert(table, uuid);
                continue;
            }
            match self.catalog.drop_one(&table, Some(uuid), true).await {
                Ok(()) => tracing::info!(%table, "the table of a deleted topic is dropped"),
                Err(CatalogError::NoSuchTable(_)) => {}
                Err(error) => {
                    tracing::warn!(%table, %error, "a deleted topic's table could not be dropped, will be tried again");
                    self.suspects.insert(table, uuid);
                }
            }
        }
        Ok(())
    }

    async fn find(&self, image: &ClusterImage, states: &TableStates) -> Result<Vec<(TableIdent, Uuid)>, CatalogError> {
        let kept: BTreeSet<TableIdent> =
            image.topics.values().filter(|topic| states.is_kept(topic.id)).map(|topic| table_of(topic)).collect();
        let mut found = Vec::new();
        for table in self.tables().await? {
            if kept.contains(&table) {
                continue;
            }
            match self.catalog.load(&table).await {
                Ok(loaded) if self.is_left_over(image, &table, &loaded) => {
                    found.push((table, loaded.metadata.uuid()));
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%table, %error, "a table could not be looked at"),
            }
        }
        Ok(found)
    }

    /// All tables: a topic that is gone no longer says in which namespace its table lies.
    async fn tables(&self) -> Result<Vec<TableIdent>, CatalogError> {
        let mut tables = Vec::new();
        for namespace in self.catalog.list_namespaces(None).await? {
            match self.catalog.list_tables(&namespace).await {
                // It was dropped since.
                Err(CatalogError::NoSuchNamespace(_)) => {}
                listed => tables.extend(listed?),
            }
        }
        Ok(tables)
    }

    fn is_left_over(&self, image: &ClusterImage, table: &TableIdent, loaded: &Loaded) -> bool {
        let metadata = &loaded.metadata;
        let Some(owner) = TableOwner::of(metadata) else { return false };
        identity::goes_with_topic(metadata)
            && owner.cluster == image.cluster
            && owner.epoch >> 32 == self.lineage
            && image.topic_by_id(owner.topic).is_none()
            && is_under_own_name(table, metadata.properties())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tidewater_iceberg::catalog::{NamespaceIdent, NewTable};
    use tidewater_iceberg::files::TableFiles;
    use tidewater_iceberg::location::Warehouse;
    use tidewater_iceberg::names::Names;
    use tidewater_iceberg::schema;
    use tidewater_iceberg::sink::NAMESPACE;
    use tidewater_storage::model::{NodeId, TopicId, TopicName};
    use tidewater_tiering::store::DirectoryStore;

    use super::*;
    use crate::controller::command::Command;
    use crate::controller::image::BrokerImage;
    use crate::controller::state::{ControllerState, Surroundings};

    const CLUSTER: Uuid = Uuid::from_u128(7);
    const LINEAGE: u64 = 3;

    /// An image with topic 1, `alive`.
    fn image() -> ClusterImage {
        let mut state = ControllerState::default();
        state.apply(crate::controller::plan::genesis(CLUSTER));
        let name = TopicName::new("alive").expect("legal");
        let id = TopicId(Uuid::from_u128(1));
        state.apply(Command::CreateTopic {
            name,
            id,
            lanes: Vec::new(),
            overrides: BTreeMap::new(),
            epoch_base: 0,
            copy: None,
        });
        let broker = BrokerImage::plain(NodeId(0), "localhost", 9092);
        let around = Surroundings { cluster_name: "tidewater".to_owned(), broker, shards: 1 };
        state.image(&around, None)
    }

    #[derive(Clone, Copy)]
    struct Made<'a> {
        namespace: &'a str,
        table: &'a str,
        /// Of `tidewater.table`; empty: none, as in versions before it.
        made_as: &'a str,
        topic_name: &'a str,
        topic: u128,
        cluster: Uuid,
        lineage: u64,
        delete: &'a str,
    }

    async fn make(catalog: &ObjectStoreCatalog, made: &Made<'_>) {
        let topic = TopicId(Uuid::from_u128(made.topic));
        let owner = TableOwner { cluster: made.cluster, topic, epoch: (made.lineage << 32) | 5 };
        let mut properties = owner.properties();
        properties.insert(identity::TOPIC_NAME.to_owned(), made.topic_name.to_owned());
        properties.insert(identity::DELETE.to_owned(), made.delete.to_owned());
        if !made.made_as.is_empty() {
            properties.insert(identity::TABLE.to_owned(), made.made_as.to_owned());
        }
        let (schema, format) = (schema::table_schema().expect("legal"), iceberg::spec::FormatVersion::V2);
        let new = NewTable { schema, spec: None, order: None, location: None, properties, format };
        let namespace = NamespaceIdent::new(made.namespace.to_owned());
        catalog.ensure_namespace(&namespace).await.expect("made");
        catalog.create(&TableIdent::new(namespace, made.table.to_owned()), new).await.expect("made");
    }

    #[test]
    fn only_tables_whose_topic_is_gone_go_and_only_at_the_second_look() {
        let dir = std::env::temp_dir().join(format!("tidewater-left-over-{}", Uuid::new_v4()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("runtime");
        let store = DirectoryStore::open(dir.clone(), runtime.handle().clone()).expect("opens");
        let warehouse = Warehouse::new(&format!("file://{}", dir.display()), "tidewater/warehouse").expect("legal");
        let files = TableFiles::new(Arc::new(store), warehouse);
        let catalog = Arc::new(ObjectStoreCatalog::new(files, Names::random(), HashMap::new()));
        let left = runtime.block_on(async {
            let gone = Made {
                namespace: NAMESPACE,
                table: "gone",
                made_as: "",
                topic_name: "gone",
                topic: 2,
                cluster: CLUSTER,
                lineage: LINEAGE,
                delete: "true",
            };
            make(&catalog, &gone).await;
            make(&catalog, &Made { table: "gone~dlq", ..gone }).await;
            make(&catalog, &Made { table: "unmarked", topic_name: "unmarked", delete: "false", ..gone }).await;
            make(&catalog, &Made { table: "alive", topic_name: "alive", topic: 1, ..gone }).await;
            make(&catalog, &Made { table: "renamed", ..gone }).await;
            make(&catalog, &Made { table: "restored", topic_name: "restored", lineage: LINEAGE - 1, ..gone }).await;
            let named = Made { namespace: "lake", table: "o", made_as: "lake.o", ..gone };
            make(&catalog, &named).await;
            make(&catalog, &Made { table: "o~dlq", made_as: "lake.o~dlq", ..named }).await;
            make(&catalog, &Made { table: "moved", ..named }).await;
            make(&catalog, &Made { table: "foreign", topic_name: "foreign", cluster: Uuid::nil(), ..gone }).await;
            let (image, states) = (image(), TableStates::default());
            let mut left_over = LeftOver::new(Arc::clone(&catalog), LINEAGE);
            let mut left = Vec::new();
            for _ in 0..2 {
                left_over.look(&image, &states).await.expect("looks");
                let tables = left_over.tables().await.expect("lists");
                left.push(tables.into_iter().map(|table| table.name).collect::<BTreeSet<_>>());
            }
            left
        });
        std::fs::remove_dir_all(&dir).expect("removed");
        let kept = ["alive", "foreign", "moved", "renamed", "restored", "unmarked"].map(str::to_owned);
        let gone = ["gone", "gone~dlq", "o", "o~dlq"].map(str::to_owned);
        assert_eq!(left[0], kept.iter().chain(&gone).cloned().collect());
        assert_eq!(left[1], kept.into());
    }
}
