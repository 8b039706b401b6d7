//! Tables whose system columns are at the top level: ids, rows, partitions, compaction and returns are the same as in a
//! struct.

use arrow::array::AsArray;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidewater_storage::model::Offset;
use tidewater_storage::model::record::{Record, RecordHeader};

use super::*;
use crate::audit;
use crate::compact::Compactor;
use crate::mode::TableMode;
use crate::partition::spec::PartitionChoice;
use crate::sink::status::PauseReason;
use crate::sink::{RewindAsk, RewindTo};

fn flat(world: &World, epoch: u64) -> SinkConfig {
    SinkConfig { layout: SystemLayout::Flat, ..world.config(epoch) }
}

async fn columns(world: &World, table: &TableIdent) -> Vec<(i32, String, String)> {
    let loaded = world.catalog().load(table).await.expect("loads");
    let fields = loaded.metadata.current_schema().as_struct().fields().to_vec();
    fields.iter().map(|field| (field.id, field.name.clone(), field.field_type.to_string())).collect()
}

/// Frozen: FORMAT.md.
const SYSTEM: [(i32, &str, &str); 6] = [
    (3, "tidewater_partition", "int"),
    (4, "tidewater_offset", "long"),
    (5, "tidewater_timestamp", "timestamptz"),
    (6, "tidewater_timestamp_type", "int"),
    (7, "tidewater_headers", "string"),
    (8, "tidewater_key", "binary"),
];

fn with(others: &[(i32, &str, &str)]) -> Vec<(i32, String, String)> {
    let all = SYSTEM.iter().chain(others);
    all.map(|(id, name, kind)| (*id, (*name).to_owned(), (*kind).to_owned())).collect()
}

#[test]
fn rows_are_the_same_and_only_the_paths_differ() {
    block_on(async {
        let mut world = World::new(901);
        fill(&world);
        let mut sink = world.sink_with(flat(&world, 1));
        drain(&mut sink, NOW).await;
        assert_eq!(columns(&world, &world.table()).await, with(&[(2, "value", "binary")]));
        assert_eq!(world.rows().await, world.expected());
        let loaded = world.catalog().load(&world.table()).await.expect("loads");
        assert!(SystemColumns::of(&loaded.metadata).is_by_hour(loaded.metadata.default_partition_spec()));
        let (catalog, table, mut audited) = (world.catalog(), world.table(), Vec::new());
        let read = audit::read(&*catalog, &table, |row| audited.push((row.partition, row.offset)));
        assert_eq!(read.await.expect("reads").rows, world.expected().len() as u64);
        // Another process, after compaction.
        let owner = TableOwner { cluster: world.cluster, topic: world.topic, epoch: 1 };
        let config = world.config(1);
        let mut compactor =
            Compactor::new(world.catalog(), config.table, owner, Names::seeded(600 << 32), config.bounds);
        let later = tidewater_storage::env::clock::wall().plus_ms(7_200_000);
        for n in 0..6 {
            world.log.append(0, 2 + n, NOW);
            drain(&mut world.sink_with(flat(&world, 1)), NOW).await;
        }
        let run = compactor.run(later, |_| {}).await.expect("runs");
        assert!(run.files_in > run.files_out && run.left.is_empty(), "{run:?}");
        assert_eq!(world.rows().await, world.expected(), "compacted");
        // Into the middle of a compacted file.
        let to = [(PartitionIndex(0), Offset::new(30))].into();
        let ask = RewindAsk { to: RewindTo::Offsets(to), is_plan: false, is_forced: false };
        let mut sink = world.sink_with(flat(&world, 2));
        let done = sink.rewind(&ask, NOW).await.expect("goes back");
        assert_eq!(done.leaving.rows, world.log.ends()[&0] - 30);
        assert_eq!(world.rows().await.iter().filter(|row| row.0 == 0).count(), 30);
        drain(&mut sink, NOW).await;
        assert_eq!(world.rows().await, world.expected(), "filled again");
    });
}

#[test]
fn headers_are_text_and_dead_letters_are_flat_too() {
    block_on(async {
        let mut world = World { mode: TableMode::JsonFound, ..World::new(902) };
        let header = |key: &'static str, value: Option<&'static [u8]>| RecordHeader {
            key: Bytes::from_static(key.as_bytes()),
            value: value.map(Bytes::from_static),
        };
        let mut record = Record::new(NOW, None, Some(Bytes::from_static(br#"{"amount":7,"tidewater_offset":"mine"}"#)));
        record.headers = vec![header("trace", Some(b"abc")), header("raw", Some(&[0xff]))];
        world.log.append_records(0, [record, Record::new(NOW, None, Some(Bytes::from_static(b"no json")))]);
        let mut config = flat(&world, 1);
        config.partition = PartitionChoice::parse("(tidewater.partition)").expect("legal");
        let dead = dead_letter_table(&config.table);
        drain(&mut world.sink_with(config), NOW).await;
        let own = [(12, "amount", "long"), (13, "tidewater_offset_1", "string")];
        let mut found = columns(&world, &world.table()).await;
        let (system, others) = (found.drain(..6).collect::<Vec<_>>(), found);
        assert_eq!(system, with(&[]));
        for (id, name, kind) in own {
            assert!(others.contains(&(id, name.to_owned(), kind.to_owned())), "{name}: {others:?}");
        }
        let letters = [(2, "value", "binary"), (12, "reason", "string"), (13, "schema_id", "int")];
        assert_eq!(columns(&world, &dead).await, with(&letters));
        let loaded = world.catalog().load(&world.table()).await.expect("loads");
        let by = loaded.metadata.default_partition_spec().fields();
        assert_eq!((by[0].source_id, &*by[0].name), (3, "tidewater_partition_number"));
        let body = world.data_files(&world.table()).await.remove(0);
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(body).and_then(|it| it.build()).expect("parquet");
        let batch = reader.next().expect("rows").expect("reads");
        let headers = batch.column_by_name("tidewater_headers").expect("there").as_string::<i32>();
        assert_eq!(headers.value(0), r#"[{"key":"trace","value":"abc"},{"key":"raw","base64":"/w=="}]"#);
        assert_eq!(world.data_files(&dead).await.len(), 1);
    });
}

#[test]
fn a_table_with_rows_keeps_its_layout_and_the_sink_says_so() {
    block_on(async {
        let mut world = World::new(903);
        world.log.append(0, 3, NOW);
        drain(&mut world.sink(1), NOW).await;
        let before = world.catalog().load(&world.table()).await.expect("loads").location;
        match world.sink_with(flat(&world, 2)).run_once(NOW).await {
            Outcome::Paused(PauseReason::Unfit { detail, .. }) => {
                assert!(detail.contains("layout struct") && detail.contains("iceberg.layout=flat"), "{detail}");
            }
            outcome => panic!("{outcome:?}"),
        }
        assert_eq!(world.catalog().load(&world.table()).await.expect("loads").location, before);
        drain(&mut world.sink(3), NOW).await;
        assert_eq!(world.rows().await, world.expected());
    });
}
