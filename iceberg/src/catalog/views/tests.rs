//! Views beside tables, and what a crash at any step leaves of them.

use futures::executor::block_on;
use iceberg::NamespaceIdent;
use serde_json::json;

use super::*;
use crate::catalog::{Catalog, NewTable};
use crate::fixture::{Fault, World};

fn space() -> NamespaceIdent {
    NamespaceIdent::new("topics".to_owned())
}

fn named(name: &str) -> TableIdent {
    TableIdent::new(space(), name.to_owned())
}

fn schema() -> Schema {
    let fields = json!([{"id": 1, "name": "a", "required": false, "type": "long"}]);
    serde_json::from_value(json!({"type": "struct", "schema-id": 0, "fields": fields})).expect("a schema")
}

fn version(sql: &str) -> ViewVersion {
    serde_json::from_value(json!({
        "version-id": 1, "schema-id": 0, "timestamp-ms": 1_760_000_000_000_i64, "summary": {},
        "representations": [{"type": "sql", "sql": sql, "dialect": "spark"}], "default-namespace": ["topics"],
    }))
    .expect("a version")
}

fn new_view(sql: &str) -> NewView {
    NewView { schema: schema(), version: version(sql), location: None, properties: HashMap::new() }
}

fn new_table() -> NewTable {
    NewTable {
        schema: schema(),
        spec: None,
        order: None,
        location: None,
        properties: HashMap::new(),
        format: iceberg::spec::FormatVersion::V2,
    }
}

fn replacement(sql: &str) -> Vec<ViewUpdate> {
    let added = json!({"action": "add-view-version", "view-version": version(sql)});
    let current = json!({"action": "set-current-view-version", "view-version-id": -1});
    [added, current].map(|update| serde_json::from_value(update).expect("an update")).to_vec()
}

/// The query of a view; `None` if there is no such view.
async fn query(catalog: &ObjectStoreCatalog, name: &str) -> Option<String> {
    match catalog.load_view(&named(name)).await {
        Ok(loaded) => {
            let metadata = parse(&loaded).expect("is whole");
            let iceberg::spec::ViewRepresentation::Sql(sql) =
                metadata.current_version().representations().iter().next().expect("has a query");
            Some(sql.sql.clone())
        }
        Err(CatalogError::NoSuchView(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

async fn world(seed: u64) -> (World, ObjectStoreCatalog) {
    let world = World::new(seed);
    let catalog = ObjectStoreCatalog::clone(&world.catalog());
    catalog.ensure_namespace(&space()).await.expect("made");
    (world, catalog)
}

fn catalog_keys(world: &World) -> Vec<String> {
    world.store.keys().into_iter().map(|(key, _)| key).filter(|key| key.contains("catalog/")).collect()
}

#[test]
fn a_view_lives_beside_tables_and_leaves_nothing_in_the_catalog() {
    block_on(async {
        let (world, catalog) = world(1).await;
        catalog.create(&named("orders"), new_table()).await.expect("made");
        let made = catalog.create_view(&named("v"), new_view("select 1")).await.expect("made");
        assert_eq!(catalog.load_view(&named("v")).await.expect("loads").metadata, made.metadata);
        assert_eq!(catalog.list_tables(&space()).await.expect("lists"), [named("orders")]);
        assert_eq!(catalog.list_views(&space()).await.expect("lists"), [named("v")]);
        assert!(!catalog.table_exists(&named("v")).await.expect("looks"));
        assert!(!catalog.view_exists(&named("orders")).await.expect("looks"));
        assert!(matches!(catalog.load(&named("v")).await, Err(CatalogError::NoSuchTable(_))));
        assert!(matches!(catalog.drop_table(&named("v"), true).await, Err(CatalogError::NoSuchTable(_))));
        assert!(matches!(catalog.drop_view(&named("orders")).await, Err(CatalogError::NoSuchView(_))));

        let uuid = parse(&made).expect("parses").uuid();
        let mine = [ViewRequirement::UuidMatch { uuid }];
        catalog.replace_view(&named("v"), &mine, &replacement("select 2")).await.expect("replaced");
        assert_eq!(query(&catalog, "v").await.as_deref(), Some("select 2"));
        let strange = [ViewRequirement::UuidMatch { uuid: Uuid::from_u128(9) }];
        let refused = catalog.replace_view(&named("v"), &strange, &replacement("select 3")).await;
        assert!(matches!(refused, Err(CatalogError::Conflict { .. })), "{refused:?}");

        catalog.rename_view(&named("v"), &named("w")).await.expect("renamed");
        assert_eq!(catalog.list_views(&space()).await.expect("lists"), [named("w")]);
        assert!(matches!(catalog.drop_namespace(&space()).await, Err(CatalogError::NamespaceNotEmpty(_))));
        let location = catalog.load_view(&named("w")).await.expect("loads").location;
        catalog.drop_view(&named("w")).await.expect("dropped");
        catalog.register_view(&named("again"), &location).await.expect("registered");
        assert_eq!(query(&catalog, "again").await.as_deref(), Some("select 2"));
        catalog.drop_view(&named("again")).await.expect("dropped");
        catalog.drop_table(&named("orders"), true).await.expect("dropped");
        assert_eq!(catalog_keys(&world), ["lake/catalog/namespaces/topics.json"]);
    });
}

#[test]
fn a_table_and_a_view_never_share_a_name() {
    block_on(async {
        let (_world, catalog) = world(2).await;
        catalog.create(&named("t"), new_table()).await.expect("made");
        catalog.create_view(&named("v"), new_view("select 1")).await.expect("made");
        let text = |error: CatalogError| error.to_string();
        let refused = catalog.create_view(&named("t"), new_view("select 1")).await.map(drop).map_err(text);
        assert_eq!(refused, Err("Table with same name already exists: topics.t".to_owned()));
        let refused = catalog.create(&named("v"), new_table()).await.map(drop).map_err(text);
        assert_eq!(refused, Err("View with same name already exists: topics.v".to_owned()));
        let refused = catalog.rename(&named("t"), &named("v")).await.map_err(text);
        assert_eq!(refused, Err("Cannot rename topics.t to topics.v. View already exists".to_owned()));
        let refused = catalog.rename_view(&named("v"), &named("t")).await.map_err(text);
        assert_eq!(refused, Err("Cannot rename topics.v to topics.t. Table already exists".to_owned()));
        let location = catalog.load(&named("t")).await.expect("loads").location.expect("is written");
        let refused = catalog.register(&named("v"), &location).await.map(drop).map_err(text);
        assert_eq!(refused, Err("View with same name already exists: topics.v".to_owned()));
        // Of two requests that both saw the name free, one gets it.
        let both = named("both");
        let (table, view) =
            futures::join!(catalog.create(&both, new_table()), catalog.create_view(&both, new_view("select 1")));
        assert!(table.is_ok() != view.is_ok(), "{table:?} {view:?}");
    });
}

/// One fault at every step of `act`: after it the view's query is one of `wanted`, and the list of views says the same.
fn with_every_fault(
    seed: u64,
    act: impl AsyncFn(&ObjectStoreCatalog) -> Result<(), CatalogError>,
    wanted: &[&[(&str, Option<&str>)]],
) {
    for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::Refused, Fault::LostAnswer] {
        for step in 1.. {
            let done = block_on(async {
                let (world, catalog) = world(seed).await;
                catalog.create_view(&named("old"), new_view("select 1")).await.expect("made");
                let begun = world.store.steps();
                world.store.arm(begun + step, fault);
                let answer = act(&catalog).await;
                let reached = world.store.steps() >= begun + step;
                world.store.calm();
                let mut found = Vec::new();
                for (name, _) in wanted[0] {
                    found.push((*name, query(&catalog, name).await));
                }
                let seen: Vec<_> = found.iter().map(|(name, query)| (*name, query.as_deref())).collect();
                assert!(wanted.contains(&seen.as_slice()), "{fault:?} at {step}: {seen:?} after {answer:?}");
                if answer.is_ok() {
                    assert_eq!(seen.as_slice(), wanted[wanted.len() - 1], "{fault:?} at {step}");
                }
                let mut names: Vec<_> =
                    seen.iter().filter(|(_, query)| query.is_some()).map(|(name, _)| named(name)).collect();
                names.sort();
                assert_eq!(catalog.list_views(&space()).await.expect("lists"), names, "{fault:?} at {step}");
                assert_eq!(catalog.list_tables(&space()).await.expect("lists"), [], "{fault:?} at {step}");
                !reached
            });
            if done {
                assert!(step > 3, "there were steps");
                break;
            }
        }
    }
}

#[test]
fn a_crash_at_any_step_leaves_the_old_view_or_the_new_one() {
    with_every_fault(
        3,
        async |catalog| catalog.create_view(&named("new"), new_view("select 2")).await.map(drop),
        &[&[("new", None), ("old", Some("select 1"))], &[("new", Some("select 2")), ("old", Some("select 1"))]],
    );
    with_every_fault(
        4,
        async |catalog| catalog.replace_view(&named("old"), &[], &replacement("select 2")).await.map(drop),
        &[&[("old", Some("select 1"))], &[("old", Some("select 2"))]],
    );
    with_every_fault(
        5,
        async |catalog| catalog.rename_view(&named("old"), &named("new")).await,
        &[&[("old", Some("select 1")), ("new", None)], &[("old", None), ("new", Some("select 1"))]],
    );
    with_every_fault(
        6,
        async |catalog| catalog.drop_view(&named("old")).await,
        &[&[("old", Some("select 1"))], &[("old", None)]],
    );
}
