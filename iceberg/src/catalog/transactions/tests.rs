//! Commits to several tables against crashes at every step, against each other, and against commits to one table.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::executor::block_on;
use iceberg::NamespaceIdent;
use serde_json::json;

use super::*;
use crate::catalog::{NewTable, ReadOnlyCatalog};
use crate::files::TableFiles;
use crate::fixture::{Fault, MemoryStore};
use crate::location::Warehouse;
use crate::names::Names;

fn files(store: &MemoryStore) -> TableFiles {
    TableFiles::new(Arc::new(store.clone()), Warehouse::new("s3://bucket", "lake").expect("legal"))
}

/// A process; no two have the same seed.
fn catalog(store: &MemoryStore, seed: u64) -> ObjectStoreCatalog {
    ObjectStoreCatalog::new(files(store), Names::seeded(seed << 32), HashMap::new())
}

fn named(name: &str) -> TableIdent {
    TableIdent::from_strs(["topics", name]).expect("legal")
}

/// A bucket with the tables `a`, `b` and `c`.
async fn bucket() -> MemoryStore {
    let store = MemoryStore::default();
    let catalog = catalog(&store, 1);
    catalog.ensure_namespace(&NamespaceIdent::new("topics".to_owned())).await.expect("made");
    for name in ["a", "b", "c"] {
        let fields = json!([{"id": 1, "name": "a", "required": false, "type": "long"}]);
        let schema = json!({"type": "struct", "schema-id": 0, "fields": fields});
        let new = NewTable {
            schema: serde_json::from_value(schema).expect("a schema"),
            spec: None,
            order: None,
            location: None,
            properties: HashMap::new(),
            format: iceberg::spec::FormatVersion::V2,
        };
        catalog.create(&named(name), new).await.expect("made");
    }
    store
}

fn set(key: &str) -> Vec<TableUpdate> {
    vec![TableUpdate::SetProperties { updates: HashMap::from([(key.to_owned(), "1".to_owned())]) }]
}

fn both(key: &str) -> Vec<TableCommit> {
    ["b", "a"].map(|name| TableCommit { table: named(name), requirements: Vec::new(), updates: set(key) }).to_vec()
}

/// Keys of a table's properties, by the catalog and, which must be the same, as another cluster reads it.
async fn properties(store: &MemoryStore, name: &str) -> BTreeSet<String> {
    let keys = store.keys();
    let loaded = catalog(store, 900).load(&named(name)).await.expect("loads");
    let read = ReadOnlyCatalog::new(files(store)).load(&named(name)).await.expect("loads");
    assert_eq!(store.keys(), keys, "readers write nothing");
    assert_eq!((loaded.location, &loaded.metadata), (read.location, &read.metadata));
    loaded.metadata.properties().keys().cloned().collect()
}

fn transactions(store: &MemoryStore) -> usize {
    store.keys().iter().filter(|(key, _)| key.contains("catalog/transactions/")).count()
}

#[test]
fn all_tables_change_or_none() {
    block_on(async {
        let store = bucket().await;
        let catalog = catalog(&store, 2);
        catalog.commit_all(both("x")).await.expect("committed");
        for name in ["a", "b"] {
            assert_eq!(properties(&store, name).await, BTreeSet::from(["x".to_owned()]));
        }
        assert_eq!(transactions(&store), 0, "nothing is left of it");
        let before = store.keys();
        let mut refused = both("y");
        refused[0].requirements.push(TableRequirement::UuidMatch { uuid: Uuid::from_u128(5) });
        assert!(matches!(catalog.commit_all(refused).await, Err(CatalogError::Conflict { .. })));
        let mut missing = both("y");
        missing[0].table = named("nothing");
        assert!(matches!(catalog.commit_all(missing).await, Err(CatalogError::NoSuchTable(_))));
        let twice = both("y").into_iter().chain(both("z")).collect();
        assert!(matches!(catalog.commit_all(twice).await, Err(CatalogError::Invalid { .. })));
        let mut new = both("y");
        new[1].requirements.push(TableRequirement::NotExist);
        assert!(matches!(catalog.commit_all(new).await, Err(CatalogError::Invalid { .. })));
        assert_eq!(store.keys(), before, "no file is left of what was refused");
        catalog.commit_all(Vec::new()).await.expect("nothing to do");
    });
}

#[test]
fn a_fault_at_any_step_changes_both_tables_or_neither_and_blocks_nothing() {
    for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::Refused, Fault::LostAnswer] {
        let (mut kept, mut lost) = (0, 0);
        for step in 1.. {
            let reached = block_on(async {
                let store = bucket().await;
                let begun = store.steps();
                store.arm(begun + step, fault);
                let answer = catalog(&store, 2).commit_all(both("x")).await;
                let reached = store.steps() >= begun + step;
                store.calm();
                let (a, b) = (properties(&store, "a").await, properties(&store, "b").await);
                assert_eq!(a, b, "{fault:?} at {step}: {answer:?}");
                let happened = a.contains("x");
                if reached {
                    (kept, lost) = (kept + u64::from(happened), lost + u64::from(!happened));
                }
                match &answer {
                    Ok(()) => assert!(happened, "{fault:?} at {step}"),
                    Err(CatalogError::Unknown { .. }) => {}
                    Err(error) => assert!(!happened, "{fault:?} at {step}: {error}"),
                }
                // A writer of one table, another transaction and a rename all get through.
                catalog(&store, 3).commit(&named("b"), Vec::new(), set("single")).await.expect("committed");
                catalog(&store, 4).commit_all(both("y")).await.expect("committed");
                catalog(&store, 5).rename(&named("a"), &named("moved")).await.expect("renamed");
                let (a, mut b) = (properties(&store, "moved").await, properties(&store, "b").await);
                assert!(b.remove("single") && b.contains("y") && b.contains("x") == happened, "{b:?}");
                assert_eq!(a, b, "{fault:?} at {step}");
                reached
            });
            if !reached {
                break;
            }
        }
        assert!(kept > 0 && lost > 3, "{fault:?}: {kept} {lost}");
    }
}

#[test]
fn a_pointer_that_was_written_after_its_transaction_ended_counts_for_nothing() {
    block_on(async {
        let store = bucket().await;
        let writer = catalog(&store, 2);
        let (pointer, etag) = writer.live(&named("a")).await.expect("live");
        let next = "s3://bucket/lake/nothing.metadata.json".to_owned();
        let state = PointerState::Prepared { transaction: Uuid::from_u128(77), next };
        let late = pointer.succeeded_by(Uuid::from_u128(78), state);
        let swung = writer.swing(&named("a"), &late, PutMode::IfMatch(etag), Claim::Revision).await;
        assert!(matches!(swung, Ok(Swing::Done)));
        assert_eq!(properties(&store, "a").await, BTreeSet::new());
        writer.commit(&named("a"), Vec::new(), set("x")).await.expect("committed");
        assert_eq!(properties(&store, "a").await, BTreeSet::from(["x".to_owned()]));
    });
}

#[test]
fn racing_transactions_and_single_commits_are_never_torn_nor_lost() {
    let store = block_on(bucket());
    let writers: Vec<_> = (0..4_u64)
        .map(|n| {
            let store = store.clone();
            std::thread::spawn(move || {
                let catalog = catalog(&store, 10 + n);
                let mut acknowledged = Vec::new();
                for round in 0..15 {
                    let key = format!("tx-{n}-{round}");
                    let done = match n {
                        3 => block_on(catalog.commit(&named("b"), Vec::new(), set(&key))).map(drop),
                        _ => block_on(catalog.commit_all(both(&key))),
                    };
                    match done {
                        Ok(()) => acknowledged.push((n, key)),
                        Err(CatalogError::Conflict { .. } | CatalogError::Busy { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                acknowledged
            })
        })
        .collect();
    let acknowledged: Vec<_> = writers.into_iter().flat_map(|writer| writer.join().expect("no panic")).collect();
    assert!(acknowledged.len() > 15, "most get through: {}", acknowledged.len());
    block_on(async {
        let (a, b) = (properties(&store, "a").await, properties(&store, "b").await);
        let of = |single: bool| -> BTreeSet<String> {
            acknowledged.iter().filter(|(n, _)| (*n == 3) == single).map(|(_, key)| key.clone()).collect()
        };
        assert_eq!(a, of(false));
        assert_eq!(b, &of(false) | &of(true));
        assert_eq!(transactions(&store), 0);
    });
}
