//! Tables that are partitioned by columns of their values or keys: each row lies in the partition of its columns, each
//! record is in one of the two tables, once.

use std::collections::BTreeSet;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use iceberg::spec::{Literal, ManifestList, PrimitiveLiteral, PrimitiveType, TableMetadata, Transform};
use iceberg::transform::create_transform_function;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidewater_storage::model::Offset;
use tidewater_storage::model::record::Record;
use tidewater_tiering::verify::Findings;

use super::*;
use crate::columns::fixture::cell;
use crate::compact::Compactor;
use crate::mode::KeyMode;
use crate::partition::{Folder, wanted};
use crate::sink::{RewindAsk, RewindTo};
use crate::verify::verify;

fn typed(seed: u64, spec: &str) -> World {
    let partition = PartitionChoice::parse(spec).expect("a spec");
    let world = World { partition, ..World::typed(seed) };
    register_all(&world.registry);
    world
}

async fn metadata(world: &World) -> TableMetadata {
    (*world.catalog().load(&world.table()).await.expect("loads").metadata).clone()
}

/// Name and transform of each field of a table's default spec.
fn fields(metadata: &TableMetadata) -> Vec<(String, String)> {
    let fields = metadata.default_partition_spec().fields().iter();
    fields.map(|field| (field.name.clone(), field.transform.to_string())).collect()
}

/// The column with a field id, through structs; `None` if the file lacks it.
fn column(batch: &RecordBatch, id: i32) -> Option<ArrayRef> {
    fn find(fields: &arrow::datatypes::Fields, columns: &[ArrayRef], id: &str) -> Option<ArrayRef> {
        fields.iter().zip(columns).find_map(|(field, column)| match column.as_struct_opt() {
            _ if field.metadata().get(PARQUET_FIELD_ID_META_KEY).is_some_and(|held| held == id) => Some(column.clone()),
            Some(inner) => find(inner.fields(), inner.columns(), id),
            None => None,
        })
    }
    find(batch.schema_ref().fields(), batch.columns(), &id.to_string())
}

/// What Iceberg's own functions make of a column.
fn transformed(transform: Transform, column: &ArrayRef) -> Vec<Cell> {
    let made = create_transform_function(&transform).and_then(|it| it.transform(column.clone())).expect("fits");
    (0..made.len()).map(|row| cell(&made, row)).collect()
}

fn literal(value: Option<&Literal>) -> Cell {
    match value {
        None => Cell::Null,
        Some(Literal::Primitive(PrimitiveLiteral::Boolean(value))) => Cell::Bool(*value),
        Some(Literal::Primitive(PrimitiveLiteral::Int(value))) => Cell::Int((*value).into()),
        Some(Literal::Primitive(PrimitiveLiteral::Long(value))) => Cell::Int((*value).into()),
        Some(Literal::Primitive(PrimitiveLiteral::String(value))) => Cell::Text(value.clone()),
        other => panic!("{other:?}"),
    }
}

/// Checks that each row is in the partition of its columns. Returns the partitions of the files of the default spec.
async fn check_partitions(world: &World) -> Vec<Vec<Cell>> {
    let (metadata, files) = (metadata(world).await, world.catalog().files());
    let list = files.read(metadata.current_snapshot().expect("one").manifest_list()).await.expect("reads");
    let list = ManifestList::parse_with_version(&list, metadata.format_version()).expect("parses");
    let mut partitions = Vec::new();
    for manifest in list.entries() {
        let spec = metadata.partition_spec_by_id(manifest.partition_spec_id).expect("a spec");
        for entry in manifest.load_manifest(&files.io()).await.expect("reads").entries() {
            if !entry.is_alive() {
                continue;
            }
            let values: Vec<Cell> = entry.data_file().partition().iter().map(literal).collect();
            if spec.spec_id() == metadata.default_partition_spec_id() {
                partitions.push(values.clone());
            }
            let body = files.read(entry.file_path()).await.expect("reads");
            let reader = ParquetRecordBatchReaderBuilder::try_new(body).and_then(|it| it.build()).expect("parquet");
            for batch in reader {
                let batch = batch.expect("reads");
                for (field, value) in spec.fields().iter().zip(&values) {
                    let rows = match column(&batch, field.source_id) {
                        Some(column) => transformed(field.transform, &column),
                        None => vec![Cell::Null; batch.num_rows()],
                    };
                    assert!(rows.iter().all(|row| row == value), "{}: {value:?} has {rows:?}", field.name);
                }
            }
        }
    }
    partitions
}

async fn check_whole(world: &World) {
    let mut findings = Findings::default();
    verify(world.catalog().files(), false, &mut findings).await.expect("lists");
    assert_eq!((findings.damage.len(), findings.unread.len()), (0, 0), "{findings:#?}");
}

async fn compact(world: &World, seed: u64) -> crate::compact::Run {
    let config = world.config(1);
    let owner = TableOwner { cluster: config.cluster, topic: config.topic_id, epoch: 1 };
    let bounds = Bounds { compact_quiet_ms: 0, compact_files: 2, ..Bounds::default() };
    let mut compactor = Compactor::new(world.catalog(), config.table, owner, Names::seeded(seed << 32), bounds);
    compactor.run(tidewater_storage::env::clock::wall(), |_| {}).await.expect("runs")
}

#[test]
fn rows_lie_in_the_partitions_of_their_columns_before_and_after_compaction_and_a_rewind() {
    block_on(async {
        for (seed, spec) in [
            "(customer)",
            "(tidewater.partition, bucket(3, id), truncate(10, customer))",
            "(truncate(4, id), paid)",
            "(bucket(2, note), flag)",
        ]
        .into_iter()
        .enumerate()
        {
            let mut world = typed(730 + seed as u64, spec);
            let mut produced = Produced::default();
            let mut sink = world.sink(1);
            for round in 0..6 {
                for partition in 0..2 {
                    let at = NOW.plus_ms(round * 24 * 3_600_000);
                    produced.append(&world, partition, &[1, 2, 0, 9, 3, 5, 8, 4, 4, 2], at);
                    drain(&mut sink, NOW).await;
                }
            }
            produced.check_with(&world, spec, &|_, fate| matches!(fate, letters::Fate::Dead)).await;
            let before = check_partitions(&world).await;
            assert!(!before.is_empty(), "{spec}");
            check_whole(&world).await;
            let of = |files: &[Vec<Cell>]| files.iter().map(|values| format!("{values:?}")).collect::<BTreeSet<_>>();
            let run = compact(&world, seed as u64 + 900).await;
            assert_eq!((&run.obstacle, run.left.len()), (&None, 0), "{spec}");
            let after = check_partitions(&world).await;
            assert!(run.files_in > run.files_out && run.files_out > 0, "{spec}: {run:?}");
            assert_eq!(of(&after), of(&before), "{spec}");
            produced.check(&world, spec).await;
            check_whole(&world).await;
            // Files of which some rows stay are written again in their partitions.
            let offsets = [(0, 23), (1, 31)].map(|(at, next)| (PartitionIndex(at), Offset::new(next)));
            let ask = RewindAsk { to: RewindTo::Offsets(offsets.into()), is_plan: false, is_forced: false };
            sink.rewind(&ask, NOW).await.expect("taken back");
            check_partitions(&world).await;
            drain(&mut sink, NOW).await;
            check_partitions(&world).await;
            produced.check(&world, spec).await;
            check_whole(&world).await;
        }
    });
}

#[test]
fn the_spec_comes_with_the_columns_and_keeps_them_when_they_are_renamed() {
    block_on(async {
        let mut world = typed(740, "(day(tidewater.timestamp), customer, bucket(8, Paid), month(id), note)");
        let mut produced = Produced::default();
        let mut sink = world.sink(1);
        let day = ("tidewater_day".to_owned(), "day".to_owned());
        produced.append(&world, 0, &[0, 9], NOW);
        drain(&mut sink, NOW).await;
        assert_eq!(fields(&metadata(&world).await), std::slice::from_ref(&day), "there are no columns yet");
        let lacking = wanted::lacking(&metadata(&world).await).expect("all of them");
        assert!(lacking.starts_with("the table has no column customer yet; the table has no column Paid"), "{lacking}");
        produced.append(&world, 0, &[1, 1], NOW);
        drain(&mut sink, NOW).await;
        let customer = ("customer".to_owned(), "identity".to_owned());
        assert_eq!(fields(&metadata(&world).await), [day.clone(), customer]);
        let lacking = sink.status().partition_spec.clone().expect("two of them");
        assert!(lacking.contains("no column note yet") && lacking.contains("column id is long, of which"), "{lacking}");
        // `customer` becomes `client` in the commit that brings `paid`, by which no bucket can be.
        produced.append(&world, 0, &[4, 2, 4], NOW);
        drain(&mut sink, NOW).await;
        let of = |name: &str| (name.to_owned(), "identity".to_owned());
        assert_eq!(fields(&metadata(&world).await), [day, of("client"), of("note")]);
        let property = metadata(&world).await.properties()[wanted::PROPERTY].clone();
        assert_eq!(property, "(day(tidewater.timestamp), client, bucket(8, paid), month(id), note)");
        assert!(sink.status().partition_spec.as_ref().is_some_and(|why| why.contains("column paid is boolean")));
        check_partitions(&world).await;
        // Another spec is its owner's choice from then on.
        let spec = iceberg::spec::UnboundPartitionSpec::builder().add_partition_field(12, "id", Transform::Identity);
        let updates = vec![
            TableUpdate::AddSpec { spec: spec.expect("legal").build() },
            TableUpdate::SetDefaultSpec { spec_id: -1 },
        ];
        world.catalog().commit(&world.table(), Vec::new(), updates).await.expect("commits");
        produced.append(&world, 0, &[5, 3, 8, 1], NOW);
        drain(&mut world.sink(2), NOW).await;
        assert_eq!(fields(&metadata(&world).await), [("id".to_owned(), "identity".to_owned())]);
        assert_eq!(wanted::lacking(&metadata(&world).await), None);
        assert_eq!(check_partitions(&world).await.len(), 4, "each has another id");
        produced.check(&world, "columns came").await;
    });
}

#[test]
fn a_column_of_the_spec_keeps_its_type() {
    block_on(async {
        let mut world = typed(741, "(bucket(4, amount))");
        let mut produced = Produced::default();
        produced.append(&world, 0, &[1, 3, 1, 4], NOW);
        drain(&mut world.sink(1), NOW).await;
        let dead = dead_rows(&world).await;
        assert_eq!(dead.keys().collect::<Vec<_>>(), [&(0, 1), &(0, 3)], "int would have to become long");
        assert!(dead.values().all(|(_, why, _)| why.contains("column amount is int; the schema has long there")));
        // Without the spec it does.
        let mut world = typed(742, "(bucket(4, id))");
        let mut produced = Produced::default();
        produced.append(&world, 0, &[1, 3, 1, 4], NOW);
        drain(&mut world.sink(1), NOW).await;
        produced.check(&world, "grows").await;
    });
}

#[test]
fn a_column_of_the_spec_may_be_widened_by_its_owner() {
    block_on(async {
        for (seed, spec) in
            ["(amount)", "(truncate(4, amount), customer)", "(bucket(2, amount))"].into_iter().enumerate()
        {
            let mut world = typed(750 + seed as u64, spec);
            let mut produced = Produced::default();
            let mut sink = world.sink(1);
            for _ in 0..4 {
                produced.append(&world, 0, &[1, 2, 0], NOW);
                drain(&mut sink, NOW).await;
            }
            let before = metadata(&world).await;
            let fields = before.current_schema().as_struct().fields().iter().map(|field| {
                let kind = Type::Primitive(PrimitiveType::Long);
                let is_amount = field.name == "amount";
                if is_amount { NestedField::optional(field.id, "amount", kind).into() } else { field.clone() }
            });
            let schema = Schema::builder().with_fields(fields).build().expect("a schema");
            let merged = [("commit.manifest.min-count-to-merge".to_owned(), "2".to_owned())];
            let updates = vec![
                TableUpdate::AddSchema { schema },
                TableUpdate::SetCurrentSchema { schema_id: -1 },
                TableUpdate::SetProperties { updates: merged.into() },
            ];
            world.catalog().commit(&world.table(), Vec::new(), updates).await.expect("commits");
            let mut sink = world.sink(1);
            for _ in 0..4 {
                produced.append(&world, 0, &[1, 3, 2, 4], NOW);
                drain(&mut sink, NOW).await;
            }
            produced.check(&world, spec).await;
            check_partitions(&world).await;
            let run = compact(&world, seed as u64 + 950).await;
            assert_eq!((&run.obstacle, run.left.len()), (&None, 0), "{spec}: {run:?}");
            produced.check(&world, spec).await;
            check_partitions(&world).await;
            check_whole(&world).await;
        }
    });
}

#[test]
fn a_rewind_takes_back_rows_of_a_spec_whose_column_is_gone() {
    block_on(async {
        let mut world = typed(755, "(customer)");
        append_customers(&world, &["a", "a", "a", "c"]);
        drain(&mut world.sink(1), NOW).await;
        // Its owner partitions by hour, and then drops the column.
        let spec = crate::schema::hour_spec().expect("a spec");
        let updates = vec![TableUpdate::AddSpec { spec }, TableUpdate::SetDefaultSpec { spec_id: -1 }];
        world.catalog().commit(&world.table(), Vec::new(), updates).await.expect("commits");
        let before = metadata(&world).await;
        let others = before.current_schema().as_struct().fields().iter().filter(|field| field.name != "customer");
        let schema = Schema::builder().with_fields(others.cloned()).build().expect("a schema");
        let updates = vec![TableUpdate::AddSchema { schema }, TableUpdate::SetCurrentSchema { schema_id: -1 }];
        world.catalog().commit(&world.table(), Vec::new(), updates).await.expect("commits");
        append_customers(&world, &["b", "b"]);
        let mut sink = world.sink(2);
        drain(&mut sink, NOW).await;
        let offsets = [(PartitionIndex(0), Offset::new(3))].into();
        let ask = RewindAsk { to: RewindTo::Offsets(offsets), is_plan: false, is_forced: false };
        let done = sink.rewind(&ask, NOW).await.expect("taken back");
        assert_eq!((done.leaving.rows, typed_rows(&world).await.len()), (3, 3));
        drain(&mut sink, NOW).await;
        assert_eq!(typed_rows(&world).await.len(), 6);
        check_whole(&world).await;
    });
}

/// Appends records of schema 1 with these customers.
fn append_customers(world: &World, customers: &[&str]) {
    let value = |text: &str| {
        let length = u32::try_from(text.len()).expect("small") * 2;
        let mut varint = Vec::new();
        let mut left = length;
        while left >= 0x80 {
            varint.push(left as u8 | 0x80);
            left >>= 7;
        }
        varint.push(left as u8);
        framed(1, &[&[2][..], &varint, text.as_bytes(), &[4]].concat())
    };
    let records = customers.iter().map(|text| Record::new(NOW, None, Some(value(text))));
    world.log.append_records(0, records.collect::<Vec<_>>());
}

#[test]
fn text_that_is_too_long_for_metadata_makes_a_dead_letter() {
    block_on(async {
        let mut world = typed(743, "(customer)");
        let (fits, long) = ("ä".repeat(64), "x".repeat(129));
        append_customers(&world, &["a", &fits, &long, "a", ""]);
        let mut sink = world.sink(1);
        drain(&mut sink, NOW).await;
        let dead = dead_rows(&world).await;
        let [(at, (_, why, schema))] = &dead.iter().collect::<Vec<_>>()[..] else { panic!("{dead:?}") };
        assert_eq!((*at, *schema), (&(0, 2), Some(1)));
        assert_eq!(
            why,
            "column customer has 129 bytes; the table is partitioned by it as it is, and takes at most 128"
        );
        assert_eq!((typed_rows(&world).await.len(), check_partitions(&world).await.len()), (4, 3));
        // Of a key: the reason says so, and names no schema of the value.
        let mut world = World { key: KeyMode::Text, ..typed(751, "(key)") };
        world.log.append_record(0, Record::new(NOW, Some(long.clone().into()), Some(framed(1, &[2, 2, b'a', 4]))));
        drain(&mut world.sink(1), NOW).await;
        let (_, why, schema) = &dead_rows(&world).await[&(0, 0)];
        assert!(why.starts_with("key: column key has 129 bytes") && schema.is_none(), "{why} {schema:?}");
        // Cut, it may have any length.
        let mut world = typed(744, "(truncate(4, customer))");
        append_customers(&world, &["a", &fits, &long]);
        drain(&mut world.sink(1), NOW).await;
        assert_eq!((typed_rows(&world).await.len(), check_partitions(&world).await.len()), (3, 3));
    });
}

#[test]
fn a_spec_that_scatters_rows_makes_the_table_rest_and_loses_nothing() {
    block_on(async {
        let mut world = typed(745, "(id)");
        let mut produced = Produced::default();
        for _ in 0..10 {
            produced.append(&world, 0, &[1; 30], NOW);
        }
        let mut sink = world.sink_with(SinkConfig { turn_files: 16, ..world.config(1) });
        let (mut turns, mut rests) = (0, 0);
        loop {
            assert!(turns + rests < 100, "never idle");
            match sink.run_once(NOW).await {
                Outcome::Idle => break,
                Outcome::Committed { files, .. } => {
                    assert!(files <= 16, "{files} files");
                    turns += 1;
                }
                Outcome::Paused(PauseReason::Unfit { detail, .. }) => {
                    assert!(detail.contains("the last commit had 16 rows in 16 files"), "{detail}");
                    rests += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(turns >= 300 / 16 && rests >= turns - 5, "{turns} turns, {rests} rests");
        produced.check(&world, "scattered").await;
        check_partitions(&world).await;
    });
}

#[test]
fn a_table_can_be_partitioned_by_a_column_of_keys() {
    block_on(async {
        for (seed, mode) in [TableMode::KeyValue, TableMode::ValueSchemaIdPrefix].into_iter().enumerate() {
            let mut world = typed(746 + seed as u64, "(truncate(1, key), tidewater.partition)");
            (world.mode, world.key) = (mode, KeyMode::Text);
            for partition in 0..2 {
                let keys = ["a", "b", "abc", "ä"].map(|key| Record::new(NOW, Some(key.into()), None));
                world.log.append_records(partition, keys.into_iter().chain([Record::new(NOW, None, None)]));
            }
            drain(&mut world.sink(1), NOW).await;
            let text = |key: &str| Cell::Text(key.to_owned());
            let mut expected: Vec<_> = (0..2)
                .flat_map(|partition| {
                    [Cell::Null, text("a"), text("b"), text("ä")].map(|key| vec![key, Cell::Int(partition)])
                })
                .collect();
            let mut found = check_partitions(&world).await;
            let by = |values: &Vec<Cell>| format!("{values:?}");
            found.sort_by_key(by);
            expected.sort_by_key(by);
            assert_eq!(found, expected);
            // Without columns of keys, that of the table is null.
            world.key = KeyMode::Binary;
            world.log.append_records(0, [Record::new(NOW, Some("a".into()), None)]);
            drain(&mut world.sink(2), NOW).await;
            let nulls = check_partitions(&world).await.into_iter().filter(|values| values[0] == Cell::Null).count();
            assert_eq!(nulls, 3);
        }
    });
}

#[test]
fn many_faults_neither_double_nor_lose_in_tables_by_columns_of_values() {
    for seed in 0..24 {
        let mut world = typed(seed * 1000, "(bucket(2, id), customer)");
        world.store.arm_random(seed, 5 + seed % 100);
        run_typed(&mut world, &format!("seed {seed}"), fill_typed);
        block_on(check_partitions(&world));
    }
}

#[test]
fn however_little_a_turn_may_hold_partitions_by_values_lose_nothing() {
    block_on(async {
        for seed in 0..8 {
            let mut world = typed(800 + seed, "(truncate(9, customer), bucket(2, id))");
            let mut produced = Produced::default();
            produced.append(&world, 0, &[1], NOW);
            drain(&mut world.sink(1), NOW).await;
            let mut random = Random::new(seed);
            for _ in 0..12 {
                produced.append_random(&world, &mut random, 6, NOW);
            }
            let mut config = world.config(2);
            config.turn_bytes = 3_000 + 2_000 * usize::try_from(seed).expect("small");
            config.turn_files = 1 + random.below(4);
            let most = config.turn_files;
            let mut sink = world.sink_with(config);
            for turn in 0.. {
                assert!(turn < 1_000, "never idle: {:?}", sink.status());
                match sink.run_once(NOW).await {
                    Outcome::Idle => break,
                    Outcome::Committed { files, .. } => assert!(files <= most, "{files} files"),
                    Outcome::Paused(PauseReason::Unfit { .. }) => {}
                    other => panic!("{other:?}"),
                }
            }
            produced.check(&world, &format!("seed {seed}")).await;
            let names = world.store.keys().into_iter().filter(|(key, _)| key.ends_with(".parquet"));
            let folders = names.filter_map(|(key, _)| Folder::parse(key.rsplit('/').nth(1)?));
            assert!(folders.count() > 0);
            check_partitions(&world).await;
        }
    });
}
