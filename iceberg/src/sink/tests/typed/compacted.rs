//! Compaction of typed tables: files of older columns become files of the columns that the table has now.

use futures::executor::block_on;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::compact::Compactor;

#[test]
fn files_of_all_schemas_become_one_with_the_same_rows() {
    block_on(async {
        let (mut world, mut produced) = begin(220);
        let mut sink = world.sink(1);
        // Each version of the schema in files of its own: columns come, an int becomes a long, one is renamed.
        for kinds in [[1, 1, 0], [1, 10, 1], [2, 2, 9], [3, 3, 1], [4, 0, 4], [5, 5, 2]] {
            for partition in 0..2 {
                produced.append(&world, partition, &kinds, NOW);
                drain(&mut sink, NOW).await;
            }
        }
        let before = (world.data_files(&world.table()).await.len(), columns(&world).await);
        let (config, catalog) = (world.config(1), world.catalog());
        let owner = TableOwner { cluster: config.cluster, topic: config.topic_id, epoch: 1 };
        let mut compactor = Compactor::new(catalog, config.table, owner, Names::seeded(500 << 32), config.bounds);
        let later = tidewater_storage::env::clock::wall().plus_ms(3_600_000);
        let run = compactor.run(later, |_| {}).await.expect("runs");
        assert_eq!((run.files_in, run.files_out, run.left.len()), (before.0 as u64, 1, 0), "{run:?}");
        produced.check(&world, "compacted").await;
        let body = world.data_files(&world.table()).await.remove(0);
        let names: Vec<_> = columns(&world).await.into_iter().map(|(_, name)| name).collect();
        let file = ParquetRecordBatchReaderBuilder::try_new(body).expect("parquet");
        let found: Vec<_> = file.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(found, names, "the columns by their names of now, all of them");
        // The sink goes on, and a column that comes later is null in the compacted file.
        produced.append(&world, 0, &[1, 2, 3, 4, 5, 9], NOW);
        drain(&mut sink, NOW).await;
        produced.check(&world, "after it").await;
    });
}
