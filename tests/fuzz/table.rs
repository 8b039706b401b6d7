//! Tables: JSON that engines ask of the catalog, what the catalog finds in the bucket (pointers, namespaces, metadata,
//! offsets), and batches on their way to rows.

use std::collections::HashMap;

use bytes::Bytes;
use iceberg::spec::TableMetadata;
use tidewater::net::tokens::Tokens;
use tidewater_iceberg::catalog::wire::views::{CommitView, CreateView};
use tidewater_iceberg::catalog::wire::{
    CommitTable, CommitTransaction, CreateNamespace, CreateTable, RegisterTable, RenameTable, UpdateProperties, page,
};
use tidewater_iceberg::catalog::{Catalog, NamespaceIdent, ObjectStoreCatalog, TableCommit, TableIdent};
use tidewater_iceberg::commit::offsets;
use tidewater_iceberg::files::TableFiles;
use tidewater_iceberg::location::Warehouse;
use tidewater_iceberg::names::Names;
use tidewater_iceberg::partition::Partitioner;
use tidewater_iceberg::translate::{Room, Translation};
use tidewater_storage::env::sim::World;
use tidewater_storage::model::{Offset, OffsetRange, PartitionIndex, TimestampMs};
use tidewater_tiering::store::{Faults, SimBucket};

use super::batches;
use super::target::Target;

pub(crate) fn targets() -> Vec<Target> {
    vec![
        // A simulated world and iceberg's maps of schemas and fields.
        Target::new("catalog_request", request, requests).extra(4 << 20),
        Target::new("table_metadata", metadata, metadatas).extra(4 << 20),
        Target::new("catalog_object", object, objects).extra(4 << 20),
        // A kilobyte unpacks to a megabyte of records, and those become columns that grow by doubling.
        Target::new("table_rows", rows, || {
            let seeds = batches::seeds();
            [seeds.clone(), batches::bombs(), seeds.chunks(2).map(<[_]>::concat).collect()].concat()
        })
        .mended(batches::mend)
        .extra(64 << 20),
        Target::new("table_offsets", table_offsets, || vec![br#"{"0":5,"12":9223372036854775807}"#.to_vec()]),
    ]
}

/// First byte: which request; then its body.
fn request(input: &[u8]) {
    let Some((which, body)) = input.split_first() else { return };
    match which % 9 {
        0 => {
            if let Ok(asked) = serde_json::from_slice::<CreateTable>(body) {
                let name = asked.name.clone();
                if let Ok(new) = asked.into_new() {
                    with_catalog(async |catalog| {
                        let table = TableIdent::new(namespace(), name);
                        if catalog.create(&table, new).await.is_ok() {
                            let _ = catalog.load(&table).await;
                        }
                    });
                }
            }
        }
        1 => {
            if let Ok(asked) = serde_json::from_slice::<CommitTable>(body) {
                with_catalog(async |catalog| {
                    let table = TableIdent::new(namespace(), "t".to_owned());
                    let new = serde_json::from_str::<CreateTable>(CREATE).expect("sound").into_new().expect("sound");
                    catalog.create(&table, new).await.expect("a sound table");
                    let _ = catalog.commit(&table, asked.requirements, asked.updates).await;
                    let _ = catalog.load(&table).await;
                });
            }
        }
        2 => {
            if let Ok(asked) = serde_json::from_slice::<CreateNamespace>(body) {
                with_catalog(async |catalog| {
                    let _ = catalog.create_namespace(&asked.namespace, asked.properties).await;
                    let _ = catalog.load_namespace(&asked.namespace).await;
                    let _ = catalog.list_tables(&asked.namespace).await;
                });
            }
        }
        3 => drop(serde_json::from_slice::<UpdateProperties>(body)),
        4 => drop(serde_json::from_slice::<RegisterTable>(body)),
        6 => {
            if let Ok(asked) = serde_json::from_slice::<CreateView>(body) {
                with_catalog(async |catalog| {
                    let view = TableIdent::new(namespace(), asked.name.clone());
                    if catalog.create_view(&view, asked.into_new()).await.is_ok() {
                        let _ = catalog.replace_view(&view, &[], &[]).await;
                    }
                });
            }
        }
        7 => {
            if let Ok(asked) = serde_json::from_slice::<CommitView>(body) {
                with_catalog(async |catalog| {
                    let view = make_view(&catalog).await;
                    let _ = catalog.replace_view(&view, &asked.requirements, &asked.updates).await;
                    let _ = catalog.load_view(&view).await;
                });
            }
        }
        8 => {
            if let Ok(asked) = serde_json::from_slice::<CommitTransaction>(body) {
                drop(asked.into_commits());
            }
            if let Ok(tokens) = Tokens::parse(&String::from_utf8_lossy(body)) {
                drop(tokens.issue("a", "0123456789abcdef", TimestampMs(0)));
            }
        }
        _ => {
            drop(serde_json::from_slice::<RenameTable>(body));
            let token = String::from_utf8_lossy(body);
            let items = vec!["a".to_owned(), "b".to_owned()];
            drop(page(items, Some(&token), Some(body.len()), Clone::clone));
        }
    }
}

fn namespace() -> NamespaceIdent {
    NamespaceIdent::new("topics".to_owned())
}

fn with_catalog(act: impl AsyncFnOnce(ObjectStoreCatalog)) {
    with_bucket(async |_, catalog| act(catalog).await);
}

fn with_bucket(act: impl AsyncFnOnce(SimBucket, ObjectStoreCatalog)) {
    let world = World::new(1);
    let bucket = SimBucket::new(&world.env_of(1), Faults::default());
    let files = TableFiles::new(bucket.store(), Warehouse::new("s3://bucket", "fuzz/lake").expect("legal"));
    let catalog = ObjectStoreCatalog::new(files, Names::seeded(1), HashMap::new());
    world.block_on(async {
        catalog.ensure_namespace(&namespace()).await.expect("a calm bucket");
        act(bucket, catalog).await;
    });
}

async fn make_view(catalog: &ObjectStoreCatalog) -> TableIdent {
    let asked = serde_json::from_str::<CreateView>(VIEW).expect("sound");
    let view = TableIdent::new(namespace(), asked.name.clone());
    catalog.create_view(&view, asked.into_new()).await.expect("a sound view");
    view
}

/// The namespace, pointers, a view's entry and the first metadata files, in the order of their keys.
async fn made(bucket: &SimBucket, catalog: &ObjectStoreCatalog) -> Vec<(String, Bytes)> {
    let new = serde_json::from_str::<CreateTable>(CREATE).expect("sound").into_new().expect("sound");
    catalog.create(&TableIdent::new(namespace(), "t".to_owned()), new).await.expect("a sound table");
    make_view(catalog).await;
    bucket.objects().into_iter().collect()
}

/// First byte: which of a table's objects; then what the bucket holds instead.
fn object(input: &[u8]) {
    let Some((which, content)) = input.split_first() else { return };
    with_bucket(async |bucket, catalog| {
        let objects = made(&bucket, &catalog).await;
        let (key, _) = &objects[usize::from(*which) % objects.len()];
        bucket.tamper(key, Some(Bytes::copy_from_slice(content)));
        let table = TableIdent::new(namespace(), "t".to_owned());
        let _ = catalog.load_namespace(&namespace()).await;
        let _ = catalog.list_tables(&namespace()).await;
        let _ = catalog.load(&table).await;
        let _ = catalog.commit(&table, Vec::new(), Vec::new()).await;
        let several = ["t", "v"].map(|name| TableCommit {
            table: TableIdent::new(namespace(), name.to_owned()),
            requirements: Vec::new(),
            updates: Vec::new(),
        });
        let _ = catalog.commit_all(several.to_vec()).await;
        let view = TableIdent::new(namespace(), "v".to_owned());
        let _ = catalog.list_views(&namespace()).await;
        let update = serde_json::from_str::<CommitView>(REPLACEMENT).expect("sound");
        let _ = catalog.replace_view(&view, &update.requirements, &update.updates).await;
        let _ = catalog.rename_view(&view, &TableIdent::new(namespace(), "w".to_owned())).await;
        let _ = catalog.drop_view(&view).await;
        let _ = catalog.rename(&table, &TableIdent::new(namespace(), "u".to_owned())).await;
        let _ = catalog.drop_table(&table, true).await;
    });
}

fn objects() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    with_bucket(async |bucket, catalog| {
        let objects = made(&bucket, &catalog).await;
        seeds.extend((0..).zip(objects).map(|(n, (_, body))| [&[n][..], &body].concat()));
    });
    seeds
}

fn rows(input: &[u8]) {
    let mut translation = Translation::new(Partitioner::by_hour());
    let all = OffsetRange::new(Offset::ZERO, Offset::MAX);
    let room = Room { share: 16 << 20, bytes: 16 << 20, files: 16 };
    let _ = translation.add(PartitionIndex(0), Bytes::copy_from_slice(input), all, Offset::new(1_000_000), &room);
    let _ = (translation.rows(), translation.bytes(), translation.take_rows());
}

const CREATE: &str = r#"{"name":"t","schema":{"type":"struct","schema-id":0,"fields":[
    {"id":1,"name":"a","required":false,"type":"long"},
    {"id":2,"name":"b","required":true,"type":{"type":"list","element-id":3,"element":"string","element-required":false}},
    {"id":4,"name":"c","required":false,"type":{"type":"struct","fields":[{"id":5,"name":"d","required":false,"type":"timestamptz"}]}}]},
    "partition-spec":{"spec-id":0,"fields":[{"source-id":1,"field-id":1000,"name":"p","transform":"bucket[16]"}]},
    "write-order":{"order-id":1,"fields":[{"source-id":1,"transform":"identity","direction":"asc","null-order":"nulls-first"}]},
    "stage-create":false,"properties":{"format-version":"2","k":"v"}}"#;

const VIEW: &str = r#"{"name":"v","schema":{"type":"struct","schema-id":0,"fields":[
    {"id":1,"name":"a","required":false,"type":"long"}]},"view-version":{"version-id":1,"schema-id":0,
    "timestamp-ms":1767225600001,"summary":{"engine-name":"x"},"default-namespace":["topics"],
    "representations":[{"type":"sql","sql":"select 1","dialect":"spark"}]},"properties":{"k":"v"}}"#;

const REPLACEMENT: &str = r#"{"requirements":[],"updates":[
    {"action":"set-properties","updates":{"version.history.num-entries":"2"}},
    {"action":"add-schema","schema":{"type":"struct","schema-id":1,"fields":[{"id":1,"name":"b","required":false,"type":"long"}]}},
    {"action":"add-view-version","view-version":{"version-id":2,"schema-id":-1,"timestamp-ms":1767225600002,"summary":{},
    "default-namespace":["topics"],"representations":[{"type":"sql","sql":"select 2","dialect":"spark"}]}},
    {"action":"set-current-view-version","view-version-id":-1}]}"#;

fn requests() -> Vec<Vec<u8>> {
    let commit = r#"{"identifier":{"namespace":["topics"],"name":"t"},
        "requirements":[{"type":"assert-current-schema-id","current-schema-id":0},{"type":"assert-ref-snapshot-id","ref":"main","snapshot-id":null}],
        "updates":[{"action":"set-properties","updates":{"a":"b"}},{"action":"remove-properties","removals":["k"]},
        {"action":"add-snapshot","snapshot":{"snapshot-id":5,"sequence-number":1,"timestamp-ms":1767225600001,"manifest-list":"s3://bucket/x","summary":{"operation":"append"},"schema-id":0}},
        {"action":"set-snapshot-ref","ref-name":"main","type":"branch","snapshot-id":5},
        {"action":"add-schema","schema":{"type":"struct","schema-id":1,"fields":[{"id":1,"name":"a","required":false,"type":"long"}]},"last-column-id":1},
        {"action":"set-current-schema","schema-id":-1},{"action":"add-spec","spec":{"spec-id":1,"fields":[]}},{"action":"set-default-spec","spec-id":-1},
        {"action":"upgrade-format-version","format-version":3}]}"#;
    let bodies = [
        (0, CREATE),
        (1, commit),
        (2, r#"{"namespace":["a","b"],"properties":{"owner":"me"}}"#),
        (3, r#"{"removals":["a"],"updates":{"b":"c"}}"#),
        (4, r#"{"name":"t","metadata-location":"s3://bucket/t/metadata/1.json"}"#),
        (5, r#"{"source":{"namespace":["a"],"name":"t"},"destination":{"namespace":["b"],"name":"u"}}"#),
        (6, VIEW),
        (7, REPLACEMENT),
        (8, &format!(r#"{{"table-changes":[{commit}]}}"#)),
        (8, "# who\ntoken a 0123456789abcdef\nclient b 0123456789abcdef"),
    ];
    bodies.map(|(which, body)| [&[which][..], body.as_bytes()].concat()).to_vec()
}

fn metadata(input: &[u8]) {
    let Ok(metadata) = serde_json::from_slice::<TableMetadata>(input) else { return };
    let table = TableIdent::new(namespace(), "t".to_owned());
    let _ = offsets::of(&table, &metadata);
    let _ = offsets::append_id(&metadata);
    let _ = offsets::skipped(&metadata);
    let _ = offsets::lineage(&metadata).count();
}

fn metadatas() -> Vec<Vec<u8>> {
    let snapshot = |id: i64, parent: &str| {
        format!(
            r#"{{"snapshot-id":{id},{parent}"sequence-number":{id},"timestamp-ms":{},"manifest-list":"s3://bucket/m{id}",
            "summary":{{"operation":"append","tidewater.append":"x","other":"{id}"}},"schema-id":0}}"#,
            1_767_225_600_000_i64 + id
        )
    };
    let text = format!(
        r#"{{"format-version":2,"table-uuid":"00000000-0000-0000-0000-000000000007","location":"s3://bucket/t","last-sequence-number":2,
        "last-updated-ms":1767225600009,"last-column-id":1,"schemas":[{{"type":"struct","schema-id":0,"fields":[{{"id":1,"name":"a","required":false,"type":"long"}}]}}],
        "current-schema-id":0,"partition-specs":[{{"spec-id":0,"fields":[]}}],"default-spec-id":0,"last-partition-id":999,
        "properties":{{"tidewater.offsets":"{{\"0\":5}}","tidewater.skipped.offsets":"3"}},"current-snapshot-id":2,
        "snapshots":[{},{}],"snapshot-log":[],"metadata-log":[],"sort-orders":[{{"order-id":0,"fields":[]}}],"default-sort-order-id":0,
        "refs":{{"main":{{"snapshot-id":2,"type":"branch"}}}}}}"#,
        snapshot(1, ""),
        snapshot(2, "\"parent-snapshot-id\":1,")
    );
    vec![text.into_bytes()]
}

fn table_offsets(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some(read) = offsets::decode(text) {
        assert_eq!(offsets::decode(&offsets::encode(&read)), Some(read));
    }
}
