//! Races over a table's pointer: lost answers while others rename, commit, drop and create.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::executor::block_on;
use iceberg::spec::{Snapshot, SnapshotReference, SnapshotRetention};
use tidewater_storage::env::clock::wall;
use tidewater_tiering::store::meddler::Meddler;
use tidewater_tiering::store::{Head, ObjectKey, ObjectStore, PutDone, PutMode, StoreError};

use super::*;
use crate::fixture::{MemoryStore, World};
use crate::location::Warehouse;
use crate::names::Names;

const NOW: tidewater_storage::model::TimestampMs = tidewater_storage::model::TimestampMs(1_760_000_000_000);

type Deed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What another client does while a request is under way, once.
#[derive(Default)]
struct Meanwhile(Mutex<Option<(&'static str, Deed)>>);

impl Meanwhile {
    fn take(&self, moment: &str) -> Option<Deed> {
        let mut held = self.0.lock().expect("no panic before");
        if held.as_ref().is_some_and(|(wanted, _)| *wanted == moment) {
            held.take().map(|(_, deed)| deed)
        } else {
            None
        }
    }
}

/// The bucket as one process sees it. `lost put`: a pointer's put lands, others act, the answer is lost. `look`: others
/// act right before a pointer is looked at for the last time, to be deleted.
struct Interrupted {
    inner: MemoryStore,
    meanwhile: Arc<Meanwhile>,
}

impl std::fmt::Debug for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interrupted").finish_non_exhaustive()
    }
}

fn is_pointer(key: &ObjectKey) -> bool {
    key.as_str().contains("catalog/tables/")
}

#[async_trait]
impl Meddler for Interrupted {
    fn below(&self) -> &dyn ObjectStore {
        &self.inner
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        let done = self.inner.put(key, body, mode).await;
        match is_pointer(key).then(|| self.meanwhile.take("lost put")).flatten() {
            Some(deed) => {
                deed.await;
                Err(StoreError::Unavailable { key: key.to_string(), detail: "lost".to_owned() })
            }
            None => done,
        }
    }

    async fn head(&self, key: &ObjectKey) -> Result<Head, StoreError> {
        if let Some(deed) = is_pointer(key).then(|| self.meanwhile.take("look")).flatten() {
            deed.await;
        }
        self.inner.head(key).await
    }
}

/// A catalog whose requests are interrupted at `moment` by `deed`.
fn interrupted(
    world: &World,
    moment: &'static str,
    deed: impl Future<Output = ()> + Send + 'static,
) -> ObjectStoreCatalog {
    let meanwhile = Arc::new(Meanwhile(Mutex::new(Some((moment, Box::pin(deed))))));
    let store = Interrupted { inner: world.store.clone(), meanwhile };
    let warehouse = Warehouse::new("s3://bucket", "lake").expect("legal");
    ObjectStoreCatalog::new(TableFiles::new(Arc::new(store).over(), warehouse), Names::seeded(99), HashMap::new())
}

fn named(name: &str) -> TableIdent {
    TableIdent::from_strs(["topics", name]).expect("legal")
}

fn set(key: &str, value: &str) -> Vec<TableUpdate> {
    vec![TableUpdate::SetProperties { updates: HashMap::from([(key.to_owned(), value.to_owned())]) }]
}

/// A world with the table `topics.orders`, with rows.
async fn world_with_a_table(seed: u64) -> World {
    let mut world = World::new(seed);
    world.log.append(0, 3, NOW);
    let mut sink = world.sink(1);
    sink.run_once(NOW).await;
    world
}

#[test]
fn a_commit_that_landed_survives_a_rename_before_its_answer() {
    block_on(async {
        for (seed, back) in [(1, false), (2, true)] {
            let world = world_with_a_table(seed).await;
            let others = world.catalog();
            let catalog = interrupted(&world, "lost put", async move {
                others.rename(&named("orders"), &named("moved")).await.expect("renamed");
                if back {
                    others.rename(&named("moved"), &named("orders")).await.expect("renamed back");
                }
            });
            let done = catalog.commit(&named("orders"), Vec::new(), set("a", "b")).await;
            if back {
                done.expect("it is there under its own name");
            } else {
                assert!(matches!(done, Err(CatalogError::Unknown { .. })), "{done:?}");
            }
            let table = world.catalog().load(&named(if back { "orders" } else { "moved" })).await.expect("loads");
            assert_eq!(table.metadata.properties().get("a").map(String::as_str), Some("b"));
        }
    });
}

#[test]
fn a_commit_that_others_built_on_beyond_the_log_is_not_called_lost() {
    block_on(async {
        let world = world_with_a_table(3).await;
        let others = world.catalog();
        others
            .commit(&named("orders"), Vec::new(), set("write.metadata.previous-versions-max", "1"))
            .await
            .expect("set");
        let catalog = interrupted(&world, "lost put", async move {
            for n in 0..3 {
                others.commit(&named("orders"), Vec::new(), set("n", &n.to_string())).await.expect("committed");
            }
        });
        let done = catalog.commit(&named("orders"), Vec::new(), set("a", "b")).await;
        assert!(matches!(done, Err(CatalogError::Unknown { .. })), "{done:?}");
    });
}

#[test]
fn a_drop_and_a_rename_never_delete_a_later_table_of_the_name() {
    block_on(async {
        for (seed, renames) in [(4, false), (5, true)] {
            let mut world = world_with_a_table(seed).await;
            let others = world.catalog();
            world.seed += 100;
            let mut maker = world.sink(1);
            let catalog = interrupted(&world, "look", async move {
                if !renames {
                    others.drop_table(&named("orders"), true).await.expect("dropped");
                } else if others.table_exists(&named("orders")).await.expect("finishes the move") {
                    return;
                }
                maker.run_once(NOW).await;
            });
            let done = if renames {
                catalog.rename(&named("orders"), &named("moved")).await
            } else {
                catalog.drop_table(&named("orders"), true).await
            };
            assert_eq!(done.is_ok(), renames, "{done:?}");
            assert_eq!(world.rows().await, world.expected(), "the new table is whole");
        }
    });
}

#[test]
fn a_drop_takes_what_was_committed_meanwhile_with_it() {
    block_on(async {
        let world = world_with_a_table(6).await;
        let others = world.catalog();
        let catalog = interrupted(&world, "look", async move {
            others.commit(&named("orders"), Vec::new(), set("a", "b")).await.expect("committed");
        });
        catalog.drop_table(&named("orders"), true).await.expect("dropped");
        let left: Vec<_> = world.store.keys().into_iter().map(|(key, _)| key).collect();
        assert_eq!(left, ["lake/catalog/namespaces/topics.json"]);
    });
}

/// As an engine sends it.
fn updates(json: serde_json::Value) -> Vec<TableUpdate> {
    let asked: wire::CommitTable = serde_json::from_value(serde_json::json!({ "updates": json })).expect("is known");
    asked.updates
}

#[test]
fn engines_may_remove_schemas_that_nothing_uses() {
    block_on(async {
        let mut world = World::new(90);
        world.log.append(0, 1, tidewater_storage::model::TimestampMs(1));
        world.sink(1).run_once(tidewater_storage::model::TimestampMs(1)).await;
        let (catalog, table) = (world.catalog(), world.table());
        let first = catalog.load(&table).await.expect("loads").metadata.current_schema().clone();
        for name in ["a", "b"] {
            let field = iceberg::spec::NestedField::optional(
                100,
                name,
                iceberg::spec::Type::Primitive(iceberg::spec::PrimitiveType::Long),
            );
            let fields = first.as_struct().fields().iter().cloned().chain([Arc::new(field)]);
            let schema = Schema::builder().with_fields(fields).build().expect("legal");
            let change = serde_json::json!([
                {"action": "add-schema", "schema": schema},
                {"action": "set-current-schema", "schema-id": -1},
            ]);
            catalog.commit(&table, Vec::new(), updates(change)).await.expect("changed");
        }
        let remove = |id: i32| updates(serde_json::json!([{"action": "remove-schemas", "schema-ids": [id]}]));
        for (id, part) in [(0, "is that of snapshot"), (2, "current schema")] {
            let refused = catalog.commit(&table, Vec::new(), remove(id)).await.expect_err("is in use");
            let text = refused.to_string();
            assert!(matches!(refused, CatalogError::Invalid { .. }) && text.contains(part), "{text}");
        }
        let after = catalog.commit(&table, Vec::new(), remove(1)).await.expect("removed").metadata;
        let mut left: Vec<i32> = after.schemas_iter().map(|schema| schema.schema_id()).collect();
        left.sort_unstable();
        assert_eq!(left, [0, 2]);
    });
}

/// A snapshot of a branch is in no log whose order the builder checks.
#[test]
fn a_change_after_one_of_a_clock_far_ahead_waits_and_leaves_the_table_readable() {
    block_on(async {
        let mut world = World::new(31);
        world.log.append(0, 3, NOW);
        world.sink(1).run_once(NOW).await;
        let (catalog, table) = (world.catalog(), world.table());
        let base = catalog.load(&table).await.expect("loads").metadata;
        let main = base.current_snapshot().expect("committed");
        let snapshot = Snapshot::builder()
            .with_snapshot_id(77)
            .with_parent_snapshot_id(Some(main.snapshot_id()))
            .with_sequence_number(base.next_sequence_number())
            .with_timestamp_ms(wall().plus_ms(3_600_000).0)
            .with_manifest_list(main.manifest_list())
            .with_summary(main.summary().clone())
            .with_schema_id(base.current_schema_id())
            .build();
        let reference = SnapshotReference::new(77, SnapshotRetention::branch(None, None, None));
        let branch = TableUpdate::SetSnapshotRef { ref_name: "audit".to_owned(), reference };
        let updates = vec![TableUpdate::AddSnapshot { snapshot }, branch];
        catalog.commit(&table, Vec::new(), updates).await.expect("committed");
        let updates = HashMap::from([("owner".to_owned(), "me".to_owned())]);
        let set = vec![TableUpdate::SetProperties { updates }];
        let waits = catalog.commit(&table, Vec::new(), set).await.expect_err("is refused for now");
        assert!(matches!(waits, CatalogError::Busy { .. }) && waits.to_string().contains("clock"), "{waits}");
        // As another process reads it.
        assert!(world.catalog().load(&table).await.expect("is readable").metadata.snapshot_by_id(77).is_some());
        // Commits with a snapshot are stamped no earlier than the last one.
        world.log.append(0, 2, NOW);
        world.sink(2).run_once(NOW).await;
        assert_eq!(world.rows().await, world.expected());
    });
}
